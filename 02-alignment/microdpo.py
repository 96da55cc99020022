"""A preference can be trained as a classification: no reward model, no sampling loop.

Direct preference optimization (DPO), after Rafailov et al. (2023); equation numbers are theirs.
Model, recipe and engine: microgpt's, after Andrej Karpathy (2026), at half its width and context.
"""

import functools
import hashlib
import itertools
import math
import os
import random
import time
import urllib.request

# === CONSTANTS: the model, the recipe, the preference ===
# The same task, base model and evaluation in microdpo, microppo and microgrpo, to be compared.
n_embd, n_head, n_layer = 8, 2, 1  # numbers per token; heads that split them; layers
block_size = 8  # the longest context: a boundary and 7 letters; longer names are left out
num_steps = 1000  # one name each, for the base model
learning_rate, beta1, beta2, eps_adam = 0.01, 0.85, 0.99, 1e-8
num_pair_names = 4000  # more than dpo_steps pairs need; all names after them are held out
num_prompts = 1000  # first letters of names held out: at most 26 differ, what is new is each draw
vowels, min_letters = "aeiouy", 4  # what the preference speaks of
betas = (0.1, 0.5, 2.0)  # DPO's, no kin of Adam's. A policy each; the results report the middle one
dpo_steps, dpo_learning_rate = 300, 0.0015  # a pair a step, at a constant rate
num_probes = 300  # held-out pairs to judge by, and prompts to follow the KL along training

NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: names, a character a token, and pairs of them ===
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


def is_preferred(tokens, chars):
    """The taste to be taught: vowels and consonants take turns, in four letters or more.

    milena and rory have it, anna and leo do not; nor does what never reaches a second boundary.
    """
    name = spell(tokens, chars)
    kinds = "".join("V" if c in vowels else "C" for c in name)
    turns = "VV" not in kinds and "CC" not in kinds
    return turns and len(name) >= min_letters and tokens[-1] == len(chars)


def make_pairs(names, chars):
    """(chosen, rejected) as tokens: names with the same prompt, the first letter. None twice."""
    by_prompt = {}
    for name in names:
        tokens = encode(name, chars)
        by_prompt.setdefault(name[0], ([], []))[not is_preferred(tokens, chars)].append(tokens)
    pairs = [pair for both in by_prompt.values() for pair in zip(*both)]
    random.shuffle(pairs)
    return pairs


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
def as_floats(w): return {key: [floats(row) for row in m] for key, m in w.items()}  # a copy
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


# === MODEL: from the tokens so far to a score for every next token, to whole names ===
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


def completion_probs(model, tokens):
    """[boundary, prompt, ...] -> for each token after the prompt p(. | all before) [vocab_size]."""
    cache = {}
    probs = [softmax(gpt(model, token, i, cache)) for i, token in enumerate(tokens[:-1])]
    return probs[1:]  # what follows the boundary is the prompt: given, so not judged


def complete(model, prompt):
    """Tokens from boundary and prompt (a token id) to the next boundary, or as far as block_size.

    Drawn at temperature 1: what is drawn is what the model's probabilities say.
    """
    bos, cache = len(model["wte"]) - 1, {}
    tokens = [bos, prompt]
    gpt(model, bos, 0, cache)
    while len(tokens) <= block_size and tokens[-1] != bos:
        probs = softmax(gpt(model, tokens[-1], len(tokens) - 1, cache))
        tokens.append(random.choices(range(len(probs)), weights=probs)[0])
    return tokens


def log_prob(model, tokens):
    """log p(completion | prompt) in nats: the sum over the completion's tokens, its end included.

    Not name_loss()'s mean: a preference is between whole completions. So a long one, with more
    terms in its gradient, is pushed harder; SimPO (Meng et al. 2024) divides by the length.
    """
    total = 0.0
    for probs, token in zip(completion_probs(model, tokens), tokens[2:], strict=True):
        total = total + log(probs[token])  # log of their product
    return total


def kl_divergence(probs, ref_probs):
    """KL(p || q) = sum p log(p / q) in nats, summed over the positions of one completion.

    probs and ref_probs: [positions][vocab_size]. The mean of this over completions that the model
    wrote estimates KL(model || reference) of whole ones, by the chain rule of relative entropy.
    """
    total = 0.0
    for p, q in zip(probs, ref_probs, strict=True):
        total = total + dot(p, [log(x) for x in p]) - dot(p, [log(x) for x in q])
    return total


# === TRAINING: first a model of names, then a gap between chosen and rejected ones ===
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


# Why no reward model is needed. RLHF (microppo) fits a reward r(x, y) to the pairs, x a prompt, y a
# completion, then maximises, by sampling from a policy pi,
#     E[r(x, y)] - beta KL(pi || ref)                                                      (eq. 3)
# where beta is the price of leaving the reference. What is best is known for any r: the reference,
# each completion made likelier by its reward, all divided by their sum Z(x),
#     pi(y|x) = ref(y|x) exp(r(x, y) / beta) / Z(x)                                        (eq. 4)
# Nobody can add up Z(x), over all y. But read it backwards: any policy is the best for the reward
#     r(x, y) = beta log(pi(y|x) / ref(y|x)) + beta log Z(x)                               (eq. 5)
# and a preference depends on a difference of rewards alone (Bradley & Terry 1952),
#     p(y1 over y2 | x) = sigmoid(r(x, y1) - r(x, y2))                                     (eq. 1)
# in which Z(x) cancels, since both complete the same x. So put eq. 5 into eq. 1 and fit pi to the
# pairs: a logistic regression in which the policy is the reward model.


def minus_log_sigmoid(x):
    """-log(1 / (1 + exp(-x))) = max(-x, 0) + log(1 + exp(-|x|)): exp() never overflows.

    At x = 0, where every policy starts, max(-x, 0) and |x| have kinks, which have to cancel. |x| as
    x + 2 max(-x, 0) leaves the true slope, -1/2; as relu(x) + relu(-x), it would be 0: no training.
    """
    below = relu(-x)
    return below + log(1.0 + exp(-(x + below + below)))


def log_ratios(policy, reference, pair):
    """log(pi(y|x) / ref(y|x)) of the chosen y and of the rejected one: eq. 5 without beta and Z."""
    return [log_prob(policy, tokens) - log_prob(reference, tokens) for tokens in pair]


def dpo_loss(chosen, rejected, beta):
    """-log p(chosen over rejected) in nats, from their log ratios (eq. 7). A guess costs log 2.

    With the margin m = chosen - rejected, the gradient is -beta sigmoid(-beta m) times
    (grad log pi(chosen) - grad log pi(rejected)): one up, one down, as hard as the pair is still
    wrong. Beta sets how soon the push weakens: once m is a few times 1 / beta.
    """
    return minus_log_sigmoid(beta * (chosen - rejected))


def train_dpo(policy, reference, pairs, beta):
    """Train the policy in place, a new pair a step; yield the loss, as it was before the step.

    Only the margin counts: both log ratios may fall, if the rejected one's falls faster; Llama 3
    (Dubey et al. 2024) adds the chosen one's likelihood. The push weakens, but never stops: where a
    rule decides every pair, a free policy's optimum gives rejected ones probability 0, whatever
    beta (Azar et al. 2023). The number of steps, too, ties the policy to the reference.
    """
    params = [p for matrix in policy.values() for row in matrix for p in row]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step, pair in enumerate(pairs, 1):
        loss = dpo_loss(*log_ratios(policy, reference, pair), beta)
        loss.backward()  # into the policy alone: the reference is floats
        # Adam divides by the gradient's size: unlike with SGD, beta acts by sigmoid(-beta m) alone.
        adam_step(params, m, v, step, dpo_learning_rate)
        yield loss.data


# === INFERENCE: judge a model by what it writes, and by what it would rather write ===
def judge(model, reference, prompts, chars):
    """One completion of each prompt: the names, and what would tell a cheat, as a dict."""
    samples = [complete(model, prompt) for prompt in prompts]
    names = [spell(tokens, chars) for tokens in samples]
    kls = [
        kl_divergence(completion_probs(model, t), completion_probs(reference, t)) for t in samples
    ]
    return names, {
        "preferred_rate": mean([is_preferred(tokens, chars) for tokens in samples]),
        "mean_length": mean([len(name) for name in names]),
        "unique_share": len(set(names)) / len(names),
        "kl": mean(kls),  # nats per name that the model has moved away from the reference
    }


def judge_pairs(policy, reference, pairs):
    """How often the chosen one is ahead, and mean log ratios of chosen and rejected, as a dict.

    pair_accuracy is by the margin, 0 at the base for any pair; ranking_accuracy by the likelihood.
    """
    ratios = [log_ratios(policy, reference, pair) for pair in pairs]
    return {
        "pair_accuracy": mean([c > r for c, r in ratios]),
        "ranking_accuracy": mean([log_prob(policy, c) > log_prob(policy, r) for c, r in pairs]),
        "chosen_log_ratio": mean([c for c, _ in ratios]),
        "rejected_log_ratio": mean([r for _, r in ratios]),
    }


def least_kl(rate, base_rate):
    """The least KL, in nats, of a policy with this preferred rate: that of yes and no alone."""
    return kl_divergence([[rate, 1 - rate]], [[base_rate, 1 - base_rate]])


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


def show_figures(titles, columns):
    """Print dicts of figures side by side, a line for each figure."""
    print("\n" + " " * 22 + "".join(f"{title:>10}" for title in titles))
    for key in columns[0]:
        print(f"{key:<22}" + "".join(f"{figures[key]:10.3f}" for figures in columns))


def show_names(titles, *columns):
    """Print the first names of some lists side by side, vowels in capitals for the eye."""
    capitals = str.maketrans(vowels, vowels.upper())
    print("\n" + "".join(f"{title:<12}" for title in titles).rstrip())
    for names in list(zip(*columns))[:8]:
        print("".join(f"{name.translate(capitals):<12}" for name in names).rstrip())


def print_results(rows):
    """Print the results, one a line: name, value, and the bound that the tests hold it to."""
    print("\n=== results ===")
    for name, value, criterion in rows:
        value = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{value:<9}{criterion}".rstrip())


def result_rows(losses, kls, base, low, dpo, high):
    """Rows for print_results(): of the middle beta, with the base's figure before it if not 0."""
    bounds = {"pair_accuracy": "> 0.9", "preferred_rate": f"> {base['preferred_rate'] + 0.1:.4f}"}
    rows = [("training_pairs", len(losses), "")]
    rows.append(("dpo_loss_first", losses[0], f"== {math.log(2):.4f}"))
    rows.append(("dpo_loss_last_50", mean(losses[-50:]), "< 0.35"))
    for key, value in dpo.items():
        if base[key]:  # its margins, log ratios and KL, from itself, are 0
            rows.append((f"base_{key}", base[key], ""))
        rows.append((key, value, bounds.get(key, "")))
    rows.append(("kl_halfway", kls[len(kls) // 2 - 1], f"< {kls[-1] - 0.1:.4f}"))
    rows.append(("kl_low_beta", low["kl"], f"> {dpo['kl'] + 0.2:.4f}"))
    rows.append(("kl_high_beta", high["kl"], f"< {dpo['kl'] - 0.2:.4f}"))
    return rows


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    names = [name for name in dict.fromkeys(load_names()) if len(name) < block_size]
    random.shuffle(names)
    chars = sorted(set("".join(names)))  # the boundary is one more token
    base_names, others = names[:num_steps], names[num_steps:]
    pair_names, heldout = others[:num_pair_names], others[num_pair_names:]
    prompts = [chars.index(name[0]) for name in heldout[:num_prompts]]
    model = init_model(len(chars) + 1)
    print(f"The base model, on {len(base_names)} names:")
    for step, loss in enumerate(train(model, base_names, chars), 1):
        show_progress(step, num_steps, loss, started)
    base = as_floats(model)  # from here on frozen: the reference of every policy
    invented, figures = judge(base, base, prompts, chars)
    pairs = make_pairs(pair_names, chars)[:dpo_steps]
    heldout_pairs = make_pairs(heldout, chars)[:num_probes]
    columns, samples = [judge_pairs(base, base, heldout_pairs) | figures], [invented]
    sides = [[spell(tokens, chars) for tokens in side] for side in zip(*pairs)]
    print(f"\n{len(pairs)} pairs to train on, {len(heldout_pairs)} held out; vowels in capitals:")
    show_names(("chosen", "rejected"), *sides)
    print("".join(f"{mean([*map(len, side)]):<12.2f}" for side in sides) + "mean length of all")
    losses, kls = {beta: [] for beta in betas}, []
    for beta in betas:
        print(f"\nFrom the base model to a policy, beta {beta}:")
        began = time.perf_counter()
        model = {key: [[Value(w) for w in row] for row in rows] for key, rows in base.items()}
        for step, loss in enumerate(train_dpo(model, base, pairs, beta), 1):
            losses[beta].append(loss)
            show_progress(step, dpo_steps, loss, began)
            if beta == betas[1] and step % (dpo_steps // 4) == 0:
                kls.append(judge(as_floats(model), base, prompts[:num_probes], chars)[1]["kl"])
        policy = as_floats(model)
        invented, figures = judge(policy, base, prompts, chars)
        columns.append(judge_pairs(policy, base, heldout_pairs) | figures)
        samples.append(invented)
    for figures in columns:
        figures["kl_least"] = least_kl(figures["preferred_rate"], columns[0]["preferred_rate"])
    print(f"\nKL along the training with beta {betas[1]}, of {num_probes} completions:")
    for i, kl in enumerate(kls, 1):
        print(f"{i * dpo_steps // 4:4d} steps{kl:8.3f}  {'*' * round(30 * kl)}")
    titles = ["base", *(f"beta {beta}" for beta in betas)]
    show_figures(titles, columns)
    show_names(titles, *samples)
    rows = result_rows(losses[betas[1]], kls, *columns)
    print_results([*rows, ("runtime_seconds", time.perf_counter() - started, "< 420")])


if __name__ == "__main__":
    main()
