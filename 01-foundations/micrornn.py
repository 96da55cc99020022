"""A gate can keep a gradient alive through time where a plain recurrent network loses it.

A recurrent network reads one token a step and keeps all it knows of the past in a state of fixed
size. To learn from something 15 steps back, the gradient has to come back through 15 updates of
that state. This script trains an RNN (Elman 1990) and a GRU (Cho et al. 2014) on the same names by
the same recipe and measures what arrives. Karpathy's makemore (2022) has the same pair of cells.

What each generation gained: the RNN, a memory of any length in principle; LSTM (Hochreiter &
Schmidhuber 1997; forget gate: Gers et al. 2000) and GRU, gradients that get through it;
the Transformer (Vaswani et al. 2017), no state to get through: any earlier token is reached in one
step and all positions train at once, for a cost that grows with the square of the length.
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

# === CONSTANTS: two cells, one recipe, the evaluation ===
n_hidden = 32  # numbers in the state: all that a cell can know about the past
seq_len = 16  # steps that are unrolled: a boundary and 15 letters, as long as names get
# Plain SGD, one name a step, at a constant rate: so the GRU has the lower loss. With a rate that
# falls to 0 the RNN does (not shown here): names are short, and need no long memory.
num_steps, learning_rate = 3000, 0.1
std_in_out, std_recurrent = 0.3, 0.1  # of the initial weights, in both cells
# Biases of the GRU's update gates. At -4 a unit replaces sigmoid(-4) = 2 % of itself a step, and so
# remembers over some 50 steps; at +3 it replaces 95 %, like a unit of an RNN. Biases that fit the
# time spans of the task come from "chrono initialization" (Tallec & Ollivier 2018). With all 0, the
# gate is there and stands half open, and the gradient still dies: shown too, untrained.
n_slow, bias_slow, bias_fast = 6, -4.0, 3.0
num_heldout = 1000  # names to judge the models by, none of them trained on
num_sequences = 100  # of seq_len characters of held-out text, to measure gradients on
num_samples, temperature = 1000, 0.5  # below temperature 1, samples keep to what is likely

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


def cut_sequences(names, chars):
    """[num_sequences][seq_len + 1] token ids: pieces of a stream of names, a boundary after each.

    Hardly a name has so many characters. The last token of each piece is only to be predicted.
    """
    stream = [len(chars)]
    for name in names:
        stream += encode(name, chars)[1:]
    return [stream[i * seq_len :][: seq_len + 1] for i in range(num_sequences)]


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
    def sigmoid(self): return Value(y := sigmoid(self.data), (self,), (y * (1.0 - y),))
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
# This is the canonical code of docs/autograd-interface.md, with these additions:
# - sigmoid(): for the gates of the GRU
# - blend(): what the update gate does, as one node


def sigmoid(x):
    """1 / (1 + e^-x), as (1 + tanh(x / 2)) / 2: equal but for rounding, never overflowing."""
    return x.sigmoid() if isinstance(x, Value) else 0.5 + 0.5 * math.tanh(0.5 * x)


def blend(z, h, c):
    """(1 - z) h + z c as ONE node (operators make seven), or a float if all three are floats."""
    if not isinstance(z, Value):
        return h + z * (c - h)
    h = h if isinstance(h, Value) else Value(h)
    change = c.data - h.data
    # Slopes for z, h and c. That for h is 1 - z: with z near 0 a gradient passes almost unchanged.
    return Value(h.data + z.data * change, (z, h, c), (change, 1.0 - z.data, z.data))


# === MODEL: from a state and a token to the next state ===
def softmax(logits):
    """[n] scores -> [n] probabilities."""
    peak = max(floats(logits))  # a constant: to shift all scores changes no probability
    exps = [exp(x - peak) for x in logits]  # at most 1, so no score is too large
    scale = dot(exps, [1.0] * len(exps)) ** -1  # 1 / their sum
    return [e * scale for e in exps]


def linear(x, w):
    """x [n_in], w [n_out][n_in] -> w x [n_out]."""
    return [dot(row, x) for row in w]


def affine(w, part, token_id, h):
    """W_x x + W_h h + b of one part of a cell, "h", "z" or "r": [n_hidden].

    x is one-hot, so W_x x is a column of W_x. w_x keeps columns as rows: a lookup, not a product.
    """
    w_x, w_h, (b,) = w[f"w_x{part}"], w[f"w_h{part}"], w[f"b_{part}"]
    one = Value(1.0) if isinstance(h[0], Value) else 1.0
    factors = [one, one, *h]  # of x, of b and of a row of W_h: the whole sum is one node
    return [dot(factors, [xi, bi, *row]) for xi, bi, row in zip(w_x[token_id], b, w_h)]


def rnn_cell(w, token_id, h):
    """h_t = tanh(W_xh x_t + W_hh h_{t-1} + b_h).

    Backward, dL/dh_{t-1} = W_hh^T diag(1 - h_t^2) dL/dh_t: each step multiplies by the same matrix
    and by factors of at most 1. Unless the matrix makes up for them, what is left shrinks
    exponentially with the number of steps (Bengio et al. 1994).
    """
    return [tanh(a) for a in affine(w, "h", token_id, h)]


def gru_cell(w, token_id, h):
    """h_t = (1 - z) h_{t-1} + z c (Cho et al. 2014, their z and 1 - z the other way round).

    Backward, dL/dh_{t-1} = (1 - z) dL/dh_t + what comes through c, z and r. The first term has no
    matrix and no tanh in it: where z is nearly 0, the gradient is copied.
    """
    z = [sigmoid(a) for a in affine(w, "z", token_id, h)]  # update gate: how much to replace
    r = [sigmoid(a) for a in affine(w, "r", token_id, h)]  # reset gate: how much of the past to use
    past = [ri * hi for ri, hi in zip(r, h)]
    c = [tanh(a) for a in affine(w, "h", token_id, past)]  # candidate: what to replace it with
    return [blend(zi, hi, ci) for zi, hi, ci in zip(z, h, c)]


def readout(w, h):
    """y_t = W_hy h_t + b_y: [n_hidden] -> [vocab_size], a score for every next token."""
    (b,) = w["b_y"]
    return [a + bi for a, bi in zip(linear(h, w["w_hy"]), b)]


def init_model(parts, vocab_size):
    """A state_dict of matrices: the parts "h" make an RNN, "hzr" a GRU. A bias is a single row."""

    def matrix(rows, columns, std):
        return [[Value(random.gauss(0, std)) for _ in range(columns)] for _ in range(rows)]

    w = {}
    for part in parts:
        w[f"w_x{part}"] = matrix(vocab_size, n_hidden, std_in_out)
        w[f"w_h{part}"] = matrix(n_hidden, n_hidden, std_recurrent)
        w[f"b_{part}"] = [[Value(0.0) for _ in range(n_hidden)]]
    if "z" in parts:
        for i, b in enumerate(w["b_z"][0]):
            b.data = bias_slow if i < n_slow else bias_fast
    w["w_hy"] = matrix(vocab_size, n_hidden, std_in_out)
    w["b_y"] = [[Value(0.0) for _ in range(vocab_size)]]
    return w


# A copy of a state_dict in plain numbers, for which no gradient is computed.
def as_floats(w):
    return {key: [floats(row) for row in m] for key, m in w.items()}


# === TRAINING: backpropagation through time, one name at a time ===
def name_loss(cell, w, tokens):
    """Cross-entropy: mean of -log p(next token), in nats, over at most seq_len tokens."""
    n, h, total = min(seq_len, len(tokens) - 1), [0.0] * n_hidden, 0.0
    for t in range(n):
        h = cell(w, tokens[t], h)
        total = total - log(softmax(readout(w, h))[tokens[t + 1]])
    return total * (1 / n)


def train(cell, w, docs, chars):
    """Train in place, one document a step; yield the loss that each step started from.

    Left out: clipping, for gradients that grow through time instead of vanishing (Pascanu et al.
    2013).
    """
    params = [p for matrix in w.values() for row in matrix for p in row]
    for step in range(num_steps):
        loss = name_loss(cell, w, encode(docs[step % len(docs)], chars))
        # Each step of the name used the same weights, and each use adds to their grad. There is
        # no more to backpropagation through time.
        loss.backward()
        for p in params:
            p.data -= learning_rate * p.grad
            p.grad = 0.0
        yield loss.data


# === INFERENCE: how far gradients get, what the gates do, names ===
def state_gradients(cell, w, tokens):
    """dL/dh_t for t = 1 to n: [n][n_hidden], n = len(tokens) - 1, of a loss at step n alone.

    L = -log p(last token). A loss at every step would feed gradient in all along the way and hide
    how little of it comes through. `w` is of floats: no gradient goes there.
    """
    h, states = [Value(0.0) for _ in range(n_hidden)], []
    for token_id in tokens[:-1]:
        h = cell(w, token_id, h)
        states.append(h)
    (-log(softmax(readout(w, h))[tokens[-1]])).backward()
    return [[v.grad for v in h] for h in states]


def kept_shares(w, tokens):
    """1 - z_t of a GRU of floats, for t = 1 to len(tokens) - 1: [n][n_hidden]."""
    h, kept = [0.0] * n_hidden, []
    for token_id in tokens[:-1]:
        kept.append([1.0 - sigmoid(a) for a in affine(w, "z", token_id, h)])
        h = gru_cell(w, token_id, h)
    return kept


def direct_gradient(last, kept):
    """dL/dh_1 if only the terms (1 - z) of gru_cell are followed back from `last`, dL/dh_n."""
    for shares in kept[:0:-1]:  # steps n to 2
        last = [g * share for g, share in zip(last, shares)]
    return last


def mean_norms(gradients):
    """||dL/dh_t|| at each step, the mean over sequences: [num_sequences][n][n_hidden] -> [n]."""
    return [mean([dot(g, g) ** 0.5 for g in step]) for step in zip(*gradients)]


def grad_ratio(gradients):
    """Mean norm at the first step / at the last. Below 1, it shrinks on the way back."""
    norms = mean_norms(gradients)
    return norms[0] / norms[-1]


def sample(cell, w, chars):
    """A name drawn token by token, until the boundary token or seq_len characters.

    The cell needs one state whatever the length; a GPT keeps keys and values of every token.
    """
    name, h = "", [0.0] * n_hidden
    token_id = bos = len(chars)
    for _ in range(seq_len):
        h = cell(w, token_id, h)
        probs = softmax([x / temperature for x in readout(w, h)])
        token_id = random.choices(range(len(probs)), weights=probs)[0]
        if token_id == bos:
            break
        name += chars[token_id]
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


def draw_curve(values, width=64, height=8):
    """Print a curve. Each column is the mean of its share of the values."""
    n, width = len(values), min(width, len(values))
    columns = [mean(values[i * n // width : (i + 1) * n // width]) for i in range(width)]
    low, span = min(columns), (max(columns) - min(columns)) or 1.0  # or flat
    for level in range(height, -1, -1):
        marks = ["*" if round((c - low) / span * height) == level else " " for c in columns]
        print(f"{low + span * level / height:6.2f} |{''.join(marks)}".rstrip())


def show_training(label, cell, w, docs, chars):
    """Train with a line of progress, print the loss curve, return the losses."""
    print(
        f"\n{label}: training, then its loss (a blind guess costs {math.log(len(chars) + 1):.2f})"
    )
    losses, begun = [], time.perf_counter()
    for loss in train(cell, w, docs, chars):
        losses.append(loss)
        show_progress(len(losses), num_steps, loss, begun)
    draw_curve(losses)
    return losses


def show_gradients(title, cells, sequences):
    """Print the norms of {label: (cell, weights as floats)}; return the gradients of each.

    Means are of norms: gradients would cancel. Norms fall by orders of magnitude,
    so bars are on a log scale: a straight slope is a decay by the same factor at every step.
    """
    gradients = [[state_gradients(*cell, s) for s in sequences] for cell in cells.values()]
    columns = [mean_norms(g) for g in gradients]
    print(f"\n{title}\n  t  {''.join(f'{label:27}' for label in cells)}".rstrip())
    for t, row in enumerate(zip(*columns), 1):
        line = f"{t:3}  "
        for norm, column in zip(row, columns):
            bar = "#" * round(17 + math.log2(max(norm / column[-1], 1e-10)))
            line += f"{norm:.1e} {bar:19}"
        print(line.rstrip())
    return gradients


def show_gates(gru, zero_bias, sequences, gradients):
    """Print what update gates keep and the gradient ratio due to that alone; return this ratio."""
    kept = [kept_shares(gru, tokens) for tokens in sequences]  # [num_sequences][n][n_hidden]
    even = [kept_shares(zero_bias, tokens) for tokens in sequences]
    print(f"\n{'What the update gates keep':28}mean 1 - z  to the power {seq_len - 1}")
    for label, shares, units in (
        ("trained, slow units", kept, slice(n_slow)),
        ("trained, fast units", kept, slice(n_slow, None)),
        ("update biases 0, untrained", even, slice(None)),
    ):
        share = mean([x for steps in shares for step in steps for x in step[units]])
        print(f"{label:28}{share:10.4f}  {share ** (seq_len - 1):15.1e}")
    # The slow units carry the gradient. At the last step the norm has a part from all units, so
    # less comes back than the power of the share.
    direct = grad_ratio([[direct_gradient(g[-1], k), g[-1]] for g, k in zip(gradients, kept)])
    print(f"The GRU's norm at step 1 / at step {seq_len}: {grad_ratio(gradients):.4f}")
    print(f"... if only the factors 1 - z are followed back: {direct:.4f}")
    return direct


def show_comparison(table, samples, losses):
    """Print {metric: (RNN's, GRU's)} in two columns, a few samples, the losses' mean gap."""
    print(f"\n{'':20}{'RNN':>12}{'GRU':>12}")
    for metric, (rnn, gru) in table.items():
        print(f"{metric:20}{rnn:12.5g}{gru:12.5g}")
    for i, (rnn, gru) in enumerate(zip(*(names[:8] for names in samples))):
        print(f"{'' if i else 'samples':20}{rnn:>12}{gru:>12}".rstrip())
    # Names differ more than cells do. Compared name by name, that difference cancels.
    gaps = [rnn - gru for rnn, gru in zip(*losses)]
    gap = mean(gaps)
    error = (mean([(g - gap) ** 2 for g in gaps]) / len(gaps)) ** 0.5
    print(f"\nHeld-out loss, RNN's less GRU's: {gap:.4f}, standard error over names {error:.4f}")


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
    names = list(dict.fromkeys(load_names()))  # once each: some stand in the list twice
    random.shuffle(names)
    heldout, docs = names[:num_heldout], names[num_heldout:][:num_steps]
    chars = sorted(set("".join(names)))  # the vocabulary, less the boundary
    sequences = cut_sequences(heldout, chars)
    models = [init_model("h", len(chars) + 1), init_model("hzr", len(chars) + 1)]
    print(f"{len(docs)} names to train on, one a step; {len(heldout)} others are held out.\n")

    print(f"How much of the gradient of a loss at step {seq_len} is left at step t: ||dL/dh_t||,")
    print(f"the mean over {num_sequences} held-out sequences. A # less is about half as much.")
    rnn, gru = map(as_floats, models)
    zero_bias = {**gru, "b_z": [[0.0] * n_hidden]}  # all else is the GRU's
    cells = {"RNN": (rnn_cell, rnn), "GRU": (gru_cell, gru)}
    before = {**cells, "GRU, update biases 0": (gru_cell, zero_bias)}
    untrained = [grad_ratio(g) for g in show_gradients("Before training", before, sequences)]
    losses = [
        show_training("RNN", rnn_cell, models[0], docs, chars),
        show_training("GRU", gru_cell, models[1], docs, chars),
    ]
    rnn, gru = map(as_floats, models)
    cells = {"RNN": (rnn_cell, rnn), "GRU": (gru_cell, gru)}
    gradients = show_gradients("After training", cells, sequences)
    direct = show_gates(gru, zero_bias, sequences, gradients[1])

    counts = collections.Counter(t for name in names for t in trigrams(name))
    known = {t for t, count in counts.items() if count >= 5}  # not an accident of a few names
    heldout_losses = [[name_loss(*c, encode(n, chars)) for n in heldout] for c in cells.values()]
    samples = [[sample(*c, chars) for _ in range(num_samples)] for c in cells.values()]
    table = {
        "params": [sum(len(m) * len(m[0]) for m in w.values()) for w in models],
        "final_loss": [mean(curve[-200:]) for curve in losses],  # one name's is a matter of luck
        "heldout_loss": [mean(values) for values in heldout_losses],
        "grad_ratio": [grad_ratio(g) for g in gradients],
        "pronounceable_rate": [mean([is_pronounceable(n, known) for n in s]) for s in samples],
    }
    show_comparison(table, samples, heldout_losses)
    bounds = {name: ("", f"< {rnn:.4f}") for name, (rnn, _) in table.items() if "loss" in name}
    bounds["grad_ratio"] = ("< 0.01", "0.1 to 10")
    rows = []
    for metric, pair in table.items():
        for cell, value, bound in zip(("rnn", "gru"), pair, bounds.get(metric, ("", ""))):
            rows.append((f"{cell}_{metric}", value, bound))
    labels = ("rnn_untrained", "gru_untrained", "gru_zero_bias", "gru_direct")
    for label, ratio in zip(labels, [*untrained, direct]):
        rows.append((f"{label}_grad_ratio", f"{ratio:.6f}", ""))
    rows.append(("heldout_names", len(heldout), ""))
    print_results([*rows, ("runtime_seconds", time.perf_counter() - started, "< 540")])


if __name__ == "__main__":
    main()
