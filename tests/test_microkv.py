import itertools
import math
import random

import pytest
from harness import load, meets

CRITERIA = {
    "formula_mismatches": "== 0",
    "logit_mismatches": "== 0",
    "uncached_attention_growth": "3.8 to 4",
    "cached_attention_growth": "1.9 to 2.1",
    "prefill_uses": "> 2",
    "decode_uses": "1 to 1.02",
    "cache_bytes_per_token": "== 64",
    "byte_rates": "== 1",
    "contiguous_waste": "> 60",
    "paged_waste": "< 40",
    "runtime_seconds": "< 240",
}
N, HEADS, LAYERS, CONTEXT = 8, 2, 2, 64


def formula(start, end, vocab_size):
    """Multiplications of a step over positions start .. end - 1, position by position."""
    pairs = sum(i + 1 for i in range(start, end))
    each = LAYERS * (4 * N * N + 2 * 4 * N * N)
    products = LAYERS * HEADS * (N // HEADS) * pairs
    projections = each * (end - start) + vocab_size * N
    return {"projections": projections, "scores": products, "values": products}


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_many_steps_were_compared(run):
    assert 400 < run.metrics["compared_steps"] <= 8 * (CONTEXT - 1)


def test_paging_halves_the_memory_for_the_same_texts(run):
    assert run.metrics["paged_peak"] < 0.6 * run.metrics["contiguous_peak"]
    assert meets(run.metrics["paged_peak"], run.criteria["paged_peak"])


def test_the_model_was_trained(run):
    lines = [line.split() for line in run.stdout.splitlines() if line.startswith("step ")]
    losses = [float(words[words.index("loss") + 1]) for words in lines]
    assert math.fsum(losses[-6:]) / 6 < math.fsum(losses[:3]) / 3 - 0.4


def table(run, title):
    """Words of the lines under the one that starts so, until a blank line."""
    lines = run.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title)) + 1
    return [line.split() for line in itertools.takewhile(str.strip, lines[start:])]


def test_the_run_tells_prefill_from_decoding(run):
    """The table against the formula: the prompt costs the same both ways, later tokens do not."""
    rows = table(run, "positions ")
    assert [int(row[0]) for row in rows[1:]] == list(range(16, 65, 8))
    for i, row in enumerate(rows):
        n, counts = int(row[0]), list(map(int, row[1:7]))
        without, with_one = (formula(start, n, 27) for start in (0, n - 1 if i else 0))
        assert counts == [*without.values(), *with_one.values()]
        kept = 2 * LAYERS * N * n
        read = LAYERS * 12 * N * N + 27 * N + (2 * LAYERS * N * (n - 1) if i else 0)
        assert float(row[7]) == pytest.approx(sum(with_one.values()) / read, abs=0.005)
        assert int(row[8]) == 2 * kept
        assert row[9] == "#" * (2 * kept // 256)


def test_the_run_shows_the_waste_of_each_block_size(run, script):
    """The table against ages alone: no allocator, each text takes what its age rounds up to."""
    random.seed(42)
    lengths = [len(name) + 1 for name in random.sample(script.load_names(), 800)[500:]]
    rows = table(run, "block ")
    for row, size in zip(rows, (16, 8, 4, 2, 1), strict=True):
        used, taken = [], []
        for step in range(len(lengths) + max(lengths)):
            ages = [step - i + 1 for i, n in enumerate(lengths) if 1 <= step - i + 1 <= n]
            used.append(sum(ages))
            taken.append(sum(-(-age // size) * size for age in ages))
        assert int(row[0]) == size
        assert float(row[1]) == pytest.approx(100 - 100 * sum(used) / sum(taken), abs=0.06)
        assert int(row[2]) == max(taken)
        marks = [
            round(sum(xs) / len(xs) / 2) for xs in (used, [t - u for t, u in zip(taken, used)])
        ]
        assert row[3] == "#" * marks[0] + "." * marks[1]


def weights(script, vocab_size=27, seed=3):
    """A float model with larger weights than at the start, so that every part matters."""
    random.seed(seed)
    model = script.init_model(vocab_size)
    return {name: [[4 * p.data for p in row] for row in rows] for name, rows in model.items()}


def as_values(script, model):
    return {name: [[script.Value(x) for x in row] for row in rows] for name, rows in model.items()}


@pytest.fixture
def microgpt(monkeypatch):
    """microgpt with this script's sizes: one token at a time, tested against float_gpt.py."""
    module = load("microgpt")
    sizes = {"n_embd": N, "n_head": HEADS, "n_layer": LAYERS, "block_size": CONTEXT}
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    return module


def scores(script, model, tokens, cache):
    return script.project(script.forward(model, tokens, cache), model["lm_head"])


TOKENS = [26, 3, 0, 17, 8, 0, 26, 11, 4, 14, 26]


def test_all_tokens_at_once_equal_microgpt_one_by_one(script, microgpt):
    model, past, cache = weights(script), {}, script.new_cache()
    expected = [microgpt.gpt(model, token, i, past) for i, token in enumerate(TOKENS)]
    for row, other in zip(scores(script, model, TOKENS, cache), expected, strict=True):
        assert row == pytest.approx(other, abs=1e-12)
    for layer, (keys, values) in enumerate(cache):
        for mine, theirs in ((keys, past[layer][0]), (values, past[layer][1])):
            for row, other in zip(mine, theirs, strict=True):
                assert row == pytest.approx(other, abs=1e-12)


def test_any_split_into_calls_gives_the_same_bits(script):
    model, whole = weights(script), script.new_cache()
    expected = scores(script, model, TOKENS, whole)
    for cuts in ([1], [5], [4, 5, 9], range(1, len(TOKENS))):
        cache, rows = script.new_cache(), []
        for end in (*cuts, len(TOKENS)):
            rows += scores(script, model, TOKENS[:end], cache)
        assert rows == expected
        assert cache == whole


def test_only_new_positions_are_computed(script):
    model, cache = weights(script), script.new_cache()
    for end, new in ((4, 4), (5, 1), (5, 0), (11, 6)):
        assert len(script.forward(model, TOKENS[:end], cache)) == new
        assert [len(side) for layer in cache for side in layer] == [end] * 4


def test_a_later_token_changes_nothing_before_it(script):
    model = weights(script)
    rows = [scores(script, model, [26, 0, 5, last], script.new_cache()) for last in (3, 9)]
    assert rows[0][:3] == rows[1][:3]
    assert rows[0][3] != rows[1][3]


def test_the_past_is_read_from_the_cache(script):
    """Who changes a value in the cache changes what comes after it."""
    model, cache = weights(script), script.new_cache()
    script.forward(model, TOKENS[:5], cache)
    cache[1][1][2][6] += 1.0
    changed = scores(script, model, TOKENS, cache)
    assert changed != scores(script, model, TOKENS, script.new_cache())[5:]


def test_attend_heads_written_out(script):
    """Each head is softmax(q K^T / sqrt(d)) V of its own share of the numbers."""
    rng, d = random.Random(5), N // HEADS
    q, *rows = ([rng.gauss(0, 2) for _ in range(N)] for _ in range(11))
    keys, values = rows[:5], rows[5:]
    expected = []
    for head in range(HEADS):
        share = range(head * d, head * d + d)
        exps = [math.exp(math.fsum(q[i] * k[i] for i in share) / math.sqrt(d)) for k in keys]
        for i in share:
            expected.append(math.fsum(e * v[i] for e, v in zip(exps, values)) / math.fsum(exps))
    assert script.attend_heads(q, keys, values[:5]) == pytest.approx(expected, abs=1e-12)


def test_norm(script):
    scale = math.sqrt(12.5 + 1e-5)
    assert script.norm([[3.0, -4.0], [0.0, 0.0]]) == [
        pytest.approx([3 / scale, -4 / scale]),
        [0.0, 0.0],
    ]


class Counted(float):
    """A float that counts the multiplications it takes part in."""

    total = 0

    def __mul__(self, other):
        Counted.total += 1
        return float(self) * float(other)

    __rmul__ = __mul__


def test_projections_are_all_multiplications_by_weights(script):
    model = {
        name: [[Counted(x) for x in row] for row in rows] for name, rows in weights(script).items()
    }
    cache = script.new_cache()
    for end, new in ((7, 7), (8, 1)):
        script.multiplies.clear()
        Counted.total = 0
        scores(script, model, TOKENS[:end], cache)
        head = 27 * N * (new - 1)  # here every new position has logits
        expected = formula(end - new, end, 27)["projections"] + head
        assert script.multiplies["projections"] == Counted.total == expected


def test_scores_and_values_are_all_multiplications_in_attention(script):
    rng = random.Random(1)
    q, *rows = ([rng.gauss(0, 1) for _ in range(N)] for _ in range(13))
    for which in ("scores", "values"):
        keys, values = rows[:6], rows[6:]
        if which == "scores":
            keys = [[Counted(x) for x in row] for row in keys]
        else:
            values = [[Counted(x) for x in row] for row in values]
        script.multiplies.clear()
        Counted.total = 0
        script.attend_heads(q, keys, values)
        assert script.multiplies[which] == Counted.total == 6 * N
    assert set(script.multiplies) == {"scores", "values"}


@pytest.mark.parametrize(
    "prompt", [[26, 4, 0, 11], *(pytest.param(p, marks=pytest.mark.slow) for p in ([26], TOKENS))]
)
def test_write_compares_the_two_ways(script, prompt):
    """Every step: equal logits, counts by the formula, both bytes; tokens as drawn by hand."""
    model = weights(script)
    random.seed(9)
    steps = list(script.write(model, prompt))
    random.seed(9)
    tokens = list(prompt)
    for i, (found, without, with_one) in enumerate(steps):
        n = len(tokens)
        assert without.logits == with_one.logits
        assert without.logits == scores(script, model, tokens, script.new_cache())[-1]
        assert without.counted == without.predicted == formula(0, n, 27)
        start = n - 1 if i else 0  # the first step with a cache is the prefill
        assert with_one.counted == with_one.predicted == formula(start, n, 27)
        kept = 2 * LAYERS * HEADS * (N // HEADS) * n
        assert without.bytes == with_one.bytes == 2 * kept
        for step, past in ((without, 0), (with_one, start)):  # read is what an earlier step kept
            read = LAYERS * 12 * N * N + 27 * N + 2 * LAYERS * N * past
            assert step.uses == pytest.approx(sum(step.counted.values()) / read)
        exps = [math.exp(x - max(without.logits)) for x in without.logits]
        tokens += random.choices(range(27), weights=[e / math.fsum(exps) for e in exps])
        assert found == tokens
    assert len(steps) == CONTEXT + 1 - len(prompt)
    assert all(1 < step.uses < 1.02 for _, _, step in steps[1:])


def test_write_leaves_the_prompt_alone(script):
    prompt = [26, 4]
    next(script.write(weights(script), prompt))
    assert prompt == [26, 4]


def test_more_tokens_than_positions_raise(script):
    model = weights(script)
    script.forward(model, [3] * CONTEXT, script.new_cache())
    with pytest.raises(ValueError):
        script.forward(model, [3] * (CONTEXT + 1), script.new_cache())


@pytest.mark.parametrize("new, end", [(1, 1), (5, 5), (1, 9), (4, 9)])
def test_predict(script, new, end):
    assert script.predict(new, end, 27) == formula(end - new, end, 27)


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
            assert len(blocks) == -(-ages[text] // size)
        assert used == sum(ages.values())
    assert tables == {}
    assert sorted(free) == list(range(num_blocks))  # all are back
    assert born == {i: i for i in range(120)}


def test_blocks_are_used_again(script):
    """Of 64 blocks those for one text suffice for 50, if each ends before the next begins."""
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


def test_gradient_equals_finite_differences(script, monkeypatch):
    """One step of training at rate 1 moves each weight by minus the slope of the mean loss."""
    monkeypatch.setattr(script, "learning_rate", 1.0)
    monkeypatch.setattr(script, "num_steps", 1)
    model, text = weights(script), [26, 3, 0, 17, 26]

    def loss():
        rows = scores(script, model, text[:-1], script.new_cache())
        terms = []
        for row, target in zip(rows, text[1:]):
            terms.append(math.log(math.fsum(math.exp(x) for x in row)) - row[target])
        return math.fsum(terms) / len(terms)

    trained = as_values(script, model)
    assert next(script.train(trained, [text])) == pytest.approx(loss())
    rng = random.Random(0)
    for name, rows in model.items():
        for _ in range(4):
            i = {"wte": 3, "wpe": 2}.get(name, rng.randrange(len(rows)))
            j = rng.randrange(len(rows[i]))
            kept, slope = rows[i][j], 0.0
            for sign in (1, -1):
                rows[i][j] = kept + sign * 1e-5
                slope += sign * loss() / 2e-5
            rows[i][j] = kept
            assert trained[name][i][j].data == pytest.approx(kept - slope, abs=1e-7), name
            assert trained[name][i][j].grad == 0.0


def test_the_learning_rate_falls_to_zero(script, monkeypatch):
    monkeypatch.setattr(script, "num_steps", 4)
    model = as_values(script, weights(script))
    weight, seen, rates = model["lm_head"][5][0], [], []
    backward = script.Value.backward

    def spy(loss):
        backward(loss)
        seen.append((weight.data, weight.grad))

    monkeypatch.setattr(script.Value, "backward", spy)
    for _ in script.train(model, [[26, 3, 26]] * 4):
        before, slope = seen[-1]
        rates.append((before - weight.data) / slope)
    assert rates == pytest.approx([0.3, 0.225, 0.15, 0.075])


@pytest.mark.slow
def test_training_learns(script, monkeypatch):
    monkeypatch.setattr(script, "num_steps", 60)
    random.seed(1)
    losses = list(script.train(script.init_model(27), [[26, 3, 0, 3, 0, 26]] * 60))
    assert len(losses) == 60
    assert losses[0] == pytest.approx(math.log(27), abs=0.2)
    assert losses[-1] < 0.5


def test_init_model(script):
    random.seed(1)
    model = script.init_model(27)
    shapes = {name: (len(rows), len(rows[0])) for name, rows in model.items()}
    assert shapes == {
        "wte": (27, N),
        "wpe": (CONTEXT, N),
        "lm_head": (27, N),
        **{f"layer{i}.attn_{w}": (N, N) for i in range(LAYERS) for w in ("wq", "wk", "wv", "wo")},
        **{f"layer{i}.mlp_fc1": (4 * N, N) for i in range(LAYERS)},
        **{f"layer{i}.mlp_fc2": (N, 4 * N) for i in range(LAYERS)},
    }
    drawn = [p.data for rows in model.values() for row in rows for p in row]
    assert math.fsum(x * x for x in drawn) / len(drawn) == pytest.approx(0.08**2, rel=0.1)
    assert len({id(p) for rows in model.values() for row in rows for p in row}) == len(drawn)
