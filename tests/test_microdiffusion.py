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


@pytest.fixture
def schedule(script):
    """The betas and alpha-bars, computed here: [T + 1] each, with place 0 for no step."""
    betas = [0.0] + [0.01 + 0.29 * i / (T - 1) for i in range(T)]
    return betas, [math.prod(1 - beta for beta in betas[: t + 1]) for t in range(T + 1)]


# --- the data ---


def test_curve_is_a_standardised_spiral(script):
    """It lies on a spiral, its ends are one turn apart, and its points are about evenly spaced."""
    curve = script.make_curve()
    assert len(curve) == 400
    xs, ys = zip(*curve)
    assert [math.fsum(xs) / 400, math.fsum(ys) / 400] == pytest.approx([0, 0], abs=1e-12)
    assert math.fsum(c * c for c in (*xs, *ys)) / 800 == pytest.approx(1)
    # Both ends point straight up from the origin of the spiral, 2 pi apart in its own unit.
    scale = 2 * math.pi / (ys[-1] - ys[0])
    assert xs[0] == pytest.approx(xs[-1])
    origin = xs[0], ys[0] - 0.5 * math.pi / scale
    previous = 0.0
    for x, y in curve:
        across, up = (x - origin[0]) * scale, (y - origin[1]) * scale
        radius = math.sqrt(across**2 + up**2)
        assert math.remainder(math.atan2(up, across) - radius, 2 * math.pi) == pytest.approx(0)
        assert radius > previous
        previous = radius
    lengths = [math.dist(a, b) for a, b in itertools.pairwise(curve)]
    assert max(lengths) / min(lengths) < 1.2


def test_points_are_the_curve_and_the_jitter(script):
    random.seed(5)
    curve = [[0.0, 0.0], [50.0, -20.0]]
    points = script.make_points(4000, curve)
    assert len(points) == 4000
    offsets = [[], []]
    at_second = [point[0] > 25 for point in points]
    assert abs(sum(at_second) / 4000 - 0.5) < 5 * 0.5 / math.sqrt(4000)
    for point, second in zip(points, at_second):
        for axis in (0, 1):
            offsets[axis].append(point[axis] - curve[second][axis])
    for values in offsets:
        assert abs(math.fsum(values) / 4000) < 5 * 0.08 / math.sqrt(4000)
        spread = math.fsum(c * c for c in values) / 4000
        assert spread == pytest.approx(0.08**2, rel=5 * math.sqrt(2 / 4000))
    product = math.fsum(a * b for a, b in zip(*offsets)) / 4000
    assert abs(product) < 5 * 0.08**2 / math.sqrt(4000)


def test_near_means_nearly_all_data(script):
    """The distance to the curve is that of the jitter across it: half a normal of std 0.08."""
    random.seed(5)
    curve = script.make_curve()
    distances = [script.curve_distance(point, curve) for point in script.make_points(400, curve)]
    assert math.fsum(distances) / 400 == pytest.approx(0.08 * math.sqrt(2 / math.pi), rel=0.12)
    assert script.near_distance == pytest.approx(2.6 * script.jitter, abs=0.005)


# --- the forward process ---


def test_schedule(script, schedule):
    betas = script.make_betas()
    alpha_bars = script.make_alpha_bars(betas)
    assert script.num_timesteps == T
    assert betas == pytest.approx(schedule[0], abs=1e-15)
    assert alpha_bars == pytest.approx(schedule[1], rel=1e-12)
    assert len(alpha_bars) == T + 1
    assert alpha_bars[T] < 0.01  # sampling starts from N(0, 1), so nearly no signal may be left
    assert script.make_alpha_bars([0.0, 0.5, 0.2]) == pytest.approx([1, 0.5, 0.4])


def test_standard_noise(script):
    random.seed(2)
    draws = [script.standard_noise() for _ in range(4000)]
    for values in zip(*draws):
        assert abs(math.fsum(values) / 4000) < 5 / math.sqrt(4000)
        assert math.fsum(c * c for c in values) / 4000 == pytest.approx(
            1, rel=5 * math.sqrt(2 / 4000)
        )
    assert abs(math.fsum(a * b for a, b in draws) / 4000) < 5 / math.sqrt(4000)


def test_the_examples_of_the_docstrings(script):
    assert script.add_noise([1.0, 0.0], [0.5, -1.0], 0.64) == pytest.approx([1.1, -0.6])
    mu = script.reverse_mean([1.1, -0.6], [0.5, -1.0], 0.19, 0.64)
    assert mu == pytest.approx([1.046, -0.315], abs=5e-4)


def test_one_jump_has_mean_and_variance_of_all_steps(script, schedule):
    """Mean and variance of x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) n, followed step by step."""
    betas, alpha_bars = schedule
    x0, mean, variance = 1.7, 1.7, 0.0
    for t in range(1, T + 1):
        mean *= math.sqrt(1 - betas[t])
        variance = (1 - betas[t]) * variance + betas[t]
        (middle,) = script.add_noise([x0], [0.0], alpha_bars[t])
        (above,) = script.add_noise([x0], [1.0], alpha_bars[t])
        assert middle == pytest.approx(mean, rel=1e-12)
        assert (above - middle) ** 2 == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("t", [1, 5, 12, T])
def test_one_jump_is_distributed_as_all_steps(script, schedule, t):
    """The same by Monte Carlo, within five standard errors."""
    betas, alpha_bars = schedule
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


def test_noise_replaces_signal_at_constant_variance(script, schedule):
    _, alpha_bars = schedule
    for alpha_bar in alpha_bars:
        (signal,), (noise,) = (script.add_noise(*v, alpha_bar) for v in (([1], [0]), ([0], [1])))
        assert signal**2 + noise**2 == pytest.approx(1)
        assert signal**2 == pytest.approx(alpha_bar)
    assert script.add_noise([0.3, -2.0], [5.0, 5.0], 1.0) == [0.3, -2.0]  # t = 0 is the data


# --- the network ---


def test_time_embedding(script):
    for t in range(T + 1):
        expected = []
        for period in (30, 60, 120, 240):
            z = complex(0, 2 * math.pi * t / period)
            wave = math.e**z
            expected += [wave.imag, wave.real]
        assert script.time_embedding(t) == pytest.approx(expected, abs=1e-12)
    assert len(expected) == script.num_time_features


def test_time_embeddings_are_distinct_and_neighbours_alike(script):
    embedded = [script.time_embedding(t) for t in range(T + 1)]

    def distance(a, b):
        return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(embedded[a], embedded[b])))

    assert min(distance(a, b) for a, b in itertools.combinations(range(T + 1), 2)) > 0.2
    for t in range(1, T - 4):
        assert distance(t, t + 1) < distance(t, t + 5)


SHAPES = {"layer0": (18, 11), "layer1": (18, 18), "layer2": (18, 18), "out": (2, 18)}


def some_weights():
    """A float model, scaled so that a layer's outputs vary about as much as its inputs."""
    return {name: gaussian(*shape, shape[1] ** -0.5, name) for name, shape in SHAPES.items()}


def test_model_shapes_and_scale(script):
    random.seed(3)
    model = script.init_network()
    shapes = {name: (len(matrix), len(matrix[0])) for name, matrix in model.items()}
    assert shapes == SHAPES
    for name in ("layer0", "layer1", "layer2"):
        squares = [x * x for x in flat(model[name])]
        expected = 1 / shapes[name][1]
        assert math.fsum(squares) / len(squares) == pytest.approx(expected, rel=0.35)
        assert len(set(squares)) == len(squares)


def test_network_against_its_formula(script):
    w, x, t = some_weights(), [0.4, -1.1], 7
    h = [math.tanh(z) for z in matvec(w["layer0"], x + script.time_embedding(t) + [1.0])]
    for name in ("layer1", "layer2"):
        h = [a + math.tanh(z) for a, z in zip(h, matvec(w[name], h))]
    assert script.predict_noise(w, x, t) == pytest.approx(matvec(w["out"], h), abs=1e-12)


def test_network_knows_the_time(script):
    w = some_weights()
    guesses = {tuple(script.predict_noise(w, [0.4, -1.1], t)) for t in range(1, T + 1)}
    assert len(guesses) == T


# --- training ---


def test_loss_of_a_known_guess(script, schedule, monkeypatch):
    """The network is shown x_t and t, and judged by the noise that is in x_t."""
    _, alpha_bars = schedule
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


def test_gradient_equals_finite_differences(script, schedule):
    _, alpha_bars = schedule
    weights = some_weights()
    model = lift(script, weights)
    args = [0.6, -1.2], 9, [-0.8, 0.3], alpha_bars
    script.noise_loss(model, *args).backward()
    grads, where = gradients(model), places_of_each(weights, 36)
    expected = slopes(lambda w: script.noise_loss(w, *args), weights, where)
    found = [grads[name][i][j] for name, i, j in where]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_floats_and_values_give_the_same_loss(script, schedule):
    _, alpha_bars = schedule
    weights = some_weights()
    args = [0.6, -1.2], 9, [-0.8, 0.3], alpha_bars
    loss = script.noise_loss(weights, *args)
    assert type(loss) is float
    assert loss == script.noise_loss(lift(script, weights), *args).data


def test_a_step_takes_each_t_once_with_fresh_noise(script, schedule, monkeypatch):
    _, alpha_bars = schedule
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
def test_training_on_a_single_point_learns_its_noise(script, schedule):
    """The exact guess is (x_t - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar): linear, so learnable."""
    _, alpha_bars = schedule
    random.seed(1)
    steps = script.train(lift(script, some_weights()), [[0.5, -0.5]], alpha_bars)
    losses = list(itertools.islice(steps, 25))
    assert math.fsum(losses[-5:]) / 5 < 0.25 < losses[0]


# --- the reverse process ---


def test_reverse_mean_is_that_of_the_posterior(script, schedule):
    """Mean of q(x_{t-1} | x_t, x0) from Bayes' rule on the two Gaussians, x0 as the noise implies.

    N(x_{t-1}; sqrt(abar_{t-1}) x0, 1 - abar_{t-1}) times N(x_t; sqrt(alpha_t) x_{t-1}, beta_t):
    precisions add, means are weighted by them.
    """
    betas, alpha_bars = schedule
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
        assert script.reverse_mean(x, eps, betas[t], abar) == pytest.approx(expected, abs=1e-12)


def test_reverse_mean_is_the_average_of_what_led_there(script, schedule):
    """By simulation: among walks from x0 that are near x_t at t, the mean position at t - 1."""
    betas, alpha_bars = schedule
    rng = random.Random(5)
    t, x0, goal, width = 8, 0.7, 0.2, 0.05
    before = []
    for _ in range(25000):
        noise = rng.gauss(0, 1)
        earlier = math.sqrt(alpha_bars[t - 1]) * x0 + math.sqrt(1 - alpha_bars[t - 1]) * noise
        later = math.sqrt(1 - betas[t]) * earlier + math.sqrt(betas[t]) * rng.gauss(0, 1)
        if abs(later - goal) < width:
            before.append(earlier)
    assert len(before) > 500
    eps = (goal - math.sqrt(alpha_bars[t]) * x0) / math.sqrt(1 - alpha_bars[t])
    (mu,) = script.reverse_mean([goal], [eps], betas[t], alpha_bars[t])
    average = math.fsum(before) / len(before)
    spread = math.sqrt(math.fsum((c - average) ** 2 for c in before) / len(before))
    assert abs(average - mu) < 5 * spread / math.sqrt(len(before))


def test_reverse_step_adds_noise_of_variance_beta(script, schedule):
    betas, alpha_bars = schedule
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


def test_last_step_adds_no_noise(script, schedule):
    betas, alpha_bars = schedule
    state = random.getstate()
    first = script.reverse_step([0.3, -0.4], [1.0, 0.5], 1, betas, alpha_bars)
    assert random.getstate() == state
    # It gives back the x0 that eq. 4 turns into this x_1 with this noise.
    assert script.add_noise(first, [1.0, 0.5], alpha_bars[1]) == pytest.approx([0.3, -0.4])
    assert script.reverse_step([0.3, -0.4], [1.0, 0.5], 2, betas, alpha_bars) != pytest.approx(
        script.reverse_step([0.3, -0.4], [1.0, 0.5], 2, betas, alpha_bars)
    )


def test_sampler_lands_on_a_single_point(script, schedule, monkeypatch):
    """With the exact noise for data that is one point, every sample is that point."""
    betas, alpha_bars = schedule
    target = [0.9, -1.4]
    times = []

    def exact(model, x, t):
        times.append(t)
        signal, noise = math.sqrt(alpha_bars[t]), math.sqrt(1 - alpha_bars[t])
        return [(xi - signal * x0) / noise for xi, x0 in zip(x, target)]

    monkeypatch.setattr(script, "predict_noise", exact)
    for seed in range(5):
        random.seed(seed)
        path = script.sample_path({}, betas, alpha_bars)
        assert list(path) == [*range(T, -1, -1)]
        assert path[0] == pytest.approx(target, abs=1e-9)
    assert times == [*range(T, 0, -1)] * 5


def test_sampler_of_a_gaussian_has_its_moments(script, schedule, monkeypatch):
    """For x0 ~ N(m, s^2) the best guess is known. Mean and variance follow its own recursion."""
    betas, alpha_bars = schedule
    m, s, n = 0.5, 0.6, 1500

    def slope_and_offset(t):  # E[eps | x_t] = slope * x_t + offset
        total = alpha_bars[t] * s * s + 1 - alpha_bars[t]
        slope = math.sqrt(1 - alpha_bars[t]) / total
        return slope, -slope * math.sqrt(alpha_bars[t]) * m

    def best(model, x, t):
        slope, offset = slope_and_offset(t)
        return [slope * xi + offset for xi in x]

    monkeypatch.setattr(script, "predict_noise", best)
    random.seed(9)
    ends = [c for _ in range(n // 2) for c in script.sample_path({}, betas, alpha_bars)[0]]
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


def test_sampling_starts_from_noise_and_goes_step_by_step(script, schedule):
    betas, alpha_bars = schedule
    w = some_weights()
    random.seed(3)
    state = random.getstate()
    path = script.sample_path(w, betas, alpha_bars)
    random.setstate(state)
    assert path[T] == [random.gauss(0, 1), random.gauss(0, 1)]
    for t in range(T, 0, -1):
        guess = script.predict_noise(w, path[t], t)
        mu = script.reverse_mean(path[t], guess, betas[t], alpha_bars[t])
        if t > 1:
            std = math.sqrt(betas[t])
            mu = [mu[0] + std * random.gauss(0, 1), mu[1] + std * random.gauss(0, 1)]
        assert path[t - 1] == pytest.approx(mu, abs=1e-12)


# --- the measures ---


def test_walk_without_noise_takes_the_mean_of_every_step(script, schedule):
    """x_{t-1} = (x_t - beta / sqrt(1 - abar) * guess) / sqrt(1 - beta), and nothing is drawn."""
    betas, alpha_bars = schedule
    w, start = some_weights(), [0.8, -1.3]
    state = random.getstate()
    end = script.walk_without_noise(w, start, betas, alpha_bars)
    assert random.getstate() == state
    x = list(start)
    for t in range(T, 0, -1):
        guess = script.predict_noise(w, x, t)
        factor = betas[t] / math.sqrt(1 - alpha_bars[t])
        x = [(xi - factor * g) / math.sqrt(1 - betas[t]) for xi, g in zip(x, guess)]
    assert end == pytest.approx(x, abs=1e-12)
    assert start == [0.8, -1.3]


def test_best_guess_is_the_mean_of_the_noise_that_leads_there(script, schedule):
    """E[eps | x_t] by brute force: a grid of noises, weighted by their own density and x_t's."""
    _, alpha_bars = schedule
    curve = [[0.9, -0.2], [0.1, 1.1], [-0.7, 0.3]]
    x, grid = [0.4, 0.3], [i / 200 for i in range(-1400, 1401)]
    for t in (1, 4, 12, T):
        signal, noise = math.sqrt(alpha_bars[t]), math.sqrt(1 - alpha_bars[t])
        total, moments = 0.0, [0.0, 0.0]
        for place in curve:
            masses, means = [], []
            for xi, p in zip(x, place):
                rests = [(xi - signal * p - noise * eps) / (signal * 0.08) for eps in grid]
                density = [math.exp(-(r * r + e * e) / 2) for r, e in zip(rests, grid)]
                masses.append(math.fsum(density))
                means.append(math.fsum(d * e for d, e in zip(density, grid)) / masses[-1])
            weight = masses[0] * masses[1]
            total += weight
            moments = [m + weight * mean for m, mean in zip(moments, means)]
        guess = script.best_guess(x, curve, alpha_bars[t])
        assert guess == pytest.approx([m / total for m in moments], abs=1e-5)


def test_the_best_guess_brings_nearly_all_samples_near(script, schedule, monkeypatch):
    """As the comments say: 99 % after the same steps, so the network is what limits the rate."""
    betas, alpha_bars = schedule
    curve = script.make_curve()
    monkeypatch.setattr(
        script, "predict_noise", lambda model, x, t: script.best_guess(x, curve, alpha_bars[t])
    )
    random.seed(8)
    samples = [script.sample_path({}, betas, alpha_bars)[0] for _ in range(100)]
    assert script.near_rate(samples, curve) >= 0.96
    points = script.make_points(2000, curve)
    assert script.variance_error(samples, points) < 5 * math.sqrt(2 / 100)


def test_the_least_possible_loss(script, schedule, monkeypatch):
    """As the comments say: about 0.28 on average over t, and 0.7 at t = 1."""
    _, alpha_bars = schedule
    curve = script.make_curve()
    monkeypatch.setattr(
        script, "predict_noise", lambda model, x, t: script.best_guess(x, curve, alpha_bars[t])
    )
    random.seed(9)
    points = script.make_points(60, curve)
    losses = [script.mean_losses_at({}, points, t, alpha_bars, curve) for t in range(1, T + 1)]
    assert all(loss == pytest.approx(least) for loss, least in losses)  # both by the best guess
    assert math.fsum(loss for loss, _ in losses) / T == pytest.approx(0.28, abs=0.06)  # 4 sigma
    more = script.make_points(600, curve)
    assert script.mean_losses_at({}, more, 1, alpha_bars, curve)[1] == pytest.approx(0.7, abs=0.12)


def test_mean_losses_at(script, schedule, monkeypatch):
    """A guess of zero costs the variance of the noise, 1, at every t. Each point is used once."""
    _, alpha_bars = schedule
    points = [[0.001 * i, 0.5] for i in range(3000)]
    monkeypatch.setattr(script, "predict_noise", lambda model, x, t: [0.0, 0.0])
    monkeypatch.setattr(script, "best_guess", lambda x, curve, alpha_bar: [0.0, 0.0])
    random.seed(1)
    loss, least = script.mean_losses_at({}, points, 5, alpha_bars, [])
    assert loss == pytest.approx(least)  # the same noise for both
    assert loss == pytest.approx(1, abs=5 / math.sqrt(3000))  # eps^2 / 2, summed: a std of 1
    seen = []
    monkeypatch.setattr(
        script, "noise_loss", lambda model, x_0, t, *_: seen.append((x_0, t)) or x_0[0]
    )
    loss, _ = script.mean_losses_at({}, points, 5, alpha_bars, [])
    assert loss == pytest.approx(0.001 * 2999 / 2)
    assert seen == [(point, 5) for point in points]


def test_moments(script):
    points = [[0.0, 1.0], [2.0, 1.0], [4.0, 7.0], [2.0, 3.0]]
    assert script.coordinates(points, 0) == [0.0, 2.0, 4.0, 2.0]
    assert script.coordinates(points, 1) == [1.0, 1.0, 7.0, 3.0]
    assert script.variance(points, 0) == 2.0
    assert script.variance(points, 1) == 6.0
    assert script.covariance(points) == 3.0
    assert script.variance([[1.5, -2.0]], 1) == 0.0


def test_curve_distance(script, monkeypatch):
    """The resolution of the curve against one of 5,000 points."""
    coarse = script.make_curve()
    monkeypatch.setattr(script, "num_curve_points", 5000)
    fine = script.make_curve()
    rng = random.Random(1)
    for _ in range(40):
        point = [rng.gauss(0, 1), rng.gauss(0, 1)]
        exact = min(math.dist(point, place) for place in fine)
        assert script.curve_distance(point, coarse) == pytest.approx(exact, abs=0.015)
    assert script.curve_distance([3.0, 4.0], [[0.0, 0.0], [9.0, 9.0]]) == 5.0
    assert script.curve_distance(coarse[7], coarse) == 0.0


def test_near_rate(script):
    curve = [[0.0, 0.0], [10.0, 0.0]]
    points = [[0.0, 0.2], [0.0, -0.22], [10.2, 0.0], [5.0, 0.0], [0.1, 0.0]]
    assert script.near_rate(points, curve) == 0.6  # within 0.21


def test_gaussian_like(script):
    random.seed(6)
    xs = [random.gauss(1, 2) for _ in range(8000)]
    points = [[x, 0.5 * x + random.gauss(-3, 0.4)] for x in xs]
    random.seed(7)
    clone = script.gaussian_like(points)
    assert len(clone) == len(points)

    def moments(cloud):
        axes = list(zip(*cloud))
        means = [math.fsum(axis) / 8000 for axis in axes]
        offsets = [[c - m for c in axis] for axis, m in zip(axes, means)]
        products = [
            [math.fsum(a * b for a, b in zip(p, q)) / 8000 for q in offsets] for p in offsets
        ]
        return means, products

    (a, cov_a), (b, cov_b) = moments(points), moments(clone)
    for i in range(2):
        assert abs(a[i] - b[i]) < 5 * math.sqrt(cov_a[i][i] / 8000)
        for j in range(2):
            error = math.sqrt((cov_a[i][i] * cov_a[j][j] + cov_a[i][j] ** 2) / 8000)
            assert abs(cov_a[i][j] - cov_b[i][j]) < 5 * error


def test_errors_of_mean_and_variance(script):
    points = [[-1.0, -2.0], [1.0, 2.0], [-1.0, 2.0], [1.0, -2.0]]  # means 0, variances 1 and 4
    assert script.mean_error(points, points) == 0.0
    assert script.variance_error(points, points) == 0.0
    for dx, dy in ((0.1, -0.4), (-0.2, 0.2)):  # of standard deviations 1 and 2: either axis counts
        moved = [[x + dx, y + dy] for x, y in points]
        assert script.mean_error(moved, points) == pytest.approx(0.2)
    assert script.variance_error(moved, points) == pytest.approx(0.0)
    wider = [[1.1 * x, 0.5 * y] for x, y in points]
    assert script.mean_error(wider, points) == pytest.approx(0.0)
    assert script.variance_error(wider, points) == pytest.approx(0.75)
    assert script.variance_error(points, wider) == pytest.approx(3.0)
    narrower = [[0.5 * x, 1.1 * y] for x, y in points]
    assert script.variance_error(narrower, points) == pytest.approx(0.75)


def test_the_worked_example_draws_no_random_number(script, schedule, capsys):
    state = random.getstate()
    script.show_noisy([0.5, 1.5], [1.0, -0.5], schedule[1])
    script.show_one_step_back([0.5, 1.5], [1.0, -0.5], 10, *schedule)
    assert random.getstate() == state
    shown = capsys.readouterr().out
    x_t = script.add_noise([0.5, 1.5], [1.0, -0.5], schedule[1][10])
    assert f"{x_t[0]:5.2f}, {x_t[1]:5.2f}" in shown


def test_drawings(script, capsys):
    points = [[2.3, 2.3]] * 3 + [[-2.3, -2.3]] + [[9.0, 0.0], [0.0, -2.5]]  # two lie outside
    script.draw_clouds({"one": points, "two": [[0.1, 0.1]]}, 4, 2)
    drawn = capsys.readouterr().out
    assert drawn.count("#") == 2
    assert drawn.isascii()
