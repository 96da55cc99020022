"""To adapt a model, train a product of two thin matrices beside each frozen one.

After Hu et al. (2021), on microgpt (Andrej Karpathy 2026). The base learns names from A to M, an
adapter bends it to N to Z. Nearly all that it gains there is the first letter, and so is what it
forgets: while it is on, the model hardly expects a name from A to M. (Low rank is no protection
here; Biderman et al. 2024 found some.) Take it off, and the base is back, bit for bit.
"""

import functools
import hashlib
import itertools
import math
import os
import random
import time
import urllib.request

# === CONSTANTS: the model, the two trainings, the evaluation ===
n_embd, n_head, n_layer, block_size = 16, 4, 1, 16  # the model of microgpt
ranks = (1, 4)  # r, the thin side of A and B; the results are of the first
tables = ("wte", "wpe")  # looked up, not multiplied: they get no adapter
num_base_steps, num_adapt_steps = 700, 250  # a step is one name, the same for all adaptations
# Learning rates; each falls linearly to 0. The last two were chosen before, from three each, on 500
# names from N to Z that are neither trained on nor held out (docs/implementation.md).
base_rate, adapter_rate, full_rate = 0.01, 0.02, 0.005
beta1, beta2, eps_adam = 0.85, 0.99, 1e-8
num_heldout = 500  # names of each half to judge by; no step trained on them
num_samples, temperature = 200, 0.5

NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: names in two halves, a character a token ===
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


def split(names):
    """(held-out, to train on) of the names from A to M, and of those from N to Z."""
    unique = list(dict.fromkeys(names))  # what stands in the list twice could be on both sides
    halves = [n for n in unique if n[0] <= "m"], [n for n in unique if n[0] > "m"]
    sizes = num_base_steps, num_adapt_steps  # one pass over each
    return [(half[:num_heldout], half[num_heldout:][:n]) for half, n in zip(halves, sizes)]


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
# None: this is the canonical code of docs/autograd-interface.md. Frozen weights are Values as well:
# backward() fills their grad, train() throws it away. PyTorch's requires_grad=False never computes
# it, but even there gradients flow *through* frozen layers, to adapters nearer to the input.


# === MODEL: a GPT, and an adapter that may sit on each of its matrices ===
def softmax(logits):
    """[n] scores -> [n] probabilities."""
    peak = max(floats(logits))  # a constant: to shift all scores changes no probability
    exps = [exp(x - peak) for x in logits]  # at most 1, so no score is too large
    scale = dot(exps, [1.0] * len(exps)) ** -1  # 1 / their sum
    return [e * scale for e in exps]


def linear(x, w):
    """x [n_in], w [n_out][n_in] -> w x [n_out]."""
    return [dot(row, x) for row in w]


def rmsnorm(x):
    """[n] -> x / rms(x) [n] (Zhang & Sennrich 2019, eq. 4 without gain; 1e-5 is for x near 0)."""
    scale = (dot(x, x) * (1 / len(x)) + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attend(q, keys, values):
    """softmax(q K^T / sqrt(d)) V for one query of one head (Vaswani et al. 2017, eq. 1).

    q [d], keys and values [t][d] -> output [d], weights [t].
    """
    weights = softmax([dot(q, k) * len(q) ** -0.5 for k in keys])
    return [dot(weights, column) for column in zip(*values)], weights


def adapted_linear(x, model, name):
    """x [n_in] -> W x + A (B x) [n_out] (Hu et al., eq. 3), or W x if `name` has no adapter.

    W is [n_out][n_in]. B, [r][n_in], reads r numbers from x; A, [n_out][r], writes each of them in
    a direction of its own. (Hu et al. and PEFT swap the names.) A B, as large as W, is not made.
    """
    y = linear(x, model[name])
    if f"{name}.A" in model:
        low = linear(x, model[f"{name}.B"])  # at rank 1 a single number
        y = [yi + zi for yi, zi in zip(y, linear(low, model[f"{name}.A"]))]
    return y


def adapted_gpt(model, token_id, pos_id, cache):
    """microgpt's gpt() with adapted_linear() for linear(): logits [vocab_size] of the next token.

    `cache` holds each layer's past keys and values: {} at the start of a name.
    """
    x = rmsnorm([t + p for t, p in zip(model["wte"][token_id], model["wpe"][pos_id])])
    for layer in (f"layer{i}." for i in range(n_layer)):
        keys, values = cache.setdefault(layer, ([], []))
        h = rmsnorm(x)
        q = adapted_linear(h, model, layer + "attn_wq")  # W and, if it is there, its A and B
        keys.append(adapted_linear(h, model, layer + "attn_wk"))
        values.append(adapted_linear(h, model, layer + "attn_wv"))
        heads = []
        for start in range(0, n_embd, n_embd // n_head):
            part = slice(start, start + n_embd // n_head)
            heads += attend(q[part], [k[part] for k in keys], [v[part] for v in values])[0]
        x = [a + b for a, b in zip(x, adapted_linear(heads, model, layer + "attn_wo"))]
        h = [relu(hi) for hi in adapted_linear(rmsnorm(x), model, layer + "mlp_fc1")]
        x = [a + b for a, b in zip(x, adapted_linear(h, model, layer + "mlp_fc2"))]
    return adapted_linear(x, model, "lm_head")


def init_model(vocab_size):
    """A state_dict of matrices, Gaussian of std 0.08, in microgpt's order: same seed, same draw."""
    n = n_embd
    shapes = {"wte": (vocab_size, n), "wpe": (block_size, n), "lm_head": (vocab_size, n)}
    for i in range(n_layer):
        shapes |= {f"layer{i}.attn_{w}": (n, n) for w in ("wq", "wk", "wv", "wo")}
        shapes |= {f"layer{i}.mlp_fc1": (4 * n, n), f"layer{i}.mlp_fc2": (n, 4 * n)}
    return {
        name: [[Value(random.gauss(0, 0.08)) for _ in range(columns)] for _ in range(rows)]
        for name, (rows, columns) in shapes.items()
    }


def init_adapter(state_dict, rank):
    """{name.A: [n_out][rank], name.B: [rank][n_in]} for each matrix of the base that multiplies.

    The adapted model is `base | adapter`. As B is 0, it starts as the base exactly: the loss of
    step 1 is the same in every adaptation. A must not be 0 as well: with y = A (B x), dL/dA is
    dL/dy (B x)^T and dL/dB is A^T dL/dy x^T. At the start the first is 0, the second is not, so B
    moves first; were both 0, neither would ever move. Hu et al. (section 4.1) zero the outer matrix
    instead, which does as well, and scale the product by alpha / r, to retune less for another r.
    """
    adapter = {}
    # Hu et al. mostly adapt wq and wv. Here most of what is new is the first letter, and where that
    # is chosen, attention sees one position, whatever wq and wk are. So all matrices are adapted.
    for name in [key for key in state_dict if key not in tables]:
        n_out, n_in = len(state_dict[name]), len(state_dict[name][0])
        a = [[Value(random.gauss(0, 0.08)) for _ in range(rank)] for _ in range(n_out)]
        b = [[Value(0.0) for _ in range(n_in)] for _ in range(rank)]
        adapter |= {f"{name}.A": a, f"{name}.B": b}
    return adapter


def merge(model):
    """A model in floats -> plain matrices W + A B: as fast as the base, W back only to rounding."""
    # Production does either: merged for speed, or one base in memory under many adapters.
    merged = {}
    for name, w in model.items():
        if f"{name}.A" in model:
            columns = list(zip(*model[f"{name}.B"]))
            product = [linear(a, columns) for a in model[f"{name}.A"]]  # A B
            w = [[x + y for x, y in zip(*rows)] for rows in zip(w, product)]
        if not name.endswith((".A", ".B")):
            merged[name] = w
    return merged


# fmt: off
def as_floats(w): return {key: [floats(row) for row in m] for key, m in w.items()}
def flat(model): return [x for m in model.values() for row in m for x in row]  # all its numbers
# fmt: on


# === TRAINING: the same loop for the base, for an adapter and for full fine-tuning ===
def token_logits(model, tokens):
    """Logits [t][vocab_size], for all tokens but the last, up to the end of the context."""
    cache = {}
    return [adapted_gpt(model, t, i, cache) for i, t in enumerate(tokens[:-1][:block_size])]


def token_losses(model, tokens):
    """-log p [t] of each next token, in nats: the first letter's, the others', the boundary's."""
    return [-log(softmax(x)[t]) for x, t in zip(token_logits(model, tokens), tokens[1:])]


def adam_step(params, m, v, step, lr):
    """One update of params, in place (Kingma & Ba 2015, algorithm 1; step >= 1). Clears grads."""
    correct1, correct2 = 1 / (1 - beta1**step), 1 / (1 - beta2**step)  # undoes that m, v start at 0
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad  # which way, on average
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad  # how steep, on average
        p.data -= lr * m[i] * correct1 / (math.sqrt(v[i] * correct2) + eps_adam)
        p.grad = 0.0


def train(model, trained, names, chars, rate):
    """Train the matrices called `trained`, in place, a name a step; yield each step's mean loss.

    All others are frozen: the optimizer never hears of them and keeps no m and v for them. Training
    n parameters takes n gradients, n m and n v. Adapters save these, not time: the graph is larger.
    """
    params = flat({key: model[key] for key in trained})
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step, name in enumerate(names):
        losses = token_losses(model, encode(name, chars))
        loss = dot(losses, [1 / len(losses)] * len(losses))
        loss.backward()
        adam_step(params, m, v, step + 1, rate * (1 - step / len(names)))  # of params alone
        for p in flat(model):  # also of the frozen
            p.grad = 0.0
        yield loss.data


# === INFERENCE: judge, sample, and look at what changed ===
def evaluate(model, names, chars):
    """{"all", "first", "rest"}: of each name the mean loss, its first letter's, the rest's mean."""
    losses = [token_losses(model, encode(name, chars)) for name in names]
    rest = [mean(x[1:]) for x in losses]  # the first letter's loss is left out
    return {"all": [mean(x) for x in losses], "first": [x[0] for x in losses], "rest": rest}


def paired_gain(before, after):
    """Mean of before - after and its standard error; by name, as names differ more than models."""
    gains = [b - a for b, a in zip(before, after)]
    gain = mean(gains)
    return gain, math.sqrt(mean([(g - gain) ** 2 for g in gains]) / (len(gains) - 1))


def max_difference(model, other, names, chars):
    """The largest difference between any two logits of the two models, over the names."""
    differences = []
    for tokens in (encode(name, chars) for name in names):
        for rows in zip(token_logits(model, tokens), token_logits(other, tokens)):
            differences += [abs(a - b) for a, b in zip(*rows)]
    return max(differences)


def sample(model, chars):
    """A name drawn token by token, until the boundary token or the end of the context."""
    name, cache = "", {}
    token_id = bos = len(chars)
    for pos_id in range(block_size):
        logits = adapted_gpt(model, token_id, pos_id, cache)
        token_id = random.choices(range(bos + 1), softmax([x / temperature for x in logits]))[0]
        if token_id == bos:
            break
        name += chars[token_id]
    return name


def rank1_share(matrix):
    """How much of the sum of squares of `matrix` its best approximation of rank 1 keeps.

    That is s_1^2 / sum_i s_i^2 in its singular values (Eckart & Young 1936). s_1 is the most by
    which it stretches a unit vector; v <- M^T M v turns v towards that one (power iteration).
    """
    columns = list(zip(*matrix))
    v = [random.gauss(0, 1) for _ in columns]
    for _ in range(100):
        v = linear(linear(v, matrix), columns)
        length = math.sqrt(dot(v, v))
        v = [x / length for x in v]
    stretched = linear(v, matrix)
    return dot(stretched, stretched) / math.fsum(x * x for row in matrix for x in row)


def change_shares(before, after):
    """{name: (rank1_share of after - before, rank1_share of Gaussian noise of that shape)}."""
    # A hint why thin can do: this change may have any rank, and is nearer to rank 1 than noise.
    shares = {}
    for name in [key for key in before if key not in tables]:
        change = [[y - x for x, y in zip(*rows)] for rows in zip(before[name], after[name])]
        noise = [[random.gauss(0, 1) for _ in row] for row in change]
        shares[name] = rank1_share(change), rank1_share(noise)
    return shares


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


def show_training(title, training, num_steps):
    """Run `training`, the generator of train(), and print the progress."""
    print(f"\n{title}:")
    started = time.perf_counter()
    for step, loss in enumerate(training, 1):
        show_progress(step, num_steps, loss, started)


def show_scores(scores, sizes):
    """Print each model's mean losses on both halves; `sizes` are the numbers that it trained."""
    print("\nHeld-out loss in nats a token: mean of a name, of its first letter, of the rest")
    print(f"{'A to M':>39}{'N to Z':>22}\n{'numbers trained':>22}{'     all  first   rest' * 2}")
    for title, halves in scores.items():
        cells = (f"{mean(values):7.3f}" for half in halves for values in half.values())
        print("{:<14}{:8d} {}{}{} {}{}{}".format(title, sizes[title], *cells))


def show_samples(title, model, chars):
    """Print some samples; return the share of all that starts with n to z."""
    samples = [sample(model, chars) for _ in range(num_samples)]
    print(f"\n{num_samples} samples, {title}:\n{' '.join(samples[:14])} ...")
    return mean([name[:1] > "m" for name in samples])


def draw_first_letters(rows, chars):
    """Print how likely each letter is to come first: {title: probabilities}, a row a line."""
    print(f"\nfirst letter:   {' '.join(chars)}")
    for title, probs in rows.items():  # the denser a mark, the likelier: @ from 0.15
        marks = [" .:-=+*#%@"[min(9, int(60 * p))] * 2 for p in probs[: len(chars)]]
        print(f"{title:<16}{''.join(marks)}".rstrip())


def draw_shares(shares):
    """Print two bars a matrix: what rank 1 keeps of its change, and of a random matrix."""
    print(f"\nKept at rank 1:  {'of what full tuning changed':<33}of a random matrix")
    for name, pair in shares.items():
        bars = (f"{share:.2f} {'#' * round(25 * share):<28}" for share in pair)
        print(f"{name:<17}{''.join(bars)}".rstrip())


def print_results(rows):
    """Print the results, one a line: name, value, and the bound that the tests hold it to."""
    print("\n=== results ===")
    for name, value, criterion in rows:
        value = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{value:<9}{criterion}".rstrip())


# === MAIN ===
def show_adaptations(base, names, chars):
    """Adapt with each rank, then in full: ({title: model in floats}, {title: numbers trained})."""
    models, sizes = {"base": as_floats(base)}, {"base": len(flat(base))}
    for rank in ranks:  # `|` shares the base's Values; train() never updates them
        title, adapter = f"rank {rank}", init_adapter(base, rank)
        training = train(base | adapter, [*adapter], names, chars, adapter_rate)
        show_training(f"Adapter of {title}, on N to Z", training, len(names))
        models[title], sizes[title] = as_floats(base | adapter), len(flat(adapter))
    full = {key: [[Value(p.data) for p in row] for row in m] for key, m in base.items()}  # a copy
    training = train(full, [*full], names, chars, full_rate)
    show_training("Full fine-tuning, on N to Z", training, len(names))
    models |= {"full": as_floats(full), "adapter off": as_floats(base)}  # off: use the base alone
    return models, sizes | {"full": len(flat(full)), "adapter off": 0}


def score_rows(scores, lora, sizes):
    """The rows of the results that compare the base, the adapter titled `lora` and full tuning."""
    (base_a, base_b), (lora_a, lora_b) = scores["base"], scores[lora]
    (full_a, full_b), (off_a, _) = scores["full"], scores["adapter off"]
    loss_a, loss_b = mean(base_a["all"]), mean(base_b["all"])
    lora_gain, full_gain = (paired_gain(base_b["rest"], b["rest"]) for b in (lora_b, full_b))
    return [
        ("trainable_fraction", sizes[lora] / sizes["base"], "< 0.1"),
        ("lora_train_numbers", 3 * sizes[lora], ""),  # grad, m, v; frozen grads do not count
        ("full_train_numbers", 3 * sizes["full"], ""),
        ("base_loss_a", loss_a, "< 2.5"),
        ("base_loss_b", loss_b, ""),
        ("lora_loss_b", mean(lora_b["all"]), f"< {loss_b - 0.3:.4f}"),  # must beat the base by 0.3
        ("full_loss_b", mean(full_b["all"]), ""),
        ("lora_rest_gain_b", lora_gain[0], ""),
        ("lora_rest_gain_error", lora_gain[1], ""),  # its standard error
        ("full_rest_gain_b", full_gain[0], ""),
        ("full_rest_gain_error", full_gain[1], ""),
        ("lora_loss_a", mean(lora_a["all"]), ""),
        ("full_loss_a", mean(full_a["all"]), ""),
        ("off_loss_a", mean(off_a["all"]), f"== {loss_a:.4f}"),
    ]


def main():
    started = time.perf_counter()
    random.seed(42)
    names = load_names()
    random.shuffle(names)
    chars = sorted(set("".join(names)))  # both halves use one alphabet, so one tokenizer
    (a_heldout, a_names), (b_heldout, b_names) = split(names)
    base = init_model(len(chars) + 1)
    print(f"{len(flat(base))} parameters. Names: {len(a_names)} from A to M to train the base on,")
    print(f"{len(b_names)} from N to Z to adapt it to; {num_heldout} of each half held out.")
    show_training("Base, on A to M", train(base, [*base], a_names, chars, base_rate), len(a_names))
    models, sizes = show_adaptations(base, b_names, chars)
    lora = f"rank {ranks[0]}"  # the smallest adapter stands for the method
    scores = {t: [evaluate(m, n, chars) for n in (a_heldout, b_heldout)] for t, m in models.items()}
    show_scores(scores, sizes)
    first = {t: softmax(adapted_gpt(models[t], len(chars), 0, {})) for t in ("base", lora)}
    first["held out, N-Z"] = [mean([name[0] == c for name in b_heldout]) for c in chars]
    draw_first_letters(first, chars)
    rates = [show_samples(title, models[title], chars) for title in ("base", lora)]
    shares = change_shares(models["base"], models["full"])
    draw_shares(shares)
    change, noise = map(mean, zip(*shares.values()))
    diff = max_difference(models[lora], merge(models[lora]), b_heldout[:100], chars)
    changed = [x != y for x, y in zip(flat(models["base"]), flat(models["adapter off"]))]
    rows = [
        *score_rows(scores, lora, sizes),
        ("frozen_changed", changed.count(True), "== 0"),
        ("merged_max_diff", f"{diff:.1e}", "< 1e-9"),
        ("base_samples_n_to_z", rates[0], ""),
        ("lora_samples_n_to_z", rates[1], ""),
        ("random_rank1_share", noise, ""),
        ("change_rank1_share", change, f"> {2 * noise:.4f}"),  # twice what noise has
        ("runtime_seconds", time.perf_counter() - started, "< 420"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
