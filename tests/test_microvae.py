import itertools
import math
import random

import pytest
from harness import meets

CRITERIA = {
    "recon_loss_last": "< 1",
    "elbo_last": "> -0.7",
    "kl": "0.1 to 50",
    "interpolation_step_ratio": "< 2",
    "score_to_reparam_variance": "> 2",
    "gradient_gap": "< 1.5",
    "runtime_seconds": "< 240",
}


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_reconstruction_loss_falls_and_elbo_rises(run):
    m = run.metrics
    assert m["recon_loss_last"] < m["recon_loss_first"] / 10
    assert m["elbo_last"] > m["elbo_first"] + 10
    constant = math.log(2 * math.pi * 0.12**2)
    assert m["elbo_last"] == pytest.approx(-m["recon_loss_last"] - m["kl"] - constant, abs=2e-4)


def test_samples_are_nearer_to_the_data_than_those_of_a_gaussian(run):
    m = run.metrics
    assert m["sample_distance"] < m["gaussian_distance"] / 3
    assert meets(m["sample_distance"], run.criteria["sample_distance"])
    assert m["interpolation_distance"] < m["gaussian_distance"] / 3


def test_more_beta_less_kl(run):
    m = run.metrics
    assert m["kl_low_beta"] - 0.5 > m["kl"] > m["kl_high_beta"] + 0.5
    for metric in ("kl_low_beta", "kl_high_beta"):
        assert meets(m[metric], run.criteria[metric])


def test_output_shows_the_betas_side_by_side_and_the_planes(run):
    lines = run.stdout.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("beta  reconstruction"))
    table = [[float(x) for x in line.split()] for line in lines[header + 1 : header + 4]]
    assert [row[0] for row in table] == [0.1, 1.0, 5.0]
    assert table[0][1] < table[1][1] < table[2][1]  # what the KL saves, the reconstruction pays
    assert all(row[2] == pytest.approx(row[4] + row[5], abs=2e-3) for row in table)
    assert table[1][3] == max(row[3] for row in table)  # the ELBO is best where it is the aim
    assert min(table[1][4:]) < 0.05 < 1 < max(table[1][4:])  # one dimension is not used
    assert "1000 held out" in lines[0]
    assert sum(line.count("|") == 2 for line in lines) == 24
    assert sum("their mu, beta" in line for line in lines) == 1
    variances = [line for line in lines if "gradient variance" in line]
    for line in variances:
        reparam, score = (float(word) for word in line.split() if word[0].isdigit())
        assert score > 2 * reparam
    assert len(variances) == 2


def trained_a_little(script, steps=60):
    """A float model in which every part has something to say."""
    random.seed(2)
    model = as_values(script, script.init_model())
    for _ in itertools.islice(script.train(model, script.make_data(200), 1.0), steps):
        pass
    return {name: [[w.data for w in row] for row in rows] for name, rows in model.items()}


def as_values(script, weights):
    return {name: [[script.Value(w) for w in row] for row in m] for name, m in weights.items()}


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
    for i, leaf in enumerate(leaves):
        sides = [[a + s * (i == j) for j, a in enumerate(at)] for s in (1e-5, -1e-5)]
        up, down = (script.kl_divergence(side[:2], side[2:]) for side in sides)
        assert leaf.grad == pytest.approx((up - down) / 2e-5, abs=1e-8)


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
    weights = trained_a_little(script)
    x, eps, beta = [0.4, 0.6], [0.8, -1.1], 0.7

    def loss(model):
        reconstruction, kl = script.loss_terms(model, x, eps)
        return reconstruction + beta * kl

    model = as_values(script, weights)
    loss(model).backward()
    for name, matrix in weights.items():
        seen = 0
        for i, row in enumerate(matrix):
            for j, kept in enumerate(row):
                slope = 0.0
                for sign in (1, -1):
                    row[j] = kept + sign * 1e-6
                    slope += sign * loss(weights) / 2e-6
                row[j] = kept
                assert model[name][i][j].grad == pytest.approx(slope, rel=1e-4, abs=1e-5), name
                seen += abs(slope) > 1e-3
        assert seen > 3, name


def test_floats_and_values_give_the_same_loss(script):
    weights = trained_a_little(script)
    terms = script.loss_terms(weights, [0.4, 0.6], [0.8, -1.1])
    on_values = script.loss_terms(as_values(script, weights), [0.4, 0.6], [0.8, -1.1])
    assert terms == tuple(v.data for v in on_values)


def test_evaluate_is_the_elbo_with_its_constant(script):
    weights = trained_a_little(script)
    points = [[0.4, 0.6], [-1.0, -0.5]]
    random.seed(8)
    recon, kl, elbo = script.evaluate(weights, points)
    random.seed(8)
    expected = []
    for x in points:
        mu, log_var = script.encode(weights, x)
        z = script.reparameterize(mu, log_var, script.draw_noise())
        decoded, spread = script.decode(weights, z), 2 * math.log(script.sigma)
        log_p = math.fsum(log_normal(a, b, spread) for a, b in zip(x, decoded))
        expected.append(log_p - script.kl_divergence(mu, log_var))
    assert elbo == pytest.approx(script.mean(expected))
    assert elbo < -recon - kl + 3


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
    weights = trained_a_little(script)
    monkeypatch.setattr(script, "num_draws", 8)
    for name, values in (("reparam_gradient", (0.0, 2.0)), ("score_gradient", (1.0, 5.0))):
        turn = itertools.cycle(values)
        monkeypatch.setattr(script, name, lambda *_, turn=turn: [next(turn)])
    reparam, score, gap = script.compare_gradients(weights, [[0.0, 0.0], [1.0, 0.5]])
    assert (reparam, score) == (1.0, 4.0)
    assert gap == pytest.approx(2.0 / math.sqrt(5.0 / 8))  # means 1 and 3


def test_gaussian_samples_have_mean_and_covariance_of_the_points(script):
    random.seed(7)
    points = [
        [2.0 + a, a * 0.5 + random.gauss(0, 0.3)] for a in (random.random() for _ in range(60))
    ]
    samples = script.gaussian_samples(points, 4000)
    for moments in (points, samples):
        centre = [script.mean(axis) for axis in zip(*moments)]
        products = [
            script.mean([(p[i] - centre[i]) * (p[j] - centre[j]) for p in moments])
            for i, j in ((0, 0), (0, 1), (1, 1))
        ]
        if moments is points:
            expected = centre + products
    assert centre + products == pytest.approx(expected, abs=0.02)
    assert max(x for x, _ in samples) > 3.2  # beyond all points: not a copy of them


def test_mean_nearest_and_between(script):
    points = [[0.0, 0.0], [4.0, 3.0]]
    assert script.distance(*points) == 5.0
    assert script.mean_nearest([[0.0, 1.0], [4.0, 6.0]], points) == 2.0
    assert script.between([1.0, 2.0], [3.0, -2.0], 0.25) == [1.5, 1.0]


def test_a_batch_of_one(script, monkeypatch):
    monkeypatch.setattr(script, "batch_size", 1)
    random.seed(1)
    start = script.init_model()
    random.seed(2)
    loss = next(script.train(as_values(script, start), [[0.3, -0.2]], 2.0))
    random.seed(2)
    random.sample([0], 1)
    reconstruction, kl = script.loss_terms(start, [0.3, -0.2], script.draw_noise())
    assert loss == pytest.approx(reconstruction + 2.0 * kl)


def test_a_batch_is_a_mean(script):
    """A batch of one point repeated, with the same eps each time, is that point."""
    random.seed(1)
    start = script.init_model()
    points = [[0.3, -0.2]] * 10
    script_noise, script.draw_noise = script.draw_noise, lambda: [0.5, -0.5]
    try:
        loss = next(script.train(as_values(script, start), points, 2.0))
    finally:
        script.draw_noise = script_noise
    reconstruction, kl = script.loss_terms(start, points[0], [0.5, -0.5])
    assert loss == pytest.approx(reconstruction + 2.0 * kl)


def test_training_learns(script, monkeypatch):
    monkeypatch.setattr(script, "num_steps", 150)
    random.seed(5)
    points = script.make_data(200)
    start = script.init_model()
    model = as_values(script, start)
    losses = list(script.train(model, points, 1.0))
    assert len(losses) == 150
    model = {name: [[w.data for w in row] for row in rows] for name, rows in model.items()}
    before, after = (script.evaluate(weights, points) for weights in (start, model))
    assert after[0] < before[0] / 3
    assert after[1] > before[1]  # z has come to tell something


def test_adam_follows_its_definition(script):
    p, m, v = script.Value(1.0), [0.0], [0.0]
    theta, m_ref, v_ref = 1.0, 0.0, 0.0
    for t, grad in enumerate([0.5, -2.0, 1e-9, 0.0], 1):
        p.grad = grad
        script.adam_step([p], m, v, t, 0.01)
        m_ref = 0.9 * m_ref + 0.1 * grad
        v_ref = 0.999 * v_ref + 0.001 * grad**2
        theta -= 0.01 * m_ref / (1 - 0.9**t) / (math.sqrt(v_ref / (1 - 0.999**t)) + 1e-8)
        assert p.data == pytest.approx(theta, abs=1e-12)
        assert p.grad == 0.0


def test_init_model(script):
    random.seed(1)
    model = script.init_model()
    assert {name: (len(m), len(m[0])) for name, m in model.items()} == {
        "encoder_fc1": (16, 3),
        "encoder_fc2": (4, 17),
        "decoder_fc1": (16, 3),
        "decoder_fc2": (2, 17),
    }


def test_draw_planes(script, capsys):
    square = [[-1.9, 0.9], [0.0, 0.0], [1.9, -0.9], [5.0, 0.0], [0.0, -1.1]]
    script.draw_planes(2.0, 1.0, ("a", square, "abcde"), ("b", [], ""), width=4, height=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["", "a    | b", "a    |", "  b  |", "   c |"]
