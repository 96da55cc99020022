"""microvae against Gaussian densities, Monte Carlo, closed forms and finite differences."""

import itertools
import math
import random
import re

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


def test_paths_between_codes_are_nearer_to_the_data_than_straight_lines(run):
    paths = run.stdout.partition("paths from the left end")[2]
    by_codes = re.search(r"^the VAE +([\d.]+)", paths, re.MULTILINE)
    straight = re.search(r"^straight lines +([\d.]+)", paths, re.MULTILINE)
    assert float(by_codes[1]) < float(straight[1]) / 3


SHAPES = {
    "encoder_hidden": (24, 3),
    "encoder_mu": (2, 25),
    "encoder_log_var": (2, 25),
    "decoder_hidden": (24, 3),
    "decoder_out": (2, 25),
}


def some_weights():
    """A float model in which every part has something to say."""
    return {name: gaussian(*shape, std=0.5, seed=name) for name, shape in SHAPES.items()}


def reference_layers(model, x, hidden, *outs):
    """[2] -> the output of each matrix in `outs`, over one hidden layer. Biases are last."""
    h = [max(0.0, a) for a in matvec(model[hidden], [*x, 1.0])]
    return [matvec(model[out], [*h, 1.0]) for out in outs]


def log_normal(z, mu, log_var):
    return -0.5 * (math.log(2 * math.pi) + log_var + (z - mu) ** 2 / math.exp(log_var))


def test_data_follow_the_wave(script):
    random.seed(1)
    points = script.make_data(4000, 0.05)
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


def test_layer_of_the_docstring(script):
    assert script.layer([2.0, 4.0], [[3.0, -1.0, 0.5], [0.0, 0.0, 7.0]]) == [2.5, 7.0]
    matrix = [[script.Value(w) for w in (3.0, -1.0, 0.5)]]
    (output,) = script.layer([2.0, 4.0], matrix)
    output.backward()
    assert output.data == 2.5
    assert [w.grad for w in matrix[0]] == [2.0, 4.0, 1.0]


def test_encoder_and_decoder_written_out(script):
    weights, x = some_weights(), [0.4, -0.6]
    mu, log_var = script.encode_point(weights, x)
    expected = reference_layers(weights, x, "encoder_hidden", "encoder_mu", "encoder_log_var")
    assert mu + log_var == pytest.approx(expected[0] + expected[1])
    (expected,) = reference_layers(weights, x, "decoder_hidden", "decoder_out")
    assert script.decode_point(weights, x) == pytest.approx(expected)


def test_reparameterize_has_the_stated_mean_and_variance(script):
    random.seed(3)
    n, mu, log_var = 20000, [1.5, -2.0], [-1.0, 1.2]
    draws = [script.reparameterize(mu, log_var, script.draw_normal()) for _ in range(n)]
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
        mu = [rng.gauss(0, 2) for _ in range(2)]
        log_var = [rng.gauss(0, 2) for _ in range(2)]
        assert script.kl_divergence(mu, log_var) > 0
        parts = [script.kl_divergence([m], [v]) for m, v in zip(mu, log_var)]
        assert script.kl_divergence(mu, log_var) == pytest.approx(math.fsum(parts))


@pytest.mark.parametrize(
    ("mu", "std", "kl"), [(0.0, 1.0, 0.0), (2.0, 1.0, 2.0), (0.0, 0.1, 1.81), (2.0, 0.1, 3.81)]
)
def test_kl_of_the_docstring(script, mu, std, kl):
    assert script.kl_divergence([mu], [2 * math.log(std)]) == pytest.approx(kl, abs=0.005)


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


def test_lists_of_different_lengths_are_refused(script):
    for call in (
        lambda: script.reparameterize([0.0], [0.0, 0.0], [0.0]),
        lambda: script.reparameterize([0.0], [0.0], [0.0, 0.0]),
        lambda: script.kl_divergence([0.0, 0.0], [0.0]),
        lambda: script.reconstruction_loss([0.0], [0.0, 0.0]),
        lambda: script.between([0.0], [0.0, 0.0], 0.5),
    ):
        with pytest.raises(ValueError, match="zip"):
            call()


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
    found = script.evaluate(weights, points, 3)
    random.seed(8)
    log_ps, kls = [], []
    for x in points:
        heads = reference_layers(weights, x, "encoder_hidden", "encoder_mu", "encoder_log_var")
        for _ in range(3):
            z = [m + math.exp(u / 2) * random.gauss(0, 1) for m, u in zip(*heads)]
            (decoded,) = reference_layers(weights, z, "decoder_hidden", "decoder_out")
            pairs = zip(x, decoded)
            log_ps.append(math.fsum(log_normal(xi, d, 2 * math.log(0.12)) for xi, d in pairs))
        kls.append([0.5 * (m * m + math.exp(u) - 1 - u) for m, u in zip(*heads)])
    expected = [math.fsum(column) / 2 for column in zip(*kls)]
    assert found["kls"] == pytest.approx(expected)
    assert found["kl"] == pytest.approx(math.fsum(expected))
    log_p = math.fsum(log_ps) / 6
    assert found["elbo"] == pytest.approx(log_p - math.fsum(expected))
    assert found["reconstruction"] == pytest.approx(-log_p - math.log(2 * math.pi * 0.12**2))


def test_elbo_is_at_most_the_log_density(script):
    """p(x) by a fine sum over the prior. The bound holds for an encoder that knows nothing of x."""
    weights, x = some_weights(), [0.3, -0.2]
    steps = [-4 + 0.1 * i for i in range(81)]
    terms = []
    for a in steps:
        for b in steps:
            (decoded,) = reference_layers(weights, [a, b], "decoder_hidden", "decoder_out")
            log_p = [log_normal(xi, d, 2 * math.log(0.12)) for xi, d in zip(x, decoded)]
            log_p += [log_normal(a, 0.0, 0.0), log_normal(b, 0.0, 0.0)]
            terms.append(math.exp(math.fsum(log_p)) * 0.1**2)
    random.seed(3)
    assert script.evaluate(weights, [x], 300)["elbo"] < math.log(math.fsum(terms))


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


def test_gradients_agree_on_average_on_a_network(script):
    """The gaps of the means at ten points, in standard errors: their RMS is about 1."""
    weights, n = enlarged(some_weights(), 0.5), 150
    random.seed(4)
    gaps, sizes = [], []
    for x in gaussian(10, 2):
        mu, log_var = script.encode_point(weights, x)
        cost = script.cost_of_code(weights, x)
        found = []
        for estimate in (script.reparam_gradient, script.score_gradient):
            draws = [estimate(cost, mu, log_var, script.draw_normal()) for _ in range(n)]
            found.append([(script.mean(c), script.variance(c) / n) for c in zip(*draws)])
        for (a, e), (b, f) in zip(*found):
            gaps.append((a - b) ** 2 / (e + f))
            sizes.append(abs(a) / math.sqrt(e))
    assert math.sqrt(script.mean(gaps)) < 1.5
    assert max(sizes) > 10  # there is a gradient to agree on


def test_cost_of_code(script):
    weights, x, z = some_weights(), [0.4, 0.6], [1.0, -2.0]
    (decoded,) = reference_layers(weights, z, "decoder_hidden", "decoder_out")
    expected = math.fsum((a - b) ** 2 for a, b in zip(x, decoded)) / (2 * 0.12**2)
    assert script.cost_of_code(weights, x)(z) == pytest.approx(expected)


def test_variance(script):
    assert script.variance([1.0, 3.0, 3.0, 5.0]) == 2.0


def test_gradient_variance(script, monkeypatch):
    """Of gradients that are known: alternately 0 and 2 in one place, and 1 and 7 in the other."""
    monkeypatch.setattr(script, "num_grad_draws", 8)
    turn = itertools.cycle([[0.0, 1.0], [2.0, 7.0]])
    found = script.gradient_variance(lambda *_: next(turn), some_weights(), [[0.0, 0.0]] * 3)
    assert found == (1.0 + 9.0) / 2


def test_gradient_variance_is_that_of_the_cost_at_the_encoded_cloud(script, monkeypatch):
    monkeypatch.setattr(script, "num_grad_draws", 50)
    weights, x = some_weights(), [0.4, 0.6]
    random.seed(6)
    found = script.gradient_variance(script.score_gradient, weights, [x])
    random.seed(6)
    mu, log_var = reference_layers(weights, x, "encoder_hidden", "encoder_mu", "encoder_log_var")
    draws = []
    for _ in range(50):
        eps = [random.gauss(0, 1) for _ in range(2)]
        z = [m + math.exp(v / 2) * e for m, v, e in zip(mu, log_var, eps)]
        (decoded,) = reference_layers(weights, z, "decoder_hidden", "decoder_out")
        cost = math.fsum((a - b) ** 2 for a, b in zip(x, decoded)) / (2 * 0.12**2)
        # The derivative of log q by central differences.
        log_q = lambda n, z=z: log_normal(z[0], n[0], n[2]) + log_normal(z[1], n[1], n[3])  # noqa: E731
        draws.append([cost * s for s in central_differences(log_q, mu + log_var, h=1e-5)])
    columns = list(zip(*draws))
    means = [math.fsum(column) / 50 for column in columns]
    spreads = [math.fsum((a - m) ** 2 for a in c) / 50 for c, m in zip(columns, means)]
    assert found == pytest.approx(math.fsum(spreads) / 4, rel=1e-5)


def test_compare_gradients_keeps_them_apart(script, monkeypatch):
    monkeypatch.setattr(script, "num_probes", 2)
    monkeypatch.setattr(script, "gradient_variance", lambda f, _, *rest: (f.__name__, *rest))
    found = script.compare_gradients({}, [10, 20, 30, 40])
    assert found == {
        "reparam": ("reparam_gradient", [10, 30]),
        "score": ("score_gradient", [10, 30]),
        "score_with_baseline": ("score_gradient", [10, 30], True),
    }


def test_the_baseline_is_the_mean_cost_of_the_cloud(script, monkeypatch):
    """cost = z[0]^2 + z[1] has the mean mu_0^2 + var_0 + mu_1 over the cloud."""
    monkeypatch.setattr(script, "num_grad_draws", 20000)
    random.seed(4)
    cost = script.minus_baseline(lambda z: z[0] ** 2 + z[1], [2.0, 1.0], [math.log(0.25), -4.0])
    assert cost([3.0, 5.0]) == pytest.approx(14.0 - (4 + 0.25 + 1), abs=0.06)


def test_a_constant_cost_has_no_gradient_and_the_baseline_removes_its_variance(script, monkeypatch):
    monkeypatch.setattr(script, "cost_of_code", lambda model, x: lambda z: 7.0)
    monkeypatch.setattr(script, "num_grad_draws", 50)
    random.seed(4)
    points = [[0.1, 0.2], [0.5, -0.5]]
    assert script.gradient_variance(script.score_gradient, some_weights(), points) > 1
    assert script.gradient_variance(script.score_gradient, some_weights(), points, True) == 0.0


def test_gradient_variance_looks_at_all_points(script, monkeypatch):
    """The cost is 0 at the first point and not at the second, so the mean is half of one's."""
    monkeypatch.setattr(script, "cost_of_code", lambda model, x: lambda z: x[0])
    monkeypatch.setattr(script, "encode_point", lambda model, x: ([0.0, 0.0], [0.0, 0.0]))
    monkeypatch.setattr(script, "num_grad_draws", 4000)
    random.seed(4)
    # The variances of 3 * eps and of 3 * 0.5 * (eps^2 - 1) are 9 and 4.5.
    found = script.gradient_variance(script.score_gradient, {}, [[0.0], [3.0]])
    assert found == pytest.approx((9 + 4.5) / 2 / 2, rel=0.1)


def test_log_evidence_of_a_linear_decoder(script, monkeypatch):
    """If x' is 0.7 z + (1, -1), x is Gaussian with variance 0.7^2 + sigma^2 around (1, -1)."""
    decode = lambda model, z: [0.7 * z[0] + 1, 0.7 * z[1] - 1]  # noqa: E731
    monkeypatch.setattr(script, "decode_point", decode)
    points = [[1.0, -1.0], [0.2, 0.3], [2.0, -2.5]]
    spread = math.log(0.7**2 + 0.12**2)
    expected = [log_normal(x, 1, spread) + log_normal(y, -1, spread) for x, y in points]
    assert script.log_evidence({}, points) == pytest.approx(math.fsum(expected) / 3, abs=1e-3)


def test_elbo_is_at_most_the_evidence(script):
    model, points = some_weights(), [[0.4, 0.6], [-1.0, -0.5], [0.1, 0.0]]
    random.seed(1)
    elbos = [script.evaluate(model, points * 20, 10)["elbo"] for _ in range(3)]
    assert max(elbos) < script.log_evidence(model, points)


def test_log_evidence_sees_codes_far_from_the_prior(script, monkeypatch):
    """Only codes with a first number above 5 are decoded to x: their share is 2.9e-7."""
    decode = lambda model, z: [0.0 if z[0] > 5 else 9.0, 0.0]  # noqa: E731
    monkeypatch.setattr(script, "decode_point", decode)
    expected = math.log(2.87e-7 / (2 * math.pi * 0.12**2))
    assert script.log_evidence({}, [[0.0, 0.0]]) == pytest.approx(expected, abs=0.5)


def test_bound_and_evidence_are_about_the_same_points(script, monkeypatch):
    monkeypatch.setattr(script, "num_bound_draws", 7)
    monkeypatch.setattr(script, "evaluate", lambda model, points, n: {"elbo": (points, n)})
    monkeypatch.setattr(script, "log_evidence", lambda model, points: points)
    found = script.bound_and_evidence({}, list(range(30)))
    assert found == {"elbo": ([0, 10, 20], 7), "log_p": [0, 10, 20]}


def test_the_bound_of_each_beta_is_below_its_evidence(run):
    table = run.stdout.partition("log p(x) is computed on a grid")[2]
    rows = re.findall(r"^([05]\.0|1\.0) +(-[\d.]+) +(-[\d.]+)$", table, re.MULTILINE)
    assert [beta for beta, _, _ in rows] == ["0.0", "1.0", "5.0"]
    for _, elbo, log_p in rows:
        assert float(elbo) < float(log_p)


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


def test_sample_point_draws_the_code_and_then_the_point(script):
    """A decoder without hidden units that count: every code is decoded to (2, -1)."""
    weights = some_weights()
    weights["decoder_out"] = [[0.0] * 24 + [2.0], [0.0] * 24 + [-1.0]]
    random.seed(3)
    samples = [script.sample_point(weights) for _ in range(5000)]
    centers, spreads = moments(samples)[:2], moments(samples)[2:]
    assert centers == pytest.approx([2.0, -1.0], abs=5 * 0.12 / math.sqrt(5000))
    assert spreads == pytest.approx([0.12**2, 0.0, 0.12**2], abs=0.001)


def test_sample_point_decodes_codes_of_the_prior(script, monkeypatch):
    """Where a code is decoded to itself, samples have the variance 1 + sigma^2."""
    monkeypatch.setattr(script, "decode_point", lambda model, z: z)
    random.seed(3)
    found = moments([script.sample_point({}) for _ in range(5000)])
    assert found == pytest.approx([0.0, 0.0, 1 + 0.12**2, 0.0, 1 + 0.12**2], abs=0.08)


def test_distances_in_both_directions(script):
    points = [[0.0, 0.0], [4.0, 3.0]]
    assert script.distance(*points) == 5.0
    assert script.mean_nearest([[0.0, 1.0], [4.0, 6.0]], points) == 2.0
    found = script.judge_samples([[0.0, 1.0]], points)
    assert found == {"distance": 1.0, "coverage": (1 + math.sqrt(20)) / 2}


def test_paths(script, monkeypatch):
    assert script.between([1.0, 2.0], [3.0, -2.0], 0.25) == [1.5, 1.0]
    monkeypatch.setattr(script, "path_length", 3)
    assert script.straight_path([0.0, 2.0], [1.0, 4.0]) == [[0.0, 2.0], [0.5, 3.0], [1.0, 4.0]]
    assert script.step_ratio([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]) == 5 / 3


def test_interpolate_decodes_codes_on_a_line(script, monkeypatch):
    monkeypatch.setattr(script, "path_length", 3)
    weights, ends = some_weights(), [[0.4, 0.6], [-1.0, -0.5]]
    start, end = (reference_layers(weights, x, "encoder_hidden", "encoder_mu")[0] for x in ends)
    middle = [(a + b) / 2 for a, b in zip(start, end)]
    path = script.interpolate(weights, *ends)
    for point, z in zip(path, (start, middle, end), strict=True):
        (expected,) = reference_layers(weights, z, "decoder_hidden", "decoder_out")
        assert point == pytest.approx(expected)


def test_judge_paths(script, monkeypatch):
    """Points on a line. Two paths: one between the ends, one between their neighbours."""
    monkeypatch.setattr(script, "num_paths", 2)
    heldout = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [7.0, 0.0], [8.0, 0.0]]
    ends = []

    def connect(left, right):
        ends.append((left[0], right[0]))
        return [[0.0, 1.0], [3.0, 1.0], [4.0, 1.0]] if len(ends) == 1 else [[7.0, 0.0], [8.0, 0.0]]

    found = script.judge_paths(connect, heldout)
    assert ends == [(0.0, 8.0), (1.0, 7.0)]
    near = math.sqrt(2)
    assert found == {
        "step_ratio": pytest.approx((3 / 2 + 1) / 2),
        "distance": pytest.approx((1 + near + math.sqrt(5) + 0 + 0) / 5),
        "coverage": pytest.approx((1 + near + near + 0 + 0) / 5),
    }


def test_training_takes_steps_of_adam_at_a_falling_rate(script, monkeypatch):
    """Two steps on a batch of one point, which comes twice with different noise."""
    monkeypatch.setattr(script, "num_steps", 2)
    monkeypatch.setattr(script, "batch_size", 2)
    noise = [[0.5, -0.5], [-1.0, 0.2]]
    turn = itertools.cycle(noise)
    monkeypatch.setattr(script, "draw_normal", lambda: next(turn))
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
    points, start = script.make_data(200, 0.05), enlarged(some_weights(), 0.3)
    model = lift(script, start)
    losses = list(script.train(model, points, 1.0))
    assert len(losses) == 150
    before, after = script.evaluate(start, points, 10), script.evaluate(lower(model), points, 10)
    assert after["reconstruction"] < before["reconstruction"] / 3
    assert after["kl"] > before["kl"]  # z has come to tell something
    assert after["elbo"] > before["elbo"]


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
    picture = script.draw_plane("one", points, "vwxy", [2.0, 1.0])
    script.print_side_by_side([picture, script.draw_plane("two", [], "", [2.0, 1.0])])
    script.show_point("three", some_weights(), [0.5, 0.5])
    drawn = capsys.readouterr().out
    assert set("vwx") <= set("".join(picture))
    assert "y" not in "".join(picture)
    assert len({len(line) for line in picture}) == 1
    assert drawn.isascii()


def test_every_way_to_make_points_and_paths_has_its_row(script, monkeypatch):
    monkeypatch.setattr(script, "num_samples", 3)
    monkeypatch.setattr(script, "num_paths", 2)
    points = script.make_data(6, 0.05)
    models = {"one": some_weights(), "two": some_weights()}
    made = script.make_points(models, points)
    assert [len(rows) for rows in made.values()] == [3, 3, 3, 3, 3]
    assert list(made)[:3] == ["one", "two", "a Gaussian"]
    paths = script.compare_paths(models, points)
    assert list(paths) == ["one", "two", "straight lines"]
    assert paths["straight lines"] == script.judge_paths(script.straight_path, points)
