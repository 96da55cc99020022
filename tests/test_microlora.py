"""microlora: corrections against the merged matrix, the frozen base, and the rank of a change."""

import math
import random
import statistics

import pytest
from support import float_gpt
from support.numbers import (
    adam,
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
            adapter[f"{name}.A"] = gaussian(rank, n_in, 0.3, seed=60 + 2 * i)
            adapter[f"{name}.B"] = gaussian(n_out, rank, 0.3, seed=61 + 2 * i)
    return adapter


def plain_merge(model, adapter):
    """W + B A for each matrix that has a correction."""
    merged = {}
    for name, matrix in model.items():
        merged[name] = [list(row) for row in matrix]
        if f"{name}.A" in adapter:
            columns = list(zip(*adapter[f"{name}.A"]))
            for row, b in zip(merged[name], adapter[f"{name}.B"], strict=True):
                row[:] = [w + change for w, change in zip(row, matvec(columns, b), strict=True)]
    return merged


def losses_of_tokens(script, model, tokens):
    """-log p of every next token, by the tests' own softmax."""
    logits = script.name_logits(model, tokens)
    return [-math.log(softmax(row)[token]) for row, token in zip(logits, tokens[1:])]


# --- the correction ---


def test_the_example_in_the_docstring(script):
    model = {"w": [[1, 0, 0, 1], [0, 2, 0, 0], [1, 1, 1, 0]]}
    assert script.adapted_linear([1, 2, 3, 4], model, "w") == [5, 4, 6]
    model |= {"w.A": [[1, 0, 2, -1]], "w.B": [[2], [0], [1]]}
    assert script.product(model["w.B"], model["w.A"]) == [[2, 0, 4, -2], [0] * 4, [1, 0, 2, -1]]
    assert script.adapted_linear([1, 2, 3, 4], model, "w") == [11, 4, 9]
    merged = [[3, 0, 4, -1], [0, 2, 0, 0], [2, 1, 3, -1]]
    assert script.merge(model) == {"w": merged}
    assert matvec(merged, [1, 2, 3, 4]) == [11, 4, 9]
    x = [script.Value(number) for number in (1, 2, 3, 4)]
    on_values = script.adapted_linear(x, lift(script, model), "w")
    assert [y.data for y in on_values] == [11, 4, 9]


def test_matrices_whose_shapes_do_not_fit(script):
    square = [[1.0, 2.0], [3.0, 4.0]]
    assert script.add(square, [[10.0, 20.0], [30.0, 40.0]]) == [[11.0, 22.0], [33.0, 44.0]]
    for other in ([[1.0, 2.0]], [[1.0], [2.0]]):
        with pytest.raises(ValueError):
            script.add(square, other)
    for b in ([[1.0, 2.0]], [[1.0], [2.0]]):  # of a higher rank than A; with more rows than W
        with pytest.raises(ValueError):
            script.adapted_linear([1.0], {"w": [[1.0]], "w.A": [[1.0]], "w.B": b}, "w")


def test_shapes_and_draws_of_the_adapter(script):
    weights = gpt_matrices()
    random.seed(1)
    adapter = lower(script.init_adapter(weights, 3))
    assert list(adapter) == [f"{name}.{half}" for name in MATRICES for half in "AB"]
    drawn = []
    for name in MATRICES:
        a, b = adapter[f"{name}.A"], adapter[f"{name}.B"]
        assert (len(a), {len(row) for row in a}) == (3, {len(weights[name][0])})
        assert b == [[0.0] * 3] * len(weights[name])
        drawn += flat(a)
    random.seed(1)
    assert drawn == [random.gauss(0, 0.08) for _ in drawn]
    assert [script.count(script.init_adapter(weights, rank)) for rank in (1, 4)] == [331, 1324]
    assert script.count(weights) == 4192


def test_adapted_model_starts_as_the_base_exactly(script):
    weights = gpt_matrices()
    base = lift(script, weights)
    adapter = script.init_adapter(base, 2)
    for tokens in (tokens_of("sam"), list(range(17))):
        expected = script.name_logits(weights, tokens)
        assert script.name_logits(lower(base | adapter), tokens) == expected
        on_values = script.name_logits(base | adapter, tokens)
        assert [[x.data for x in logits] for logits in on_values] == expected


def test_at_the_start_the_gradient_flows_to_b_alone(script):
    """Were A zero as well, neither would ever move."""
    base = lift(script, gpt_matrices())
    adapter = script.init_adapter(base, 2)
    script.name_loss(base | adapter, tokens_of("nina")).backward()
    for name, matrix in gradients(adapter).items():
        assert any(flat(matrix)) == name.endswith(".B"), name
    zero = {name: [[0.0] * len(row) for row in matrix] for name, matrix in adapter.items()}
    adapter = lift(script, zero)
    script.name_loss(base | adapter, tokens_of("nina")).backward()
    assert not any(flat(gradients(adapter)))


def test_gradients_follow_from_the_hand_derived_gradient_of_the_merged_matrix(script):
    """With M = W + B A: dL/dW = dL/dM, dL/dB = dL/dM A^T, dL/dA = B^T dL/dM."""
    weights = gpt_matrices()
    adapter = adapter_of(weights)
    for name in ("z", "wilhelminajames"):
        tokens = tokens_of(name)
        model = lift(script, weights | adapter)
        loss = script.name_loss(model, tokens)
        loss.backward()
        expected_loss, d = float_gpt.loss_and_grads(plain_merge(weights, adapter), tokens)
        assert loss.data == pytest.approx(expected_loss, abs=1e-12)
        expected = dict(d)
        for key in MATRICES:
            a, b = adapter[f"{key}.A"], adapter[f"{key}.B"]
            expected[f"{key}.B"] = [matvec(a, row) for row in d[key]]
            columns = list(zip(*d[key]))
            expected[f"{key}.A"] = [matvec(columns, b_column) for b_column in zip(*b)]
        for key, matrix in gradients(model).items():
            assert flat(matrix) == pytest.approx(flat(expected[key]), abs=1e-11), key


def test_gradient_equals_finite_differences(script):
    weights = gpt_matrices(vocab_size=4, block_size=4)
    weights |= adapter_of(weights)
    tokens = [3, 0, 1, 2, 3]
    where = places_of_each(weights, 2)

    def loss(model):
        return script.name_loss(model, tokens)

    found = pick(gradient_of(script, loss, weights), where)
    assert found == pytest.approx(slopes(loss, weights, where), rel=1e-5, abs=1e-8)


# --- the model ---


def test_without_an_adapter_it_is_microgpt(script, monkeypatch):
    gpt = load("microgpt")
    for layers in (1, 2):
        monkeypatch.setattr(script, "n_layer", layers)
        monkeypatch.setattr(gpt, "n_layer", layers)
        weights = gpt_matrices(n_layer=layers)
        for name in ("anna", "", "abcdefghijklmnopqrst"):  # also beyond the context
            tokens, cache = tokens_of(name), {}
            steps = range(min(16, len(tokens) - 1))
            logits = [gpt.gpt(weights, tokens[i], i, cache) for i in steps]
            assert script.name_logits(weights, tokens) == logits


def test_at_the_first_letter_queries_and_keys_have_no_say(script):
    """One position to look at has all the weight: corrections of wq and wk cannot move it."""
    weights = gpt_matrices()
    some = {
        key: matrix
        for key, matrix in adapter_of(weights).items()
        if "attn_wq" in key or "attn_wk" in key
    }
    plain, adapted = (script.name_logits(m, [26, 0, 1, 26]) for m in (weights, weights | some))
    assert adapted[0] == plain[0]
    value = {key: w for key, w in adapter_of(weights).items() if "attn_wv" in key}
    assert script.name_logits(weights | value, [26, 0, 26])[0] != plain[0]  # wv has a say
    assert adapted[1] != plain[1]
    assert adapted[2] != plain[2]
    boundary = script.first_letter_probs(weights)
    assert boundary == script.first_letter_probs(weights | some)
    assert boundary == pytest.approx(softmax(plain[0]))


def test_merged_weights_give_the_same_logits(script):
    weights = gpt_matrices()
    adapter = adapter_of(weights)
    merged, expected = script.merge(weights | adapter), plain_merge(weights, adapter)
    assert list(merged) == list(weights)
    assert flat(merged) == pytest.approx(flat(expected), abs=1e-12)
    assert 0 < script.max_difference(weights | adapter, merged, ["nina"], CHARS) < 1e-12
    assert script.merge(weights) == weights


# --- training ---


def test_full_fine_tuning_is_adam_on_hand_derived_gradients(script):
    """Every matrix is trained, and the rate falls from its first value to 0."""
    names, rate = ["nina", "bo", "stan"], 0.02
    weights = gpt_matrices()
    model = lift(script, weights)
    losses = list(script.fine_tune(model, model, names, CHARS, rate))
    params = flat(weights)
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step, name in enumerate(names):
        numbers = iter(params)
        now = {key: [[next(numbers) for _ in row] for row in w] for key, w in weights.items()}
        expected, d = float_gpt.loss_and_grads(now, tokens_of(name))
        assert losses[step] == pytest.approx(expected, abs=1e-9)
        grads = [x for key in weights for x in flat(d[key])]
        params, m, v = adam(params, grads, m, v, step + 1, rate * (1 - step / len(names)))
    assert flat(lower(model)) == pytest.approx(params, abs=1e-7)


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
    names = ["nina", "zoe", "stan"]
    losses = []
    for loss in script.fine_tune(base | adapter, adapter, names, CHARS, 0.02):
        losses.append(loss)
        assert not any(flat(gradients(base | adapter)))
        assert {id(p) for p in optimized[-1]} == {id(p) for p in flat(adapter)}
    assert len(optimized) == 3
    assert lower(base) == weights
    assert losses[0] == script.name_loss(weights, tokens_of("nina"))
    for key, matrix in lower(adapter).items():
        assert matrix != start[key], key


# --- what measures ---


def test_split_is_by_first_letter_and_each_name_is_on_one_side(script, monkeypatch):
    monkeypatch.setattr(script, "num_heldout", 2)
    names = "max nina max ada zoe nina bob ada carl zed mia otto maxine".split()
    a = script.split_half(names, script.half_a, 3)
    b = script.split_half(names, script.half_b, 1)
    assert a == (["max", "ada"], ["bob", "carl", "mia"])
    assert b == (["nina", "zoe"], ["zed"])
    assert script.half_a + script.half_b == "".join(CHARS)


def test_losses_tell_the_first_letter_from_the_later_ones(script):
    weights, names = gpt_matrices(), ["nina", "q", "zoe", "abcdefghijklmnopqrst"]
    losses = script.name_losses(weights, names, CHARS)
    for i, name in enumerate(names):
        expected = losses_of_tokens(script, weights, tokens_of(name))
        assert len(expected) == min(16, len(name) + 1)
        assert losses.whole[i] == pytest.approx(statistics.fmean(expected))
        assert losses.first[i] == pytest.approx(expected[0])
        assert losses.later[i] == pytest.approx(statistics.fmean(expected[1:]))
    assert {len(part) for part in losses} == {4}


def test_gains_and_their_standard_error(script):
    found = script.gains([3.0, 2.0, 4.0, 2.5], [2.5, 2.25, 3.0, 2.5])
    assert found == [0.5, -0.25, 1.0, 0.0]
    assert script.standard_error(found) == pytest.approx(statistics.stdev(found) / 2)
    with pytest.raises(ValueError):
        script.gains([1.0], [1.0, 2.0])


def test_counts(script):
    model = {"a": [[1.0, 2.0], [3.0, 4.0]], "b": [[5.0]]}
    assert script.all_numbers(model) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert script.count(model) == 5
    last_bit = math.nextafter(2.0, 3.0)
    assert script.count_different(model, {"a": [[1.0, last_bit], [0.0, 4.0]], "b": [[5.0]]}) == 2
    with pytest.raises(ValueError):
        script.count_different(model, {"a": model["a"]})


def test_max_difference_finds_the_largest(script, monkeypatch):
    logits = {"m": {1: [[0.0, 1.0], [2.0, 3.0]], 2: [[5.0, 5.0]]}}
    logits["o"] = {1: [[0.5, 1.0], [2.0, 0.75]], 2: [[5.0, 4.0]]}
    monkeypatch.setattr(script, "name_logits", lambda model, tokens: logits[model][tokens])
    monkeypatch.setattr(script, "encode", lambda name, chars: name)
    assert script.max_difference("m", "o", [1, 2], CHARS) == 2.25
    assert script.max_difference("o", "m", [1, 2], CHARS) == 2.25
    assert script.max_difference("m", "m", [1, 2], CHARS) == 0.0


def test_rank1_share_of_matrices_with_known_singular_values(script):
    """The share is s_1^2 / (sum of all s_i^2), in the singular values s (Eckart & Young 1936)."""
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


def test_shares_of_changes(script):
    """A correction of rank 1 is found again, whatever the weights. Noise is nothing like it."""
    shapes = {"wte": (27, 16), "lm_head": (27, 16), "layer0.attn_wq": (16, 16)}
    before = {name: gaussian(*shape, seed=1) for name, shape in shapes.items()}
    after = plain_merge(before, adapter_of(before, rank=1))
    found = script.changes(before, after)
    assert flat(found["wte"]) == [0.0] * (27 * 16)
    assert found["lm_head"][1][2] == after["lm_head"][1][2] - before["lm_head"][1][2]
    random.seed(5)
    shares = script.rank1_shares(found)
    assert list(shares) == ["lm_head", "layer0.attn_wq"]  # a table does not multiply
    assert list(shares.values()) == pytest.approx([1.0, 1.0])
    noise = script.random_like(before)
    assert {name: (len(w), len(w[0])) for name, w in noise.items()} == shapes
    assert statistics.fmean(flat(noise)) == pytest.approx(0, abs=0.1)
    assert statistics.pstdev(flat(noise)) == pytest.approx(1, abs=0.1)
    assert all(1 / 16 < share < 0.4 for share in script.rank1_shares(noise).values())


def test_drawings(script, capsys, monkeypatch):
    weights = gpt_matrices()
    answers = iter(["nina", "max", "", "zoe"] * 50)
    monkeypatch.setattr(script, "sample", lambda model: tokens_of(next(answers)))
    script.show_example()
    losses = script.Losses([3.0, 2.0], [5.0, 6.0], [1.0, 1.5])
    half = dict.fromkeys(("base", "rank 1"), losses)
    script.show_losses(dict.fromkeys(half, {"a": [[1.0]]}), half, half)
    script.show_writing({"base": weights}, CHARS)
    script.show_shares({"lm_head": 0.8}, {"lm_head": 0.2})
    out = capsys.readouterr().out
    assert "11 4 9" in out
    assert "nina max" in out
    assert "100 of 200" in out
    assert f"is {sum(softmax(script.name_logits(weights, [26, 26])[0])[13:26]):.2f}." in out
    assert "#" * 20 in out
    assert out.isascii()
