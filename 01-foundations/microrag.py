"""A model that may look things up can answer what its weights never saw.

The problem: training writes what a language model knows into its parameters, which are also called
its weights. It keeps little of what it met seldom. It cannot know what is newer than its training.
If it does not know an answer, it may write one all the same: it invents or confuses. The small
network below invents, too, though it learns from questions and answers, not from long texts.

The idea of retrieval-augmented generation (RAG): keep the facts as texts outside the model. For
each question, look for the text that fits best, and give it to the model together with the
question. Then the model need not remember the fact. It only has to read. To add a fact, we add a
text, and train nothing. Here the texts are 100 paragraphs about cities that do not exist.

A retriever (steps 1 and 2) finds the text. A reader (steps 3 to 7) looks at it and writes the
answer. A small network, called mlp, writes every answer. With a text, it mostly passes on the
letters that the reader sees. Without one, it has to spell from memory. We compare the two.

    1. add_document: note for each word which texts contain it, and how often. This is called an
       inverted index.
    2. search: give each text points for each word that it shares with the question. A word that
       few texts contain gives more points than a word that many contain. Repetitions add points,
       and a long text gets fewer. Take the best text. This rule, BM25, needs no training.
    3. embed_question: turn the question into a vector, the sum of one learned vector per word. It
       expresses what is asked for, such as a river, and also the city if training asked about it.
    4. look: share out the reader's attention among the words of the text. In our texts, the word
       before the name of a fact tells what it is: after "across" stands a river. So each common
       word has a learned vector, its cue. The better the cue of "across" fits the vector of the
       question, the more attention goes to the word after "across".
    5. letters_at: for each letter, add up the attention of the words that begin with it. If vaben
       gets 0.9 and mill 0.1, the reader sees v with 0.9 and m with 0.1. Then do the same with the
       second letters, with the third, and so on.
    6. generate: write the answer character by character. mlp gets four inputs: the vector of the
       question, the letters seen, the character written last, and the place (0, 1, 2, ...). It
       computes a number for each of 18 letters and for the end mark. Write the one with the largest
       number. Stop at the end mark, or after six characters.
    7. train_reader: in each step, train on two questions with known answers: one with its text, one
       without. Nothing tells the reader which word to look at, but looking at the right one pays.

In the run, one question goes this way:

    question     i saw the green tower. i forgot the nation of fezos?
    points       7.1 for the text about fezos, 4.4 for the second best text
    best text    ... fezos is part of minir. it has a bridge across dutis. the well is stone ...
    attention    1.000 to minir, after "of"; 0.000 to dutis, after "across"
    answer       minir: mlp passes on the m, i, n, i, r and end mark that the reader sees

evaluate asks the same questions with the text that was found, without a text and with a wrong text.
It also asks about texts added later. In training, most questions without a text are about the same
ten cities. What it remembers of these can disturb its reading: a letter or a word goes wrong.

RAG is from Lewis et al. (2020). They find several texts by comparing vectors, and a pretrained
transformer reads them. BM25 is described by Robertson & Zaragoza (2009). By attention, pointer
networks (Vinyals et al. 2015) output a position of the input. Here mlp has to learn to pass on the
letters there. Left out is what production systems add: long texts are cut into passages, texts are
also found by comparing learned vectors (Karpukhin et al. 2020), so that other words with the same
meaning match, and a large language model reads.
"""

import collections
import functools
import itertools
import math
import os
import random
import time

# === CONSTANTS ===
bm25_k1 = 1.2  # k1 of BM25: how slowly repetitions of a word lose their value
bm25_b = 0.75  # b of BM25: how much the length of a text counts, from 0 to 1
num_documents = 100  # paragraphs in the index during training, about one city each
num_added = 60  # paragraphs that are put into the index after training
num_countries = 20  # each city lies in one; the added cities have 20 of their own
num_often = 10  # the first cities, which are often asked about without a text in training
often_share = 0.8  # the share of the training questions without a text that is about these
CHARS = "aeioubdfgklmnrstvz."  # letters of the names, and the end mark
end_mark = "."  # ends every answer
max_answer = 6  # characters of the longest answer: five letters and the end mark
n_embd = 12  # numbers in the vector of a question, of a word, or of a character
n_hidden = 32  # units in the hidden layer of the mlp
num_steps = 1200  # training steps, two questions each: one with its text, one without
learning_rate = 0.02  # how far a step moves a parameter at first; it falls linearly to 0
# the following are read by the code that is repeated from microgpt, near the end
beta1 = 0.9  # Adam's memory of the gradient
beta2 = 0.99  # Adam's memory of the squared gradient
eps_adam = 1e-8  # keeps Adam's division finite

# === BORROWED from microgpt.py: what you need to know of it ===
# - Value is a number that remembers how it was computed. loss.backward() adds to the .grad of each
#   Value how much the loss changes per unit of change in it.
# - The reader works with Values, which are trained, and with floats, which are faster. as_values()
#   and as_floats() copy a model {name: matrix} into the other kind. A matrix is a list of rows.
# - dot() is the dot product of two vectors. linear(x, matrix) gives the dot product of each row
#   with x. relu() makes negative numbers 0.
# - softmax() turns numbers into probabilities, which are positive and sum to 1. A larger number
#   gets a larger probability. log() is the natural logarithm. It treats x < 1e-10 as 1e-10.
# - adam_step(params, m, v, step, rate) moves each parameter against its gradient, and sets the
#   gradients back to 0. The lists m and v are its memory, with one number per parameter.


# === THE RETRIEVER: which text is the question about? ===
#
# BM25 gives a document a score for a question. The words of the question are called terms. tf,
# the term frequency, is how often a term stands in the document. df, the document frequency, is how
# many of the N documents have the term. The length is the number of words in the document. k1 and b
# are the constants bm25_k1 and bm25_b. The score is a sum over the terms that the question and the
# document share. Each counts once, however often the question has it:
#
#     score(question, document) = sum of  idf(term) * (tf * (k1 + 1)) / (tf + k1 * norm)
#     idf(term) = ln(1 + (N - df + 0.5) / (df + 0.5))
#     norm = 1 - b + b * length / average length
#
# Some leave out the constant factor k1 + 1. This changes no ranking. There are three ideas:
#
# - A rare term says more. idf, the inverse document frequency, is large if df is small. "the"
#   stands in all documents, so it gives hardly any points.
# - A repeated term says more, but each repetition adds less (saturation). In a document of average
#   length, norm is 1 - b + b = 1. With k1 = 1.2, idf(term) is then multiplied by
#
#       tf           1       2       3       10      ever larger
#       factor       1.00    1.38    1.57    1.96    approaches 2.2, which is k1 + 1
#
# - A long document has room for many words, so a term says less there. With b = 0.75 and twice the
#   average length, norm is 0.25 + 0.75 * 2 = 1.75. The factor of a term that stands there once is
#   2.2 / (1 + 1.2 * 1.75) = 0.71 instead of 1. With b = 0, norm would be 1 for every length.
#
# Saturation is meant for long texts, where 50 repetitions say little more than 5. Here it does
# harm: a text says the name of its own city 4 times on average, and a text that mentions the city
# says it once. Saturation makes these more alike. The run finds 0.90 of the right texts. Other
# rules would find:
#
#     0.99    no saturation (k1 = 1e12): the factor becomes tf / norm
#     0.88    no correction for the length (b = 0)
#     0.43    no count of repetitions (k1 = 0): the factor is 1
#     0.24    no rare terms (idf = 1)


def terms(text):
    """The words of a text in lower case: "The Lomur?" -> ["the", "lomur"].

    What is neither a letter nor a digit separates words.
    """
    cleaned = ""
    for character in text.lower():
        cleaned += character if character.isalnum() else " "
    return cleaned.split()


def build_index(texts):
    """An inverted index of some texts. A document is known by its number: 0, 1, 2, ...

    The index is a dict:

        "postings"    {term: {document: tf}}, all documents that contain a term
        "lengths"     the number of words of each document
        "texts"       the text of each document

    A search visits only the documents that have a term of the question. Here these are all, because
    "the" stands in every question and in every document.
    """
    index = {"postings": {}, "lengths": [], "texts": []}
    for text in texts:
        add_document(index, text)
    return index


def add_document(index, text):
    """Add a text to the index, in place. It can be found at once, and nothing is trained."""
    document = len(index["texts"])
    index["texts"].append(text)
    index["lengths"].append(len(terms(text)))
    for term, tf in collections.Counter(terms(text)).items():
        if term not in index["postings"]:
            index["postings"][term] = {}
        index["postings"][term][document] = tf


def idf(index, term):
    """How much a term says. With N = 100:

        df           0       1       10      50      100
        idf          5.31    4.21    2.26    0.69    0.005

    The formula of Robertson & Zaragoza has no "1 +" in the logarithm. Then idf is negative for a
    term that more than half of the documents have, and the term counts against them.
    """
    df = len(index["postings"].get(term, {}))
    num_texts = len(index["texts"])
    return math.log(1 + (num_texts - df + 0.5) / (df + 0.5))


def term_score(index, term, document):
    """The points that a document gets for one term of the question, which has to stand in it.

    In the output, the first document has "fezos" 3 times in 42 words, and the average length is
    39.73. So norm is 0.25 + 0.75 * 42 / 39.73 = 1.043. With idf = 4.210, the points are
    4.210 * 3 * 2.2 / (3 + 1.2 * 1.043) = 6.535.
    """
    tf = index["postings"][term][document]
    average_length = sum(index["lengths"]) / len(index["lengths"])
    norm = 1 - bm25_b + bm25_b * index["lengths"][document] / average_length
    return idf(index, term) * tf * (bm25_k1 + 1) / (tf + bm25_k1 * norm)


def bm25_scores(index, question):
    """The BM25 scores of all documents that share a term with the question: {document: score}.

    A term that stands twice in the question counts once.
    """
    scores = {}
    for term in dict.fromkeys(terms(question)):  # each term once, in the order of the question
        for document in index["postings"].get(term, {}):
            scores[document] = scores.get(document, 0.0) + term_score(index, term, document)
    return scores


def search(index, question, k):
    """The numbers of the k documents with the highest scores, the best first.

    The result is shorter than k if fewer documents share a term with the question.
    """
    scores = bm25_scores(index, question)
    # Sort by falling score. Of equal scores, the one with the smaller number comes first.
    best_first = sorted(scores, key=lambda document: (-scores[document], document))
    return best_first[:k]


def best_text(index, question):
    """The text of the best document, or "" if no document shares a term with the question."""
    found = search(index, question, 1)
    return index["texts"][found[0]] if found else ""


# === THE DOCUMENTS: paragraphs about cities that do not exist ===
#
# All names are invented, so that the facts can be known from these texts alone. Each paragraph
# states four facts about one city. Each of the eight statements below has its own word before the
# name. So the reader can tell from this word alone what the name is: a country follows "in" or
# "of", a river "beside" or "across".
STATEMENTS = {
    "country": ["lies in {name}", "is part of {name}"],
    "river": ["stands beside {name}", "has a bridge across {name}"],
    "founder": ["was founded by {name}", "was a village before {name}"],
    "festival": ["celebrates {name} each spring", "is known for {name}"],
}
# Other cities are mentioned too. So the name of a city can stand in several paragraphs.
MENTIONS = ["trades with {name}", "sends ships to {name}"]
# Some remarks have nothing to do with the facts. They make the lengths of the paragraphs differ.
THINGS = "market harbour tower garden temple mill library wall square well forest hill".split()
LOOKS = "old quiet famous small green crowded narrow painted bright windy empty stone".split()

# Words of the questions that have the form of a name. invent() must not make them up by chance.
WORDS_LIKE_NAMES = ["name", "river"]


def invent(taken):
    """Make up a name of 4 or 5 letters that is not in the set `taken`, and add it to the set."""
    while True:
        name = ""
        for _ in range(2):
            name += random.choice("bdfgklmnrstvz") + random.choice("aeiou")
        if random.random() < 0.8:
            name += random.choice("lnrst")
        if name not in taken:
            taken.add(name)
            return name


def make_paragraphs(count, taken):
    """Paragraphs about `count` new cities: dicts of "city", "facts" {relation: name} and "text".

    Several of these cities can lie in the same country. Every other name belongs to one thing only.
    """
    countries = [invent(taken) for _ in range(num_countries)]
    cities = [invent(taken) for _ in range(count)]
    paragraphs = []
    for city in cities:
        facts = {"country": random.choice(countries)}
        for relation in ("river", "founder", "festival"):
            facts[relation] = invent(taken)
        text = describe(city, facts, cities)
        paragraphs.append({"city": city, "facts": facts, "text": text})
    return paragraphs


def describe(city, facts, cities):
    """A text that states the facts about a city, mentions two other cities, and makes remarks."""
    statements = []
    for relation, name in facts.items():
        statements.append(random.choice(STATEMENTS[relation]).format(name=name))
    others = [other for other in cities if other != city]
    for name in random.sample(others, k=2):
        statements.append(random.choice(MENTIONS).format(name=name))
    random.shuffle(statements)
    sentences = []
    for statement in statements:
        subject = city
        # The first sentence names the city. In the others it may be called "it".
        if sentences and random.random() < 0.4:
            subject = "it"
        sentences.append(f"{subject} {statement}")
    for _ in range(random.randint(1, 4)):
        remark = f"the {random.choice(THINGS)} is {random.choice(LOOKS)}"
        sentences.insert(random.randint(1, len(sentences)), remark)
    return ". ".join(sentences) + "."


# === THE QUESTIONS: no document has the noun that is asked for ===
#
# So the noun earns no points. The right document gets most of its points for the city. And the
# reader has to learn that a realm follows "in" or "of".
NOUNS = {
    "country": ["country", "nation", "realm"],
    "river": ["river", "stream", "waterway"],
    "founder": ["founder", "builder", "creator"],
    "festival": ["festival", "feast", "holiday"],
}
FRAMES = [
    "what {noun} does {city} have",
    "name the {noun} of {city}",
    "which {noun} belongs to {city}",
    "{city} and its {noun}",
    "i forgot the {noun} of {city}",
    "{city} has what {noun}",
]
# Which frames are used in training, and which in the test, for the first, second and third noun of
# a relation. The numbers are those of FRAMES. So the first noun, "country", is never put into frame
# 0 in training: "what country does fezos have" is only in the test. As each noun and each frame is
# in training, this is an easy test. The hard test is the cities that are added after training.
TRAINING_FRAMES = [[1, 2, 4, 5], [0, 2, 3, 5], [0, 1, 3, 4]]
HELDOUT_FRAMES = [[0, 3], [1, 4], [2, 5]]


def ask(city, relation, heldout):
    """Small talk, then a noun in a frame: "i saw the old wall. name the river of fezos?" """
    noun_number = random.randrange(3)
    noun = NOUNS[relation][noun_number]
    frame_numbers = HELDOUT_FRAMES if heldout else TRAINING_FRAMES
    frame = FRAMES[random.choice(frame_numbers[noun_number])]
    question = frame.format(noun=noun, city=city)
    # The small talk gives points to texts with such a remark. A wrong text that also mentions the
    # city can win by them. Without small talk, the run would find 0.99 of the texts, not 0.90.
    return f"i saw the {random.choice(LOOKS)} {random.choice(THINGS)}. {question}?"


def make_tasks(paragraphs, documents):
    """Questions to test with, about each fact of the documents with the given numbers.

    All are in held-out wording. Each is a dict of "question", "document" (the number of the right
    one) and "relation" (which of its facts is asked for).
    """
    tasks = []
    for document in documents:
        for relation in NOUNS:
            question = ask(paragraphs[document]["city"], relation, heldout=True)
            tasks.append({"question": question, "document": document, "relation": relation})
    return tasks


def make_batches(paragraphs):
    """Questions to train with: for each step one with its text, and one without.

    Both are dicts of "question", "text" ("" if there is none) and "answer". A question without a
    text can only be answered from memory. Of these, the share often_share is about the first
    num_often cities, and the rest about any city. So each of the four facts about a city is asked
    for 1200 * (0.8 / 10 + 0.2 / 100) / 4 = 24.6 times on average if the city is among the first 10,
    and else 1200 * 0.2 / 100 / 4 = 0.6 times. About half of the latter are never asked for.
    """
    batches = []
    for _ in range(num_steps):
        batch = []
        for has_text in (True, False):
            choices = paragraphs
            if not has_text and random.random() < often_share:
                choices = paragraphs[:num_often]
            paragraph = random.choice(choices)
            relation = random.choice(list(NOUNS))
            question = ask(paragraph["city"], relation, heldout=False)
            text = paragraph["text"] if has_text else ""
            answer = paragraph["facts"][relation]
            batch.append({"question": question, "text": text, "answer": answer})
        batches.append(batch)
    return batches


# === THE READER: find the answer in the text, and copy it ===
#
# Why does the reader copy? A plainer reader makes one vector of the question and one of the text,
# and lets an mlp compute the answer from both. In a trial, two such readers learned nearly all
# answers of the training texts by heart, and gave no right answer about added texts.
#
# So the reader has to treat a name that it never saw like any other name. Two things make this
# possible. The word before the name tells where it stands. And the name can be copied letter by
# letter without being known, because all letters are known. This works because of our texts: one of
# eight fixed words stands before each fact, and each answer is a single word.


def make_vocab(batches):
    """Which words have a learned vector: {"question": {word: row}, "cue": {word: row}}.

    The vector is this row of the reader's matrix "question" or "cue". Words have rows from 1 on.

    "question" has all words of the training questions. Names of cities are among them, because
    without a text the answer depends on the city. Other words have no vector here. Row 0 belongs to
    no word: it is a bias, which embed_question() adds to every question.

    "cue" has the words that stand in at least a tenth of the training texts. Row 0 belongs to all
    other words together, and so to nearly all names.
    """
    question_words = set()
    texts = set()
    for batch in batches:
        for example in batch:
            question_words.update(terms(example["question"]))
            if example["text"]:
                texts.add(example["text"])
    counts = collections.Counter()
    for text in texts:
        counts.update(set(terms(text)))  # each word once per text
    common = [word for word, count in counts.items() if count >= len(texts) / 10]
    return {
        "question": {word: row for row, word in enumerate(sorted(question_words), 1)},
        "cue": {word: row for row, word in enumerate(sorted(common), 1)},
    }


def init_reader(vocab):
    """The parameters of the reader {name: matrix}, random floats near 0. A row is a vector.

        question  [1 + words of questions][n_embd]     what a word tells about what is asked for
        cue       [1 + common words of texts][n_embd]  what a word tells about the word after it
        last      [characters][n_embd]                 the character that was written last
        place     [max_answer][n_embd]                 how many characters are written
        hidden    [n_hidden][inputs]                   the first matrix of mlp()
        output    [characters][n_hidden]               the second matrix of mlp()

    hidden multiplies three vectors, joined to one: the question [n_embd], the letters seen [one per
    character], and what is written [n_embd]. The last is the sum of a row of last and one of place.
    """
    shapes = {
        "question": (1 + len(vocab["question"]), n_embd),
        "cue": (1 + len(vocab["cue"]), n_embd),
        "last": (len(CHARS), n_embd),
        "place": (max_answer, n_embd),
        "hidden": (n_hidden, n_embd + len(CHARS) + n_embd),
        "output": (len(CHARS), n_hidden),
    }
    model = {}
    for name, (rows, columns) in shapes.items():
        model[name] = [[random.gauss(0, 0.2) for _ in range(columns)] for _ in range(rows)]
    return model


def embed_question(model, vocab, question):
    """The vector of a question [n_embd]: row 0, plus the vector of each word that has one.

    The name of an added city has none, so it adds nothing. The order of the words does not count.
    """
    vectors = [model["question"][0]]
    for word in terms(question):
        if word in vocab["question"]:
            vectors.append(model["question"][vocab["question"][word]])
    ones = [1.0] * len(vectors)
    asked = []
    for i in range(n_embd):
        # the sum of the numbers at place i of all vectors; with dot() it is one node of the graph
        asked.append(dot([vector[i] for vector in vectors], ones))
    return asked


def words_of(text):
    """The words of a text, with "" before them: "it is" -> ["", "it", "is"].

    Attention always sums to 1. Without a text, all of it goes to "", which has no letters.
    """
    return ["", *terms(text)]


def look(model, vocab, asked, words):
    """How much attention each word gets: shares that sum to 1.

    `asked` [n_embd] is the vector of the question, from embed_question().

        fit of a word = dot product of `asked` and the cue of the word before it
        attention = softmax(fits)

    The letters of the word itself do not matter. So a name that was never seen is found as well as
    any other. If the word before is rare or "", its cue is row 0. Suppose that a country is asked
    for, and that the fits are these:

        word      word before    cue         fit      attention
        ""        none           row 0       0        0.001
        bimi      ""             row 0       0        0.001
        lies      bimi           row 0       0        0.001
        in        lies           "lies"      -1       0.000
        vaben     in             "in"        7        0.997
    """
    # words begins with "" (see words_of). Nothing stands before this, which also counts as "".
    words_before = ["", *words[:-1]]
    fits = []
    for word_before in words_before:
        row = vocab["cue"].get(word_before, 0)
        fits.append(dot(asked, model["cue"][row]))
    return softmax(fits)


def letters_at(attention, words, place):
    """What the reader sees when it is to write the character at `place` of its answer.

    The result is [len(CHARS)]: for each character of CHARS, the sum of the attention of all words
    that have it at this place. Take two words, with an end mark after each:

                 attention    place 0    1    2    3    4    5
        vaben          0.9          v    a    b    e    n    .
        mill           0.1          m    i    l    l    .

    At place 0, the reader sees v with 0.9 and m with 0.1. At place 4, it sees n with 0.9 and the
    end mark with 0.1. Characters that are not in CHARS, such as h, are not seen.
    """
    seen_at_place = []  # of each word the character at this place, or "" if the word is shorter
    for word in words:
        spelled = word + end_mark if word else ""
        seen_at_place.append(spelled[place] if place < len(spelled) else "")
    letters = []
    for char in CHARS:
        is_char = [1.0 if seen == char else 0.0 for seen in seen_at_place]
        letters.append(dot(attention, is_char))  # adds the attention of the words with 1.0
    return letters


def mlp(model, asked, letters, last, place):
    """A number (logit) for each character that could be written next: [len(CHARS)].

    `last` is the character written last. At first it is the end mark. Its vector and that of the
    place are added to one vector for what is written. The network is a multi-layer perceptron with
    one hidden layer. With @ for the product of a matrix and a vector:

        logits = output @ relu(hidden @ inputs)

    With a text, it only has to pass on the letter seen most. Without one, all letters are 0, and it
    has to spell from memory. For this it needs the question, the last character, and the place.
    """
    last_vector = model["last"][CHARS.index(last)]
    place_vector = model["place"][place]
    written = [a + b for a, b in zip(last_vector, place_vector)]
    inputs = asked + letters + written  # + joins lists
    units = [relu(unit) for unit in linear(inputs, model["hidden"])]
    return linear(units, model["output"])


def generate(model, vocab, question, text):
    """Write an answer: at each place the character with the largest logit. Return it as a str.

    `text` is all that the reader may look at. It is "" if there is none.
    """
    words = words_of(text)
    asked = embed_question(model, vocab, question)
    attention = look(model, vocab, asked, words)
    answer = ""
    last = end_mark
    while len(answer) < max_answer:
        place = len(answer)
        logits = mlp(model, asked, letters_at(attention, words, place), last, place)
        last = CHARS[logits.index(max(logits))]
        if last == end_mark:
            break
        answer += last
    return answer


# === TRAINING: make the right characters more probable, with the text and without ===
def answer_loss(model, vocab, question, text, answer):
    """The mean of -log p(right character), over the characters of the answer and the end mark.

    p = softmax(logits). The loss is 0 if every p is 1, and log(19) = 2.94 for a blind guess among
    the 19 characters. Nothing in it says where to look. But the gradient goes from the loss back
    through mlp() to the letters seen, from there to the attention, and so to the cues. At first,
    each of about 40 words gets about 1/40 of the attention, also the right one. So its letters are
    seen a little, and the loss falls a little if mlp() writes what is seen. The more mlp() does so,
    the more the loss falls with more attention to the right word. And the more attention this has,
    the more the loss falls if mlp() writes what is seen. So each drives the other. In the run, the
    attention is 0.020, 0.175, 0.365, 0.649 and 0.940 after the steps 1, 120, 240, 360 and 480.

    Raises ValueError if the answer has a character that is not in CHARS, and IndexError if it has
    more than max_answer - 1 characters.
    """
    words = words_of(text)
    asked = embed_question(model, vocab, question)
    attention = look(model, vocab, asked, words)
    total = 0.0
    last = end_mark
    for place, char in enumerate(answer + end_mark):
        logits = mlp(model, asked, letters_at(attention, words, place), last, place)
        probs = softmax(logits)
        total = total - log(probs[CHARS.index(char)])
        last = char  # the right one, even if the reader would have written another
    return total * (1 / (len(answer) + 1))


def train_reader(model, vocab, batches):
    """Train in place, one step per batch. Yield the mean loss of the batch before the step."""
    params = [p for matrix in model.values() for row in matrix for p in row]
    m = [0.0] * len(params)
    v = [0.0] * len(params)
    for step, batch in enumerate(batches):
        losses = []
        for example in batch:
            question = example["question"]
            losses.append(answer_loss(model, vocab, question, example["text"], example["answer"]))
        loss = dot(losses, [1 / len(losses)] * len(losses))  # their mean
        loss.backward()
        rate = learning_rate * (1 - step / len(batches))  # falls to 0
        adam_step(params, m, v, step + 1, rate)
        yield loss.data


# === HOW GOOD IT IS: the same reader and the same questions, with different texts ===
#
# Parametric knowledge is in the parameters of the reader. To change it takes training.
# Non-parametric knowledge is in the index. To extend it, add a text. The reader is not trained
# to say that a text does not contain the answer. So it matters what it does with a wrong text. It
# may copy from it, or answer from memory. In a trial with 3600 steps, it remembered 0.975 of the
# facts about the often asked cities, and not 0.32. To questions about these cities, together with a
# wrong text, it then copied from the text in 0.71 of the cases, and not in 0.91.


def measure(model, vocab, batches):
    """Means over batches: the attention to the right word, the loss with a text, that without."""
    attentions, losses, blind_losses = [], [], []
    for told, blind in batches:
        words = words_of(told["text"])
        asked = embed_question(model, vocab, told["question"])
        attentions.append(look(model, vocab, asked, words)[words.index(told["answer"])])
        losses.append(answer_loss(model, vocab, **told))
        blind_losses.append(answer_loss(model, vocab, **blind))
    return mean(attentions), mean(losses), mean(blind_losses)


def train_and_measure(model, vocab, batches, measured):
    """train_reader(). After step 1 and each tenth of all steps, measured[step] = measure().

    A step yields its loss when it has moved the parameters, so those are measured.
    """
    for step, loss in enumerate(train_reader(model, vocab, batches), 1):
        if step == 1 or step % max(1, len(batches) // 10) == 0:
            measured[step] = measure(as_floats(model), vocab, batches[-50:])
        yield loss


def right_answer(paragraphs, task):
    """The name that a task asks for."""
    return paragraphs[task["document"]]["facts"][task["relation"]]


def evaluate(model, vocab, index, paragraphs, tasks):
    """Let a reader of floats do each task with different texts. Return {name: share of the tasks}.

    The documents of the index are the texts of the paragraphs, in the same order. The shares:

        retrieval_accuracy      the right document has the highest score
        with_retrieval          the answer is right, with the text that was found
        without_retrieval       the answer is right, without a text
        right_document          the answer is right, with the right text, whether found or not
        wrong_document          the answer is right, with a wrong text: that about the next city
        wrong_document_copied   with this wrong text, the answer is the fact of the next city
        invented_with           with the text that was found, the answer is no name of any text
        invented_without        without a text, the answer is no name of any text

    If right_document is near 1, the errors of with_retrieval are those of the search. A wrong text
    may be about a city in the same country. Then the right country can be copied from it. So
    with_retrieval can be above retrieval_accuracy, and wrong_document above 0. A copied name is a
    real one, even if the answer is wrong, so invented_with is near 0.
    """
    names = set()
    for paragraph in paragraphs:
        names.update([paragraph["city"], *paragraph["facts"].values()])
    hits = collections.defaultdict(list)
    for task in tasks:
        question = task["question"]
        document = task["document"]
        right = right_answer(paragraphs, task)
        next_document = (document + 1) % len(paragraphs)  # the first one, after the last
        of_next = paragraphs[next_document]["facts"][task["relation"]]
        answer = generate(model, vocab, question, best_text(index, question))
        blind_answer = generate(model, vocab, question, "")
        told_answer = generate(model, vocab, question, paragraphs[document]["text"])
        misled_answer = generate(model, vocab, question, paragraphs[next_document]["text"])
        hits["retrieval_accuracy"].append(search(index, question, 1) == [document])
        hits["with_retrieval"].append(answer == right)
        hits["without_retrieval"].append(blind_answer == right)
        hits["right_document"].append(told_answer == right)
        hits["wrong_document"].append(misled_answer == right)
        hits["wrong_document_copied"].append(misled_answer == of_next)
        hits["invented_with"].append(answer not in names)
        hits["invented_without"].append(blind_answer not in names)
    return {name: mean(values) for name, values in hits.items()}


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)

    # The texts, one question to follow from start to end, and the first that finds a wrong text
    taken = set(WORDS_LIKE_NAMES)
    paragraphs = make_paragraphs(num_documents, taken)
    index = build_index([paragraph["text"] for paragraph in paragraphs])
    tasks = make_tasks(paragraphs, range(num_documents))
    missed = [task for task in tasks if search(index, task["question"], 1) != [task["document"]]]
    for task in tasks[:1] + missed[:1]:
        show_search(index, paragraphs, task)

    # The reader. The tasks ask for names in its training texts, in new pairs of noun and frame.
    batches = make_batches(paragraphs)
    vocab = make_vocab(batches)
    model = as_values(init_reader(vocab))
    num_params = sum(len(matrix) * len(matrix[0]) for matrix in model.values())
    print(f"Training a reader of {num_params} parameters, two questions per step:")
    measured = {}
    show_training(train_and_measure(model, vocab, batches, measured), num_steps)
    model = as_floats(model)
    show_learning(measured)
    show_reading(model, vocab, index, paragraphs, tasks[0])

    # How often is the answer right? tasks has each fact of each city once. Often asked cities come
    # first. For these, new questions are made, five about each fact.
    rates = evaluate(model, vocab, index, paragraphs, tasks)
    often_tasks = make_tasks(paragraphs, list(range(num_often)) * 5)
    often = evaluate(model, vocab, index, paragraphs, often_tasks)
    others = evaluate(model, vocab, index, paragraphs, tasks[num_often * len(NOUNS) :])
    show_answers(model, vocab, index, paragraphs, tasks[1:3] + missed[:3])

    # Add documents, and ask about them. No text and no question of training had their names.
    paragraphs += make_paragraphs(num_added, taken)
    for paragraph in paragraphs[num_documents:]:
        add_document(index, paragraph["text"])
    new_tasks = make_tasks(paragraphs, range(num_documents, len(paragraphs)))
    new = evaluate(model, vocab, index, paragraphs, new_tasks)
    show_answers(model, vocab, index, paragraphs, new_tasks[:4])
    show_groups(often, others, new)

    blind = rates["without_retrieval"]
    rows = [
        ("retrieval_accuracy", rates["retrieval_accuracy"], ">= 0.8"),
        ("with_retrieval", rates["with_retrieval"], f">= {blind + 0.1:.4f}"),
        ("without_retrieval", blind, ""),
        ("often_without_retrieval", often["without_retrieval"], f"> {blind + 0.1:.4f}"),
        ("right_document", rates["right_document"], "> 0.95"),
        ("wrong_document", rates["wrong_document"], "< 0.1"),
        ("wrong_document_copied", rates["wrong_document_copied"], "> 0.9"),
        ("invented_without", rates["invented_without"], ""),
        ("invented_with", rates["invented_with"], f"< {rates['invented_without'] - 0.5:.4f}"),
        ("new_retrieval_accuracy", new["retrieval_accuracy"], ""),
        ("new_documents", new["with_retrieval"], "> 0.8"),
        ("new_without_retrieval", new["without_retrieval"], "< 0.02"),
        ("runtime_seconds", time.perf_counter() - started, "< 360"),
    ]
    print_results(rows)


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_search(index, paragraphs, task):
    """Print the BM25 scores of three documents for one question, term by term."""
    question = task["question"]
    best = search(index, question, 3)
    city = paragraphs[task["document"]]["city"]
    print(f"A question about {city} to {len(index['texts'])} documents: {question}")
    print("The three best are named by their cities. df documents have the term, and each of the")
    print("three has it tf times. If tf is 0, the document gets no points for the term.")
    cities = [paragraphs[document]["city"] for document in best]
    print(" " * 22 + "".join(f"{city:>16}" for city in cities))
    print(f"{'term':<10}{'df':>4}{'idf':>8}" + "      tf  points" * len(best))
    for term in dict.fromkeys(terms(question)):
        postings = index["postings"].get(term, {})
        line = f"{term:<10}{len(postings):4}{idf(index, term):8.3f}"
        for document in best:
            if document in postings:
                line += f"{postings[document]:8}{term_score(index, term, document):8.3f}"
            else:
                line += f"{0:8}{0:8}"
        print(line)
    scores = bm25_scores(index, question)
    print(f"{'score':<22}" + "".join(f"{scores[document]:16.3f}" for document in best))
    lengths = [index["lengths"][document] for document in best]
    print(f"{'words in the text':<22}" + "".join(f"{length:16}" for length in lengths))
    if best[0] != task["document"] and city in terms(best_text(index, question)):
        print(f"A wrong text is best: it mentions {city}, and gets more points for other terms.")
    print(f"The best text: {best_text(index, question)}\n")


def show_learning(measured):
    """Print what train_and_measure() found along training."""
    guess = math.log(len(CHARS))
    print(f"\nOn the training questions of the last 50 steps (a blind guess: loss {guess:.2f}).")
    print("50 of them have a text, and 50 other ones have none. Most of the latter are about the")
    print("often asked cities, so the two losses cannot be compared with each other.")
    print(" step   attention to the right word   loss with the text   loss without")
    for step, (attention, loss, blind_loss) in measured.items():
        print(f"{step:5}{attention:30.3f}{loss:21.3f}{blind_loss:15.3f}")


def show_reading(model, vocab, index, paragraphs, task):
    """Print how the reader answers the question of show_search(), character by character."""
    question = task["question"]
    words = words_of(best_text(index, question))
    asked = embed_question(model, vocab, question)
    attention = look(model, vocab, asked, words)
    print(f"\nThe same question: {question}")
    print("The three words with most attention, each after the word before it:")
    by_attention = sorted(range(1, len(words)), key=lambda i: attention[i], reverse=True)
    for i in by_attention[:3]:
        print(f"{words[i - 1]:>12} {words[i]:<8}{attention[i]:6.3f}")
    print("What is seen most at each place, and what is written, with its probability:")
    print("place   seen      written")
    answer = generate(model, vocab, question, best_text(index, question))
    last = end_mark
    for place, char in enumerate((answer + end_mark)[:max_answer]):  # no mark after six letters
        letters = letters_at(attention, words, place)
        most_seen = CHARS[letters.index(max(letters))]
        probs = softmax(mlp(model, asked, letters, last, place))
        written = f"{char} {probs[CHARS.index(char)]:.3f}"
        print(f"{place:5}   {most_seen} {max(letters):.3f}   {written}")
        last = char
    print(f"The right answer is {right_answer(paragraphs, task)}.")


def show_answers(model, vocab, index, paragraphs, tasks):
    """Print the given questions, the city of the document found, and what the reader answers."""
    print(f"\nSelected questions to {len(index['texts'])} documents. * marks a wrong text:")
    print("text of   answer   without a text   right    question")
    for task in tasks:
        question = task["question"]
        found = search(index, question, 1)[0]
        mark = "" if found == task["document"] else " *"
        city = paragraphs[found]["city"] + mark
        answer = generate(model, vocab, question, best_text(index, question))
        blind_answer = generate(model, vocab, question, "")
        right = right_answer(paragraphs, task)
        print(f"{city:<10}{answer:<9}{blind_answer:<17}{right:<9}{question}")


def show_groups(often, others, new):
    """Print what memory knows, and what it disturbs, for three groups of cities."""
    print("\nCities:                 often asked   others    added")
    for name in ("without_retrieval", "right_document", "wrong_document_copied", "invented_with"):
        print(f"{name:<23}{often[name]:12.4f}{others[name]:9.4f}{new[name]:9.4f}")
    print("Four questions about each city, 20 about each that was often asked. In the results,")
    print("often_ means these cities, and new_ the added ones. The rest is about the first 100,")
    print("the often asked ones among them. new_documents is right answers with retrieval.")
    print("What memory knows of the often asked cities depends on the length of training. It can")
    print("disturb reading: of their texts, right or wrong, a few are not copied. Of an added")
    print("city it can know nothing. A copied name is real, even if it is wrong.")
    print("In all texts, one of eight fixed words stands before an answer of one word.")
    print("Two of the bounds are without_retrieval + 0.1, and one is invented_without - 0.5.")


# === REPEATED from microgpt.py, word for word ===
class Value:
    """A number, the numbers it was computed from, and how strongly it depends on each of them.

    Take loss = (a * b + a) ** 2 with a = 2 and b = 3. Every operation makes a new Value. (Below,
    "the gradient by a" means the gradient with respect to a.)

        product = a * b = 6        total = product + a = 8        loss = total ** 2 = 64

    Each of them keeps its inputs, and the derivative of its own operation by each input. These are
    called local gradients:

        product: by a it is b = 3, by b it is a = 2
        total: by product it is 1, by a it is 1
        loss: by total it is 2 * total = 16

    The Values and their inputs form a graph. backward() goes through it from the loss back to a and
    b, and combines the local gradients by the chain rule.
    """

    __slots__ = ("data", "grad", "_inputs", "_local_grads", "_order")
    _created = itertools.count()

    def __init__(self, data, inputs=(), local_grads=()):
        self.data = data  # the number itself
        self.grad = 0.0  # d(loss)/d(self), once loss.backward() has been called
        self._inputs = inputs  # the Values that it was computed from
        self._local_grads = local_grads  # d(self)/d(input), a float for each input
        self._order = next(Value._created)  # 0 for the first Value ever made, then 1, 2, ...

    def __add__(self, other):
        # d(a + b)/da = 1        d(a + b)/db = 1
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        # d(a * b)/da = b        d(a * b)/db = a
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, k):
        # d(a ** k)/da = k * a ** (k - 1)        k is a plain number
        local_grad = k * self.data ** (k - 1)
        result = math.pow(self.data, k)  # like **, but an error where ** gives a complex number
        return Value(result, (self,), (local_grad,))

    def exp(self):
        # d(exp(a))/da = exp(a)
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self):
        # d(log(a))/da = 1 / a        a is a probability; log(0) does not exist, so a < 1e-10 counts
        # as 1e-10
        clipped = max(self.data, 1e-10)
        return Value(math.log(clipped), (self,), (1 / clipped,))

    def tanh(self):
        # d(tanh(a))/da = 1 - tanh(a) ** 2
        result = math.tanh(self.data)
        return Value(result, (self,), (1 - result * result,))

    def relu(self):
        # d(relu(a))/da = 1 if a > 0, else 0
        local_grad = 1.0 if self.data > 0 else 0.0
        return Value(max(0.0, self.data), (self,), (local_grad,))

    # The other operators are made of those above. The ones that start with r are for a plain
    # number on the left: 2.0 - a calls a.__rsub__(2.0).
    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -other

    def __truediv__(self, other):
        return self * other**-1

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other

    def __rsub__(self, other):
        return -self + other

    def __rtruediv__(self, other):
        return self**-1 * other

    def __rpow__(self, base):
        # base ** a = exp(a * log(base))
        return (self * math.log(base)).exp()

    def backward(self):
        """Add d(self)/d(x) to x.grad, for every Value x that self was computed from.

        The chain rule: if x is an input of several nodes of the graph, each of them contributes its
        own gradient times its local gradient by x. In the example of the class, a is an input of
        product and of total:

            total.grad = 16        product.grad = 16 * 1 = 16
            a.grad = 16 * 3 (by way of product) + 16 * 1 (by way of total) = 64

        The graph is used up: a second backward() through a part of it raises AttributeError.
        """
        # Collect self and the Values that it was computed from. The list grows while the loop walks
        # along it. A Value without inputs, such as a parameter, passes nothing on. So it is not in
        # the list, but it gets its gradient like all others.
        nodes = [self]
        seen = {self}
        for node in nodes:
            for x in node._inputs:
                if x._inputs and x not in seen:
                    seen.add(x)
                    nodes.append(x)
        # A node may pass its gradient on only when the gradient is complete, which means that all
        # that was computed from the node has passed its own gradient on. What was computed from a
        # node is newer than the node. So the newest goes first: loss, then total, then product.
        nodes.sort(key=lambda node: node._order, reverse=True)
        self.grad = 1.0  # d(self)/d(self)
        for node in nodes:
            for x, local_grad in zip(node._inputs, node._local_grads):
                x.grad += node.grad * local_grad
            del node._inputs, node._local_grads  # frees their memory, as they are not needed again


# --- AUTOGRAD DIFFERENCES IN THIS SCRIPT ---
# None. This is the engine of microgpt and of docs/autograd-interface.md.


# Training needs Values. A trained model only has to be asked, and needs no gradient: its numbers
# are floats, which is much faster. The functions below take both.
def exp(x):
    """e to the power of x, a Value or a float."""
    return x.exp() if isinstance(x, Value) else math.exp(x)


def log(x):
    """The natural logarithm of a probability, a Value or a float. x < 1e-10 counts as 1e-10."""
    return x.log() if isinstance(x, Value) else math.log(max(x, 1e-10))


def relu(x):
    """x if it is positive, else 0. x is a Value or a float."""
    return x.relu() if isinstance(x, Value) else max(0.0, x)


def floats(xs):
    """The numbers in a list of Values, without their history. A list of floats stays as it is."""
    if xs and isinstance(xs[0], Value):
        return [x.data for x in xs]
    return xs


def dot(a, b):
    """a[0] * b[0] + a[1] * b[1] + ..., as one node of the graph.

    Networks consist mostly of dot products. With 16 numbers in a and b, * and + would make 31
    nodes, which all have to be created and walked through. One node is enough, because the
    derivatives are known. With s = dot(a, b):

        ds/da[i] = b[i]        ds/db[i] = a[i]

    Tensor libraries go further in the same direction: there, a whole matrix product is one node.

    a and b are each a list of Values or a list of floats. They may be the same list: then each
    element is an input twice, and backward() adds up both contributions. The result is a Value if
    one of them holds Values, else a float. Raises ValueError if the lengths differ.
    """
    xs = floats(a)
    ys = floats(b)
    total = 0.0  # in a loop, because the built-in sum() rounds differently from Python 3.12 on
    for x, y in zip(xs, ys, strict=True):
        total += x * y
    inputs = []
    local_grads = []
    if a and isinstance(a[0], Value):
        inputs += a
        local_grads += ys
    if b and isinstance(b[0], Value):
        inputs += b
        local_grads += xs
    return Value(total, inputs, local_grads) if inputs else total


def as_values(model):
    """A copy of a model in which every number is a Value, so that it can be trained."""
    return {name: [[Value(x) for x in row] for row in matrix] for name, matrix in model.items()}


def as_floats(model):
    """A copy of a model in which every number is a float, so that it is frozen and fast."""
    return {name: [floats(row) for row in matrix] for name, matrix in model.items()}


def linear(x, matrix):
    """Multiply a matrix [n_out][n_in] with a vector x [n_in]. Return [n_out].

    Each row is compared with x: output i is the dot product of row i and x.
    """
    return [dot(row, x) for row in matrix]


def softmax(logits):
    """Turn scores [n] into probabilities [n]: exp(score), divided by the sum of all exp(score).

    The probabilities are positive and sum to 1. Adding the same number to all scores does not
    change them. So the largest score is subtracted first, and exp() never sees a number above 0,
    which could overflow.
    """
    largest = max(floats(logits))
    exps = [exp(x - largest) for x in logits]
    total = dot(exps, [1.0] * len(exps))  # their sum, as one node
    inverse = total**-1
    return [e * inverse for e in exps]


def adam_step(params, m, v, step, rate):
    """Move each parameter against its average gradient, in place. Set the gradients back to 0.

    Plain gradient descent is p.data -= rate * p.grad. Adam (Kingma & Ba 2015, algorithm 1) improves
    on it in two ways. It takes a running average m of the gradient, because the gradient of a
    single step is noisy. And it divides by the root of v, a running average of the squared
    gradient. So it does not matter whether all gradients of a parameter are large or small: the
    parameter moves by about `rate` if they agree in sign, and by much less if they do not. m and v
    have one number per parameter, and step counts 1, 2, ...
    """
    # m and v start at 0. After step 1, m is (1 - beta1) * grad, which is too small by this factor.
    m_correction = 1 - beta1**step
    v_correction = 1 - beta2**step
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad
        m_hat = m[i] / m_correction
        v_hat = v[i] / v_correction
        p.data -= rate * m_hat / (math.sqrt(v_hat) + eps_adam)
        p.grad = 0.0


def mean(values):
    """The average of some numbers. fsum() rounds only once, so every Python gives the same."""
    return math.fsum(values) / len(values)


def show_progress(step, num_steps, loss, started):
    """Print step, loss, elapsed and remaining time: on a terminal always in the same line.

    In a pipe or a file, print a line for the first three steps and for every tenth of all steps.
    """
    elapsed = time.perf_counter() - started
    remaining = elapsed * (num_steps / step - 1)
    line = f"step {step:4d}/{num_steps}  loss {loss:.5f}  {elapsed:5.1f} s, {remaining:5.1f} s left"
    if os.isatty(1):
        print(f"\r{line} ", end="\n" if step == num_steps else "")
    elif step <= 3 or step % max(1, num_steps // 10) == 0:
        print(line)


def show_training(losses, num_steps):
    """Run a generator of losses to its end, and show its progress. Return the losses."""
    started = time.perf_counter()
    seen = []
    for loss in losses:
        seen.append(loss)
        show_progress(len(seen), num_steps, loss, started)
    return seen


def print_results(rows):
    """Print the results: one per line, with its name, its value, and the bound it has to meet."""
    print("\n=== results ===")
    for name, value, bound in rows:
        text = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{text:<8} {bound}".rstrip())


print = functools.partial(print, flush=True)  # print each line at once, also into a pipe


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the reader of the pipe has gone, as in `python script.py | head`
