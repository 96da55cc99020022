"""Attention is one formula: its variants differ in what they keep and in how far they look.

Multi-head attention (MHA) by Vaswani et al. (2017), one head for keys and values (MQA) by Shazeer
(2019), a few of them (GQA) by Ainslie et al. (2023), a sliding window by Beltagy et al. (2020).
All as a decoder runs them: one position at a time, over a cache of the keys and values so far. It
holds nothing later, so all of them are causal. Nothing is trained; inputs and weights are random.
Left out are layers and position embeddings, which all variants would share.
"""

import collections
import functools
import itertools
import math
import random
import time

# === CONSTANTS: the layer, and how alike its heads are ===
n_embd, n_head = 32, 4  # numbers per position; query heads that split them
n_kv_head = 2  # for GQA; Llama 2 70B has 8 for its 64 query heads
n_positions, window = 40, 8  # Mistral 7B has a window of 4,096
bytes_per_number = 2  # 16-bit floats, as production caches have them
shares = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)  # of each K/V head, what all have in common
num_draws = 5  # inputs and weights to average over
level, share_close = 0.95, 0.95  # the plan's bound for a cosine to MHA, and heads that meet it
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: random inputs, and heads that are more or less alike ===
def gaussian(n_rows, n_columns, std):
    return [[random.gauss(0, std) for _ in range(n_columns)] for _ in range(n_rows)]


def draw_parts():
    """Queries, output, and of keys and values a part common to all heads and each head's own.

    A head's matrix is [d_head][n_embd]. The scale gives scores a variance of about 1.
    """
    d_head, std = n_embd // n_head, n_embd**-0.5
    parts = {name: gaussian(d_head, n_embd, std) for name in ("common_k", "common_v")}
    for name in ("wq", "own_k", "own_v"):
        parts[name] = [gaussian(d_head, n_embd, std) for _ in range(n_head)]
    return parts | {"wo": gaussian(n_embd, n_embd, std)}


def make_weights(parts, share):
    """MHA's "wq", "wk", "wv" [n_head][d_head][n_embd] and "wo" [n_embd][n_embd].

    A key or value head is sqrt(share) * common + sqrt(1 - share) * own. The roots keep its
    variance, and make the share the expected cosine of two heads: 0 for independent heads, 1 for
    copies of a single one.
    """
    a, b = math.sqrt(share), math.sqrt(1 - share)
    w = {"wq": parts["wq"], "wo": parts["wo"]}
    for name in "kv":
        common, heads = parts[f"common_{name}"], parts[f"own_{name}"]
        w[f"w{name}"] = [
            [[a * x + b * y for x, y in zip(*rows)] for rows in zip(common, own)] for own in heads
        ]
    return w


def pool_heads(heads, n_groups):
    """The mean of each group of neighbours: [n_head] matrices -> [n_groups] (Ainslie et al., 2).

    The mean of g heads that are alike by a cosine of s has a cosine of sqrt(s + (1 - s) / g) with
    each of them, and is shorter by that factor: only 0.5, both, for four independent heads.
    ValueError if n_groups does not divide n_head.
    """
    size, left_over = divmod(len(heads), n_groups)
    if left_over:
        raise ValueError(f"{len(heads)} heads do not make {n_groups} equal groups")
    groups = [heads[start : start + size] for start in range(0, len(heads), size)]
    return [[[mean(ws) for ws in zip(*rows)] for rows in zip(*group)] for group in groups]


def pool(w, n_groups):
    """MHA's weights, with fewer heads for keys and values: how a trained model is converted.

    Ainslie et al. then train it on, with 5 % of the compute of its first training.
    """
    return w | {"wk": pool_heads(w["wk"], n_groups), "wv": pool_heads(w["wv"], n_groups)}


def merge_heads(w):
    """The same numbers as weights of a single head of width n_embd, for vanilla()."""
    return w | {name: [[row for head in w[name] for row in head]] for name in ("wq", "wk", "wv")}


# === MODEL: five variants, each for one position at a time ===
#
# Each takes x [n_embd], weights, and the cache {head: (keys, values)}, {} at the start. It adds to
# the cache and returns [n_embd]. Read the last three as changes to multi_head(), marked CHANGED.
# Queries are never shared: they are used at once, so nothing is saved by keeping fewer of them.

flops = collections.Counter()  # by part of the layer; counted_dot() alone enters something


def dot(a, b):
    """a . b of two lists of floats."""
    total = 0.0  # a loop, because sum() of floats rounds differently from Python 3.12 on
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def counted_dot(a, b, part):
    """a . b, and a multiplication and an addition entered for each of its terms.

    Only these are counted, as is usual. A score takes 2 * d_head, its use on the values as many
    again: 32 here. The scale and softmax, some 6 more, are left out.
    """
    flops[part] += 2 * len(a)
    return dot(a, b)


def project(x, w):
    """x [n_in], w [n_out][n_in] -> w x [n_out]."""
    return [counted_dot(row, x, "projections") for row in w]


def softmax(logits):
    """[n] scores -> [n] probabilities."""
    peak = max(logits)
    exps = [math.exp(x - peak) for x in logits]  # at most 1, so no score is too large
    total = math.fsum(exps)
    return [e / total for e in exps]


def scaled_dot_product(q, keys, values):
    """softmax(q K^T / sqrt(d)) V (Vaswani et al., eq. 1): q [d], keys and values [t][d] -> [d]."""
    scores = [counted_dot(q, k, "attention") / math.sqrt(len(q)) for k in keys]
    weights = softmax(scores)
    return [counted_dot(weights, column, "attention") for column in zip(*values)]


def vanilla(x, w, cache):
    """One head as wide as the layer: a position has a single pattern of where to look."""
    keys, values = cache.setdefault(0, ([], []))
    keys.append(project(x, w["wk"][0]))
    values.append(project(x, w["wv"][0]))
    out = scaled_dot_product(project(x, w["wq"][0]), keys, values)
    return project(out, w["wo"])


def multi_head(x, w, cache):
    """MHA: narrow heads, each with its own pattern; as many numbers to keep as vanilla()."""
    outs = []
    for h, wq in enumerate(w["wq"]):
        keys, values = cache.setdefault(h, ([], []))
        keys.append(project(x, w["wk"][h]))
        values.append(project(x, w["wv"][h]))
        outs += scaled_dot_product(project(x, wq), keys, values)
    return project(outs, w["wo"])  # mixes what the heads found


def grouped_query(x, w, cache):
    """GQA: a group of neighbouring query heads looks into the same keys and values."""
    outs, n_kv = [], len(w["wk"])
    for g in range(n_kv):  # CHANGED: keys and values are made once for each group
        keys, values = cache.setdefault(g, ([], []))
        keys.append(project(x, w["wk"][g]))
        values.append(project(x, w["wv"][g]))
    for h, wq in enumerate(w["wq"]):
        keys, values = cache[h * n_kv // len(w["wq"])]  # CHANGED: its group's, not its own
        outs += scaled_dot_product(project(x, wq), keys, values)
    return project(outs, w["wo"])


def multi_query(x, w, cache):
    """MQA: all query heads look into the same keys and values, and differ in what they ask."""
    outs = []
    # CHANGED: one head for keys and values, so no loop around it.
    keys, values = cache.setdefault(0, ([], []))
    keys.append(project(x, w["wk"][0]))
    values.append(project(x, w["wv"][0]))
    for wq in w["wq"]:  # CHANGED: each of them looks into it
        outs += scaled_dot_product(project(x, wq), keys, values)
    return project(outs, w["wo"])


def sliding_window(x, w, cache, window):
    """MHA that sees the last `window` positions, its own among them, and forgets the others.

    In a stack of layers what is forgotten may still arrive: each layer hands it on by window - 1
    positions. Production combines the variants: Mistral 7B has both GQA and a window.
    """
    outs = []
    for h, wq in enumerate(w["wq"]):
        keys, values = cache.setdefault(h, ([], []))
        keys.append(project(x, w["wk"][h]))
        values.append(project(x, w["wv"][h]))
        del keys[:-window], values[:-window]  # CHANGED: what nobody will look at is not kept
        outs += scaled_dot_product(project(x, wq), keys, values)
    return project(outs, w["wo"])


# === INFERENCE: run them, predict what they cost, compare what they say ===
def decode(variant, xs, w, *args):
    """Outputs [n][n_embd], numbers in the cache after each of the n positions, FLOPs by part."""
    cache, outputs, kept = {}, [], []
    flops.clear()
    for x in xs:
        outputs.append(variant(x, w, cache, *args))
        vectors = [vector for pair in cache.values() for side in pair for vector in side]
        kept.append(sum(len(vector) for vector in vectors))
    return outputs, kept, dict(flops)


def make_variants(w):
    """{title: (function, weights, kv_width and span for the formulas)} of all, from MHA's w."""
    return {
        "vanilla": (vanilla, merge_heads(w), n_embd, n_positions),
        "MHA": (multi_head, w, n_embd, n_positions),
        "GQA": (grouped_query, pool(w, n_kv_head), n_kv_head * n_embd // n_head, n_positions),
        "MQA": (multi_query, pool(w, 1), n_embd // n_head, n_positions),
        "window": (functools.partial(sliding_window, window=window), w, n_embd, window),
    }


def predict_flops(n, kv_width, span):
    """What n positions cost. kv_width: numbers in a position's keys; span: positions in sight."""
    full = min(n, span)  # the first positions see 1, 2, ... full keys, the later ones span
    num_seen = full * (full + 1) // 2 + (n - full) * span
    return {  # 2 for each multiply-add
        "projections": 2 * n * n_embd * (n_embd + 2 * kv_width + n_embd),  # of q; k, v; output
        "attention": 2 * num_seen * (n_embd + n_embd),  # scores, values: sharing saves nothing here
    }


def predict_kept(n, kv_width, span):
    """Numbers in the cache after n positions: a key and a value of each that is in sight.

    That is one layer. Llama 2 7B (32 layers, 32 heads of 128, 16 bits) keeps 2 GiB for each
    sequence of 4,096 positions.
    """
    return 2 * kv_width * min(n, span)


def count_identity_failures(xs, w):
    """How many of six pairs that are the same computation differ, if only in the last bit."""
    one, single, pooled = merge_heads(w), pool(w, 1), pool(w, n_kv_head)
    pairs = [  # alike in output, memory and FLOPs
        ((vanilla, xs, one), (multi_head, xs, one)),
        ((grouped_query, xs, w), (multi_head, xs, w)),
        ((grouped_query, xs, single), (multi_query, xs, single)),
        ((sliding_window, xs, w, len(xs)), (multi_head, xs, w)),
    ]
    failures = sum(decode(*a) != decode(*b) for a, b in pairs)
    groups = n_head // n_kv_head  # GQA is MHA whose neighbouring heads are copies of one another
    copied = w | {name: [h for h in pooled[name] for _ in range(groups)] for name in ("wk", "wv")}
    failures += decode(grouped_query, xs, pooled)[0] != decode(multi_head, xs, copied)[0]
    late, alone = decode(sliding_window, xs, w, window)[0], decode(multi_head, xs[-window:], w)[0]
    return failures + (late[-1] != alone[-1])  # what the window forgot might never have been there


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def mean_cosine(outputs, others):
    """Mean over positions of the cosine of two outputs: how far one may stand in for the other.

    It does not measure quality: a model trained with GQA from the start need not resemble MHA.
    """
    return mean([cosine(a, b) for a, b in zip(outputs, others)])


def head_similarity(heads):
    """Mean cosine of all pairs of heads, each taken as one long vector."""
    flat = [[weight for row in head for weight in row] for head in heads]
    return mean([cosine(a, b) for a, b in itertools.combinations(flat, 2)])


def sweep(draws):
    """For each share yield the similarity of the heads, and of each draw the cosines of GQA, MQA.

    Where trained models are on this scale it cannot tell. Heads that attend alike need not be
    alike: rotate a head's queries and keys together, and its scores stay as they are, while its
    cosine to the others changes. The plain mean of pool_heads() then suffers for nothing.
    """
    for share in shares:
        similarities, gqa, mqa = [], [], []
        for xs, parts in draws:
            w = make_weights(parts, share)
            similarities += [head_similarity(w["wk"]), head_similarity(w["wv"])]
            mha = decode(multi_head, xs, w)[0]
            gqa.append(mean_cosine(decode(grouped_query, xs, pool(w, n_kv_head))[0], mha))
            mqa.append(mean_cosine(decode(multi_query, xs, pool(w, 1))[0], mha))
        yield mean(similarities), gqa, mqa


def crossing(points):
    """The x at which y first rises to `level`, on straight lines through the points (x, y)."""
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if y0 < level <= y1:
            return x0 + (x1 - x0) * (level - y0) / (y1 - y0)
    raise ValueError(f"no crossing of {level}")


# === OUTPUT: tables, drawings, results ===
def mean(values):
    return math.fsum(values) / len(values)  # fsum rounds once, so alike on every Python


def show_table(runs):
    """Print what decode() found for each variant.

    For every position a decoder reads its whole cache, and on an accelerator reading takes longer
    than computing (Shazeer 2019). There a head that serves g queries is read once for all of them.
    """
    print("\nFLOPs     projections  attention  attention's,  numbers   bytes   cosine")
    print("                                 a number read     kept    kept   to MHA")
    for name, (outputs, kept, cost) in runs.items():
        row = f"{name:8}{cost['projections']:13d}{cost['attention']:11d}"
        row += f"{cost['attention'] / sum(kept):14.1f}{kept[-1]:9d}{kept[-1] * bytes_per_number:8d}"
        print(f"{row}{mean_cosine(outputs, runs['MHA'][0]):9.3f}")


def draw_memory(curves, height=10):
    """Print {mark: numbers kept after each position}; where curves meet, the last one's mark."""
    top = max(map(max, curves.values()))
    for row in range(height, 0, -1):
        line = ""
        for column in zip(*curves.values()):
            marks = [m for m, kept in zip(curves, column) if math.ceil(kept / top * height) == row]
            line += marks[-1] if marks else " "
        print(f"{top * row // height:6d} |{line}".rstrip())


def draw_sweep(rows, width=40):
    """Print a row for each share: the numbers, and a line from 0 to 1 on which G and M stand."""
    print(f"similarity   GQA (lowest, highest)   MQA (lowest, highest)   0{' ' * (width - 1)}1")
    for similarity, *cosines in rows:
        line = [" "] * (width + 1)
        for mark, value in zip("|GM", (level, *map(mean, cosines))):
            line[round(value * width)] = mark
        numbers = [f"{mean(c):.3f} ({min(c):.3f}, {max(c):.3f})    " for c in cosines]
        print(f"{similarity:10.3f}   {''.join(numbers)}{''.join(line)}".rstrip())


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
    draws = [(gaussian(n_positions, n_embd, 1.0), draw_parts()) for _ in range(num_draws)]
    xs, parts = draws[0]
    w, d_head = make_weights(parts, 0.0), n_embd // n_head
    hot = [[100 * xi for xi in x] for x in xs]  # 10,000 times the scores: exp() would overflow
    hot_query = project(hot[-1], w["wq"][0])
    hot_scores = [dot(hot_query, project(x, w["wk"][0])) for x in hot]
    print(f"{n_positions} positions, {n_head} independent heads of {d_head} numbers each.")
    print(f"Heads for keys and values: GQA {n_kv_head}, MQA 1. The window: {window} positions.")
    variants = make_variants(w)
    runs = {name: decode(run, xs, weights) for name, (run, weights, *_) in variants.items()}
    show_table(runs)
    wrong_flops = wrong_memory = num_nan = 0
    for name, (variant, weights, kv_width, span) in variants.items():
        outputs, kept, cost = runs[name]
        wrong_flops += cost != predict_flops(n_positions, kv_width, span)
        wrong_memory += kept != [predict_kept(i + 1, kv_width, span) for i in range(n_positions)]
        outputs = outputs + decode(variant, hot, weights)[0]
        num_nan += sum(not math.isfinite(y) for output in outputs for y in output)
    print("\nNumbers in the cache, by position (H MHA, under G GQA, under M MQA, under w window):")
    kept = {name: run[1] for name, run in runs.items()}
    draw_memory({"H": kept["MHA"], "G": kept["GQA"], "M": kept["MQA"], "w": kept["window"]})
    print(f"\nCosine to MHA as its K/V heads get more alike, {num_draws} draws (| is {level}):")
    table = list(sweep(draws))
    draw_sweep(table)
    gqa, mqa = ([(row[0], mean(row[i])) for row in table] for i in (1, 2))
    close = shares.index(share_close)
    rows = [
        ("identity_failures", sum(count_identity_failures(x, w) for x in (xs, hot)), "== 0"),
        ("flops_mismatches", wrong_flops, "== 0"),
        ("memory_mismatches", wrong_memory, "== 0"),
        ("nan_count", num_nan, "== 0"),
        ("extreme_score", round(max(hot_scores) / math.sqrt(d_head)), "> 1000"),
        ("gqa_kv_ratio", kept["MHA"][-1] / kept["GQA"][-1], "== 2"),
        ("mqa_kv_ratio", kept["MHA"][-1] / kept["MQA"][-1], "== 4"),
        ("window_kv_ratio", kept["MHA"][-1] / kept["window"][-1], "== 5"),
        ("gqa_cosine_independent", gqa[0][1], "< 0.95"),
        ("mqa_cosine_independent", mqa[0][1], "< 0.95"),
        ("gqa_cosine", gqa[close][1], "> 0.95"),
        ("mqa_cosine", mqa[close][1], "> 0.95"),
        ("gqa_crossing", crossing(gqa), "0.8 to 0.95"),
        ("mqa_crossing", crossing(mqa), "0.8 to 0.95"),
        ("runtime_seconds", time.perf_counter() - started, "< 60"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
