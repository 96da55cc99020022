"""Round every weight to one byte, or to half a byte, and the model still works.

The GPT of microgpt.py, rounded after training by absmax and by zero-point (Dettmers et al. 2022,
LLM.int8(), section 2), with one scale a matrix ("per tensor") or one a row ("per channel":
Krishnamoorthi 2018). Only what is stored is rounded, the arithmetic stays in floats, as with GPTQ
(Frantar et al. 2022): large models wait for their weights. A quarter of a byte shows the limit.
"""

import functools
import hashlib
import itertools
import math
import os
import random
import struct
import time
import urllib.request

# === CONSTANTS: the model, its training, the precisions, the evaluation ===
n_embd, n_head, n_layer, block_size = 16, 4, 1, 16  # all as in microgpt, and so float_loss is
num_steps, learning_rate, beta1, beta2, eps_adam = 1000, 0.01, 0.85, 0.99, 1e-8
precisions = (8, 4, 2)  # bits a weight
drawn = "layer0.attn_wo"  # the matrix whose rows are drawn, on INT4's points
num_heldout, num_samples, temperature = 500, 8, 0.5  # names to judge each version by; to invent
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
# None: this is the canonical code of docs/autograd-interface.md, which the other scripts repeat.


# === MODEL: from the tokens so far to a score for every next token ===
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


def gpt(state_dict, token_id, pos_id, cache):
    """Logits [vocab_size] for what follows `token_id` at position `pos_id`, given the past.

    The past is `cache`: {} at the start of a name, then each layer's keys, values and attention
    weights (Values in training: gradients flow back through it). It holds nothing later than
    this position, so no token sees ahead: the causal mask is here the order of time.
    """
    # x [n_embd] is what this position knows: at first only its token and its place.
    x = rmsnorm([t + p for t, p in zip(state_dict["wte"][token_id], state_dict["wpe"][pos_id])])
    for layer in range(n_layer):
        keys, values, maps = cache.setdefault(layer, ([], [], []))
        h = rmsnorm(x)  # into attention: only here does a position learn from others
        q = linear(h, state_dict[f"layer{layer}.attn_wq"])  # what this position looks for
        keys.append(linear(h, state_dict[f"layer{layer}.attn_wk"]))  # what it can be found by
        values.append(linear(h, state_dict[f"layer{layer}.attn_wv"]))  # what it then hands over
        heads = []
        for start in range(0, n_embd, n_embd // n_head):
            part = slice(start, start + n_embd // n_head)  # this head's share of the numbers
            out, weights = attend(q[part], [k[part] for k in keys], [v[part] for v in values])
            heads += out  # [n_embd] when all heads are in
            maps.append(weights)  # by position, then by head
        # x + f(x): each half of a layer only adds to x, so gradients have a straight way back.
        x = [a + b for a, b in zip(x, linear(heads, state_dict[f"layer{layer}.attn_wo"]))]
        h = rmsnorm(x)  # into the MLP, where each position works on its own
        h = [relu(hi) for hi in linear(h, state_dict[f"layer{layer}.mlp_fc1"])]  # [4 * n_embd]
        x = [a + b for a, b in zip(x, linear(h, state_dict[f"layer{layer}.mlp_fc2"]))]
    return linear(x, state_dict["lm_head"])


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


# === TRAINING: raise the probability of what came next, one name at a time ===
def name_loss(state_dict, tokens, cache):
    """Cross-entropy: mean of -log p(next token), in nats. `cache`: {}, filled for a later look."""
    n, total = min(block_size, len(tokens) - 1), 0.0  # tokens beyond the context are left out
    for pos_id in range(n):
        probs = softmax(gpt(state_dict, tokens[pos_id], pos_id, cache))
        total = total - log(probs[tokens[pos_id + 1]])
    return total * (1 / n)


def adam_step(params, m, v, step, lr):
    """One update of params, in place (Kingma & Ba 2015, algorithm 1; step >= 1). Clears grads."""
    correct1, correct2 = 1 / (1 - beta1**step), 1 / (1 - beta2**step)  # undoes that m, v start at 0
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad  # which way, on average
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad  # how steep, on average
        p.data -= lr * m[i] * correct1 / (math.sqrt(v[i] * correct2) + eps_adam)
        p.grad = 0.0


def train(state_dict, names, chars):
    """Train in place, one name a step; after each step, yield the loss that it started from."""
    params = [p for matrix in state_dict.values() for row in matrix for p in row]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(num_steps):
        loss = name_loss(state_dict, encode(names[step % len(names)], chars), {})
        loss.backward()
        adam_step(params, m, v, step + 1, learning_rate * (1 - step / num_steps))
        yield loss.data


# === INFERENCE: round, pack into bytes, unpack, run ===
# fmt: off
def int_range(bits): return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1  # -128, 127; -8, 7; -2, 1
def as_float32(x): return struct.unpack("<f", struct.pack("<f", x))[0]  # what a file would hold
def dequantize(ints, scale, zero): return [(q - zero) * scale for q in ints]  # GPUs: on the fly
def flat(matrix): return [w for row in matrix for w in row]
def root_mean_square(xs): return math.sqrt(mean([x * x for x in xs]))
def mean_loss(model, names): return mean([name_loss(model, tokens, {}) for tokens in names])
# fmt: on


def absmax(weights, bits):
    """(scale, zero) of a grid about 0.0: the largest |w| becomes the largest integer.

    -q_max to q_max is one integer fewer than there is room for: 1 of 256 for 8 bits, 1 of 4 for 2.
    """
    return as_float32(max(map(abs, weights)) / int_range(bits)[1]) or 1.0, 0  # 1.0 if all are 0.0


def zero_point(weights, bits):
    """(scale, zero) of a grid from the smallest weight to the largest, lopsided as they may be.

    `zero` is the integer that stands for 0.0 (Jacob et al. 2018, eq. 1: r = S (q - Z)). The range
    is made to include 0.0, so that `zero` fits into `bits`, and what was 0.0 stays exactly that.
    """
    low, high = min(0.0, *weights), max(0.0, *weights)
    scale = as_float32((high - low) / (2**bits - 1)) or 1.0
    return scale, round(int_range(bits)[0] - low / scale)


def quantize(weights, scale, zero, bits):
    """Floats -> integers: the nearest points of the grid, none more than half a step away."""
    q_min, q_max = int_range(bits)
    return [min(q_max, max(q_min, round(w / scale) + zero)) for w in weights]


def pack(ints, bits):
    """Integers -> bytes, 8 / bits of them in each, the first in the lowest bits."""
    per_byte, fields = 8 // bits, [q & (2**bits - 1) for q in ints]  # in 4 bits, -1 is 1111
    cuts = [fields[i : i + per_byte] for i in range(0, len(fields), per_byte)]
    return bytes([sum(field << (bits * i) for i, field in enumerate(cut)) for cut in cuts])


def unpack(packed, bits, n):
    """Bytes -> the first n integers; what only fills up the last byte is left out."""
    fields = [byte >> shift & (2**bits - 1) for byte in packed for shift in range(0, 8, bits)]
    return [q - 2**bits if q > int_range(bits)[1] else q for q in fields[:n]]  # 1111 is -1 again


def compress(matrix, bits, find_grid, per_row):
    """A matrix of floats -> (integers, scales, zeros), each as the bytes that a file would hold."""
    groups = matrix if per_row else [flat(matrix)]  # llama.cpp: blocks of 32, scales of 16 bits
    grids = [find_grid(group, bits) for group in groups]
    ints = [q for group, grid in zip(groups, grids) for q in quantize(group, *grid, bits)]
    scales, zeros = zip(*grids)
    zeros = pack(zeros, bits) if any(zeros) else b""  # absmax has none to store
    return pack(ints, bits), struct.pack(f"<{len(scales)}f", *scales), zeros


def restore(weights, scales, zeros, rows, columns, bits):
    """The bytes of compress() -> [rows][columns] floats, and the scale of each row."""
    ints = unpack(weights, bits, rows * columns)
    cuts = [ints[i * columns :][:columns] for i in range(rows)]
    scales = [scale for (scale,) in struct.iter_unpack("<f", scales)]
    zeros = unpack(zeros, bits, len(scales)) or [0] * len(scales)
    scales, zeros = (xs * (rows // len(xs)) for xs in (scales, zeros))  # one for all, or one a row
    return [dequantize(*row) for row in zip(cuts, scales, zeros)], scales


def quantize_model(model, bits, find_grid, per_row):
    """The model as its bytes give it back, their number, and how far its weights have moved."""
    found = {"model": {}, "weight_bytes": 0, "all_bytes": 0, "rms": {}, "steps": []}
    for name, matrix in model.items():
        parts = compress(matrix, bits, find_grid, per_row)
        found["model"][name], scales = restore(*parts, len(matrix), len(matrix[0]), bits)
        errors = [[r - w for r, w in zip(*rows)] for rows in zip(found["model"][name], matrix)]
        found["steps"] += [abs(e) / scale for row, scale in zip(errors, scales) for e in row]
        found["weight_bytes"] += len(parts[0])
        found["all_bytes"] += sum(map(len, parts))  # the shapes are known: they are the model's
        found["rms"][name] = root_mean_square(flat(errors))
    return found


def sample(state_dict, chars):
    """A name drawn token by token, until the boundary token or the end of the context."""
    name, cache = "", {}
    token_id = bos = len(chars)
    for pos_id in range(block_size):
        logits = gpt(state_dict, token_id, pos_id, cache)
        probs = softmax([x / temperature for x in logits])  # below 1: likely gets likelier
        token_id = random.choices(range(len(probs)), weights=probs)[0]
        if token_id == bos:
            break
        name += chars[token_id]
    return name


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


def draw_histogram(model):
    """Print how the weights are distributed, beside a normal distribution.

    Why rounding is cheap: no weight is so large that the step, which goes by the largest, gets too
    long for the many small ones; and in a sum of products, errors up and down mostly cancel.
    """
    weights = [w / d for m in model.values() for d in [root_mean_square(flat(m))] for w in flat(m)]
    print("\nWeights, in standard deviations of their matrix: %, % of a normal distribution")
    for low in range(-5, 5):
        share = 100 * mean([low <= w < low + 1 for w in weights])
        normal = 50 * (math.erf((low + 1) / 2**0.5) - math.erf(low / 2**0.5))
        print(f"{low:2d} to {low + 1:2d}{share:6.1f}{normal:6.1f} |{'#' * round(1.5 * share)}")


def draw_rows(matrix, bits, half=28):
    """Print the points of absmax's grid for the matrix, then the weights and the step of each row.

    The error goes with the step: for half as wide a row, its own scale is as good as one bit more.
    """
    step, q_max = absmax(flat(matrix), bits)[0], int_range(bits)[1]
    points = [q * step for q in range(-q_max, q_max + 1)]
    print(f"\n{drawn}: the points of INT{bits} and their step; each row's weights and its own step")
    for label, xs, mark in [("all", points, "|"), *((i, row, "o") for i, row in enumerate(matrix))]:
        places = {round((x / points[-1] + 1) * half) for x in xs}
        line = "".join(mark if i in places else " " for i in range(2 * half + 1))
        print(f"{label:>3} {line} {absmax(xs, bits)[0]:.4f}")
    ints = quantize(matrix[0], *absmax(matrix[0], bits), bits)
    print(f"Row 0, on its own scale: {str(ints)[1:-1]}; in bytes: {pack(ints, bits).hex(' ')}")


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
    names = load_names()
    random.shuffle(names)
    chars = sorted(set("".join(names)))
    trained = set(names[:num_steps])  # a set, as some stand in the list twice
    heldout = [encode(n, chars) for n in dict.fromkeys(names) if n not in trained][:num_heldout]
    model = init_model(len(chars) + 1)
    print(f"{num_steps} names to train on, {len(heldout)} held out.")
    for step, loss in enumerate(train(model, names, chars), 1):
        show_progress(step, num_steps, loss, started)
    model = {key: [[as_float32(w.data) for w in row] for row in m] for key, m in model.items()}
    draw_histogram(model)
    draw_rows(model[drawn], 4)
    float_loss = mean_loss(model, heldout)
    float_bytes = 4 * sum(len(flat(m)) for m in model.values())
    print("\nbits  grid        a scale   bytes  with scales  ratio  RMS error    loss  increase")
    print(f"  32  float32{float_bytes:22d}{float_bytes:13d}   1.00{float_loss:19.4f}")
    found = {}  # by bits, way to round, and whether rows have scales of their own
    for bits, find_grid, per_row in itertools.product(precisions, (absmax, zero_point), (0, 1)):
        small = found[bits, find_grid, per_row] = quantize_model(model, bits, find_grid, per_row)
        loss, size = mean_loss(small["model"], heldout), small["all_bytes"]
        small |= {"ratio": float_bytes / size, "increase": loss / float_loss - 1}
        line = f"{bits:4}  {find_grid.__name__:12}{('a matrix', 'a row')[per_row]:9}"
        error = mean(small["rms"].values())  # of a matrix, on average
        line += f"{small['weight_bytes']:6}{size:13}{small['ratio']:7.2f}{error:11.4f}"
        print(f"{line}{loss:8.4f}{100 * small['increase']:8.2f} %")
    int8, int4, int2 = (found[bits, absmax, 0] for bits in precisions)
    int8_rows, int4_rows = found[8, absmax, 1], found[4, absmax, 1]
    print(f"\nSamples at temperature {temperature}, all from the same random numbers:")
    state = random.getstate()
    for title, small in zip("float32 INT8 INT4 INT2".split(), ({"model": model}, int8, int4, int2)):
        random.setstate(state)
        print(f"{title:8}{' '.join([sample(small['model'], chars) for _ in range(num_samples)])}")
    shares = [int4_rows["rms"][name] / rms for name, rms in int4["rms"].items()]
    rows = [
        ("float_loss", float_loss, "< 2.45"),
        ("int8_loss_increase", int8["increase"], "<= 0.1"),  # all for absmax
        ("int4_loss_increase", int4["increase"], "<= 0.25"),
        ("int2_loss_increase", int2["increase"], ""),
        ("int8_channel_increase", int8_rows["increase"], "<= 0.1"),  # on INT8, chance decides
        ("int4_channel_increase", int4_rows["increase"], f"< {int4['increase']:.4f}"),
        ("channel_better", sum(share < 1 for share in shares), f"== {len(model)}"),
        ("channel_error_ratio", max(shares), "< 1"),  # of the matrix where rows help least
        ("max_error_steps", max(max(small["steps"]) for small in found.values()), "<= 0.5"),
        ("int8_weights_ratio", float_bytes / int8["weight_bytes"], "== 4"),
        ("int4_weights_ratio", float_bytes / int4["weight_bytes"], "== 8"),
        ("int8_ratio", int8["ratio"], ""),  # with the scales
        ("int4_ratio", int4["ratio"], ""),
        ("int4_channel_ratio", int4_rows["ratio"], ""),
        ("runtime_seconds", time.perf_counter() - started, "< 360"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
