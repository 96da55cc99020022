"""Without a cache a decoder computes its past again at every token; with one, it pays in memory.

microgpt (Andrej Karpathy 2026), for any number of new tokens at once. Paging is vLLM's (Kwon et al.
2023); here it is bookkeeping alone, and attention does not read through the tables of blocks.
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

# === CONSTANTS: the model, its training, the memory ===
n_embd, n_head, n_layer = 8, 2, 2  # so narrow that attention to 64 positions shows in the cost
block_size, num_prompts = 64, 8  # positions at most; names that are continued to there
num_steps, learning_rate = 500, 0.3  # a name each: positions from 16 on keep the weights drawn
num_slots, page_sizes = 256, (16, 8, 4, 2, 1)  # positions in memory; in a block: 16 hold any name
num_texts, bytes_per_number = 300, 2  # names to come and go there; as if in 16-bit floats
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
# Nothing is added to docs/autograd-interface.md or changed; log() for floats is not needed here.

# === MODEL: from new tokens, and a cache of the earlier ones, to what the new ones know ===
multiplies = collections.Counter()  # by component; counted_dot() alone adds to it


def counted_dot(a, b, component):
    """a . b, its multiplications entered. Not norms', nor softmax's 3 beside the 2 d a score."""
    multiplies[component] += len(a)
    return dot(a, b)


def softmax(logits):
    """[n] scores -> [n] probabilities."""
    peak = max(floats(logits))  # a constant: to shift all scores changes no probability
    exps = [exp(x - peak) for x in logits]  # at most 1, so no score is too large
    scale = dot(exps, [1.0] * len(exps)) ** -1  # 1 / their sum
    return [e * scale for e in exps]


# fmt: off
# project, add, norm: what each of the m new positions does by itself; xs [m][n_in] -> [m][n_out].
def project(xs, w): return [[counted_dot(row, x, "projections") for row in w] for x in xs]
def add(xs, ys): return [[a + b for a, b in zip(*pair)] for pair in zip(xs, ys, strict=True)]
def scale(x, c): return [a * c for a in x]
def norm(xs): return [scale(x, (dot(x, x) * (1 / len(x)) + 1e-5) ** -0.5) for x in xs]  # RMSNorm
def gaussian(m, n): return [[Value(random.gauss(0, 0.08)) for _ in range(n)] for _ in range(m)]
def new_cache(): return [([], []) for _ in range(n_layer)]  # a layer's keys, values [t][n_embd]
def numbers(cache): return sum(len(x) for layer in cache for xs in layer for x in xs)
# fmt: on


def attend_heads(q, keys, values):
    """softmax(q K^T / sqrt(d)) V of each head: q [n_embd], keys and values [t][n_embd]."""
    out, d = [], n_embd // n_head
    for part in (slice(start, start + d) for start in range(0, n_embd, d)):
        weights = softmax([counted_dot(q[part], k[part], "scores") * d**-0.5 for k in keys])
        out += [counted_dot(weights, col, "values") for col in zip(*(v[part] for v in values))]
    return out


def forward(model, tokens, cache):
    """Extend `cache` to all of `tokens`; return x [n_embd] of each position that was not in it."""
    start = len(cache[0][0])  # the first new position; 0 makes all of them new
    xs = norm(add([model["wte"][t] for t in tokens[start:]], model["wpe"][start : len(tokens)]))
    for layer, (keys, values) in enumerate(cache):
        normed = norm(xs)
        # Later positions read only k and v of these, which no later token changes: so keep them.
        keys.extend(project(normed, model[f"layer{layer}.attn_wk"]))
        values.extend(project(normed, model[f"layer{layer}.attn_wv"]))
        qs = project(normed, model[f"layer{layer}.attn_wq"])  # not needed again
        hs = [attend_heads(q, keys[:n], values[:n]) for n, q in enumerate(qs, start + 1)]  # causal
        xs = add(xs, project(hs, model[f"layer{layer}.attn_wo"]))
        hidden = [[relu(h) for h in x] for x in project(norm(xs), model[f"layer{layer}.mlp_fc1"])]
        xs = add(xs, project(hidden, model[f"layer{layer}.mlp_fc2"]))
    return xs


def init_model(vocab_size):
    """microgpt's matrices [n_out][n_in] by name, Gaussian of std 0.08."""
    n, model = n_embd, {"wpe": gaussian(block_size, n_embd)}
    model |= {name: gaussian(vocab_size, n) for name in ("wte", "lm_head")}
    for i in range(n_layer):
        model |= {f"layer{i}.attn_{w}": gaussian(n, n) for w in ("wq", "wk", "wv", "wo")}
        model |= {f"layer{i}.mlp_fc1": gaussian(4 * n, n), f"layer{i}.mlp_fc2": gaussian(n, 4 * n)}
    return model


# === TRAINING: just enough to write names of natural lengths ===
def train(model, texts):
    """Train in place by plain SGD, a name a step; yield each step's loss, in nats a token."""
    params = [p for matrix in model.values() for row in matrix for p in row]
    for step in range(num_steps):
        logits = project(forward(model, texts[step][:-1], new_cache()), model["lm_head"])
        log_probs = [softmax(row)[t].log() for row, t in zip(logits, texts[step][1:])]
        loss = dot(log_probs, [-1 / len(log_probs)] * len(log_probs))  # cross-entropy
        loss.backward()
        for p in params:
            p.data, p.grad = p.data - learning_rate * (1 - step / num_steps) * p.grad, 0.0
        yield loss.data


# === INFERENCE: every token without a cache and with one; then a memory for many caches ===
Step = collections.namedtuple("Step", "logits counted predicted bytes uses")


def predict(new, end, num_tokens):
    """The multiplications of a step, by component, if the last `new` of `end` positions are new."""
    body = 12 * n_embd**2 * n_layer  # n_embd^2 for each of q, k, v, the heads' output; 8 in the MLP
    seen = n_embd * n_layer * sum(range(end - new + 1, end + 1))  # pairs: O(end^2) if all are new
    return {"projections": body * new + n_embd * num_tokens, "scores": seen, "values": seen}


def write(model, tokens):
    """Feed `tokens` and what is drawn after them; each time yield the text so far, both Steps."""
    cache = new_cache()
    weights = sum(len(row) for key in model.keys() - {"wte", "wpe"} for row in model[key])
    while len(tokens) <= block_size:  # the last token drawn is not fed
        steps, end = [], len(tokens)
        for past in (new_cache(), cache):  # nothing is kept, or all: the ways differ here alone
            new, read = end - len(past[0][0]), weights + numbers(past)  # new: prompt, 1, 1; or all
            multiplies.clear()
            logits = project(forward(model, tokens, past)[-1:], model["lm_head"])[0]
            # Multiplications a number read. An A100 has time for 150 (156 T/s over 1 T numbers/s):
            # decoding waits for memory. Texts decoded together share the weights, but no cache.
            uses, size = sum(multiplies.values()) / read, numbers(past) * bytes_per_number
            steps.append(Step(logits, dict(multiplies), predict(new, end, len(logits)), size, uses))
        tokens = tokens + random.choices(range(len(model["wte"])), softmax(steps[-1].logits))
        yield tokens, *steps  # both ways go on with this one text


def serve(lengths, size):
    """A text comes each step, all grow by a token; yield {text: blocks}, free, positions in use."""
    free, tables = list(range(num_slots // size)), {}
    for step in range(len(lengths) + max(lengths)):
        for text in [text for text in tables if step - text == lengths[text]]:
            free += tables.pop(text)  # done: its blocks go to the next that asks
        if step < len(lengths):
            tables[step] = []
        for text, blocks in tables.items():  # position p will be in blocks[p // size], at p % size
            if (step - text) % size == 0:  # its blocks are full
                blocks.append(free.pop())  # IndexError if none is free
        yield tables, free, sum(step - text + 1 for text in tables)


# === OUTPUT: progress, results ===
def show_progress(step, num_steps, loss, started):
    """Rewrite one line on a terminal; in a pipe, print the first steps and every tenth of them."""
    spent = time.perf_counter() - started
    left = spent * (num_steps / step - 1)
    line = f"step {step:4d}/{num_steps}  loss {loss:.5f}  {spent:5.1f} s, {left:5.1f} s left"
    if os.isatty(1):  # somebody watches
        print(f"\r{line} ", end="\n" if step == num_steps else "")
    elif step <= 3 or step % max(1, num_steps // 10) == 0:
        print(line)


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
    names = random.sample(load_names(), num_steps + num_texts)
    chars = sorted(set("".join(names)))
    texts = [[len(chars), *map(chars.index, name), len(chars)] for name in names]
    model = init_model(len(chars) + 1)
    print(f"{num_steps} names to train on, {num_prompts} to continue to {block_size} positions.")
    for step, loss in enumerate(train(model, texts), 1):
        show_progress(step, num_steps, loss, started)
    model = {key: [floats(row) for row in rows] for key, rows in model.items()}  # no graph now
    runs = [{len(t) - 1: pair for t, *pair in write(model, p[:-1])} for p in texts[-num_prompts:]]
    # In each, by the number of positions: the step without a cache and the step with one.
    run, steps = runs[0], [(n, *pair) for run in runs for n, pair in run.items()]
    print("\n           multiplications, no cache    with a cache: the prompt, single tokens")
    print(f"positions{'  projections  scores  values' * 2}  per number read  bytes kept")
    for n in (min(run), *range(16, block_size + 1, 8)):
        counts = "".join("{:13d}{:8d}{:8d}".format(*step.counted.values()) for step in run[n])
        _, step = run[n]
        print(f"{n:9d}{counts}{step.uses:17.2f}{step.bytes:12d} {'#' * (step.bytes // 256)}")
    wrong = sum(step.counted != step.predicted for _, *pair in steps for step in pair)
    rows = [("compared_steps", len(steps), ""), ("formula_mismatches", wrong, "== 0")]
    rows += [("logit_mismatches", sum(a.logits != b.logits for _, a, b in steps), "== 0")]
    (a, b), (c, d) = run[block_size // 2], run[block_size]  # the number of positions doubles
    rows += [("uncached_attention_growth", c.counted["scores"] / a.counted["scores"], "3.8 to 4")]
    rows += [("cached_attention_growth", d.counted["scores"] / b.counted["scores"], "1.9 to 2.1")]
    rows += [("prefill_uses", run[min(run)][1].uses, "> 2"), ("decode_uses", d.uses, "1 to 1.02")]
    rates = {b.bytes / n for n, _, b in steps}  # one number alone, if the bytes are linear
    rows += [("cache_bytes_per_token", max(rates), "== 64"), ("byte_rates", len(rates), "== 1")]
    lengths, waste, peak = [len(text) - 1 for text in texts[num_steps:]], {}, {}
    print("\nblock  empty, % of taken  most taken  taken on average (# 2 in use, . 2 empty)")
    for size in page_sizes:  # 16 reserves the maximum for each text: in Kwon et al. 20 % in use
        trace = [(num_slots - size * len(free), used) for _, free, used in serve(lengths, size)]
        taken, used = map(sum, zip(*trace))
        waste[size], peak[size] = 100 - 100 * used / taken, max(trace)[0]
        bar = "".join(c * round(n / len(trace) / 2) for c, n in (("#", used), (".", taken - used)))
        print(f"{size:5d}{waste[size]:18.1f}{peak[size]:12d}  {bar}")
    rows += [("contiguous_waste", waste[16], "> 60"), ("paged_waste", waste[4], "< 40")]
    rows += [("contiguous_peak", peak[16], ""), ("paged_peak", peak[4], f"< {0.6 * peak[16]:.0f}")]
    print_results([*rows, ("runtime_seconds", time.perf_counter() - started, "< 240")])


if __name__ == "__main__":
    main()
