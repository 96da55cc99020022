"""Round every weight to one byte, or to half a byte, and the model still works.

Post-training quantization of microgpt (Andrej Karpathy 2026): by absmax (Dettmers et al. 2022,
LLM.int8(), section 2) and zero-point (Jacob et al. 2018), with a scale a matrix ("per tensor") or a
row ("per channel": Krishnamoorthi 2018). Only what is stored is rounded, arithmetic is in floats,
as with GPTQ (Frantar et al. 2022). In 2 bits, absmax with a scale a matrix is not enough.
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
n_embd, n_head, n_layer, block_size = 16, 4, 1, 16  # all as in microgpt
num_steps, learning_rate, beta1, beta2, eps_adam = 1000, 0.01, 0.85, 0.99, 1e-8
precisions = (8, 4, 2)  # bits a weight
drawn = "layer0.attn_wo"  # the matrix whose rows are drawn, on INT4's points
num_heldout = 500  # names to judge each version by
num_samples, temperature = 8, 0.5  # names to invent
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
def dequantize(ints, scale, zero): return [(q - zero) * scale for q in ints]
def mean(values): return math.fsum(values) / len(values)  # rounds once: alike on every Python
def flat(matrix): return [w for row in matrix for w in row]
def root_mean_square(xs): return math.sqrt(mean([x * x for x in xs]))
def standard_error(xs): return math.sqrt(mean([(x - mean(xs)) ** 2 for x in xs]) / (len(xs) - 1))
def all_losses(model, encoded): return [name_loss(model, tokens, {}) for tokens in encoded]
# fmt: on


def absmax(weights, bits):
    """(scale, zero) of a grid about 0.0, from -q_max to q_max: in 2 bits, only -1, 0 and 1."""
    return (as_float32(max(map(abs, weights)) / int_range(bits)[1]) or 1.0), 0  # if all are 0.0


def zero_point(weights, bits):
    """(scale, zero) of a grid from the smallest weight to the largest, lopsided as they may be.

    `zero` is the integer that stands for 0.0 (Jacob et al. 2018, eq. 1: r = S (q - Z)). The range
    includes 0.0, so that `zero` fits into `bits`; to round it shifts the grid by up to half a step.
    """
    low, high = min(0.0, *weights), max(0.0, *weights)
    scale = as_float32((high - low) / (2**bits - 1)) or 1.0
    return scale, round(int_range(bits)[0] - low / scale)


def quantize(weights, scale, zero, bits):
    """Floats -> integers: the nearest points, half a step away at most, clipped or not."""
    q_min, q_max = int_range(bits)
    return [min(q_max, max(q_min, round(w / scale) + zero)) for w in weights]


def pack(ints, bits):
    """Integers -> bytes, 8 / bits (1, 2 or 4) of them in each, the first in the lowest bits."""
    per_byte, fields = 8 // bits, [q & (2**bits - 1) for q in ints]  # in 4 bits, -1 is 1111
    cuts = [fields[i : i + per_byte] for i in range(0, len(fields), per_byte)]
    return bytes([sum(field << (bits * i) for i, field in enumerate(cut)) for cut in cuts])


def unpack(packed, bits, n):
    """Bytes -> the first n integers; what only fills up the last byte is left out."""
    fields = [(byte >> shift) & (2**bits - 1) for byte in packed for shift in range(0, 8, bits)]
    return [q - 2**bits if q > int_range(bits)[1] else q for q in fields[:n]]  # 1111 is -1 again


def compress(matrix, bits, find_grid, per_row):
    """A matrix of floats -> (integers, scales, zeros), each as the bytes that a file would hold."""
    groups = matrix if per_row else [flat(matrix)]  # dot(row, x): a row's scale leaves the sum
    grids = [find_grid(group, bits) for group in groups]
    ints = [q for group, grid in zip(groups, grids) for q in quantize(group, *grid, bits)]
    scales, zeros = zip(*grids)
    packed_zeros = pack(zeros, bits) if find_grid is zero_point else b""  # absmax's are all 0
    return pack(ints, bits), struct.pack(f"<{len(scales)}f", *scales), packed_zeros


def restore(packed_ints, packed_scales, packed_zeros, rows, columns, bits):
    """The bytes of compress() -> [rows][columns] floats, and the scale of each row."""
    ints = unpack(packed_ints, bits, rows * columns)
    cuts = [ints[i * columns :][:columns] for i in range(rows)]
    scales = [scale for (scale,) in struct.iter_unpack("<f", packed_scales)]
    zeros = unpack(packed_zeros, bits, len(scales)) or [0] * len(scales)
    if len(scales) == 1:  # one for all rows
        scales, zeros = scales * rows, zeros * rows
    return [dequantize(*row) for row in zip(cuts, scales, zeros)], scales


def quantize_model(model, bits, find_grid, per_row):
    """The model as its bytes give it back, their number, and how far its weights have moved."""
    small = {"model": {}, "weight_bytes": 0, "all_bytes": 0, "errors": {}, "step_errors": []}
    for name, matrix in model.items():
        parts = compress(matrix, bits, find_grid, per_row)
        small["model"][name], scales = restore(*parts, len(matrix), len(matrix[0]), bits)
        small["weight_bytes"] += len(parts[0])
        small["all_bytes"] += sum(map(len, parts))  # the shapes are known: they are the model's
        errors = [[r - w for r, w in zip(*rows)] for rows in zip(small["model"][name], matrix)]
        small["errors"][name] = root_mean_square(flat(errors)) / root_mean_square(flat(matrix))
        small["step_errors"] += [abs(e) / scale for row, scale in zip(errors, scales) for e in row]
    return small


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


def draw_histogram(model):
    """Print how the weights are distributed, beside a normal distribution.

    Why rounding is cheap: the step goes by the largest, which is only a few times the usual one.
    """
    weights = []
    for matrix in model.values():
        rms = root_mean_square(flat(matrix))
        weights += [w / rms for w in flat(matrix)]
    print(f"\nWeights / their matrix's RMS (at most {max(map(abs, weights)):.1f}): %, a normal's %")
    for low in range(-5, 5):
        share = 100 * mean([low <= w < low + 1 for w in weights])
        normal = 50 * (math.erf((low + 1) / 2**0.5) - math.erf(low / 2**0.5))
        print(f"{low:2d} to {low + 1:2d}{share:6.1f}{normal:6.1f} |{'#' * round(1.5 * share)}")


def draw_rows(matrix, bits, half=28):
    """Print the points of absmax's grid for the matrix, then the weights and the step of each row.

    The error goes with the step: a row half as wide gains about a bit from a scale of its own.
    """
    step, q_max = absmax(flat(matrix), bits)[0], int_range(bits)[1]
    points = [q * step for q in range(-q_max, q_max + 1)]
    print(f"\n{drawn}: INT{bits}'s points and step; each row's weights (some coincide), own step")
    for label, xs, mark in [("all", points, "|"), *((i, row, "o") for i, row in enumerate(matrix))]:
        places = {round((x / points[-1] + 1) * half) for x in xs}
        line = "".join(mark if i in places else " " for i in range(2 * half + 1))
        print(f"{label:>3} {line} {absmax(xs, bits)[0]:.4f}")


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
    float_losses = all_losses(model, heldout)
    float_loss, float_bytes = mean(float_losses), 4 * sum(len(flat(m)) for m in model.values())
    print("\nError: RMS / weights' RMS. Increase: of the loss; +-: standard error over names")
    print("bits grid       scale per  bytes with scales ratio   error    loss  increase       +-")
    print(f"  32 float32{float_bytes:20}{float_bytes:12}  1.00{float_loss:16.4f}")
    versions = {}  # by bits, way to round, and whether rows have scales of their own
    for bits, find_grid, per_row in itertools.product(precisions, (absmax, zero_point), (0, 1)):
        small = versions[bits, find_grid, per_row] = quantize_model(model, bits, find_grid, per_row)
        small["losses"] = all_losses(small["model"], heldout)
        more = [(a - b) / float_loss for a, b in zip(small["losses"], float_losses)]  # by name
        small["increase"], small["ratio"] = mean(more), float_bytes / small["all_bytes"]
        line = f"{bits:4} {find_grid.__name__:11}{('matrix', 'row')[per_row]:9}"
        line += f"{small['weight_bytes']:7}{small['all_bytes']:12}{small['ratio']:6.2f}"
        line += f"{mean(small['errors'].values()):8.4f}{mean(small['losses']):8.4f}"
        print(f"{line}{small['increase']:10.5f}{standard_error(more):9.5f}")
    int8, int4, int2 = (versions[bits, absmax, 0] for bits in precisions)
    int4_rows = versions[4, absmax, 1]
    print(f"\nBelow: absmax, a scale a matrix (channel: row). Samples at temperature {temperature}")
    state = random.getstate()
    for title, small in zip("float32 INT8 INT4 INT2".split(), ({"model": model}, int8, int4, int2)):
        random.setstate(state)  # the same random numbers for each
        print(f"{title:8}{' '.join([sample(small['model'], chars) for _ in range(num_samples)])}")
    gains = [(a - b) / float_loss for a, b in zip(int4["losses"], int4_rows["losses"])]
    error_ratios = [int4_rows["errors"][name] / error for name, error in int4["errors"].items()]
    furthest = max(max(small["step_errors"]) for small in versions.values())
    rows = [
        ("float_loss", float_loss, "< 2.45"),
        ("int8_loss_increase", int8["increase"], "<= 0.1"),
        ("int4_loss_increase", int4["increase"], "<= 0.25"),
        ("int2_loss_increase", int2["increase"], ""),
        ("int4_channel_increase", int4_rows["increase"], f"< {int4['increase']:.4f}"),
        ("int4_gain_error", standard_error(gains), ""),  # of what rows gain in loss, name by name
        ("channel_error_ratio", max(error_ratios), "< 1"),  # of the matrix where rows help least
        ("max_error_steps", f"{furthest:.6f}", "<= 0.500016"),  # of all; scales: 255 * 2^-24 more
        ("int8_weights_ratio", float_bytes / int8["weight_bytes"], "== 4"),
        ("int4_weights_ratio", float_bytes / int4["weight_bytes"], "== 8"),
        ("int8_ratio", int8["ratio"], ""),  # with the scales
        ("int4_ratio", int4["ratio"], ""),
        ("runtime_seconds", time.perf_counter() - started, "< 360"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
