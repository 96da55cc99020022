"""Compare an answer with its siblings, and the value function is not needed.

After Shao et al. (2024, DeepSeekMath), without the two divisions that "Dr. GRPO" (Liu et al. 2025)
takes out. The reward is computed by a rule, not by a learned model, as in DeepSeek-R1 (2025).
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
num_pair_names = 4000  # a pool: training takes its prompts, first letters, from here
num_prompts = 1000  # first letters of names held out: at most 26 differ, what is new is each draw
vowels, min_letters = "aeiouy", 4  # what the preference speaks of
group_size, step_prompts, grpo_steps, inner_epochs = 8, 4, 40, 2  # DeepSeekMath: groups of 64
clip_eps, kl_coef = 0.2, 0.1  # of a probability ratio; loss per nat away from the base
num_probes = 30  # prompts to measure the gradient's variance by, a group of answers each

NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: names, a character a token, and a rule that judges them ===
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


def kl_divergence(probs, ref_probs):
    """KL(p || q) = sum p log(p / q) in nats, summed over the positions of one completion.

    probs and ref_probs: [positions][vocab_size]. The mean of this over completions that the model
    wrote estimates KL(model || reference) of whole ones, by the chain rule of relative entropy.
    """
    total = 0.0
    for p, q in zip(probs, ref_probs, strict=True):
        total = total + dot(p, [log(x) for x in p]) - dot(p, [log(x) for x in q])
    return total


def token_probs(model, tokens):
    """Of each token after the prompt, the probability that the model gave it."""
    return [p[i] for p, i in zip(completion_probs(model, tokens), tokens[2:], strict=True)]


# === TRAINING: first a model of names, then one that writes what the rule prefers ===
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


def advantages(rewards):
    """A_i = r_i - mean(r): how much better an answer is than its siblings.

    Subtracting a baseline b that does not depend on the answer leaves the expected gradient as it
    is, since E[b grad log pi] = b grad (sum of pi) = 0, and usually lowers its variance. PPO trains
    a value function for b. That r_i is in its own mean only scales: A_i = (1 - 1/G) (r_i - mean of
    the rest). DeepSeekMath also divides by the standard deviation of r: lopsided groups weigh more.
    """
    baseline = mean(rewards)
    return [r - baseline for r in rewards]


def sample_group(policy, reference, prompt, chars):
    """A prompt's group_size rewards, and answers: [(tokens, advantage, old_probs, ref_probs)]."""
    group = [complete(policy, prompt) for _ in range(group_size)]
    rewards = [float(is_preferred(tokens, chars)) for tokens in group]  # asks the rule, no model
    old_probs, ref_probs = ([token_probs(m, t) for t in group] for m in (policy, reference))
    return rewards, list(zip(group, advantages(rewards), old_probs, ref_probs))


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


def kl_estimate(prob, ref_prob):
    """u - log u - 1, u = ref / pi, of a token that pi drew (Shao et al. 2024, eq. 4).

    Its mean over pi's tokens is KL(pi || ref), since E[u] = 1. -log u alone may be negative; this
    cannot, as log u <= u - 1 (Schulman 2020). A catch: with the tokens given, its gradient is
    (1 - u) grad log pi. If pi drew them (epoch 1), its mean is, per context, that of KL(ref || pi).
    """
    return (ref_prob / prob - 1.0) - (log(ref_prob) - log(prob))


def answer_loss(policy, tokens, advantage, old_probs, ref_probs):
    """Loss of one answer, and how many of its tokens are clipped."""
    loss, clipped = 0.0, 0
    for prob, old, ref in zip(token_probs(policy, tokens), old_probs, ref_probs, strict=True):
        objective, is_clipped = clipped_objective(prob / old, advantage)  # one A for all tokens
        clipped += is_clipped
        loss = loss + kl_coef * kl_estimate(prob, ref) - objective  # InstructGPT: KL in the reward
    # DeepSeekMath has means over the tokens: the longer a wrong answer, the less each is punished.
    return loss, clipped


def train_policy(policy, reference, prompts, chars):
    """GRPO in place (Shao et al. 2024, algorithm 1, with one reference throughout).

    Yields a dict per step. No loss: it would not fall, as advantages add up to 0 in every group.
    """
    params = [p for matrix in policy.values() for row in matrix for p in row]
    m, v = [0.0] * len(params), [0.0] * len(params)
    for step in range(grpo_steps):
        old = {key: [floats(row) for row in rows] for key, rows in policy.items()}
        groups = [sample_group(old, reference, next(prompts), chars) for _ in range(step_prompts)]
        answers = [answer for _, group in groups for answer in group]
        for update in range(step * inner_epochs, (step + 1) * inner_epochs):
            clipped = 0  # none in the first epoch, where ratios are 1; few once updates get small
            for answer in answers:
                loss, count = answer_loss(policy, *answer)
                (loss * (1 / len(answers))).backward()  # the grads of all answers add up
                clipped += count
            adam_step(params, m, v, update + 1, learning_rate * (1 - step / grpo_steps))
        kls = [math.fsum(map(kl_estimate, probs, ref)) for _, _, probs, ref in answers]
        record = {"rewards": [r for r, _ in groups], "kl": mean(kls), "clipped": clipped}
        yield record | {"tokens": sum(len(tokens) - 2 for tokens, *_ in answers)}


# === INFERENCE: judge a model by what it writes, and its gradient by how much it scatters ===
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


def score(model, tokens):
    """d log pi(answer) / d(weight), for every weight: times the advantage, a policy gradient."""
    leaves = {key: [[Value(x) for x in row] for row in rows] for key, rows in model.items()}
    log_probs = [log(prob) for prob in token_probs(leaves, tokens)]
    dot(log_probs, [1.0] * len(log_probs)).backward()
    return [leaf.grad for rows in leaves.values() for row in rows for leaf in row]


def gradient_variance(advs, scores):
    """Of the vectors A * score, as if independent: the trace of their covariance."""
    center = [dot(advs, column) / len(advs) for column in zip(*scores)]
    squares = [a * a * dot(s, s) for a, s in zip(advs, scores)]
    return (mean(squares) - dot(center, center)) * len(advs) / (len(advs) - 1)


def compare_baselines(model, prompts, chars):
    """Gradient variance by what is taken off a reward: nothing, the batch's mean, the group's.

    Of rewards 0 and 1 with a share p of ones, r^2 averages p, (r - b)^2 about p (1 - p): the more
    answers are right, the more a baseline saves. If prompts were equally hard, the noise of a mean
    of 7 siblings would cost about 1/7 more than the batch's. It does (group_to_batch_after): here
    the first letter tells little. Groups pay if prompts differ in difficulty, or come one by one.
    """
    groups = [sample_group(model, model, prompt, chars) for prompt in prompts]
    rewards = [r for group_rewards, _ in groups for r in group_rewards]
    scores = [score(model, tokens) for _, group in groups for tokens, *_ in group]
    siblings = [a / (1 - 1 / group_size) for r, _ in groups for a in advantages(r)]  # unshrunk
    kinds = {"none": rewards, "batch": advantages(rewards), "group": siblings}  # 1 - 1/240 stays
    return {kind: gradient_variance(advs, scores) for kind, advs in kinds.items()}


def summary(groups):
    """Of groups of 0/1 rewards: mean, variance, share of silent ones: only the KL acts there."""
    means = [mean(rewards) for rewards in groups]
    return mean(means), mean([m * (1 - m) for m in means]), mean([m in (0, 1) for m in means])


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


def draw_step(step, record):
    """Print a step's figures, and a bar for its reward."""
    reward, _, silent = summary(record["rewards"])
    line = f"{step:9}{silent:15.2f}{record['clipped'] / record['tokens']:16.3f}{record['kl']:11.2f}"
    print(f"{line}{reward:13.2f} {'#' * round(40 * reward)}".rstrip())


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
    names = [name for name in dict.fromkeys(load_names()) if len(name) < block_size]
    random.shuffle(names)
    chars = sorted(set("".join(names)))  # the boundary is one more token
    firsts = [chars.index(name[0]) for name in names[num_steps:]]  # a prompt each
    own_prompts, prompts = firsts[:num_pair_names], firsts[num_pair_names:][:num_prompts]
    model = init_model(len(chars) + 1)
    print(f"The base model, on {num_steps} names:")
    for step, loss in enumerate(train(model, names, chars), 1):  # on the first num_steps
        show_progress(step, num_steps, loss, started)
    base = {key: [floats(row) for row in rows] for key, rows in model.items()}
    base_samples, base_judged = judge(base, base, prompts, chars)
    print("\nGRPO step  silent groups  clipped tokens  KL (nats)  mean reward")
    records = []
    for record in train_policy(model, base, iter(own_prompts), chars):
        records.append(record)
        draw_step(len(records), record)
    policy = {key: [floats(row) for row in rows] for key, rows in model.items()}
    samples, judged = judge(policy, base, prompts, chars)
    capitals = str.maketrans(vowels, vowels.upper())  # for the eye
    print("\nbase   " + "".join(f"{name:>8}" for name in base_samples[:11]).translate(capitals))
    print("policy " + "".join(f"{name:>8}" for name in samples[:11]).translate(capitals))
    before, after = (compare_baselines(m, own_prompts[-num_probes:], chars) for m in (base, policy))
    groups = [rewards for record in records for rewards in record["rewards"]]
    first, last = summary(groups[:20]), summary(groups[-20:])  # five steps; updated after each
    tokens, clipped = (sum(record[key] for record in records) for key in ("tokens", "clipped"))
    rate, length = base_judged["preferred_rate"], base_judged["mean_length"]
    rows = [
        ("base_preferred_rate", rate, ""),
        ("preferred_rate", judged["preferred_rate"], f"> {rate + 0.3:.4f}"),
        ("base_mean_length", length, ""),
        ("mean_length", judged["mean_length"], f"{length - 0.9:.4f} to {length + 0.9:.4f}"),
        ("base_unique_share", base_judged["unique_share"], ""),
        ("unique_share", judged["unique_share"], "> 0.85"),
        ("kl", judged["kl"], "< 2"),  # exact in each context; training's are estimates
        ("reward_first", first[0], ""),
        ("reward_last", last[0], f"> {first[0] + 0.3:.4f}"),
        ("reward_variance_first", first[1], ""),  # within a group
        ("reward_variance_last", last[1], ""),
        ("silent_share", summary(groups)[2], ""),
        ("clip_fraction", clipped / tokens, "> 0"),
        *((f"grad_variance_{kind}", value, "") for kind, value in before.items()),
        *((f"grad_variance_{kind}_after", value, "") for kind, value in after.items()),
        ("variance_ratio_after", after["group"] / after["none"], "< 0.5"),
        ("group_to_batch_after", after["group"] / after["batch"], ""),
        ("verdicts", len(groups) * group_size, ""),
        ("generated_tokens", tokens, ""),
        ("runtime_seconds", time.perf_counter() - started, "< 420"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
