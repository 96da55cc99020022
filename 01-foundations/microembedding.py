"""Similarity can be learned: draw two versions of a name together and push the others away.

The problem: somebody types "mayehm" and means "mayhem". A computer that looks for equal spellings
finds nothing. The computer needs a measure of similarity under which a name and its misspelling are
close, and under which two different names are far apart, although these share letters, too.

The idea of contrastive learning: give every text a vector, and let the angle between two vectors
stand for similarity. The cosine of the angle is 1 if they point in the same direction, 0 if they
are at a right angle, and -1 if they point in opposite directions. It is hard to say of any two
names how similar they ought to be. But it is easy to make pairs that belong together: take a name,
and put a typing error into it. Then show a name, called the anchor, together with the misspellings
of several names. Its own misspelling is called the positive, and the others are the negatives.
Change the vectors so that the positive becomes the most similar one.

    1. corrupt: make a typing error in a name. A letter is lost, or two different neighbors are
       swapped.
    2. ngrams: mark the beginning of a text with ^ and its end with $, and cut it into all runs of
       one, two and three characters, called n-grams. "anna" and "anne" share a, n, ^a, an, nn, ^an
       and ann.
    3. embed_name: every n-gram has a vector of its own. Add up the vectors of the n-grams of a
       text, and scale the sum to length 1. The result is called the embedding of the text. What
       turns a text into its embedding is called the encoder.
    4. info_nce: take several names, called a batch, and one misspelling of each. Divide the cosines
       of a name to all the misspellings by a constant, the temperature. Turn them into shares that
       sum to 1. The loss is -log of the share of the positive, on average over the batch. It falls
       if the cosine to the positive grows, and also if those to the negatives shrink.
    5. batch_gradient: compute how the loss changes with each number in the vectors of the n-grams,
       its gradient. train moves the numbers against it, one batch per step. Other names contain the
       same n-grams. So what is learned from some names also serves names that were never seen.
    6. nearest: to find the name that somebody misspelled, embed what was typed, and take the name
       with the highest cosine.

The loss is InfoNCE (van den Oord et al. 2018, eq. 4). SimCLR (Chen et al. 2020) also takes the
other members of a batch as negatives, and divides cosines by a temperature. It works on images,
which it crops and recolors instead of misspelling them. Here only the names are anchors. SimCLR
alters an image twice, and takes each of the two versions as an anchor. The encoder is a sum of
n-gram vectors, as in fastText (Bojanowski et al. 2017). The gradient is derived by hand, so there
is no autograd. CLIP (Radford et al. 2021) trains deep encoders with such a loss, on images and the
texts that describe them, with both sides as anchors. It takes 32,768 pairs per batch: among more
negatives, more resemble the positive, so the encoder has to be more exact. The method assumes that
no negative fits its anchor. If "ann" is made from "anna", it also fits "anne" in the same batch. In
the run, 16 of 14,039 misspellings fit another name of their batch.
"""

import collections
import functools
import hashlib
import itertools
import math
import os
import random
import time
import urllib.request

# === CONSTANTS ===
ngram_sizes = (1, 2, 3)  # characters in an n-gram
n_embd = 64  # numbers in a vector
batch_size = 24  # names per training step; each is compared with all misspellings of the batch
temperature = 0.1  # cosines are divided by this; the text under THE LOSS says why
num_steps = 600  # training steps of one model; two are trained, with and without negatives
learning_rate = 3.0  # of the first step; it falls linearly to 0
num_heldout = 5000  # names that training does not see
pool_size = 1000  # names among which a search looks for the one that was meant
num_queries = 500  # searches; each gets a misspelling of another of these 1000 names
# Training never sees these names either. The example takes its three from them; try the others.
probes = ["anna", "anne", "hannah", "jayden", "kaiden", "zachary"]
# A batch of three pairs, small enough to follow its loss by hand
example = [("anne", "nane"), ("hannah", "hannh"), ("kaiden", "akiden")]


# === PAIRS: a name and its misspelling belong together ===
def corrupt(name):
    """A misspelling of a name: one letter is lost, or two different neighbors are swapped.

    "eva" becomes va, ea, ev, vea or eav. This is where the training is told what is similar: the
    pairs say which differences between two texts do not matter. The name needs at least one letter.
    """
    errors = []
    for i in range(len(name)):
        errors.append(name[:i] + name[i + 1 :])  # letter i is lost
    for i in range(len(name) - 1):
        if name[i] != name[i + 1]:
            errors.append(name[:i] + name[i + 1] + name[i] + name[i + 2 :])
    return random.choice(errors)


# === THE ENCODER: a text becomes a direction ===
def ngrams(text):
    """All n-grams of a text, as a list. What occurs twice stands in it twice.

    ^ and $ mark the beginning and the end, so that "^a" is an a at the beginning. By themselves
    they say nothing and are left out:

        ann -> a n n   ^a an nn n$   ^an ann nn$

    Short n-grams survive most errors, and long ones tell different names apart. So there are both.
    """
    marked = f"^{text}$"
    found = []
    for size in ngram_sizes:
        for start in range(len(marked) - size + 1):
            ngram = marked[start : start + size]
            if ngram not in ("^", "$"):
                found.append(ngram)
    return found


def init_model(names):
    """The parameters {n-gram: vector [n_embd]}. Such a vector is a list of n_embd random floats."""
    model = {}
    for name in names:
        for ngram in ngrams(name):
            if ngram not in model:
                model[ngram] = [random.gauss(0, 0.1) for _ in range(n_embd)]
    return model


def add_scaled(x, factor, y):
    """x + factor * y, for two vectors x and y."""
    return [xi + factor * yi for xi, yi in zip(x, y)]


def dot(a, b):
    """The dot product of two lists of floats. Raises ValueError if their lengths differ."""
    total = 0.0  # in a loop, because the built-in sum() rounds differently from Python 3.12 on
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def sum_ngrams(model, text):
    """u [n_embd]: the sum of the vectors of the text's n-grams. Unknown n-grams add nothing."""
    u = [0.0] * n_embd
    for ngram in ngrams(text):
        if ngram in model:
            u = add_scaled(u, 1, model[ngram])
    return u


def length_of(u):
    """||u||, the length of a vector. For a vector of zeros it returns 1, so that one can divide."""
    return math.sqrt(dot(u, u)) or 1.0


def normalize(u):
    """e = u / ||u||: the same direction, with length 1. Zeros have no direction and stay zeros.

    The dot product of two vectors of length 1 is the cosine of the angle between them. With zeros
    it is 0.
    """
    length = length_of(u)
    return [x / length for x in u]


def embed_name(model, text):
    """The embedding e [n_embd] of a text.

    Texts that share n-grams share terms of their sums. So their embeddings tend to be similar even
    before any training. The longer the vector of an n-gram, the more it counts. All lengths start
    near 0.1 * sqrt(64) = 0.8, because each of the 64 floats is about 0.1 in size. Training changes
    the lengths, and it turns the vectors.
    """
    return normalize(sum_ngrams(model, text))


# === THE LOSS: each name has to pick its own misspelling ===
#
# A batch has B names with the embeddings a_1 ... a_B, and their misspellings with the embeddings
# b_1 ... b_B. For the anchor a_i, the positive is b_i, and all other b_j are the negatives. Take
# all cosines, and divide them by the temperature:
#
#     s_ij = a_i . b_j / temperature
#
# softmax makes shares of them, which are positive and sum to 1 for each anchor:
#
#     share_ij = exp(s_ij) / sum_k exp(s_ik)
#
# The loss is the mean over the anchors of -log of the share of the positive:
#
#     L = 1/B sum_i -log share_ii
#       = 1/B sum_i -log(exp(s_ii) / sum_k exp(s_ik))
#       = 1/B sum_i (-s_ii + log sum_k exp(s_ik))
#
# How the loss pulls and pushes: take the two terms of one anchor. Descent raises a score if the
# derivative by it is negative, and lowers it if the derivative is positive. The derivative of -s_ii
# is -1, so the first term pulls the positive with strength 1. The derivative of the second term by
# s_ij is exp(s_ij) / sum_k exp(s_ik), which is share_ij. So this term pushes every misspelling away
# in proportion to its share, the positive too. In all, the positive is pulled by 1 - share_ii, and
# a negative is pushed by share_ij. Divided by B for the mean, this is
#
#     dL/ds_ij = (share_ij - target) / B    with target = 1 if j is i, and 0 if not
#
# The target is what the share should be. A misspelling b_j is in the scores of all anchors, s_1j to
# s_Bj. So it is pulled by its own name and pushed by every other name of the batch.
#
# Why there must be negatives: if -s_ii were the loss, one vector for all names would be perfect.
# Every cosine would be 1, and the loss would be at its minimum, -1 / temperature. For comparison,
# the run trains a second model in this way. Its cosines come near 1, also between different names.
# It still finds many names, because the search takes the highest cosine, however small its lead is.
# But it finds fewer than before training. With negatives, the mean cosine of different names ends
# near 0. Not all can be near -1: two names that are opposite to a third one point in the same
# direction. Similar names stay similar: of a misspelling and the most similar wrong name among
# 1,000, the mean cosine is 0.64 before training and 0.67 after it. But that of a misspelling and
# its own name rises from 0.73 to 0.84, so more names are found.
#
# Why a temperature: it decides which negatives are pushed, because their shares depend on it. Here
# are the shares of a positive with the cosine 0.8 and of two negatives with 0.6 and 0.0:
#
#     temperature 1      0.44   0.36   0.20
#     temperature 0.1    0.88   0.12   0.00
#
# At temperature 1, the negative with 0.0 is pushed more than half as strongly as the one with 0.6,
# although it is already far away. At 0.1 it is hardly pushed. So a small temperature makes the loss
# look almost only at the most similar wrong names. At 1, no share gets near its target: even with
# the cosines 1 to the positive and -1 to all 23 negatives, the share of the positive would be only
# exp(1) / (exp(1) + 23 exp(-1)) = 0.24. (In a trial, 0.86 were found with the temperature 1, and
# 0.94 with 0.1.)


def softmax(logits):
    """Turn scores [n] into probabilities [n]: exp(score), divided by the sum of all exp(score).

    Subtracting the largest score changes no probability, and exp() then sees no positive number,
    which could overflow.
    """
    largest = max(logits)
    exps = [math.exp(x - largest) for x in logits]
    total = math.fsum(exps)
    return [e / total for e in exps]


def info_nce(anchors, positives):
    """The loss L of a batch, and its gradients for the two lists of embeddings [B][n_embd].

    positives[i] is the positive of anchors[i], and a negative of the other anchors. Returns L,
    dL/d(anchors) and dL/d(positives). With a single pair, L and the gradients are 0.

    For the shares 0.88, 0.12 and 0.00 of the table above, dL/ds_ij is -0.12, 0.12 and 0.00, divided
    by B. As s_ij = a_i . b_j / temperature, the chain rule gives

        dL/da_i = sum_j dL/ds_ij * b_j / temperature
        dL/db_j = sum_i dL/ds_ij * a_i / temperature

    The loop goes through the anchors i. Each completes its own dL/da_i, and adds one term to every
    dL/db_j. For B = 2, with shares 0.9 and 0.1 for a_1, 0.3 and 0.7 for a_2, and without the factor
    1 / (B * temperature): dL/da_1 = -0.1 b_1 + 0.1 b_2, and dL/db_1 = -0.1 a_1 + 0.3 a_2.
    """
    num_pairs = len(anchors)
    loss = 0.0
    d_anchors = [[0.0] * n_embd for _ in anchors]
    d_positives = [[0.0] * n_embd for _ in positives]
    for i, a in enumerate(anchors):
        scores = [dot(a, b) / temperature for b in positives]
        shares = softmax(scores)
        loss -= math.log(shares[i]) / num_pairs
        for j, b in enumerate(positives):
            target = 1.0 if j == i else 0.0  # what the share should be
            d_score = (shares[j] - target) / num_pairs
            d_anchors[i] = add_scaled(d_anchors[i], d_score / temperature, b)
            d_positives[j] = add_scaled(d_positives[j], d_score / temperature, a)
    return loss, d_anchors, d_positives


def attract_only(anchors, positives):
    """As info_nce(), but the loss is the mean of -s_ii alone. It does not look at negatives."""
    num_pairs = len(anchors)
    loss = 0.0
    d_anchors = []
    d_positives = []
    for a, b in zip(anchors, positives, strict=True):
        loss -= dot(a, b) / temperature / num_pairs
        d_anchors.append([-x / temperature / num_pairs for x in b])
        d_positives.append([-x / temperature / num_pairs for x in a])
    return loss, d_anchors, d_positives


# === TRAINING: from the loss back to the vectors of the n-grams ===
#
# A batch goes from the vectors of n-grams to their sums u, to the embeddings e, to the cosines and
# scores, and to the loss. The gradient comes back the same way, step by step.


def normalize_backward(u, d_e):
    """dL/du, for e = u / ||u|| and d_e = dL/de.

    If e moves a little, L changes by d_e . (the movement of e). So the question is how e moves when
    u does. Take u = [3, 4], which has the length 5, so that e = [0.6, 0.8], and d_e = [1, 0].

    If u moves along itself, only its length changes, and e and L stay. So dL/du has no part along
    e. The part of d_e along e is (d_e . e) e = 0.6 [0.6, 0.8] = [0.36, 0.48]. Without it, [1, 0]
    becomes [0.64, -0.48], which is at a right angle to u.

    If u moves at a right angle to itself, e moves a fifth as far, because e is u drawn five times
    smaller. So L changes by a fifth of what it would if e moved as far as u. Divided by 5, the
    gradient is [0.128, -0.096]:

        dL/du = (d_e - (d_e . e) e) / ||u||
    """
    e = normalize(u)
    turning = add_scaled(d_e, -dot(d_e, e), e)
    length = length_of(u)
    return [x / length for x in turning]


def add_gradient(grads, model, text, u, d_e):
    """Add to grads {n-gram: dL/d(its vector)} what comes from one text, in place.

    u is the sum of the vectors of the text's n-grams, so each of them receives dL/du, once for each
    time that it occurs.
    """
    d_u = normalize_backward(u, d_e)
    for ngram in ngrams(text):
        if ngram in model:
            if ngram not in grads:
                grads[ngram] = [0.0] * n_embd
            grads[ngram] = add_scaled(grads[ngram], 1, d_u)


def batch_gradient(model, names, misspellings, loss_of):
    """The loss of a batch, and its gradients {n-gram: dL/d(its vector)}.

    misspellings[i] belongs to names[i]. loss_of is info_nce, or attract_only for the comparison.
    """
    name_sums = [sum_ngrams(model, name) for name in names]
    misspelling_sums = [sum_ngrams(model, misspelling) for misspelling in misspellings]
    anchors = [normalize(u) for u in name_sums]
    positives = [normalize(u) for u in misspelling_sums]
    loss, d_anchors, d_positives = loss_of(anchors, positives)
    grads = {}
    for name, u, d_e in zip(names, name_sums, d_anchors):
        add_gradient(grads, model, name, u, d_e)
    for misspelling, u, d_e in zip(misspellings, misspelling_sums, d_positives):
        add_gradient(grads, model, misspelling, u, d_e)
    return loss, grads


def train(model, names, excluded, num_steps, loss_of=info_nce):
    """Train in place by gradient descent. For each batch, yield its loss before the update.

    Calling this generator trains nothing yet: each loss that is taken from it costs one step.
    `excluded` is the set of held-out names. A misspelling can happen to spell one of them. Then the
    pair is left out, so that no step sees a held-out name, and the batch is smaller.
    A rate of 3.0 suits these gradients. In the first batch of the run, half of them are shorter
    than 0.016, and the longest, those of frequent letters, about 0.18. The vectors that they move
    have lengths near 0.8.
    """
    for step in range(num_steps):
        batch = []
        misspellings = []
        for name in random.sample(names, batch_size):
            misspelling = corrupt(name)
            if misspelling not in excluded:
                batch.append(name)
                misspellings.append(misspelling)
        loss, grads = batch_gradient(model, batch, misspellings, loss_of)
        rate = learning_rate * (1 - step / num_steps)
        for ngram, grad in grads.items():
            model[ngram] = add_scaled(model[ngram], -rate, grad)
        yield loss


# === SEARCH: the most similar text is the one with the highest cosine ===
def nearest(query, vectors, similarity):
    """The index of the vector that is most similar to the query. similarity(a, b) is a cosine."""
    scores = [similarity(query, vector) for vector in vectors]
    return scores.index(max(scores))


# === HOW GOOD IT IS: the encoder before and after training, and a rival ===
#
# The rival compares counts of n-grams, and needs no training. It finds most names, because a name
# and its misspelling share many n-grams. The encoder squeezes these counts, which are of thousands
# of n-grams, into n_embd numbers. Untrained, it finds fewer names than the counts do. Trained, it
# finds more: with 13 seeds, the lead over the counts was 0.020 to 0.056. (A seed also changes which
# names are searched.)
#
# The queries have errors of the same two kinds as the pairs for training. Letters survive these
# errors: a swap keeps all, and a lost letter all but one. Each error breaks several longer n-grams.
# So it helps the rival to count every letter twice: in a separate trial it then found 0.964, more
# than the trained encoder. Training does something similar: the vectors of letters grow to a length
# of 1.60 on average, and those of two and three characters end at 0.82 and 0.80. It also turns the
# vectors, and both help: the trained lengths with the untrained directions found 0.904, and the
# trained directions with the untrained lengths 0.916. Whoever knows the errors can write such a
# rule. Training needs only pairs. Here corrupt makes them, but they could also be collected, from
# words that people corrected after typing them.


def count_vector(text):
    """The rival: {n-gram: how often it occurs}, scaled to length 1.

    It also has the n-grams that are in no training name, which the encoder drops.
    """
    counts = collections.Counter(ngrams(text))
    length = math.sqrt(math.fsum([x * x for x in counts.values()]))
    return {ngram: x / length for ngram, x in counts.items()}


def sparse_dot(a, b):
    """The dot product of two vectors {n-gram: number}, in which an absent n-gram counts as 0."""
    return math.fsum([x * b[ngram] for ngram, x in a.items() if ngram in b])


def judge(vector_of, similarity, names, misspellings):
    """Search `names` for each misspelling. Returns what was found, and three figures.

    vector_of(text) makes a vector of length 1, and similarity(a, b) is the cosine of two of them.
    misspellings[i] belongs to names[i]. There may be more names than misspellings. Those without
    one are never meant, and make the search harder. "recall" is the share of misspellings whose
    name was found. Only the name that was misspelled counts as found, but some misspellings fit
    several names. Of the 500 of the run, 4 spell another name of the pool. 29 more misspell two or
    three of its names, as "ahalia" does athalia and mahalia.
    """
    vectors = [vector_of(name) for name in names]
    queries = [vector_of(misspelling) for misspelling in misspellings]
    found = [nearest(query, vectors, similarity) for query in queries]
    return {
        "positive": mean([similarity(vectors[i], query) for i, query in enumerate(queries)]),
        # Each name and the next one: two different names at random, because main() shuffles them.
        "random": mean([similarity(a, b) for a, b in itertools.pairwise(vectors)]),
        "recall": mean([index == i for i, index in enumerate(found)]),
        "found": [names[index] for index in found],
    }


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    # Some names stand in the list twice. Here each counts once.
    names = [name for name in dict.fromkeys(load_names()) if name not in probes]
    random.shuffle(names)
    heldout = names[:num_heldout]
    training = names[num_heldout:]
    misspellings = [corrupt(name) for name in heldout[:num_queries]]
    untrained = init_model(training)
    print(f"Training draws from {len(training)} names, with {len(untrained)} different n-grams.")
    print(f"{num_heldout + len(probes)} names are held out, {pool_size} of which will be searched.")
    show_example("Before training", untrained)

    # Train with negatives, then without them. Both start alike and see the same batches. train()
    # takes a step whenever show_training() asks it for the next loss.
    excluded = set(heldout + probes)
    state = random.getstate()
    model = dict(untrained)  # train() replaces lists and changes none, so untrained stays as it is
    print("\nTraining with InfoNCE. Each loss is of a new batch, so it goes up and down.")
    print(f"Guessing has a loss of log {batch_size} = {math.log(batch_size):.2f}.", end=" ")
    print("Shared n-grams make it far lower from the start:")
    show_training(train(model, training, excluded, num_steps), num_steps)
    show_example("After training", model)
    random.setstate(state)
    attracted = dict(untrained)
    print(f"\nTraining without negatives. This loss cannot fall below {-1 / temperature:.0f}:")
    show_training(train(attracted, training, excluded, num_steps, attract_only), num_steps)

    # What has training changed, and what do counts of n-grams achieve without it?
    pool = heldout[:pool_size]
    counts = judge(count_vector, sparse_dot, pool, misspellings)
    before = judge(functools.partial(embed_name, untrained), dot, pool, misspellings)
    without = judge(functools.partial(embed_name, attracted), dot, pool, misspellings)
    after = judge(functools.partial(embed_name, model), dot, pool, misspellings)
    show_figures({"counts": counts, "untrained": before, "no negatives": without, "trained": after})
    show_searches(pool, misspellings, before["found"], after["found"])
    print_results(
        [
            ("positive_cosine", after["positive"], "> 0.82"),
            ("positive_cosine_untrained", before["positive"], "< 0.77"),
            ("random_cosine", after["random"], "< 0.05"),
            ("random_cosine_untrained", before["random"], "> 0.1"),
            ("random_cosine_attracted", without["random"], "> 0.8"),
            ("recall_at_1", after["recall"], f"> {counts['recall']:.4f}"),
            ("recall_at_1_untrained", before["recall"], "< 0.88"),
            ("recall_at_1_attracted", without["recall"], f"< {before['recall']:.4f}"),
            ("recall_at_1_counts", counts["recall"], ""),
            ("runtime_seconds", time.perf_counter() - started, "< 300"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_example(title, model):
    """Print the cosines of the three names to the three misspellings, and the loss."""
    anchors = [embed_name(model, name) for name, _ in example]
    positives = [embed_name(model, misspelling) for _, misspelling in example]
    print(f"\n{title}. Cosines of three held-out names to three misspellings. The positive is")
    print(f"on the diagonal. Divide its row by {temperature}; softmax then makes its share:")
    header = "".join(f"{misspelling:>9}" for _, misspelling in example)
    print(f"{'':8}{header}    share   -log share")
    for i, (name, _) in enumerate(example):
        cosines = [dot(anchors[i], b) for b in positives]
        share = softmax([cosine / temperature for cosine in cosines])[i]
        row = "".join(f"{cosine:9.4f}" for cosine in cosines)
        print(f"{name:8}{row}{share:9.4f}{-math.log(share):13.4f}")
    loss, _, _ = info_nce(anchors, positives)
    print(f"The loss of this batch is the mean of the last column, {loss:.4f}.")


def show_figures(figures):
    """Print the figures of judge() as a table, with one column for each way to make vectors."""
    titles = {
        "positive": "cosine of a name to its misspelling",
        "random": "cosine of two different names",
        "recall": "share of misspelled names found",
    }
    print(f"\nOn held-out names. {num_queries} are looked for by a misspelling, among {pool_size}.")
    print('"counts" is the rival: it compares counts of n-grams, and is not trained.')
    print(" " * 35 + "".join(f"{way:>13}" for way in figures))
    for key, title in titles.items():
        print(f"{title:35}" + "".join(f"{row[key]:13.3f}" for row in figures.values()))


def show_searches(names, misspellings, before, after):
    """Print how many searches were right before and after training, and the first of them.

    before[i] and after[i] are the names that were found for misspellings[i]. names[i] is right.
    """
    kinds = {"right right": [], "wrong right": [], "right wrong": [], "wrong wrong": []}
    for i, misspelling in enumerate(misspellings):
        first = "right" if before[i] == names[i] else "wrong"
        second = "right" if after[i] == names[i] else "wrong"
        kinds[f"{first} {second}"].append([misspelling, names[i], before[i], after[i]])
    print("\nThe searches by what they found before and after training, the first two of each:")
    header = ["typed", "meant", "found before", "found after"]
    print(f"{'before after':13}{'searches':10}" + "".join(f"{x:16}" for x in header).rstrip())
    for kind, rows in kinds.items():
        print(f"{kind:13}{len(rows):8}")
        for row in rows[:2]:
            print(" " * 23 + "".join(f"{x:16}" for x in row).rstrip())


# === REPEATED from microgpt.py, word for word ===
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


# Figures in comments are of runs on the list in 01-foundations, which has 32,178 names. The list
# that is downloaded is an earlier release of it, with 32,033, and a run on it has other figures.
NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # print each line at once, also into a pipe


def load_names():
    """All names, in file order: from names.txt beside this script or else in ../01-foundations.

    If neither file exists, the list is downloaded. Whatever fails ends in SystemExit, with one line
    that says what to do.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, "names.txt")
    source = path
    if not os.path.exists(source):
        source = os.path.join(folder, "..", "01-foundations", "names.txt")
    try:
        if os.path.exists(source):
            with open(source, "rb") as file:
                raw = file.read()
        else:
            source = NAMES_URL
            raw = download_names(path)
        names = raw.decode("ascii").split()
        if len(set(names)) < 10000:  # too few to train on some and to hold out others
            raise ValueError("it has fewer than 10000 different names")
    except Exception as error:  # of many kinds: OSError, HTTPException, UnicodeDecodeError, ...
        advice = f"Put an ASCII text file of names, one per line, at {path}"
        raise SystemExit(f"No names from {source}: {str(error).strip()}. {advice}") from None
    return names


def download_names(path):
    """Download the list of names, check that it is the expected one, and keep it at `path`.

    Returns its bytes. Raises an exception if the download fails or the list is another one. If it
    cannot be kept, it prints a line and goes on.
    """
    with urllib.request.urlopen(NAMES_URL, timeout=10) as answer:
        raw = answer.read(5_000_000)  # the list has 228,145 bytes
    if hashlib.sha256(raw).hexdigest() != NAMES_SHA256:
        raise ValueError("its SHA-256 is not the one expected")
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(raw)
        os.replace(temporary, path)  # in one move, so that nobody ever meets half a file
    except OSError as error:
        print(f"The names could not be kept for the next run: {error}")
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    return raw


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the reader of the pipe has gone, as in `python script.py | head`
