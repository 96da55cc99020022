"""microdiffusion against Bayes' rule, exact guesses, statistics and finite differences."""

import itertools
import math
import random

import pytest
from support.numbers import (
    adam,
    flat,
    gaussian,
    gradients,
    lift,
    lower,
    matvec,
    places_of_each,
    slopes,
)

T = 30


def test_samples_have_the_shape_and_a_gaussian_has_not(run):
    rates = run.metrics
    ratio = rates["near_curve_rate"] / rates["gaussian_near_curve_rate"]
    assert rates["near_curve_ratio"] == pytest.approx(ratio, rel=1e-3)
    assert rates["gaussian_near_curve_rate"] < 0.3
    assert rates["near_curve_rate"] > 0.6
    assert rates["data_near_curve_rate"] > 0.97


def test_the_guess_gets_better(run):
    """A guess of zero costs 1, and so does the very first network, or more."""
    assert run.metrics["mean_loss_last_100"] < run.metrics["mean_loss_first_100"] - 0.1
    assert 0.25 < run.metrics["mean_loss_last_100"] < 0.35


# The data


def test_spiral(script):
    """Radius equals angle, ends as stated, equal shares of u are about equal lengths."""
    for u, turns in ((0.0, 0.25), (1.0, 1.25)):
        x, y = script.spiral(u)
        assert (x, y) == pytest.approx((0.0, 2 * math.pi * turns), abs=1e-12)
    points = [script.spiral(i / 1000) for i in range(1001)]
    for x, y in points:
        radius = math.sqrt(x * x + y * y)
        assert math.atan2(y, x) == pytest.approx(math.remainder(radius, 2 * math.pi), abs=1e-9)
    lengths = [math.sqrt((a - c) ** 2 + (b - d) ** 2) for (a, b), (c, d) in zip(points, points[1:])]
    assert max(lengths) / min(lengths) < 1.2


def test_data_are_standardised_and_the_curve_with_them(script):
    random.seed(5)
    points, curve, gap = script.make_data(3000)
    assert (len(points), len(curve)) == (3000, 400)
    xs, ys = zip(*points)
    assert [math.fsum(xs) / 3000, math.fsum(ys) / 3000] == pytest.approx([0, 0], abs=1e-12)
    assert math.fsum(c * c for c in (*xs, *ys)) / 6000 == pytest.approx(1)
    # The two ends lie one turn apart: all that moves and scales is undone in their difference.
    (ax, ay), (bx, by) = curve[0], curve[-1]
    assert gap == pytest.approx(math.sqrt((ax - bx) ** 2 + (ay - by) ** 2))
    # The distance to the curve is that of the jitter across it: half a normal, mean 0.8 std.
    distances = [script.curve_distance(point, curve) for point in points[::2]]
    jitter = script.jitter * gap / (2 * math.pi)
    assert math.fsum(distances) / 1500 == pytest.approx(jitter * math.sqrt(2 / math.pi), rel=0.06)


def test_moments(script):
    centre, covariance = script.moments([[0.0, 1.0], [2.0, 1.0], [4.0, 7.0], [2.0, 3.0]])
    assert centre == [2.0, 3.0]
    assert covariance == [[2.0, 3.0], [3.0, 6.0]]
    assert script.moments([[1.5, -2.0]]) == ([1.5, -2.0], [[0.0, 0.0], [0.0, 0.0]])


# The forward process


def test_schedule(script):
    betas, alpha_bars = script.make_schedule()
    assert len(betas) == len(alpha_bars) == T + 1 == script.num_timesteps + 1
    assert betas[1] == 0.01
    assert betas[T] == pytest.approx(0.3, abs=1e-15)
    assert [b - a for a, b in zip(betas[1:], betas[2:])] == pytest.approx([0.29 / 29] * 29)
    assert (betas[0], alpha_bars[0]) == (0.0, 1.0)
    for t in range(1, T + 1):
        product = math.prod(1 - (0.01 + 0.01 * s) for s in range(t))
        assert alpha_bars[t] == pytest.approx(product, rel=1e-12)
    assert alpha_bars[T] < 0.01  # sampling starts from N(0, 1), so nearly no signal may be left


def test_one_jump_has_mean_and_variance_of_all_steps(script):
    """Mean and variance of x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) n, followed step by step."""
    betas, alpha_bars = script.make_schedule()
    x0, mean, variance = 1.7, 1.7, 0.0
    for t in range(1, T + 1):
        mean *= math.sqrt(1 - betas[t])
        variance = (1 - betas[t]) * variance + betas[t]
        (middle,) = script.add_noise([x0], [0.0], alpha_bars[t])
        (above,) = script.add_noise([x0], [1.0], alpha_bars[t])
        assert middle == pytest.approx(mean, rel=1e-12)
        assert (above - middle) ** 2 == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("t", [1, 5, 12, T])
def test_one_jump_is_distributed_as_all_steps(script, t):
    """The same by Monte Carlo, within five standard errors."""
    betas, alpha_bars = script.make_schedule()
    rng = random.Random(t)
    n, x0 = 4000, -1.3
    walked, jumped = [x0] * n, []
    for s in range(1, t + 1):
        shrink, add = math.sqrt(1 - betas[s]), math.sqrt(betas[s])
        walked = [shrink * x + add * rng.gauss(0, 1) for x in walked]
    for _ in range(n):
        jumped += script.add_noise([x0], [rng.gauss(0, 1)], alpha_bars[t])
    means = [math.fsum(xs) / n for xs in (walked, jumped)]
    variances = [math.fsum((x - m) ** 2 for x in xs) / n for xs, m in zip((walked, jumped), means)]
    assert abs(means[0] - means[1]) < 5 * math.sqrt(math.fsum(variances) / n)
    assert abs(variances[0] / variances[1] - 1) < 5 * math.sqrt(2 * 2 / n)


def test_noise_replaces_signal_at_constant_variance(script):
    _, alpha_bars = script.make_schedule()
    for alpha_bar in alpha_bars:
        (signal,), (noise,) = (script.add_noise(*v, alpha_bar) for v in (([1], [0]), ([0], [1])))
        assert signal**2 + noise**2 == pytest.approx(1)
        assert signal**2 == pytest.approx(alpha_bar)
    assert script.add_noise([0.3, -2.0], [5.0, 5.0], 1.0) == [0.3, -2.0]  # t = 0 is the data


# The network


def test_time_embedding(script):
    for t in range(T + 1):
        expected = []
        for period in (30, 60, 120, 240):
            z = complex(0, 2 * math.pi * t / period)
            wave = math.e**z
            expected += [wave.imag, wave.real]
        assert script.time_embedding(t) == pytest.approx(expected, abs=1e-12)
    assert len(expected) == script.n_embd


def test_time_embeddings_are_distinct_and_neighbours_alike(script):
    embedded = [script.time_embedding(t) for t in range(T + 1)]

    def distance(a, b):
        return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(embedded[a], embedded[b])))

    assert min(distance(a, b) for a, b in itertools.combinations(range(T + 1), 2)) > 0.2
    for t in range(1, T - 4):
        assert distance(t, t + 1) < distance(t, t + 5)


SHAPES = {"fc0": (18, 11), "fc1": (18, 18), "fc2": (18, 18), "out": (2, 18)}


def some_weights():
    """A float model, scaled so that a layer's outputs vary about as much as its inputs."""
    return {name: gaussian(*shape, shape[1] ** -0.5, name) for name, shape in SHAPES.items()}


def test_model_shapes_and_scale(script):
    random.seed(3)
    model = lower(script.init_model())
    shapes = {name: (len(matrix), len(matrix[0])) for name, matrix in model.items()}
    assert shapes == SHAPES
    for name in ("fc0", "fc1", "fc2"):
        squares = [x * x for x in flat(model[name])]
        expected = 1 / shapes[name][1]
        assert math.fsum(squares) / len(squares) == pytest.approx(expected, rel=0.35)
        assert len(set(squares)) == len(squares)


def test_network_against_its_formula(script):
    w, x, t = some_weights(), [0.4, -1.1], 7
    h = [math.tanh(z) for z in matvec(w["fc0"], x + script.time_embedding(t) + [1.0])]
    for name in ("fc1", "fc2"):
        h = [a + math.tanh(z) for a, z in zip(h, matvec(w[name], h))]
    assert script.predict_noise(w, x, t) == pytest.approx(matvec(w["out"], h), abs=1e-12)


def test_network_knows_the_time(script):
    w = some_weights()
    guesses = {tuple(script.predict_noise(w, [0.4, -1.1], t)) for t in range(1, T + 1)}
    assert len(guesses) == T


# Training


def test_loss_of_a_known_guess(script, monkeypatch):
    """The network is shown x_t and t, and judged by the noise that is in x_t."""
    _, alpha_bars = script.make_schedule()
    seen = []
    monkeypatch.setattr(
        script, "predict_noise", lambda model, x, t: seen.append((x, t)) or [0.5, -0.5]
    )
    loss = script.noise_loss({}, [1.0, 2.0], 4, [0.1, 0.7], alpha_bars)
    assert loss == pytest.approx((0.4**2 + 1.2**2) / 2)
    signal, noise = math.sqrt(alpha_bars[4]), math.sqrt(1 - alpha_bars[4])
    ((x, t),) = seen
    assert x == pytest.approx([signal + noise * 0.1, 2 * signal + noise * 0.7])
    assert t == 4


def test_gradient_equals_finite_differences(script):
    _, alpha_bars = script.make_schedule()
    weights = some_weights()
    model = lift(script, weights)
    args = [0.6, -1.2], 9, [-0.8, 0.3], alpha_bars
    script.noise_loss(model, *args).backward()
    grads, where = gradients(model), places_of_each(weights, 36)
    expected = slopes(lambda w: script.noise_loss(w, *args), weights, where)
    found = [grads[name][i][j] for name, i, j in where]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_floats_and_values_give_the_same_loss(script):
    _, alpha_bars = script.make_schedule()
    weights = some_weights()
    args = [0.6, -1.2], 9, [-0.8, 0.3], alpha_bars
    loss = script.noise_loss(weights, *args)
    assert type(loss) is float
    assert loss == script.noise_loss(lift(script, weights), *args).data


def test_a_step_takes_each_t_once_with_fresh_noise(script, monkeypatch):
    _, alpha_bars = script.make_schedule()
    points = [[float(i), -float(i)] for i in range(500)]
    calls = []
    original = script.noise_loss

    def spy(model, x0, t, eps, alpha_bars):
        calls.append((tuple(x0), t, tuple(eps)))
        return original(model, [0.1, 0.2], t, eps, alpha_bars)

    monkeypatch.setattr(script, "noise_loss", spy)
    random.seed(1)
    list(itertools.islice(script.train(lift(script, some_weights()), points, alpha_bars), 2))
    chosen, times, noises = zip(*calls)
    assert sorted(times) == sorted([*range(1, T + 1)] * 2)
    assert len(set(noises)) == 2 * T
    assert len(set(chosen)) > 45
    assert {list(x)[0] for x in chosen} <= {x for x, _ in points}
    drawn = [c for eps in noises for c in eps]
    assert len(set(drawn)) == 120
    assert abs(math.fsum(drawn) / 120) < 5 / math.sqrt(120)
    assert math.fsum(c * c for c in drawn) / 120 == pytest.approx(1, abs=5 * math.sqrt(2 / 120))


def test_training_takes_steps_of_adam_at_a_falling_rate(script, monkeypatch):
    """Two steps of two time steps, each on the one point that there is, with the noise drawn."""
    monkeypatch.setattr(script, "num_steps", 2)
    monkeypatch.setattr(script, "num_timesteps", 2)
    noise_loss, calls = script.noise_loss, []

    def spy(model, *args):
        calls.append(args)
        return noise_loss(model, *args)

    monkeypatch.setattr(script, "noise_loss", spy)
    model = lift(script, some_weights())
    steps = script.train(model, [[0.5, -0.5]], [1.0, 0.7, 0.4])
    m = v = [0.0] * len(flat(model))
    for step, rate in ((1, 0.03), (2, 0.015)):
        twin = lift(script, lower(model))
        calls.clear()
        loss = next(steps)
        assert [(x0, t) for x0, t, *_ in calls] == [([0.5, -0.5], 1), ([0.5, -0.5], 2)]
        expected_loss = (noise_loss(twin, *calls[0]) + noise_loss(twin, *calls[1])) / 2
        expected_loss.backward()
        before, grads = flat(lower(twin)), flat(gradients(twin))
        expected, m, v = adam(before, grads, m, v, step, rate, beta1=0.85, beta2=0.99)
        assert loss == pytest.approx(expected_loss.data)
        assert flat(lower(model)) == pytest.approx(expected, abs=1e-9)
    assert next(steps, None) is None


@pytest.mark.slow
def test_training_on_a_single_point_learns_its_noise(script):
    """The exact guess is (x_t - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar): linear, so learnable."""
    _, alpha_bars = script.make_schedule()
    random.seed(1)
    steps = script.train(lift(script, some_weights()), [[0.5, -0.5]], alpha_bars)
    losses = list(itertools.islice(steps, 25))
    assert math.fsum(losses[-5:]) / 5 < 0.25 < losses[0]


# The reverse process


def test_reverse_step_follows_the_posterior(script):
    """Mean of q(x_{t-1} | x_t, x0) from Bayes' rule on the two Gaussians, x0 as the noise implies.

    N(x_{t-1}; sqrt(abar_{t-1}) x0, 1 - abar_{t-1}) times N(x_t; sqrt(alpha_t) x_{t-1}, beta_t):
    precisions add, means are weighted by them.
    """
    betas, alpha_bars = script.make_schedule()
    rng = random.Random(4)
    for t in range(2, T + 1):
        x, eps = ([rng.gauss(0, 1) for _ in range(2)] for _ in range(2))
        abar, before, alpha = alpha_bars[t], alpha_bars[t - 1], 1 - betas[t]
        expected = []
        for xi, e in zip(x, eps):
            x0 = (xi - math.sqrt(1 - abar) * e) / math.sqrt(abar)
            prior, likelihood = 1 / (1 - before), alpha / betas[t]
            top = prior * math.sqrt(before) * x0 + likelihood * xi / math.sqrt(alpha)
            expected.append(top / (prior + likelihood))
        random.seed(t)
        got = script.reverse_step(x, eps, t, betas, alpha_bars)
        random.seed(t)
        noise = [math.sqrt(betas[t]) * random.gauss(0, 1) for _ in range(2)]
        assert got == pytest.approx([m + n for m, n in zip(expected, noise)], abs=1e-12)


def test_reverse_step_adds_noise_of_variance_beta(script):
    betas, alpha_bars = script.make_schedule()
    n = 4000
    for t in (2, 17, T):
        random.seed(t)
        draws = [
            c
            for _ in range(n // 2)
            for c in script.reverse_step([0.0, 0.0], [0.0, 0.0], t, betas, alpha_bars)
        ]
        assert abs(math.fsum(draws) / n) < 5 * math.sqrt(betas[t] / n)
        variance = math.fsum(c * c for c in draws) / n
        assert variance == pytest.approx(betas[t], rel=5 * math.sqrt(2 / n))


def test_last_step_adds_no_noise(script):
    betas, alpha_bars = script.make_schedule()
    state = random.getstate()
    first = script.reverse_step([0.3, -0.4], [1.0, 0.5], 1, betas, alpha_bars)
    assert random.getstate() == state
    # It gives back the x0 that eq. 4 turns into this x_1 with this noise.
    assert script.add_noise(first, [1.0, 0.5], alpha_bars[1]) == pytest.approx([0.3, -0.4])
    assert script.reverse_step([0.3, -0.4], [1.0, 0.5], 2, betas, alpha_bars) != pytest.approx(
        script.reverse_step([0.3, -0.4], [1.0, 0.5], 2, betas, alpha_bars)
    )


def test_sampler_lands_on_a_single_point(script, monkeypatch):
    """With the exact noise for data that is one point, every sample is that point."""
    betas, alpha_bars = script.make_schedule()
    target = [0.9, -1.4]
    times = []

    def exact(model, x, t):
        times.append(t)
        signal, noise = math.sqrt(alpha_bars[t]), math.sqrt(1 - alpha_bars[t])
        return [(xi - signal * x0) / noise for xi, x0 in zip(x, target)]

    monkeypatch.setattr(script, "predict_noise", exact)
    for seed in range(5):
        random.seed(seed)
        path = script.sample({}, betas, alpha_bars)
        assert len(path) == T + 1
        assert path[-1] == pytest.approx(target, abs=1e-9)
    assert times == [*range(T, 0, -1)] * 5


def test_sampler_of_a_gaussian_has_its_moments(script, monkeypatch):
    """For x0 ~ N(m, s^2) the best guess is known. Mean and variance follow its own recursion."""
    betas, alpha_bars = script.make_schedule()
    m, s, n = 0.5, 0.6, 3000

    def slope_and_offset(t):  # E[eps | x_t] = slope * x_t + offset
        total = alpha_bars[t] * s * s + 1 - alpha_bars[t]
        slope = math.sqrt(1 - alpha_bars[t]) / total
        return slope, -slope * math.sqrt(alpha_bars[t]) * m

    def best(model, x, t):
        slope, offset = slope_and_offset(t)
        return [slope * xi + offset for xi in x]

    monkeypatch.setattr(script, "predict_noise", best)
    random.seed(9)
    ends = [c for _ in range(n // 2) for c in script.sample({}, betas, alpha_bars)[-1]]
    mean, variance = 0.0, 1.0
    for t in range(T, 0, -1):
        slope, offset = slope_and_offset(t)
        step = betas[t] / math.sqrt(1 - alpha_bars[t])
        factor = (1 - step * slope) / math.sqrt(1 - betas[t])
        mean = factor * mean - step * offset / math.sqrt(1 - betas[t])
        variance = factor**2 * variance + (betas[t] if t > 1 else 0)
    assert mean == pytest.approx(m, abs=0.03)  # the chain itself is nearly right
    assert math.sqrt(variance) == pytest.approx(s, rel=0.15)
    got = math.fsum(ends) / n
    assert abs(got - mean) < 5 * math.sqrt(variance / n)
    assert math.fsum((c - got) ** 2 for c in ends) / n == pytest.approx(
        variance, rel=5 * math.sqrt(2 / n)
    )


def test_sampling_starts_from_unit_noise(script):
    betas, alpha_bars = script.make_schedule()
    w = some_weights()
    random.seed(3)
    state = random.getstate()
    path = script.sample(w, betas, alpha_bars)
    random.setstate(state)
    assert path[0] == [random.gauss(0, 1), random.gauss(0, 1)]
    assert path[1] == script.reverse_step(
        path[0], script.predict_noise(w, path[0], T), T, betas, alpha_bars
    )


# The measures


def test_curve_distance_against_brute_force(script):
    """The shipped resolution against a curve of 5,000 points."""
    random.seed(8)
    _, curve, gap = script.make_data(500)
    scale = 2 * math.pi / gap
    centre = [c - scale * d for c, d in zip(script.spiral(0.0), curve[0])]
    fine = [[(c - m) / scale for c, m in zip(script.spiral(i / 4999), centre)] for i in range(5000)]
    rng = random.Random(1)
    for _ in range(40):
        x, y = rng.gauss(0, 1), rng.gauss(0, 1)
        exact = min(math.sqrt((x - a) ** 2 + (y - b) ** 2) for a, b in fine)
        assert exact - 1e-9 <= script.curve_distance([x, y], curve) <= exact + 0.012
    assert script.curve_distance([3.0, 4.0], [[0.0, 0.0]]) == 5.0
    assert script.curve_distance(curve[7], curve) == 0.0


def test_near_rate(script):
    curve = [[0.0, 0.0], [10.0, 0.0]]
    points = [[0.0, 0.9], [0.0, -1.1], [10.9, 0.0], [5.0, 0.0]]
    assert script.near_rate(points, curve, 8.0) == 0.5  # within an eighth of 8


def test_gaussian_like(script):
    random.seed(6)
    xs = [random.gauss(1, 2) for _ in range(8000)]
    points = [[x, 0.5 * x + random.gauss(-3, 0.4)] for x in xs]
    random.seed(7)
    clone = script.gaussian_like(points)
    assert len(clone) == len(points)
    (a, cov_a), (b, cov_b) = script.moments(points), script.moments(clone)
    for i in range(2):
        assert abs(a[i] - b[i]) < 5 * math.sqrt(cov_a[i][i] / 8000)
        for j in range(2):
            error = math.sqrt((cov_a[i][i] * cov_a[j][j] + cov_a[i][j] ** 2) / 8000)
            assert abs(cov_a[i][j] - cov_b[i][j]) < 5 * error


def test_moment_errors(script):
    points = [[-1.0, -2.0], [1.0, 2.0], [-1.0, 2.0], [1.0, -2.0]]  # means 0, variances 1 and 4
    assert script.moment_errors(points, points) == (0.0, 0.0)
    moved = [[x + 0.1, y - 0.4] for x, y in points]
    assert script.moment_errors(moved, points) == pytest.approx((0.2, 0.0))
    wider = [[1.1 * x, 0.5 * y] for x, y in points]
    assert script.moment_errors(wider, points) == pytest.approx((0.0, 0.75))


def test_drawings(script, capsys):
    points = [[2.3, 2.3]] * 3 + [[-2.3, -2.3]] + [[9.0, 0.0], [0.0, -2.5]]  # two lie outside
    script.draw_clouds({"one": points, "two": [[0.1, 0.1]]}, 4, 2)
    drawn = capsys.readouterr().out
    assert drawn.count("#") == 2
    assert drawn.isascii()
