"""microlora: adapters against the merged matrix, the frozen base, and the rank of a change."""

import math
import random
import statistics

import pytest
from support import float_gpt
from support.numbers import (
    flat,
    gaussian,
    gpt_matrices,
    gradient_of,
    gradients,
    lift,
    lower,
    matvec,
    pick,
    places_of_each,
    slopes,
    softmax,
)
from support.preference import CHARS, tokens_of
from support.scripts import load

MATRICES = ["lm_head", *(f"layer0.attn_{w}" for w in ("wq", "wk", "wv", "wo"))]
MATRICES += ["layer0.mlp_fc1", "layer0.mlp_fc2"]


def adapter_of(model, rank=2):
    """A float adapter in which no matrix is zero."""
    adapter = {}
    for i, name in enumerate(MATRICES):
        if name in model:
            n_out, n_in = len(model[name]), len(model[name][0])
            adapter[f"{name}.A"] = gaussian(n_out, rank, 0.3, seed=60 + 2 * i)
            adapter[f"{name}.B"] = gaussian(rank, n_in, 0.3, seed=61 + 2 * i)
    return adapter


def plain_merge(model, adapter):
    """W + A B for each matrix that has an adapter."""
    merged = {}
    for name, matrix in model.items():
        merged[name] = [list(row) for row in matrix]
        if f"{name}.A" in adapter:
            columns = list(zip(*adapter[f"{name}.B"]))
            for row, a in zip(merged[name], adapter[f"{name}.A"], strict=True):
                row[:] = [w + change for w, change in zip(row, matvec(columns, a), strict=True)]
    return merged


def mean_loss(script, model, tokens):
    losses = script.token_losses(model, tokens)
    return script.dot(losses, [1 / len(losses)] * len(losses))


# --- the run ---


def test_the_adapter_learns_the_new_letters_and_forgets_the_old(run):
    m = run.metrics
    assert m["base_samples_n_to_z"] < 0.05
    assert m["lora_samples_n_to_z"] > 0.9
    assert m["lora_loss_a"] > m["base_loss_a"] + 0.2
    assert m["full_loss_a"] > m["base_loss_a"] + 0.2


def test_numbers_that_training_keeps(run):
    assert run.metrics["lora_train_numbers"] == 3 * 331
    assert run.metrics["full_train_numbers"] == 3 * 4192
    assert run.metrics["trainable_fraction"] == pytest.approx(331 / 4192, abs=1e-4)


# --- the halves ---


def test_split_is_by_first_letter_and_each_name_is_on_one_side(script, monkeypatch):
    monkeypatch.setattr(script, "num_heldout", 2)
    monkeypatch.setattr(script, "num_base_steps", 3)
    monkeypatch.setattr(script, "num_adapt_steps", 1)
    names = "max nina max ada zoe nina bob ada carl zed mia otto maxine".split()
    (a_heldout, a_names), (b_heldout, b_names) = script.split(names)
    assert (a_heldout, a_names) == (["max", "ada"], ["bob", "carl", "mia"])
    assert (b_heldout, b_names) == (["nina", "zoe"], ["zed"])


def test_split_of_the_shipped_names(script):
    halves = script.split(script.load_names())
    assert [len(part) for half in halves for part in half] == [500, 700, 500, 250]
    for half, letters in zip(halves, ("abcdefghijklm", "nopqrstuvwxyz")):
        assert {name[0] for part in half for name in part} <= set(letters)
        assert not set(half[0]) & set(half[1])


# --- the adapter ---


def test_adapted_linear_written_out(script):
    model = {"w": [[1.0, 2.0], [3.0, 4.0], [0.0, -1.0]]}
    assert script.adapted_linear([1.0, 10.0], model, "w") == [21.0, 43.0, -10.0]
    model |= {"w.A": [[1.0], [0.0], [-2.0]], "w.B": [[5.0, 0.5]]}  # B x = 10
    assert script.adapted_linear([1.0, 10.0], model, "w") == [31.0, 43.0, -30.0]
    x = [script.Value(1.0), script.Value(10.0)]
    on_values = script.adapted_linear(x, lift(script, model), "w")
    assert [y.data for y in on_values] == [31.0, 43.0, -30.0]


def test_shapes_and_draws_of_the_adapter(script):
    weights = gpt_matrices()
    random.seed(1)
    adapter = lower(script.init_adapter(weights, 3))
    assert list(adapter) == [f"{name}.{half}" for name in MATRICES for half in "AB"]
    drawn = []
    for name in MATRICES:
        a, b = adapter[f"{name}.A"], adapter[f"{name}.B"]
        assert (len(a), {len(row) for row in a}) == (len(weights[name]), {3})
        assert b == [[0.0] * len(weights[name][0])] * 3
        drawn += flat(a)
    random.seed(1)
    assert drawn == [random.gauss(0, 0.08) for _ in drawn]
    sizes = [len(flat(script.init_adapter(weights, rank))) for rank in script.ranks]
    assert sizes == [331, 1324]


def test_adapted_model_starts_as_the_base_exactly(script):
    weights = gpt_matrices()
    base = lift(script, weights)
    adapter = script.init_adapter(base, 2)
    for tokens in (tokens_of("sam"), list(range(17))):
        expected = script.token_logits(weights, tokens)
        assert script.token_logits(lower(base | adapter), tokens) == expected
        on_values = script.token_logits(base | adapter, tokens)
        assert [[x.data for x in logits] for logits in on_values] == expected


def test_at_the_start_the_gradient_flows_to_b_alone(script):
    """Were A zero as well, neither would ever move."""
    base = lift(script, gpt_matrices())
    adapter = script.init_adapter(base, 2)
    mean_loss(script, base | adapter, tokens_of("nina")).backward()
    for name, matrix in gradients(adapter).items():
        assert any(flat(matrix)) == name.endswith(".B"), name
    zero = {name: [[0.0] * len(row) for row in matrix] for name, matrix in adapter.items()}
    adapter = lift(script, zero)
    mean_loss(script, base | adapter, tokens_of("nina")).backward()
    assert not any(flat(gradients(adapter)))


def test_gradients_follow_from_the_hand_derived_gradient_of_the_merged_matrix(script):
    """With M = W + A B: dL/dW = dL/dM, dL/dA = dL/dM B^T, dL/dB = A^T dL/dM."""
    weights = gpt_matrices()
    adapter = adapter_of(weights)
    for name in ("z", "wilhelminajames"):
        tokens = tokens_of(name)
        model = lift(script, weights | adapter)
        loss = mean_loss(script, model, tokens)
        loss.backward()
        expected_loss, d = float_gpt.loss_and_grads(plain_merge(weights, adapter), tokens)
        assert loss.data == pytest.approx(expected_loss, abs=1e-12)
        expected = dict(d)
        for key in MATRICES:
            a, b = adapter[f"{key}.A"], adapter[f"{key}.B"]
            expected[f"{key}.A"] = [matvec(b, row) for row in d[key]]
            columns = list(zip(*d[key]))
            expected[f"{key}.B"] = [matvec(columns, a_column) for a_column in zip(*a)]
        for key, matrix in gradients(model).items():
            assert flat(matrix) == pytest.approx(flat(expected[key]), abs=1e-11), key


def test_gradient_equals_finite_differences(script):
    weights = gpt_matrices(vocab_size=4, block_size=4)
    weights |= adapter_of(weights)
    tokens = [3, 0, 1, 2, 3]
    where = places_of_each(weights, 2)

    def loss(model):
        return mean_loss(script, model, tokens)

    found = pick(gradient_of(script, loss, weights), where)
    assert found == pytest.approx(slopes(loss, weights, where), rel=1e-5, abs=1e-8)


def test_without_an_adapter_it_is_microgpt(script):
    weights, gpt = gpt_matrices(), load("microgpt")
    for name in ("anna", "", "abcdefghijklmnopqrst"):  # also beyond the context
        tokens, cache = tokens_of(name), {}
        steps = range(min(16, len(tokens) - 1))
        logits = [gpt.gpt(weights, tokens[i], i, cache) for i in steps]
        assert script.token_logits(weights, tokens) == logits
        expected = [-math.log(softmax(row)[t]) for row, t in zip(logits, tokens[1:])]
        assert script.token_losses(weights, tokens) == pytest.approx(expected, abs=1e-12)


def test_at_the_first_letter_queries_and_keys_have_no_say(script):
    """One position to look at has all the weight: adapters on wq and wk alone cannot move it."""
    weights = gpt_matrices()
    some = {
        key: matrix
        for key, matrix in adapter_of(weights).items()
        if "attn_wq" in key or "attn_wk" in key
    }
    plain, adapted = (script.token_logits(m, [26, 0, 1, 26]) for m in (weights, weights | some))
    assert adapted[0] == plain[0]
    assert adapted[1] != plain[1]
    assert adapted[2] != plain[2]


def test_merged_weights_give_the_same_logits(script):
    weights = gpt_matrices()
    adapter = adapter_of(weights)
    merged, expected = script.merge(weights | adapter), plain_merge(weights, adapter)
    assert list(merged) == list(weights)
    assert flat(merged) == pytest.approx(flat(expected), abs=1e-12)
    assert 0 < script.max_difference(weights | adapter, merged, ["nina"], CHARS) < 1e-12
    assert script.merge(weights) == weights


# --- training ---


def test_base_trains_as_microgpt_does(script, monkeypatch):
    gpt, names = load("microgpt"), ["anna", "bo", "carl"]
    monkeypatch.setattr(gpt, "num_steps", 3)
    weights = gpt_matrices()
    theirs, ours = lift(gpt, weights), lift(script, weights)
    expected = list(gpt.train(theirs, names, CHARS))
    assert list(script.train(ours, [*ours], names, CHARS, 0.01)) == pytest.approx(expected)
    assert flat(lower(ours)) == pytest.approx(flat(lower(theirs)))


def test_training_an_adapter_leaves_the_base_as_it_was(script, monkeypatch):
    optimized = []
    adam_step = script.adam_step
    monkeypatch.setattr(
        script,
        "adam_step",
        lambda params, *rest: optimized.append(params) or adam_step(params, *rest),
    )
    weights = gpt_matrices()
    base = lift(script, weights)
    adapter = script.init_adapter(base, 1)
    start = lower(adapter)
    steps = script.train(base | adapter, [*adapter], ["nina", "zoe", "stan"], CHARS, 0.02)
    for _ in steps:
        assert not any(flat(gradients(base | adapter)))
        assert {id(p) for p in optimized[-1]} == {id(p) for p in flat(adapter)}
    assert len(optimized) == 3
    assert lower(base) == weights
    for key, matrix in lower(adapter).items():
        assert matrix != start[key], key


def test_full_fine_tuning_changes_every_matrix(script):
    weights = gpt_matrices()
    model = lift(script, weights)
    list(script.train(model, [*model], ["nina"], CHARS, 0.01))
    for key, matrix in lower(model).items():
        assert matrix != weights[key], key


# --- what measures ---


def test_evaluate_tells_the_first_letter_from_the_rest(script):
    weights, names = gpt_matrices(), ["nina", "q", "zoe"]
    scores = script.evaluate(weights, names, CHARS)
    assert list(scores) == ["all", "first", "rest"]
    for i, name in enumerate(names):
        tokens = tokens_of(name)
        logits = script.token_logits(weights, tokens)
        losses = [-math.log(softmax(row)[t]) for row, t in zip(logits, tokens[1:], strict=True)]
        assert scores["all"][i] == pytest.approx(statistics.fmean(losses))
        assert scores["first"][i] == pytest.approx(losses[0])
        assert scores["rest"][i] == pytest.approx(statistics.fmean(losses[1:]))


def test_paired_gain(script):
    before, after = [3.0, 2.0, 4.0, 2.5], [2.5, 2.25, 3.0, 2.5]
    gains = [b - a for b, a in zip(before, after)]
    gain, error = script.paired_gain(before, after)
    assert gain == pytest.approx(statistics.mean(gains))
    assert error == pytest.approx(statistics.stdev(gains) / 2)


def test_max_difference_finds_the_largest(script, monkeypatch):
    logits = {"m": {1: [[0.0, 1.0], [2.0, 3.0]], 2: [[5.0, 5.0]]}}
    logits["o"] = {1: [[0.5, 1.0], [2.0, 0.75]], 2: [[5.0, 4.0]]}
    monkeypatch.setattr(script, "token_logits", lambda model, tokens: logits[model][tokens])
    monkeypatch.setattr(script, "encode", lambda name, chars: name)
    assert script.max_difference("m", "o", [1, 2], CHARS) == 2.25
    assert script.max_difference("o", "m", [1, 2], CHARS) == 2.25
    assert script.max_difference("m", "m", [1, 2], CHARS) == 0.0


def test_sample_draws_from_the_tempered_distribution(script, monkeypatch):
    """Until the boundary or the end of the context, each token after those before it."""
    weights = gpt_matrices()
    weights |= adapter_of(weights)
    asked, answers = [], [4, 11, 8, 26]  # "eli" and the boundary

    def choices(population, weights):
        asked.append(weights)
        return [answers[len(asked) - 1]]

    monkeypatch.setattr(script.random, "choices", choices)
    assert script.sample(weights, CHARS) == "eli"
    for found, logits in zip(asked, script.token_logits(weights, tokens_of("eli")), strict=True):
        assert found == pytest.approx(softmax([x / 0.5 for x in logits]))
    monkeypatch.setattr(script.random, "choices", lambda population, weights: [0])
    assert script.sample(weights, CHARS) == "a" * 16


def test_rank1_share_of_matrices_with_known_singular_values(script):
    random.seed(5)
    outer = [[a * b for b in (1.0, -2.0, 0.5)] for a in (3.0, 0.0, 1.0, -1.0)]
    assert script.rank1_share(outer) == pytest.approx(1.0)
    assert script.rank1_share([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]) == pytest.approx(0.9)
    identity = [[float(i == j) for j in range(5)] for i in range(5)]
    assert script.rank1_share(identity) == pytest.approx(0.2)
    rng = random.Random(6)
    for _ in range(20):  # 2 x 2: the squared singular values are roots of x^2 - |M|^2 x + det^2
        a, b, c, d = (rng.gauss(0, 1) for _ in range(4))
        total, det = a * a + b * b + c * c + d * d, a * d - b * c
        largest = (total + math.sqrt(total * total - 4 * det * det)) / 2
        assert script.rank1_share([[a, b], [c, d]]) == pytest.approx(largest / total, rel=1e-6)


def test_change_shares(script):
    """A change of rank 1 has share 1, whatever the weights; noise has not."""
    shapes = {"wte": (27, 16), "lm_head": (27, 16), "layer0.attn_wq": (16, 16)}
    before, other = (
        {name: gaussian(*shape, seed=seed) for name, shape in shapes.items()} for seed in (1, 2)
    )
    random.seed(5)
    shares = script.change_shares(before, plain_merge(before, adapter_of(before, rank=1)))
    assert list(shares) == ["lm_head", "layer0.attn_wq"]  # a table is no matrix that multiplies
    for share, noise in shares.values():
        assert share == pytest.approx(1.0)
        assert 1 / 16 < noise < 0.4
    assert all(share < 0.4 for share, _ in script.change_shares(before, other).values())


def test_flat_and_as_floats(script):
    model = {"a": [[script.Value(1.0), script.Value(2.0)]], "b": [[script.Value(3.0)]]}
    copy = script.as_floats(model)
    assert copy == {"a": [[1.0, 2.0]], "b": [[3.0]]}
    assert script.flat(copy) == [1.0, 2.0, 3.0]
    model["a"][0][0].data = 9.0
    assert copy["a"] == [[1.0, 2.0]]


def test_drawings(script, capsys, monkeypatch):
    answers = iter(["nina", "max", "", "zoe"] * 50)
    monkeypatch.setattr(script, "sample", lambda model, chars: next(answers))
    assert script.show_samples("base", {}, CHARS) == 0.5
    script.draw_first_letters({"base": [0.0, 0.16, 0.5, 0.34], "on": [0.1, 0, 0]}, "abc")
    script.draw_shares({"lm_head": (0.8, 0.2)})
    out = capsys.readouterr().out
    assert "nina max" in out
    assert out.count("@") == 4
    assert out.count("#") == 25
    assert out.isascii()
