"""microvae against Gaussian densities, Monte Carlo, closed forms and finite differences."""

import itertools
import math
import random

import pytest
from support.numbers import (
    adam,
    central_differences,
    enlarged,
    flat,
    gaussian,
    gradients,
    lift,
    lower,
    matvec,
    places,
    slopes,
)


def test_reconstruction_loss_falls_and_elbo_rises(run):
    m = run.metrics
    assert m["recon_loss_last"] < m["recon_loss_first"] / 10
    assert m["elbo_last"] > m["elbo_first"] + 10
    constant = math.log(2 * math.pi * 0.12**2)
    assert m["elbo_last"] == pytest.approx(-m["recon_loss_last"] - m["kl"] - constant, abs=2e-4)


def test_interpolated_points_are_nearer_to_the_data_than_those_of_a_gaussian(run):
    assert run.metrics["interpolation_distance"] < run.metrics["gaussian_distance"] / 3


SHAPES = {"encoder_fc1": (16, 3), "encoder_fc2": (4, 17), "decoder_fc1": (16, 3)}
SHAPES["decoder_fc2"] = (2, 17)


def some_weights():
    """A float model in which every part has something to say."""
    return {name: gaussian(*shape, std=0.5, seed=name) for name, shape in SHAPES.items()}


def reference_mlp(model, part, x):
    """[2] -> the output of the encoder or the decoder: one hidden layer, biases last in a row."""
    h = [max(0.0, a) for a in matvec(model[f"{part}_fc1"], [*x, 1.0])]
    return matvec(model[f"{part}_fc2"], [*h, 1.0])


def log_normal(z, mu, log_var):
    return -0.5 * (math.log(2 * math.pi) + log_var + (z - mu) ** 2 / math.exp(log_var))


def test_data_follow_the_wave(script):
    random.seed(1)
    points = script.make_data(4000)
    off = [y - 0.7 * math.sin(2 * x) for x, y in points]
    # The noise across is that of y, and that of x times the slope of the wave.
    slopes = [(1.4 * math.cos(2 * x)) ** 2 for x, _ in points]
    expected = 0.05 * math.sqrt(1 + script.mean(slopes))
    assert abs(script.mean(off)) < 0.01
    assert math.sqrt(script.mean([o * o for o in off])) == pytest.approx(expected, rel=0.06)
    assert -1.75 < points[0][0] < -1.3
    assert 1.3 < points[-1][0] < 1.75
    thirds = [script.mean([x for x, _ in points[i : i + 1000]]) for i in range(0, 4000, 1000)]
    assert thirds == pytest.approx([-1.125, -0.375, 0.375, 1.125], abs=0.06)


def test_mlp_written_out(script):
    w1, w2 = [[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], [[2.0, 1.0, 0.25]]
    # relu(1 - 4 + 0.5) = 0, relu(6 - 1) = 5; 2 * 0 + 5 + 0.25
    assert script.mlp([1.0, 2.0], w1, w2) == [5.25]
    weights = (
        [[script.Value(w) for w in row] for row in w1],
        [[script.Value(w) for w in row] for row in w2],
    )
    assert [v.data for v in script.mlp([1.0, 2.0], *weights)] == [5.25]


def test_encode_tells_mean_from_log_variance(script):
    model = {"encoder_fc1": [[0.0] * 3], "encoder_fc2": [[0.0, float(i)] for i in range(4)]}
    assert script.encode(model, [7.0, 8.0]) == ([0.0, 1.0], [2.0, 3.0])


def test_reparameterize_has_the_stated_mean_and_variance(script):
    random.seed(3)
    n, mu, log_var = 20000, [1.5, -2.0], [-1.0, 1.2]
    draws = [script.reparameterize(mu, log_var, script.draw_noise()) for _ in range(n)]
    for column, m, v in zip(zip(*draws), mu, log_var):
        var = math.exp(v)
        assert abs(script.mean(column) - m) < 5 * math.sqrt(var / n)
        found = script.mean([(z - m) ** 2 for z in column])
        assert abs(found - var) < 5 * var * math.sqrt(2 / n)
    both = script.mean([(a - 1.5) * (b + 2.0) for a, b in draws])
    assert abs(both) < 5 * math.exp(0.1) / math.sqrt(n)  # each dimension has its own eps
    assert script.reparameterize(mu, log_var, [0.0, 0.0]) == mu


def test_reparameterize_has_the_stated_slopes(script):
    mu, log_var = script.Value(0.3), script.Value(-0.8)
    script.reparameterize([mu], [log_var], [1.7])[0].backward()
    assert mu.grad == 1.0
    assert log_var.grad == pytest.approx(0.5 * math.exp(-0.4) * 1.7)


def test_reconstruction_loss_is_the_gaussian_likelihood_but_for_a_constant(script):
    x, decoded, log_var = [0.4, -1.0], [0.5, -0.7], 2 * math.log(script.sigma)
    log_p = math.fsum(log_normal(a, b, log_var) for a, b in zip(x, decoded))
    constant = math.log(2 * math.pi * script.sigma**2)
    assert script.reconstruction_loss(x, decoded) == pytest.approx(-log_p - constant)
    assert script.reconstruction_loss(x, x) == 0.0


@pytest.mark.parametrize("log_var", [[0.5, -2.0], [-0.1, 1.0], [-3.0, 0.0]])
def test_kl_equals_a_monte_carlo_estimate(script, log_var):
    rng = random.Random(4)
    mu, n = [0.7, -1.3], 20000
    terms = []
    for _ in range(n):
        total = 0.0
        for m, v in zip(mu, log_var):
            z = rng.gauss(m, math.exp(0.5 * v))
            total += log_normal(z, m, v) - log_normal(z, 0.0, 0.0)
        terms.append(total)
    average = script.mean(terms)
    error = math.sqrt(script.mean([(t - average) ** 2 for t in terms]) / n)
    assert abs(script.kl_divergence(mu, log_var) - average) < 5 * error


def test_kl_is_zero_for_the_prior_and_positive_elsewhere(script):
    assert script.kl_divergence([0.0, 0.0], [0.0, 0.0]) == 0.0
    rng = random.Random(5)
    for _ in range(200):
        mu, log_var = ([rng.gauss(0, 2) for _ in range(2)] for _ in range(2))
        assert script.kl_divergence(mu, log_var) > 0
        parts = [script.kl_divergence([m], [v]) for m, v in zip(mu, log_var)]
        assert script.kl_divergence(mu, log_var) == pytest.approx(math.fsum(parts))


def test_kl_gradient_equals_finite_differences(script):
    at = [0.7, -1.3, 0.5, -2.0]
    leaves = [script.Value(a) for a in at]
    script.kl_divergence(leaves[:2], leaves[2:]).backward()
    expected = central_differences(lambda xs: script.kl_divergence(xs[:2], xs[2:]), at, h=1e-5)
    assert [leaf.grad for leaf in leaves] == pytest.approx(expected, abs=1e-8)


def test_extreme_log_variances(script):
    """Certainty and ignorance have a finite price; only what no float can hold is refused."""
    for log_var in (-1e4, -700.0, 700.0):
        assert 300 < script.kl_divergence([0.0], [log_var]) < math.inf
        z = script.reparameterize([1.0], [log_var], [1.0])[0]
        assert math.isfinite(z)
        leaf = script.Value(log_var)
        script.kl_divergence([script.Value(0.0)], [leaf]).backward()
        assert math.isfinite(leaf.grad)
    assert script.reparameterize([1.0], [-1e4], [1.0]) == [1.0]
    with pytest.raises(OverflowError):
        script.kl_divergence([0.0], [1e4])


def test_loss_gradient_equals_finite_differences(script):
    """Each group of weights, with eps held fixed: through the decoder, the sample, the encoder."""
    weights = some_weights()

    def loss(model):
        reconstruction, kl = script.loss_terms(model, [0.4, 0.6], [0.8, -1.1])
        return reconstruction + 0.7 * kl

    model = lift(script, weights)
    loss(model).backward()
    for name, grads in gradients(model).items():
        expected = slopes(loss, weights, places({name: weights[name]}), h=1e-6)
        assert flat(grads) == pytest.approx(expected, rel=1e-4, abs=1e-5), name
        assert sum(abs(slope) > 1e-3 for slope in expected) > 3, name


def test_floats_and_values_give_the_same_loss(script):
    weights = some_weights()
    terms = script.loss_terms(weights, [0.4, 0.6], [0.8, -1.1])
    on_values = script.loss_terms(lift(script, weights), [0.4, 0.6], [0.8, -1.1])
    assert terms == tuple(v.data for v in on_values)


def test_evaluate_is_the_elbo_with_its_constant(script):
    """log p(x|z) and the KL are written out, with the network and the draws of eps."""
    weights, points = some_weights(), [[0.4, 0.6], [-1.0, -0.5]]
    random.seed(8)
    recon, kl, elbo = script.evaluate(weights, points)
    random.seed(8)
    log_ps, kls = [], []
    for x in points:
        a, b, v, w = reference_mlp(weights, "encoder", x)  # two means, two log-variances
        z = [m + math.exp(u / 2) * random.gauss(0, 1) for m, u in ((a, v), (b, w))]
        decoded = reference_mlp(weights, "decoder", z)
        pairs = zip(x, decoded)
        log_ps.append(math.fsum(log_normal(xi, d, 2 * math.log(0.12)) for xi, d in pairs))
        kls.append(0.5 * (a * a + math.exp(v) - 1 - v + b * b + math.exp(w) - 1 - w))
    assert kl == pytest.approx(math.fsum(kls) / 2)
    assert elbo == pytest.approx(math.fsum(log_ps) / 2 - math.fsum(kls) / 2)
    assert recon == pytest.approx(-math.fsum(log_ps) / 2 - math.log(2 * math.pi * 0.12**2))


def a_case_in_closed_form(script, estimate, n=6000):
    """Samples of the gradient of E[(z - 3)^2] = (mu - 3)^2 + var at mu = 1, log_var = -0.5."""
    random.seed(6)
    draws = [
        estimate(lambda z: (z[0] - 3.0) * (z[0] - 3.0), [1.0], [-0.5], [random.gauss(0, 1)])
        for _ in range(n)
    ]
    return list(zip(*draws)), [2 * (1.0 - 3.0), math.exp(-0.5)]


@pytest.mark.parametrize("name", ["reparam_gradient", "score_gradient"])
def test_gradient_estimator_is_unbiased(script, name):
    columns, expected = a_case_in_closed_form(script, getattr(script, name))
    assert len(columns) == 2
    for column, truth in zip(columns, expected):
        average = script.mean(column)
        error = math.sqrt(script.mean([(g - average) ** 2 for g in column]) / len(column))
        assert abs(average - truth) < 4 * error
        assert error < 0.2


def test_gradient_variances_in_closed_form(script):
    """Of d/dmu: 4 var for 2 (z - 3); E[f^2 eps^2] / var - 16 for f eps / std."""
    var, off = math.exp(-0.5), -2.0
    # f = (off + std e)^2, and E[e^2, e^4, e^6] = 1, 3, 15
    score = (off**4 + 18 * off**2 * var + 15 * var**2) / var - 4 * off**2
    for estimate, truth in ((script.reparam_gradient, 4 * var), (script.score_gradient, score)):
        column = a_case_in_closed_form(script, estimate)[0][0]
        average = script.mean(column)
        assert script.mean([(g - average) ** 2 for g in column]) == pytest.approx(truth, rel=0.15)


def test_compare_gradients(script, monkeypatch):
    """Variances of a cost whose gradient samples are known: alternately 0 and 2, or 1 and 5."""
    weights = some_weights()
    monkeypatch.setattr(script, "num_draws", 8)
    for name, values in (("reparam_gradient", (0.0, 2.0)), ("score_gradient", (1.0, 5.0))):
        turn = itertools.cycle(values)
        monkeypatch.setattr(script, name, lambda *_, turn=turn: [next(turn)])
    reparam, score, gap = script.compare_gradients(weights, [[0.0, 0.0], [1.0, 0.5]])
    assert (reparam, score) == (1.0, 4.0)
    assert gap == pytest.approx(2.0 / math.sqrt(5.0 / 8))  # means 1 and 3


def moments(points):
    """The two means, the variance of x, the covariance and the variance of y."""
    n = len(points)
    x_mean, y_mean = (math.fsum(axis) / n for axis in zip(*points))
    offsets = [(x - x_mean, y - y_mean) for x, y in points]
    products = [(u * u, u * v, v * v) for u, v in offsets]
    return [x_mean, y_mean, *(math.fsum(column) / n for column in zip(*products))]


def test_gaussian_samples_have_mean_and_covariance_of_the_points(script):
    random.seed(7)
    shares = [random.random() for _ in range(60)]
    points = [[2.0 + a, a * 0.5 + random.gauss(0, 0.3)] for a in shares]
    samples = script.gaussian_samples(points, 4000)
    assert moments(samples) == pytest.approx(moments(points), abs=0.02)
    assert max(x for x, _ in samples) > 3.2  # beyond all points: not a copy of them


def test_mean_nearest_and_between(script):
    points = [[0.0, 0.0], [4.0, 3.0]]
    assert script.distance(*points) == 5.0
    assert script.mean_nearest([[0.0, 1.0], [4.0, 6.0]], points) == 2.0
    assert script.between([1.0, 2.0], [3.0, -2.0], 0.25) == [1.5, 1.0]


def test_training_takes_steps_of_adam_at_a_falling_rate(script, monkeypatch):
    """Two steps on a batch of one point, which comes twice with different noise."""
    monkeypatch.setattr(script, "num_steps", 2)
    monkeypatch.setattr(script, "batch_size", 2)
    noise = [[0.5, -0.5], [-1.0, 0.2]]
    turn = itertools.cycle(noise)
    monkeypatch.setattr(script, "draw_noise", lambda: next(turn))
    x, beta = [0.3, -0.2], 2.0
    model = lift(script, some_weights())
    steps = script.train(model, [x, x], beta)
    m = v = [0.0] * len(flat(model))
    for step, rate in ((1, 0.02), (2, 0.01)):
        twin = lift(script, lower(model))
        terms = [script.loss_terms(twin, x, eps) for eps in noise]
        loss = (terms[0][0] + beta * terms[0][1] + terms[1][0] + beta * terms[1][1]) / 2
        loss.backward()
        before, grads = flat(lower(twin)), flat(gradients(twin))
        expected, m, v = adam(before, grads, m, v, step, rate, beta1=0.9, beta2=0.999)
        assert next(steps) == pytest.approx(loss.data)
        assert flat(lower(model)) == pytest.approx(expected, abs=1e-9)
    assert next(steps, None) is None


def test_every_visit_of_a_point_draws_fresh_noise(script, monkeypatch):
    monkeypatch.setattr(script, "batch_size", 1)
    start, x = some_weights(), [0.3, -0.2]
    random.seed(2)
    loss = next(script.train(lift(script, start), [x], 2.0))
    random.seed(2)
    random.sample([0], 1)  # the batch is drawn before its noise
    reconstruction, kl = script.loss_terms(start, x, [random.gauss(0, 1), random.gauss(0, 1)])
    assert loss == pytest.approx(reconstruction + 2.0 * kl)


def test_training_learns(script, monkeypatch):
    monkeypatch.setattr(script, "num_steps", 150)
    random.seed(5)
    points, start = script.make_data(200), enlarged(some_weights(), 0.3)
    model = lift(script, start)
    losses = list(script.train(model, points, 1.0))
    assert len(losses) == 150
    before, after = script.evaluate(start, points), script.evaluate(lower(model), points)
    assert after[0] < before[0] / 3
    assert after[1] > before[1]  # z has come to tell something
    assert after[2] > before[2]


def test_init_model(script):
    random.seed(1)
    model = script.init_model()
    assert {name: (len(m), len(m[0])) for name, m in model.items()} == SHAPES
    for name, (_, columns) in SHAPES.items():
        numbers = flat(model[name])
        spread = math.sqrt(math.fsum(x * x for x in numbers) / len(numbers))
        assert spread == pytest.approx(0.5 / math.sqrt(columns - 1), rel=0.3), name
        assert len(set(numbers)) == len(numbers)


def test_drawings(script, capsys):
    points = [[-1.9, 0.9], [0.0, 0.0], [1.9, -0.9], [5.0, 0.0]]  # the last lies outside
    script.draw_planes(2.0, 1.0, ("one", points, "vwxy"), ("two", [], ""))
    drawn = capsys.readouterr().out
    assert set("vwx") <= set(drawn)
    assert "y" not in drawn
    assert drawn.isascii()
