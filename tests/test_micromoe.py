"""micromoe: the mixture, its gradients and its losses against a mixture in plain floats."""

import itertools
import math

import pytest
from support.numbers import (
    adam,
    central_differences,
    flat,
    gaussian,
    gradients,
    lift,
    lower,
    matvec,
    pick,
    places_of_each,
    slopes,
    softmax,
)
from support.preference import CHARS

ABCD = list("abcd")
NAMES = ("abba", "cad", "dbc")


def mixture_matrices(vocab_size=5, experts=4, hidden=5, std=0.6, seed=3):
    """A float model in the script's shapes, with weights twice those at the start."""
    shapes = {"wte": (vocab_size, 4), "router": (experts, 13)}
    for i in range(experts):
        shapes[f"expert{i}.fc1"] = (hidden, 13)
        shapes[f"expert{i}.fc2"] = (vocab_size, hidden + 1)
    return {
        name: gaussian(*shape, std, seed=100 * seed + i)
        for i, (name, shape) in enumerate(shapes.items())
    }


def pairs_of(script, names=NAMES, chars=ABCD):
    return [pair for name in names for pair in script.windows(name, chars)]


# A mixture of experts in plain floats, by the equations of the papers and not by the script.
def reference(model, pairs, k, n_experts=4):
    """The mean cross-entropy, the balance loss, the shares, and the experts asked per position."""
    cross_entropy, asked, totals = 0.0, [], [0.0] * n_experts
    for context, target in pairs:
        x = [w for token in context for w in model["wte"][token]] + [1.0]
        scores = matvec(model["router"], x)
        totals = [total + p for total, p in zip(totals, softmax(scores))]
        top = sorted(range(n_experts), key=lambda i: scores[i])[-k:]
        asked.append(set(top))
        gates = softmax([scores[i] for i in top])
        y = [0.0] * len(model["wte"])
        for i, gate in zip(top, gates):
            hidden = [math.tanh(a) for a in matvec(model[f"expert{i}.fc1"], x)]
            out = matvec(model[f"expert{i}.fc2"], [*hidden, 1.0])
            y = [total + gate * o for total, o in zip(y, out)]
        cross_entropy -= math.log(softmax(y)[target])
    n = len(pairs)
    shares = [sum(i in top for top in asked) / (n * k) for i in range(n_experts)]
    balance = n_experts * math.fsum(f * total / n for f, total in zip(shares, totals))
    return cross_entropy / n, balance, shares, asked


# --- the run ---


def test_without_the_balance_loss_shares_are_less_even(run):
    m = run.metrics
    assert m["unbalanced_min_share"] + 0.05 < m["min_expert_share"] <= 0.25
    assert m["balance_loss"] < 1.05
    assert m["unbalanced_balance_loss"] > m["balance_loss"] + 0.1


def test_it_owns_more_than_is_active_and_does_as_well_as_the_rival(run):
    m = run.metrics
    expert = 5 * 13 + 27 * 6
    assert m["params_owned"] == 27 * 4 + 4 * 13 + 4 * expert
    assert m["params_active"] == 27 * 4 + 4 * 13 + 2 * expert
    assert abs(m["heldout_loss"] - m["dense_heldout_loss"]) < 0.1


def test_samples_are_names_and_random_strings_are_not(run):
    rates = run.metrics
    assert rates["random_pronounceable_rate"] < 0.3 < rates["pronounceable_rate"] - 0.3
    assert 0.8 < rates["real_pronounceable_rate"] < 0.95


# --- one expert ---


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
    fc1, fc2 = gaussian(3, 5, seed=1), gaussian(6, 4, seed=2)
    [x], [d_out] = gaussian(1, 4, seed=3), gaussian(1, 6, seed=4)

    def height(model, x):
        _, out = script.expert_forward((model["fc1"], model["fc2"]), x)
        return math.fsum(d * o for d, o in zip(d_out, out, strict=True))

    hidden, _ = script.expert_forward((fc1, fc2), x)
    d_fc1, d_fc2, d_x = script.expert_backward((fc1, fc2), x, hidden, d_out)
    expected = slopes(lambda model: height(model, x), {"fc1": fc1, "fc2": fc2}, h=1e-6)
    assert flat({"fc1": d_fc1, "fc2": d_fc2}) == pytest.approx(expected, abs=1e-8)
    assert [len(row) for row in d_fc1 + d_fc2] == [5] * 3 + [4] * 6
    expected = central_differences(lambda x: height({"fc1": fc1, "fc2": fc2}, x), x)
    assert d_x == pytest.approx(expected, abs=1e-8)


# --- the router and the mixture ---


def test_route_takes_the_best_two_and_renormalises(script):
    scores = [0.3, 2.0, -1.0, 1.2]
    router = [[0.0, score] for score in scores]
    probs, chosen, gates = script.route([5.0], router)
    assert probs == pytest.approx(softmax(scores))
    assert chosen == [1, 3]
    assert gates == pytest.approx(softmax([2.0, 1.2]))
    _, chosen, gates = script.route([5.0], router, skip=2)
    assert chosen == [0, 2]
    assert math.fsum(gates) == pytest.approx(1.0)


def test_route_on_ties_and_extremes(script):
    """With all weight on one expert the other gate is 0, and nothing is divided by 0."""
    _, chosen, gates = script.route([1.0], [[0.0, 0.0]] * 4)
    assert (chosen, gates) == ([0, 1], [0.5, 0.5])
    x = script.Value(1.0)
    for score in (1e3, 1e306):
        router = [[script.Value(0.0), script.Value(s)] for s in (0.0, score)]
        probs, chosen, gates = script.route([x], router)
        assert [g.data for g in gates] == [1.0, 0.0]
        assert chosen == [1, 0]
        (gates[0] + gates[1] * 2.0).backward()
        assert math.isfinite(x.grad)
        assert [p.data for p in probs] == [0.0, 1.0]


def test_all_experts_asked_is_the_dense_mixture(script, monkeypatch):
    """Jacobs et al. 1991: y = sum over all of p_i E_i(x)."""
    monkeypatch.setattr(script, "top_k", 4)
    model = mixture_matrices()
    experts = script.experts_of(model)
    logits, probs, chosen, calls = script.mixture(model, experts, [4, 0, 2])
    assert sorted(chosen) == [0, 1, 2, 3]
    x = [w for token in (4, 0, 2) for w in model["wte"][token]]
    outs = [script.expert_forward(expert, x)[1] for expert in experts]
    assert logits == pytest.approx(matvec(list(zip(*outs)), probs), abs=1e-12)
    assert len(calls) == 4


def test_only_the_chosen_are_computed(script, monkeypatch):
    model, count, forward = mixture_matrices(), [], script.expert_forward
    monkeypatch.setattr(script, "expert_forward", lambda *a: count.append(1) or forward(*a))
    script.mixture(model, script.experts_of(model), [4, 0, 2])
    assert len(count) == 2


def test_one_expert_is_a_dense_model(script):
    weights = mixture_matrices(experts=1, hidden=12)
    model = lift(script, weights)
    pairs = pairs_of(script)
    loss, shares = script.batch_loss(model, pairs, 0.7)
    assert shares == [1.0]
    assert loss == pytest.approx(reference(weights, pairs, 1, n_experts=1)[0])
    assert gradients(model)["router"][0] == pytest.approx([0.0] * 13, abs=1e-12)


# --- the losses and their gradients ---


def test_losses_equal_the_reference(script):
    weights, pairs = mixture_matrices(27), pairs_of(script, ("olivia", "max", "zoe"), CHARS)
    loss, balance, shares, asked = reference(weights, pairs, 2)
    found = script.batch_loss(lift(script, weights), pairs, 0.3)
    assert found == (pytest.approx(loss), pytest.approx(shares))
    found = script.evaluate(weights, pairs)
    assert found[:3] == (pytest.approx(loss), pytest.approx(balance), pytest.approx(shares))
    assert math.fsum(shares) == pytest.approx(1.0)
    expected = sorted((i, c[-1]) for (c, _), top in zip(pairs, asked) for i in top)
    assert sorted(found[3]) == expected


@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_every_gradient_equals_finite_differences(script, weight):
    """Router by Value, experts by hand, embeddings by both: against the reference's slopes."""
    weights, pairs = mixture_matrices(), pairs_of(script)
    model = lift(script, weights)
    script.batch_loss(model, pairs, weight)
    assert set().union(*reference(weights, pairs, 2)[3]) == {0, 1, 2, 3}

    def total(weights):
        loss, balance, _, _ = reference(weights, pairs, 2)
        return loss + weight * balance

    for name, matrix in weights.items():
        where = places_of_each({name: matrix}, 10)
        expected = slopes(total, weights, where)
        found = pick(gradients(model), where)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-8), name
        assert sum(abs(slope) > 1e-4 for slope in expected) > 3, name


def test_who_is_not_asked_gets_a_gradient_from_the_balance_loss_alone(script):
    weights, pairs = mixture_matrices(), pairs_of(script)[:1]
    for weight in (0.0, 0.5):
        model = lift(script, weights)
        _, shares = script.batch_loss(model, pairs, weight)
        grads = gradients(model)
        for i, share in enumerate(shares):
            own = flat(grads[f"expert{i}.fc1"]) + flat(grads[f"expert{i}.fc2"])
            assert any(own) == (share > 0)
            steepest = max(map(abs, grads["router"][i]))
            assert (steepest > 1e-9) == (share > 0 or weight > 0)


def test_cross_entropy_is_softmax_and_log(script):
    """Its gradient, p_i - [i = target], is that of the composed graph."""
    [scores] = gaussian(1, 6, 2)
    fused, composed = ([script.Value(s) for s in scores] for _ in range(2))
    loss = script.cross_entropy(fused, 4)
    assert loss.data == pytest.approx(-math.log(softmax(scores)[4]))
    assert script.cross_entropy(scores, 4) == loss.data
    (loss * 3.0).backward()
    (-script.softmax(composed)[4].log() * 3.0).backward()
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
    assert loss == pytest.approx(1 + 16 * math.fsum((s - 0.25) ** 2 for s in f) / 4)


def test_balance_loss_pushes_by_how_busy_an_expert_is(script):
    probs = [[script.Value(p) for p in (0.4, 0.3, 0.2, 0.1)] for _ in range(4)]
    loss, shares = script.balance_loss(probs, [[0, 1], [0, 2], [0, 1], [0, 3]])
    loss.backward()
    for row in probs:  # each has a quarter of the slope in the mean, N f_i
        assert [p.grad for p in row] == pytest.approx([4 * f / 4 for f in shares])


# --- training ---


def test_training_steps_follow_adam_and_the_schedule(script, monkeypatch):
    """Three steps against the tests' own Adam, on gradients from batch_loss()."""
    monkeypatch.setattr(script, "num_steps", 4)
    names = "abba cad dbc a bd cc dab bad add ac bab da".split()
    weights = mixture_matrices(std=0.3)
    model = lift(script, weights)
    training = script.train(model, names, ABCD, 0.2)
    params = flat(weights)
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(3):
        copy = lift(script, lower(model))
        pairs = pairs_of(script, names[4 * step : 4 * step + 4])
        expected = script.batch_loss(copy, pairs, 0.2)
        assert next(training) == (pytest.approx(expected[0]), expected[1])
        rate = 0.05 * (1 - step / 4)
        grads = flat(gradients(copy))
        params, m, v = adam(params, grads, m, v, step + 1, rate, beta1=0.9)
        assert flat(lower(model)) == pytest.approx(params, abs=1e-9)
        assert not any(flat(gradients(model)))


def test_model_shapes_and_counts(script):
    model = script.init_model(27, 4, 5)
    expected = mixture_matrices(27)
    assert {k: (len(m), len(m[0])) for k, m in model.items()} == {
        k: (len(m), len(m[0])) for k, m in expected.items()
    }
    assert script.count_params(model, "expert0") == 227
    assert script.count_params(model, "router") == 52
    assert script.count_params(model) == 108 + 52 + 4 * 227
    drawn = flat(model)
    spread = math.sqrt(math.fsum(w * w for w in drawn) / len(drawn))
    assert spread == pytest.approx(0.3, rel=0.1)


# --- samples and measures ---


def test_mutual_information_in_closed_form(script):
    same = [(i % 4, i % 4) for i in range(16)]
    assert script.mutual_information(same) == pytest.approx(2.0)
    independent = list(itertools.product(range(4), range(5)))
    assert script.mutual_information(independent) == pytest.approx(0.0, abs=1e-12)
    noisy = [(0, 0), (1, 1)] * 3 + [(0, 1), (1, 0)]  # a bit that is flipped one time in four
    entropy = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert script.mutual_information(noisy) == pytest.approx(1 - entropy)


def test_sample_draws_from_the_tempered_distribution(script, monkeypatch):
    """Until the boundary or the longest length, each token after the three before it."""
    weights = mixture_matrices(27)
    asked, answers = [], [4, 11, 8, 26]  # "eli" and the boundary

    def choices(population, weights):
        asked.append(weights)
        return [answers[len(asked) - 1]]

    monkeypatch.setattr(script.random, "choices", choices)
    assert script.sample(weights, CHARS) == "eli"
    contexts = [[26, 26, 26], [26, 26, 4], [26, 4, 11], [4, 11, 8]]
    for found, context in zip(asked, contexts, strict=True):
        logits, *_ = script.mixture(weights, script.experts_of(weights), context)
        assert found == pytest.approx(softmax([x / 0.5 for x in logits]))
    monkeypatch.setattr(script.random, "choices", lambda population, weights: [0])
    assert script.sample(weights, CHARS) == "a" * 15


def test_drawings(script, capsys):
    script.draw_shares([[0.5, 0.25, 0.25, 0.0], [0.5, 0.5, 0.0, 0.0]] * 3, width=3)
    script.draw_specialists([(0, 0), (1, 0), (0, 0), (2, 0), (3, 1), (1, 1)], ["a", "b"])
    out = capsys.readouterr().out
    assert "@@@" in out
    assert out.count("expert") == 8
    assert out.isascii()
