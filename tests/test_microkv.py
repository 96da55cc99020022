"""microkv: the cache against a model without one, its costs against formulas, and the blocks."""

import collections
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
from support.scripts import load

N, HEADS, LAYERS = 8, 2, 2
TOKENS = [26, 3, 0, 17, 8, 0, 26, 11, 4, 14, 26]


def weights(vocab_size=27, positions=16):
    return gpt_matrices(vocab_size, N, positions, LAYERS)


def scores(script, model, tokens, cache):
    """Logits [m][vocab_size] of the positions that are not in the cache."""
    counter = collections.Counter()
    vectors = script.forward(model, tokens, cache, counter)
    return [script.linear(x, model["lm_head"], counter) for x in vectors]


def formula(start, end, vocab_size=27):
    """Multiplications of a step over positions start .. end - 1, position by position."""
    pairs = sum(i + 1 for i in range(start, end))
    each = LAYERS * (4 * N * N + 2 * 4 * N * N)
    products = LAYERS * HEADS * (N // HEADS) * pairs
    projections = each * (end - start) + vocab_size * N
    return {"matrices": projections, "scores": products, "averages": products}


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
    model, past, cache = weights(), {}, {}
    expected = [microgpt.gpt(model, token, i, past) for i, token in enumerate(TOKENS)]
    for row, other in zip(scores(script, model, TOKENS, cache), expected, strict=True):
        assert row == pytest.approx(other, abs=1e-12)
    for layer, (keys, values) in cache.items():
        for mine, theirs in ((keys, past[layer][0]), (values, past[layer][1])):
            for row, other in zip(mine, theirs, strict=True):
                assert row == pytest.approx(other, abs=1e-12)


def test_any_split_into_calls_gives_the_same_bits(script):
    model, whole = weights(), {}
    expected = scores(script, model, TOKENS, whole)
    for cuts in ([1], [5], [4, 5, 9], range(1, len(TOKENS))):
        cache, rows = {}, []
        for end in (*cuts, len(TOKENS)):
            rows += scores(script, model, TOKENS[:end], cache)
        assert rows == expected
        assert cache == whole


def test_only_new_positions_are_computed(script):
    model, cache = weights(), {}
    for end, new in ((4, 4), (5, 1), (5, 0), (11, 6)):
        assert len(scores(script, model, TOKENS[:end], cache)) == new
        assert [len(side) for layer in cache.values() for side in layer] == [end] * 4
        assert script.num_cached(cache) == end
    assert script.num_cached({}) == 0


def test_a_later_token_changes_nothing_before_it(script):
    model = weights()
    rows = [scores(script, model, [26, 0, 5, last], {}) for last in (3, 9)]
    assert rows[0][:3] == rows[1][:3]
    assert rows[0][3] != rows[1][3]


def test_the_past_is_read_from_the_cache(script):
    """Who changes a value in the cache changes what comes after it."""
    model, cache = weights(), {}
    scores(script, model, TOKENS[:5], cache)
    cache[1][1][2][6] += 1.0
    changed = scores(script, model, TOKENS, cache)
    assert changed != scores(script, model, TOKENS, {})[5:]


def test_more_tokens_than_positions_raise(script):
    model = weights(positions=5)
    scores(script, model, [3] * 5, {})
    with pytest.raises(IndexError):
        scores(script, model, [3] * 6, {})


def test_attend_written_out(script):
    """Each head is softmax(q K^T / sqrt(d)) V of its own share of the numbers."""
    d = N // HEADS
    [q], keys, values = gaussian(1, N, 2), gaussian(5, N, 2, seed=4), gaussian(5, N, 2, seed=5)
    expected = []
    for start in range(0, N, d):
        share = slice(start, start + d)
        found = matvec([key[share] for key in keys], q[share])
        probs = softmax([score / math.sqrt(d) for score in found])
        expected += matvec(list(zip(*(value[share] for value in values))), probs)
    found = script.attend(q, keys, values, collections.Counter())
    assert found == pytest.approx(expected, abs=1e-12)


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
    cache = {}
    for end, new in ((7, 7), (8, 1)):
        counter = collections.Counter()
        Counted.total = 0
        vectors = script.forward(model, TOKENS[:end], cache, counter)
        script.linear(vectors[-1], model["lm_head"], counter)
        assert counter["matrices"] == Counted.total == formula(end - new, end)["matrices"]


@pytest.mark.parametrize("which", ["scores", "averages"])
def test_scores_and_values_are_all_multiplications_in_attention(script, which):
    [q], keys, values = gaussian(1, N), gaussian(6, N, seed=4), gaussian(6, N, seed=5)
    if which == "scores":
        keys = counting(keys)
    else:
        values = counting(values)
    counter = collections.Counter()
    Counted.total = 0
    script.attend(q, keys, values, counter)
    assert counter[which] == Counted.total == 6 * N
    assert set(counter) == {"scores", "averages"}


@pytest.mark.parametrize("prompt", [[26], [26, 4, 0, 11], TOKENS])
def test_both_ways_write_the_same_and_cost_what_the_formula_says(script, monkeypatch, prompt):
    """Every token: equal logits, counts by the formula, and the draw that was made by hand."""
    monkeypatch.setattr(script, "block_size", 12)
    model, tokens = weights(positions=12), list(prompt)
    ways = []
    for use_cache in (False, True):
        random.seed(9)
        ways.append(list(script.write(model, prompt, use_cache)))
    random.seed(9)
    for i, (plain, cached) in enumerate(zip(*ways, strict=True)):
        n = len(tokens)
        start = n - 1 if i else 0  # the first call with a cache reads the whole prompt
        assert plain[0] == cached[0] == tokens
        assert plain[1] == cached[1] == scores(script, model, tokens, {})[-1]
        assert plain[2:] == (formula(0, n), 0)
        assert cached[2:] == (formula(start, n), 2 * LAYERS * N * n)
        tokens += random.choices(range(27), weights=softmax(plain[1]))
    assert i == 12 - len(prompt)
    assert prompt == tokens[: len(prompt)]


def test_compare_writes_both_with_the_same_draws(script, monkeypatch):
    monkeypatch.setattr(script, "block_size", 12)
    model, prompt = weights(positions=12), TOKENS[:4]
    random.seed(9)
    plain, cached = script.compare(model, prompt)
    random.seed(9)
    steps = list(script.write(model, prompt, use_cache=True))
    assert cached == {len(step.text): step for step in steps}
    assert plain[12].text == steps[-1].text
    assert script.count_differences(plain, cached) == 0
    for n in range(4, 13):
        assert plain[n].counter == formula(0, n)
        assert cached[n].counter == formula(0 if n == 4 else n - 1, n)
    assert script.total(cached) == sum(sum(formula(n - 1, n).values()) for n in range(5, 13)) + sum(
        formula(0, 4).values()
    )


def test_count_differences(script):
    plain = {n: script.Step([0] * n, [0.5, 1.0], None, 0) for n in range(4, 9)}
    cached = dict(plain)
    assert script.count_differences(plain, cached) == 0
    cached[6] = script.Step([0] * 6, [0.5, 1.0 + 1e-15], None, 9)  # other logits
    assert script.count_differences(plain, cached) == 1
    cached[8] = script.Step([0] * 7 + [1], [0.5, 1.0], None, 9)  # another text
    assert script.count_differences(plain, cached) == 2


def as_steps(script, counters):
    """{length: Step} with these costs, and the numbers that a cache of this length keeps."""
    steps = {}
    for n, costs in counters.items():
        kept = 2 * LAYERS * N * n
        steps[n] = script.Step([0] * n, None, collections.Counter(costs), kept)
    return steps


def test_attention_growth(script):
    plain = as_steps(script, {n: formula(0, n) for n in (32, 64)})
    assert script.attention_growth(plain) == (64 * 65) / (32 * 33)
    cached = as_steps(script, {n: formula(n - 1, n) for n in (32, 64)})
    assert script.attention_growth(cached) == 2


def test_the_lean_plain_way_costs_what_compare_says(script):
    """At 64 positions: in the last layer all make keys and values, and one makes the rest."""
    whole = script.total(as_steps(script, {64: formula(0, 64)}))
    others = 63 * (2 * N * N + 2 * 4 * N * N) + N * 2 * (63 * 64 // 2)
    assert (whole, whole - others) == (165080, 92504)
    assert "92504" in script.compare.__doc__
    assert "165080" in script.compare.__doc__


def test_kept_bytes_are_those_of_the_numbers_in_the_cache(script):
    model, cache = weights(), {}
    scores(script, model, TOKENS, cache)
    numbers = [x for layer in cache.values() for side in layer for row in side for x in row]
    assert script.count_numbers(cache) == len(numbers) == len(TOKENS) * LAYERS * 2 * N
    assert script.kept_bytes(script.Step([], [], None, 5)) == 10


# --- blocks of memory ---


def test_a_text_takes_a_block_when_the_last_is_full(script, monkeypatch):
    monkeypatch.setattr(script, "memory_size", 6)
    steps = [(list(tables.get(0, [])), list(free)) for tables, _, free in script.serve([5], 2)]
    taken = [blocks for blocks, _ in steps]
    assert [len(blocks) for blocks in taken] == [1, 1, 2, 2, 3, 0]
    assert all(blocks == taken[4][: len(blocks)] for blocks in taken)  # what it has, it keeps
    assert sorted(taken[4]) == [0, 1, 2]
    assert steps[4][1] == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 16])
def test_no_block_is_lost_or_has_two_owners(script, size):
    rng = random.Random(size)
    lengths = [rng.randrange(1, 17) for _ in range(120)]
    num_blocks, born = script.memory_size // size, {}
    for step, (tables, sizes, free) in enumerate(script.serve(lengths, size)):
        owned = [block for blocks in tables.values() for block in blocks]
        assert sorted(owned + free) == list(range(num_blocks))
        ages = {}
        for text, blocks in tables.items():
            ages[text] = step - born.setdefault(text, step) + 1
            assert ages[text] <= lengths[text]
            assert len(blocks) == math.ceil(ages[text] / size)
        assert sizes == ages
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
    monkeypatch.setattr(script, "memory_size", 32)
    assert len(list(script.serve([8] * 4, 8))) == 12  # one step each, 8 for the last to end
    assert list(script.serve([4] * 20, 8))[-1][0] == {}
    with pytest.raises(IndexError):
        list(script.serve([5] * 20, 8))


def test_place_of(script):
    assert script.place_of([7, 2], 5, 4) == (2, 1)
    for size in (1, 2, 4, 8):
        found = {script.place_of(list(range(20)), position, size) for position in range(16)}
        assert len(found) == 16
        assert found == {(position // size, position % size) for position in range(16)}


@pytest.mark.parametrize("size", [4, 16])
def test_memory_use_is_what_the_ages_round_up_to(script, size):
    """No allocator: each text takes its age, rounded up to whole pages."""
    rng = random.Random(3)
    lengths = [rng.randrange(3, 16) for _ in range(60)]
    used, taken = [], []
    for step in range(max(i + n for i, n in enumerate(lengths)) + 1):
        ages = [step - i + 1 for i, n in enumerate(lengths) if 1 <= step - i + 1 <= n]
        used.append(sum(ages))
        taken.append(sum(math.ceil(age / size) * size for age in ages))
    use = script.memory_use(lengths, size)
    assert use == pytest.approx((sum(used) / len(used), sum(taken) / len(taken), max(taken)))
    assert script.waste(use) == pytest.approx(100 - 100 * sum(used) / sum(taken))


# --- training ---


def test_training_is_gradient_descent_with_a_falling_rate(script, monkeypatch):
    """Each step moves a weight by -0.3 (1 - step / num_steps) times the slope of the mean loss."""
    monkeypatch.setattr(script, "num_steps", 4)
    names = ["abc", "c", "ba", "a"]
    texts = [[3, *["abc".index(letter) for letter in name], 3] for name in names]
    model = lift(script, weights(4, 4))
    where = places_of_each(lower(model), 2)
    where += [(name, len(rows) - 1, len(rows[0]) - 1) for name, rows in model.items()]

    def loss(text, floats):
        rows = scores(script, floats, text[:-1], {})
        terms = [-math.log(softmax(row)[target]) for row, target in zip(rows, text[1:])]
        return math.fsum(terms) / len(terms)

    training = script.train(model, names, ["a", "b", "c"])
    for step, text in enumerate(texts):
        before = lower(model)
        expected = slopes(functools.partial(loss, text), before, where)
        assert next(training) == pytest.approx(loss(text, before))
        rate = 0.3 * (1 - step / 4)
        for (name, i, j), slope in zip(where, expected):
            moved = model[name][i][j].data - before[name][i][j]
            assert moved == pytest.approx(-rate * slope, abs=1e-8)
    assert next(training, None) is None


def test_drawings(script, capsys, monkeypatch):
    model, chars = weights(positions=64), list("abcdefghijklmnopqrstuvwxyz")
    script.show_three_tokens(model, [26, 0, 13], chars)
    plain = as_steps(script, {n: formula(0, n) for n in range(3, 65)})
    cached = as_steps(script, {n: formula(n - 1, n) for n in range(3, 65)})
    script.show_costs(".anna" * 13, plain, cached)
    lengths = [7, 5, 9, 4, 8, 6, 10, 3]
    script.show_memory(lengths)
    script.show_waste(script.memory_use(lengths, 16), {4: script.memory_use(lengths, 4)})
    out = capsys.readouterr().out
    assert "." in out
    assert " ####" in out  # bytes in the cache
    assert "##.." in out  # used, then empty
    assert out.isascii()
