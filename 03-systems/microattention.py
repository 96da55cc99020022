"""Attention is one formula: its variants differ in what they keep and in how far they look.

The problem: in a GPT, every position of a text takes up information from the positions before it.
For that it needs, from each of them, a key and a value. A program that writes a text keeps the keys
and values of all positions in memory, and reads all of them again for every new token. For long
texts this takes more memory and more time than anything else. So the variants of attention were
invented: they keep less, or look less far, and the question is what that changes.

The idea of attention: a position asks a question, its query. It compares the query with the key of
every position by a dot product. softmax makes weights of these scores, positive and with sum 1. The
result is the weighted average of the values. One such unit is called a head. Several heads can look
for several things at once, each with vectors of its own.

    1. attend: the formula, for one query. vanilla uses it as it is, with a single wide head.
    2. multi_head: several narrow heads, each with its own queries, keys and values (MHA).
    3. grouped_query: a group of heads shares keys and values, and each still has its own queries
       (GQA).
    4. multi_query: all heads share one set of keys and values (MQA).
    5. sliding_window: every head has its own again, but what lies too far back is forgotten.
    6. decode: run a variant over a text, one position at a time, and count what it costs and keeps.
    7. pool: make a model with few keys and values from one with many, by averaging. The output
       stays the same only if the heads were alike. sweep measures how alike they have to be.

MHA is by Vaswani et al. (2017), MQA by Shazeer (2019), GQA by Ainslie et al. (2023), and the window
by Beltagy et al. (2020). Papers write attention as one product of matrices, with a mask that hides
later positions. Here each position is computed when its turn comes, so that later ones do not exist
yet, and the matrix of all scores is never made. Nothing is trained: inputs and weights are random.
Left out are the other parts of a layer, and position embeddings, which all variants would share.
"""

import collections
import functools
import itertools
import math
import os
import random
import time

# === CONSTANTS ===
n_embd = 32  # numbers per position
n_head = 4  # heads, which ask with n_embd / n_head = 8 numbers each
n_kv_head = 2  # sets of keys and values in GQA; Llama 2 70B has 8 of them for 64 heads
n_positions = 40  # length of the text
window = 8  # positions that the sliding window can see; Mistral 7B v0.1 sees 4,096
bytes_per_number = 2  # of the cache, as if its numbers were stored in 16 bits
num_draws = 5  # random inputs and weights to average over in the sweep
shares = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)  # of the sweep: how much heads have in common
close_share = 0.95  # the share at which the results say how close GQA and MQA are
level = 0.95  # the cosine to MHA that counts as "the same output"


# === THE FORMULA: compare a query with the keys, and average the values ===
def dot(a, b):
    """The dot product of two lists of floats. Raises ValueError if their lengths differ."""
    total = 0.0  # in a loop, because the built-in sum() rounds differently from Python 3.12 on
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def softmax(logits):
    """Turn scores [n] into probabilities [n]: exp(score), divided by the sum of all exp(score).

    Subtracting the largest score changes no probability, and exp() then sees no positive number,
    which could overflow.
    """
    largest = max(logits)
    exps = [math.exp(x - largest) for x in logits]
    total = math.fsum(exps)
    return [e / total for e in exps]


def counted_dot(a, b, part, flops):
    """The dot product of a and b. Its operations are added to flops[part].

    FLOPs are floating-point operations: one multiplication and one addition per term. Those of
    softmax() and of the division of scores are not counted.
    """
    flops[part] += 2 * len(a)
    return dot(a, b)


def attend(query, keys, values, flops):
    """softmax(q K^T / sqrt(d)) V for one query (Vaswani et al. 2017, eq. 1).

    query [d], keys and values [t][d] of the t positions that can be seen. Returns [d]. With the
    scores 1.1 and 0, the weights are 0.75 and 0.25, and the result is 0.75 * the first value + 0.25
    * the second.

    Dividing by sqrt(d) keeps the scores of narrow and wide heads alike. Otherwise wide heads would
    have large scores, and softmax would give nearly all weight to one position.
    """
    scores = []
    for key in keys:
        scores.append(counted_dot(query, key, "attention", flops) / math.sqrt(len(query)))
    weights = softmax(scores)
    # zip(*values) yields the first number of every value, then the second of every value, ...
    return [counted_dot(weights, numbers, "attention", flops) for numbers in zip(*values)]


def project(x, matrix, flops):
    """Multiply a matrix [n_out][n_in] with a vector x [n_in]. Return [n_out]."""
    return [counted_dot(row, x, "projections", flops) for row in matrix]


# === THE VARIANTS: the same eight lines, with few changes ===
#
# Each variant computes one new position. x [n_embd] is its input. w holds the matrices: "wq", "wk"
# and "wv" are lists with one matrix [8][n_embd] per head, and "wo" [n_embd][n_embd] mixes what the
# heads found. cache[h] is (keys, values) of all earlier positions, for head or group h. A variant
# appends the new key and value, and returns [n_embd]. grouped_query(), multi_query() and
# sliding_window() are to be read beside multi_head(): CHANGED marks the lines that differ. The
# drawing shows which keys and values kv the queries q of four heads look into:
#
#     MHA    q0 q1 q2 q3       GQA    q0 q1 q2 q3       MQA    q0 q1 q2 q3
#            |  |  |  |               | /   | /                | /  /  /
#            kv kv kv kv              kv    kv                 kv
#
# Queries are never shared. They are used at once and not kept, so sharing them would save nothing.


def vanilla(x, w, cache, flops):
    """One head as wide as the layer. A position makes a single average of all that it can see."""
    keys, values = cache[0]
    keys.append(project(x, w["wk"][0], flops))
    values.append(project(x, w["wv"][0], flops))
    query = project(x, w["wq"][0], flops)
    return project(attend(query, keys, values, flops), w["wo"], flops)


def multi_head(x, w, cache, flops):
    """MHA: several narrow heads, each with its own keys and values, and its own average."""
    found = []
    for h in range(n_head):
        keys, values = cache[h]
        keys.append(project(x, w["wk"][h], flops))
        values.append(project(x, w["wv"][h], flops))
        query = project(x, w["wq"][h], flops)
        found += attend(query, keys, values, flops)
    return project(found, w["wo"], flops)


def grouped_query(x, w, cache, flops):
    """GQA: neighboring heads share keys and values. Heads 0 and 1 use one set, 2 and 3 another."""
    found = []
    num_groups = len(w["wk"])
    for group in range(num_groups):  # CHANGED: keys and values are computed once per group
        keys, values = cache[group]
        keys.append(project(x, w["wk"][group], flops))
        values.append(project(x, w["wv"][group], flops))
    heads_per_group = n_head // num_groups
    for h in range(n_head):
        keys, values = cache[h // heads_per_group]  # CHANGED: those of its group
        query = project(x, w["wq"][h], flops)
        found += attend(query, keys, values, flops)
    return project(found, w["wo"], flops)


def multi_query(x, w, cache, flops):
    """MQA: all heads share one set of keys and values, and differ only in what they ask."""
    found = []
    keys, values = cache[0]  # CHANGED: there is only one set, so no loop over heads
    keys.append(project(x, w["wk"][0], flops))
    values.append(project(x, w["wv"][0], flops))
    for h in range(n_head):
        query = project(x, w["wq"][h], flops)
        found += attend(query, keys, values, flops)
    return project(found, w["wo"], flops)


def sliding_window(x, w, cache, flops, window=window):
    """MHA that sees only the last `window` positions, the new one among them.

    In a model of many layers, what was forgotten can still arrive: each layer hands information on
    by window - 1 positions.
    """
    found = []
    for h in range(n_head):
        keys, values = cache[h]
        keys.append(project(x, w["wk"][h], flops))
        values.append(project(x, w["wv"][h], flops))
        del keys[:-window]  # CHANGED: what lies further back is not kept
        del values[:-window]
        query = project(x, w["wq"][h], flops)
        found += attend(query, keys, values, flops)
    return project(found, w["wo"], flops)


# When to use which: MHA where memory is no concern. GQA is the usual choice for large models that
# serve many users, because it keeps a fraction of the keys and values, and still several sets of
# them. MQA keeps least of these three. A window bounds the memory, however long the text gets, and
# can be combined with each of them: Mistral 7B v0.1 has GQA and a window.


# === WHAT A VARIANT COSTS: counted along a text, and by formula ===
def decode(variant, xs, w):
    """Run a variant over a text of inputs xs [n][n_embd], position by position.

    Returns the outputs [n][n_embd], how many numbers the cache holds after each position, and the
    FLOPs by part.
    """
    cache = [([], []) for _ in range(n_head)]
    flops = collections.Counter()
    outputs = []
    kept = []
    for x in xs:
        outputs.append(variant(x, w, cache, flops))
        count = 0
        for keys, values in cache:
            for vector in keys + values:
                count += len(vector)
        kept.append(count)
    return outputs, kept, flops


def merge_heads(w):
    """The same numbers as the weights of a single head of width n_embd, for vanilla()."""
    merged = dict(w)
    for name in ("wq", "wk", "wv"):
        merged[name] = [[row for head in w[name] for row in head]]
    return merged


def predict_flops(n, num_sets, span):
    """The FLOPs of n positions, by part, with `num_sets` sets of keys and values.

    `span` is how many positions can be seen, the own one included. The attention itself is the same
    for all that see equally far: sharing keys saves memory, but every query is still compared.
    """
    kv_width = num_sets * n_embd // n_head  # numbers in the keys of a position
    num_seen = 0
    for position in range(n):
        num_seen += min(position + 1, span)
    return {
        "projections": 2 * n * n_embd * (n_embd + 2 * kv_width + n_embd),  # query; key, value; wo
        "attention": 2 * num_seen * (n_embd + n_embd),  # scores and averages, of all heads
    }


def predict_kept(n, num_sets, span):
    """The numbers in the cache after n positions: a key and a value of each position in sight.

    This is for one layer. Llama 2 with 7 billion parameters has 32 layers with 32 heads of 128
    numbers. In 16 bits, that is 2 GiB for a text of 4,096 positions.
    """
    return 2 * num_sets * (n_embd // n_head) * min(n, span)


# === FROM MANY KEYS TO FEW: does the output stay the same? ===
#
# A trained model with MHA can be made into one with GQA or MQA by averaging the matrices for keys
# and values in each group (Ainslie et al. 2023, who then train it a little more). That changes
# nothing if the heads of a group are copies of each other. It changes much if they have nothing to
# do with each other. So heads are drawn here with a share that they have in common, from 0 to 1.


def gaussian(rows, columns, std):
    """A matrix [rows][columns] of random numbers with mean 0 and standard deviation std."""
    return [[random.gauss(0, std) for _ in range(columns)] for _ in range(rows)]


def draw_parts():
    """What the weights are mixed from: matrices common to all heads, and matrices of each head.

    A matrix of a head is [n_embd / n_head][n_embd]. The standard deviation gives scores a variance
    of about 1.
    """
    size = n_embd // n_head
    std = n_embd**-0.5
    parts = {"common_k": gaussian(size, n_embd, std), "common_v": gaussian(size, n_embd, std)}
    for name in ("wq", "own_k", "own_v"):
        parts[name] = [gaussian(size, n_embd, std) for _ in range(n_head)]
    parts["wo"] = gaussian(n_embd, n_embd, std)
    return parts


def mix(common, own, share):
    """sqrt(share) * common + sqrt(1 - share) * own, for two matrices.

    The roots keep the variance. Two heads that are mixed like this have an expected cosine of
    `share`: 0 for independent heads, 1 for copies.
    """
    a = math.sqrt(share)
    b = math.sqrt(1 - share)
    mixed = []
    for common_row, own_row in zip(common, own):
        mixed.append([a * x + b * y for x, y in zip(common_row, own_row)])
    return mixed


def make_weights(parts, share):
    """The weights of multi_head(), whose heads have this share of keys and values in common."""
    return {
        "wq": parts["wq"],
        "wk": [mix(parts["common_k"], own, share) for own in parts["own_k"]],
        "wv": [mix(parts["common_v"], own, share) for own in parts["own_v"]],
        "wo": parts["wo"],
    }


def mean_matrix(matrices):
    """The average of several matrices of one shape."""
    total = [[0.0] * len(row) for row in matrices[0]]
    for matrix in matrices:
        for i, row in enumerate(matrix):
            for j, number in enumerate(row):
                total[i][j] += number / len(matrices)
    return total


def pool(w, num_groups):
    """Weights with only `num_groups` matrices for keys and for values: the means of neighbors.

    Raises ValueError if the heads do not make equal groups.
    """
    if n_head % num_groups:
        raise ValueError(f"{n_head} heads do not make {num_groups} equal groups")
    size = n_head // num_groups
    pooled = dict(w)
    for name in ("wk", "wv"):
        groups = [w[name][start : start + size] for start in range(0, n_head, size)]
        pooled[name] = [mean_matrix(group) for group in groups]
    return pooled


def cosine(a, b):
    """The cosine of the angle between two vectors: 1 if they point in the same direction."""
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def mean_cosine(outputs, others):
    """The mean cosine of two outputs, position by position: how alike they are.

    It is no measure of quality. A model that is trained with GQA from the start need not be like
    one with MHA.
    """
    return mean([cosine(a, b) for a, b in zip(outputs, others)])


def head_similarity(heads):
    """The mean cosine of all pairs of heads, each matrix taken as one long vector."""
    vectors = [[number for row in head for number in row] for head in heads]
    return mean([cosine(a, b) for a, b in itertools.combinations(vectors, 2)])


def sweep(draws):
    """For each share, how alike the heads are, and how alike GQA and MQA are to MHA.

    Yields (similarity of the heads, cosines of GQA, cosines of MQA), with one cosine per draw.

    Where trained models are on this scale cannot be read off their matrices. If the queries and the
    keys of a head are rotated together, all its scores stay the same, but its cosine to the other
    heads changes, and with it what the average is worth.
    """
    for share in shares:
        similarities = []
        gqa = []
        mqa = []
        for xs, parts in draws:
            w = make_weights(parts, share)
            similarities += [head_similarity(w["wk"]), head_similarity(w["wv"])]
            mha_outputs, _, _ = decode(multi_head, xs, w)
            gqa_outputs, _, _ = decode(grouped_query, xs, pool(w, n_kv_head))
            mqa_outputs, _, _ = decode(multi_query, xs, pool(w, 1))
            gqa.append(mean_cosine(gqa_outputs, mha_outputs))
            mqa.append(mean_cosine(mqa_outputs, mha_outputs))
        yield mean(similarities), gqa, mqa


def crossing(similarities, cosines):
    """The similarity at which the cosine first reaches `level`, on straight lines between points.

    Raises ValueError if it never does.
    """
    for i in range(1, len(cosines)):
        if cosines[i - 1] < level <= cosines[i]:
            way = (level - cosines[i - 1]) / (cosines[i] - cosines[i - 1])
            return similarities[i - 1] + way * (similarities[i] - similarities[i - 1])
    raise ValueError(f"the cosine never reaches {level}")


def count_not_finite(xs, w):
    """How many outputs are not finite numbers, for inputs and for inputs a hundred times as large.

    Large inputs make scores of ten thousands, at which exp() overflows if softmax() does not
    subtract the largest score.
    """
    large = [[100 * number for number in x] for x in xs]
    count = 0
    for inputs in (xs, large):
        for variant, weights in (
            (vanilla, merge_heads(w)),
            (multi_head, w),
            (grouped_query, pool(w, n_kv_head)),
            (multi_query, pool(w, 1)),
            (sliding_window, w),
        ):
            outputs, _, _ = decode(variant, inputs, weights)
            count += sum(not math.isfinite(y) for output in outputs for y in output)
    return count


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    show_example()

    # What does each variant compute, keep and cost? The heads are independent here.
    draws = [(gaussian(n_positions, n_embd, 1.0), draw_parts()) for _ in range(num_draws)]
    xs, parts = draws[0]
    w = make_weights(parts, 0.0)
    runs = {
        "vanilla": decode(vanilla, xs, merge_heads(w)),
        "MHA": decode(multi_head, xs, w),
        "GQA": decode(grouped_query, xs, pool(w, n_kv_head)),
        "MQA": decode(multi_query, xs, pool(w, 1)),
        "window": decode(sliding_window, xs, w),
    }
    show_costs(runs)
    kept = {name: numbers for name, (_, numbers, _) in runs.items()}
    draw_memory({"H": kept["MHA"], "G": kept["GQA"], "M": kept["MQA"], "w": kept["window"]})

    # How alike do heads have to be, so that fewer keys and values give the same output?
    table = list(sweep(draws))
    draw_sweep(table)
    similarities = [similarity for similarity, _, _ in table]
    gqa = [mean(cosines) for _, cosines, _ in table]
    mqa = [mean(cosines) for _, _, cosines in table]
    close = shares.index(close_share)

    print_results(
        [
            ("gqa_kv_ratio", kept["MHA"][-1] / kept["GQA"][-1], "== 2"),
            ("mqa_kv_ratio", kept["MHA"][-1] / kept["MQA"][-1], "== 4"),
            ("window_kv_ratio", kept["MHA"][-1] / kept["window"][-1], "== 5"),
            ("nan_count", count_not_finite(xs, w), "== 0"),
            ("gqa_cosine_independent", gqa[0], "< 0.95"),
            ("mqa_cosine_independent", mqa[0], "< 0.95"),
            ("gqa_cosine", gqa[close], "> 0.95"),
            ("mqa_cosine", mqa[close], "> 0.95"),
            ("gqa_crossing", crossing(similarities, gqa), "0.8 to 0.95"),
            ("mqa_crossing", crossing(similarities, mqa), "0.8 to 0.95"),
            ("runtime_seconds", time.perf_counter() - started, "< 60"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_example():
    """Print attention of the last of four positions, in one head with two numbers."""
    keys = [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]
    values = [[10.0, 0.0], [0.0, 10.0], [20.0, 0.0], [10.0, 10.0]]
    query = [1.0, -1.0]
    scores = [dot(query, key) / math.sqrt(2) for key in keys]
    weights = softmax(scores)
    result = attend(query, keys, values, collections.Counter())
    print("One head at the last of four positions, whose query is 1 -1:")
    print("position     key   query . key   / sqrt(2)   weight      value")
    for i, key in enumerate(keys):
        print(
            f"{i + 1:8d}{key[0]:5.0f}{key[1]:3.0f}{dot(query, key):13.1f}{scores[i]:12.3f}"
            f"{weights[i]:9.3f}{values[i][0]:8.0f}{values[i][1]:3.0f}"
        )
    print(f"The weighted average of the values is {result[0]:.3f} {result[1]:.3f}.")


def show_costs(runs):
    """Print what each variant costs for a whole text, and how like MHA its output is."""
    print(f"\nA text of {n_positions} positions, in one layer with {n_head} independent heads:")
    print("         FLOPs of      FLOPs of    numbers in  bytes of     cosine of the")
    print("         projections   attention   the cache   the cache    output to MHA")
    mha_outputs, _, _ = runs["MHA"]
    for name, (outputs, kept, flops) in runs.items():
        print(
            f"{name:8}{flops['projections']:12d}{flops['attention']:12d}{kept[-1]:14d}"
            f"{kept[-1] * bytes_per_number:12d}{mean_cosine(outputs, mha_outputs):17.3f}"
        )


def draw_memory(curves, height=10):
    """Print {mark: numbers kept after each position}. Where curves meet, the last mark is shown."""
    print("\nNumbers in the cache, by position (H is MHA, G GQA, M MQA, w the window):")
    top = max(max(kept) for kept in curves.values())
    for row in range(height, 0, -1):
        line = ""
        for position in range(len(next(iter(curves.values())))):
            mark = " "
            for letter, kept in curves.items():
                if math.ceil(kept[position] / top * height) == row:
                    mark = letter
            line += mark
        print(f"{top * row // height:6d} |{line}".rstrip())


def draw_sweep(table, width=40):
    """Print a row for each share: the cosines, and a line from 0 to 1 on which G and M stand."""
    print("\nHow close the averaged GQA (G) and MQA (M) come to MHA, as the heads get more alike:")
    print(f"(cosines, least and greatest of {num_draws} draws in brackets; | is {level})")
    print(f"similarity   GQA                     MQA                     0{' ' * (width - 1)}1")
    for similarity, gqa, mqa in table:
        line = [" "] * (width + 1)
        line[round(level * width)] = "|"
        line[round(mean(gqa) * width)] = "G"
        line[round(mean(mqa) * width)] = "M"
        cells = ""
        for cosines in (gqa, mqa):
            cells += f"{mean(cosines):.3f} ({min(cosines):.3f}, {max(cosines):.3f})    "
        print(f"{similarity:10.3f}   {cells}{''.join(line)}".rstrip())


# === REPEATED from microgpt.py, word for word ===
def mean(values):
    """The average of some numbers. fsum() rounds only once, so every Python gives the same."""
    return math.fsum(values) / len(values)


def print_results(rows):
    """Print the results: one per line, with its name, its value, and the bound it has to meet."""
    print("\n=== results ===")
    for name, value, bound in rows:
        text = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{text:<9}{bound}".rstrip())


print = functools.partial(print, flush=True)  # print each line at once, also into a pipe


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the reader of the pipe has gone, as in `python script.py | head`
