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
    """A float model in the script's shapes."""
    shapes = {"wte": (vocab_size, 4), "router": (experts, 12), "router_bias": (1, experts)}
    for i in range(experts):
        shapes[f"expert{i}.w1"] = (hidden, 12)
        shapes[f"expert{i}.b1"] = (1, hidden)
        shapes[f"expert{i}.w2"] = (vocab_size, hidden)
        shapes[f"expert{i}.b2"] = (1, vocab_size)
    return {
        name: gaussian(*shape, std, seed=100 * seed + i)
        for i, (name, shape) in enumerate(shapes.items())
    }


def examples_of(script, names=NAMES, chars=ABCD):
    return [example for name in names for example in script.examples_of(name, chars)]


# A mixture of experts in plain floats, by the equations of the papers and not by the script.
def affine(matrix, bias, x):
    return [a + b for a, b in zip(matvec(matrix, x), bias[0], strict=True)]


def expert(model, i, x):
    hidden = [math.tanh(a) for a in affine(model[f"expert{i}.w1"], model[f"expert{i}.b1"], x)]
    return affine(model[f"expert{i}.w2"], model[f"expert{i}.b2"], hidden)


def reference(model, examples, k, n_experts=4, best=True):
    """The mean cross-entropy, the balance loss, the shares, and the k best (or worst) experts."""
    cross_entropy, asked, totals = 0.0, [], [0.0] * n_experts
    for context, target in examples:
        x = [number for token in context for number in model["wte"][token]]
        scores = affine(model["router"], model["router_bias"], x)
        totals = [total + p for total, p in zip(totals, softmax(scores))]
        top = sorted(range(n_experts), key=lambda i: scores[i], reverse=best)[:k]
        asked.append(set(top))
        gates = softmax([scores[i] for i in top])
        y = matvec(list(zip(*[expert(model, i, x) for i in top])), gates)
        cross_entropy -= math.log(softmax(y)[target])
    n = len(examples)
    shares = [sum(i in top for top in asked) / (n * k) for i in range(n_experts)]
    balance = n_experts * math.fsum(f * total / n for f, total in zip(shares, totals))
    return cross_entropy / n, balance, shares, asked


def test_the_run_is_even_with_the_balance_loss_and_as_good_as_its_rival(run):
    m = run.metrics
    assert 0.1 < m["min_expert_share"] <= 0.25
    assert abs(m["heldout_loss"] - m["dense_heldout_loss"]) < 0.1


def test_examples_of_a_name(script):
    contexts = [[26, 26, 26], [26, 26, 2], [26, 2, 0], [2, 0, 1]]
    assert script.examples_of("cab", CHARS) == list(zip(contexts, [2, 0, 1, 26]))
    assert script.examples_of("", CHARS) == [([26, 26, 26], 26)]


def test_expert_forward_written_out(script):
    model = {
        "expert1.w1": [[1.0, -2.0], [0.0, 1.0]],
        "expert1.b1": [[0.5, 0.0]],
        "expert1.w2": [[2.0, 1.0], [0.0, -1.0]],
        "expert1.b2": [[0.25, 3.0]],
    }
    hidden, out = script.expert_forward(model, 1, [0.5, 0.25])
    assert hidden == pytest.approx([a := math.tanh(0.5), b := math.tanh(0.25)])
    assert out == pytest.approx([2 * a + b + 0.25, 3 - b])
    assert script.expert_forward(lift(script, model), 1, [0.5, 0.25]) == (hidden, out)  # floats


def test_expert_backward_equals_finite_differences(script):
    parts = ("w1", "b1", "w2", "b2")
    shapes = [(3, 4), (1, 3), (6, 3), (1, 6)]
    model = {f"expert0.{p}": gaussian(*s, seed=i) for i, (p, s) in enumerate(zip(parts, shapes))}
    [x], [d_out] = gaussian(1, 4, seed=8), gaussian(1, 6, seed=9)

    def height(model, x):
        _, out = script.expert_forward(model, 0, x)
        return math.fsum(d * o for d, o in zip(d_out, out, strict=True))

    hidden, _ = script.expert_forward(model, 0, x)
    grads, d_x = script.expert_backward(model, 0, x, hidden, d_out)
    assert list(grads) == list(parts)
    assert [(len(m), len(m[0])) for m in grads.values()] == shapes
    expected = slopes(lambda model: height(model, x), model, h=1e-6)
    assert flat(grads) == pytest.approx(expected, abs=1e-8)
    assert d_x == pytest.approx(central_differences(lambda x: height(model, x), x), abs=1e-8)


def test_the_router_takes_the_best_two_and_rescales(script):
    scores = [0.3, 2.0, -1.0, 1.2]
    model = {"router": [[s / 5 - 1.0] for s in scores], "router_bias": [[5.0] * 4]}
    probs = script.route(model, [5.0])
    assert probs == pytest.approx(softmax(scores))
    assert script.choose(probs) == [1, 3]
    assert script.gates_of(probs, [1, 3]) == pytest.approx(softmax([2.0, 1.2]))
    assert script.gates_of(probs, [2, 0]) == pytest.approx(softmax([-1.0, 0.3]))


def test_the_router_on_ties_and_extremes(script):
    assert script.choose([0.25] * 4) == [0, 1]
    x = script.Value(1.0)
    for score in (1e3, 1e306):
        model = lift(script, {"router": [[0.0], [score]], "router_bias": [[0.0, 0.0]]})
        probs = script.route(model, [x])
        assert [p.data for p in probs] == [0.0, 1.0]
        assert script.choose(probs) == [1, 0]
        gates = script.gates_of(probs, [1, 0])
        assert [g.data for g in gates] == [1.0, 0.0]
        (gates[0] + gates[1] * 2.0).backward()
        assert math.isfinite(x.grad)


def test_all_experts_asked_is_the_dense_mixture(script, monkeypatch):
    """Jacobs et al. 1991: y = sum over all of p_i E_i(x)."""
    monkeypatch.setattr(script, "top_k", 4)
    model = mixture_matrices()
    result = script.forward(model, [4, 0, 2])
    assert sorted(result["chosen"]) == [0, 1, 2, 3]
    x = [number for token in (4, 0, 2) for number in model["wte"][token]]
    assert result["x"] == x
    probs = softmax(affine(model["router"], model["router_bias"], x))
    assert result["probs"] == pytest.approx(probs)
    outs = [expert(model, i, x) for i in range(4)]
    assert result["logits"] == pytest.approx(matvec(list(zip(*outs)), probs), abs=1e-12)


def test_only_the_chosen_are_computed(script, monkeypatch):
    asked, ask = [], script.expert_forward
    monkeypatch.setattr(script, "expert_forward", lambda m, i, x: asked.append(i) or ask(m, i, x))
    assert script.forward(mixture_matrices(), [4, 0, 2])["chosen"] == asked[:2] == asked


def test_one_expert_is_a_dense_model(script):
    weights = mixture_matrices(experts=1, hidden=12)
    model = lift(script, weights)
    examples = examples_of(script)
    loss, shares = script.batch_backward(model, examples, 0.7)
    assert shares == [1.0]
    assert loss == pytest.approx(reference(weights, examples, 1, n_experts=1)[0])
    for name in ("router", "router_bias"):
        assert flat(gradients(model)[name]) == pytest.approx([0.0] * len(flat(weights[name])))
    found = script.evaluate(weights, examples)
    assert found["loss"] == pytest.approx(loss)
    assert not {"wrong", "all"} & set(found)  # there is no other expert to ask


def test_losses_equal_the_reference(script):
    weights = mixture_matrices(27)
    examples = examples_of(script, ("olivia", "max", "zoe"), CHARS)
    loss, balance, shares, asked = reference(weights, examples, 2)
    found = script.batch_backward(lift(script, weights), examples, 0.3)
    assert found == (pytest.approx(loss), pytest.approx(shares))
    found = script.evaluate(weights, examples)
    assert found["loss"] == pytest.approx(loss)
    assert found["balance"] == pytest.approx(balance)
    assert found["shares"] == pytest.approx(shares)
    expected = sorted((i, c[-1]) for (c, _), top in zip(examples, asked) for i in top)
    assert sorted(found["choices"]) == expected
    worst = reference(weights, examples, 2, best=False)[0]
    assert found["wrong"] == pytest.approx(worst)
    assert found["all"] == pytest.approx(reference(weights, examples, 4)[0])
    assert worst != pytest.approx(loss)
    assert found["information"] == script.mutual_information(expected)
    entropy = -math.fsum(share * math.log2(share) for share in shares if share)
    assert found["most"] == pytest.approx(entropy - 1)
    for idle in range(4):  # each expert is among those not chosen
        weights["router_bias"][0][idle] -= 20
        worst = reference(weights, examples, 2, best=False)[0]
        assert script.evaluate(weights, examples)["wrong"] == pytest.approx(worst)
        weights["router_bias"][0][idle] += 20


@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_every_gradient_equals_finite_differences(script, weight):
    """Router by Value, experts by hand, embeddings by both: against the reference's slopes."""
    weights, examples = mixture_matrices(), examples_of(script)
    model = lift(script, weights)
    script.batch_backward(model, examples, weight)
    assert set().union(*reference(weights, examples, 2)[3]) == {0, 1, 2, 3}

    def total(weights):
        loss, balance, _, _ = reference(weights, examples, 2)
        return loss + weight * balance

    for name, matrix in weights.items():
        where = places_of_each({name: matrix}, 10)
        expected = slopes(total, weights, where)
        found = pick(gradients(model), where)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-8), name
        assert sum(abs(slope) > 1e-4 for slope in expected) > 2, name


def test_who_is_not_asked_gets_a_gradient_from_the_balance_loss_alone(script):
    weights, examples = mixture_matrices(), examples_of(script)[:1]
    for weight in (0.0, 0.5):
        model = lift(script, weights)
        _, shares = script.batch_backward(model, examples, weight)
        grads = gradients(model)
        for i, share in enumerate(shares):
            own = [x for part in ("w1", "b1", "w2", "b2") for x in flat(grads[f"expert{i}.{part}"])]
            assert any(own) == (share > 0)
            steepest = max(map(abs, grads["router"][i]))
            assert (steepest > 1e-9) == (share > 0 or weight > 0)


def test_the_router_learns_by_comparing_with_the_mix(script):
    """d(loss)/d(s_i) = g_i (d . E_i - d . y), and N p_i (f_i - sum f_j p_j) for the balance."""
    weights, examples = mixture_matrices(), examples_of(script)[2:3]
    model = lift(script, weights)
    script.batch_backward(model, examples, 0.7)
    [(context, target)] = examples
    x = [number for token in context for number in weights["wte"][token]]
    scores = affine(weights["router"], weights["router_bias"], x)
    top = sorted(range(4), key=lambda i: scores[i])[2:]
    gates = dict(zip(top, softmax([scores[i] for i in top])))
    outs = {i: expert(weights, i, x) for i in top}
    y = [math.fsum(gates[i] * outs[i][t] for i in top) for t in range(5)]
    d = [p - (t == target) for t, p in enumerate(softmax(y))]
    slope = {i: matvec([d], outs[i])[0] for i in top}
    probs, shares = softmax(scores), [(i in top) / 2 for i in range(4)]
    average = math.fsum(f * p for f, p in zip(shares, probs))
    expected = [0.7 * 4 * p * (f - average) for f, p in zip(shares, probs)]
    for i in top:
        expected[i] += gates[i] * (slope[i] - matvec([d], y)[0])
    assert flat(gradients(model)["router_bias"]) == pytest.approx(expected)


def test_cross_entropy_is_softmax_and_log(script):
    [scores] = gaussian(1, 6, 2)
    logits = [script.Value(s) for s in scores]
    loss = script.cross_entropy(logits, 4)
    assert loss.data == script.cross_entropy(scores, 4)
    assert loss.data == pytest.approx(-math.log(softmax(scores)[4]))
    loss.backward()
    expected = central_differences(lambda scores: -math.log(softmax(scores)[4]), scores)
    assert [v.grad for v in logits] == pytest.approx(expected, abs=1e-8)
    # What seemed impossible has a finite loss, and can be unlearned.
    logits = [script.Value(1000.0), script.Value(-1000.0)]
    loss = script.cross_entropy(logits, 1)
    loss.backward()
    assert loss.data == -math.log(1e-10)
    assert [v.grad for v in logits] == [1.0, -1.0]


def test_balance_loss_in_closed_form(script):
    assert script.balance_loss([[0.25] * 4] * 4, [[0, 1], [2, 3], [0, 2], [1, 3]]) == 1.0
    assert script.balance_loss([[0.5, 0.5, 0.0, 0.0]] * 3, [[0, 1]] * 3) == 2.0
    assert script.choice_shares([[0, 1], [0, 2], [0, 1], [1, 0]], 4) == [4 / 8, 3 / 8, 1 / 8, 0.0]
    probs = [[0.4, 0.3, 0.2, 0.1], [0.4, 0.1, 0.3, 0.2]]  # the docstring's example
    assert script.mean_probs(probs) == pytest.approx([0.4, 0.2, 0.25, 0.15])
    assert script.balance_loss(probs, [[0, 1], [0, 2]]) == pytest.approx(1.25)
    narrow, wide = [0.3, 0.3, 0.2, 0.2], [0.0, 0.0, 0.5, 0.5]  # often narrowly, rarely by far
    found = script.balance_loss([narrow] * 3 + [wide], [[0, 1]] * 3 + [[2, 3]])
    assert found == pytest.approx(0.95)


def test_balance_loss_pushes_by_how_busy_an_expert_is(script):
    probs = [[script.Value(p) for p in (0.4, 0.3, 0.2, 0.1)] for _ in range(4)]
    script.balance_loss(probs, [[0, 1], [0, 2], [0, 1], [0, 3]]).backward()
    for row in probs:  # each has a quarter of the slope in the mean, N f_i
        assert [p.grad for p in row] == pytest.approx(
            [4 * f / 4 for f in (0.5, 0.25, 0.125, 0.125)]
        )


def test_training_steps_follow_adam_and_the_schedule(script, monkeypatch):
    """Three steps against the tests' own Adam, on gradients from batch_backward()."""
    monkeypatch.setattr(script, "num_steps", 4)
    names = "abba cad dbc a bd cc dab bad add ac bab da".split()
    weights = mixture_matrices(std=0.3)
    model = lift(script, weights)
    training = script.train(model, names, ABCD, 0.2)
    params = flat(weights)
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(3):
        copy = lift(script, lower(model))
        examples = examples_of(script, names[4 * step : 4 * step + 4])
        expected = script.batch_backward(copy, examples, 0.2)
        assert next(training) == (pytest.approx(expected[0]), expected[1])
        rate = 0.05 * (1 - step / 4)
        grads = flat(gradients(copy))
        params, m, v = adam(params, grads, m, v, step + 1, rate, beta1=0.9)
        assert flat(lower(model)) == pytest.approx(params, abs=1e-9)
        assert not any(flat(gradients(model)))


def test_watching_trains_a_copy(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "num_steps", 2)
    weights = mixture_matrices()
    before = lift(script, weights)
    found = script.watch_training("a title", weights, ["abba"] * 8, ABCD, 0.2)
    assert flat(weights) == flat(lower(before))
    assert len(list(script.train(before, ["abba"] * 8, ABCD, 0.2))) == 2
    assert flat(found) == flat(lower(before))
    assert capsys.readouterr().out.count("expert ") == 4


def test_model_shapes_and_counts(script):
    model = script.init_model(27, 4, 5)
    assert {k: (len(m), len(m[0])) for k, m in model.items()} == {
        k: (len(m), len(m[0])) for k, m in mixture_matrices(27).items()
    }
    assert script.count_params(model, "expert0.") == 227
    assert script.count_params(model) == 108 + 52 + 4 * 227
    assert script.count_active_params(model) == 108 + 52 + 2 * 227
    drawn = flat(model)
    spread = math.sqrt(math.fsum(x * x for x in drawn) / len(drawn))
    assert spread == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("k", [2, 4])
def test_multiplications_are_counted(script, monkeypatch, k):
    """Every number of the model, and every gate, counts its own multiplications."""
    count = 0

    class Counting(float):
        def __mul__(self, other):
            nonlocal count
            count += 1
            return float(self) * float(other)

    gates_of = script.gates_of
    monkeypatch.setattr(script, "top_k", k)
    monkeypatch.setattr(script, "gates_of", lambda *args: [Counting(g) for g in gates_of(*args)])
    model = mixture_matrices(27)
    numbers = {name: [[Counting(x) for x in row] for row in m] for name, m in model.items()}
    script.forward(numbers, [4, 0, 2])
    assert script.count_multiplications(model, k) == count


def test_mutual_information_in_closed_form(script):
    same = [(i % 4, i % 4) for i in range(16)]
    assert script.mutual_information(same) == pytest.approx(2.0)
    independent = list(itertools.product(range(4), range(5)))
    assert script.mutual_information(independent) == pytest.approx(0.0, abs=1e-12)
    pairs = [(2 * t + i, t) for t in (0, 1) for i in (0, 1)]  # a token decides its two experts
    assert script.mutual_information(pairs) == pytest.approx(1.0)
    noisy = [(0, 0), (1, 1)] * 3 + [(0, 1), (1, 0)]  # a bit that is flipped one time in four
    entropy = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert script.mutual_information(noisy) == pytest.approx(1 - entropy)


def test_shuffling_breaks_the_link_and_nothing_else(script):
    choices = [(i % 4, i % 4) for i in range(400)]
    found = script.shuffled(choices)
    for side in (0, 1):
        assert sorted(c[side] for c in found) == sorted(c[side] for c in choices)
    assert script.mutual_information(found) < 0.1


def test_pronounceable_rate(script):
    assert script.pronounceable_rate(["an", "nn", "an", "ana"], {".an", "an."}) == 0.5


def test_sample_draws_from_the_tempered_distribution(script, monkeypatch):
    weights = mixture_matrices(27)
    asked, answers = [], [4, 11, 8, 26]  # "eli" and the boundary

    def choices(population, weights):
        assert list(population) == list(range(27))
        asked.append(weights)
        return [answers[len(asked) - 1]]

    monkeypatch.setattr(script.random, "choices", choices)
    assert script.sample(weights) == [26, 4, 11, 8, 26]
    for found, i in zip(asked, range(4), strict=True):
        logits = script.forward(weights, [26, 26, 26, 4, 11, 8][i : i + 3])["logits"]
        assert found == pytest.approx(softmax([x / 0.5 for x in logits]))
    monkeypatch.setattr(script.random, "choices", lambda population, weights: [0])
    assert script.sample(weights) == [26] + [0] * 15


def test_drawings(script, capsys):
    script.show_shares([[0.5, 0.25, 0.25, 0.0], [0.5, 0.5, 0.0, 0.0]] * 3, width=3)
    script.show_routing("a title", mixture_matrices(27), "anna", CHARS)
    script.show_specialists([(0, 0), (1, 0), (0, 0), (2, 0), (3, 1), (1, 1)], ["a", "b"])
    out = capsys.readouterr().out
    assert "@@@" in out
    assert out.isascii()
