import functools
import itertools
import math
import random

import pytest
from harness import meets

CRITERIA = {
    "identity_failures": "== 0",
    "flops_mismatches": "== 0",
    "memory_mismatches": "== 0",
    "nan_count": "== 0",
    "extreme_score": "> 1000",
    "gqa_kv_ratio": "== 2",
    "mqa_kv_ratio": "== 4",
    "window_kv_ratio": "== 5",
    "gqa_cosine_independent": "< 0.95",
    "mqa_cosine_independent": "< 0.95",
    "gqa_cosine": "> 0.95",
    "mqa_cosine": "> 0.95",
    "gqa_crossing": "0.8 to 0.95",
    "mqa_crossing": "0.8 to 0.95",
    "runtime_seconds": "< 60",
}
VARIANTS = ("vanilla", "multi_head", "grouped_query", "multi_query", "sliding_window")
WINDOW = 3  # of the unit tests
each_variant = pytest.mark.parametrize("name", VARIANTS)


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def table(run):
    """{variant: the row's numbers}: FLOPs (projections, attention, a read), memory, cosine."""
    lines = [line.split() for line in run.stdout.partition("\nNumbers in")[0].splitlines()]
    return {line[0]: [float(x) for x in line[1:]] for line in lines[-5:]}


def test_table_follows_the_papers_arithmetic(run):
    """40 positions, width 32, 4 heads of 8, GQA 2, a window of 8; written out."""
    pairs, near = 40 * 41 // 2, 8 * 9 // 2 + 32 * 8  # (query, key), all and within the window
    expected = {  # projections: q, k, v, output
        "vanilla": (40 * 4 * 32 * 32 * 2, pairs * 64 * 2, 2 * 40 * 32),
        "MHA": (40 * 4 * 32 * 32 * 2, pairs * 64 * 2, 2 * 40 * 32),
        "GQA": (40 * (2 * 32 + 2 * 16) * 32 * 2, pairs * 64 * 2, 2 * 40 * 16),
        "MQA": (40 * (2 * 32 + 2 * 8) * 32 * 2, pairs * 64 * 2, 2 * 40 * 8),
        "window": (40 * 4 * 32 * 32 * 2, near * 64 * 2, 2 * 8 * 32),
    }
    found = table(run)
    assert list(found) == list(expected)
    for name, (projections, attention, numbers) in expected.items():
        assert found[name][:2] == [projections, attention]
        assert found[name][3:5] == [numbers, 2 * numbers]
    assert [found[name][2] for name in expected] == [2.0, 2.0, 4.0, 8.0, 2.0]
    assert found["MHA"][5] == 1.0
    assert all(0.0 < found[name][5] < 0.95 for name in expected if name != "MHA")


def test_sweep_rises_to_agreement(run):
    lines = run.stdout.partition("\nsimilarity ")[2].partition("\n\n")[0].splitlines()[1:]
    cells = [line.translate(str.maketrans("(),", "   ")).split()[:7] for line in lines]
    rows = [[float(x) for x in row] for row in cells]
    assert len(rows) >= 6
    for column in (0, 1, 4):
        values = [row[column] for row in rows]
        assert values == sorted(values)
        assert values[-1] == 1.0
    assert abs(rows[0][0]) < 0.05  # independent heads
    for _, gqa, gqa_low, gqa_high, mqa, mqa_low, mqa_high in rows:
        assert gqa_low <= gqa <= gqa_high
        assert mqa_low <= mqa <= mqa_high
        assert mqa <= gqa
    metrics = run.metrics
    assert metrics["gqa_cosine_independent"] == pytest.approx(rows[0][1], abs=1e-3)
    assert metrics["mqa_cosine_independent"] == pytest.approx(rows[0][4], abs=1e-3)
    assert metrics["mqa_cosine"] < metrics["gqa_cosine"]
    for metric, column in (("gqa_crossing", 1), ("mqa_crossing", 4)):  # between the right rows
        below = max(row[0] for row in rows if row[column] < 0.95)
        above = min(row[0] for row in rows if row[column] > 0.95)
        assert below - 1e-3 <= metrics[metric] <= above + 1e-3


def test_drawings(run):
    lines = run.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Numbers in the cache"))
    drawn = "".join(lines[start + 1 : start + 11])
    assert [drawn.count(mark) for mark in "HGMw"] == [32, 24, 20, 40]  # less where they meet
    assert lines[start + 1].rstrip().endswith("HHHH")
    header = next(i for i, line in enumerate(lines) if line.startswith("similarity "))
    swept = [line[lines[header].index("0   ") :] for line in lines[header + 1 : header + 8]]
    assert all(line.rstrip().endswith(("|", "G", "M")) for line in swept)
    assert swept[0].index("M") < swept[0].index("G") < swept[0].index("|") == 38  # 0.95 of 40


def test_flat_and_steep_memory(script, capsys):
    script.draw_memory({"a": [1, 2, 3, 4], "b": [2, 2, 2, 2]}, height=4)
    assert capsys.readouterr().out.splitlines() == [
        "     4 |   a",
        "     3 |  a",
        "     2 |bbbb",
        "     1 |a",
    ]


def test_marks_of_the_sweep(script, capsys):
    script.draw_sweep([(0.5, [0.2, 0.4], [0.1, 0.1])], width=10)
    line = capsys.readouterr().out.splitlines()[1]
    assert line == "     0.500   0.300 (0.200, 0.400)    0.100 (0.100, 0.100)     M G      |"


# --- the variants against loops over an explicit mask ---


def drawn(script, seed=0, n=7, share=0.0, scale=2.0):
    """Inputs and MHA's weights, with scores that differ enough for every part to matter."""
    random.seed(seed)
    xs = script.gaussian(n, script.n_embd, scale)
    return xs, script.make_weights(script.draw_parts(), share)


def setting(script, name, w):
    """(variant, its weights, its extra arguments)"""
    weights = {"vanilla": script.merge_heads, "grouped_query": lambda w: script.pool(w, 2)}
    weights["multi_query"] = lambda w: script.pool(w, 1)
    args = (WINDOW,) if name == "sliding_window" else ()
    return getattr(script, name), weights.get(name, lambda w: w)(w), args


def naive(xs, w, sees):
    """Attention by its definition: all positions at once, sees(i, j) the mask, sums by fsum."""

    def matvec(matrix, x):
        return [math.fsum(a * b for a, b in zip(row, x, strict=True)) for row in matrix]

    group = len(w["wq"]) // len(w["wk"])
    outputs = []
    for i, x in enumerate(xs):
        found = []
        for h, wq in enumerate(w["wq"]):
            q, scores = matvec(wq, x), {}
            for j, past in enumerate(xs):
                k = matvec(w["wk"][h // group], past)
                if sees(i, j):
                    scores[j] = math.fsum(a * b for a, b in zip(q, k)) / math.sqrt(len(q))
            top = max(scores.values())
            total = math.fsum(math.exp(s - top) for s in scores.values())
            values = {j: matvec(w["wv"][h // group], xs[j]) for j in scores}
            for c in range(len(q)):
                p = [math.exp(s - top) / total * values[j][c] for j, s in scores.items()]
                found.append(math.fsum(p))
        outputs.append(matvec(w["wo"], found))
    return outputs


@each_variant
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_variant_equals_loops_with_a_mask(script, name, scale):
    xs, w = drawn(script, scale=scale)
    variant, weights, args = setting(script, name, w)
    outputs = script.decode(variant, xs, weights, *args)[0]
    sees = {"sliding_window": lambda i, j: i - WINDOW < j <= i}.get(name, lambda i, j: j <= i)
    expected = naive(xs, weights, sees)
    for out, reference in zip(outputs, expected, strict=True):
        assert out == pytest.approx(reference, abs=1e-9)


@each_variant
def test_a_later_position_changes_nothing_before_it(script, name):
    xs, w = drawn(script)
    variant, weights, args = setting(script, name, w)
    before = script.decode(variant, xs, weights, *args)[0]
    for changed in range(1, len(xs)):
        others = xs[:changed] + [[-x for x in xs[changed]]] + xs[changed + 1 :]
        after = script.decode(variant, others, weights, *args)[0]
        assert after[:changed] == before[:changed]
        assert after[changed] != before[changed]


@each_variant
def test_how_far_back_a_position_looks(script, name):
    """Change position 2: the window's positions 2, 3, 4 see it, 5 and 6 do not, to the bit."""
    xs, w = drawn(script)
    variant, weights, args = setting(script, name, w)
    before = script.decode(variant, xs, weights, *args)[0]
    after = script.decode(variant, xs[:2] + [xs[0]] + xs[3:], weights, *args)[0]
    seen_by = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
    assert seen_by == ([2, 3, 4] if name == "sliding_window" else [2, 3, 4, 5, 6])


@each_variant
def test_extreme_scores_stay_finite(script, name):
    """Scores of thousands, either sign: each position then has one key that takes all."""
    xs, w = drawn(script, scale=400.0)
    variant, weights, args = setting(script, name, w)
    for q, k in itertools.product(weights["wq"], weights["wk"][:1]):
        scores = [script.dot(script.project(xs[3], q), script.project(x, k)) for x in xs[:4]]
        assert max(map(abs, scores)) / math.sqrt(len(q)) > 1000
    outputs = script.decode(variant, xs, weights, *args)[0]
    assert all(math.isfinite(y) for out in outputs for y in out)


def test_scaled_dot_product_at_plus_and_minus_1000(script):
    assert script.scaled_dot_product([1000.0], [[1.0], [-1.0]], [[2.0], [5.0]]) == [2.0]
    assert script.scaled_dot_product([1000.0], [[1.0], [1.0]], [[2.0], [5.0]]) == [3.5]
    assert script.softmax([1000.0, -1000.0]) == [1.0, 0.0]
    assert script.softmax([-1000.0, -1000.0]) == [0.5, 0.5]


def test_scaled_dot_product_by_hand(script):
    """d = 4: scores 2 log 3 and 0 over sqrt(4), so the weights are 3/4 and 1/4."""
    q = [2 * math.log(3), 0.0, 0.0, 0.0]
    out = script.scaled_dot_product(q, [[1.0, 0.0, 0.0, 9.0], [0.0] * 4], [[4.0], [8.0]])
    assert out == pytest.approx([5.0])


# --- identities ---


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_identities_hold_to_the_bit(script, scale):
    xs, w = drawn(script, scale=scale)
    one, single = script.merge_heads(w), script.pool(w, 1)
    mha = script.decode(script.multi_head, xs, w)
    assert script.decode(script.vanilla, xs, one) == script.decode(script.multi_head, xs, one)
    assert script.decode(script.grouped_query, xs, w) == mha
    assert script.decode(script.grouped_query, xs, script.pool(w, 4)) == mha
    mqa = script.decode(script.multi_query, xs, single)
    assert script.decode(script.grouped_query, xs, single) == mqa
    for window in (len(xs), len(xs) + 1):
        assert script.decode(script.sliding_window, xs, w, window) == mha
    if scale == 1.0:  # else the forgotten position may have no weight at all
        assert script.decode(script.sliding_window, xs, w, len(xs) - 1)[0] != mha[0]
    assert mqa[0] != mha[0]
    assert script.decode(script.vanilla, xs, one)[0] != mha[0]


@pytest.mark.parametrize("name", ["vanilla", "grouped_query", "multi_query"])
def test_identity_failures_are_counted(script, monkeypatch, name):
    xs, w = drawn(script)
    assert script.count_identity_failures(xs, w) == 0
    original = getattr(script, name)

    def perturbed(x, w, cache):
        return [y * (1 + 2**-52) for y in original(x, w, cache)]

    monkeypatch.setattr(script, name, perturbed)
    assert script.count_identity_failures(xs, w) == (3 if name == "grouped_query" else 1)
    monkeypatch.setattr(script, name, functools.partial(original))
    assert script.count_identity_failures(xs, w) == 0


# --- costs ---


class Counted(float):
    """A float that counts the multiplications and additions of which it is a part."""

    done = {"*": 0, "+": 0}

    def __mul__(self, other):
        Counted.done["*"] += 1
        return Counted(float(self) * float(other))

    def __add__(self, other):
        Counted.done["+"] += 1
        return Counted(float(self) + float(other))

    def __truediv__(self, other):  # the scale and the softmax divide: not counted, still Counted
        return Counted(float(self) / float(other))

    __rmul__, __radd__ = __mul__, __add__


def counting(tree):
    if isinstance(tree, dict):
        return {key: counting(value) for key, value in tree.items()}
    return [counting(branch) for branch in tree] if isinstance(tree, list) else Counted(tree)


def costs(script, name):
    """kv_width and span, as main() gives them to the formulas."""
    width = {"grouped_query": 16, "multi_query": 8}.get(name, 32)
    return width, WINDOW if name == "sliding_window" else 10**9


@each_variant
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_flops_are_those_that_the_floats_counted(script, name, n):
    """Every multiplication and addition that is really done, against counter and formula."""
    xs, w = drawn(script, n=n)
    variant, weights, args = setting(script, name, w)
    xs, weights = counting(xs), counting(weights)
    Counted.done = {"*": 0, "+": 0}
    outputs, _, flops = script.decode(variant, xs, weights, *args)
    assert isinstance(outputs[-1][-1], Counted)
    assert Counted.done["*"] == Counted.done["+"]
    assert Counted.done["*"] + Counted.done["+"] == flops["projections"] + flops["attention"]
    assert flops == script.predict_flops(n, *costs(script, name))


@each_variant
def test_cache_is_what_the_formula_says(script, name):
    xs, w = drawn(script, n=9)
    variant, weights, args = setting(script, name, w)
    cache, held = {}, []
    for x in xs:
        variant(x, weights, cache, *args)
        numbers = str(cache).count(".")  # every float has one point; ids have none
        held.append(numbers)
    width, span = costs(script, name)
    assert held == [2 * width * min(n + 1, span) for n in range(9)]
    assert held == [script.predict_kept(n + 1, width, span) for n in range(9)]
    assert held == script.decode(variant, xs, weights, *args)[1]


def test_formula_of_a_known_model(script):
    """Llama 2 7B as predict_kept() describes it: 2 GiB in 16-bit numbers."""
    assert 32 * 2 * script.predict_kept(4096, 32 * 128, 4096) == 2 * 2**30


def test_the_counter_starts_anew_for_every_run(script):
    xs, w = drawn(script, n=2)
    first, second = (script.decode(script.multi_head, xs, w)[2] for _ in range(2))
    assert first == second
    script.project(xs[0], w["wo"])
    assert first == second  # a copy, not the counter itself


# --- redundancy and pooling ---


def test_pooling_is_the_mean_of_neighbours(script):
    heads = [[[1.0, 2.0]], [[3.0, 6.0]], [[10.0, 0.0]], [[20.0, -4.0]]]
    assert script.pool_heads(heads, 2) == [[[2.0, 4.0]], [[15.0, -2.0]]]
    assert script.pool_heads(heads, 1) == [[[8.5, 1.0]]]
    assert script.pool_heads(heads, 4) == heads
    w = {"wq": heads, "wk": heads, "wv": heads[::-1], "wo": [[1.0]]}
    pooled = script.pool(w, 1)
    assert pooled == {"wq": heads, "wk": [[[8.5, 1.0]]], "wv": [[[8.5, 1.0]]], "wo": [[1.0]]}
    assert w["wk"] is heads


def test_merged_heads_give_the_same_queries(script):
    xs, w = drawn(script, n=1)
    one = script.merge_heads(w)
    for name in ("wq", "wk", "wv"):
        apart = [y for head in w[name] for y in script.project(xs[0], head)]
        assert script.project(xs[0], one[name][0]) == apart
    assert one["wo"] is w["wo"]


def test_share_is_the_cosine_of_two_heads(script, monkeypatch):
    """And the variance stays 1 / n_embd: with heads of 64 x 256, chance is small."""
    monkeypatch.setattr(script, "n_embd", 256)
    random.seed(3)
    parts = script.draw_parts()
    for share in (0.0, 0.3, 0.95, 1.0):
        w = script.make_weights(parts, share)
        for name in ("wk", "wv"):
            assert script.head_similarity(w[name]) == pytest.approx(share, abs=0.03)
            numbers = [x for head in w[name] for row in head for x in row]
            assert 256 * script.mean([x * x for x in numbers]) == pytest.approx(1, abs=0.05)
        assert w["wk"] != w["wv"]
    assert w["wk"][0] == w["wk"][1] == parts["common_k"]
    assert script.make_weights(parts, 0.0)["wv"] == parts["own_v"]


def test_pooled_heads_keep_the_stated_cosine(script, monkeypatch):
    """sqrt(s + (1 - s) / g), the docstring of pool_heads()."""
    monkeypatch.setattr(script, "n_embd", 256)
    random.seed(4)
    parts = script.draw_parts()
    for share, size in itertools.product((0.0, 0.5, 0.9), (2, 4)):
        heads = script.make_weights(parts, share)["wk"]
        pooled = script.pool_heads(heads, 4 // size)
        for h, head in enumerate(heads):
            a, b = ([x for row in m for x in row] for m in (head, pooled[h // size]))
            expected = math.sqrt(share + (1 - share) / size)
            assert script.cosine(a, b) == pytest.approx(expected, abs=0.03)


def test_scores_have_a_variance_of_one(script):
    """As draw_parts() says: over many draws, of independent positions."""
    random.seed(5)
    squares = []
    for _ in range(60):
        w = script.make_weights(script.draw_parts(), 0.5)
        a, b = script.gaussian(2, script.n_embd, 1.0)
        for wq, wk in zip(w["wq"], w["wk"]):
            score = script.dot(script.project(a, wq), script.project(b, wk)) / math.sqrt(8)
            squares.append(score * score)
    assert script.mean(squares) == pytest.approx(1, abs=0.35)


def test_copies_of_a_head_lose_nothing(script):
    xs, w = drawn(script, share=1.0)
    mha = script.decode(script.multi_head, xs, w)[0]
    for variant, n_kv in ((script.grouped_query, 2), (script.multi_query, 1)):
        for out, reference in zip(script.decode(variant, xs, script.pool(w, n_kv))[0], mha):
            assert out == pytest.approx(reference, abs=1e-12)


def test_turning_a_head_keeps_its_scores_and_not_its_cosine(script):
    """Why the cosines of trained heads would not tell (the docstring of sweep())."""
    xs, w = drawn(script, share=1.0)

    def turned(head):  # by a right angle in the plane of the first two numbers
        return [[-x for x in head[1]], head[0], *head[2:]]

    other = w | {name: [*w[name][:3], turned(w[name][3])] for name in ("wq", "wk")}
    a, b = (script.decode(script.multi_head, xs, weights)[0] for weights in (w, other))
    for out, reference in zip(a, b):
        assert out == pytest.approx(reference, abs=1e-12)
    assert script.head_similarity(other["wk"]) < 0.95 < script.head_similarity(w["wk"])


def test_cosines(script):
    assert script.cosine([3.0, 0.0], [5.0, 5.0]) == pytest.approx(math.sqrt(0.5))
    pair = [[[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, -1.0]]]
    assert script.mean_cosine(*pair) == pytest.approx(0.0)
    heads = [[[1.0], [0.0]], [[1.0], [0.0]], [[0.0], [1.0]]]
    assert script.head_similarity(heads) == pytest.approx(1 / 3)


def test_sweep_measures_what_it_says(script, monkeypatch):
    """One draw, two shares: the same numbers from the naive reference."""
    monkeypatch.setattr(script, "shares", (0.0, 0.9))
    random.seed(6)
    draw = script.gaussian(6, script.n_embd, 1.0), script.draw_parts()
    for share, (similarity, *found) in zip((0.0, 0.9), script.sweep([draw]), strict=True):
        w = script.make_weights(draw[1], share)
        both = [script.head_similarity(w["wk"]), script.head_similarity(w["wv"])]
        assert similarity == pytest.approx(math.fsum(both) / 2)
        mha = naive(draw[0], w, lambda i, j: j <= i)
        for n_kv, cosines in zip((2, 1), found, strict=True):
            reduced = naive(draw[0], script.pool(w, n_kv), lambda i, j: j <= i)
            expected = []
            for a, b in zip(mha, reduced):
                expected.append(
                    math.fsum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))
                )
            assert cosines == pytest.approx([math.fsum(expected) / 6])


def test_crossing(script):
    assert script.crossing([(0.0, 0.5), (0.5, 0.9), (1.0, 1.0)]) == pytest.approx(0.75)
    assert script.crossing([(0.2, 0.5), (0.4, 0.95), (1.0, 1.0)]) == pytest.approx(0.4)
    assert script.crossing([(0.2, 0.949), (0.4, 0.951), (1.0, 1.0)]) == pytest.approx(0.3)
    with pytest.raises(ValueError):
        script.crossing([(0.0, 0.5), (1.0, 0.9)])


def test_unequal_groups_are_refused(script):
    with pytest.raises(ValueError, match="equal groups"):
        script.pool_heads([[[1.0]]] * 4, 3)
