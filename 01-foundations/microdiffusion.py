"""Learn to guess the noise in a point, and you can walk from pure noise back to the data.

Denoising diffusion (DDPM: Ho, Jain & Abbeel 2020; the idea: Sohl-Dickstein et al. 2015, who showed
it on a Swiss roll). Image diffusion is the same loop with larger parts: where a point has two
numbers, an image has three a pixel, red, green and blue, with noise on each; where we have an MLP
of 882 parameters, Stable Diffusion has a U-Net of nearly a billion. Left out: text prompts, the
autoencoder that lets it work on compressed images, samplers of fewer steps (Song et al. 2021).
"""

import functools
import itertools
import math
import os
import random
import time

# === CONSTANTS: the spiral, the noise, the network, the evaluation ===
num_points, jitter = 2000, 0.3  # to train on; how far they stray from the curve, std per axis
angle_start, angle_end = 0.5 * math.pi, 2.5 * math.pi  # one turn
num_timesteps = 30  # T; Ho et al. take 1000, with betas from 0.0001 to 0.02
beta_start, beta_end = 0.01, 0.3  # variance of the noise added by the first and by the last step
n_embd, n_hidden, n_layer = 8, 18, 3  # time features; width and number of hidden layers
num_steps = 1500  # of a batch of T points each
learning_rate, beta1, beta2, eps_adam = 0.03, 0.85, 0.99, 1e-8  # these two betas are Adam's
num_samples = 1000
near_fraction = 1 / 8  # near the curve: within this part of the gap to where the next turn would be

print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: points along a spiral ===
def spiral(u):
    """The point at about share u of the curve's length: u in [0, 1] -> [2]. Radius = angle."""
    # Length grows about as the angle squared: equal steps of the square are about equally long.
    angle = math.sqrt(angle_start**2 + u * (angle_end**2 - angle_start**2))
    return [angle * math.cos(angle), angle * math.sin(angle)]


def make_data(n):
    """n points near the spiral [n][2], the curve itself [400][2], the gap between turns.

    Moved and scaled, both axes alike, to mean 0 and a variance of 1, the mean of both axes. So
    has the noise that replaces the data: points neither grow nor shrink on the way.
    """
    points = [[c + random.gauss(0, jitter) for c in spiral(random.random())] for _ in range(n)]
    centre, covariance = moments(points)
    scale = math.sqrt((covariance[0][0] + covariance[1][1]) / 2)
    points, curve = (
        [[(c - m) / scale for c, m in zip(point, centre)] for point in cloud]
        for cloud in (points, [spiral(i / 399) for i in range(400)])
    )
    return points, curve, 2 * math.pi / scale  # a turn later the radius is 2 pi larger


def moments(points):
    """Mean [2] and covariance [2][2] of a cloud [n][2]."""
    centre = [mean(axis) for axis in zip(*points)]
    offsets = [[c - m for c in axis] for axis, m in zip(zip(*points), centre)]  # [2][n]
    return centre, [[mean([a * b for a, b in zip(p, q)]) for q in offsets] for p in offsets]


# === AUTOGRAD: numbers that remember how they were computed ===
class Value:
    """A number in a graph: data, the inputs it came from, and d(self)/d(input) for each of them."""

    __slots__ = ("data", "grad", "_inputs", "_local_grads", "_order")
    _created = itertools.count()

    def __init__(self, data, inputs=(), local_grads=()):
        self.data, self.grad = data, 0.0  # grad: d(result)/d(self), by result.backward()
        self._inputs, self._local_grads = inputs, local_grads
        self._order = next(Value._created)

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    # fmt: off
    def __pow__(self, k): return Value(math.pow(self.data, k), (self,), (k * self.data ** (k - 1),))
    def exp(self): return Value(y := math.exp(self.data), (self,), (y,))
    def log(self): return Value(math.log(p := max(self.data, 1e-10)), (self,), (1.0 / p,))
    def tanh(self): return Value(y := math.tanh(self.data), (self,), (1.0 - y * y,))
    def relu(self): return Value(max(0.0, self.data), (self,), (float(self.data > 0),))
    # The rest is made of those above.
    def __neg__(self): return self * -1.0
    def __sub__(self, other): return self + -other
    def __rsub__(self, other): return -self + other
    def __truediv__(self, other): return self * other**-1
    def __rtruediv__(self, other): return self**-1 * other
    def __rpow__(self, base): return (self * math.log(base)).exp()
    __radd__, __rmul__ = __add__, __mul__
    # fmt: on

    def backward(self):
        """Add d(self)/d(v) to the grad of every v below self. Works once: it frees the graph."""
        nodes, seen = [self], {self}
        for node in nodes:  # the list grows while we walk it: no recursion, any depth
            for v in node._inputs:
                if v._inputs and v not in seen:  # a leaf has nothing to pass on
                    seen.add(v)
                    nodes.append(v)
        # Inputs exist before their node, so newest first is reverse topological order: a node's
        # grad is complete by the time the node passes it on.
        nodes.sort(key=lambda v: v._order, reverse=True)
        self.grad = 1.0
        for node in nodes:
            grad = node.grad
            for v, local_grad in zip(node._inputs, node._local_grads):
                v.grad += local_grad * grad  # chain rule: dL/dv += dL/dnode * dnode/dv
            del node._inputs, node._local_grads  # rather than all at the end: a quarter faster


# fmt: off
# Training computes on Values. Inference needs no gradient: on floats the same code makes no graph.
def tanh(x): return x.tanh() if isinstance(x, Value) else math.tanh(x)
def floats(xs): return [x.data for x in xs] if xs and isinstance(xs[0], Value) else xs
# fmt: on


def dot(a, b):
    """sum_i a[i] b[i] as ONE node, or a float if a and b are both lists of floats.

    16 multiplies and 15 adds would be 31 nodes. A tensor library does the same one level up: its
    node is a whole matrix product. Raises ValueError if the lengths differ.
    """
    xs, ys = floats(a), floats(b)
    total = 0.0  # a loop, because sum() of floats rounds differently from Python 3.12 on
    for x, y in zip(xs, ys, strict=True):
        total += x * y
    if xs is a:  # a holds floats, which floats() hands back as they are: no gradient for a
        return total if ys is b else dot(b, a)
    if ys is b:
        return Value(total, [*a], [*ys])  # d(total)/d(a[i]) = b[i]
    return Value(total, [*a, *b], [*ys, *xs])


# --- AUTOGRAD DIFFERENCES IN THIS SCRIPT ---
# This is the canonical code of docs/autograd-interface.md, without exp(x), log(x) and relu(x). New:
# - tanh(x): of a Value or a float. What is to be learned is smooth, and so is tanh.


# === MODEL: the noise schedule, and a network that sees noise ===
def make_schedule():
    """beta_t and alpha_bar_t = alpha_1 ... alpha_t for t = 0 .. T; t = 0 is data without noise."""
    slope = (beta_end - beta_start) / (num_timesteps - 1)
    betas, alpha_bars = [0.0], [1.0]
    for i in range(num_timesteps):
        betas.append(beta_start + i * slope)
        alpha_bars.append(alpha_bars[-1] * (1 - betas[-1]))  # alpha_t = 1 - beta_t
    return betas, alpha_bars


def add_noise(x0, eps, alpha_bar):
    """x_t for any t in one jump: x0, eps [2] -> [2] (Ho et al., eq. 4).

    A single step is x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) n (eq. 2): shrink, then add fresh
    noise. Gaussians add up to a Gaussian, so t steps make one, and training need not walk them.
    Signal and noise share a variance of 1 all the way; alpha_bar is the signal's part.
    """
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    return [signal * x + noise * e for x, e in zip(x0, eps)]


def time_embedding(t):
    """t as sines and cosines [n_embd] of periods T, 2T, 4T, ...: smooth in t, and no two alike.

    As a transformer is told positions (Vaswani et al. 2017, with other periods), and an image model
    its t. From the bare number the network would first have to learn such bent functions of it.
    """
    angles = [2 * math.pi * t / (num_timesteps * 2**i) for i in range(n_embd // 2)]
    return [wave(angle) for angle in angles for wave in (math.sin, math.cos)]


def linear(x, w):
    """x [n_in], w [n_out][n_in] -> w x [n_out]."""
    return [dot(row, x) for row in w]


def predict_noise(model, x, t):
    """eps_theta(x_t, t): the noise that the network sees in x at time t, [2] -> [2].

    Why noise and not x0? Given x and t, each determines the other (eq. 4); Ho et al. found the
    samples better with noise. The best guess is also a direction: up to a factor of t it is minus
    the score (Song & Ermon 2019), the way in which noisy points become denser the fastest.
    """
    h = [*x, *time_embedding(t), 1.0]  # times its weights, the 1 is a bias, the only one
    h = [tanh(hi) for hi in linear(h, model["fc0"])]  # [n_hidden]
    for layer in range(1, n_layer):  # h + f(h): a straight way back for gradients
        h = [hi + tanh(fi) for hi, fi in zip(h, linear(h, model[f"fc{layer}"]))]
    return linear(h, model["out"])


def init_model():
    """A dict of [n_out][n_in] matrices w, scaled so that w x varies about as much as x."""
    shapes = {"fc0": (n_hidden, 2 + n_embd + 1)}
    shapes |= {f"fc{layer}": (n_hidden, n_hidden) for layer in range(1, n_layer)}
    shapes["out"] = (2, n_hidden)
    return {
        name: [[Value(random.gauss(0, n_in**-0.5)) for _ in range(n_in)] for _ in range(n_out)]
        for name, (n_out, n_in) in shapes.items()
    }


# === TRAINING: add noise that we know, have the network guess it ===
def noise_loss(model, x0, t, eps, alpha_bars):
    """Mean squared error of the guess, of one point: x0, eps [2] (half of Ho et al., eq. 14)."""
    guess = predict_noise(model, add_noise(x0, eps, alpha_bars[t]), t)
    errors = [g - e for g, e in zip(guess, eps)]
    return dot(errors, errors) * (1 / len(errors))


def adam_step(params, m, v, step, lr):
    """One update of params, in place (Kingma & Ba 2015, algorithm 1; step >= 1). Clears grads."""
    correct1, correct2 = 1 / (1 - beta1**step), 1 / (1 - beta2**step)  # undoes that m, v start at 0
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad  # which way, on average
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad  # how steep, on average
        p.data -= lr * m[i] * correct1 / (math.sqrt(v[i] * correct2) + eps_adam)
        p.grad = 0.0


def train(model, points, alpha_bars):
    """Train in place; yield the loss of each step, before its update."""
    params = [p for matrix in model.values() for row in matrix for p in row]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(num_steps):
        losses = []
        # Each t once; algorithm 1 draws them at random. Late noise is easy to guess and early noise
        # is not, so a batch of random t would be harder or easier by luck.
        for t in range(1, num_timesteps + 1):
            eps = [random.gauss(0, 1), random.gauss(0, 1)]
            losses.append(noise_loss(model, random.choice(points), t, eps, alpha_bars))
        loss = dot(losses, [1 / len(losses)] * len(losses))
        loss.backward()
        adam_step(params, m, v, step + 1, learning_rate * (1 - step / num_steps))
        yield loss.data


# === INFERENCE: from noise to points, and how good they are ===
def reverse_step(x, eps, t, betas, alpha_bars):
    """x_{t-1} from x_t and the noise guessed in it: x, eps [2] -> [2] (algorithm 2).

    mu is the mean of q(x_{t-1} | x_t, x0) (eq. 7), with x0 solved from eq. 4, given eps. The best
    guess is an average over all data that x may come from; near t = T that is nearly all of it.
    Hence many steps: go a little way, add some noise, guess again.
    """
    scale = betas[t] / math.sqrt(1 - alpha_bars[t])
    mu = [(xi - scale * e) / math.sqrt(1 - betas[t]) for xi, e in zip(x, eps)]  # eq. 11
    if t == 1:
        return mu  # no step follows that could take noise off again
    sigma = math.sqrt(betas[t])  # right for x0 ~ N(0, 1), too large for known x0 (section 3.2)
    return [m + sigma * random.gauss(0, 1) for m in mu]


def sample(model, betas, alpha_bars):
    """The whole way of one point: [T + 1][2], pure noise first, the sample last."""
    path = [[random.gauss(0, 1), random.gauss(0, 1)]]  # as x_T: alpha_bar_T is nearly 0
    for t in range(num_timesteps, 0, -1):
        eps = predict_noise(model, path[-1], t)
        path.append(reverse_step(path[-1], eps, t, betas, alpha_bars))
    return path


def curve_distance(point, curve):
    """From a point [2] to the nearest of the curve's points [n][2]."""
    return math.sqrt(min((point[0] - x) ** 2 + (point[1] - y) ** 2 for x, y in curve))


def near_rate(points, curve, gap):
    """Share of points near the curve: the shape, which mean and variance do not see."""
    return mean([curve_distance(point, curve) < near_fraction * gap for point in points])


def gaussian_like(points):
    """As many draws from a Gaussian of the same mean and covariance: right in all but shape."""
    (mean_x, mean_y), ((xx, xy), (_, yy)) = moments(points)
    a = math.sqrt(xx)  # with u, v ~ N(0, 1), (a u, b u + c v) has this covariance (Cholesky)
    b = xy / a
    c = math.sqrt(yy - b * b)
    draws = [(random.gauss(0, 1), random.gauss(0, 1)) for _ in points]
    return [[mean_x + a * u, mean_y + b * u + c * v] for u, v in draws]


def moment_errors(samples, points):
    """|mean - true mean| / true std, |variance / true variance - 1|: each on its worse axis."""
    (centre, covariance), (true_centre, true_covariance) = moments(samples), moments(points)
    spread = [true_covariance[i][i] for i in range(2)]
    mean_errors = [abs(centre[i] - true_centre[i]) / math.sqrt(spread[i]) for i in range(2)]
    return max(mean_errors), max(abs(covariance[i][i] / spread[i] - 1) for i in range(2))


# === OUTPUT: progress, drawings, results ===
def show_progress(step, num_steps, loss, started):
    """Rewrite one line on a terminal; in a pipe, print the first steps and every tenth of them."""
    spent = time.perf_counter() - started
    left = spent * (num_steps / step - 1)
    line = f"step {step:4d}/{num_steps}  loss {loss:.5f}  {spent:5.1f} s, {left:5.1f} s left"
    if os.isatty(1):  # somebody watches
        print(f"\r{line} ", end="\n" if step == num_steps else "")
    elif step <= 3 or step % max(1, num_steps // 10) == 0:
        print(line)


def mean(values):
    return math.fsum(values) / len(values)  # fsum rounds once, so alike on every Python


def draw_clouds(clouds, width, height):
    """Print clouds {title: [n][2]} side by side. What lies beyond 2.4 on an axis is not shown."""
    panels = []
    for points in clouds.values():
        counts = [[0] * width for _ in range(height)]
        for x, y in points:
            column, row = math.floor((0.5 + x / 4.8) * width), math.floor((0.5 - y / 4.8) * height)
            if 0 <= column < width and 0 <= row < height:
                counts[row][column] += 1
        even = len(points) / (width * height)  # points in a cell, were they spread evenly
        panels.append(["".join(" .:*#"[min(4, math.ceil(n / even))] for n in r) for r in counts])
    print("  ".join(title.center(width) for title in clouds).rstrip())
    for rows in zip(*panels):
        print("  ".join(rows).rstrip())


def print_results(rows):
    """Print the results, one a line: name, value, and the bound that the tests hold it to."""
    print("\n=== results ===")
    for name, value, criterion in rows:
        value = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{value:<9}{criterion}".rstrip())


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    points, curve, gap = make_data(num_points)
    betas, alpha_bars = make_schedule()
    model = init_model()
    num_params = sum(len(matrix) * len(matrix[0]) for matrix in model.values())
    print(f"{num_points} points along a spiral; {num_params} parameters to guess noise with.")
    print(f"Of the signal, {alpha_bars[-1]:.4f} of the variance is left at t = {num_timesteps}.")
    losses = []
    for loss in train(model, points, alpha_bars):
        losses.append(loss)
        show_progress(len(losses), num_steps, loss, started)

    model = {name: [floats(row) for row in matrix] for name, matrix in model.items()}
    paths = [sample(model, betas, alpha_bars) for _ in range(num_samples)]
    print(f"\n{num_samples} points on their way from noise to data:")
    times = [num_timesteps * share // 10 for share in (10, 4, 2, 1, 0)]
    draw_clouds({f"t = {t}": [path[num_timesteps - t] for path in paths] for t in times}, 14, 8)
    samples = [path[-1] for path in paths]
    print()
    draw_clouds({"data": points, "samples": samples}, 38, 18)

    mean_error, variance_error = moment_errors(samples, points)
    clouds = samples, points, gaussian_like(points)
    near, data_near, gaussian_near = (near_rate(cloud, curve, gap) for cloud in clouds)
    rows = [
        ("params", num_params, ""),
        ("train_points", num_points, ""),
        ("mean_loss_first_100", mean(losses[:100]), ""),  # to guess 0 costs 1 on average
        ("mean_loss_last_100", mean(losses[-100:]), ""),  # never 0: x does not tell all its noise
        ("mean_error", mean_error, "< 0.2"),
        ("variance_error", variance_error, "< 0.2"),
        ("near_curve_rate", near, ""),
        ("data_near_curve_rate", data_near, ""),
        ("gaussian_near_curve_rate", gaussian_near, ""),
        ("near_curve_ratio", near / gaussian_near, ">= 2"),
        ("runtime_seconds", time.perf_counter() - started, "< 300"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
