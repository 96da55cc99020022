"""microkv: the cache against a model without one, its costs against formulas, and the blocks."""

import functools
import math
import random

import pytest
from support.numbers import (
    gaussian,
    gpt_matrices,
    lift,
    lower,
    matvec,
    places_of_each,
    slopes,
    softmax,
)
from support.scripts import NAMES, load

N, HEADS, LAYERS = 8, 2, 2
TOKENS = [26, 3, 0, 17, 8, 0, 26, 11, 4, 14, 26]


def weights(vocab_size=27, positions=16):
    return gpt_matrices(vocab_size, N, positions, LAYERS)


def scores(script, model, tokens, cache):
    """Logits [m][vocab_size] of the positions that are not in the cache."""
    return script.project(script.forward(model, tokens, cache), model["lm_head"])


def formula(start, end, vocab_size=27):
    """Multiplications of a step over positions start .. end - 1, position by position."""
    pairs = sum(i + 1 for i in range(start, end))
    each = LAYERS * (4 * N * N + 2 * 4 * N * N)
    products = LAYERS * HEADS * (N // HEADS) * pairs
    projections = each * (end - start) + vocab_size * N
    return {"projections": projections, "scores": products, "values": products}


# --- the run ---


def test_many_steps_were_compared(run):
    assert 400 < run.metrics["compared_steps"] <= 8 * 63


def test_waste_of_contiguous_and_of_paged_memory(run):
    """No allocator: each text takes what its age rounds up to."""
    random.seed(42)
    names = random.sample(NAMES.read_text(encoding="ascii").split(), 800)[500:]
    lengths = [len(name) + 1 for name in names]
    for kind, size in (("contiguous", 16), ("paged", 4)):
        used, taken = [], []
        for step in range(len(lengths) + max(lengths)):
            ages = [step - i + 1 for i, n in enumerate(lengths) if 1 <= step - i + 1 <= n]
            used.append(sum(ages))
            taken.append(sum(math.ceil(age / size) * size for age in ages))
        waste = 100 - 100 * sum(used) / sum(taken)
        assert run.metrics[f"{kind}_waste"] == pytest.approx(waste, abs=1e-4)
        assert run.metrics[f"{kind}_peak"] == max(taken)


def test_drawings(run):
    lines = run.stdout.splitlines()
    assert any(line.endswith(" ####") for line in lines)  # the bytes kept
    assert any("##.." in line for line in lines)  # memory in use, then empty


# --- the model, with a cache and without ---


@pytest.fixture
def microgpt(monkeypatch):
    """microgpt with this script's sizes: one token at a time, tested against float_gpt.py."""
    module = load("microgpt")
    sizes = {"n_embd": N, "n_head": HEADS, "n_layer": LAYERS, "block_size": 16}
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_all_tokens_at_once_equal_microgpt_one_by_one(script, microgpt):
    model, past, cache = weights(), {}, script.new_cache()
    expected = [microgpt.gpt(model, token, i, past) for i, token in enumerate(TOKENS)]
    for row, other in zip(scores(script, model, TOKENS, cache), expected, strict=True):
        assert row == pytest.approx(other, abs=1e-12)
    for layer, (keys, values) in enumerate(cache):
        for mine, theirs in ((keys, past[layer][0]), (values, past[layer][1])):
            for row, other in zip(mine, theirs, strict=True):
                assert row == pytest.approx(other, abs=1e-12)


def test_any_split_into_calls_gives_the_same_bits(script):
    model, whole = weights(), script.new_cache()
    expected = scores(script, model, TOKENS, whole)
    for cuts in ([1], [5], [4, 5, 9], range(1, len(TOKENS))):
        cache, rows = script.new_cache(), []
        for end in (*cuts, len(TOKENS)):
            rows += scores(script, model, TOKENS[:end], cache)
        assert rows == expected
        assert cache == whole


def test_only_new_positions_are_computed(script):
    model, cache = weights(), script.new_cache()
    for end, new in ((4, 4), (5, 1), (5, 0), (11, 6)):
        assert len(script.forward(model, TOKENS[:end], cache)) == new
        assert [len(side) for layer in cache for side in layer] == [end] * 4


def test_a_later_token_changes_nothing_before_it(script):
    model = weights()
    rows = [scores(script, model, [26, 0, 5, last], script.new_cache()) for last in (3, 9)]
    assert rows[0][:3] == rows[1][:3]
    assert rows[0][3] != rows[1][3]


def test_the_past_is_read_from_the_cache(script):
    """Who changes a value in the cache changes what comes after it."""
    model, cache = weights(), script.new_cache()
    script.forward(model, TOKENS[:5], cache)
    cache[1][1][2][6] += 1.0
    changed = scores(script, model, TOKENS, cache)
    assert changed != scores(script, model, TOKENS, script.new_cache())[5:]


def test_more_tokens_than_positions_raise(script):
    model = weights(positions=5)
    script.forward(model, [3] * 5, script.new_cache())
    with pytest.raises(ValueError):
        script.forward(model, [3] * 6, script.new_cache())


def test_attend_heads_written_out(script):
    """Each head is softmax(q K^T / sqrt(d)) V of its own share of the numbers."""
    d = N // HEADS
    [q], keys, values = gaussian(1, N, 2), gaussian(5, N, 2, seed=4), gaussian(5, N, 2, seed=5)
    expected = []
    for start in range(0, N, d):
        share = slice(start, start + d)
        found = matvec([key[share] for key in keys], q[share])
        probs = softmax([score / math.sqrt(d) for score in found])
        expected += matvec(list(zip(*(value[share] for value in values))), probs)
    assert script.attend_heads(q, keys, values) == pytest.approx(expected, abs=1e-12)


def test_norm(script):
    scale = math.sqrt(12.5 + 1e-5)
    found = script.norm([[3.0, -4.0], [0.0, 0.0]])
    assert found == [pytest.approx([3 / scale, -4 / scale]), [0.0, 0.0]]


# --- what a step costs ---


class Counted(float):
    """A float that counts the multiplications it takes part in."""

    total = 0

    def __mul__(self, other):
        Counted.total += 1
        return float(self) * float(other)

    __rmul__ = __mul__


def counting(matrix):
    return [[Counted(x) for x in row] for row in matrix]


def test_projections_are_all_multiplications_by_weights(script):
    model = {name: counting(matrix) for name, matrix in weights().items()}
    cache = script.new_cache()
    for end, new in ((7, 7), (8, 1)):
        script.multiplies.clear()
        Counted.total = 0
        scores(script, model, TOKENS[:end], cache)
        head = 27 * N * (new - 1)  # here every new position has logits
        expected = formula(end - new, end)["projections"] + head
        assert script.multiplies["projections"] == Counted.total == expected


@pytest.mark.parametrize("which", ["scores", "values"])
def test_scores_and_values_are_all_multiplications_in_attention(script, which):
    [q], keys, values = gaussian(1, N), gaussian(6, N, seed=4), gaussian(6, N, seed=5)
    if which == "scores":
        keys = counting(keys)
    else:
        values = counting(values)
    script.multiplies.clear()
    Counted.total = 0
    script.attend_heads(q, keys, values)
    assert script.multiplies[which] == Counted.total == 6 * N
    assert set(script.multiplies) == {"scores", "values"}


@pytest.mark.parametrize("new, end", [(1, 1), (5, 5), (1, 9), (4, 9)])
def test_predict(script, new, end):
    assert script.predict(new, end, 27) == formula(end - new, end)


@pytest.mark.parametrize("prompt", [[26], [26, 4, 0, 11], TOKENS])
def test_write_compares_the_two_ways(script, monkeypatch, prompt):
    """Every step: equal logits, counts by the formula, both bytes; tokens as drawn by hand."""
    monkeypatch.setattr(script, "block_size", 12)
    model, tokens = weights(positions=12), list(prompt)
    random.seed(9)
    steps = list(script.write(model, prompt))
    random.seed(9)
    for i, (found, without, with_one) in enumerate(steps):
        n = len(tokens)
        start = n - 1 if i else 0  # the first step with a cache is the prefill
        assert without.logits == with_one.logits
        assert without.logits == scores(script, model, tokens, script.new_cache())[-1]
        assert without.counted == without.predicted == formula(0, n)
        assert with_one.counted == with_one.predicted == formula(start, n)
        assert without.bytes == with_one.bytes == 2 * (2 * LAYERS * N * n)
        for step, past in ((without, 0), (with_one, start)):  # read is what an earlier step kept
            read = LAYERS * 12 * N * N + 27 * N + 2 * LAYERS * N * past
            assert step.uses == pytest.approx(sum(step.counted.values()) / read)
        tokens += random.choices(range(27), weights=softmax(without.logits))
        assert found == tokens
    assert len(steps) == 13 - len(prompt)
    assert prompt == tokens[: len(prompt)]


# --- blocks of memory ---


def test_a_text_takes_a_block_when_the_last_is_full(script, monkeypatch):
    monkeypatch.setattr(script, "num_slots", 6)
    steps = [(list(tables.get(0, [])), list(free)) for tables, free, _ in script.serve([5], 2)]
    taken = [blocks for blocks, _ in steps]
    assert [len(blocks) for blocks in taken] == [1, 1, 2, 2, 3, 0]
    assert all(blocks == taken[4][: len(blocks)] for blocks in taken)  # what it has, it keeps
    assert sorted(taken[4]) == [0, 1, 2]
    assert steps[4][1] == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 16])
def test_no_block_is_lost_or_has_two_owners(script, size):
    rng = random.Random(size)
    lengths = [rng.randrange(1, 17) for _ in range(120)]
    num_blocks, born = script.num_slots // size, {}
    for step, (tables, free, used) in enumerate(script.serve(lengths, size)):
        owned = [block for blocks in tables.values() for block in blocks]
        assert sorted(owned + free) == list(range(num_blocks))
        ages = {}
        for text, blocks in tables.items():
            ages[text] = step - born.setdefault(text, step) + 1
            assert ages[text] <= lengths[text]
            assert len(blocks) == math.ceil(ages[text] / size)
        assert used == sum(ages.values())
    assert tables == {}
    assert sorted(free) == list(range(num_blocks))  # all are back
    assert born == {i: i for i in range(120)}


def test_blocks_are_used_again(script):
    """One block suffices for 50 texts if each ends before the next begins."""
    seen = set()
    for tables, _, _ in script.serve([1] * 50, 4):
        seen.update(block for blocks in tables.values() for block in blocks)
    assert len(seen) == 1


def test_more_than_there_is_raises(script, monkeypatch):
    monkeypatch.setattr(script, "num_slots", 32)
    assert len(list(script.serve([8] * 4, 8))) == 12  # one step each, 8 for the last to end
    assert list(script.serve([4] * 20, 8))[-1][0] == {}
    with pytest.raises(IndexError):
        list(script.serve([5] * 20, 8))


# --- training ---


def test_training_is_gradient_descent_with_a_falling_rate(script, monkeypatch):
    """Each step moves a weight by -0.3 (1 - step / num_steps) times the slope of the mean loss."""
    monkeypatch.setattr(script, "num_steps", 4)
    texts = [[3, 0, 1, 2, 3], [3, 2, 3], [3, 1, 0, 3], [3, 0, 3]]
    model = lift(script, weights(4, 4))
    where = places_of_each(lower(model), 2)

    def loss(text, floats):
        rows = scores(script, floats, text[:-1], script.new_cache())
        terms = [-math.log(softmax(row)[target]) for row, target in zip(rows, text[1:])]
        return math.fsum(terms) / len(terms)

    training = script.train(model, texts)
    for step, text in enumerate(texts):
        before = lower(model)
        expected = slopes(functools.partial(loss, text), before, where)
        assert next(training) == pytest.approx(loss(text, before))
        rate = 0.3 * (1 - step / 4)
        for (name, i, j), slope in zip(where, expected):
            moved = model[name][i][j].data - before[name][i][j]
            assert moved == pytest.approx(-rate * slope, abs=1e-8)
    assert next(training, None) is None


def test_init_model(script):
    random.seed(1)
    model = script.init_model(27)
    shapes = {name: (len(rows), len(rows[0])) for name, rows in model.items()}
    expected = gpt_matrices(27, N, 64, LAYERS)
    assert shapes == {name: (len(rows), len(rows[0])) for name, rows in expected.items()}
    drawn = [p.data for rows in model.values() for row in rows for p in row]
    assert math.fsum(x * x for x in drawn) / len(drawn) == pytest.approx(0.08**2, rel=0.1)
    assert len({id(p) for rows in model.values() for row in rows for p in row}) == len(drawn)
