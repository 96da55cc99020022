"""A GPT is dot products, a softmax and the chain rule: this one learns to invent names.

The problem: a program is to write new names that sound like names. Nobody can list the rules of
what sounds like a name. But we have thousands of names, and each of them is an example: after
"emm" comes "a", after "emma" the name ends.

The idea: let a formula with a few thousand adjustable numbers (the parameters) give a probability
to every letter that may come next, and to the end of the name, given the letters so far. For each
real name, ask how probable the formula finds it, and change the parameters a little, so that such
names become more probable. A formula that gives real names a high probability can be used to write
new ones: draw the next letter from its probabilities, append it, and ask again. The formula used
here is the transformer, the one behind ChatGPT. Its special part is attention: each position of the
text decides from which earlier positions it takes up information.

    1. encode: a name becomes a list of tokens. A token is the number of a letter. One more token,
       the boundary, says where a name begins and ends.
    2. Value: a number that remembers which numbers it was computed from. backward() uses this to
       find the gradient: how much the result changes per unit of change in each parameter.
    3. gpt: the model reads a name token by token. For each token it computes a score (a logit) for
       every token that could come next. It uses the token, its position in the name, and what
       attention takes up from the tokens so far. softmax turns the scores into probabilities.
    4. name_loss: the loss is -log of the probability that the model gave to the token that really
       came next, averaged over the name. It is small if the model was hardly surprised.
    5. train: compute the loss of one name, call backward(), and let adam_step change the parameters
       in the direction in which the loss falls. Repeat this with the next name.
    6. sample: start with the boundary, draw one token after the other from the probabilities, and
       stop when the boundary is drawn.

The model, the recipe and the order of the random numbers are those of Andrej Karpathy's microgpt
(2026). There are two lists of names: his, on which the losses are the ones that he published, and a
later release, which comes with this collection and gives other losses. The engine follows his
micrograd. It adds dot(), which handles a whole sum of products in one piece. The architecture is a
simplified GPT-2 (Radford et al. 2019). For those who know that model: RMSNorm takes the place of
LayerNorm, and ReLU that of GELU. There are no biases. The extra norm comes after the embedding and
not after the last layer, and the output has a matrix of its own.
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

# === CONSTANTS ===
n_embd = 16  # numbers in the vector of a token
n_head = 4  # attention heads; each works with a fourth of those numbers
n_layer = 1  # layers; GPT-2 has 12 to 48
block_size = 16  # the longest context: a boundary and 15 letters, the longest name in the list
num_steps = 1000  # training steps, one name each; a step of GPT-2 had half a million tokens
learning_rate = 0.01  # how far a step moves a parameter at first; it falls linearly to 0
beta1 = 0.85  # Adam averages gradients: the share of the old average that a step keeps
beta2 = 0.99  # the same for the average of squared gradients
eps_adam = 1e-8  # keeps Adam's division finite
temperature = 0.5  # of sampling: below 1, the most probable tokens become more probable still
num_heldout = 500  # names to judge the model by; no training step sees them
num_samples = 300  # names that the trained model writes


# === TOKENS: a name as a list of numbers ===
def encode(name, chars):
    """The tokens of a name: the numbers of its letters, with a boundary in front and behind.

    The token of a letter is its place in chars, and the boundary is the number after the last of
    them. With chars a to z, "anna" becomes

        [26, 0, 13, 13, 0, 26]        boundary a n n a boundary

    Raises ValueError if a letter of the name is not in chars.
    """
    boundary = len(chars)
    return [boundary, *[chars.index(letter) for letter in name], boundary]


def spell(tokens, chars):
    """The letters of the tokens, without boundaries: [26, 0, 13, 13, 0, 26] -> "anna"."""
    return "".join(chars[token] for token in tokens if token < len(chars))


# === AUTOGRAD: numbers that remember how they were computed ===
class Value:
    """A number, the numbers it was computed from, and how strongly it depends on each of them.

    Take loss = (a * b + a) ** 2 with a = 2 and b = 3. Every operation makes a new Value. (Below,
    "the gradient by a" means the gradient with respect to a.)

        product = a * b = 6        total = product + a = 8        loss = total ** 2 = 64

    Each of them keeps its inputs, and the derivative of its own operation by each input. These are
    called local gradients:

        product: by a it is b = 3, by b it is a = 2
        total: by product it is 1, by a it is 1
        loss: by total it is 2 * total = 16

    The Values and their inputs form a graph. backward() goes through it from the loss back to a and
    b, and combines the local gradients by the chain rule.
    """

    __slots__ = ("data", "grad", "_inputs", "_local_grads", "_order")
    _created = itertools.count()

    def __init__(self, data, inputs=(), local_grads=()):
        self.data = data  # the number itself
        self.grad = 0.0  # d(loss)/d(self), once loss.backward() has been called
        self._inputs = inputs  # the Values that it was computed from
        self._local_grads = local_grads  # d(self)/d(input), a float for each input
        self._order = next(Value._created)  # 0 for the first Value ever made, then 1, 2, ...

    def __add__(self, other):
        # d(a + b)/da = 1        d(a + b)/db = 1
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        # d(a * b)/da = b        d(a * b)/db = a
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, k):
        # d(a ** k)/da = k * a ** (k - 1)        k is a plain number
        local_grad = k * self.data ** (k - 1)
        result = math.pow(self.data, k)  # like **, but an error where ** gives a complex number
        return Value(result, (self,), (local_grad,))

    def exp(self):
        # d(exp(a))/da = exp(a)
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self):
        # d(log(a))/da = 1 / a        a is a probability; log(0) does not exist, so a < 1e-10 counts
        # as 1e-10
        clipped = max(self.data, 1e-10)
        return Value(math.log(clipped), (self,), (1 / clipped,))

    def tanh(self):
        # d(tanh(a))/da = 1 - tanh(a) ** 2
        result = math.tanh(self.data)
        return Value(result, (self,), (1 - result * result,))

    def relu(self):
        # d(relu(a))/da = 1 if a > 0, else 0
        local_grad = 1.0 if self.data > 0 else 0.0
        return Value(max(0.0, self.data), (self,), (local_grad,))

    # The other operators are made of those above. The ones that start with r are for a plain
    # number on the left: 2.0 - a calls a.__rsub__(2.0).
    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -other

    def __truediv__(self, other):
        return self * other**-1

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other

    def __rsub__(self, other):
        return -self + other

    def __rtruediv__(self, other):
        return self**-1 * other

    def __rpow__(self, base):
        # base ** a = exp(a * log(base))
        return (self * math.log(base)).exp()

    def backward(self):
        """Add d(self)/d(x) to x.grad, for every Value x that self was computed from.

        The chain rule: if x is an input of several nodes of the graph, each of them contributes its
        own gradient times its local gradient by x. In the example of the class, a is an input of
        product and of total:

            total.grad = 16        product.grad = 16 * 1 = 16
            a.grad = 16 * 3 (by way of product) + 16 * 1 (by way of total) = 64

        The graph is used up: a second backward() through a part of it raises AttributeError.
        """
        # Collect self and the Values that it was computed from. The list grows while the loop walks
        # along it. A Value without inputs, such as a parameter, passes nothing on. So it is not in
        # the list, but it gets its gradient like all others.
        nodes = [self]
        seen = {self}
        for node in nodes:
            for x in node._inputs:
                if x._inputs and x not in seen:
                    seen.add(x)
                    nodes.append(x)
        # A node may pass its gradient on only when the gradient is complete, which means that all
        # that was computed from the node has passed its own gradient on. What was computed from a
        # node is newer than the node. So the newest goes first: loss, then total, then product.
        nodes.sort(key=lambda node: node._order, reverse=True)
        self.grad = 1.0  # d(self)/d(self)
        for node in nodes:
            for x, local_grad in zip(node._inputs, node._local_grads):
                x.grad += node.grad * local_grad
            del node._inputs, node._local_grads  # frees their memory, as they are not needed again


# Training needs Values. A trained model only has to be asked, and needs no gradient: its numbers
# are floats, which is much faster. The functions below take both.
def exp(x):
    """e to the power of x, a Value or a float."""
    return x.exp() if isinstance(x, Value) else math.exp(x)


def log(x):
    """The natural logarithm of a probability, a Value or a float. x < 1e-10 counts as 1e-10."""
    return x.log() if isinstance(x, Value) else math.log(max(x, 1e-10))


def relu(x):
    """x if it is positive, else 0. x is a Value or a float."""
    return x.relu() if isinstance(x, Value) else max(0.0, x)


def floats(xs):
    """The numbers in a list of Values, without their history. A list of floats stays as it is."""
    if xs and isinstance(xs[0], Value):
        return [x.data for x in xs]
    return xs


def dot(a, b):
    """a[0] * b[0] + a[1] * b[1] + ..., as one node of the graph.

    Networks consist mostly of dot products. With 16 numbers in a and b, * and + would make 31
    nodes, which all have to be created and walked through. One node is enough, because the
    derivatives are known. With s = dot(a, b):

        ds/da[i] = b[i]        ds/db[i] = a[i]

    Tensor libraries go further in the same direction: there, a whole matrix product is one node.

    a and b are each a list of Values or a list of floats. They may be the same list: then each
    element is an input twice, and backward() adds up both contributions. The result is a Value if
    one of them holds Values, else a float. Raises ValueError if the lengths differ.
    """
    xs = floats(a)
    ys = floats(b)
    total = 0.0  # in a loop, because the built-in sum() rounds differently from Python 3.12 on
    for x, y in zip(xs, ys, strict=True):
        total += x * y
    inputs = []
    local_grads = []
    if a and isinstance(a[0], Value):
        inputs += a
        local_grads += ys
    if b and isinstance(b[0], Value):
        inputs += b
        local_grads += xs
    return Value(total, inputs, local_grads) if inputs else total


# --- AUTOGRAD DIFFERENCES IN THIS SCRIPT ---
# None. Other scripts of the collection repeat this engine, and list here what they add to it. It is
# described in docs/autograd-interface.md.


# === THE MODEL: from the tokens so far to a score for every possible next token ===
def init_model(vocab_size, n_embd):
    """The parameters {name: matrix}, random floats near 0. A matrix is a list of rows.

        wte      [vocab_size][n_embd]    token embedding: one vector per token
        wpe      [block_size][n_embd]    position embedding: one vector per position
        lm_head  [vocab_size][n_embd]    from the final vector to one score per token
        attn_wq, attn_wk, attn_wv, attn_wo  [n_embd][n_embd]       query, key, value, output
        mlp_fc1  [4 * n_embd][n_embd]    the two matrices of the MLP
        mlp_fc2  [n_embd][4 * n_embd]

    The last six exist once per layer. MLP is short for multi-layer perceptron. A matrix of shape
    [n_out][n_in] takes a vector of n_in numbers to one of n_out. The numbers are drawn from a
    Gaussian with standard deviation 0.08, in the order of Karpathy's microgpt. (The width n_embd is
    an argument, because other scripts make models of several widths.)
    """
    shapes = {
        "wte": (vocab_size, n_embd),
        "wpe": (block_size, n_embd),
        "lm_head": (vocab_size, n_embd),
    }
    for layer in range(n_layer):
        shapes[f"layer{layer}.attn_wq"] = (n_embd, n_embd)
        shapes[f"layer{layer}.attn_wk"] = (n_embd, n_embd)
        shapes[f"layer{layer}.attn_wv"] = (n_embd, n_embd)
        shapes[f"layer{layer}.attn_wo"] = (n_embd, n_embd)
        shapes[f"layer{layer}.mlp_fc1"] = (4 * n_embd, n_embd)
        shapes[f"layer{layer}.mlp_fc2"] = (n_embd, 4 * n_embd)
    model = {}
    for name, (rows, columns) in shapes.items():
        model[name] = [[random.gauss(0, 0.08) for _ in range(columns)] for _ in range(rows)]
    return model


def as_values(model):
    """A copy of a model in which every number is a Value, so that it can be trained."""
    return {name: [[Value(x) for x in row] for row in matrix] for name, matrix in model.items()}


def as_floats(model):
    """A copy of a model in which every number is a float, so that it is frozen and fast."""
    return {name: [floats(row) for row in matrix] for name, matrix in model.items()}


def linear(x, matrix):
    """Multiply a matrix [n_out][n_in] with a vector x [n_in]. Return [n_out].

    Each row is compared with x: output i is the dot product of row i and x.
    """
    return [dot(row, x) for row in matrix]


def softmax(logits):
    """Turn scores [n] into probabilities [n]: exp(score), divided by the sum of all exp(score).

    The probabilities are positive and sum to 1. Adding the same number to all scores does not
    change them. So the largest score is subtracted first, and exp() never sees a number above 0,
    which could overflow.
    """
    largest = max(floats(logits))
    exps = [exp(x - largest) for x in logits]
    total = dot(exps, [1.0] * len(exps))  # their sum, as one node
    inverse = total**-1
    return [e * inverse for e in exps]


def rmsnorm(x):
    """Rescale a vector [n] so that the mean of its squares is 1 (Zhang & Sennrich 2019, eq. 4).

    However large the numbers of a vector have become, the next part of the model then meets numbers
    around 1. The 1e-5 keeps the division finite if all numbers are 0. The learned factors of the
    paper are left out.
    """
    mean_square = dot(x, x) * (1 / len(x))
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


# In attention, every position has three vectors of d numbers. Its query says what it looks for. Its
# key says what it can be found by. Its value is what it hands over to a position that reads it. All
# three are computed from what the position knows so far: see gpt().


def attention_weights(q, keys):
    """How much a position reads each position: softmax(q . k / sqrt(d)) over the keys k.

    q [d] is the query of the one that reads, and keys [t][d] has one key for each position up to
    this one. d is the number of numbers that one head of gpt() works with. Returns [t]: one weight
    per position, positive, with sum 1.

    Why sqrt(d): a score is a sum of d products. The more there are, the farther apart the scores
    tend to be, and with large differences softmax gives nearly all weight to one position. The
    division keeps the scores of narrow and wide models alike.
    """
    scores = [dot(q, key) * len(q) ** -0.5 for key in keys]
    return softmax(scores)


def attend(q, keys, values):
    """One attention head at one position: softmax(q K^T / sqrt(d)) V (Vaswani et al. 2017, eq. 1).

    The paper writes it for all positions at once: K and V are the matrices whose rows are the keys
    and the values [t][d]. The result [d] is an average of the values. A position counts the more,
    the better its key matches the query. For example, with two positions and d = 4:

        q . key of the positions    2.2 and 0
        divided by sqrt(4)          1.1 and 0
        softmax                     0.75 and 0.25
        result                      0.75 * value of the first + 0.25 * value of the second
    """
    weights = attention_weights(q, keys)
    result = []
    for i in range(len(values[0])):
        column = [value[i] for value in values]  # [t]: number i of every position
        result.append(dot(weights, column))
    return result


def embed(model, token, position):
    """The vector [n_embd] that a position starts with: which token it has, and where it stands.

    Attention by itself would not know the order of the letters. The position embedding tells it.
    """
    tok_emb = model["wte"][token]
    pos_emb = model["wpe"][position]
    return rmsnorm([t + p for t, p in zip(tok_emb, pos_emb)])


def gpt(model, token, position, cache):
    """The scores (logits) [vocab_size] of what may follow `token`, which stands at `position`.

    The model reads one token per call. Attention also needs the keys and values of the earlier
    positions, so each call keeps those of its own position in `cache`. It is {} at the start of a
    name, then {layer: (keys, values)}, with a list of keys and a list of values, one per position.
    No position can look ahead, because what comes later is not in the lists yet.

    In training the cache holds Values. A later position reads the keys and values of an earlier
    one, so its loss depends on them, and backward() goes back to the earlier position as well.
    """
    x = embed(model, token, position)  # [n_embd]: what this position knows so far
    head_size = len(x) // n_head
    for layer in range(n_layer):
        # Attention: the position collects information from itself and the positions before it. A
        # layer begins with a norm, so that its input has numbers of the usual size.
        h = rmsnorm(x)
        query = linear(h, model[f"layer{layer}.attn_wq"])  # what this position looks for
        key = linear(h, model[f"layer{layer}.attn_wk"])  # what it can be found by
        value = linear(h, model[f"layer{layer}.attn_wv"])  # what it hands over when it is found
        if layer not in cache:
            cache[layer] = ([], [])
        keys, values = cache[layer]
        keys.append(key)
        values.append(value)
        # One head can only make one average of the past. Several heads can look for several things
        # at once. With 16 numbers and four heads, the first head works with the numbers 0 to 3 of
        # every query, key and value, the second with 4 to 7, and so on.
        heads = []
        for start in range(0, len(x), head_size):
            part = slice(start, start + head_size)
            head_keys = [k[part] for k in keys]
            head_values = [v[part] for v in values]
            heads.extend(attend(query[part], head_keys, head_values))
        attended = linear(heads, model[f"layer{layer}.attn_wo"])  # mixes what the heads found
        # x + f(x): a layer adds to x and does not replace it. So what x knew is kept, and gradients
        # have a direct way back to the first layer.
        x = [xi + ai for xi, ai in zip(x, attended)]

        # MLP: attention only averages. Here the position computes something new from what it has
        # collected. Without relu() between them, two matrices could do no more than one.
        h = rmsnorm(x)
        hidden = [relu(u) for u in linear(h, model[f"layer{layer}.mlp_fc1"])]  # [4 * n_embd]
        computed = linear(hidden, model[f"layer{layer}.mlp_fc2"])
        x = [xi + ci for xi, ci in zip(x, computed)]
    return linear(x, model["lm_head"])


# === TRAINING: make the token that really came next more probable ===
def name_loss(model, tokens):
    """The mean of -log p(next token) over one name. It is called cross-entropy.

    The probability of a name is the product of the probabilities of its tokens, each given those
    before. The logarithm of this product is the sum of the logarithms. So when the loss falls, the
    name becomes more probable, and that is what training wants. The loss is 0 if every token was
    predicted with probability 1, and log(27) = 3.30 for a blind guess among 27 tokens. Its unit is
    called nat. A name that is longer than the context loses its end.
    """
    num_predictions = min(block_size, len(tokens) - 1)
    cache = {}
    total = 0.0
    for position in range(num_predictions):
        logits = gpt(model, tokens[position], position, cache)
        probs = softmax(logits)
        total = total - log(probs[tokens[position + 1]])
    return total * (1 / num_predictions)


def adam_step(params, m, v, step, rate):
    """Move each parameter against its average gradient, in place. Set the gradients back to 0.

    Plain gradient descent is p.data -= rate * p.grad. Adam (Kingma & Ba 2015, algorithm 1) improves
    on it in two ways. It takes a running average m of the gradient, because the gradient of a
    single step is noisy. And it divides by the root of v, a running average of the squared
    gradient. So it does not matter whether all gradients of a parameter are large or small: the
    parameter moves by about `rate` if they agree in sign, and by much less if they do not. m and v
    have one number per parameter, and step counts 1, 2, ...
    """
    # m and v start at 0. After step 1, m is (1 - beta1) * grad, which is too small by this factor.
    m_correction = 1 - beta1**step
    v_correction = 1 - beta2**step
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad
        m_hat = m[i] / m_correction
        v_hat = v[i] / v_correction
        p.data -= rate * m_hat / (math.sqrt(v_hat) + eps_adam)
        p.grad = 0.0


def train(model, names, chars):
    """Train a model of Values in place, one name per step.

    This is a generator. Each step yields the loss that its name had, and waits until the next one
    is asked for. show_training() asks for all of them.
    """
    params = [p for matrix in model.values() for row in matrix for p in row]
    m = [0.0] * len(params)
    v = [0.0] * len(params)
    for step in range(num_steps):
        name = names[step % len(names)]  # starts over if there are fewer names than steps
        loss = name_loss(model, encode(name, chars))
        loss.backward()
        rate = learning_rate * (1 - step / num_steps)  # falls to 0
        adam_step(params, m, v, step + 1, rate)
        yield loss.data


# === SAMPLING: write a name, one token after the other ===
def sample(model):
    """Draw a name from a model of floats. Return its tokens, with the boundary in front.

    The last token is the boundary as well, unless the name reached the end of the context.

    Dividing the scores by a temperature below 1 makes their differences larger. The most probable
    tokens then become more probable still, and the names more ordinary.
    """
    boundary = len(model["wte"]) - 1
    tokens = [boundary]
    cache = {}
    for position in range(block_size):
        logits = gpt(model, tokens[-1], position, cache)
        probs = softmax([x / temperature for x in logits])
        tokens.append(random.choices(range(len(probs)), weights=probs)[0])
        if tokens[-1] == boundary:
            break
    return tokens


# === HOW GOOD IS IT: compared with real names, with random letters and with counting pairs ===
def trigrams(name):
    """Every three characters in a row, with dots as boundaries: "ann" -> {".an", "ann", "nn."}."""
    padded = f".{name}."
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def common_trigrams(names):
    """The trigrams that occur in at least five different names: what is usual in a name."""
    counts = collections.Counter()
    for name in set(names):
        counts.update(trigrams(name))
    return {trigram for trigram, count in counts.items() if count >= 5}


def is_pronounceable(name, known):
    """Whether a name has a vowel, no four consonants in a row, and only trigrams in `known`.

    This asks for what is usual. A real name that is unusual fails as well.
    """
    kinds = "".join("V" if letter in "aeiouy" else "C" for letter in name)
    return "V" in kinds and "CCCC" not in kinds and trigrams(name) <= known


def count_bigrams(names, chars):
    """A model without gradients: p(next | token), from counting which token follows which.

    Returns [vocab_size][vocab_size], one row of probabilities per token. Every count starts at 1,
    so that no pair has the probability 0.
    """
    vocab_size = len(chars) + 1
    counts = [[1] * vocab_size for _ in range(vocab_size)]
    for name in names:
        for token, following in itertools.pairwise(encode(name, chars)):
            counts[token][following] += 1
    return [[count / sum(row) for count in row] for row in counts]


def bigram_loss(bigrams, tokens):
    """The same as name_loss(), for the model of count_bigrams()."""
    pairs = list(itertools.pairwise(tokens))
    return -mean([log(bigrams[token][following]) for token, following in pairs])


def sample_bigrams(bigrams):
    """The same as sample(), for the model of count_bigrams()."""
    boundary = len(bigrams) - 1
    tokens = [boundary]
    for _ in range(block_size):
        # There are no scores here, but log(p) can serve as one, and exp(log(p) / temperature) is p
        # to the power of 1 / temperature. choices() does not need weights that sum to 1.
        weights = [p ** (1 / temperature) for p in bigrams[tokens[-1]]]
        tokens.append(random.choices(range(len(weights)), weights=weights)[0])
        if tokens[-1] == boundary:
            break
    return tokens


def pronounceable_rate(names, known):
    """The share of names that is_pronounceable() accepts."""
    return mean([is_pronounceable(name, known) for name in names])


def novel_rate(samples, names):
    """The share of samples that are not in the list of names.

    The others are real names. That does not mean that they were copied: nearly all of them are
    names that the model was not trained on.
    """
    known_names = set(names)
    return mean([name not in known_names for name in samples])


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)

    # Names to train on, and names that no training step sees. Some names stand in the list twice.
    names = load_names()
    random.shuffle(names)
    chars = sorted(set("".join(names)))
    training_names = names[:num_steps]
    trained = set(training_names)
    others = [name for name in dict.fromkeys(names) if name not in trained]  # each of them once
    heldout = others[:num_heldout]
    print(f"{len(names)} names, {num_steps} of them to train on, and {num_heldout} held out.")
    show_tokens(heldout[0], encode(heldout[0], chars))
    show_gradients()

    model = as_values(init_model(len(chars) + 1, n_embd))
    num_params = sum(len(matrix) * len(matrix[0]) for matrix in model.values())
    show_predictions("before training", as_floats(model), encode(heldout[0], chars), chars)
    print(f"\nTraining {num_params} parameters on {num_steps} names, one per step:")
    losses = show_training(train(model, training_names, chars), num_steps)
    model = as_floats(model)
    print(f"\nLoss along training (a blind guess costs {math.log(len(chars) + 1):.2f}):")
    draw_curve(losses)
    show_predictions("after training", model, encode(heldout[0], chars), chars)
    draw_attention(model, encode(heldout[0], chars), chars)

    # How well does it predict names that it has not seen? Better than counting pairs of letters?
    # (Names are short, and need little of this. Trained without attention, the model has 2.375, and
    # without the position embedding 2.384. Only without both it has 2.516, like the pairs. If each
    # attention weight is 1 / t, it has 2.366: names do not show what learned weights are good for.)
    bigrams = count_bigrams(training_names, chars)
    heldout_loss = mean([name_loss(model, encode(name, chars)) for name in heldout])
    bigram_heldout_loss = mean([bigram_loss(bigrams, encode(name, chars)) for name in heldout])

    # Does what it writes look like names? is_pronounceable() asks for what is usual. A temperature
    # of 0.5 makes the GPT's names more usual than real ones are. It makes many names by pairs too
    # short: nearly half have one or two letters.
    known = common_trigrams(set(names) - set(heldout))
    samples = [spell(sample(model), chars) for _ in range(num_samples)]
    bigram_samples = [spell(sample_bigrams(bigrams), chars) for _ in range(num_samples)]
    letters = "".join(names)
    random_names = ["".join(random.choices(letters, k=len(name))) for name in heldout]
    show_names(samples, bigram_samples, random_names)

    print_results(
        [
            ("params", num_params, "== 4192"),
            ("final_loss", losses[-1], "< 2.7"),  # of a single name, so noisy
            ("mean_loss_last_100", mean(losses[-100:]), "< 2.5"),
            ("heldout_loss", heldout_loss, "< 2.45"),
            ("bigram_heldout_loss", bigram_heldout_loss, ""),
            ("pronounceable_rate", pronounceable_rate(samples, known), ">= 0.8"),
            ("bigram_pronounceable_rate", pronounceable_rate(bigram_samples, known), ""),
            ("random_pronounceable_rate", pronounceable_rate(random_names, known), ""),
            ("real_pronounceable_rate", pronounceable_rate(heldout, known), ""),
            ("novel_rate", novel_rate(samples, names), ""),
            ("runtime_seconds", time.perf_counter() - started, "< 420"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_tokens(name, tokens):
    """Print how one name becomes tokens."""
    characters = ["."] + list(name) + ["."]
    print(f'\nThe name "{name}" as tokens, with a dot for the boundary:')
    print("  ".join(f"{character:>2}" for character in characters))
    print("  ".join(f"{token:>2}" for token in tokens))


def show_predictions(title, model, tokens, chars):
    """Print the most probable tokens after each beginning of a name, by a model of floats."""
    print(f"\nThe four most probable next tokens {title}, and the probability of the true one:")
    cache = {}
    for position, token in enumerate(tokens[:-1]):
        probs = softmax(gpt(model, token, position, cache))
        ranked = sorted(range(len(probs)), key=lambda i: (-probs[i], i))
        line = "." + spell(tokens[: position + 1], chars)
        line = f"{line:<10}"
        for i in ranked[:4]:
            line += f"{chars[i] if i < len(chars) else '.':>4}{probs[i]:6.2f}"
        true = tokens[position + 1]
        print(f"{line}{chars[true] if true < len(chars) else '.':>8}{probs[true]:6.2f}")


def show_gradients():
    """Print the example of the class Value: each gradient by backward() and by trying it out."""

    def compute(a, b):
        product = a * b
        total = product + a
        return product, total, total**2

    a = Value(2.0)
    b = Value(3.0)
    product, total, loss = compute(a, b)
    loss.backward()
    h = 1e-5  # a small change, to see how much the loss changes
    slope_a = (compute(2.0 + h, 3.0)[-1] - compute(2.0 - h, 3.0)[-1]) / (2 * h)
    slope_b = (compute(2.0, 3.0 + h)[-1] - compute(2.0, 3.0 - h)[-1]) / (2 * h)
    print("\nThe gradients of loss = (a * b + a) ** 2 at a = 2 and b = 3:")
    print("                      value   gradient by backward()   by changing it a little")
    print(f"a                   {a.data:7.1f}{a.grad:25.4f}{slope_a:26.4f}")
    print(f"b                   {b.data:7.1f}{b.grad:25.4f}{slope_b:26.4f}")
    print(f"product = a * b     {product.data:7.1f}{product.grad:25.4f}")
    print(f"total = product + a {total.data:7.1f}{total.grad:25.4f}")
    print(f"loss = total ** 2   {loss.data:7.1f}{loss.grad:25.4f}")


def draw_attention(model, tokens, chars):
    """Print the attention weights of the first layer for one name: a row for each position.

    gpt() does not keep the weights. So its keys are taken from the cache, and the queries are
    computed once more.
    """
    shades = " .:-=+*#%@"
    letters = "".join(chars[token] if token < len(chars) else "." for token in tokens[:-1])
    print(f'\nHow much each position of "{letters}" (a row) reads each position so far (a column,')
    print(f"two characters wide), in each of the {n_head} heads. A weight from 0 to 1 is drawn as")
    print(f"one of '{shades}'. Where a row is evenly gray, a head reads all alike:")
    heading = "".join(2 * letter for letter in letters)
    print(("   " + n_head * f"{heading}  ").rstrip())
    cache = {}
    for position, token in enumerate(tokens[:-1]):
        gpt(model, token, position, cache)
        keys, _ = cache[0]
        query = linear(rmsnorm(embed(model, token, position)), model["layer0.attn_wq"])
        head_size = len(query) // n_head
        line = letters[position]
        for start in range(0, len(query), head_size):
            part = slice(start, start + head_size)
            weights = attention_weights(query[part], [key[part] for key in keys])
            marks = "".join(2 * shades[int(9.99 * weight)] for weight in weights)
            line += "  " + marks.ljust(len(heading))
        print(line.rstrip())


def show_names(samples, bigram_samples, random_names):
    """Print some names of each kind, side by side."""
    print(f"\nNames by the GPT and by counted pairs, both at temperature {temperature}:")
    print(f"{'GPT':<16}{'pairs':<18}random letters")
    for row in list(zip(samples, bigram_samples, random_names))[:10]:
        print(f"{row[0]:<16}{row[1]:<18}{row[2]}")


def mean(values):
    """The average of some numbers. fsum() rounds only once, so every Python gives the same."""
    return math.fsum(values) / len(values)


def show_progress(step, num_steps, loss, started):
    """Print step, loss, elapsed and remaining time: on a terminal always in the same line.

    In a pipe or a file, print a line for the first three steps and for every tenth of all steps.
    """
    elapsed = time.perf_counter() - started
    remaining = elapsed * (num_steps / step - 1)
    line = f"step {step:4d}/{num_steps}  loss {loss:.5f}  {elapsed:5.1f} s, {remaining:5.1f} s left"
    if os.isatty(1):
        print(f"\r{line} ", end="\n" if step == num_steps else "")
    elif step <= 3 or step % max(1, num_steps // 10) == 0:
        print(line)


def show_training(losses, num_steps):
    """Run a generator of losses to its end, and show its progress. Return the losses."""
    started = time.perf_counter()
    seen = []
    for loss in losses:
        seen.append(loss)
        show_progress(len(seen), num_steps, loss, started)
    return seen


def draw_curve(values, width=64, height=8):
    """Print a curve. Each column stands for the mean of some neighboring values."""
    width = min(width, len(values))
    columns = []
    for i in range(width):
        first = i * len(values) // width
        last = (i + 1) * len(values) // width
        columns.append(mean(values[first:last]))
    low = min(columns)
    span = max(columns) - low or 1.0  # 1.0 if the curve is flat
    for level in range(height, -1, -1):
        marks = ["*" if round((c - low) / span * height) == level else " " for c in columns]
        print(f"{low + span * level / height:6.2f} |{''.join(marks)}".rstrip())


def print_results(rows):
    """Print the results: one per line, with its name, its value, and the bound it has to meet."""
    print("\n=== results ===")
    for name, value, bound in rows:
        text = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{text:<8} {bound}".rstrip())


# === DATA: the list of names ===
# Figures in comments are of runs on the list in 01-foundations, which has 32,178 names. The list
# that is downloaded is an earlier release of it, with 32,033, and a run on it has other figures.
NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # print each line at once, also into a pipe


def load_names():
    """All names, in file order: from names.txt beside this script or else in ../01-foundations.

    If neither file exists, the list is downloaded. Whatever fails ends in SystemExit, with one line
    that says what to do.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, "names.txt")
    source = path
    if not os.path.exists(source):
        source = os.path.join(folder, "..", "01-foundations", "names.txt")
    try:
        if os.path.exists(source):
            with open(source, "rb") as file:
                raw = file.read()
        else:
            source = NAMES_URL
            raw = download_names(path)
        names = raw.decode("ascii").split()
        if len(set(names)) < 10000:  # too few to train on some and to hold out others
            raise ValueError("it has fewer than 10000 different names")
    except Exception as error:  # of many kinds: OSError, HTTPException, UnicodeDecodeError, ...
        advice = f"Put an ASCII text file of names, one per line, at {path}"
        raise SystemExit(f"No names from {source}: {str(error).strip()}. {advice}") from None
    return names


def download_names(path):
    """Download the list of names, check that it is the expected one, and keep it at `path`.

    Returns its bytes. Raises an exception if the download fails or the list is another one. If it
    cannot be kept, it prints a line and goes on.
    """
    with urllib.request.urlopen(NAMES_URL, timeout=10) as answer:
        raw = answer.read(5_000_000)  # the list has 228,145 bytes
    if hashlib.sha256(raw).hexdigest() != NAMES_SHA256:
        raise ValueError("its SHA-256 is not the one expected")
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(raw)
        os.replace(temporary, path)  # in one move, so that nobody ever meets half a file
    except OSError as error:
        print(f"The names could not be kept for the next run: {error}")
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    return raw


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the reader of the pipe has gone, as in `python script.py | head`
