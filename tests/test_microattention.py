"""microattention: the variants against loops over a mask, their costs against counting floats."""

import collections
import functools
import inspect
import itertools
import math
import random
import re

import pytest
from support.numbers import flat, gaussian, matvec, softmax

VARIANTS = ("vanilla", "multi_head", "grouped_query", "multi_query", "sliding_window")
HEADS, SIZE, N = 4, 8, 32  # heads of so many numbers each, and the width of the layer
WINDOW = 3  # of the unit tests
each_variant = pytest.mark.parametrize("name", VARIANTS)


def test_drawings(script, capsys):
    xs, w = drawn(40)
    runs = script.decode_all(xs, w)
    script.show_example()
    script.show_costs(runs)
    script.draw_memory(runs)
    script.show_independent({"toy": [script.Comparison(0.5, 1.25, 0.75)]})
    rows = {similarity: [script.Comparison(0.5, 1.0, 0.75)] for similarity in script.similarities}
    script.show_sweep(rows, rows)
    out = capsys.readouterr().out
    assert out.isascii()
    assert f"position 24  MQA     {'#' * 6} 384\n" in out
    assert "1.250" in out


# --- the variants against loops with an explicit mask ---


def drawn(n=7, scale=2.0, copies=False, seed=1):
    """n positions and MHA's weights. With copies, all heads for keys and values are alike.

    The scores differ enough for every part to matter.
    """
    heads = [gaussian(SIZE, N, N**-0.5, seed + i) for i in range(3 * HEADS)]
    w = {"wq": heads[:4], "wk": heads[4:8], "wv": heads[8:], "wo": gaussian(N, N, N**-0.5, seed)}
    if copies:
        w |= {name: w[name][:1] * HEADS for name in ("wk", "wv")}
    return gaussian(n, N, scale, seed + 20), w


def setting(script, name, w):
    """(variant, its weights)"""
    weights = {"vanilla": script.merge_heads, "grouped_query": lambda w: script.pool(w, 2)}
    weights["multi_query"] = lambda w: script.pool(w, 1)
    variant = getattr(script, name)
    if name == "sliding_window":
        variant = functools.partial(variant, span=WINDOW)
    return variant, weights.get(name, lambda w: w)(w)


def naive(xs, w, sees):
    """Attention by its definition: all positions at once, and sees(i, j) is the mask."""
    group = len(w["wq"]) // len(w["wk"])
    outputs = []
    for i, x in enumerate(xs):
        seen = [past for j, past in enumerate(xs) if sees(i, j)]
        found = []
        for h, wq in enumerate(w["wq"]):
            keys = [matvec(w["wk"][h // group], past) for past in seen]
            values = [matvec(w["wv"][h // group], past) for past in seen]
            scores = [s / math.sqrt(len(wq)) for s in matvec(keys, matvec(wq, x))]
            found += matvec(list(zip(*values)), softmax(scores))
        outputs.append(matvec(w["wo"], found))
    return outputs


@each_variant
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_variant_equals_loops_with_a_mask(script, name, scale):
    xs, w = drawn(scale=scale)
    variant, weights = setting(script, name, w)
    outputs = script.decode(variant, xs, weights)[0]
    sees = {"sliding_window": lambda i, j: i - WINDOW < j <= i}.get(name, lambda i, j: j <= i)
    expected = naive(xs, weights, sees)
    for out, reference in zip(outputs, expected, strict=True):
        assert out == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_matrix_form_equals_loops_with_a_mask(script, scale):
    xs, w = drawn(scale=scale)
    expected = naive(xs, w, causal)
    for out, reference in zip(script.attention_by_matrices(xs, w, len(xs)), expected, strict=True):
        assert out == pytest.approx(reference, abs=1e-9 * scale)
    expected = naive(xs, w, lambda i, j: causal(i, j) and i - j < 3)
    for out, reference in zip(script.attention_by_matrices(xs, w, 3), expected, strict=True):
        assert out == pytest.approx(reference, abs=1e-9 * scale)


@pytest.mark.parametrize("fault", ["first key", "values reversed", "softmax", "dot"])
def test_matrix_form_notices_another_formula(script, monkeypatch, fault):
    """With either of the first two faults, a run meets all other bounds of its results."""
    xs, w = drawn()
    original = script.attend

    def spoiled(query, keys, values, flops):
        if fault == "first key":
            return original(query, keys[:1] * len(keys), values, flops)
        return original(query, keys, values[::-1], flops)

    spoils = {
        "softmax": lambda scores: softmax([2 * score for score in scores]),
        "dot": lambda a, b: math.fsum(x * y for x, y in zip(a[1:], b[1:])),
    }
    name = fault if fault in spoils else "attend"
    monkeypatch.setattr(script, name, spoils.get(fault, spoiled))
    outputs = script.decode(script.multi_head, xs, w).outputs
    assert script.compare(outputs, script.attention_by_matrices(xs, w, len(xs))).difference > 0.1


@pytest.mark.parametrize("name", ["vanilla", "MHA", "window"])
def test_each_matrix_form_notices_a_wrong_variant(script, name):
    xs, w = drawn(script.window + 4)  # so the window forgets four positions
    runs = script.decode_all(xs, w)
    assert script.difference_from_matrices(runs, xs, w) < 1e-12
    wrong = dict(w, wk=w["wq"])
    for other in (script.decode_all(xs, wrong), script.decode_all(xs[::-1], w)):
        assert script.difference_from_matrices(dict(runs, **{name: other[name]}), xs, w) > 0.1
    for span in (script.window - 1, script.window + 1):
        other = functools.partial(script.sliding_window, span=span)
        shifted = dict(runs, window=script.decode(other, xs, w))
        assert script.difference_from_matrices(shifted, xs, w) > 0.01


@each_variant
def test_how_far_back_a_position_looks(script, name):
    """Change position 2: the window's positions 2, 3, 4 see it, 5 and 6 do not, to the bit."""
    xs, w = drawn()
    variant, weights = setting(script, name, w)
    before = script.decode(variant, xs, weights)[0]
    after = script.decode(variant, xs[:2] + [xs[0]] + xs[3:], weights)[0]
    seen_by = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
    assert seen_by == ([2, 3, 4] if name == "sliding_window" else [2, 3, 4, 5, 6])


@each_variant
def test_extreme_scores_stay_finite(script, name):
    """Scores of thousands, either sign: each position then has one key that takes all."""
    xs, w = drawn(scale=400.0)
    variant, weights = setting(script, name, w)
    for wq in weights["wq"]:
        keys = [matvec(weights["wk"][0], x) for x in xs[:4]]
        scores = matvec(keys, matvec(wq, xs[3]))
        assert max(map(abs, scores)) / math.sqrt(len(wq)) > 1000
    outputs = script.decode(variant, xs, weights)[0]
    assert all(math.isfinite(y) for out in outputs for y in out)


def project(script, x, matrix):
    return script.project(x, matrix, collections.Counter())


def attend(script, query, keys, values):
    return script.attend(query, keys, values, collections.Counter())


def test_attend_at_plus_and_minus_1000(script):
    assert attend(script, [1000.0], [[1.0], [-1.0]], [[2.0], [5.0]]) == [2.0]
    assert attend(script, [1000.0], [[1.0], [1.0]], [[2.0], [5.0]]) == [3.5]


def test_attend_by_hand(script):
    """d = 4: scores 2 log 3 and 0 over sqrt(4), so the weights are 3/4 and 1/4."""
    q = [2 * math.log(3), 0.0, 0.0, 0.0]
    values = [[4.0, 0.0, 1.0, 8.0], [8.0, 4.0, 1.0, 0.0]]
    out = attend(script, q, [[1.0, 0.0, 0.0, 9.0], [0.0] * 4], values)
    assert out == pytest.approx([5.0, 1.0, 1.0, 6.0])


# --- the marks ---


def body_lines(function):
    """[(line, is marked)] of a body, without indentation, the name of the index, and comments."""
    source = inspect.getsource(function)
    lines = source[source.index('"""', source.index('"""') + 3) + 3 :].splitlines()
    lines = [line.strip().partition("  #") for line in lines if line.strip()]
    return [
        (re.sub(r"\[(0|h|group)\]", "[index]", code), comment.startswith(" CHANGED"))
        for code, _, comment in lines
    ]


@pytest.mark.parametrize("name", VARIANTS[1:])
def test_lines_are_marked_where_they_differ(script, name):
    """From vanilla() to multi_head(), and from there to the others."""
    beside = body_lines(script.vanilla if name == "multi_head" else script.multi_head)
    known = [code for code, _ in beside]
    in_loop = set()
    for number, code in enumerate(known):
        if code.startswith("for "):
            in_loop = set(known[number + 1 : -1])
    before = set()
    for code, is_marked in body_lines(getattr(script, name)):
        has_moved = code.startswith("for ") and bool(before & in_loop)
        assert is_marked == (code not in known or has_moved), code
        before.add(code)


# --- identities ---


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_identities_hold_to_the_bit(script, monkeypatch, scale):
    xs, w = drawn(scale=scale)
    one, single = script.merge_heads(w), script.pool(w, 1)
    mha = script.decode(script.multi_head, xs, w)
    single_head = script.decode(script.vanilla, xs, one)
    with monkeypatch.context() as patch:
        patch.setattr(script, "n_head", 1)
        assert script.decode(script.multi_head, xs, one) == single_head
    group_per_head = functools.partial(script.grouped_query, num_groups=4)
    assert script.decode(group_per_head, xs, w) == mha
    assert script.decode(group_per_head, xs, script.pool(w, 4)) == mha
    mqa = script.decode(script.multi_query, xs, single)
    single_group = functools.partial(script.grouped_query, num_groups=1)
    assert script.decode(single_group, xs, single) == mqa
    for span in (len(xs), len(xs) + 1):
        far = functools.partial(script.sliding_window, span=span)
        assert script.decode(far, xs, w) == mha
    assert script.count_unequal(xs, w) == 0
    if scale == 1.0:  # else the forgotten position may have no weight at all
        near = functools.partial(script.sliding_window, span=len(xs) - 1)
        assert script.decode(near, xs, w)[0] != mha[0]
    near = functools.partial(script.sliding_window, span=WINDOW)
    alone = script.decode(script.multi_head, xs[-WINDOW:], w)[0]
    assert script.decode(near, xs, w)[0][-1] == alone[-1]
    pooled = script.pool(w, 2)
    copied = w | {name: [h for h in pooled[name] for _ in range(2)] for name in ("wk", "wv")}
    shared = script.decode(script.grouped_query, xs, pooled)[0]
    assert shared == script.decode(script.multi_head, xs, copied)[0]
    assert mqa[0] != mha[0]
    assert script.decode(script.vanilla, xs, one)[0] != mha[0]


@pytest.mark.parametrize("name", ["multi_query", "grouped_query", "sliding_window", "multi_head"])
def test_unequal_special_cases_are_counted(script, monkeypatch, name):
    """Turn the sign of one variant: the cases in which it meets another are no longer equal."""
    xs, w = drawn()
    original = getattr(script, name)

    def spoiled(*args, **options):
        return [-y for y in original(*args, **options)]

    monkeypatch.setattr(script, name, spoiled)
    expected = {"multi_query": 1, "grouped_query": 2, "sliding_window": 1, "multi_head": 2}
    assert script.count_unequal(xs, w) == expected[name]


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


def costs(name):
    """How many numbers the keys of a position have, and the span, for the formulas."""
    kv_width = SIZE * {"grouped_query": 2, "multi_query": 1}.get(name, HEADS)
    return kv_width, WINDOW if name == "sliding_window" else 10**9


@each_variant
def test_flops_are_those_that_the_floats_counted(script, name):
    """Every multiplication and addition that is really done, against counter and formula."""
    for n in (1, 3, 4, 6):
        xs, w = drawn(n)
        variant, weights = setting(script, name, w)
        Counted.done = {"*": 0, "+": 0}
        outputs, _, counts = script.decode(variant, counting(xs), counting(weights))
        assert isinstance(outputs[-1][-1], Counted)
        assert Counted.done["*"] == Counted.done["+"]
        assert Counted.done["*"] + Counted.done["+"] == counts["projections"] + counts["attention"]
        assert counts == script.predict(n, *costs(name))


@each_variant
def test_cache_is_what_the_formula_says(script, name):
    xs, w = drawn(9)
    variant, weights = setting(script, name, w)
    cache, held = [([], []) for _ in weights["wk"]], []
    for x in xs:
        variant(x, weights, cache, collections.Counter())
        held.append(sum(len(vector) for pair in cache for side in pair for vector in side))
    kv_width, span = costs(name)
    assert held == [2 * kv_width * min(n + 1, span) for n in range(9)]
    run = script.decode(variant, xs, weights)
    assert run.cache_sizes == held
    assert (run.costs["kept"], run.costs["read"]) == (held[-1], sum(held))


def test_variants_follow_the_papers_arithmetic(script):
    """12 positions, width 32, 4 heads of 8, GQA 2, a window of 8; written out."""
    pairs, near = 12 * 13 // 2, 8 * 9 // 2 + 4 * 8  # (query, key), all and within the window
    expected = {  # projections of q, k, v and output; scores and values; the cache
        "vanilla": (12 * 4 * 32 * 32 * 2, pairs * 64 * 2, 2 * 12 * 32),
        "MHA": (12 * 4 * 32 * 32 * 2, pairs * 64 * 2, 2 * 12 * 32),
        "GQA": (12 * (2 * 32 + 2 * 16) * 32 * 2, pairs * 64 * 2, 2 * 12 * 16),
        "MQA": (12 * (2 * 32 + 2 * 8) * 32 * 2, pairs * 64 * 2, 2 * 12 * 8),
        "window": (12 * 4 * 32 * 32 * 2, near * 64 * 2, 2 * 8 * 32),
    }
    runs = script.decode_all(*drawn(12))
    assert list(runs) == list(expected)
    for title, (_, kept, counts) in runs.items():
        assert (counts["projections"], counts["attention"], kept[-1]) == expected[title]


def test_mismatches_with_the_formulas_are_counted(script):
    runs = script.decode_all(*drawn(40))
    assert script.count_mismatches(runs) == 0
    runs["window"].costs["read"] += 1
    runs["MQA"].costs["kept"] -= 1
    runs["vanilla"].costs["attention"] = runs["window"].costs["attention"]
    assert script.count_mismatches(runs) == 3


def test_outputs_that_are_not_finite_are_counted(script, monkeypatch):
    xs, w = drawn()
    assert script.count_not_finite(xs, w) == 0
    original = script.multi_query

    def spoiled(x, w, cache, flops):
        out = original(x, w, cache, flops)
        return [math.nan if abs(y) > 1e9 else y for y in out[:-1]] + [math.inf]

    monkeypatch.setattr(script, "multi_query", spoiled)
    assert script.count_not_finite(xs, w) == 2 * len(xs)


def test_large_inputs_would_overflow_without_the_subtraction(script, monkeypatch):
    """As count_not_finite() says."""
    monkeypatch.setattr(script, "softmax", lambda scores: [math.exp(s) for s in scores])
    with pytest.raises(OverflowError):
        script.count_not_finite(*drawn(scale=1.0))


def test_formula_of_a_known_model(script):
    """Llama 2 7B as predict() describes it: 32 layers, 2 bytes per number, 2 GiB."""
    assert 32 * 2 * script.predict(4096, 32 * 128, 4096)["kept"] == 2 * 2**30


# --- redundancy and pooling ---


def test_pooling_is_the_mean_of_neighbours(script):
    heads = [[[1.0, 2.0]], [[3.0, 6.0]], [[10.0, 0.0]], [[20.0, -4.0]]]
    w = {"wq": heads, "wk": heads, "wv": heads[::-1], "wo": [[1.0]]}
    pooled = script.pool(w, 1)
    assert pooled == {"wq": heads, "wk": [[[8.5, 1.0]]], "wv": [[[8.5, 1.0]]], "wo": [[1.0]]}
    assert w["wk"] is heads
    assert script.pool(w, 2)["wk"] == [[[2.0, 4.0]], [[15.0, -2.0]]]
    assert script.pool(w, 4)["wk"] == heads


def test_unequal_groups_are_refused(script):
    with pytest.raises(ValueError, match="equal groups"):
        script.pool({"wk": [[[1.0]]] * 4, "wv": [[[1.0]]] * 4}, 3)


def test_merged_heads_give_the_same_queries(script):
    xs, w = drawn(1)
    one = script.merge_heads(w)
    for name in ("wq", "wk", "wv"):
        apart = [y for head in w[name] for y in project(script, xs[0], head)]
        assert project(script, xs[0], one[name][0]) == apart
    assert one["wo"] is w["wo"]


@pytest.fixture(scope="module")
def parts():
    """What mix_heads() mixes, with heads of 32 x 256, so that chance is small."""
    matrices = [gaussian(32, 256, 1 / 16, seed) for seed in range(10)]
    parts = {"wq": [], "wo": [], "common_k": matrices[0], "common_v": matrices[1]}
    return parts | {"own_k": matrices[2:6], "own_v": matrices[6:]}


def cosine(a, b):
    return math.fsum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))


def head_similarity(heads):
    """The mean cosine of all pairs of heads, each matrix taken as one long vector."""
    pairs = list(itertools.combinations([flat(head) for head in heads], 2))
    return math.fsum(cosine(a, b) for a, b in pairs) / len(pairs)


def test_similarity_is_the_cosine_of_two_heads(script, parts):
    """And the variance stays 1 / n_embd."""
    for similarity in (0.0, 0.3, 0.95):
        w = script.mix_heads(parts, similarity)
        for name in ("wk", "wv"):
            assert head_similarity(w[name]) == pytest.approx(similarity, abs=0.03)
            numbers = [x for head in w[name] for x in flat(head)]
            square = math.fsum(x * x for x in numbers) / len(numbers)
            assert 256 * square == pytest.approx(1, abs=0.05)
        assert w["wk"] != w["wv"]
    copies = script.mix_heads(parts, 1.0)
    assert copies["wk"] == [parts["common_k"]] * 4
    assert copies["wv"] == [parts["common_v"]] * 4
    assert script.mix_heads(parts, 0.0)["wv"] == parts["own_v"]
    assert script.mix_heads({**parts, "wo": "output"}, 0.0)["wo"] == "output"


def test_pooled_heads_have_the_expected_cosine_and_size(script, parts):
    """sqrt(s + (1 - s) / g), both: for independent heads, 1 / g of the variance (see pool())."""
    for similarity in (0.0, 0.5, 0.9):
        heads = script.mix_heads(parts, similarity)["wk"]
        for size in (2, 4):
            pooled = script.pool({"wk": heads, "wv": heads}, 4 // size)["wk"]
            expected = math.sqrt(similarity + (1 - similarity) / size)
            for h in (0, 3):
                head, mean = flat(heads[h]), flat(pooled[h // size])
                assert cosine(head, mean) == pytest.approx(expected, abs=0.03)
                assert math.hypot(*mean) / math.hypot(*head) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("num_groups", "variance"), [(4, 1), (2, 1 / 2), (1, 1 / 4)])
def test_variance_of_scores(script, num_groups, variance):
    """As draw_parts() and pool() say: over many draws, of independent positions and heads."""
    random.seed(5)
    squares = []
    for _ in range(60):
        w = script.pool(script.mix_heads(script.draw_parts(), 0.0), num_groups)
        a, b = script.gaussian(2, script.n_embd, 1.0)
        for h, wq in enumerate(w["wq"]):
            wk = w["wk"][h * num_groups // 4]
            score = script.dot(project(script, a, wq), project(script, b, wk)) / math.sqrt(8)
            squares.append(score * score)
    assert script.mean(squares) == pytest.approx(variance, rel=0.3)


def test_copies_of_a_head_lose_nothing(script):
    xs, w = drawn(copies=True)
    mha = script.decode(script.multi_head, xs, w)[0]
    for variant, n_kv in ((script.grouped_query, 2), (script.multi_query, 1)):
        for out, reference in zip(script.decode(variant, xs, script.pool(w, n_kv))[0], mha):
            assert out == pytest.approx(reference, abs=1e-12)


def test_reversing_a_head_keeps_its_scores_and_not_its_cosine(script):
    """Why the cosines of trained heads would not tell (the docstring of sweep())."""
    xs, w = drawn(copies=True)
    other = w | {name: [*w[name][:3], w[name][3][::-1]] for name in ("wq", "wk")}
    a, b = (script.decode(script.multi_head, xs, weights)[0] for weights in (w, other))
    for out, reference in zip(a, b):
        assert out == pytest.approx(reference, abs=1e-12)
    assert head_similarity(other["wk"]) < 0.6 < 0.99 < head_similarity(w["wk"])


def test_dot_refuses_different_lengths(script):
    assert script.dot([1.0, 2.0], [3.0, 4.0]) == 11.0
    with pytest.raises(ValueError):
        script.dot([1.0, 2.0], [1.0])


def test_compare(script):
    """At right angles and twice as long; half of it against it."""
    mha = [[3.0, 4.0], [0.0, 2.0]]
    found = script.compare([[-8.0, 6.0], [0.0, 1.0]], mha)
    assert found == pytest.approx((0.5, (2 + 0.5) / 2, (math.sqrt(5) + 0.5) / 2))
    assert script.compare(mha, mha) == pytest.approx((1.0, 1.0, 0.0))
    assert script.mean_field([found, script.Comparison(0.1, 0.0, 0.0)], "cosine") == 0.3


def naive_compare(outputs, mha):
    """(cosine, length, difference), from the norms."""
    rows = []
    for a, b in zip(outputs, mha):
        rows.append(
            (cosine(a, b), math.hypot(*a) / math.hypot(*b), math.dist(a, b) / math.hypot(*b))
        )
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows))


def causal(i, j):
    return j <= i


def test_sweep_measures_what_it_says(script, monkeypatch):
    """Two draws, two similarities: the same numbers from the naive reference."""
    monkeypatch.setattr(script, "similarities", (0.0, 0.9))
    random.seed(6)
    draws = [(gaussian(6, N), script.draw_parts()), (gaussian(6, N, seed=4), script.draw_parts())]
    for n_kv, found in zip((2, 1), script.sweep(draws), strict=True):
        assert list(found) == [0.0, 0.9]
        for similarity, comparisons in found.items():
            for (xs, parts), comparison in zip(draws, comparisons, strict=True):
                w = script.mix_heads(parts, similarity)
                expected = naive_compare(
                    naive(xs, script.pool(w, n_kv), causal), naive(xs, w, causal)
                )
                assert comparison == pytest.approx(expected)


def test_independent_variants_are_compared(script):
    random.seed(6)
    xs, parts = gaussian(12, N), script.draw_parts()
    found = script.compare_independent([(xs, parts), (xs, parts)])
    w = script.mix_heads(parts, 0.0)
    mha = naive(xs, w, causal)
    near = naive(xs, w, lambda i, j: i - 8 < j <= i)
    expected = {
        "vanilla": naive_compare(naive(xs, script.merge_heads(w), causal), mha),
        "MHA": (1, 1, 0),
        "GQA": naive_compare(naive(xs, script.pool(w, 2), causal), mha),
        "MQA": naive_compare(naive(xs, script.pool(w, 1), causal), mha),
        "window": naive_compare(near, mha),
    }
    assert list(found) == list(expected)
    for name, comparisons in found.items():
        assert comparisons[0] == pytest.approx(expected[name])
        assert comparisons[1] == comparisons[0]
