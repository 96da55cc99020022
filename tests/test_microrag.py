"""microrag: BM25 against its definition, and the reader against one written as equations."""

import itertools
import math
import random

import pytest
from support.numbers import adam, gaussian, matvec, slopes, softmax

TEXTS = ["the cat sat", "the dog sat and the dog ran", "a cat and a dog and a cat", "", "the owl"]


def test_the_reader_loses_next_to_nothing_of_what_is_found(run):
    m = run.metrics
    assert m["queries"] >= 200
    assert m["with_retrieval"] > 0.8
    assert m["right_document"] > 0.95


def test_weights_alone_know_what_training_asked_for_often(run):
    m = run.metrics
    assert m["often_without_retrieval"] > m["without_retrieval"] + 0.10 > 0.10


def test_a_wrong_document_makes_a_wrong_answer(run):
    m = run.metrics
    assert m["wrong_document"] < 0.1
    assert m["wrong_document_copied"] > 0.9


def test_documents_added_after_training_are_read_like_the_others(run):
    m = run.metrics
    assert m["new_queries"] >= 200
    assert m["new_documents"] > 0.8
    assert m["new_without_retrieval"] < 0.02
    assert m["new_documents"] > m["new_retrieval_accuracy"] - 0.05


def test_with_a_text_the_reader_invents_fewer_names(run):
    assert run.metrics["invented_with"] < run.metrics["invented_without"] - 0.5


# --- BM25 ---


def brute_force_scores(texts, query, k1=1.2, b=0.75):
    """Every document against every term of the query, from the definition and without an index."""
    split = [text.split() for text in texts]
    average = math.fsum(map(len, split)) / len(split)
    scores = []
    for words in split:
        score = 0.0
        for term in set(query.split()):
            df = len([other for other in split if term in other])
            tf = words.count(term)
            idf = math.log(1 + (len(split) - df + 0.5) / (df + 0.5))
            length = 1 - b + b * len(words) / average
            score += idf * tf * (k1 + 1) / (tf + k1 * length)
        scores.append(score)
    return scores


def test_bm25_against_brute_force(script):
    rng = random.Random(4)
    words = [f"w{i}" for i in range(30)]
    for _ in range(20):
        texts = [" ".join(rng.choices(words, k=rng.randrange(15))) for _ in range(25)]
        query = " ".join(rng.choices([*words, "unknown"], k=5))
        expected = brute_force_scores(texts, query)
        found = script.search(script.build_index(texts), query, len(texts))
        assert len(found) == len([score for score in expected if score > 0])
        for score, document in found:
            assert score == pytest.approx(expected[document], rel=1e-12)
        assert found == sorted(found, key=lambda pair: (-pair[0], pair[1]))


def test_bm25_worked_by_hand(script):
    """Three documents of 2, 4 and 3 words: N = 3, average 3. Query: "red fish".

    red: df 2, idf ln(1 + 1.5 / 2.5) = ln 1.6.   fish: df 1, idf ln(1 + 2.5 / 1.5) = ln(8 / 3)
    document 0, length 2: norm 0.75, red once:   ln 1.6 * 2.2 / (1 + 0.9) = 0.54421
    document 1, length 4: norm 1.25, red twice:  ln 1.6 * 4.4 / (2 + 1.5) = 0.59086
                                     fish once:  ln(8 / 3) * 2.2 / (1 + 1.5) = 0.86313
    """
    index = script.build_index(["red car", "red fish red sea", "one two three"])
    assert script.idf(index, "red") == pytest.approx(math.log(1.6))
    assert script.idf(index, "fish") == pytest.approx(math.log(8 / 3))
    (first, one), (second, zero) = script.search(index, "red fish", 5)
    assert (one, zero) == (1, 0)
    assert first == pytest.approx(0.59086 + 0.86313, abs=1e-5)
    assert second == pytest.approx(0.54421, abs=1e-5)


def score_of(script, index, query, document):
    return {d: score for score, d in script.search(index, query, 99)}[document]


def test_a_repeated_term_gains_less_each_time(script):
    texts = [" ".join(["gold"] * n + ["x"] * (10 - n)) for n in range(11)]  # of one length
    index = script.build_index(texts)
    scores = [score_of(script, index, "gold", n) for n in range(1, 11)]
    gains = [b - a for a, b in itertools.pairwise([0.0, *scores])]
    assert all(0 < later < earlier for earlier, later in itertools.pairwise(gains))
    assert scores[0] == pytest.approx(script.idf(index, "gold"))  # average length: tf part is 1
    assert scores[-1] < script.idf(index, "gold") * (script.k1 + 1)


def test_a_long_document_needs_a_term_more_often(script, monkeypatch):
    texts = ["gold a b", "gold a b c d e f g h", "x y z"]
    index = script.build_index(texts)
    assert score_of(script, index, "gold", 0) > 1.3 * score_of(script, index, "gold", 1)
    monkeypatch.setattr(script, "b", 0.0)
    assert score_of(script, index, "gold", 0) == score_of(script, index, "gold", 1)


def test_rare_terms_count_more(script):
    index = script.build_index(["common rare", "common", "common other", "common", "third"])
    weights = [script.idf(index, term) for term in ("unknown", "rare", "common")]
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] > 0  # even in four of five documents
    assert weights[1] == pytest.approx(math.log(1 + 4.5 / 1.5))
    assert script.search(script.build_index(["a a", "z a"]), "a z", 1)[0][1] == 1


def test_ties_keep_the_order_of_entry(script):
    index = script.build_index(["x", "a b", "b a", "a b"])
    found = script.search(index, "b a", 4)
    assert [document for _, document in found] == [1, 2, 3]
    assert len({score for score, _ in found}) == 1


def test_a_term_repeated_in_the_query_counts_once(script):
    index = script.build_index(TEXTS)
    assert script.search(index, "dog cat dog", 9) == script.search(index, "dog cat", 9)


def test_case_and_punctuation_are_no_part_of_a_term(script):
    assert script.terms("The Owl, it's (42) OWL-like; caf\u00e9\n") == (
        ["the", "owl", "it", "s", "42", "owl", "like", "caf\u00e9"]
    )
    assert script.terms("...") == script.terms("") == []


def test_documents_are_found_as_soon_as_they_are_added(script):
    index = script.build_index(TEXTS[:2])
    assert script.search(index, "owl", 3) == []
    for text in TEXTS[2:]:
        script.add_document(index, text)
    assert index == script.build_index(TEXTS)
    assert [document for _, document in script.search(index, "owl", 3)] == [4]


def test_search_visits_postings_only(script):
    index = script.build_index(TEXTS)
    assert index["postings"]["dog"] == {1: 2, 2: 1}
    assert index["lengths"] == [3, 7, 8, 0, 2]
    index["texts"] = [None] * 5  # never looked at: the index is enough
    assert [document for _, document in script.search(index, "dog", 9)] == [1, 2]


def test_a_query_without_a_known_term_finds_nothing(script):
    index = script.build_index(TEXTS)
    for query in ("zebra", "", "?!"):
        assert script.search(index, query, 3) == []
        assert script.retrieve(index, query) == (None, "")


def test_k_larger_than_the_collection(script):
    index = script.build_index(TEXTS)
    assert len(script.search(index, "the cat", 100)) == 4
    assert len(script.search(index, "the cat", 2)) == 2
    assert script.search(index, "the cat", 0) == []


def test_empty_documents_and_an_empty_index(script):
    assert script.search(script.build_index([]), "cat", 3) == []
    assert script.search(script.build_index(["", ""]), "cat", 3) == []
    found = script.search(script.build_index(["", "cat"]), "cat", 3)
    assert [document for _, document in found] == [1]


# --- data ---


@pytest.fixture
def data(script):
    random.seed(5)
    taken = set()
    paragraphs = script.make_paragraphs(script.num_documents, taken)
    return paragraphs, script.make_examples(paragraphs), script.make_queries(paragraphs), taken


def test_names_are_unique_and_fit_the_reader(script, data):
    paragraphs, *_, taken = data
    added = script.make_paragraphs(40, taken)
    cities = [p["city"] for p in paragraphs + added]
    own = [n for p in paragraphs + added for r, n in p["facts"].items() if r != "country"]
    countries = [{p["facts"]["country"] for p in group} for group in (paragraphs, added)]
    assert len({*cities, *own, *countries[0], *countries[1]}) == (
        len(cities) + len(own) + sum(map(len, countries))
    )
    for name in taken:
        assert len(name) < script.max_answer
        assert set(name) <= set(script.CHARS[:-1])


def test_paragraphs_state_their_facts_in_one_of_two_ways(script, data):
    for p in data[0]:
        sentences = p["text"].removesuffix(".").split(". ")
        assert sentences[0].startswith(p["city"] + " ")
        for relation, name in p["facts"].items():
            ways = [way.format(name) for way in script.STATEMENTS[relation]]
            assert sum(s.split(" ", 1)[1] in ways for s in sentences) == 1
    lengths = [len(p["text"].split()) for p in data[0]]
    assert max(lengths) > 1.3 * min(lengths)


def test_a_citys_name_stands_in_other_paragraphs_too(script, data):
    words = [set(script.terms(p["text"])) for p in data[0]]
    assert all(p["city"] in own for p, own in zip(data[0], words))
    texts_with = [sum(p["city"] in other for other in words) for p in data[0]]
    assert sum(n > 1 for n in texts_with) > 50


def test_queries_neither_copy_a_paragraph_nor_contain_the_answer(script, data):
    paragraphs, _, queries, _ = data
    assert len(queries) == 400
    words = {word for p in paragraphs for word in script.terms(p["text"])}
    sentences = {s for p in paragraphs for s in p["text"].removesuffix(".").split(". ")}
    for question, number, relation in queries:
        asked = script.terms(question)
        assert paragraphs[number]["city"] in asked
        assert paragraphs[number]["facts"][relation] not in asked
        assert not any(sentence in question for sentence in sentences)
        nouns = set(asked) & set(script.NOUNS[relation])
        assert len(nouns) == 1
        assert not nouns & words, "the noun of the question must not lead to a paragraph"


def test_test_queries_are_worded_as_no_training_question(script, data):
    """Of 72 pairs of noun and frame 24 are held out. Each noun and each frame is in training."""
    paragraphs, examples, queries, _ = data
    cities = {p["city"] for p in paragraphs}

    def wordings(questions):
        asked = [script.terms(question.split(". ")[1]) for question, *_ in questions]
        return {" ".join("CITY" if w in cities else w for w in words) for words in asked}

    trained, tested = wordings(examples), wordings(queries)
    assert (len(trained), len(tested)) == (48, 24)
    assert not trained & tested
    assert {w for q in tested for w in q.split()} <= {w for q in trained for w in q.split()}


def test_half_of_the_examples_come_without_a_text(script, data):
    paragraphs, examples, *_ = data
    text_of = {p["text"]: p for p in paragraphs}
    assert len(examples) == script.num_steps * script.batch_size
    for i, (question, text, answer) in enumerate(examples):
        assert (text == "") == (i % 2 == 1)
        if text:
            assert answer in text_of[text]["facts"].values()
            assert text_of[text]["city"] in script.terms(question)
    often = {p["city"] for p in paragraphs[: script.num_often]}
    blind = [bool(often & set(script.terms(q))) for q, text, _ in examples if not text]
    assert sum(blind) / len(blind) == pytest.approx(0.82, abs=0.05)


# --- the reader ---

QUESTION, TEXT, ANSWER = (
    "i saw it. what stream has vela?",
    "vela lies on the tumor. it is.",
    "tumor",
)


def small_weights(script):
    """A float model that knows a few words, large enough that every part matters."""
    asked = dict.fromkeys(["", *script.terms(QUESTION), "name", "the", "feast"])
    common = dict.fromkeys(["", *script.terms(TEXT), "it", "is", "on"])
    n = script.n_embd
    shapes = {
        "query": (asked, n),
        "cue1": (common, n),
        "cue2": (common, n),
        "last": (script.CHARS, n),
        "place": (range(script.max_answer), n),
        "hidden": (range(script.n_hidden), n + len(script.CHARS) + n),
        "output": (script.CHARS, script.n_hidden),
    }
    return {
        table: dict(zip(keys, gaussian(len(keys), width, 0.4, table)))
        for table, (keys, width) in shapes.items()
    }


def mapped(f, tables):
    """A copy of {table: {key: vector}} with f(x) for each number x."""
    return {
        table: {key: [f(x) for x in row] for key, row in rows.items()}
        for table, rows in tables.items()
    }


def numbers_of(tables):
    """All numbers of {table: {key: vector}}, as one list."""
    return [x for rows in tables.values() for row in rows.values() for x in row]


def reference_query(weights, words):
    """The sum of the vectors of known words, and of the vector that is in every sum."""
    rows = [weights["query"][word] for word in ["", *words] if word in weights["query"]]
    return [math.fsum(column) for column in zip(*rows)]


def reference_looks(weights, query, words):
    """Softmax of query . (cue1 of the word before + cue2 of the word before that one)."""
    scores = []
    for i in range(len(words)):
        score = 0.0
        for table, back in (("cue1", 1), ("cue2", 2)):
            word = words[i - back] if i >= back else ""
            row = weights[table].get(word, weights[table][""])
            score += math.fsum(q * c for q, c in zip(query, row))
        scores.append(score)
    return softmax(scores)


def reference_logits(weights, query, context, last, place):
    x = [*query, *context]
    x += [a + p for a, p in zip(weights["last"][last], weights["place"][place])]
    h = [max(0.0, a) for a in matvec(weights["hidden"].values(), x)]
    return matvec(weights["output"].values(), h)


def reference_loss(script, weights, question_words, words, answer):
    """Mean of -log p(next character) of an answer that ends with a full stop."""
    query = reference_query(weights, question_words)
    looks = reference_looks(weights, query, words)
    losses = []
    for place, (last, char) in enumerate(zip("." + answer, answer)):
        context = dict.fromkeys(script.CHARS, 0.0)
        for look, word in zip(looks, words):
            if word and place <= len(word) and f"{word}."[place] in context:
                context[f"{word}."[place]] += look
        logits = reference_logits(weights, query, context.values(), last, place)
        losses.append(-math.log(softmax(logits)[script.CHARS.index(char)]))
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("text", [TEXT, ""])
def test_gradient_equals_finite_differences(script, text):
    weights = small_weights(script)
    model = mapped(script.Value, weights)
    script.answer_loss(model, QUESTION, text, ANSWER).backward()
    rng = random.Random(0)
    for table, rows in weights.items():
        everywhere = [(table, key, j) for key, row in rows.items() for j in range(len(row))]
        where = rng.sample(everywhere, 12)
        expected = slopes(lambda w: script.answer_loss(w, QUESTION, text, ANSWER), weights, where)
        found = [model[table][key][j].grad for table, key, j in where]
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-8), table
        reached = sum(abs(slope) > 1e-6 for slope in expected)
        assert reached >= 3 or (not text and table.startswith("cue")), table


def test_floats_and_values_give_the_same_loss(script):
    weights = small_weights(script)
    for text in (TEXT, ""):
        on_values = script.answer_loss(mapped(script.Value, weights), QUESTION, text, ANSWER)
        assert script.answer_loss(weights, QUESTION, text, ANSWER) == on_values.data


def test_loss_against_its_definition(script):
    """With a text in which the answer stands, and without a text."""
    weights = small_weights(script)
    question = "i saw it what stream has vela".split()
    words = ["", *"vela lies on the tumor it is".split()]
    expected = reference_loss(script, weights, question, words, "tumor.")
    found = script.answer_loss(weights, QUESTION, TEXT, "tumor")
    assert found == pytest.approx(expected, rel=1e-12)
    expected = reference_loss(script, weights, question, [""], "sol.")
    assert script.answer_loss(weights, QUESTION, "", "sol") == pytest.approx(expected, rel=1e-12)


def test_the_mlp_reads_the_two_embeddings_concatenated(script):
    weights = small_weights(script)
    query = [0.1 * i for i in range(script.n_embd)]
    context = [0.2] * len(script.CHARS)
    expected = reference_logits(weights, query, context, "e", 2)
    assert script.mlp(weights, query, context, "e", 2) == pytest.approx(expected, abs=1e-12)


def test_query_embedding_is_the_sum_of_its_known_words(script):
    weights = small_weights(script)
    expected = reference_query(weights, ["name", "feast", "name"])
    assert script.embed_query(weights, "Name feast, NAME!") == pytest.approx(expected)
    assert script.embed_query(weights, "zzz name feast name") == pytest.approx(expected)


def test_attention_against_its_definition(script):
    weights = small_weights(script)
    words = ["", "vela", "lies", "on", "unknown", "tumor"]
    query = gaussian(1, script.n_embd)[0]
    expected = reference_looks(weights, query, words)
    assert script.attend(weights, query, words) == pytest.approx(expected, rel=1e-12)


def test_attention_does_not_see_the_word_itself(script):
    weights = small_weights(script)
    query = script.embed_query(weights, QUESTION)
    looks = [
        script.attend(weights, query, ["", "vela", "lies", "on", "the", name])
        for name in ("tumor", "zubin", "it")
    ]
    assert looks[0] == looks[1] == looks[2]


def test_context_embedding_is_a_mix_of_characters(script):
    chars = script.CHARS
    words, weights = ["", "ab", "b", "ba"], [0.1, 0.2, 0.3, 0.4]

    def mixed(place):
        pairs = zip(chars, script.embed_context(weights, words, place))
        return {c: pytest.approx(x) for c, x in pairs if x}

    assert mixed(0) == {"a": 0.2, "b": 0.7}
    assert mixed(1) == {"b": 0.2, ".": 0.3, "a": 0.4}
    assert mixed(2) == {".": pytest.approx(0.6)}
    assert mixed(3) == {}


def test_unknown_characters_are_read_as_nothing(script):
    assert script.embed_context([0.5, 0.5], ["", "\u00e9x7"], 0) == [0.0] * len(script.CHARS)
    weights = small_weights(script)
    for question, text in [
        ("\u00e9? \u4e2d #", TEXT),
        (QUESTION, "\u00e9x7 on the \u4e2d!"),
        ("", ""),
    ]:
        answer = script.generate(weights, question, text)
        assert len(answer) <= script.max_answer
        assert set(answer) <= set(script.CHARS)
    with pytest.raises(ValueError):
        script.answer_loss(weights, QUESTION, TEXT, "caf\u00e9")
    with pytest.raises(KeyError):
        script.answer_loss(weights, QUESTION, TEXT, "a" * script.max_answer)


def copying_weights(script):
    """A model made by hand: it looks at the word after "on the", and copies its characters."""
    weights = {
        t: {key: [0.0] * len(row) for key, row in rows.items()}
        for t, rows in small_weights(script).items()
    }
    weights["query"]["stream"][0] = 10.0
    weights["cue1"]["the"][0] = weights["cue2"]["on"][0] = 1.0
    for i, c in enumerate(script.CHARS):
        weights["hidden"][i][script.n_embd + i] = 1.0
        weights["output"][c][i] = 1.0
    return weights


def test_generate_copies_with_weights_made_by_hand(script):
    weights = copying_weights(script)
    for name in ("tumor", "zubin", "ab"):  # no weight depends on the name
        text = f"it is on the {name} . it"
        assert script.generate(weights, "what stream has it", text) == name
    assert script.generate(weights, "what stream", "on the abababab")[:6] == "ababab"
    assert len(script.generate(weights, "what stream", "on the abababab")) == script.max_answer


def test_generate_tells_the_mlp_what_it_wrote_last_and_how_much(script, monkeypatch):
    told = []
    monkeypatch.setattr(
        script,
        "mlp",
        lambda model, query, context, *written: told.append(written) or context,
    )
    weights = copying_weights(script)
    text = "on the tumor"
    assert script.generate(weights, "what stream", text) == "tumor"
    assert told == [(".", 0), ("t", 1), ("u", 2), ("m", 3), ("o", 4), ("r", 5)]


def test_generate_without_a_text_sees_an_empty_context(script, monkeypatch):
    contexts = []
    mlp = script.mlp
    monkeypatch.setattr(
        script,
        "mlp",
        lambda m, q, context, *rest: contexts.append(context) or mlp(m, q, context, *rest),
    )
    script.generate(small_weights(script), QUESTION, "")
    assert contexts
    assert all(x == 0 for context in contexts for x in context)


def test_evaluate_counts_what_it_says(script, monkeypatch):
    """A reader that gives the last word of its text, or "none": every rate can be told by hand."""
    paragraphs = [
        {"city": "a", "facts": {"river": "one"}, "text": "a one"},
        {"city": "b", "facts": {"river": "two"}, "text": "b two"},
        {"city": "c", "facts": {"river": "none"}, "text": "c c three"},
    ]
    monkeypatch.setattr(
        script, "generate", lambda model, question, text: (text.split() or ["none"])[-1]
    )
    index = script.build_index([p["text"] for p in paragraphs])
    queries = [("a?", 0, "river"), ("a b b?", 1, "river"), ("c?", 2, "river"), ("zz", 0, "river")]
    assert script.evaluate({}, index, paragraphs, queries) == {
        "retrieval": 0.5,  # a b b: the tie goes to a; zz finds nothing
        "with": 0.25,
        "without": 0.25,  # c's river is called none
        "right": 0.75,
        "wrong": 0.0,
        "copied": 0.5,  # b gets a's text and c gets b's; a gets c's, which ends in three
        "invented_with": 0.25,
        "invented_without": 0.0,
    }


@pytest.mark.slow
def test_training_learns_to_copy_and_to_remember(script, monkeypatch):
    """One fact, asked with its text and without."""
    monkeypatch.setattr(script, "num_steps", 30)
    examples = [(QUESTION, TEXT, ANSWER), (QUESTION, "", ANSWER)] * 30
    losses = list(script.train(mapped(script.Value, small_weights(script)), examples))
    assert len(losses) == 30
    assert losses[0] > 2 > 0.5 > losses[-1]


def test_training_takes_steps_of_adam_at_a_falling_rate(script, monkeypatch):
    """Two steps of two examples, with the gradient of the mean of their losses."""
    monkeypatch.setattr(script, "num_steps", 2)
    examples = [(QUESTION, TEXT, ANSWER), (QUESTION, "", ANSWER)]
    examples += [("name the feast", "it is on sol", "sol"), ("feast", "", "vela")]
    model = mapped(script.Value, small_weights(script))
    steps = script.train(model, examples)
    m = v = [0.0] * len(numbers_of(model))
    for step, rate in ((1, 0.02), (2, 0.01)):
        batch = examples[2 * step - 2 : 2 * step]
        twin = mapped(lambda p: script.Value(p.data), model)
        losses = [script.answer_loss(twin, *example) for example in batch]
        for loss in losses:
            loss.backward()
        before = [p.data for p in numbers_of(twin)]
        grads = [p.grad / 2 for p in numbers_of(twin)]
        expected, m, v = adam(before, grads, m, v, step, rate, beta1=0.9, beta2=0.99)
        assert next(steps) == pytest.approx((losses[0].data + losses[1].data) / 2, rel=1e-12)
        assert [p.data for p in numbers_of(model)] == pytest.approx(expected, abs=1e-9)
    assert next(steps, None) is None


def test_names_are_no_cues(script, data):
    """Words of a tenth of the paragraphs announce something; a name stands in fewer."""
    _, examples, _, taken = data
    model = script.init_model(examples)
    assert model["cue1"].keys() == model["cue2"].keys()
    assert not set(model["cue1"]) & taken
    assert {"", "lies", "across", "founded", "celebrates", "of"} <= set(model["cue1"])
    assert len(model["query"]) > 100 + len(script.THINGS)


@pytest.mark.parametrize("count", [10, 11])
def test_cues_are_the_words_of_a_tenth_of_the_texts(script, count):
    """Each text counts once, and no text counts for nothing."""
    texts = [f"first{i} same last{i}" for i in range(count)]
    given = [*texts[:2], texts[1], "", *texts[2:]]
    examples = [(f"Who? who{i}", text, "a") for i, text in enumerate(given)]
    model = script.init_model(examples)
    common = {"", *" ".join(texts).split()} if count == 10 else {"", "same"}
    assert set(model["cue1"]) == set(model["cue2"]) == common
    assert set(model["query"]) == {"", "who", *(f"who{i}" for i in range(count + 2))}


def test_the_model_starts_at_random_numbers_of_one_scale(script):
    random.seed(1)
    model, small = script.init_model([(QUESTION, TEXT, ANSWER)]), small_weights(script)
    for table in ("last", "place", "hidden", "output"):
        assert list(model[table]) == list(small[table])
    widths = {table: {len(row) for row in rows.values()} for table, rows in model.items()}
    assert widths == {table: {len(row) for row in rows.values()} for table, rows in small.items()}
    squares = [p.data**2 for p in numbers_of(model)]
    assert math.fsum(squares) / len(squares) == pytest.approx(0.04, rel=0.1)
    assert len(set(squares)) == len(squares)


def test_added_paragraphs_are_indexed_and_asked_about(script):
    random.seed(1)
    taken = set()
    paragraphs = script.make_paragraphs(5, taken)
    index = script.build_index([p["text"] for p in paragraphs])
    queries = script.add_paragraphs(index, paragraphs, taken)
    assert len(paragraphs) == len(index["texts"]) == 5 + script.num_added
    assert index["texts"] == [p["text"] for p in paragraphs]
    assert {number for _, number, _ in queries} == set(range(5, 5 + script.num_added))
    for question, number, _ in queries:
        assert paragraphs[number]["city"] in question


def test_drawings(script, capsys):
    paragraphs = [
        {"city": "vela", "facts": {"river": "tumor"}, "text": "vela stands on the tumor"},
        {"city": "sodal", "facts": {"river": "zubin"}, "text": "sodal stands on the zubin"},
    ]
    index = script.build_index([p["text"] for p in paragraphs])
    question = "what stream has vela?"
    script.show_answer(copying_weights(script), index, paragraphs, question, 0, "river")
    drawn = capsys.readouterr().out
    assert "tumor" in drawn
    assert drawn.isascii()
