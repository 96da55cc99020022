"""A taste learned from pairs can steer a model by its own samples; a KL penalty keeps them various.

RLHF as in InstructGPT (Ouyang et al. 2022): pretrain a policy, learn a reward from pairs of which
one was preferred, then raise that reward by PPO (Schulman et al. 2017). A rule plays the person.
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
num_pair_names = 4000  # to make pairs and prompts of
num_prompts = 1000  # first letters of names held out: at most 26 differ, what is new is each draw
vowels, min_letters = "aeiouy", 4  # what the preference speaks of

# The rest is this script's own. The policy's updates in PPO take learning_rate and Adam from above.
reward_embd, reward_hidden = 8, 16  # numbers per letter; tanh units that read two letters
reward_epochs, reward_rate = 4, 0.1  # passes over the pairs; SGD's rate, falling to 0
num_heldout_pairs = 1000  # to judge the reward model by
ppo_steps, batch_size, report_every = 100, 4, 10  # completions a step (InstructGPT's: 512)
inner_epochs = 2  # updates on each batch: in the first, nothing can be clipped
clip_eps = 0.2  # a token's probability gains nothing by changing more than by this share
kl_coef = 0.3  # the price of a nat of KL, in standard deviations of the reward
value_rate = 0.01  # SGD's, a step for each prefix: some five to a completion

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
# None: this is the canonical code of docs/autograd-interface.md.


# === MODEL: the policy, the reward model, the value function ===
# A copy of a state_dict in plain numbers, for which no gradient is computed.
def as_floats(w):
    return {key: [floats(row) for row in m] for key, m in w.items()}


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


def kl_divergence(probs, ref_probs):
    """KL(p || q) = sum p log(p / q) in nats, summed over the positions of one completion.

    probs and ref_probs: [positions][vocab_size]. The mean of this over completions that the model
    wrote estimates KL(model || reference) of whole ones, by the chain rule of relative entropy.
    """
    total = 0.0
    for p, q in zip(probs, ref_probs, strict=True):
        total = total + dot(p, [log(x) for x in p]) - dot(p, [log(x) for x in q])
    return total


# IMPLEMENTATION NOTE: the policy is made of Values, the two models below of floats. PPO's gradient
# passes through the policy's probabilities and through nothing else: rewards and values enter it
# as numbers. Both models are small enough to differentiate by hand, and floats keep the run short.
# Production systems hold all four (policy, reference, reward, value) on GPUs, each a language model
# or as large as one, and leave every derivative to a framework.


def init_reward_model(vocab_size):
    """{name: matrix of floats}, Gaussian of std 0.3."""
    n, n_in = reward_hidden, 2 * reward_embd + 1  # reads two letters and a 1, for a bias
    shapes = {"embed": (vocab_size, reward_embd), "hidden": (n, n_in), "out": (1, n)}
    return {
        name: [[random.gauss(0, 0.3) for _ in range(columns)] for _ in range(rows)]
        for name, (rows, columns) in shapes.items()
    }


def read_neighbours(weights, a, b):
    """Tokens a, b in a row -> x [2 * reward_embd + 1] and h = tanh(hidden x) [reward_hidden]."""
    x = [*weights["embed"][a], *weights["embed"][b], 1.0]
    return x, [math.tanh(z) for z in linear(x, weights["hidden"])]


def score(weights, tokens):
    """out . h, summed over all neighbours in a name, boundaries included -> one float.

    So it can learn which neighbours are liked, and hardly anything else. Where good neighbours add
    to the sum a longer name is worth more; what a missing end costs, no pair can show.
    """
    pairs = [read_neighbours(weights, a, b) for a, b in zip(tokens, tokens[1:])]
    return math.fsum([dot(weights["out"][0], h) for _, h in pairs])


def add_score_gradient(weights, tokens, slope, grads):
    """grads += slope * d score / d weights, by the chain rule, from the sum back to the letters."""
    out, n = weights["out"][0], reward_embd
    for a, b in zip(tokens, tokens[1:]):
        x, h = read_neighbours(weights, a, b)
        d_x = [0.0] * len(x)
        for j in range(reward_hidden):
            grads["out"][0][j] += slope * h[j]  # score = ... + out[j] h[j]
            d_z = slope * out[j] * (1 - h[j] * h[j])  # h = tanh(z), tanh' = 1 - tanh^2
            for i in range(len(x)):
                grads["hidden"][j][i] += d_z * x[i]  # z[j] = sum_i hidden[j][i] x[i]
                d_x[i] += d_z * weights["hidden"][j][i]
        for i in range(n):  # x is the embedding of a, that of b, and the 1
            grads["embed"][a][i] += d_x[i]
            grads["embed"][b][i] += d_x[n + i]


def expected_reward(value_weights, prefix):
    """V(prefix): the reward to expect of a name that starts so. [block_size][vocab_size] weights.

    Linear: each token at its position adds a number; that of the boundary in front is the bias.
    """
    return math.fsum([value_weights[i][token] for i, token in enumerate(prefix)])


# === TRAINING: pretrain the policy, learn the reward, then PPO ===
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


def sgd_step(weights, grads, lr):
    """weights -= lr * grads, in place. Clears grads."""
    for name, rows in weights.items():
        for row, grad in zip(rows, grads[name]):
            for i, g in enumerate(grad):
                row[i] -= lr * g
                grad[i] = 0.0


def ranking_loss(margin):
    """-log sigmoid(margin), stable for any margin, and its derivative.

    The margin is R(chosen) - R(rejected), its sigmoid the probability that a person prefers the
    first (Bradley & Terry 1952). This is eq. 1 of InstructGPT, for one pair.
    """
    loss = max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))
    return loss, 0.5 * math.tanh(0.5 * margin) - 0.5  # sigmoid(margin) - 1: between -1 and 0


def train_reward_model(weights, pairs):
    """Train in place, one pair a step; yield the loss that each step started from."""
    grads = {name: [[0.0] * len(row) for row in rows] for name, rows in weights.items()}
    total = reward_epochs * len(pairs)
    for step in range(total):
        chosen, rejected = pairs[step % len(pairs)]
        loss, slope = ranking_loss(score(weights, chosen) - score(weights, rejected))
        add_score_gradient(weights, chosen, slope, grads)  # d margin / d R(chosen) = 1
        add_score_gradient(weights, rejected, -slope, grads)
        sgd_step(weights, grads, reward_rate * (1 - step / total))
        yield loss


def freeze_reward(weights, names):
    """The trained model as a function: tokens -> reward, of mean 0 and std 1 over the names.

    The loss saw only differences between names of one prompt, so the score's zero and scale are
    accidents. Here 0 is the mean of these names, half of them preferred, and kl_coef has a unit.
    That each prompt has its own zero remains: V can learn it.
    """
    scores = [score(weights, tokens) for tokens in names]
    center = mean(scores)
    spread = math.sqrt(mean([(s - center) ** 2 for s in scores]))
    return lambda tokens: (score(weights, tokens) - center) / spread


def roll_out(policy, reference, reward, value_weights, prompt):
    """One completion by the policy (in floats), and what PPO has to know of it, all in numbers."""
    tokens = complete(policy, prompt)
    probs, ref_probs = completion_probs(policy, tokens), completion_probs(reference, tokens)
    earned = reward(tokens)
    # A_t = R - V(prefix): what came out, less what was to be expected before token t was drawn
    # (PPO, eq. 10; the one reward is at the end and not discounted). V does not know token t, so
    # it takes off variance and leaves the gradient's mean. Many smooth over t by GAE.
    expected = [expected_reward(value_weights, tokens[:t]) for t in range(2, len(tokens))]
    return {
        "tokens": tokens,
        "reward": earned,
        "old_log_probs": [log(p[token]) for p, token in zip(probs, tokens[2:])],  # of the draw
        "ref_probs": ref_probs,
        "kl": kl_divergence(probs, ref_probs),
        "advantages": [earned - v for v in expected],
    }


def clipped_objective(ratio, advantage):
    """min(r A, clip(r, 1 - eps, 1 + eps) A) (PPO: Schulman et al. 2017, eq. 7); whether it clips.

    A > 0, the token should get likelier:       (1 + eps) A  where r > 1 + eps, else  r A
    A < 0, the token should get less likely:    (1 - eps) A  where r < 1 - eps, else  r A
    r = pi / pi_old, 1 for new samples. What has moved by eps the right way gains nothing more, so
    samples serve more than once. What has moved the wrong way keeps its gradient, to come back.
    """
    r = floats([ratio])[0]
    clipped = min(max(r, 1 - clip_eps), 1 + clip_eps) * advantage  # a float: no gradient
    return (clipped, True) if clipped < r * advantage else (ratio * advantage, False)


def episode_objective(policy, episode, kl_price):
    """What PPO raises, summed over a completion (eq. 7: a mean over tokens); tokens clipped."""
    tokens, total, num_clipped = episode["tokens"], 0.0, 0
    probs = completion_probs(policy, tokens)
    known = zip(tokens[2:], episode["old_log_probs"], episode["advantages"])
    for p, (token, old_log_prob, advantage) in zip(probs, known, strict=True):
        ratio = exp(log(p[token]) - old_log_prob)  # r = pi / pi_old (eq. 6): 1 in the first epoch
        term, is_clipped = clipped_objective(ratio, advantage)
        # No wall: Adam's momentum, shared weights and the KL's gradient may still move the token.
        total, num_clipped = total + term, num_clipped + is_clipped
    # Why a price: the reward model's view of what is unlike its names is an accident, and a policy
    # paid by it may go there (over-optimization: Gao et al. 2023). With a price c on the KL of
    # whole names, the best policy is ref * exp(R / c), scaled to sum to 1.
    # InstructGPT takes c * log(pi / ref) of the completion off its reward (eq. 2, less its
    # pretraining term). Here the price is a term of its own: at each prefix that pi_old wrote, the
    # KL over all tokens that might follow. What a token does to the KL of later ones is left out.
    return total - kl_price * kl_divergence(probs, episode["ref_probs"]), num_clipped


def batch_objective(policy, batch, kl_price):
    """Mean objective of the completions; share of their tokens that are clipped."""
    total, num_clipped, num_tokens = 0.0, 0, 0
    for episode in batch:
        objective, clipped = episode_objective(policy, episode, kl_price)
        total, num_clipped = total + objective, num_clipped + clipped
        num_tokens += len(episode["advantages"])
    return total * (1 / len(batch)), num_clipped / num_tokens


def value_step(value_weights, tokens, earned):
    """One SGD step on (R - V)^2 / 2 for each prefix of a completion, in place."""
    for t in range(2, len(tokens)):
        error = earned - expected_reward(value_weights, tokens[:t])
        for i, token in enumerate(tokens[:t]):
            value_weights[i][token] += value_rate * error  # -d loss / dV = error, dV / d weight = 1


def ppo_train(policy, reference, reward, value_weights, prompts, kl_price):
    """Train policy and values in place; after each step, yield its batch and what became of it.

    All of this is harder than DPO (Rafailov et al. 2023), which trains on the pairs themselves,
    without samples, reward model, V or clip. What it buys: the policy learns from what it writes
    now, as far as the reward model can be trusted there; and `reward` may be any function at all.
    """
    params = [p for matrix in policy.values() for row in matrix for p in row]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(ppo_steps):
        old = as_floats(policy)
        drawn = random.choices(prompts, k=batch_size)
        batch = [roll_out(old, reference, reward, value_weights, prompt) for prompt in drawn]
        objectives = []
        for epoch in range(inner_epochs):  # of `clipped`, the last epoch's is kept
            objective, clipped = batch_objective(policy, batch, kl_price)
            (-objective).backward()  # Adam goes downhill
            num_updates = step * inner_epochs + epoch + 1
            adam_step(params, m, v, num_updates, learning_rate * (1 - step / ppo_steps))
            objectives.append(objective.data)
        for episode in batch:
            value_step(value_weights, episode["tokens"], episode["reward"])
        after, _ = batch_objective(as_floats(policy), batch, kl_price)
        yield {"batch": batch, "before": objectives[0], "after": after, "clip_fraction": clipped}


# === INFERENCE: judge a model by what it writes ===
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


def ranking_accuracy(weights, pairs):
    """Share of the pairs whose chosen name has the higher score."""
    return mean([score(weights, chosen) > score(weights, rejected) for chosen, rejected in pairs])


def least_kl(rate, base_rate):
    """The least KL, in nats, of a policy with this preferred rate: that of yes and no alone."""
    return kl_divergence([[rate, 1 - rate]], [[base_rate, 1 - base_rate]])


def mean_reward(reward, names, chars):
    """Of names that judge() returned: one of block_size letters never came to its end."""
    return mean([reward(encode(name, chars)[: block_size + 1]) for name in names])


def explained_share(episodes):
    """1 - E[A^2] / Var[R] over all tokens: how much of the reward's variance V foresaw.

    1 is perfect, 0 no better than the mean. Var[R] holds the policy's progress, which V follows.
    """
    rewards = [e["reward"] for e in episodes for _ in e["advantages"]]
    squares, center = [a * a for e in episodes for a in e["advantages"]], mean(rewards)
    return 1 - mean(squares) / mean([(r - center) ** 2 for r in rewards])


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


def draw_turns(weights, chars):
    """Print the score of a letter (row), another (column) and the first again, vowels first.

    There and back, because one way says little: 1 more for each "?a" and 1 less for each "a?"
    would change no name's score. It is what "ab" once more adds to "abab".
    """
    ids = sorted(range(len(chars)), key=lambda i: (chars[i] not in vowels, i))
    rows = [[score(weights, [a, b, a]) for b in ids] for a in ids]
    rank = {x: i for i, x in enumerate(sorted({x for row in rows for x in row}))}
    print("   " + " ".join(spell(ids, chars)))
    for letter, row in zip(spell(ids, chars), rows):
        shades = [" .:-=+*#%@"[10 * rank[x] // len(rank)] * 2 for x in row]  # by tenths
        print(f"{letter}  {''.join(shades)}".rstrip())


def show_steps(step, steps, chars):
    """Print how the samples of some steps, up to this one, fared: for PPO, and by the rule."""
    episodes = [e for record in steps for e in record["batch"]]
    earned, kl = (mean([e[key] for e in episodes]) for key in ("reward", "kl"))
    rate = mean([is_preferred(e["tokens"], chars) for e in episodes])
    bar = "#" * round(40 * rate)
    print(f"{step:4d}/{ppo_steps}{earned:9.2f}{kl:7.2f}  {rate:.2f} {bar}".rstrip())


def show_ppo(title, kl_price, base, reward, prompts, chars):
    """Train a copy of the base, print how it goes; return it, in floats, and all its steps."""
    print(f"\nPPO {title}, means over {report_every * batch_size} samples:")
    print("   steps   reward     KL  preferred by the rule, +-0.08")  # standard error at 0.5
    policy = {key: [[Value(w) for w in row] for row in rows] for key, rows in base.items()}
    value_weights, steps = [[0.0] * (len(chars) + 1) for _ in range(block_size)], []
    for step in ppo_train(policy, base, reward, value_weights, prompts, kl_price):
        steps.append(step)
        if len(steps) % report_every == 0:  # PPO itself is never told what the rule says
            show_steps(len(steps), steps[-report_every:], chars)
    return as_floats(policy), steps


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


def result_rows(base, policy, free, steps):
    """(name, value, bound): three models side by side, then the steps with the penalty."""
    bounds = {
        "preferred_rate": f"> {base['preferred_rate'] + 0.1:.4f}",  # up by 0.10
        "reward": f"> {base['reward'] + 0.5:.4f}",  # by half a standard deviation
        "no_penalty_reward": f"> {policy['reward']:.4f}",
        "no_penalty_unique_share": f"< {policy['unique_share'] - 0.1:.4f}",
        "no_penalty_kl": f"> {2 * policy['kl']:.4f}",
    }
    rows = []
    for metric in policy:
        for prefix, figures in ("base_", base), ("", policy), ("no_penalty_", free):
            rows.append((prefix + metric, figures[metric], bounds.get(prefix + metric, "")))
    episodes = [e for step in steps for e in step["batch"]]
    some = report_every * batch_size
    start, end = (mean([e["kl"] for e in part]) for part in (episodes[:some], episodes[-some:]))
    # Advantages are counted from what V foresaw: an objective's level says little, its rise much.
    before, after = (mean([step[key] for step in steps]) for key in ("before", "after"))
    return rows + [
        ("kl_least", least_kl(policy["preferred_rate"], base["preferred_rate"]), ""),
        ("kl_first_10_steps", start, ""),
        ("kl_last_10_steps", end, f"> {start:.4f}"),
        ("objective_before", before, ""),
        ("objective_after", after, f"> {before:.4f}"),
        ("objective_rose", mean([step["after"] > step["before"] for step in steps]), "> 0.9"),
        ("clip_fraction", mean([step["clip_fraction"] for step in steps]), "> 0"),
        ("value_explained", explained_share(episodes), ""),
        ("generated_tokens", sum(len(e["advantages"]) for e in episodes), ""),
    ]


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    names = [name for name in dict.fromkeys(load_names()) if len(name) < block_size]
    random.shuffle(names)
    chars = sorted(set("".join(names)))  # the boundary is one more token
    base_names, others = names[:num_steps], names[num_steps:]
    pair_names, heldout = others[:num_pair_names], others[num_pair_names:]  # none of them twice
    prompts = [chars.index(name[0]) for name in heldout[:num_prompts]]  # first letters
    model = init_model(len(chars) + 1)
    print(f"The base model, on {len(base_names)} names:")
    for step, loss in enumerate(train(model, base_names, chars), 1):
        show_progress(step, num_steps, loss, started)
    base = as_floats(model)
    base_samples, base_judged = judge(base, base, prompts, chars)

    pairs = make_pairs(pair_names, chars)
    heldout_pairs = make_pairs(heldout, chars)[:num_heldout_pairs]
    weights = init_reward_model(len(chars) + 1)
    print(f"\nReward model: {len(pairs)} pairs to learn from, {len(heldout_pairs)} held out.")
    losses = list(train_reward_model(weights, pairs))
    print(f"Its loss, first 100 steps {mean(losses[:100]):.4f}, last {mean(losses[-100:]):.4f}.")
    print("How it likes a letter (row) in turn with another (column), the denser the better:")
    draw_turns(weights, chars)  # four blocks, and nobody told it what a vowel is
    reward = freeze_reward(weights, [tokens for pair in pairs for tokens in pair])

    train_prompts = [chars.index(name[0]) for name in pair_names]
    base_judged["reward"] = mean_reward(reward, base_samples, chars)
    samples, judged, runs = [base_samples], [base_judged], []
    for title, kl_price in ("with the KL penalty", kl_coef), ("without it", 0.0):
        policy, steps = show_ppo(title, kl_price, base, reward, train_prompts, chars)
        written, figures = judge(policy, base, prompts, chars)
        figures["reward"] = mean_reward(reward, written, chars)
        samples, judged, runs = [*samples, written], [*judged, figures], [*runs, steps]
    show_names(["base", "PPO", "no penalty"], *samples)
    print(f"A name of {block_size} letters was cut off before an end: no pair had such a name.")
    results = [
        ("policy_params", sum(len(row) for rows in base.values() for row in rows), ""),
        ("reward_params", sum(len(row) for rows in weights.values() for row in rows), ""),
        ("value_params", block_size * (len(chars) + 1), ""),
        ("training_pairs", len(pairs), ""),
        ("reward_accuracy", ranking_accuracy(weights, heldout_pairs), "> 0.7"),
        *result_rows(*judged, runs[0]),
        ("runtime_seconds", time.perf_counter() - started, "< 420"),
    ]
    print_results(results)


if __name__ == "__main__":
    main()
