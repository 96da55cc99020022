"""With a router, a model owns more parameters than it uses on any one input.

A sparse mixture of experts after Shazeer et al. (2017): for each letter of a name a router asks two
of four small networks, and a loss keeps all four at work (Fedus et al. 2021, Switch Transformer).
The rival is one network, with as many parameters as the mixture uses at once.
"""

import collections
import functools
import hashlib
import itertools
import math
import os
import random
import time
import urllib.request

# === CONSTANTS: the model, the recipe, the evaluation ===
n_context, n_embd = 3, 4  # characters that the model sees, and numbers for each
num_experts, top_k = 4, 2  # owned; asked about any one input. Mixtral 8x7B: 8 and 2
n_hidden, n_dense = 5, 12  # units of an expert; of the rival, to have as many weights as are used
balance_weight = 0.1  # Switch Transformer: 0.01, and far more steps
num_steps, batch_size = 500, 4  # names in a step: some 28 inputs for the experts to share
learning_rate, beta1, beta2, eps_adam = 0.05, 0.9, 0.99, 1e-8
num_heldout = 500  # names to judge by, none of them trained on
num_samples, temperature, max_length = 300, 0.5, 15

NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: names, a character a token ===
def load_names():
    """All names, in file order: from names.txt beside this script, or else in 01-foundations.

    If there is neither, one is downloaded and kept. SystemExit, in one line, if it is not usable.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    beside, shared = (os.path.join(here, d, "names.txt") for d in ("", "../01-foundations"))
    source = next(filter(os.path.exists, (beside, shared)), NAMES_URL)
    is_url = source == NAMES_URL
    try:
        with urllib.request.urlopen(source, timeout=10) if is_url else open(source, "rb") as file:
            raw = file.read(5_000_000 if is_url else -1)  # longer cannot be it
        if is_url and hashlib.sha256(raw).hexdigest() != NAMES_SHA256:
            raise ValueError("its SHA-256 is not the one expected")
        names = raw.decode("ascii").split()
        if len(set(names)) < 10000:  # too few to train on some and hold out others
            raise ValueError("it has fewer than 10000 different names")
    except Exception as error:  # urllib alone raises three families of them
        advice = f"Put an ASCII text file of names, one a line, at {beside}"
        raise SystemExit(f"No names from {source}: {str(error).strip()}. {advice}") from None
    if is_url:
        temporary = f"{beside}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(raw)
            os.replace(temporary, beside)  # in one move: nobody ever meets half a file
        except OSError as error:  # no reason to stop: the names are in memory
            print(f"The names could not be kept for the next run: {error}")
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
    return names


def encode(name, chars):
    """Token ids, between two boundary tokens of id len(chars). ValueError if a character is new."""
    return [len(chars), *map(chars.index, name), len(chars)]


def windows(name, chars):
    """For each character of a name, and for its end: (n_context ids before it, its own id)."""
    tokens = [len(chars)] * (n_context - 1) + encode(name, chars)
    return [(tokens[i : i + n_context], token) for i, token in enumerate(tokens[n_context:])]


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
def log(x): return x.log() if isinstance(x, Value) else math.log(max(x, 1e-10))
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
# This is the canonical code of docs/autograd-interface.md without the function relu().


# === MODEL: a router, and experts of which it asks two ===
# IMPLEMENTATION NOTE: the router is on Value; the experts are on floats, their gradients by hand.
#
#     x --> router (Values) --> gates ---------+--> logits --> loss
#     +---> experts (floats) --> out, leaves --+
#
# 1. loss.backward() goes back to the router, x and the leaves: Values without inputs, its end.
# 2. call_backward() takes dL/d(out), now the leaves' grad, through the experts to weights and x.
#
# Routing is the mechanism, and its gradient passes a selection and a ratio: that is left to Value.
# The experts are most of the arithmetic and nothing but small MLPs: floats make no graph for it.
# Production systems (Mixtral, Switch Transformer) vectorise everything under one autograd: each
# expert takes the inputs that chose it as one matrix. (Switch limits its rows and drops the rest.)
def softmax(logits):
    """[n] scores -> [n] probabilities."""
    peak = max(floats(logits))  # a constant: to shift all scores changes no probability
    exps = [exp(x - peak) for x in logits]  # at most 1, so no score is too large
    scale = dot(exps, [1.0] * len(exps)) ** -1  # 1 / their sum
    return [e * scale for e in exps]


def linear(x, w):
    """x [n_in], w [n_out][n_in] -> w x [n_out]."""
    return [dot(row, x) for row in w]


def with_one(x):
    return [*x, type(x[0])(1.0)]  # Value or float, as x is: the last weight of a row is a bias


def experts_of(model):
    """[(fc1, fc2) for each expert], as many as the router has rows."""
    return [(model[f"expert{i}.fc1"], model[f"expert{i}.fc2"]) for i in range(len(model["router"]))]


def expert_forward(expert, x):
    """x [n_in] -> hidden [n_hidden], out [vocab_size]."""
    fc1, fc2 = expert
    hidden = [math.tanh(a) for a in linear(with_one(x), fc1)]
    return hidden, linear(with_one(hidden), fc2)


def expert_backward(expert, x, hidden, d_out):
    """dL/d(out) -> dL/d(fc1), dL/d(fc2), dL/dx: the lines of expert_forward, last one first.

    Where y = W x: dL/dW[i][j] = dL/dy[i] x[j], and dL/dx[j] = sum_i dL/dy[i] W[i][j].
    """
    fc1, fc2 = expert
    d_fc2 = [[d * h for h in with_one(hidden)] for d in d_out]
    d_hidden = [dot(column, d_out) for column in zip(*fc2)][:-1]  # without the bias's 1.0
    d_a = [d * (1.0 - h * h) for d, h in zip(d_hidden, hidden)]  # d tanh(a)/da = 1 - tanh(a)^2
    d_fc1 = [[d * xi for xi in with_one(x)] for d in d_a]
    return d_fc1, d_fc2, [dot(column, d_a) for column in zip(*fc1)][:-1]


def route(x, router, skip=0):
    """Probabilities of all experts, the ids of the top_k, and their gates, which sum to 1.

    The gates are softmax over the chosen scores alone, p_i / sum of the chosen p (Shazeer et al.
    2017, eq. 3 and 5, without their noise). For k = 1 that is always 1, which teaches the router
    nothing: Switch Transformer has k = 1 and takes p_i as it is. `skip` passes over first choices.
    """
    probs = softmax(linear(with_one(x), router))
    p = floats(probs)  # to choose is to compare numbers: it has no slope
    chosen = sorted(range(len(p)), key=lambda i: -p[i])[skip : skip + top_k]  # ties: the lower id
    scale = dot([probs[i] for i in chosen], [1.0] * len(chosen)) ** -1
    return probs, chosen, [probs[i] * scale for i in chosen]


def mixture(model, experts, context, skip=0):
    """Logits for the token after `context`, probabilities and choice of the router, calls made."""
    x = [w for token in context for w in model["wte"][token]]  # [n_context * n_embd], parameters
    probs, chosen, gates = route(x, model["router"], skip)
    calls, outs = [], []
    for i in chosen:  # the others are not computed: that is the saving, against asking them all
        hidden, out = expert_forward(experts[i], floats(x))
        leaves = [Value(o) for o in out] if isinstance(x[0], Value) else out
        outs.append(leaves)
        calls.append((i, x, hidden, leaves))
    # y = sum_i g_i E_i(x) (eq. 1), so dL/dg_i = dL/dy . E_i(x): who was of use gets a larger gate.
    # Who is not asked gets no gradient, nor does its row of the router, which cancels out of the
    # gates (Adam's momentum alone moves them on for a while). So cross-entropy does not see that an
    # expert is idle: without the balance loss it may find work again, or lose what it had.
    logits = [dot(gates, column) for column in zip(*outs)]
    return logits, probs, chosen, calls


def init_model(vocab_size, num_experts, n_hidden):
    """{name: matrix of floats}, Gaussian. With one expert it is a dense model: the gate is 1.

    Random biases make the router prefer some experts before it has seen a name.
    """
    n_in = n_context * n_embd
    shapes = {"wte": (vocab_size, n_embd), "router": (num_experts, n_in + 1)}
    for i in range(num_experts):
        shapes |= {f"expert{i}.fc1": (n_hidden, n_in + 1)}
        shapes |= {f"expert{i}.fc2": (vocab_size, n_hidden + 1)}
    return {
        name: [[random.gauss(0, 0.3) for _ in range(columns)] for _ in range(rows)]
        for name, (rows, columns) in shapes.items()
    }


def as_values(model):
    return {name: [[Value(w) for w in row] for row in matrix] for name, matrix in model.items()}


def as_floats(w):
    return {key: [floats(row) for row in m] for key, m in w.items()}


def count_params(model, part=""):
    """How many numbers the matrices hold whose names start with `part`; all, if there is none."""
    return sum(len(m) * len(m[0]) for name, m in model.items() if name.startswith(part))


# === TRAINING: predict the next character, and keep every expert at work ===
def cross_entropy(logits, target):
    """-log p[target], p = softmax(logits), 1 node, not 85. Slope in logit i: p_i - [i = target]."""
    probs = softmax(floats(logits))
    loss = -log(probs[target])
    if isinstance(logits[0], float):
        return loss
    return Value(loss, logits, [p - (i == target) for i, p in enumerate(probs)])


def balance_loss(all_probs, all_chosen):
    """N sum_i f_i P_i, and the shares f (Fedus et al. 2021, eq. 4-6, without the weight).

    f_i is expert i's share of all choices, a count without a slope; P_i, the mean of its p_i, has
    the slope N f_i. In score i of each of B inputs that is N p_i (f_i - sum_j p_j f_j) / B: busy
    experts are pushed down, idle ones up. Where P = f the loss is 1 + N^2 Var(f), 1 if all is even
    (frequent narrow wins, f large and P small, may bring it below). Why even: production spreads
    experts over devices, and the busiest sets the pace. DeepSeek-V3 mostly uses biases instead.
    """
    n = len(all_probs[0])
    counts = collections.Counter(i for chosen in all_chosen for i in chosen)
    shares = [counts[i] / sum(counts.values()) for i in range(n)]
    means = [dot(column, [1 / len(column)] * len(column)) for column in zip(*all_probs)]
    return dot(means, shares) * n, shares


def call_backward(model, experts, call):
    """Step 2 of the note: add to the grads of an expert's weights, and of its input x.

    In a deeper model x is computed: its own graph must wait for these grads to go backward.
    """
    i, x, hidden, leaves = call
    d_out = [leaf.grad for leaf in leaves]
    d_fc1, d_fc2, d_x = expert_backward(experts[i], floats(x), hidden, d_out)
    fc1, fc2 = experts_of(model)[i]
    for params, grads in zip([*fc1, *fc2, x], [*d_fc1, *d_fc2, d_x]):
        for p, grad in zip(params, grads):
            p.grad += grad  # not =: x has grads from the router, and from other calls


def adam_step(params, m, v, step, lr):
    """One update of params, in place (Kingma & Ba 2015, algorithm 1; step >= 1). Clears grads."""
    correct1, correct2 = 1 / (1 - beta1**step), 1 / (1 - beta2**step)  # undoes that m, v start at 0
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad  # which way, on average
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad  # how steep, on average
        p.data -= lr * m[i] * correct1 / (math.sqrt(v[i] * correct2) + eps_adam)
        p.grad = 0.0


def batch_loss(model, pairs, weight):
    """Mean cross-entropy of (context, target) pairs, shares. Leaves gradients of both losses."""
    experts = experts_of(as_floats(model))
    outputs = [mixture(model, experts, context) for context, _ in pairs]
    logits, probs, chosen, calls = zip(*outputs)
    losses = [cross_entropy(scores, target) for scores, (_, target) in zip(logits, pairs)]
    loss = dot(losses, [1 / len(losses)] * len(losses))
    balance, shares = balance_loss(probs, chosen)
    (loss + weight * balance).backward()
    for call in itertools.chain(*calls):
        call_backward(model, experts, call)
    return loss.data, shares


def train(model, names, chars, weight):
    """Train in place; yield cross-entropy and the experts' shares of each batch."""
    params = [p for matrix in model.values() for row in matrix for p in row]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(num_steps):
        batch = names[step * batch_size : (step + 1) * batch_size]
        pairs = [pair for name in batch for pair in windows(name, chars)]
        loss, shares = batch_loss(model, pairs, weight)
        adam_step(params, m, v, step + 1, learning_rate * (1 - step / num_steps))
        yield loss, shares


# === INFERENCE: judge, look who does what, sample names ===
def evaluate(model, pairs, skip=0):
    """Mean cross-entropy, balance loss, shares, and (expert, last character read) of each call."""
    experts = experts_of(model)
    outputs = [mixture(model, experts, context, skip) for context, _ in pairs]
    logits, probs, chosen, _ = zip(*outputs)
    losses = [cross_entropy(scores, target) for scores, (_, target) in zip(logits, pairs)]
    asked = [(i, context[-1]) for (context, _), ids in zip(pairs, chosen) for i in ids]
    return mean(losses), *balance_loss(probs, chosen), asked


def mutual_information(pairs):
    """Bits that one side of the pairs tells of the other: sum p(a, b) log2 p(a, b) / p(a) p(b)."""
    n, joint = len(pairs), collections.Counter(pairs)
    left, right = (collections.Counter(side) for side in zip(*pairs))
    return math.fsum(c / n * math.log2(c * n / (left[a] * right[b])) for (a, b), c in joint.items())


def sample(model, chars):
    """A name drawn character by character, until the boundary or the longest length."""
    experts, name, context = experts_of(model), "", [len(chars)] * n_context
    while len(name) < max_length:
        logits, *_ = mixture(model, experts, context)
        probs = softmax([score / temperature for score in logits])
        token = random.choices(range(len(probs)), weights=probs)[0]
        if token == len(chars):
            break
        name, context = name + chars[token], [*context[1:], token]
    return name


def trigrams(name):
    """Every three characters in a row, boundaries included: ann -> {".an", "ann", "nn."}."""
    return {f".{name}."[i : i + 3] for i in range(len(name))}


def is_pronounceable(name, known):
    """A vowel, no four consonants in a row, and all trigrams known from real names."""
    shape = "".join("V" if c in "aeiouy" else "C" for c in name)
    return "V" in shape and "CCCC" not in shape and trigrams(name) <= known


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


def shade(rate):
    return " .:-=+*#%@"[min(9, int(10 * rate))]  # blank: under 0.1, @: 0.9 and more


def draw_shares(history, width=64):
    """Print each expert's share of the choices over the steps, on the scale from 0 to 1 / top_k."""
    width = min(width, len(history))
    cuts = [i * len(history) // width for i in range(width + 1)]
    for i, column in enumerate(zip(*history)):
        means = [mean(column[a:b]) for a, b in zip(cuts, cuts[1:])]
        print(f"expert {i} |{''.join(shade(top_k * share) for share in means)}|")


def draw_specialists(asked, chars):
    """Print how often each expert is asked after each character, and at the start of a name."""
    counts, totals = collections.Counter(asked), collections.Counter(c for _, c in asked)
    print("last read " + " ".join([*chars, "start"]))
    for i in range(num_experts):
        rates = [top_k * counts[i, c] / max(1, totals[c]) for c in range(len(chars) + 1)]
        print(f"expert {i}  {' '.join(map(shade, rates))}".rstrip())


def show_training(title, start, names, chars, weight):
    """Train a copy of the model `start`, show how it goes, and return it, in floats."""
    print(f"\n{title}:")
    model, began, history = as_values(start), time.perf_counter(), []
    for step, (loss, shares) in enumerate(train(model, names, chars, weight), 1):
        history.append(shares)
        show_progress(step, num_steps, loss, began)
    if len(model["router"]) > 1:
        print(f"Share of the choices over the steps (blank < {0.1 / top_k}, @ >= {0.9 / top_k}):")
        draw_shares(history)
    return as_floats(model)


def show_samples(model, names, heldout, chars):
    """Print some samples; pronounceable rates of samples, random strings and real names."""
    samples = [sample(model, chars) for _ in range(num_samples)]
    print(f"\n{num_samples} samples at temperature {temperature}:\n{' '.join(samples[:14])} ...")
    letters = "".join(names)
    scrambled = ["".join(random.choices(letters, k=len(name))) for name in heldout]
    counts = collections.Counter(t for name in names for t in trigrams(name))
    known = {t for t, count in counts.items() if count >= 5}
    return [mean([is_pronounceable(n, known) for n in ns]) for ns in (samples, scrambled, heldout)]


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
    names = list(dict.fromkeys(load_names()))
    random.shuffle(names)
    chars = sorted(set("".join(names)))
    trained = names[: num_steps * batch_size]
    heldout = names[len(trained) : len(trained) + num_heldout]
    pairs = [pair for name in heldout for pair in windows(name, chars)]
    start = init_model(len(chars) + 1, num_experts, n_hidden)
    dense_start = init_model(len(chars) + 1, 1, n_dense)
    owned = count_params(start)
    active = owned - (num_experts - top_k) * count_params(start, "expert0")
    dense_params = count_params(dense_start) - count_params(dense_start, "router")  # it has no say
    print(f"{len(trained)} names to train on, {num_heldout} held out.")
    print(f"Mixture: {owned} parameters, {active} with {top_k} experts. Dense: {dense_params}.")
    moe = show_training("mixture", start, trained, chars, balance_weight)
    free = show_training("mixture, no balance loss", start, trained, chars, 0.0)
    dense = show_training("dense", dense_start, trained, chars, 0.0)

    _, start_balance, start_shares, start_asked = evaluate(start, pairs)
    loss, balance, shares, asked = evaluate(moe, pairs)
    free_loss, free_balance, free_shares, free_asked = evaluate(free, pairs)
    experts, read = zip(*asked)
    shuffled = list(zip(random.sample(experts, len(experts)), read))  # same counts, no link
    print(f"\nHow often who is asked after what (blank < 0.1, @ >= 0.9; columns sum to {top_k}):")
    draw_specialists(asked, chars)
    rate, random_rate, real_rate = show_samples(moe, names, heldout, chars)
    rows = [
        ("params_owned", owned, ""),
        ("params_active", active, ""),  # counts all embeddings; an input reads at most three
        ("heldout_loss", loss, "< 2.5"),  # a mean over characters; a blind guess: ln 27 = 3.30
        ("dense_heldout_loss", evaluate(dense, pairs)[0], ""),
        ("unbalanced_heldout_loss", free_loss, ""),
        # Each input to the next two experts of its router's ranking; with four, the last two:
        ("wrong_experts_loss", evaluate(moe, pairs, skip=top_k)[0], f"> {loss + 0.1:.4f}"),
        ("min_expert_share", min(shares), "> 0.1"),  # 0.25 if all four are asked alike
        ("unbalanced_min_share", min(free_shares), ""),
        ("untrained_min_share", min(start_shares), ""),
        ("balance_loss", balance, f"< {start_balance - 0.05:.4f}"),  # the untrained one minus 0.05
        ("unbalanced_balance_loss", free_balance, ""),
        ("untrained_balance_loss", start_balance, ""),
        ("expert_mutual_info", mutual_information(asked), "> 0.2"),  # bits; two of four: at most 1
        ("unbalanced_mutual_info", mutual_information(free_asked), ""),
        ("untrained_mutual_info", mutual_information(start_asked), ""),  # and one is hardly asked
        ("shuffled_mutual_info", mutual_information(shuffled), "< 0.02"),
        ("pronounceable_rate", rate, ">= 0.8"),
        ("random_pronounceable_rate", random_rate, ""),
        ("real_pronounceable_rate", real_rate, ""),
        ("runtime_seconds", time.perf_counter() - started, "< 420"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
