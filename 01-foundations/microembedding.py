"""Similarity can be learned: draw two versions of a name together and push the others away.

Contrastive learning with the InfoNCE loss (van den Oord et al. 2018): each name has to pick its own
misspelling out of a batch of them. (SimCLR, Chen et al. 2020, made the idea common: it alters both
versions, and lets both pick.) The encoder is a sum of one learned vector for each character n-gram,
as in fastText (Bojanowski et al. 2017). The gradient is derived by hand; there is no autograd here.
"""

import collections
import functools
import hashlib
import math
import os
import random
import time
import urllib.request

# === CONSTANTS: the encoder, the recipe, the evaluation ===
n_embd = 48  # dimensions of the space
ngram_sizes = (1, 2, 3)  # an error leaves most letters as they are, but fewer of the longer runs
batch_size, num_steps = 24, 800  # each name has 23 negatives; CLIP used 32,767
learning_rate = 3.0  # falls linearly to 0
temperature = 0.1  # the smaller, the more only the likest negatives count
num_heldout = 5000  # names that no training step saw: all results are about them
num_queries, pool_size = 600, 1000  # misspelled names, each to be found again among 1,000
PROBES = ["anna", "anne", "hannah", "jayden", "kaiden", "zachary"]  # held out too

NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: names, and what a typing error makes of them ===
def load_names():
    """All names, in file order: from names.txt beside this script, or else in 01-foundations.

    If there is neither, one is downloaded and kept. SystemExit, in one line, if it is not usable.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    beside, shared = (os.path.join(here, d, "names.txt") for d in ("", "../01-foundations"))
    source = next(filter(os.path.exists, (beside, shared)), NAMES_URL)
    is_url = source == NAMES_URL
    try:
        with urllib.request.urlopen(source, timeout=10) if is_url else open(source, "rb") as file:
            raw = file.read(5_000_000 if is_url else -1)  # longer cannot be it
        if is_url and hashlib.sha256(raw).hexdigest() != NAMES_SHA256:
            raise ValueError("its SHA-256 is not the one expected")
        names = raw.decode("ascii").split()
        if len(set(names)) < 10000:  # too few to train on some and hold out others
            raise ValueError("it has fewer than 10000 different names")
    except Exception as error:  # urllib alone raises three families of them
        advice = f"Put an ASCII text file of names, one a line, at {beside}"
        raise SystemExit(f"No names from {source}: {str(error).strip()}. {advice}") from None
    if is_url:
        temporary = f"{beside}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(raw)
            os.replace(temporary, beside)  # in one move: nobody ever meets half a file
        except OSError as error:  # no reason to stop: the names are in memory
            print(f"The names could not be kept for the next run: {error}")
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
    return names


def ngrams(name):
    """{n-gram: count} of a name between its boundaries: ann -> a, n twice, ^a, an, nn, n$, ..."""
    padded = f"^{name}$"
    runs = (padded[i : i + n] for n in ngram_sizes for i in range(len(padded) - n + 1))
    return collections.Counter(run for run in runs if run not in ("^", "$"))


def corrupt(name):
    """One typing error: a character lost, or two neighbours swapped. A single one stays as it is.

    SimCLR crops and recolours images to the same end: to say which changes do not matter.
    """
    if len(name) < 2:
        return name
    lost, i = random.randrange(len(name)), random.randrange(len(name) - 1)
    swapped = name[:i] + name[i + 1] + name[i] + name[i + 2 :]
    return random.choice((name[:lost] + name[lost + 1 :], swapped))


# === MODEL: a linear encoder onto the unit sphere ===
#
# Names that share n-grams point in similar directions from the start: random vectors roughly keep
# the angles between the counts (Johnson & Lindenstrauss 1984). The results show how far that goes
# untrained, and what training adds.


def dot(a, b):
    """a . b of two lists of floats. Of unit vectors it is the cosine of the angle between them."""
    total = 0.0  # a loop, because sum() of floats rounds differently from Python 3.12 on
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def init_model(names):
    """{n-gram: vector [n_embd]} for every n-gram of the names: the columns of the matrix W."""
    seen = dict.fromkeys(run for name in names for run in ngrams(name))  # a set, but in order
    return {run: [random.gauss(0, 0.1) for _ in range(n_embd)] for run in seen}


def project(weights, name):
    """u = W x [n_embd], with x the n-gram counts of the name. Unknown n-grams count for nothing."""
    u = [0.0] * n_embd
    for run, count in ngrams(name).items():
        if run in weights:
            u = [a + count * b for a, b in zip(u, weights[run])]
    return u


def normalize(u):
    """e = u / ||u||, and ||u||. Zeros have no direction and stay zeros: their cosines are all 0."""
    norm = math.sqrt(dot(u, u))
    return [a / (norm or 1.0) for a in u], norm


def embed(weights, name):
    """The unit vector [n_embd] of a name; zeros if none of its n-grams is known."""
    return normalize(project(weights, name))[0]


# === TRAINING: attract the own misspelling, repel those of the other names ===
def softmax(logits):
    """[n] scores -> [n] probabilities."""
    peak = max(logits)
    exps = [math.exp(x - peak) for x in logits]  # at most 1, so no score is too large
    total = math.fsum(exps)
    return [e / total for e in exps]


def info_nce(anchors, positives):
    """Loss of a batch of unit vectors a, p [B][n_embd], and its gradients with respect to both.

    L = -1/B sum_i log softmax_j(a_i . p_j / tau) at j = i (van den Oord et al. 2018, eq. 4): pick
    out the one p that belongs to a_i. With one pair there is no choice: loss and gradients are 0.
    """
    loss, size = 0.0, len(anchors)
    d_anchors = [[0.0] * n_embd for _ in anchors]
    d_positives = [[0.0] * n_embd for _ in positives]
    for i, a in enumerate(anchors):
        probs = softmax([dot(a, p) / temperature for p in positives])
        loss -= math.log(max(probs[i], 1e-10)) / size
        for j, p in enumerate(positives):
            # dL/d(a_i . p_j): below 0 for the own p, so descent draws it near; above 0 for the
            # others, so it pushes them off, the most similar the most.
            slope = (probs[j] - (i == j)) / (size * temperature)
            d_anchors[i] = [g + slope * x for g, x in zip(d_anchors[i], p)]
            d_positives[j] = [g + slope * x for g, x in zip(d_positives[j], a)]
    return loss, d_anchors, d_positives


def normalize_backward(e, norm, d_e):
    """dL/du for e = u / ||u||: (d_e - (d_e . e) e) / ||u||. What goes along e changes no angle."""
    along = dot(d_e, e)
    return [(g - along * x) / (norm or 1.0) for g, x in zip(d_e, e)]


def batch_gradient(weights, anchors, positives):
    """Loss of a batch of names and of their other versions, and {n-gram: dL/d(its vector)}."""
    names = anchors + positives
    units, norms = zip(*(normalize(project(weights, name)) for name in names))
    loss, d_anchors, d_positives = info_nce(units[: len(anchors)], units[len(anchors) :])
    grads = collections.defaultdict(lambda: [0.0] * n_embd)
    for i, d_e in enumerate(d_anchors + d_positives):
        d_u = normalize_backward(units[i], norms[i], d_e)
        for run, count in ngrams(names[i]).items():
            if run in weights:  # u = sum of count * vector, so d(vector) = count * d_u
                grads[run] = [g + count * d for g, d in zip(grads[run], d_u)]
    return loss, grads


def train(weights, names, unseen):
    """Train in place by stochastic gradient descent; yield the loss of each step's batch."""
    for step in range(num_steps):
        pairs = [(name, corrupt(name)) for name in random.sample(names, batch_size)]
        # An error can happen to spell a name that is held out.
        anchors, positives = zip(*(pair for pair in pairs if pair[1] not in unseen))
        loss, grads = batch_gradient(weights, anchors, positives)
        lr = learning_rate * (1 - step / num_steps)
        for run, grad in grads.items():
            weights[run] = [w - lr * g for w, g in zip(weights[run], grad)]
        yield loss


# === INFERENCE: search by angle ===
def nearest(vector, vectors, k, similarity):
    """Indices of the k most similar vectors, best first; of all of them, if k is larger."""
    scores = [similarity(vector, other) for other in vectors]
    return sorted(range(len(vectors)), key=lambda i: -scores[i])[:k]


def recall_at_1(queries, vectors, similarity):
    """Share of the queries i for which vectors[i] is the most similar of all vectors."""
    return mean([nearest(q, vectors, 1, similarity) == [i] for i, q in enumerate(queries)])


def evaluate(weights, names, misspelled):
    """Mean cosine of a name to its misspelling, and to another name; recall from misspellings."""
    vectors, queries = ([embed(weights, name) for name in group] for group in (names, misspelled))
    own = mean([dot(v, q) for v, q in zip(vectors, queries)])
    other = mean([dot(v, w) for v, w in zip(vectors, vectors[1:])])
    return own, other, recall_at_1(queries, vectors, dot)


def count_vector(name, weigh):
    """The rival of the encoder: {n-gram: count * weigh(n-gram)}, scaled to unit length."""
    vector = {run: count * weigh(run) for run, count in ngrams(name).items()}
    norm = math.sqrt(dot(vector.values(), vector.values()))
    return {run: x / (norm or 1.0) for run, x in vector.items()}


def sparse_dot(a, b):
    """a . b of two dicts, in which what is absent is 0."""
    return math.fsum([x * b[run] for run, x in a.items() if run in b])


def edit_distance(a, b):
    """Fewest insertions, deletions and replacements that turn a into b (Wagner & Fischer 1974)."""
    row = list(range(len(b) + 1))  # from the part of a read so far to each beginning of b
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            # The cheapest of: drop x, add y, keep or replace.
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


# === OUTPUT: progress, drawings, results ===
def show_progress(step, num_steps, loss, started):
    """Rewrite one line on a terminal; in a pipe, print the first steps and every tenth of them."""
    spent = time.perf_counter() - started
    left = spent * (num_steps / step - 1)
    line = f"step {step:4d}/{num_steps}  loss {loss:.5f}  {spent:5.1f} s, {left:5.1f} s left"
    if os.isatty(1):  # somebody watches
        print(f"\r{line} ", end="\n" if step == num_steps else "")
    elif step <= 3 or step % max(1, num_steps // 10) == 0:
        print(line)


def mean(values):
    return math.fsum(values) / len(values)  # fsum rounds once, so alike on every Python


def draw_neighbors(names, vectors, pool):
    """Print the cosines of names to one another, then what is nearest to each in the pool.

    `vectors` are those of the pool, which begins with the names.
    """
    for i, name in enumerate(names[1:], 1):
        print(f"{name:>9}", *(f"{dot(vectors[i], vectors[j]):7.2f}" for j in range(i)))
    print(" " * 9, *(f"{name:>7}" for name in names[:-1]), end="\n\n")
    for name, vector in zip(names, vectors):
        found = nearest(vector, vectors, 6, dot)[1:]  # the first is the name itself
        print(f"{name:>9}  {' '.join(pool[j] for j in found)}")


def print_results(rows):
    """Print the results, one a line: name, value, and the bound that the tests hold it to."""
    print("\n=== results ===")
    for name, value, criterion in rows:
        value = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{value:<9}{criterion}".rstrip())


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    unique = list(dict.fromkeys(load_names()))  # some stand in the list twice
    random.shuffle(unique)
    heldout = list(dict.fromkeys(PROBES + unique))[:num_heldout]
    trained = sorted(set(unique) - set(heldout))  # sorted, as sets have no order to rely on
    weights = init_model(trained)
    print(f"{len(trained)} names to train on, {len(heldout)} held out; {len(weights)} n-grams.")
    pool = heldout[len(PROBES) :][:pool_size]
    misspelled = [corrupt(name) for name in pool[:num_queries]]  # some spell another name
    own_before, other_before, recall_before = evaluate(weights, pool, misspelled)
    began = time.perf_counter()
    for step, loss in enumerate(train(weights, trained, set(heldout)), 1):
        show_progress(step, num_steps, loss, began)

    vectors = [embed(weights, name) for name in heldout]
    print(f"\nCosines of names it never saw, and the nearest of {len(heldout)} such names:")
    draw_neighbors(PROBES, vectors, heldout)
    sample = range(150)
    nearest_of = [nearest(vectors[i], vectors, 2, dot)[1] for i in sample]
    near = mean([edit_distance(heldout[i], heldout[nearest_of[i]]) for i in sample])
    far = mean([edit_distance(heldout[i], heldout[-1 - i]) for i in sample])
    own, other, recall = evaluate(weights, pool, misspelled)
    # TF-IDF: an n-gram counts the more, the fewer names have it. That favours what is distinctive,
    # and just as much what only an error brings about. Neither rival was told what errors there
    # are; the encoder was.
    names_with = collections.Counter(run for name in trained for run in ngrams(name))
    recalls = []
    for weigh in (lambda run: 1.0, lambda run: math.log(len(trained) / (1 + names_with[run]))):
        counts, queries = ([count_vector(n, weigh) for n in group] for group in (pool, misspelled))
        recalls.append(recall_at_1(queries, counts, sparse_dot))
    to_anne, to_zachary = (dot(vectors[0], embed(weights, name)) for name in ("anne", "zachary"))
    rows = [
        ("heldout_names", len(heldout), ""),
        ("positive_cosine", own, "> 0.8"),
        ("positive_cosine_untrained", own_before, ""),
        ("random_cosine", other, "< 0.3"),
        ("random_cosine_untrained", other_before, ""),
        ("anna_anne_cosine", to_anne, f"> {to_zachary:.4f}"),
        ("neighbor_edit_distance", near, f"<= {far / 2:.4f}"),  # half of the next
        ("random_edit_distance", far, ""),
        ("recall_at_1", recall, f"> {max(recalls):.4f}"),  # the better of the rivals
        ("recall_at_1_untrained", recall_before, ""),
        ("recall_at_1_counts", recalls[0], ""),
        ("recall_at_1_tfidf", recalls[1], ""),
        ("runtime_seconds", time.perf_counter() - started, "< 300"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
