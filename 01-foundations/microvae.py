"""Move the randomness outside, and a gradient can pass through a sample.

After Kingma & Welling (2014), on points of a plane; beta, a weight on the KL, by Higgins et al.
(2017). The rival is the score function's gradient (REINFORCE: Williams 1992), which needs no slope.
"""

import functools
import itertools
import math
import os
import random
import time

# === CONSTANTS: the data, the model, the recipe, the evaluation ===
num_train, num_heldout = 1000, 1000  # all figures but the loss of a step are about the held-out
noise, sigma = 0.05, 0.12  # std of the data about its curve; of p(x|z): if smaller, z tells more
n_hidden, z_dim = 16, 2  # a curve needs one dimension: watch what becomes of the other
betas = (0.1, 1.0, 5.0)  # weight of the KL; 1 is the VAE proper: most results are of it
num_steps, batch_size, learning_rate = 3000, 4, 0.02  # for each beta; the rate falls to about 0
beta1, beta2, eps_adam = 0.9, 0.999, 1e-8  # Adam's: no kin of the other betas
num_samples, num_paths = 500, 100  # points to invent, pairs of points to interpolate
num_probes, num_draws = 20, 500  # points at which gradients are compared, samples of z at each
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: points along a wave ===
def make_data(n):
    """n points [x, y] off the curve y = 0.7 sin(2x) by Gaussian noise, in order along it."""
    xs = sorted(random.uniform(-1.5, 1.5) for _ in range(n))
    return [[random.gauss(x, noise), random.gauss(0.7 * math.sin(2 * x), noise)] for x in xs]


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
def exp(x): return x.exp() if isinstance(x, Value) else math.exp(x)
def relu(x): return x.relu() if isinstance(x, Value) else max(0.0, x)
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
# None: this is the canonical code of docs/autograd-interface.md; log() for floats is left out.


# === MODEL: from x to a cloud of z, from z back to x ===
# fmt: off
def with_one(x): return [*x, type(x[0])(1.0)]  # Value or float, as x is; for a bias in w
def layer(x, w): return [dot(row, x) for row in w]  # [n_in], [n_out][n_in] -> [n_out]
def mlp(x, w1, w2): return layer(with_one([relu(a) for a in layer(with_one(x), w1)]), w2)
def halves(xs): return xs[:z_dim], xs[z_dim:]  # mu, log_var of q(z|x): a log may be any number
def encode(model, x): return halves(mlp(x, model["encoder_fc1"], model["encoder_fc2"]))
def decode(model, z): return mlp(z, model["decoder_fc1"], model["decoder_fc2"])  # mean of p(x|z)
def draw_noise(): return [random.gauss(0, 1) for _ in range(z_dim)]  # an eps, or a z of the prior
# fmt: on


def reparameterize(mu, log_var, eps):
    """mu, log_var, eps [z_dim] -> z [z_dim], a sample of N(mu, exp(log_var)) if eps is of N(0, 1).

    A draw from q(z|x) has no slope: nothing tells how z would have moved with mu. So draw eps, in
    which no weight has a part. Given eps, z is arithmetic and backward() walks through it, with
    dz/dmu = 1 and dz/dlog_var = 0.5 * std * eps (Kingma & Welling, section 2.4).
    """
    return [m + exp(0.5 * v) * e for m, v, e in zip(mu, log_var, eps)]  # z = mean + std * eps


def init_model():
    """{name: matrix of floats}, Gaussian of std 0.5 / sqrt(inputs): small, so z starts near eps."""
    shapes = {"encoder_fc1": (n_hidden, 2), "encoder_fc2": (2 * z_dim, n_hidden)}
    shapes |= {"decoder_fc1": (n_hidden, z_dim), "decoder_fc2": (2, n_hidden)}
    return {
        name: [[random.gauss(0, 0.5 * n_in**-0.5) for _ in range(n_in + 1)] for _ in range(n_out)]
        for name, (n_out, n_in) in shapes.items()
    }


# === TRAINING: reconstruct x, from a z that tells no more than it must ===
def reconstruction_loss(x, decoded):
    """|x - decoded|^2 / (2 sigma^2): -log p(x|z) in nats, less log(2 pi sigma^2), as x is 2D."""
    # Best for a z is the mean of all x that it may stand for. Images blur so; a GAN's need not.
    error = [d - xi for d, xi in zip(decoded, x)]
    return dot(error, error) * (0.5 / sigma**2)


def kl_divergence(mu, log_var):
    """KL(q(z|x) || N(0, I)) in nats; its mean bounds what z tells of x (appendix B has -KL)."""
    brackets = [1.0 + v - m * m - exp(v) for m, v in zip(mu, log_var)]  # each at most 0
    return -0.5 * dot(brackets, [1.0] * len(brackets))  # their sum; KL is at least 0


def loss_terms(model, x, eps):
    """Reconstruction loss (for one z) and KL of x: together they estimate -ELBO plus a constant."""
    mu, log_var = encode(model, x)
    decoded = decode(model, reparameterize(mu, log_var, eps))
    return reconstruction_loss(x, decoded), kl_divergence(mu, log_var)


def adam_step(params, m, v, step, lr):
    """One update of params, in place (Kingma & Ba 2015, algorithm 1; step >= 1). Clears grads."""
    correct1, correct2 = 1 / (1 - beta1**step), 1 / (1 - beta2**step)  # undoes that m, v start at 0
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad  # which way, on average
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad  # how steep, on average
        p.data -= lr * m[i] * correct1 / (math.sqrt(v[i] * correct2) + eps_adam)
        p.grad = 0.0


def train(model, points, beta):
    """Train in place; yield reconstruction loss + beta * KL, the mean of each step's batch."""
    params = [p for matrix in model.values() for row in matrix for p in row]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(num_steps):
        loss = 0.0
        for x in random.sample(points, batch_size):
            reconstruction, kl = loss_terms(model, x, draw_noise())  # a fresh eps at every visit
            loss = loss + (reconstruction + beta * kl) * (1 / batch_size)
        loss.backward()
        adam_step(params, m, v, step + 1, learning_rate * (1 - step / num_steps))
        yield loss.data


# === INFERENCE: judge, invent, interpolate, and compare gradients ===
def evaluate(model, points):
    """Means over the points: reconstruction loss, KL, and an estimate of ELBO, <= log p(x)."""
    recon, kl = map(mean, zip(*(loss_terms(model, x, draw_noise()) for x in points)))
    return recon, kl, -recon - kl - math.log(2 * math.pi * sigma**2)


def gaussian_samples(points, n):
    """n draws of mean + sum_i g_i (x_i - mean), g_i ~ N(0, 1/n): same covariance, no bend."""
    axes = [(mean(axis), axis) for axis in zip(*points)]
    weights = [[random.gauss(0, len(points) ** -0.5) for _ in points] for _ in range(n)]
    return [[c + dot(g, [a - c for a in axis]) for c, axis in axes] for g in weights]


# fmt: off
def distance(a, b): return math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2)
def between(a, b, share): return [p + share * (q - p) for p, q in zip(a, b)]
def mean_nearest(xs, points): return mean([min([distance(x, p) for p in points]) for x in xs])
# fmt: on


def reparam_gradient(f, mu, log_var, eps):
    """A sample of d E[f(z)] / d(mu, log_var) [2 * z_dim]: the slope of f, passed back through z."""
    mu, log_var = [Value(m) for m in mu], [Value(v) for v in log_var]
    f(reparameterize(mu, log_var, eps)).backward()
    return [leaf.grad for leaf in mu + log_var]


def score_gradient(f, mu, log_var, eps):
    """The same from f(z) * d log q(z|x) / d(mu, log_var): from the height of f, not its slope."""
    height = f(reparameterize(mu, log_var, eps))
    d_mu = [e * math.exp(-0.5 * v) for e, v in zip(eps, log_var)]  # (z - mu) / var
    return [height * d for d in d_mu + [0.5 * (e * e - 1) for e in eps]]


def compare_gradients(model, points):
    """Mean variance of each, for f the reconstruction loss; RMS gap of means in standard errors."""
    found = [], []
    for x in points:
        f = functools.partial(lambda x, z: reconstruction_loss(x, decode(model, z)), x)
        for estimate, moments in zip((reparam_gradient, score_gradient), found):
            grads = [estimate(f, *encode(model, x), draw_noise()) for _ in range(num_draws)]
            moments += [(mean(g), mean([a * a for a in g]) - mean(g) ** 2) for g in zip(*grads)]
    gaps = [(a - b) ** 2 * num_draws / (v + w) for (a, v), (b, w) in zip(*found)]
    return *(mean([v for _, v in moments]) for moments in found), math.sqrt(mean(gaps))


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


def draw_planes(x_max, y_max, *panels, width=31, height=11):
    """Print planes side by side, |x| <= x_max, |y| <= y_max: title, points, a mark for each."""
    print("\n" + " | ".join(title.ljust(width) for title, _, _ in panels).rstrip())
    grids = [[[" "] * width for _ in range(height)] for _ in panels]
    for grid, (_, points, marks) in zip(grids, panels):
        for (x, y), mark in zip(points, marks):
            column, row = (1 + x / x_max) / 2 * width, (1 - y / y_max) / 2 * height
            if 0 <= column < width and 0 <= row < height:
                grid[int(row)][int(column)] = mark
    for rows in zip(*grids):
        print(" | ".join(map("".join, rows)).rstrip())


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
    points, heldout = make_data(num_train), make_data(num_heldout)
    untrained, models, clouds, scores = init_model(), [], [], []
    print(f"{num_train} points to train on, {num_heldout} held out. All start with equal weights.")
    for beta in betas:
        began = time.perf_counter()
        print(f"\nbeta {beta}:")
        model = {key: [[Value(w) for w in row] for row in rows] for key, rows in untrained.items()}
        for step, loss in enumerate(train(model, points, beta), 1):
            show_progress(step, num_steps, loss, began)
        models.append({key: [floats(row) for row in rows] for key, rows in model.items()})
    print("\nbeta  reconstruction     KL     ELBO  KL of z[0], of z[1]")
    for beta, model in zip(betas, models):
        codes = [encode(model, x) for x in heldout]
        kls = [mean([kl_divergence([m[i]], [v[i]]) for m, v in codes]) for i in range(z_dim)]
        clouds.append([mu for mu, _ in codes])
        scores.append(evaluate(model, heldout))
        print("{:4}{:16.3f}{:7.3f}{:9.3f}{:12.3f}{:8.3f}".format(beta, *scores[-1], *kls))
    first, last, vae = evaluate(untrained, heldout), scores[1], models[1]
    samples = [decode(vae, draw_noise()) for _ in range(num_samples)]  # less the noise of p(x|z)
    far = mean_nearest(gaussian_samples(points, num_samples), heldout)
    ends = zip(clouds[1][:num_paths], clouds[1][::-1])  # pairs from the two ends of the wave
    paths = [[decode(vae, between(a, b, i / 9)) for i in range(10)] for a, b in ends]
    steps = [[distance(a, b) for a, b in zip(path, path[1:])] for path in paths]
    letters = [chr(97 + 26 * i // num_heldout) for i in range(num_heldout)]  # a to z on the wave
    right = ("interpolated in z, 0 to 9", paths[-1], "0123456789")
    middle = (f"decoded z ~ N(0, I), beta {betas[1]}", samples, "*" * num_samples)
    draw_planes(1.7, 1.1, ("held-out points, a to z", heldout, letters), middle, right)
    draw_planes(2.8, 2.8, *((f"their mu, beta {b}", c, letters) for b, c in zip(betas, clouds)))
    for name, model in (("\nuntrained", untrained), ("trained", vae)):
        reparam, score, gap = compare_gradients(model, heldout[:: num_heldout // num_probes])
        print(f"{name}: gradient variance {reparam:.2f} reparameterized, {score:.2f} by the score")
    rows = [
        ("recon_loss_first", first[0], ""),
        ("recon_loss_last", last[0], "< 1"),
        ("elbo_first", first[2], ""),
        ("elbo_last", last[2], "> -0.7"),
        ("kl", last[1], "0.1 to 50"),
        ("kl_low_beta", scores[0][1], f"> {last[1] + 0.5:.4f}"),  # kl, and a margin
        ("kl_high_beta", scores[2][1], f"< {last[1] - 0.5:.4f}"),
        ("sample_distance", mean_nearest(samples, heldout), f"< {far / 3:.4f}"),  # of the next
        ("gaussian_distance", far, ""),
        ("interpolation_step_ratio", mean([max(s) / mean(s) for s in steps]), "< 2"),
        ("interpolation_distance", mean_nearest([x for p in paths for x in p], heldout), ""),
        ("score_to_reparam_variance", score / reparam, "> 2"),  # trained
        ("gradient_gap", gap, "< 1.5"),  # about 1 if both have the same mean
        ("runtime_seconds", time.perf_counter() - started, "< 240"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
