"""One model says different things, depending on how one asks it for the next token.

Top-p sampling after Holtzman et al. (2020), speculative decoding after Leviathan et al. (2023) and
Chen et al. (2023). Models, recipe and engine are microgpt's, after Andrej Karpathy (2026).
"""

import functools
import hashlib
import itertools
import math
import os
import random
import time
import urllib.request

# === CONSTANTS: two models, the recipe, the ways to ask ===
target_embd, draft_embd = 16, 8  # numbers per token: the model that is asked, and its fast helper
head_dim, block_size = 4, 16  # numbers per attention head; the longest context
num_steps = 1000  # one name each, the same ones for both models
learning_rate, beta1, beta2, eps_adam = 0.01, 0.85, 0.99, 1e-8
num_heldout, num_prompts = 200, 100  # names to judge the models by; beginnings to complete
num_draws = 3  # completions of each prompt, where there is chance in them
temperature, kept_tokens, kept_mass = 0.5, 5, 0.8  # T; the k of top-k; the p of top-p
beam_widths, beam_width = (2, 4, 8), 8  # prefixes to keep: to compare; in the results
draft_lens, draft_len = (1, 2, 4), 2  # most tokens to draft for a call: to compare; in the results
num_trials = 20000  # draws of one token, to tell two distributions apart

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


def spell(tokens, chars):
    """The letters of tokens, without boundaries."""
    return "".join(chars[i] for i in tokens if i < len(chars))


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
# None: this is the canonical code of docs/autograd-interface.md. Only training needs it.


# === MODEL: a GPT of any width, and a cache that can be taken back ===
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


def transformer(model, token_id, pos_id, cache):
    """Logits [vocab_size] for what follows `token_id` at position `pos_id`: microgpt's gpt().

    Two things differ: the width is that of the model's own vectors, with heads of head_dim numbers,
    and the loop over its one layer is gone. `cache`: {} or keys and values of earlier positions.
    """
    x = rmsnorm([t + p for t, p in zip(model["wte"][token_id], model["wpe"][pos_id])])
    h = rmsnorm(x)  # into attention
    q = linear(h, model["attn_wq"])
    cache.setdefault("keys", []).append(linear(h, model["attn_wk"]))
    cache.setdefault("values", []).append(linear(h, model["attn_wv"]))
    heads = []
    for start in range(0, len(x), head_dim):
        part = slice(start, start + head_dim)  # this head's share of the numbers
        keys, values = ([row[part] for row in cache[kind]] for kind in ("keys", "values"))
        heads += attend(q[part], keys, values)[0]  # [len(x)] when all heads are in
    x = [a + b for a, b in zip(x, linear(heads, model["attn_wo"]))]
    h = [relu(hi) for hi in linear(rmsnorm(x), model["mlp_fc1"])]
    x = [a + b for a, b in zip(x, linear(h, model["mlp_fc2"]))]
    return linear(x, model["lm_head"])


def init_model(vocab_size, n):
    """Matrices of Values for a model of n numbers per token: Gaussian, in microgpt's order."""
    shapes = {"wte": (vocab_size, n), "wpe": (block_size, n), "lm_head": (vocab_size, n)}
    shapes |= {f"attn_{w}": (n, n) for w in ("wq", "wk", "wv", "wo")}
    shapes |= {"mlp_fc1": (4 * n, n), "mlp_fc2": (n, 4 * n)}
    return {
        name: [[Value(random.gauss(0, 0.08)) for _ in range(columns)] for _ in range(rows)]
        for name, (rows, columns) in shapes.items()
    }


def read(model, tokens, cache):
    """One call of a model: logits [n][vocab_size] after each of the n tokens new to its cache.

    Here the n positions take n times as long. On a GPU they are one matrix product: reading the
    weights from memory takes most of the time, and they are read once. So a call over a few known
    tokens costs about as much as over one, and calls are what the printed table counts.
    """
    seen = len(cache["keys"]) if cache else 0
    return [transformer(model, token, i, cache) for i, token in enumerate(tokens[seen:], seen)]


def rewind(cache, length):
    """Forget everything from position `length` on, as if it had never been read."""
    for rows in cache.values():
        del rows[length:]


# === TRAINING: both models on the same names, for the same number of steps ===
def log_prob(model, tokens, given):
    """log p(tokens | the first `given` of them) in nats: the sum over the others."""
    total = 0.0
    for logits, token in zip(read(model, tokens[:-1], {})[given - 1 :], tokens[given:]):
        total = total + log(softmax(logits)[token])  # chain rule: log of the product of all p
    return total


def cross_entropy(model, tokens):
    """Mean of -log p(next token), in nats; tokens beyond the context are left out."""
    tokens = tokens[: block_size + 1]
    return log_prob(model, tokens, 1) * (-1 / (len(tokens) - 1))


def adam_step(params, m, v, step, lr):
    """One update of params, in place (Kingma & Ba 2015, algorithm 1; step >= 1). Clears grads."""
    correct1, correct2 = 1 / (1 - beta1**step), 1 / (1 - beta2**step)  # undoes that m, v start at 0
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad  # which way, on average
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad  # how steep, on average
        p.data -= lr * m[i] * correct1 / (math.sqrt(v[i] * correct2) + eps_adam)
        p.grad = 0.0


def train(model, names, chars):
    """Train in place, one name a step; after each step, yield the loss that it started from."""
    params = [p for matrix in model.values() for row in matrix for p in row]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(num_steps):
        loss = cross_entropy(model, encode(names[step % len(names)], chars))
        loss.backward()
        adam_step(params, m, v, step + 1, learning_rate * (1 - step / num_steps))
        yield loss.data


# === INFERENCE: the same logits, asked in different ways ===
# First, ways beside softmax to make logits [vocab_size] a distribution of the next token.


def ranking(probs):
    """Token ids, the most probable first; of equals, the smaller id."""
    return sorted(range(len(probs)), key=lambda i: -probs[i])


def keep(probs, kept):
    """probs with all tokens outside `kept` set to 0, rescaled to sum to 1."""
    total = math.fsum(probs[i] for i in kept)
    return [p / total if i in kept else 0.0 for i, p in enumerate(probs)]


def greedy(logits):
    """All on the most probable token. Each step is the best one, the sequence need not be."""
    return keep(softmax(logits), ranking(logits)[:1])


def tempered(logits, t):
    """softmax(logits / t), that is p^(1/t) renormalised: 1 changes nothing, towards 0 is greedy."""
    return softmax([x / t for x in logits])


def top_k(logits, k):
    """The k most probable tokens (Fan et al. 2018): unlikely ones are many, and one spoils a name.

    But k is fixed: too many where the model is sure, too few where it is not.
    """
    probs = softmax(logits)
    return keep(probs, ranking(probs)[:k])


def top_p(logits, p):
    """The nucleus (Holtzman et al. 2020): most probable first, only as many as together have p."""
    probs = softmax(logits)
    kept, mass = [], 0.0
    for i in ranking(probs):
        kept.append(i)
        mass += probs[i]
        if mass >= p:
            break
    return keep(probs, kept)


def draw(weights):
    """A token id, with a probability in proportion to its weight."""
    return random.choices(range(len(weights)), weights=weights)[0]


def is_finished(tokens):
    """The second boundary is the end; so is the end of the context."""
    return tokens[0] in tokens[1:] or len(tokens) > block_size


# All strategies below take a prompt, tokens that start with a boundary. They return it completed,
# and for each call of the target the tokens drafted for that call and how many of them it accepted.
def decode(model, prompt, to_probs):
    """One token a call, drawn from to_probs(logits): softmax or one of the others above."""
    tokens, cache, calls = [*prompt], {}, []
    while not is_finished(tokens):
        logits = read(model, tokens, cache)[-1]  # after the newest token
        tokens.append(draw(to_probs(logits)))
        calls.append(([], 0))  # nobody drafts here
    return tokens, calls


def beam_search(model, prompt, width):
    """Of all that grows out of the `width` best prefixes, keep the `width` best, and so on.

    Best is the largest log-probability. Width 1 is greedy; with no bound on it the search finds the
    best of all. In between, the prefix of the best sequence, or of greedy's, may drop out.
    """
    beam, calls = [(0.0, [*prompt], {})], []  # (log-probability, tokens, cache), the best first
    # To grow only lowers a log-probability: once the first one is finished, none can overtake it.
    while not is_finished(beam[0][1]):
        candidates = []
        for score, tokens, cache in beam:
            if is_finished(tokens):
                candidates.append((score, tokens, cache))  # to compete as it is
                continue
            probs = softmax(read(model, tokens, cache)[-1])
            candidates += [(score + log(p), [*tokens, i], cache) for i, p in enumerate(probs)]
        candidates.sort(key=lambda candidate: -candidate[0])
        # Children of one prefix share its past but not their future: each gets a copy of the cache.
        # Production systems share the pages of the past and copy a page when it is written to.
        beam = [
            (score, tokens, {kind: [*rows] for kind, rows in cache.items()})
            for score, tokens, cache in candidates[:width]
        ]
        # All prefixes would go through the model as a batch: one call. The search may go on after
        # its winner is complete, so there are more calls than tokens.
        calls.append(([], 0))
    # Each token has its price, so short sequences win. Translation divides the score by
    # ((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14).
    return beam[0][1], calls


# Speculative decoding: a small model drafts some tokens; the large one reads them all in one call
# and keeps them as far as it would have said so itself. What comes out has exactly the distribution
# p of the large model, whatever the q of the small one:
#     1. Draw x from q. Accept it with probability min(1, p(x) / q(x)).
#     2. If it was rejected, draw from the residual max(0, p - q), renormalised, instead.
# Step 1 yields x with probability q(x) min(1, p(x) / q(x)) = min(q(x), p(x)). Missing from p(x) is
# then max(0, p(x) - q(x)). Step 2 draws in proportion to that, and just often enough: the share
# rejected, 1 - sum min(q, p), is the sum of all that is missing (Leviathan et al. 2023, A.1).
# Greedy is a case of it. p and q are each all on one token, so x is accepted if both have the same
# argmax; if not, the residual is all on the target's.


def propose(draft, tokens, cache, to_probs, k):
    """Up to k tokens [n] to follow `tokens`, and the distributions q [n][V] they were drawn from.

    Fewer if one is a boundary, or if the context would leave the target no room for its own.
    """
    drafted, q, boundary = [], [], tokens[0]
    while len(drafted) < min(k, block_size - len(tokens)) and boundary not in drafted:
        q.append(to_probs(read(draft, tokens + drafted, cache)[-1]))  # a call for each: it is small
        drafted.append(draw(q[-1]))
    return drafted, q


def verify(drafted, q, p):
    """How many of the drafted tokens [n] to accept, and the target's own token to follow those.

    q [n][V]: what they were drawn from; p [n+1][V]: the target's, in the same places and after.
    """
    for i, x in enumerate(drafted):
        if random.random() * q[i][x] >= p[i][x]:  # true with probability 1 - min(1, p(x) / q(x))
            return i, draw([max(0.0, a - b) for a, b in zip(p[i], q[i])])
    return len(drafted), draw(p[-1])  # all of them: the call has one more token to give


def speculate(target, draft, prompt, to_probs, k):
    """What decode(target, prompt, to_probs) does, in fewer calls of the target.

    If each draft is accepted independently with probability a, a call yields 1 + a + ... + a^k
    tokens (eq. 1 of Leviathan et al.). Names yield fewer: they end, and a draft stops at the end.
    """
    tokens, target_cache, draft_cache, calls = [*prompt], {}, {}, []
    while not is_finished(tokens):
        drafted, q = propose(draft, tokens, draft_cache, to_probs, k)
        logits = read(target, tokens + drafted, target_cache)[-len(drafted) - 1 :]  # not the prompt
        accepted, own = verify(drafted, q, [to_probs(row) for row in logits])
        tokens += drafted[:accepted]
        if not is_finished(tokens):  # after an accepted boundary there is nothing to add
            tokens.append(own)
        for cache in (target_cache, draft_cache):
            rewind(cache, len(tokens) - 1)  # rejected tokens were read; the newest one was not
        calls.append((drafted, accepted))
    return tokens, calls


def ways_to_ask(target, draft):
    """By title: functions from logits to a distribution; strategies, each with: is there chance?"""
    partial = functools.partial
    ways = {
        "greedy": greedy,
        "plain": softmax,  # what the model believes
        f"temperature {temperature}": partial(tempered, t=temperature),
        f"top-k {kept_tokens}": partial(top_k, k=kept_tokens),
        f"top-p {kept_mass}": partial(top_p, p=kept_mass),
    }
    strategies = {t: (partial(decode, target, to_probs=w), w != greedy) for t, w in ways.items()}
    for width in beam_widths:
        strategies[f"beam {width}"] = partial(beam_search, target, width=width), False
    drafting = partial(speculate, target, draft)
    for k in draft_lens:
        strategies[f"greedy, draft {k}"] = partial(drafting, to_probs=greedy, k=k), False
    # Any way will do, and for the draft even another: that costs acceptance, not exactness.
    strategies[f"plain, draft {draft_len}"] = partial(drafting, to_probs=softmax, k=draft_len), True
    return ways, strategies


def distance(p, q):
    """Total variation of two distributions: 1 - sum min(p, q), the share rejected."""
    return 0.5 * math.fsum(abs(a - b) for a, b in zip(p, q))


def redrawn_from_p(p, q):
    """The tempting mistake, p for the residual: tokens with q < (1 - distance) p stay too rare."""
    return [min(a, b) + distance(p, q) * a for a, b in zip(p, q)]


def try_out(p, q, n):
    """Shares [V] of n tokens drawn from p with a draft from q, and of n drawn from p directly."""
    by_rejection = []
    for _ in range(n):
        x = draw(q)
        accepted, own = verify([x], [q], [p, p])  # the second p, for a further token, is not used
        by_rejection.append(x if accepted else own)
    directly = [draw(p) for _ in range(n)]
    return [[tokens.count(i) / n for i in range(len(p))] for tokens in (by_rejection, directly)]


def is_valid(tokens, prompt, vocab_size):
    """They are tokens, go on from the prompt, and end where a sequence has to, no sooner."""
    fits = tokens[: len(prompt)] == prompt and set(tokens) <= set(range(vocab_size))
    return fits and is_finished(tokens) and not is_finished(tokens[:-1])


def evaluate(target, strategy, prompts):
    """Complete each of the prompts; what came of it, as a dict. The judge is always the target."""
    outputs, calls = zip(*[strategy(prompt) for prompt in prompts])
    all_calls = list(itertools.chain(*calls))
    proposed = sum(len(drafted) for drafted, _ in all_calls)
    return {
        "outputs": outputs,
        "calls": calls,
        "invalid": sum(not is_valid(t, p, len(target["wte"])) for t, p in zip(outputs, prompts)),
        "log_probs": [log_prob(target, t, len(p)) for t, p in zip(outputs, prompts)],
        "unique": len(set(map(tuple, outputs))) / len(set(map(tuple, prompts))),  # for each prompt
        "acceptance": sum(accepted for _, accepted in all_calls) / max(1, proposed),
        "tokens_per_call": (sum(map(len, outputs)) - sum(map(len, prompts))) / len(all_calls),
        "drafts_per_call": proposed / len(all_calls),  # each is a call of the draft
    }


# === OUTPUT: progress, tables, drawings, results ===
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


def show_ways(ways, logits, chars):
    """Print the distributions that the next token would be drawn from, in percent."""
    letters, columns, rest = [*chars, "."], ranking(logits)[:12], ranking(logits)[12:]
    print(f"{'':16}" + "".join(f"{letters[i]:>4}" for i in columns) + "  others")
    for title, way in ways.items():
        percent = [100 * p for p in way(logits)]
        cells = "".join(f"{percent[i]:4.0f}" if percent[i] else "   -" for i in columns)
        print(f"{title:<16}{cells}{math.fsum(percent[i] for i in rest):8.0f}")


def show_strategies(found, real, chars, draft_cost):
    """Print a line for each strategy, with its outputs for the first three prompts."""
    print("\nlog-prob: of a completion, nats; below: share below greedy's; real: share in the list")
    print(f"unique: outputs a prompt; gain: tokens/call if a draft costs {draft_cost:.2f} calls")
    print("strategy         log-prob  below  unique  real  tokens/call  accepted  gain  output")
    greedily = found["greedy"]["log_probs"]
    for title, result in found.items():
        names = [spell(tokens, chars) for tokens in result["outputs"]]
        scores, known = result["log_probs"], mean([name in real for name in names])
        below = mean([a < b for a, b in zip(scores, itertools.cycle(greedily))])
        tokens, drafts = result["tokens_per_call"], result["drafts_per_call"]
        accepted = f"{result['acceptance']:.2f}" if drafts else "-"
        numbers = (
            f"{mean(scores):9.2f}{below:7.2f}{result['unique']:8.2f}{known:6.2f}{tokens:13.2f}"
        )
        gain = tokens / (1 + draft_cost * drafts)
        print(f"{title:<16}{numbers}{accepted:>10}{gain:6.2f}  {' '.join(names[:3])}")


def draw_cost(title, model, tokens, given, chars):
    """Print a sequence, its log-probability, and a bar in which each token fills what it costs."""
    costs = [-log_prob(model, tokens[: end + 1], end) for end in range(given, len(tokens))]
    letters = [[*chars, "."][i] for i in tokens[given:]]
    bar = "".join(letter * round(10 * cost) for letter, cost in zip(letters, costs))
    print(f"{title:<8}{spell(tokens, chars):<10}{-math.fsum(costs):6.2f}  {bar}")


def draw_calls(prompt, tokens, calls, chars):
    """Print a sequence call by call: accepted drafts, (rejected ones), the target's IN CAPITALS."""
    letters, end, parts = [*chars, "."], len(prompt), [spell(prompt, chars)]
    for drafted, accepted in calls:
        drafts = "".join(letters[i] for i in drafted)
        rejected = f"({drafts[accepted:]})" if drafts[accepted:] else ""
        end += accepted + 1  # beyond the last token, if that is an accepted boundary
        own = "".join(letters[i] for i in tokens[end - 1 : end]).upper()
        parts.append(drafts[:accepted] + rejected + own)
    print("  " + " | ".join(parts))


def draw_distributions(columns, chars):
    """Print distributions [V] side by side, for the tokens that are likeliest in the first."""
    print("\n   " + "".join(f"{title:<19}" for title in columns).rstrip())
    for i in ranking(next(iter(columns.values())))[:8]:
        bars = [f"{p[i]:.3f} {'*' * round(25 * p[i])}" for p in columns.values()]
        print(f"{(chars + ['.'])[i]}  " + "".join(f"{bar:<19}" for bar in bars).rstrip())


def print_results(rows):
    """Print the results, one a line: name, value, and the bound that the tests hold it to."""
    print("\n=== results ===")
    for name, value, criterion in rows:
        value = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{value:<9}{criterion}".rstrip())


def result_rows(found, p, q, by_rejection, directly):
    """Rows for print_results(): of the strategies, then of the draws of one token."""
    greedily, beam = found["greedy"], found[f"beam {beam_width}"]
    speculated, sampled = (found[f"{way}, draft {draft_len}"] for way in ("greedy", "plain"))
    beam_bound = f"> {mean(greedily['log_probs']) + 0.1:.4f}"
    losses = sum(a < b for a, b in zip(beam["log_probs"], greedily["log_probs"]))
    changes = sum(a != b for a, b in zip(speculated["outputs"], greedily["outputs"]))
    return [
        ("invalid_outputs", sum(result["invalid"] for result in found.values()), "== 0"),
        ("greedy_log_prob", mean(greedily["log_probs"]), ""),
        ("beam_log_prob", mean(beam["log_probs"]), beam_bound),
        ("beam_losses", losses, ""),
        # For each prompt, of num_draws; greedy would say the same thing every time: 1.
        ("top_k_unique", found[f"top-k {kept_tokens}"]["unique"], "> 2"),
        ("top_p_unique", found[f"top-p {kept_mass}"]["unique"], "> 2"),
        ("speculative_changes", changes, "== 0"),
        ("acceptance_rate", speculated["acceptance"], "> 0.5"),
        ("tokens_per_target_call", speculated["tokens_per_call"], "> 1.5"),
        ("sampling_acceptance_rate", sampled["acceptance"], ""),
        ("sampling_tokens_per_call", sampled["tokens_per_call"], "> 1.5"),
        # The first two are exact, the others of draws: direct_distance is their noise.
        ("draft_distance", distance(p, q), "> 0.05"),
        ("naive_distance", distance(p, redrawn_from_p(p, q)), ""),
        ("direct_distance", distance(p, directly), ""),
        ("rejection_distance", distance(p, by_rejection), "< 0.03"),
    ]


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    names = load_names()
    random.shuffle(names)
    chars = sorted(set("".join(names)))  # the boundary is one more token
    trained = set(names[:num_steps])  # a set, as some stand in the list twice
    heldout = [name for name in dict.fromkeys(names) if name not in trained]
    models, rows = [], []
    for title, n_embd in (("target", target_embd), ("draft", draft_embd)):
        model = init_model(len(chars) + 1, n_embd)
        num_params = sum(len(matrix) * len(matrix[0]) for matrix in model.values())
        print(f"The {title}, {num_params} parameters, on {num_steps} names:")
        began = time.perf_counter()
        for step, loss in enumerate(train(model, names, chars), 1):
            show_progress(step, num_steps, loss, began)
        model = {key: [floats(row) for row in matrix] for key, matrix in model.items()}
        losses = [cross_entropy(model, encode(name, chars)) for name in heldout[:num_heldout]]
        rows += [(f"{title}_params", num_params, ""), (f"{title}_heldout_loss", mean(losses), "")]
        models.append(model)
    target, draft = models

    prompts = [encode(start, chars)[:-1] for start in dict.fromkeys(name[:2] for name in heldout)]
    prompts = prompts[:num_prompts]  # each of them once
    ways, strategies = ways_to_ask(target, draft)
    print(f"\nAfter '{spell(prompts[0], chars)}', in percent (. ends a name, - is exactly 0):")
    show_ways(ways, read(target, prompts[0], {})[-1], chars)
    found = {}
    for title, (strategy, is_random) in strategies.items():
        found[title] = evaluate(target, strategy, prompts * (num_draws if is_random else 1))
    size = {name: value for name, value, _ in rows}  # a draft's cost by that: weights to be read
    show_strategies(found, set(names), chars, size["draft_params"] / size["target_params"])

    both = {title: found[title] for title in ("greedy", f"beam {beam_width}")}
    gains = [b - a for a, b in zip(*(result["log_probs"] for result in both.values()))]
    i = gains.index(max(gains))
    print(f"\nThe largest gain of beam {beam_width}; a letter stands for 0.1 nats of its own cost:")
    for title, result in both.items():
        draw_cost(title, target, result["outputs"][i], len(prompts[i]), chars)
    print(f"\nUp to {draft_len} drafts a call: accepted, (rejected), the target's OWN; . ends it:")
    speculated = found[f"greedy, draft {draft_len}"]
    for i, prompt in enumerate(prompts[:6]):
        draw_calls(prompt, speculated["outputs"][i], speculated["calls"][i], chars)

    pairs = [[softmax(read(model, t, {})[-1]) for model in (target, draft)] for t in prompts]
    i, (p, q) = max(enumerate(pairs), key=lambda pair: distance(*pair[1]))  # most are rejected
    by_rejection, directly = try_out(p, q, num_trials)
    print(f"\nAfter '{spell(prompts[i], chars)}', where they differ most: {num_trials} draws")
    columns = {"target": p, "draft": q, "by rejection": by_rejection, "directly": directly}
    draw_distributions(columns | {"p for residual": redrawn_from_p(p, q)}, chars)
    rows += result_rows(found, p, q, by_rejection, directly)
    print_results([*rows, ("runtime_seconds", time.perf_counter() - started, "< 420")])


if __name__ == "__main__":
    main()
