import itertools
import math
import random
import statistics

import float_gpt
import pytest
from harness import load, meets

CRITERIA = {
    "trainable_fraction": "< 0.1",
    "base_loss_a": "< 2.5",
    "frozen_changed": "== 0",
    "merged_max_diff": "< 1e-9",
    "runtime_seconds": "< 420",
}
CHARS = list("abcdefghijklmnopqrstuvwxyz")
MATRICES = ["lm_head", *(f"layer0.{w}" for w in "attn_wq attn_wk attn_wv attn_wo".split())]
MATRICES += ["layer0.mlp_fc1", "layer0.mlp_fc2"]


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_the_adapter_lowers_the_loss_on_n_to_z(run):
    assert run.metrics["lora_loss_b"] < run.metrics["base_loss_b"] - 0.3
    assert meets(run.metrics["lora_loss_b"], run.criteria["lora_loss_b"])


def test_without_the_adapter_the_base_is_back(run):
    assert run.metrics["off_loss_a"] == run.metrics["base_loss_a"]
    assert meets(run.metrics["off_loss_a"], run.criteria["off_loss_a"])
    rows = table(run)
    assert rows["adapter off"][1:] == rows["base"][1:]


def test_full_fine_tuning_is_nearly_of_low_rank(run):
    assert run.metrics["change_rank1_share"] > 2 * run.metrics["random_rank1_share"]
    assert meets(run.metrics["change_rank1_share"], run.criteria["change_rank1_share"])


def test_samples_start_as_the_names_adapted_to(run):
    assert run.metrics["base_samples_n_to_z"] < 0.05
    assert run.metrics["lora_samples_n_to_z"] > 0.9


def test_numbers_that_training_keeps(run):
    assert run.metrics["lora_train_numbers"] == 3 * 331
    assert run.metrics["full_train_numbers"] == 3 * 4192
    assert run.metrics["trainable_fraction"] == pytest.approx(331 / 4192, abs=1e-4)


def table(run):
    """{model: [numbers trained, A all, first, rest, B all, first, rest]} of the printed table."""
    lines = run.stdout.splitlines()
    start = lines.index(next(line for line in lines if line.startswith("Held-out loss")))
    rows = (line for line in lines[start + 3 : start + 8])
    return {row[:14].strip(): [float(x) for x in row[14:].split()] for row in rows}


def test_table_of_ranks_and_what_is_forgotten(run):
    rows, metrics = table(run), run.metrics
    assert [row[0] for row in rows.values()] == [4192, 331, 1324, 4192, 0]
    for title, name in (("base", "base"), ("rank 1", "lora"), ("full", "full")):
        assert rows[title][1] == pytest.approx(metrics[f"{name}_loss_a"], abs=6e-4)
        assert rows[title][4] == pytest.approx(metrics[f"{name}_loss_b"], abs=6e-4)
    for title in ("rank 1", "rank 4", "full"):
        assert rows[title][1] > rows["base"][1] + 0.2  # while it is on, A to M is forgotten,
        assert rows[title][2] > rows["base"][2] + 1  # which is a matter of the first letter
        assert rows[title][5] < rows["base"][5] - 2
    for title, name in (("rank 1", "lora"), ("full", "full")):
        gain = rows["base"][6] - rows[title][6]
        assert gain == pytest.approx(metrics[f"{name}_rest_gain_b"], abs=1.1e-3)
        assert gain < rows["base"][5] - rows[title][5]


def test_output_shows_letters_bars_and_samples(run):
    lines = run.stdout.splitlines()
    assert "first letter:   a b c d e f g h i j k l m n o p q r s t u v w x y z" in lines
    assert sum(line.startswith("held out, N-Z   ") for line in lines) == 1
    assert [line.split()[0] for line in lines if line.endswith("#") and "  0." in line] == MATRICES
    # All adaptations start from one base, and an adapter that adds nothing yet.
    starts = [
        line.split("loss")[1].split()[0] for line in lines if line.startswith("step    1/250")
    ]
    assert len(starts) == 3
    assert len(set(starts)) == 1


def base_weights(script, seed=3):
    """A float model with larger weights than at the start, so that every part matters."""
    random.seed(seed)
    model = script.init_model(27)
    return {name: [[4 * p.data for p in row] for row in rows] for name, rows in model.items()}


def adapter_weights(script, weights, rank=2, seed=4):
    """A float adapter in which no matrix is zero."""
    random.seed(seed)
    adapter = script.init_adapter(weights, rank)
    return {name: [[random.gauss(0, 0.3) for _ in row] for row in m] for name, m in adapter.items()}


def as_values(script, weights):
    return {name: [[script.Value(x) for x in row] for row in m] for name, m in weights.items()}


def plain_merge(weights, adapter):
    """W + A B, entry by entry."""
    merged = {name: [list(row) for row in m] for name, m in weights.items()}
    for name in MATRICES:
        a, b = adapter[f"{name}.A"], adapter[f"{name}.B"]
        for i, row in enumerate(merged[name]):
            for j in range(len(row)):
                row[j] += math.fsum(a[i][k] * b[k][j] for k in range(len(b)))
    return merged


def mean_loss(script, model, tokens):
    losses = script.token_losses(model, tokens)
    return script.dot(losses, [1 / len(losses)] * len(losses))


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


def test_adapted_linear_written_out(script):
    model = {"w": [[1.0, 2.0], [3.0, 4.0], [0.0, -1.0]]}
    assert script.adapted_linear([1.0, 10.0], model, "w") == [21.0, 43.0, -10.0]
    model |= {"w.A": [[1.0], [0.0], [-2.0]], "w.B": [[5.0, 0.5]]}  # B x = 10
    assert script.adapted_linear([1.0, 10.0], model, "w") == [31.0, 43.0, -30.0]
    on_values, x = as_values(script, model), [script.Value(1.0), script.Value(10.0)]
    assert [y.data for y in script.adapted_linear(x, on_values, "w")] == [31.0, 43.0, -30.0]


def test_shapes_and_draws_of_the_adapter(script):
    weights = base_weights(script)
    random.seed(1)
    adapter = script.init_adapter(weights, 3)
    assert list(adapter) == [f"{name}.{half}" for name in MATRICES for half in "AB"]
    for name in MATRICES:
        a, b = adapter[f"{name}.A"], adapter[f"{name}.B"]
        assert (len(a), {len(row) for row in a}) == (len(weights[name]), {3})
        assert (len(b), {len(row) for row in b}) == (3, {len(weights[name][0])})
        assert all(p.data == 0.0 for row in b for p in row)
    drawn = [p.data for key, m in adapter.items() if key[-1] == "A" for row in m for p in row]
    random.seed(1)
    assert drawn == [random.gauss(0, 0.08) for _ in drawn]
    sizes = [len(script.flat(script.init_adapter(weights, rank))) for rank in script.ranks]
    assert sizes == [331, 1324]


def test_adapted_model_starts_as_the_base_exactly(script):
    weights = base_weights(script)
    base = as_values(script, weights)
    adapter = script.init_adapter(base, 2)
    for tokens in ([26, 18, 0, 12, 26], list(range(17))):
        expected = script.token_logits(weights, tokens)
        assert script.token_logits(script.as_floats(base | adapter), tokens) == expected
        on_values = script.token_logits(base | adapter, tokens)
        assert [[x.data for x in logits] for logits in on_values] == expected


def test_at_the_start_the_gradient_flows_to_b_alone(script):
    base = as_values(script, base_weights(script))
    adapter = script.init_adapter(base, 2)
    mean_loss(script, base | adapter, script.encode("nina", CHARS)).backward()
    assert all(p.grad == 0 for key, m in adapter.items() if key[-1] == "A" for r in m for p in r)
    for name in MATRICES:
        assert any(p.grad != 0 for row in adapter[f"{name}.B"] for p in row), name


def test_were_both_zero_neither_would_move(script):
    base = as_values(script, base_weights(script))
    adapter = script.init_adapter(base, 2)
    for p in script.flat(adapter):
        p.data = 0.0
    mean_loss(script, base | adapter, script.encode("nina", CHARS)).backward()
    assert all(p.grad == 0 for p in script.flat(adapter))


def test_gradients_follow_from_the_hand_derived_gradient_of_the_merged_matrix(script):
    """With M = W + A B: dL/dW = dL/dM, dL/dA = dL/dM B^T, dL/dB = A^T dL/dM."""
    weights = base_weights(script)
    adapter = adapter_weights(script, weights)
    for name in ("nina", "z", "wilhelminajames"):
        tokens = script.encode(name, CHARS)
        model = as_values(script, weights | adapter)
        loss = mean_loss(script, model, tokens)
        loss.backward()
        expected_loss, d = float_gpt.loss_and_grads(plain_merge(weights, adapter), tokens)
        assert loss.data == pytest.approx(expected_loss, abs=1e-12)
        for key, matrix in d.items():
            assert grads(model[key]) == pytest.approx(sum(matrix, []), abs=1e-11), key
        for key in MATRICES:
            a, b = adapter[f"{key}.A"], adapter[f"{key}.B"]
            d_a = [[math.fsum(map(float.__mul__, row, bk)) for bk in b] for row in d[key]]
            columns = list(zip(*d[key]))
            d_b = [[math.fsum(map(float.__mul__, ak, c)) for c in columns] for ak in zip(*a)]
            assert grads(model[f"{key}.A"]) == pytest.approx(sum(d_a, []), abs=1e-11), key
            assert grads(model[f"{key}.B"]) == pytest.approx(sum(d_b, []), abs=1e-11), key


def grads(matrix):
    return [p.grad for row in matrix for p in row]


def test_gradient_equals_finite_differences(script):
    weights = base_weights(script)
    weights |= adapter_weights(script, weights)
    tokens = script.encode("olivia", CHARS)
    model = as_values(script, weights)
    mean_loss(script, model, tokens).backward()
    rng = random.Random(0)
    for key, matrix in weights.items():
        for _ in range(3):
            i = tokens[1] if key == "wte" else rng.randrange(min(6, len(matrix)))
            j = rng.randrange(len(matrix[i]))
            kept, slope = matrix[i][j], 0.0
            for sign in (1, -1):
                matrix[i][j] = kept + sign * 1e-5
                slope += sign * mean_loss(script, weights, tokens) / 2e-5
            matrix[i][j] = kept
            assert model[key][i][j].grad == pytest.approx(slope, rel=1e-5, abs=1e-8), key


def test_without_an_adapter_it_is_microgpt(script):
    weights, gpt = base_weights(script), load("microgpt")
    for name in ("anna", "", "abcdefghijklmnopqrst"):  # also beyond the context
        tokens, cache = script.encode(name, CHARS), {}
        steps = range(min(16, len(tokens) - 1))
        logits = [gpt.gpt(weights, tokens[i], i, cache) for i in steps]
        assert script.token_logits(weights, tokens) == logits
        losses = script.token_losses(weights, tokens)
        assert script.mean(losses) == pytest.approx(gpt.name_loss(weights, tokens, {}), abs=1e-12)
        assert len(losses) == len(steps)


def test_base_trains_as_microgpt_does(script, monkeypatch):
    gpt, names = load("microgpt"), ["anna", "bo", "carl", "dora"]
    monkeypatch.setattr(gpt, "num_steps", 4)
    weights = base_weights(script)
    theirs, ours = as_values(gpt, weights), as_values(script, weights)
    expected = list(gpt.train(theirs, names, CHARS))
    assert list(script.train(ours, [*ours], names, CHARS, 0.01)) == pytest.approx(expected)
    assert [p.data for p in script.flat(ours)] == pytest.approx(
        [p.data for p in script.flat(theirs)]
    )


def test_training_an_adapter_leaves_the_base_as_it_was(script, monkeypatch):
    optimized = []
    adam_step = script.adam_step
    monkeypatch.setattr(
        script,
        "adam_step",
        lambda params, *rest: optimized.append(params) or adam_step(params, *rest),
    )
    weights = base_weights(script)
    base = as_values(script, weights)
    adapter = script.init_adapter(base, 1)
    start = script.as_floats(adapter)
    steps = script.train(base | adapter, [*adapter], ["nina", "zoe", "stan"], CHARS, 0.02)
    for _ in steps:
        assert all(p.grad == 0.0 for p in script.flat(base | adapter))
        assert {id(p) for p in optimized[-1]} == {id(p) for p in script.flat(adapter)}
    assert len(optimized) == 3
    assert script.as_floats(base) == weights
    for key, matrix in script.as_floats(adapter).items():
        assert matrix != start[key], key


def test_full_fine_tuning_changes_every_matrix(script):
    weights = base_weights(script)
    model = as_values(script, weights)
    list(script.train(model, [*model], ["nina"], CHARS, 0.01))
    assert all(matrix != weights[key] for key, matrix in script.as_floats(model).items())


@pytest.mark.slow
def test_an_adapter_learns(script):
    random.seed(1)
    base = script.init_model(27)
    adapter = script.init_adapter(base, 1)
    losses = list(script.train(base | adapter, [*adapter], ["zoe"] * 60, CHARS, 0.05))
    assert losses[-1] < losses[0] - 1


def test_merged_weights_give_the_same_logits(script):
    weights = base_weights(script)
    adapter = adapter_weights(script, weights)
    merged, expected = script.merge(weights | adapter), plain_merge(weights, adapter)
    assert list(merged) == list(weights)
    for key in weights:
        assert sum(merged[key], []) == pytest.approx(sum(expected[key], []), abs=1e-12)
    names = ["nina", "zoe"]
    assert 0 < script.max_difference(weights | adapter, merged, names, CHARS) < 1e-12
    assert script.merge(weights) == weights


def test_max_difference_finds_the_largest(script, monkeypatch):
    logits = {"m": {1: [[0.0, 1.0], [2.0, 3.0]], 2: [[5.0, 5.0]]}}
    logits["o"] = {1: [[0.5, 1.0], [2.0, 0.75]], 2: [[5.0, 4.0]]}
    monkeypatch.setattr(script, "token_logits", lambda model, tokens: logits[model][tokens])
    monkeypatch.setattr(script, "encode", lambda name, chars: name)
    assert script.max_difference("m", "o", [1, 2], CHARS) == 2.25
    assert script.max_difference("o", "m", [1, 2], CHARS) == 2.25
    assert script.max_difference("m", "m", [1, 2], CHARS) == 0.0


def test_at_the_first_letter_queries_and_keys_have_no_say(script):
    """One position to look at has all the weight: adapters on wq and wk alone cannot move it."""
    weights = base_weights(script)
    adapter = adapter_weights(script, weights)
    some = {key: m for key, m in adapter.items() if "attn_wq" in key or "attn_wk" in key}
    plain, adapted = (script.token_logits(m, [26, 0, 1, 26]) for m in (weights, weights | some))
    assert adapted[0] == plain[0]
    assert adapted[1] != plain[1]
    assert adapted[2] != plain[2]


def test_evaluate_tells_the_first_letter_from_the_rest(script):
    weights, names = base_weights(script), ["nina", "q", "zoe"]
    scores = script.evaluate(weights, names, CHARS)
    assert list(scores) == ["all", "first", "rest"]
    for i, name in enumerate(names):
        losses = script.token_losses(weights, script.encode(name, CHARS))
        logits = script.adapted_gpt(weights, 26, 0, {})
        total = math.fsum(math.exp(x) for x in logits)
        first = math.log(total) - logits[CHARS.index(name[0])]
        assert scores["first"][i] == pytest.approx(first)
        n = len(name) + 1
        assert len(losses) == n
        assert scores["all"][i] == pytest.approx(math.fsum(losses) / n)
        both = scores["first"][i] + (n - 1) * scores["rest"][i]
        assert both / n == pytest.approx(scores["all"][i])


def test_paired_gain(script):
    before, after = [3.0, 2.0, 4.0, 2.5], [2.5, 2.25, 3.0, 2.5]
    gains = [b - a for b, a in zip(before, after)]
    gain, error = script.paired_gain(before, after)
    assert gain == pytest.approx(statistics.mean(gains))
    assert error == pytest.approx(statistics.stdev(gains) / 2)


@pytest.mark.slow
def test_sampling_follows_the_tempered_distribution(script, monkeypatch):
    weights = base_weights(script)
    weights |= adapter_weights(script, weights)
    logits = script.adapted_gpt(weights, 26, 0, {})
    monkeypatch.setattr(script, "block_size", 1)
    random.seed(7)
    n = 3000
    drawn = [script.sample(weights, CHARS) for _ in range(n)]
    exps = [math.exp(x / script.temperature) for x in logits]
    for i, c in enumerate([*CHARS, ""]):
        p = exps[i] / math.fsum(exps)
        assert abs(drawn.count(c) / n - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-3


def test_sample_ends_at_the_boundary_or_the_context(script, monkeypatch):
    weights = {name: [[0.0] * len(r) for r in m] for name, m in base_weights(script).items()}
    monkeypatch.setattr(script, "temperature", 0.01)
    weights["wte"], weights["lm_head"] = [[1.0] * 16] * 3, [[1.0] * 16, [0.0] * 16, [-1.0] * 16]
    assert script.sample(weights, list("ab")) == "a" * 16
    weights["lm_head"] = [[0.0] * 16, [0.0] * 16, [1.0] * 16]
    assert script.sample(weights, list("ab")) == ""


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
    weights = base_weights(script)
    adapter = adapter_weights(script, weights, rank=1)
    shares = script.change_shares(weights, plain_merge(weights, adapter))
    assert list(shares) == MATRICES
    assert [share for share, _ in shares.values()] == pytest.approx([1.0] * len(MATRICES))
    assert all(1 / 16 < noise < 0.4 for _, noise in shares.values())
    shares = script.change_shares(weights, base_weights(script, seed=9))
    assert all(share < 0.4 for share, _ in shares.values())


def test_flat_and_as_floats(script):
    model = {"a": [[script.Value(1.0), script.Value(2.0)]], "b": [[script.Value(3.0)]]}
    copy = script.as_floats(model)
    assert copy == {"a": [[1.0, 2.0]], "b": [[3.0]]}
    assert script.flat(copy) == [1.0, 2.0, 3.0]
    model["a"][0][0].data = 9.0
    assert copy["a"] == [[1.0, 2.0]]


def test_adam_follows_its_definition(script):
    p, m, v = script.Value(1.0), [0.0], [0.0]
    theta, m_ref, v_ref = 1.0, 0.0, 0.0
    for t, grad in enumerate([0.5, -2.0, 1e-9, 0.0], 1):
        p.grad = grad
        script.adam_step([p], m, v, t, 0.01)
        m_ref = 0.85 * m_ref + 0.15 * grad
        v_ref = 0.99 * v_ref + 0.01 * grad**2
        theta -= 0.01 * m_ref / (1 - 0.85**t) / (math.sqrt(v_ref / (1 - 0.99**t)) + 1e-8)
        assert p.data == pytest.approx(theta, abs=1e-15)
        assert p.grad == 0.0


def test_draw_first_letters(script, capsys):
    script.draw_first_letters({"base": [0.0, 0.16, 0.5, 0.34], "on": [0.1, 0, 0]}, "abc")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["", "first letter:   a b c", "base              @@@@", "on              **"]


def test_draw_shares(script, capsys):
    script.draw_shares({"lm_head": (0.8, 0.2)})
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert line == ["lm_head", "0.80", "#" * 20, "0.20", "#" * 5]


def test_show_samples_counts_first_letters(script, capsys, monkeypatch):
    drawn = itertools.cycle(["nina", "max", "", "zoe"])
    monkeypatch.setattr(script, "sample", lambda model, chars: next(drawn))
    assert script.show_samples("base", {}, CHARS) == 0.5
    assert "nina max  zoe nina" in capsys.readouterr().out
