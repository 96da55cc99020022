"""A GPT is dot products, a softmax and the chain rule: this one learns to invent names.

After Andrej Karpathy's microgpt (2026): his model, his recipe and, on his list of names, his losses
step for step; in our own words. One thing differs in training: dot() makes a sum of products one
node, not one for each multiply and add. GPT-2 has LayerNorm for RMSNorm, GELU for ReLU, and biases.
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
n_embd, n_head, n_layer = 16, 4, 1  # numbers per token; heads that split them; layers
block_size = 16  # the longest context: a boundary and 15 letters, as long as names get
num_steps = 1000  # one name each; GPT-2 saw half a million tokens a step
learning_rate, beta1, beta2, eps_adam = 0.01, 0.85, 0.99, 1e-8
num_heldout = 500  # names to judge the model by, none of them trained on
num_samples, temperature = 300, 0.5

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


# === INFERENCE: sample names, and judge them ===
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


def draw_attention(name, maps):
    """Print how much each character (a row) looks at each one so far (a column), head by head."""
    shades = ["".join(" .:-=+*#%@"[int(9.99 * w)] * 2 for w in weights) for weights in maps]
    for i, character in enumerate(f".{name}"):  # the denser a mark, the more weight
        heads = [shade.ljust(2 * len(name) + 3) for shade in shades[i * n_head :][:n_head]]
        print(character, " ".join(heads).rstrip())


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
    letters = "".join(names)
    chars = sorted(set(letters))  # the boundary is one more token
    trained = set(names[:num_steps])  # a set, as some stand in the list twice
    heldout = [name for name in dict.fromkeys(names) if name not in trained][:num_heldout]
    model = init_model(len(chars) + 1)
    num_params = sum(len(matrix) * len(matrix[0]) for matrix in model.values())
    print(f"{num_steps} names to train on, {len(heldout)} held out; {num_params} parameters.")
    losses = []
    for loss in train(model, names, chars):
        losses.append(loss)
        show_progress(len(losses), num_steps, loss, started)
    print(f"\nLoss over the steps (a blind guess costs {math.log(len(chars) + 1):.2f}):")
    draw_curve(losses)
    model = {key: [floats(row) for row in rows] for key, rows in model.items()}  # no graph now
    heldout_losses = [name_loss(model, encode(name, chars), {}) for name in heldout]
    cache = {}
    name_loss(model, encode(heldout[0], chars), cache)  # once more, for its attention
    print(f"\nWhere each character of {heldout[0]} looks, in {n_head} heads:")
    draw_attention(heldout[0], cache[0][2])

    samples = [sample(model, chars) for _ in range(num_samples)]
    print(f"\n{num_samples} samples at temperature {temperature}:\n{' '.join(samples[:14])} ...")
    scrambled = ["".join(random.choices(letters, k=len(name))) for name in heldout]
    real = set(names)
    counts = collections.Counter(t for name in real for t in trigrams(name))
    known = {t for t, count in counts.items() if count >= 5}  # not an accident of a few names
    rows = [
        ("params", num_params, ""),
        ("final_loss", losses[-1], "< 2.7"),  # one name: luck. The next two count
        ("mean_loss_last_100", mean(losses[-100:]), "< 2.5"),
        ("heldout_loss", mean(heldout_losses), "< 2.45"),  # a mean over names, long or short
        ("pronounceable_rate", mean([is_pronounceable(name, known) for name in samples]), ">= 0.8"),
        ("random_pronounceable_rate", mean([is_pronounceable(n, known) for n in scrambled]), ""),
        ("real_pronounceable_rate", mean([is_pronounceable(name, known) for name in heldout]), ""),
        ("novel_rate", 1 - mean([name in real for name in samples]), ""),
        ("runtime_seconds", time.perf_counter() - started, "< 420"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
