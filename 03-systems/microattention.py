"""Attention is one formula: its variants apply it in several heads, keep less, or look less far.

The problem: to guess how a text goes on, a GPT uses what stands earlier in it. Which of the earlier
positions matter is different at every position. So something about each of them stays in memory,
and is read again for every new position. A longer text takes more memory. It also takes more time,
because every new position reads and computes with more. Reading takes most of this time, because a
GPU computes faster than it reads. Some variants of attention keep and read less. The question is
what that changes.

The idea of attention: matrices make three vectors from the input of a position. Its query is what
it looks for. Its key is what it can be found by. Its value is what it hands over. A position
compares its query with the keys of all positions up to and including its own. A score is the dot
product of a query and a key of d numbers, divided by sqrt(d) (attend says why). softmax turns the
scores into weights, none negative and with sum 1. Attention returns the average of the values with
these weights. One unit that does this is called a head.

The key and the value of a position do not depend on what comes later. So they are computed once and
kept, in the cache. A query is needed at its own position only, and is not kept.

    1. attend: the formula, for one query. vanilla has a single head, so a position has one list of
       weights and one average. The head is wide: its vectors have as many numbers as the input.
    2. multi_head: several narrow heads, each with its own queries, keys and values (MHA). Each head
       has its own weights and makes its own average, so a position can look for several things.
    3. grouped_query: the heads of a group share keys and values. Each has its own queries (GQA).
    4. multi_query: all heads share one set of keys and values. Each has its own queries (MQA).
    5. sliding_window: as multi_head, but keys and values that lie too far back are forgotten.
    6. decode: run a variant over a text, one position at a time, and count what it computes, keeps
       and reads. predict works out the same counts without running it.
    7. pool: make GQA or MQA from MHA, by averaging matrices of several heads. sweep measures how
       alike the matrices of random heads have to be, so that the output stays close to MHA's.

MHA is by Vaswani et al. (2017), MQA by Shazeer (2019), GQA by Ainslie et al. (2023). The window is
that of Beltagy et al. (2020), but sees only backwards. Papers write attention for all positions at
once, as products of matrices, with a mask. attention_by_matrices does so, as a check. The variants
compute each position when its turn comes. The keys and values of later positions are not in the
cache yet, so no mask is needed, and the matrix of all scores is never made. Nothing is trained:
inputs and matrices are random. Left out are the other parts of a GPT, and position embeddings.
Without those, attention cannot see an order: if what a query sees is shuffled, its average stays.
"""

import collections
import functools
import math
import os
import random
import time

# === CONSTANTS ===
n_embd = 32  # numbers in the input of a position, and in the output
n_head = 4  # heads, except in vanilla, which has one
head_size = n_embd // n_head  # numbers in a query, a key or a value of one of these heads
n_kv_head = 2  # sets of keys and values in GQA; Llama 2 70B has 8 of them for 64 heads
n_positions = 40  # length of the text
window = 8  # positions that the sliding window can see; Mistral 7B v0.1 sees 4,096
num_draws = 5  # random inputs and matrices over which comparisons of outputs are averaged
similarities = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)  # of two heads, see mix()
near_copies = 0.95  # the first similarity at which GQA and MQA come as close as a cosine of 0.95


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

    FLOPs are floating-point operations: here one multiplication and one addition per term. Those
    of softmax() and of the division of scores are not counted.
    """
    flops[part] += 2 * len(a)
    return dot(a, b)


def attend(query, keys, values, flops):
    """softmax(q K^T / sqrt(d)) V for one query (Vaswani et al. 2017, eq. 1).

    query [d], keys and values [t][d] of the t positions that can be seen. Returns [d]. In the
    formula, q is the query, the rows of K are the keys, and the rows of V are the values. The keys
    are the columns of K^T, so q K^T is a list with the dot product of q and each key. Multiplying
    the weights with V means to average the values. If two positions have the scores 1.1 and 0, then
    the weights are 0.75 and 0.25, and the result is 0.75 * values[0] + 0.25 * values[1].

    Why divide by sqrt(d)? Suppose that all numbers are independent, with mean 0 and variance 1.
    Then a product of two of them has the variance 1 * 1 = 1. A dot product adds d products, and
    their variances add up to d. So its typical size is sqrt(d), which is 5.7 for d = 32. After the
    division it is 1 for every d. Large scores would give most of the weight to one position. The
    largest weight of a position is 0.2 on average, in the wide head and in narrow ones. Without the
    division it is 0.75 in the wide head, with d = 32, and 0.52 in narrow ones, with d = 8. (This
    was measured outside this run, at positions 9 to 40.)
    """
    d = len(query)
    scores = []
    for key in keys:
        scores.append(counted_dot(query, key, "attention", flops) / math.sqrt(d))
    weights = softmax(scores)
    result = [0.0] * d
    for weight, value in zip(weights, values):
        for i in range(d):
            result[i] += weight * value[i]
        flops["attention"] += 2 * d  # d multiplications and d additions
    return result


def project(x, matrix, flops):
    """Multiply a matrix [n_out][n_in] with a vector x [n_in]. Return [n_out]."""
    return [counted_dot(row, x, "projections", flops) for row in matrix]


# === THE VARIANTS: the formula once, then in heads, then with less to keep ===
#
# Each function computes the output [n_embd] of one new position from its input x [n_embd], and
# appends its keys and values to the cache.
#
#     w["wq"]   one matrix per head, which makes its query
#     w["wk"]   one matrix per set of keys, which makes the key of a position in this set
#     w["wv"]   one matrix per set of values, as many as in wk
#     w["wo"]   one matrix [n_embd][n_embd], which mixes what the heads found into one output
#     cache     one pair (keys, values) per set, made by decode(): two lists, a vector per position
#
# vanilla() has one head, one set, and matrices [n_embd][n_embd] in wq, wk and wv. The others have
# n_head heads and matrices [head_size][n_embd]. MHA and the window have one set per head, GQA one
# per group, MQA one for all. Only the window does not see all earlier positions.
#
# Read multi_head() beside vanilla(), and each of the other three beside multi_head(). A line is
# marked CHANGED if the function beside it has no such line (the index, [0], [h] or [group], does
# not count), or if it begins a loop, from which lines were moved to the front.
# The drawing shows into which sets of keys and values (kv) the queries (q) of four heads look:
#
#     MHA    q0 q1 q2 q3       GQA    q0 q1 q2 q3       MQA    q0 q1 q2 q3
#            |  |  |  |               |__|  |__|               |__|__|__|
#            kv kv kv kv              kv    kv                 kv
#
# Queries are not shared. They are not in the cache, so sharing them would make it no smaller. And
# heads with the same keys, values and queries would all make the same average.


def vanilla(x, w, cache, flops):
    """One head as wide as the layer, and so one average per position."""
    keys, values = cache[0]  # the lists of the cache itself: append() changes the cache
    keys.append(project(x, w["wk"][0], flops))
    values.append(project(x, w["wv"][0], flops))
    query = project(x, w["wq"][0], flops)
    found = attend(query, keys, values, flops)
    return project(found, w["wo"], flops)


def multi_head(x, w, cache, flops):
    """MHA: several narrow heads, each with its own keys, values and average.

    One head has one list of weights. If two positions matter for different reasons, with the values
    u and v, it can only return a mixture of them, such as 0.5 u + 0.5 v. Two heads can return what
    they take from u and what they take from v side by side.
    """
    found = []  # CHANGED: what all heads find, one after the other, n_embd numbers in the end
    for h in range(n_head):  # CHANGED: the formula once per head
        keys, values = cache[h]
        keys.append(project(x, w["wk"][h], flops))
        values.append(project(x, w["wv"][h], flops))
        query = project(x, w["wq"][h], flops)
        found.extend(attend(query, keys, values, flops))  # CHANGED: the part of this head
    return project(found, w["wo"], flops)


def grouped_query(x, w, cache, flops, num_groups=n_kv_head):
    """GQA: neighboring heads share keys and values. Heads 0 and 1 use one set, 2 and 3 another.

    w and the cache have `num_groups` sets of keys and values.
    """
    found = []
    heads_per_group = n_head // num_groups  # CHANGED
    for group in range(num_groups):  # CHANGED: keys and values are computed once per group
        keys, values = cache[group]
        keys.append(project(x, w["wk"][group], flops))
        values.append(project(x, w["wv"][group], flops))
        first_head = group * heads_per_group  # CHANGED: with 2 per group, group 1 begins at head 2
        for h in range(first_head, first_head + heads_per_group):  # CHANGED: heads of the group
            query = project(x, w["wq"][h], flops)
            found.extend(attend(query, keys, values, flops))
    return project(found, w["wo"], flops)


def multi_query(x, w, cache, flops):
    """MQA: all heads share one set of keys and values, and differ only in what they ask."""
    found = []
    keys, values = cache[0]
    keys.append(project(x, w["wk"][0], flops))
    values.append(project(x, w["wv"][0], flops))
    for h in range(n_head):  # CHANGED: begins here, so keys and values are computed only once
        query = project(x, w["wq"][h], flops)
        found.extend(attend(query, keys, values, flops))
    return project(found, w["wo"], flops)


def sliding_window(x, w, cache, flops, span=window):
    """MHA that sees only the last `span` positions, the new one among them.

    If a model has several layers of attention, a forgotten position can still have an effect. With
    a window of 8, position 8 sees positions 1 to 8, and its output depends on all of them. The next
    layer gets this output as its input. There, position 15 sees 8 to 15, and so, indirectly, 1.
    """
    found = []
    for h in range(n_head):
        keys, values = cache[h]
        keys.append(project(x, w["wk"][h], flops))
        values.append(project(x, w["wv"][h], flops))
        if len(keys) > span:  # CHANGED: the oldest position is now too far back
            del keys[0]  # CHANGED
            del values[0]  # CHANGED
        query = project(x, w["wq"][h], flops)
        found.extend(attend(query, keys, values, flops))
    return project(found, w["wo"], flops)


# These variants are one family. GQA with one group per head is MHA, and GQA with a single group is
# MQA. A window as long as the text is MHA. The run checks that these outputs are equal to the last
# digit.
#
# When to use which: MHA where memory is no concern. GQA is usual in large models that serve many
# users, because it keeps a fraction of the keys and values, and still several sets of them. MQA
# keeps the least of these three. A window bounds the memory, however long the text gets, and can be
# combined with each of them: Mistral 7B v0.1 has GQA and a window. How well models learn with each
# variant is another question, which only training can answer.


# === WHAT A VARIANT COSTS: counted along a text, and predicted ===
Run = collections.namedtuple("Run", "outputs cache_sizes costs")


def decode(variant, xs, w):
    """Run a variant over a text of inputs xs [n][n_embd], position by position.

    Returns a Run: the outputs [n][n_embd], the cache_sizes [n], which are the numbers in the cache
    after each position, and the costs of the whole text as a dict:
      "projections", "attention"  FLOPs of project() and of attend()
      "kept"                      the last of cache_sizes
      "read"                      the sum of cache_sizes
    "read" assumes that a position reads all of the cache once. The loops above do not: each head
    reads a set that it shares with others for itself. A GPU can read it once and use it for all of
    them, and this is what GQA and MQA gain. The matrices are read too. They
    are left out, because texts that are computed together share the matrices, but not the cache.
    In this toy they are the larger part: 40 positions read 4 matrices of 32 * 32 numbers in MHA,
    which makes 163,840 numbers, and 52,480 numbers from the cache.
    """
    cache = []
    for _ in w["wk"]:
        cache.append(([], []))
    flops = collections.Counter()
    outputs = []
    cache_sizes = []
    for x in xs:
        outputs.append(variant(x, w, cache, flops))
        count = 0
        for keys, values in cache:
            for vector in keys + values:
                count += len(vector)
        cache_sizes.append(count)
    costs = dict(flops, kept=cache_sizes[-1], read=sum(cache_sizes))
    return Run(outputs, cache_sizes, costs)


def merge_heads(w):
    """Stack the matrices of all heads into one, for the single wide head of vanilla().

    The query of vanilla() is then the queries of all heads, one after the other, and likewise its
    key and its value. What differs from MHA are the weights. The dot product of a wide query and
    key is the sum of those of all heads, so all heads together have one score, and one weight.
    """
    merged = dict(w)
    for name in ("wq", "wk", "wv"):
        rows = []
        for matrix in w[name]:
            rows.extend(matrix)
        merged[name] = [rows]
    return merged


def decode_all(xs, w):
    """Run every variant over the same text. w are the matrices of MHA. Returns {name: Run}."""
    return {
        "vanilla": decode(vanilla, xs, merge_heads(w)),
        "MHA": decode(multi_head, xs, w),
        "GQA": decode(grouped_query, xs, pool(w, n_kv_head)),
        "MQA": decode(multi_query, xs, pool(w, 1)),
        "window": decode(sliding_window, xs, w),
    }


def predict(n, kv_width, span):
    """The costs of n positions as decode() counts them, worked out without running it.

    `kv_width` is how many numbers the keys of one position have, all sets together. `span` is how
    many positions a position can see, itself among them.

    The FLOPs of attention do not depend on kv_width, because each head compares its query with the
    keys of all positions that it sees, shared or not. The numbers kept and read do depend on it.
    Llama 2 7B has MHA in 32 layers, with 32 heads of 128 numbers, and so 32 * 32 * 128 = 2**17
    numbers in the keys of a position. With as many in its values, 4,096 = 2**12 positions and
    2 bytes per number, this takes 2**17 * 2 * 2**12 * 2 = 2**31 bytes, which is 2 GiB.
    """
    num_seen = 0  # pairs of a position and a position that it sees
    for position in range(n):
        num_seen += min(position + 1, span)
    # Numbers in the matrices wq, wo, wk and wv. Each is used once per position.
    matrix_numbers = n_embd * n_embd + n_embd * n_embd + kv_width * n_embd + kv_width * n_embd
    # For each pair, every head computes a score, which takes head_size products, and adds a value
    # to its average, which takes as many. All heads have n_embd numbers together, as vanilla has.
    attention_products = num_seen * (n_embd + n_embd)
    kept_per_position = kv_width + kv_width  # a key and a value in each set
    flops_per_product = 2  # one to multiply, one to add
    return {
        "projections": flops_per_product * n * matrix_numbers,
        "attention": flops_per_product * attention_products,
        "kept": kept_per_position * min(n, span),
        "read": kept_per_position * num_seen,
    }


def count_mismatches(runs):
    """How many of the counted costs differ from those of predict()."""
    n = n_positions
    predicted = {
        "vanilla": predict(n, n_embd, n),
        "MHA": predict(n, n_embd, n),
        "GQA": predict(n, n_kv_head * head_size, n),
        "MQA": predict(n, head_size, n),
        "window": predict(n, n_embd, window),
    }
    count = 0
    for name, run in runs.items():
        for cost, number in predicted[name].items():
            if run.costs[cost] != number:
                count += 1
    return count


# === FROM MANY KEYS TO FEW: does the output stay the same? ===
#
# A trained model with MHA can be made into one with GQA or MQA, by averaging the matrices for keys
# and those for values in each group (Ainslie et al. 2023, who then train it a little more). If the
# heads of a group have the same keys and values, this changes nothing. If their keys and values
# have nothing to do with each other, it changes much. So the matrices for keys and values are drawn
# here with a given similarity, from 0 to 1. Those for queries are always independent.


def gaussian(rows, columns, std):
    """A matrix [rows][columns] of random numbers with mean 0 and standard deviation std."""
    return [[random.gauss(0, std) for _ in range(columns)] for _ in range(rows)]


def draw_parts():
    """What the matrices are mixed from: one common to all heads, and one of each head's own.

    A matrix of a head is [head_size][n_embd]. With the standard deviation 1 / sqrt(n_embd), the
    numbers in queries, keys and values have a variance of about 1, and so do the divided scores.
    """
    std = n_embd**-0.5
    parts = {
        "common_k": gaussian(head_size, n_embd, std),
        "common_v": gaussian(head_size, n_embd, std),
    }
    for name in ("wq", "own_k", "own_v"):
        parts[name] = [gaussian(head_size, n_embd, std) for _ in range(n_head)]
    parts["wo"] = gaussian(n_embd, n_embd, std)
    return parts


def mix(common, own, similarity):
    """sqrt(s) * common + sqrt(1 - s) * own, for two matrices. s is the similarity.

    All numbers of `common` and `own` are independent, with mean 0 and the same variance v. A factor
    changes a variance by its square, and variances add up. So the mixture has the variance
    s * v + (1 - s) * v = v again. Take the matrices of two heads as vectors of N numbers. Their
    lengths are about sqrt(N v). Their dot product has a term of `common`, which is in both with the
    factor sqrt(s), so that it adds up to about N * sqrt(s) * sqrt(s) * v. The other terms average
    out. So the cosine, the dot product divided by both lengths, is about N s v / (N v) = s.
    In this run, cosines of two heads are -0.14 to 0.11 for s = 0, and 0.87 to 0.93 for s = 0.9.
    """
    a = math.sqrt(similarity)
    b = math.sqrt(1 - similarity)
    mixed = []
    for common_row, own_row in zip(common, own):
        mixed.append([a * x + b * y for x, y in zip(common_row, own_row)])
    return mixed


def mix_heads(parts, similarity):
    """The matrices w of multi_head(), with this similarity between the keys and values of heads."""
    return {
        "wq": parts["wq"],
        "wk": [mix(parts["common_k"], own, similarity) for own in parts["own_k"]],
        "wv": [mix(parts["common_v"], own, similarity) for own in parts["own_v"]],
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
    """Matrices with only `num_groups` sets of keys and values: the means of neighboring heads.

    The mean of unlike heads is smaller than the heads, because numbers of unlike sign cancel: the
    mean of g independent matrices has 1/g of their variance. Smaller keys make smaller scores, and
    so more even weights. Smaller values make shorter outputs. If only the keys are averaged for
    MQA, its outputs have 0.76 of the length of MHA's. If only the values are, it is 0.49. (This was
    measured outside this run, for independent heads.)

    Raises ValueError if the heads do not make equal groups.
    """
    if n_head % num_groups:
        raise ValueError(f"{n_head} heads do not make {num_groups} equal groups")
    size = n_head // num_groups
    pooled = dict(w)
    for name in ("wk", "wv"):
        pooled[name] = []
        for first in range(0, n_head, size):
            pooled[name].append(mean_matrix(w[name][first : first + size]))
    return pooled


# === HOW CLOSE: the outputs of a variant beside those of MHA ===
Comparison = collections.namedtuple("Comparison", "cosine length difference")


def compare(outputs, mha_outputs):
    """How close outputs [n][n_embd] are to those of MHA: three means over the positions.

    cosine      of the angle between the two vectors. It is 1 if they point in the same direction,
                and leaves out how long they are.
    length      of the output, divided by the length of MHA's.
    difference  the length of the vector output - MHA's output, divided by the length of MHA's
                output. It is 0 only if both are equal.
    """
    cosines = []
    lengths = []
    differences = []
    for output, mha_output in zip(outputs, mha_outputs):
        length = math.sqrt(dot(output, output))
        mha_length = math.sqrt(dot(mha_output, mha_output))
        gap = [a - b for a, b in zip(output, mha_output)]
        cosines.append(dot(output, mha_output) / (length * mha_length))
        lengths.append(length / mha_length)
        differences.append(math.sqrt(dot(gap, gap)) / mha_length)
    return Comparison(mean(cosines), mean(lengths), mean(differences))


def mean_field(comparisons, field):
    """The mean of one field, such as "cosine", of several Comparisons."""
    return mean([getattr(comparison, field) for comparison in comparisons])


def compare_independent(draws):
    """Compare every variant with MHA, for independent heads: {name: [a Comparison per draw]}."""
    comparisons = collections.defaultdict(list)
    for xs, parts in draws:
        runs = decode_all(xs, mix_heads(parts, 0.0))
        for name, run in runs.items():
            comparisons[name].append(compare(run.outputs, runs["MHA"].outputs))
    return comparisons


def sweep(draws):
    """Compare GQA and MQA with MHA, for each similarity.

    Returns two dicts {similarity: [a Comparison per draw]}, for GQA and for MQA.

    The similarity that is needed depends on what is called close, on the draw, and on the length of
    the text. Averaging also assumes that row i of a matrix means the same in two heads, as mix()
    makes it. In a trained head, the rows of wk could have any order that the rows of wq have too,
    and those of wv any order of the columns of wo. So trained heads need not agree on one, and this
    sweep says nothing about them.
    """
    gqa = {}
    mqa = {}
    for similarity in similarities:
        gqa[similarity] = []
        mqa[similarity] = []
        for xs, parts in draws:
            w = mix_heads(parts, similarity)
            mha_outputs = decode(multi_head, xs, w).outputs
            gqa_outputs = decode(grouped_query, xs, pool(w, n_kv_head)).outputs
            mqa_outputs = decode(multi_query, xs, pool(w, 1)).outputs
            gqa[similarity].append(compare(gqa_outputs, mha_outputs))
            mqa[similarity].append(compare(mqa_outputs, mha_outputs))
    return gqa, mqa


def times_transposed(a, b):
    """The matrix product a b^T of a [n][m] and b [p][m]: each row of a times each of b. [n][p]."""
    product = []
    for row in a:
        product.append([math.fsum(x * y for x, y in zip(row, other)) for other in b])
    return product


def attention_by_matrices(xs, w, span):
    """Attention as papers write it: softmax(Q K^T / sqrt(d) + mask) V per head, all at once.

    w are the matrices of vanilla or of MHA. A position sees the last `span` ones. This function
    calls neither dot() nor softmax(), so it does not share a mistake of theirs. Its softmax does
    not subtract the largest score. It need not, because the scores of this run are small.
    """
    n = len(xs)
    # The mask adds 0 to the score of position j at position i if i sees j, and else -inf.
    mask = [[0.0 if i - span < j <= i else -math.inf for j in range(n)] for i in range(n)]
    found = [[] for _ in xs]
    for wq, wk, wv in zip(w["wq"], w["wk"], w["wv"]):
        q = times_transposed(xs, wq)  # [n][d], a row per position
        k = times_transposed(xs, wk)  # [n][d]
        v_transposed = times_transposed(wv, xs)  # V^T [d][n]
        products = times_transposed(q, k)  # Q K^T [n][n], a row per query
        weights = []  # [n][n]
        for row, mask_row in zip(products, mask):
            scores = [product / math.sqrt(len(wq)) + m for product, m in zip(row, mask_row)]
            exps = [math.exp(score) for score in scores]  # exp(-inf) is 0
            total = math.fsum(exps)
            weights.append([e / total for e in exps])
        averages = times_transposed(weights, v_transposed)  # weights V [n][d]
        for i in range(n):
            found[i].extend(averages[i])
    return times_transposed(found, w["wo"])


def difference_from_matrices(runs, xs, w):
    """The largest difference between three variants and their matrix forms, as in compare()."""
    n = len(xs)
    expected = {
        "vanilla": attention_by_matrices(xs, merge_heads(w), n),
        "MHA": attention_by_matrices(xs, w, n),
        "window": attention_by_matrices(xs, w, window),
    }
    return max(compare(runs[name].outputs, expected[name]).difference for name in expected)


def count_not_finite(xs, w):
    """How many outputs are NaN or infinite, for inputs and for inputs a hundred times as large.

    The large inputs make scores of up to tens of thousands. math.exp() raises OverflowError above
    709, which would end the run. It does not happen, because softmax() subtracts the largest score.
    """
    large = [[100 * number for number in x] for x in xs]
    count = 0
    for inputs in (xs, large):
        for run in decode_all(inputs, w).values():
            for output in run.outputs:
                for number in output:
                    if not math.isfinite(number):
                        count += 1
    return count


def count_unequal(xs, w):
    """How many of three special cases are not equal, to the last digit, to what they should be."""
    mha = decode(multi_head, xs, w).outputs
    mqa = decode(multi_query, xs, pool(w, 1)).outputs
    group_per_head = functools.partial(grouped_query, num_groups=n_head)
    single_group = functools.partial(grouped_query, num_groups=1)
    whole_text = functools.partial(sliding_window, span=len(xs))
    count = 0
    if decode(group_per_head, xs, w).outputs != mha:
        count += 1
    if decode(single_group, xs, pool(w, 1)).outputs != mqa:
        count += 1
    if decode(whole_text, xs, w).outputs != mha:
        count += 1
    return count


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    show_example()

    # What does each variant compute, keep and read? All inputs and matrices give the same costs.
    draws = [(gaussian(n_positions, n_embd, 1.0), draw_parts()) for _ in range(num_draws)]
    xs, parts = draws[0]
    w = mix_heads(parts, 0.0)
    runs = decode_all(xs, w)
    show_costs(runs)
    draw_memory(runs)

    # How close are the outputs of independent heads to those of MHA?
    show_independent(compare_independent(draws))

    # How similar do heads have to be, so that fewer keys and values give a close output?
    gqa, mqa = sweep(draws)
    show_sweep(gqa, mqa)

    # Is this the formula of the papers? All positions are computed at once, and compared. GQA and
    # MQA are compared with MHA and with each other, see count_unequal().
    by_matrices = difference_from_matrices(runs, xs, w)
    mha_kept = runs["MHA"].costs["kept"]
    print_results(
        [
            ("gqa_kv_ratio", mha_kept / runs["GQA"].costs["kept"], "== 2"),
            ("mqa_kv_ratio", mha_kept / runs["MQA"].costs["kept"], "== 4"),
            # n_positions / window
            ("window_kv_ratio", mha_kept / runs["window"].costs["kept"], "== 5"),
            ("matrix_form_difference", f"{by_matrices:.1e}", "< 1e-12"),
            ("formula_mismatches", count_mismatches(runs), "== 0"),
            ("special_cases_unequal", count_unequal(xs, w), "== 0"),
            ("nan_count", count_not_finite(xs, w), "== 0"),
            ("gqa_cosine_independent", mean_field(gqa[0.0], "cosine"), "< 0.95"),
            ("mqa_cosine_independent", mean_field(mqa[0.0], "cosine"), "< 0.95"),
            ("gqa_cosine", mean_field(gqa[near_copies], "cosine"), "> 0.95"),
            ("mqa_cosine", mean_field(mqa[near_copies], "cosine"), "> 0.95"),
            ("runtime_seconds", time.perf_counter() - started, "< 60"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_example():
    """Print attention of the last of four positions, in one head with two numbers."""
    keys = [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]
    values = [[8.0, 1.0], [2.0, 9.0], [4.0, 6.0], [0.0, 3.0]]
    query = [1.0, -1.0]
    scores = [dot(query, key) / math.sqrt(2) for key in keys]
    weights = softmax(scores)
    result = attend(query, keys, values, collections.Counter())
    print("One head with d = 2, at the last of four positions, whose query is 1 -1:")
    print("position     key   query . key   score (/ sqrt 2)   weight   value")
    for i, key in enumerate(keys):
        print(
            f"{i + 1:8d}{key[0]:5.0f}{key[1]:3.0f}{dot(query, key):13.0f}{scores[i]:19.3f}"
            f"{weights[i]:9.3f}{values[i][0]:5.0f}{values[i][1]:3.0f}"
        )
    print(f"The weighted average of the values is {result[0]:.3f} {result[1]:.3f}.")


def show_costs(runs):
    """Print what each variant computes, keeps and reads for a whole text."""
    print(f"\nA text of {n_positions} positions, in one layer with {n_head} heads:")
    print("         FLOPs of      FLOPs of    numbers in      numbers read    FLOPs of attention")
    print("         projections   attention   cache, at end   from cache      per number read")
    for name, run in runs.items():
        costs = run.costs
        print(
            f"{name:8}{costs['projections']:12d}{costs['attention']:12d}{costs['kept']:16d}"
            f"{costs['read']:15d}{costs['attention'] / costs['read']:22.0f}"
        )
    print("Not counted is softmax. Keys and values that heads share are read once for all of them.")
    print(f"MHA costs as much as vanilla: each of its {n_head} heads is 1/{n_head} as wide.")
    print("GQA and MQA make fewer keys and values, so they project less. Their attention computes")
    print("as much as MHA's and reads less. So a processor that computes faster than it reads")
    print("would wait less for the cache. The window's attention computes less and reads less, by")
    print("the same factor.")


def draw_memory(runs):
    """Print a bar for the cache of each variant, after some of the positions."""
    per_mark = 2 * n_embd  # numbers in the keys and values of one position, in all heads of MHA
    print(f"\nNumbers in the cache, one # for {per_mark} of them (vanilla keeps as many as MHA):")
    for position in (window, 3 * window, n_positions):
        for name in ("MHA", "GQA", "MQA", "window"):
            number = runs[name].cache_sizes[position - 1]
            print(f"position {position:2d}  {name:8}{'#' * (number // per_mark)} {number}")


def show_independent(independent):
    """Print how close the variants come to MHA if the heads are independent."""
    print(f"\nOutputs beside those of MHA, with independent heads (means of {num_draws} draws):")
    print("         cosine   length / MHA's   difference / MHA's length")
    for name, comparisons in independent.items():
        row = f"{name:9}{mean_field(comparisons, 'cosine'):6.3f}"
        row += f"{mean_field(comparisons, 'length'):17.3f}"
        row += f"{mean_field(comparisons, 'difference'):28.3f}"
        print(row)
    print("This says how much a variant changes, and not whether a model gets worse by it. vanilla")
    print("has the same queries, keys and values as MHA. It differs because it makes one score of")
    print(f"them, and so one list of weights per position, where MHA has {n_head}.")
    print(f"The first {window} outputs of the window equal MHA's, because it sees as much there.")
    print("Its later ones are longer on average: a mean of fewer random values is larger.")


def show_sweep(gqa, mqa):
    """Print a row for each similarity: how close GQA and MQA come to MHA."""
    print("\nOutputs of GQA and MQA beside those of MHA, as the averaged heads get more alike:")
    print(f"(means of the same {num_draws} draws; similarity 0: independent heads, 1: copies)")
    print("             GQA                   MQA")
    print("similarity   cosine   difference   cosine   difference")
    for similarity in similarities:
        line = f"{similarity:10.2f}"
        for comparisons in (gqa[similarity], mqa[similarity]):
            line += f"{mean_field(comparisons, 'cosine'):9.3f}"
            line += f"{mean_field(comparisons, 'difference'):13.3f}"
        print(line)
    print("The closer the averaged heads are to copies, the closer the output stays to MHA's.")
    for name, results in (("GQA", gqa), ("MQA", mqa)):
        close = [f"{s:.2f}" for s in similarities if mean_field(results[s], "cosine") > 0.95]
        print(f"Rows in which {name} has a cosine above 0.95: {', '.join(close)}.")
    print(f"The results take gqa_cosine and mqa_cosine from row {near_copies}.")
    print("A cosine above 0.95 does not mean equal: the differences show how much remains.")


# === REPEATED from microgpt.py, word for word ===
def mean(values):
    """The average of some numbers. fsum() rounds only once, so every Python gives the same."""
    return math.fsum(values) / len(values)


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
