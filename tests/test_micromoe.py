import itertools
import math
import random

import pytest
from harness import meets

CRITERIA = {
    "heldout_loss": "< 2.5",
    "min_expert_share": "> 0.1",
    "expert_mutual_info": "> 0.2",
    "shuffled_mutual_info": "< 0.02",
    "pronounceable_rate": ">= 0.8",
    "runtime_seconds": "< 420",
}
CHARS = list("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_balance_loss_falls(run):
    assert run.metrics["balance_loss"] < run.metrics["untrained_balance_loss"] - 0.05
    assert meets(run.metrics["balance_loss"], run.criteria["balance_loss"])
    assert run.metrics["balance_loss"] < 1.05


def test_without_the_balance_loss_shares_are_less_even(run):
    m = run.metrics
    assert m["unbalanced_min_share"] + 0.05 < m["min_expert_share"] <= 0.25
    assert m["unbalanced_balance_loss"] > m["balance_loss"] + 0.1


def test_owns_more_than_is_active_and_the_rival_has_as_many_as_are_active(run):
    m = run.metrics
    assert m["params_owned"] == 27 * 4 + 4 * 13 + 4 * (5 * 13 + 27 * 6)
    assert m["params_active"] == 27 * 4 + 4 * 13 + 2 * (5 * 13 + 27 * 6)
    assert "Mixture: 1068 parameters, 614 with 2 experts. Dense: 615." in run.stdout
    assert 108 + 12 * 13 + 27 * 13 == 615  # embeddings and an MLP of 12 units
    assert abs(m["heldout_loss"] - m["dense_heldout_loss"]) < 0.1


def test_experts_are_not_interchangeable(run):
    m = run.metrics
    assert m["wrong_experts_loss"] > m["heldout_loss"] + 0.1
    assert meets(m["wrong_experts_loss"], run.criteria["wrong_experts_loss"])
    assert m["expert_mutual_info"] > m["shuffled_mutual_info"] + 0.2


def test_samples_are_names_and_random_strings_are_not(run):
    rates = run.metrics
    assert rates["random_pronounceable_rate"] < 0.3 < rates["pronounceable_rate"] - 0.3
    assert 0.8 < rates["real_pronounceable_rate"] < 0.95


def test_output_shows_utilisation_and_specialists(run):
    lines = run.stdout.splitlines()
    bars = [line for line in lines if line.startswith("expert ") and line.count("|") == 2]
    assert [line[:8] for line in bars] == [f"expert {i}" for i in (*range(4), *range(4))]
    assert all(len(line) == 11 + 64 for line in bars)
    header = next(i for i, line in enumerate(lines) if line.startswith("last read a b c"))
    assert [line[:9] for line in lines[header + 1 : header + 5]] == [
        f"expert {i} " for i in range(4)
    ]
    assert sum(line.startswith("step ") for line in lines) == 3 * 13


# A mixture of experts in plain floats, by the equations of the papers and not by the script.
def reference(weights, pairs, k, balance_weight, n_experts=4):
    """Loss (cross-entropy, balance) and the experts asked, position by position."""
    ce, asked, totals = 0.0, [], [0.0] * n_experts
    for context, target in pairs:
        x = [w for t in context for w in weights["wte"][t]] + [1.0]
        scores = [math.fsum(w * a for w, a in zip(row, x)) for row in weights["router"]]
        exps = [math.exp(s) for s in scores]
        totals = [t + e / math.fsum(exps) for t, e in zip(totals, exps)]
        top = sorted(range(n_experts), key=lambda i: scores[i])[-k:]
        asked.append(set(top))
        y = [0.0] * len(weights["wte"])
        for i in top:
            h = [
                math.tanh(math.fsum(w * a for w, a in zip(row, x)))
                for row in weights[f"expert{i}.fc1"]
            ]
            gate = exps[i] / math.fsum(exps[j] for j in top)
            for o, row in enumerate(weights[f"expert{i}.fc2"]):
                y[o] += gate * math.fsum(w * a for w, a in zip(row, [*h, 1.0]))
        ce += math.log(math.fsum(map(math.exp, y))) - y[target]
    n = len(pairs)
    shares = [sum(i in top for top in asked) / (n * k) for i in range(n_experts)]
    balance = n_experts * math.fsum(f * t / n for f, t in zip(shares, totals))
    return ce / n, balance, shares, asked


def some_model(script, seed=3, scale=2.0, **shape):
    """Float weights larger than at the start, so that every part matters."""
    random.seed(seed)
    weights = script.init_model(27, shape.get("experts", 4), shape.get("hidden", 5))
    return {k: [[scale * w for w in row] for row in m] for k, m in weights.items()}


def some_pairs(script, *names):
    return [p for name in names or ("olivia", "max", "zoe") for p in script.windows(name, CHARS)]


def test_windows(script):
    assert script.windows("cab", CHARS) == [
        ([26, 26, 26], 2),
        ([26, 26, 2], 0),
        ([26, 2, 0], 1),
        ([2, 0, 1], 26),
    ]
    assert script.windows("", CHARS) == [([26, 26, 26], 26)]


def test_expert_forward_written_out(script):
    expert = [[1.0, -2.0, 0.5], [0.0, 1.0, 0.0]], [[2.0, 1.0, 0.25], [0.0, -1.0, 3.0]]
    hidden, out = script.expert_forward(expert, [0.5, 0.25])
    a, b = math.tanh(0.5), math.tanh(0.25)
    assert hidden == pytest.approx([a, b])
    assert out == pytest.approx([2 * a + b + 0.25, 3 - b])


def test_expert_backward_equals_finite_differences(script):
    rng = random.Random(1)
    fc1, fc2 = (
        [[rng.gauss(0, 1) for _ in range(c)] for _ in range(r)] for r, c in ((3, 5), (6, 4))
    )
    x, d_out = [rng.gauss(0, 1) for _ in range(4)], [rng.gauss(0, 1) for _ in range(6)]

    def height():
        return math.fsum(d * o for d, o in zip(d_out, script.expert_forward((fc1, fc2), x)[1]))

    hidden, _ = script.expert_forward((fc1, fc2), x)
    d_fc1, d_fc2, d_x = script.expert_backward((fc1, fc2), x, hidden, d_out)
    for rows, d_rows in ((fc1, d_fc1), (fc2, d_fc2), ([x], [d_x])):
        for row, d_row in zip(rows, d_rows, strict=True):
            assert len(row) == len(d_row)
            for j, kept in enumerate(row):
                slope = 0.0
                for sign in (1, -1):
                    row[j] = kept + sign * 1e-6
                    slope += sign * height() / 2e-6
                row[j] = kept
                assert d_row[j] == pytest.approx(slope, abs=1e-8)


def test_route_takes_the_best_two_and_renormalises(script):
    router = [[0.0, s] for s in (0.3, 2.0, -1.0, 1.2)]
    probs, chosen, gates = script.route([5.0], router)
    exps = [math.exp(s) for s in (0.3, 2.0, -1.0, 1.2)]
    assert probs == pytest.approx([e / math.fsum(exps) for e in exps])
    assert chosen == [1, 3]
    assert gates == pytest.approx([exps[1] / (exps[1] + exps[3]), exps[3] / (exps[1] + exps[3])])
    _, chosen, gates = script.route([5.0], router, skip=2)
    assert chosen == [0, 2]
    assert math.fsum(gates) == pytest.approx(1.0)


def test_route_on_ties_and_extremes(script):
    _, chosen, gates = script.route([1.0], [[0.0, 0.0]] * 4)
    assert (chosen, gates) == ([0, 1], [0.5, 0.5])
    x = script.Value(1.0)
    for s in (
        1e3,
        1e306,
    ):  # all weight on one expert: the other gates are 0, nothing is divided by 0
        probs, chosen, gates = script.route(
            [x], [[script.Value(0.0), script.Value(v)] for v in (0.0, s)]
        )
        assert [g.data for g in gates] == [1.0, 0.0]
        assert chosen == [1, 0]
        (gates[0] + gates[1] * 2.0).backward()
        assert math.isfinite(x.grad)
        assert [p.data for p in probs] == [0.0, 1.0]


def test_all_experts_asked_is_the_dense_mixture(script, monkeypatch):
    """Jacobs et al. 1991: y = sum over all of p_i E_i(x)."""
    monkeypatch.setattr(script, "top_k", 4)
    weights = some_model(script)
    logits, probs, chosen, calls = script.mixture(weights, script.experts_of(weights), [26, 0, 5])
    assert sorted(chosen) == [0, 1, 2, 3]
    x = [w for t in (26, 0, 5) for w in weights["wte"][t]]
    outs = [script.expert_forward(script.experts_of(weights)[i], x)[1] for i in range(4)]
    expected = [math.fsum(p * o for p, o in zip(probs, column)) for column in zip(*outs)]
    assert logits == pytest.approx(expected, abs=1e-12)
    assert len(calls) == 4


def test_only_the_chosen_are_computed(script, monkeypatch):
    weights, count, forward = some_model(script), [], script.expert_forward
    monkeypatch.setattr(script, "expert_forward", lambda *a: count.append(1) or forward(*a))
    script.mixture(weights, script.experts_of(weights), [26, 0, 5])
    assert len(count) == 2


def test_one_expert_is_a_dense_model(script):
    weights = some_model(script, experts=1, hidden=12)
    model = script.as_values(weights)
    pairs = some_pairs(script)
    loss, shares = script.batch_loss(model, pairs, 0.7)
    assert shares == [1.0]
    assert loss == pytest.approx(reference(weights, pairs, 1, 0.0, n_experts=1)[0])
    assert [p.grad for p in model["router"][0]] == pytest.approx([0.0] * 13, abs=1e-12)


def test_losses_equal_the_reference(script):
    weights, pairs = some_model(script), some_pairs(script)
    loss, balance, shares, asked = reference(weights, pairs, 2, 0.0)
    assert script.batch_loss(script.as_values(weights), pairs, 0.3) == (
        pytest.approx(loss),
        pytest.approx(shares),
    )
    found = script.evaluate(weights, pairs)
    assert found[0] == pytest.approx(loss)
    assert found[1] == pytest.approx(balance)
    assert math.fsum(found[2]) == pytest.approx(1.0)
    expected = sorted((i, c[-1]) for (c, _), top in zip(pairs, asked) for i in top)
    assert sorted(found[3]) == expected


@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_every_gradient_equals_finite_differences(script, weight):
    """Router by Value, experts by hand, embeddings by both: against the reference's slopes."""
    weights, pairs = some_model(script), some_pairs(script)
    model = script.as_values(weights)
    script.batch_loss(model, pairs, weight)
    assert len({i for top in reference(weights, pairs, 2, 0.0)[3] for i in top}) == 4
    for key, matrix in weights.items():
        seen = 0
        for i, row in enumerate(matrix):
            for j in range(i % 3, len(row), 3):
                kept, slope = row[j], 0.0
                for sign in (1, -1):
                    row[j] = kept + sign * 1e-5
                    loss, balance, _, _ = reference(weights, pairs, 2, weight)
                    slope += sign * (loss + weight * balance) / 2e-5
                row[j] = kept
                assert model[key][i][j].grad == pytest.approx(slope, rel=1e-5, abs=1e-8), key
                seen += abs(slope) > 1e-4
        assert seen > 3, key


def test_who_is_not_asked_gets_a_gradient_from_the_balance_loss_alone(script):
    weights = some_model(script)
    pairs = some_pairs(script)[:1]
    for weight in (0.0, 0.5):
        model = script.as_values(weights)
        _, shares = script.batch_loss(model, pairs, weight)
        for i, share in enumerate(shares):
            own = [p.grad for m in script.experts_of(model)[i] for row in m for p in row]
            assert any(own) == (share > 0)
            steepest = max(abs(p.grad) for p in model["router"][i])
            assert (steepest > 1e-9) == (share > 0 or weight > 0)


def test_cross_entropy_is_softmax_and_log(script):
    rng = random.Random(2)
    scores = [rng.gauss(0, 2) for _ in range(6)]
    fused, composed = ([script.Value(s) for s in scores] for _ in range(2))
    loss = script.cross_entropy(fused, 4)
    expected = -script.softmax(composed)[4].log()
    assert loss.data == pytest.approx(expected.data)
    assert script.cross_entropy(scores, 4) == loss.data
    (loss * 3.0).backward()
    (expected * 3.0).backward()
    assert [v.grad for v in fused] == pytest.approx([v.grad for v in composed])


def test_cross_entropy_of_the_impossible_is_finite_and_can_be_unlearned(script):
    logits = [script.Value(1000.0), script.Value(-1000.0)]
    loss = script.cross_entropy(logits, 1)
    loss.backward()
    assert loss.data == -math.log(1e-10)
    assert [v.grad for v in logits] == [1.0, -1.0]


def test_balance_loss_in_closed_form(script):
    even = [[0.25] * 4] * 4
    assert script.balance_loss(even, [[0, 1], [2, 3], [0, 2], [1, 3]]) == (1.0, [0.25] * 4)
    two_do_all = [[0.5, 0.5, 0.0, 0.0]] * 3
    assert script.balance_loss(two_do_all, [[0, 1]] * 3) == (2.0, [0.5, 0.5, 0.0, 0.0])
    chosen = [[0, 1], [0, 2], [0, 1], [1, 0]]
    f = [4 / 8, 3 / 8, 1 / 8, 0.0]
    loss, shares = script.balance_loss([f] * 4, chosen)
    assert shares == f
    assert loss == pytest.approx(1 + 16 * script.mean([(s - 0.25) ** 2 for s in f]))


def test_balance_loss_pushes_by_how_busy_an_expert_is(script):
    probs = [[script.Value(p) for p in (0.4, 0.3, 0.2, 0.1)] for _ in range(4)]
    loss, shares = script.balance_loss(probs, [[0, 1], [0, 2], [0, 1], [0, 3]])
    loss.backward()
    for row in probs:  # each has a quarter of the slope in the mean, N f_i
        assert [p.grad for p in row] == pytest.approx([4 * f / 4 for f in shares])


def test_mutual_information_in_closed_form(script):
    same = [(i % 4, i % 4) for i in range(16)]
    assert script.mutual_information(same) == pytest.approx(2.0)
    independent = list(itertools.product(range(4), range(5)))
    assert script.mutual_information(independent) == pytest.approx(0.0, abs=1e-12)
    noisy = [(0, 0), (1, 1)] * 3 + [(0, 1), (1, 0)]  # a bit that is flipped one time in four
    entropy = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert script.mutual_information(noisy) == pytest.approx(1 - entropy)


def test_model_shapes_and_counts(script):
    model = script.init_model(27, 4, 5)
    shapes = {name: (len(m), len(m[0])) for name, m in model.items()}
    assert shapes == {
        "wte": (27, 4),
        "router": (4, 13),
        **{f"expert{i}.fc1": (5, 13) for i in range(4)},
        **{f"expert{i}.fc2": (27, 6) for i in range(4)},
    }
    assert script.count_params(model, "expert0") == 227
    assert script.count_params(model, "router") == 52
    assert script.count_params(model) == 108 + 52 + 4 * 227
    drawn = [w for m in model.values() for row in m for w in row]
    assert math.sqrt(script.mean([w * w for w in drawn])) == pytest.approx(0.3, rel=0.1)


def test_training_steps_follow_adam_and_the_schedule(script, monkeypatch):
    """Three steps against Adam written out, on gradients from batch_loss()."""
    monkeypatch.setattr(script, "num_steps", 4)
    names = ["olivia", "max", "zoe", "anna", "bo", "eve", "al", "mia", "ann", "joe", "uma", "ida"]
    weights = some_model(script, scale=1.0)
    model = script.as_values(weights)
    losses = list(itertools.islice(script.train(model, names, CHARS, 0.2), 3))
    m = {k: [[0.0] * len(row) for row in rows] for k, rows in weights.items()}
    v = {k: [[0.0] * len(row) for row in rows] for k, rows in weights.items()}
    for t in range(3):
        copy = script.as_values(weights)
        batch = names[4 * t : 4 * t + 4]
        found = script.batch_loss(copy, some_pairs(script, *batch), 0.2)
        assert losses[t] == (pytest.approx(found[0]), found[1])
        for k, rows in weights.items():
            for i, row in enumerate(rows):
                for j in range(len(row)):
                    g = copy[k][i][j].grad
                    m[k][i][j] = 0.9 * m[k][i][j] + 0.1 * g
                    v[k][i][j] = 0.99 * v[k][i][j] + 0.01 * g * g
                    m_hat, v_hat = (
                        m[k][i][j] / (1 - 0.9 ** (t + 1)),
                        v[k][i][j] / (1 - 0.99 ** (t + 1)),
                    )
                    row[j] -= 0.05 * (1 - t / 4) * m_hat / (math.sqrt(v_hat) + 1e-8)
    for k, rows in weights.items():
        for row, expected in zip(model[k], rows):
            assert [p.data for p in row] == pytest.approx(expected, abs=1e-6)
            assert all(p.grad == 0.0 for p in row)


@pytest.mark.slow
def test_training_learns_and_balances(script, monkeypatch):
    monkeypatch.setattr(script, "num_steps", 60)
    names = ["anna", "emma", "olivia", "mila", "lena", "elena", "noah", "liam"] * 30
    model = script.as_values(some_model(script, seed=2, scale=1.0))
    for i in (0, 1):
        model["router"][i][-1].data += 3.0  # at first two do everything
    losses = list(script.train(model, names, CHARS, 1.0))
    assert losses[0][0] > 2.9
    assert losses[-1][0] < losses[0][0] - 1
    assert min(losses[0][1]) == 0.0 < 0.1 < min(losses[-1][1])


def test_sample_ends_at_the_boundary_or_the_longest_length(script):
    weights = {k: [[0.0] * len(r) for r in m] for k, m in some_model(script).items()}
    for token, expected in ((0, "a" * 15), (26, "")):
        for i in range(4):
            for o, row in enumerate(weights[f"expert{i}.fc2"]):
                row[-1] = 100.0 * (o == token)
        assert script.sample(weights, CHARS) == expected


def test_sample_reads_what_it_wrote(script, monkeypatch):
    seen = []

    def spell(model, experts, context):
        seen.append(context)
        return [100.0 * (i == [4, 11, 8, 26][len(seen) - 1]) for i in range(27)], None

    monkeypatch.setattr(script, "mixture", spell)
    assert script.sample({"router": []}, CHARS) == "eli"
    assert seen == [[26, 26, 26], [26, 26, 4], [26, 4, 11], [4, 11, 8]]


@pytest.mark.slow
def test_sampling_follows_the_tempered_distribution(script, monkeypatch):
    monkeypatch.setattr(script, "max_length", 2)
    weights = some_model(script, scale=1.5)
    random.seed(7)
    n = 2000
    drawn = [script.sample(weights, CHARS) for _ in range(n)]
    contexts = {"": [26, 26, 26], "e": [26, 26, 4]}
    for start, context in contexts.items():
        begun = [name for name in drawn if name.startswith(start)]
        exps = [
            math.exp(x / 0.5)
            for x in script.mixture(weights, script.experts_of(weights), context)[0]
        ]
        for i, c in enumerate([*CHARS, ""]):
            p = exps[i] / math.fsum(exps)
            found = sum(name[len(start) : len(start) + 1] == c for name in begun) / len(begun)
            assert abs(found - p) < 5 * math.sqrt(p * (1 - p) / len(begun)) + 2e-3


def test_drawings(script, capsys):
    script.draw_shares([[0.5, 0.25, 0.25, 0.0], [0.5, 0.5, 0.0, 0.0]] * 3, width=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["expert 0 |@@@|", "expert 1 |###|", "expert 2 |:::|", "expert 3 |   |"]
    asked = [(0, 0), (1, 0), (0, 0), (2, 0), (3, 1), (1, 1)]  # a twice, b once, no boundary
    script.draw_specialists(asked, ["a", "b"])
    assert capsys.readouterr().out.splitlines() == [
        "last read a b start",
        "expert 0  @",
        "expert 1  + @",
        "expert 2  +",
        "expert 3    @",
    ]


def test_adam_follows_its_definition(script):
    p, m, v = script.Value(1.0), [0.0], [0.0]
    theta, m_ref, v_ref = 1.0, 0.0, 0.0
    for t, grad in enumerate([0.5, -2.0, 1e-9, 0.0], 1):
        p.grad = grad
        script.adam_step([p], m, v, t, 0.01)
        m_ref = 0.9 * m_ref + 0.1 * grad
        v_ref = 0.99 * v_ref + 0.01 * grad**2
        theta -= 0.01 * m_ref / (1 - 0.9**t) / (math.sqrt(v_ref / (1 - 0.99**t)) + 1e-8)
        assert p.data == pytest.approx(theta, abs=1e-12)
        assert p.grad == 0.0
