"""Without a cache a decoder computes its past again at every token; with one, it pays in memory.

The problem: a GPT writes a text token by token. For each new token, attention compares the query of
the newest position with the keys of all positions so far, and takes a weighted average of their
values. So the newest position needs the keys and values of the whole text. The plain way is to run
the whole text through the model again for each token. But only one position is new. The keys and
values of all others come out exactly as they did a moment ago.

The idea: attention in a GPT is causal, which means that a position looks only at itself and at
earlier positions. (It is trained to predict the next token, so the model must not see that token.)
Whatever is written later therefore changes nothing in the keys and values of a position.
Compute them once, and keep them in a KV cache: K for key, V for value. Then only the newest
position has to be computed for each token. The price is memory that has to be kept from token to
token, for every text that is being written.

    1. forward: some positions of the text are in the cache. Run the others through the model, and
       append their keys and values to the cache. If the cache is empty, run the whole text.
    2. write: write a text, token by token. To work with a cache means to call forward with the same
       cache each time. To work without one means to call it with an empty cache each time. Nothing
       else is different.
    3. compare: write the same text in both ways, check that the scores for the next token (the
       logits) are equal, and count multiplications. With a cache, one vector per token goes through
       the layers. Without one, all t vectors of the text do. In attention, the newest of t
       positions looks at t keys. Without a cache, all positions look again, at 1 + 2 + ... + t =
       t (t + 1) / 2 keys. So when t doubles, the attention for a token costs twice as much with a
       cache, and about four times as much without. What the other matrices cost stays the same with
       a cache, and is doubled without.
    4. serve: share one memory among the caches of many texts, whose final lengths nobody knows.
       Reserving enough for the longest possible text leaves most of it empty, because every text
       begins short, and most end short. Paging hands out small pages, as they are needed.

The model is a relative of Andrej Karpathy's microgpt (2026). His gpt() always works with such a
cache, one token at a time; the forward() here can do both. Paging is that of vLLM (Kwon et al.
2023), which calls a page a block. Here it is bookkeeping alone: attention reads its keys and values
from plain lists, not from pages. Left out is that texts with the same beginning can share the pages
of their beginning, which is an important use of paging in vLLM.
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
n_embd = 8  # numbers per token
n_head = 2  # attention heads, which share those numbers
num_steps = 500  # training steps, one name each
first_rate = 0.3  # learning rate of the first step; it falls linearly to 0
num_prompts = 8  # names that the model continues, each to the full length of the context
bytes_per_number = 2  # what a number in a cache usually takes; Python's floats here take more
memory_size = 256  # positions that fit into the memory that many texts share
longest_text = 16  # positions of the longest text in that memory: a boundary and 15 letters
page_sizes = (8, 4, 2, 1)  # positions per page, to compare
main_page_size = 4  # the one that the results at the end are about
num_texts = 300  # texts that come and go in the shared memory; each is as long as a name
# the following are read by the code that is repeated from microgpt, near the end
n_layer = 2  # layers of attention and MLP
block_size = 64  # the context: positions that the model can handle; each prompt is continued to it

# === BORROWED from microgpt.py: what you need to know of it ===
# - Value is a number that remembers how it was computed, so that loss.backward() can find the
#   gradients. The model works with Values, which are trained, and with floats, which are fast.
#   as_values() and as_floats() copy a model into the other kind.
# - init_model() makes the matrices of a GPT {name: matrix}. wte and wpe hold a vector for each
#   token and position. lm_head turns the final vector into a score (logit) for every token.
# - encode() turns a name into tokens, with the same boundary token before and after it.
# - embed(model, token, position) adds the two vectors of a token and its position, and rescales
#   them by rmsnorm(), which also stands before each half of a layer.
# - dot() is the dot product of two vectors. relu() makes negative numbers 0. softmax() turns
#   scores into probabilities. log() is the logarithm.


# === THE MODEL: what a position computes, and what later ones need of it ===
def counted_dot(a, b, kind, counter):
    """The dot product of two vectors. Its multiplications, len(a), are added to counter[kind].

    The kinds are "matrices" for products with the model's matrices, and "scores" and "averages" for
    the two products of attention. What softmax(), rmsnorm() and the scaling of the scores multiply
    is not counted.
    """
    counter[kind] += len(a)
    return dot(a, b)


def linear(x, matrix, counter):
    """Multiply a matrix [n_out][n_in] with a vector x [n_in]. Return [n_out]."""
    return [counted_dot(row, x, "matrices", counter) for row in matrix]


def attend(q, keys, values, counter):
    """Attention of one position: softmax(q K^T / sqrt(head_size)) V, for each head by itself.

    Every query, key and value vector is cut into one part per head. A head compares its part of the
    query with its part of every key, by a dot product. softmax turns these scores into weights that
    add up to 1. The output of the head is the average of its parts of the values, with these
    weights.

    q [n_embd] is the position's query. keys and values [t][n_embd] are those of the t positions
    that it can see. Returns the outputs of all heads, joined to one vector [n_embd]. The cost grows
    with t: for each position that can be seen, n_embd multiplications for the scores of all heads,
    and n_embd for the averages.
    """
    head_size = n_embd // n_head
    outputs = []
    for start in range(0, n_embd, head_size):
        part = slice(start, start + head_size)  # the places of this head in every vector
        scores = []
        for key in keys:
            score = counted_dot(q[part], key[part], "scores", counter)
            scores.append(score / head_size**0.5)
        attn_weights = softmax(scores)  # [t]
        value_parts = [value[part] for value in values]  # [t][head_size]
        for i in range(head_size):
            column = [value_part[i] for value_part in value_parts]  # [t], one number per position
            outputs.append(counted_dot(attn_weights, column, "averages", counter))
    return outputs


def add(x, y):
    """The sum of two vectors."""
    return [xi + yi for xi, yi in zip(x, y)]


def num_cached(cache):
    """How many positions are in a cache {layer: (keys, values)}, or 0 if it is {}.

    Every layer has a key and a value of the same positions, so it is enough to look at layer 0.
    """
    if not cache:
        return 0
    keys, _ = cache[0]
    return len(keys)


def forward(model, tokens, cache, counter):
    """Run the positions that are not in the cache through the model. Return their final vectors.

    `cache` is {layer: (keys, values)}, each [positions][n_embd], and {} at first. It has to come
    from the beginning of the same text. The keys and values of the new positions are appended to
    it. Returns [new positions][n_embd].

    Why a cache is allowed: we go through the layers, and ask what can have a part in the vector
    that comes out of a layer at a position, say 3. In layer 0, it comes from the vector of position
    3, and from the keys and values of the positions 0 to 3. (Those of later positions are not in
    the lists yet, because the loop over the vectors goes from left to right. On a GPU, which
    computes all positions at once, a mask hides them.) All of these come from the tokens 0 to 3. In
    the same way, what layer 0 computes for position 2 comes from the tokens 0 to 2, and so on.
    Layer 1 reads only these vectors, again from left to right. So no later token has a part in
    what it computes, and the same holds for the next layer, however many there are.
    """
    first_new = num_cached(cache)
    vectors = []
    for position in range(first_new, len(tokens)):
        vectors.append(embed(model, tokens[position], position))
    for layer in range(n_layer):
        if layer not in cache:
            cache[layer] = ([], [])
        keys, values = cache[layer]  # these are the lists in the cache, so what is appended stays
        outputs = []
        for x in vectors:
            # Attention: append the key and value of this position, then look at all that are there.
            h = rmsnorm(x)
            keys.append(linear(h, model[f"layer{layer}.attn_wk"], counter))
            values.append(linear(h, model[f"layer{layer}.attn_wv"], counter))
            q = linear(h, model[f"layer{layer}.attn_wq"], counter)  # used once, so it is not kept
            attended = attend(q, keys, values, counter)
            after_attention = add(x, linear(attended, model[f"layer{layer}.attn_wo"], counter))
            # Two matrices with relu() between them, as in microgpt.
            hidden = linear(rmsnorm(after_attention), model[f"layer{layer}.mlp_fc1"], counter)
            activated = [relu(number) for number in hidden]
            computed = linear(activated, model[f"layer{layer}.mlp_fc2"], counter)
            outputs.append(add(after_attention, computed))
        vectors = outputs
    return vectors


def train(model, names, chars):
    """Train in place by gradient descent, one name per step. Yield the loss before each step."""
    params = [p for matrix in model.values() for row in matrix for p in row]
    for step, name in enumerate(names):
        tokens = encode(name, chars)
        counter = collections.Counter()  # what training costs is not looked at
        vectors = forward(model, tokens[:-1], {}, counter)
        loss = 0.0
        for x, next_token in zip(vectors, tokens[1:], strict=True):
            probs = softmax(linear(x, model["lm_head"], counter))
            loss = loss - log(probs[next_token]) * (1 / len(vectors))
        loss.backward()
        for p in params:
            p.data -= first_rate * (1 - step / num_steps) * p.grad
            p.grad = 0.0
        yield loss.data


# === WRITING: without a cache and with one ===
Step = collections.namedtuple("Step", "text logits counter kept_numbers")


def write(model, tokens, use_cache):
    """Continue a text until the context is full. Yield a Step per token.

    text are the tokens so far, without the next one. logits [vocab_size] are the scores of the next
    token, and the counter holds what they cost. kept_numbers is how many numbers of keys and values
    stay in memory until the next token. The last Step has a text of block_size tokens.

    Writing does not stop at a boundary. The model was trained on names, so the rows of wpe for
    later positions have never been trained, and the model writes noise there. That changes no cost.

    With a cache, the first call of forward() computes all positions of the prompt. This is called
    prefill, and parallel hardware does it all at once. The later calls compute one position each.
    This is called decode.
    """
    cache = {}
    while len(tokens) <= block_size:
        if not use_cache:
            cache = {}  # nothing is kept from one token to the next
        counter = collections.Counter()
        vectors = forward(model, tokens, cache, counter)
        logits = linear(vectors[-1], model["lm_head"], counter)
        yield Step(tokens, logits, counter, count_numbers(cache) if use_cache else 0)
        probs = softmax(logits)
        next_token = random.choices(range(len(probs)), weights=probs)[0]
        tokens = [*tokens, next_token]


def count_numbers(cache):
    """How many numbers the keys and values in a cache have."""
    count = 0
    for keys, values in cache.values():
        for vector in keys + values:
            count += len(vector)
    return count


def compare(model, prompt):
    """Continue a prompt in both ways. Return (plain, cached), each {length of the text: Step}.

    plain is without a cache and cached is with one. Both draw the same random numbers, so that
    their texts can differ only if their logits do.

    The plain way could be leaner. Of what the last layer computes, only the newest position's
    vector is used. If this layer made no query, average and MLP for the others, but only their keys
    and values, 64 positions would cost 92504 multiplications instead of 165080. The growth would be
    nearly the same, because all layers before the last one need every position.
    """
    state = random.getstate()
    plain = {len(step.text): step for step in write(model, prompt, use_cache=False)}
    random.setstate(state)
    cached = {len(step.text): step for step in write(model, prompt, use_cache=True)}
    return plain, cached


def count_differences(plain, cached):
    """The number of lengths at which the texts or the logits of the two ways are not equal.

    The logits should be equal to the last bit, because the same sums are added up in the same
    order. (Parallel hardware may add in another order, and then the last digits differ.)
    """
    differences = 0
    for length, plain_step in plain.items():
        cached_step = cached[length]
        if plain_step.text != cached_step.text or plain_step.logits != cached_step.logits:
            differences += 1
    return differences


def attention_cost(counter):
    """The multiplications of attention that were counted."""
    return counter["scores"] + counter["averages"]


def attention_growth(steps):
    """The cost of attention for the last token of the context, divided by that at half of it."""
    last = attention_cost(steps[block_size].counter)
    return last / attention_cost(steps[block_size // 2].counter)


def total(steps):
    """All multiplications that were counted for a text {length: Step}."""
    return sum(step.counter["matrices"] + attention_cost(step.counter) for step in steps.values())


def kept_bytes(step):
    """What is kept for the next token, in bytes, if a number takes bytes_per_number.

    Llama 2 with 7 billion parameters keeps 32 layers * 2 * 4096 numbers * 2 bytes = 0.5 MB for each
    token of each text. The 2 in the middle stands for a key and a value.
    """
    return step.kept_numbers * bytes_per_number


# === PAGING: one memory for the caches of many texts ===
#
# A server writes many texts at once, and nobody knows how long each will get. The simple way is to
# reserve room for the longest possible text whenever a text begins. Most of it stays empty. Paging
# cuts the memory into pages of a few positions. A text gets one page, and another one when its last
# page is full. The pages of a text may lie anywhere, and a table says where. So less than one page
# per text is empty. The smaller the pages, the less is empty, but the longer are the tables, and
# hardware reads scattered memory slowly. (vLLM takes 16 positions, for texts of thousands.)


def place_of(table, position, page_size):
    """Where a text's position is stored: the number of the page, and the place in that page.

    With pages of 4 positions and the table [7, 2], position 5 is on page 2, at place 1.
    """
    return table[position // page_size], position % page_size


def serve(lengths, page_size):
    """Let texts of the given lengths come and go, and yield the state of the memory at each step.

    In step i, text i arrives. A text of length 3 that arrives in step 5 has 1, 2 and 3 positions in
    the steps 5, 6 and 7. In step 8 it is gone, and its pages are free again. Pages are given out
    without a look at the lengths, as nobody would know them: a length only says when a text ends.

    Yields (tables, sizes, free): {text: its pages}, {text: positions it has}, and the free pages.
    They are the same three objects each time, so look at them before you ask for the next step.
    Raises IndexError if a page is needed and none is free. (A server would let that text wait. Here
    the memory is large enough, and what is taken at most is printed.)
    """
    free = list(reversed(range(memory_size // page_size)))  # pop() takes page 0 first
    tables = {}
    sizes = {}
    step = 0
    while step < len(lengths) or tables:  # until the last text has ended
        for text in list(tables):  # a list of its own, because entries of tables are deleted
            if sizes[text] == lengths[text]:
                free += tables.pop(text)
                del sizes[text]
        if step < len(lengths):
            tables[step] = []  # no page yet
            sizes[step] = 0
        for text, table in tables.items():
            if sizes[text] == len(table) * page_size:  # it has no page, or all its pages are full
                table.append(free.pop())
            sizes[text] += 1
        yield tables, sizes, free
        step += 1


Use = collections.namedtuple("Use", "mean_used mean_taken peak")


def memory_use(lengths, page_size):
    """Serve all texts. Return positions: used and taken on average, and the most ever taken.

    A position is used if it holds something, and taken if it is on the page of a text. There is no
    code for reserving: with pages of longest_text positions, a text gets a page when it begins,
    which is room for the longest text, and never needs another one.
    """
    used = []
    taken = []
    for tables, sizes, _ in serve(lengths, page_size):
        used.append(sum(sizes.values()))
        taken.append(sum(len(table) for table in tables.values()) * page_size)
    return Use(mean(used), mean(taken), max(taken))


def waste(use):
    """The percentage of the positions taken that hold nothing, from memory_use()."""
    return 100 * (1 - use.mean_used / use.mean_taken)


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)

    names = random.sample(load_names(), num_steps + num_texts)
    chars = sorted(set("".join(names)))
    others = [encode(name, chars) for name in names[num_steps:]]
    model = as_values(init_model(len(chars) + 1, n_embd))
    show_three_tokens(as_floats(model), others[0][:3], chars)
    print(f"\nTraining the model on {num_steps} names:")
    show_training(train(model, names[:num_steps], chars), num_steps)
    model = as_floats(model)

    # Is the output the same? A prompt is a boundary and a name. What follows is noise, see write().
    comparisons = [compare(model, tokens[:-1]) for tokens in others[:num_prompts]]
    num_compared = 0
    num_different = 0
    for plain, cached in comparisons:
        num_compared += len(plain)
        num_different += count_differences(plain, cached)

    # What does a token cost? That depends only on how long the text and the prompt are.
    plain, cached = comparisons[0]
    show_costs(letters_of(plain[block_size].text, chars), plain, cached)

    # How much memory do many texts take? Each is as long as a name and the boundary before it.
    lengths = [len(tokens) - 1 for tokens in others]
    show_memory(lengths)
    reserving = memory_use(lengths, longest_text)
    paging = {page_size: memory_use(lengths, page_size) for page_size in page_sizes}
    show_waste(reserving, paging)

    # Both growths are formulas: 64 * 65 / (32 * 33), and 64 / 32. A position takes 64 bytes: a key
    # and a value of 8 numbers of 2 bytes, in 2 layers. paging_peak < 0.6 * reserving_peak.
    print_results(
        [
            ("compared_tokens", num_compared, ""),
            ("different_tokens", num_different, "== 0"),
            ("uncached_attention_growth", attention_growth(plain), "3.8 to 4"),
            ("cached_attention_growth", attention_growth(cached), "1.9 to 2.1"),
            ("multiplications_ratio", total(plain) / total(cached), "> 10"),
            ("cache_bytes_per_token", kept_bytes(cached[block_size]) / block_size, "== 64"),
            ("reserving_waste", waste(reserving), "> 60"),
            ("paging_waste", waste(paging[main_page_size]), "< 40"),
            ("reserving_peak", reserving.peak, ""),
            ("paging_peak", paging[main_page_size].peak, f"< {0.6 * reserving.peak:.0f}"),
            ("runtime_seconds", time.perf_counter() - started, "< 240"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def letters_of(tokens, chars):
    """Tokens as letters, with a dot for the boundary."""
    return "".join(chars[token] if token < len(chars) else "." for token in tokens)


def show_three_tokens(model, tokens, chars):
    """Print which positions the model computes for the first three tokens, in both ways."""
    cost = n_layer * (n_embd + n_embd)  # see attend()
    print("The first three tokens of a text. A dot is the boundary in front of it. Attention costs")
    print(f"{cost} multiplications for each position that a computed position looks at.")
    print("           computed positions         multiplications for attention")
    print("text so far  no cache  with a cache     no cache  with a cache")
    kept = {}
    for length in range(1, len(tokens) + 1):
        plain_counter = collections.Counter()
        vectors = forward(model, tokens[:length], {}, plain_counter)
        plain = letters_of(tokens[length - len(vectors) : length], chars)
        cached_counter = collections.Counter()
        vectors = forward(model, tokens[:length], kept, cached_counter)
        cached = letters_of(tokens[length - len(vectors) : length], chars)
        plain_cost = attention_cost(plain_counter)
        cached_cost = attention_cost(cached_counter)
        text = letters_of(tokens[:length], chars)
        print(f"{text:<13}{plain:<10}{cached:<13}{plain_cost:12d}{cached_cost:14d}")


def show_costs(text, plain, cached):
    """Print what each token of a text costs in both ways, and what is kept for it."""
    prompt_length = min(plain)
    print(f"\nThe model continues {text[:prompt_length]} to {text}")
    print("Multiplications for one token, with the model's matrices and in attention. The first")
    print("row is the first token after the prompt, for which both ways compute all positions.")
    print(f"Bytes kept: those of the cache, {bytes_per_number} for a number. # is for a full 256.")
    print("                 no cache            with a cache")
    print("positions  matrices  attention  matrices  attention  bytes kept")
    for length in plain:
        if length == prompt_length or length % 8 == 0:
            line = f"{length:9d}"
            for step in (plain[length], cached[length]):
                line += f"{step.counter['matrices']:10d}{attention_cost(step.counter):11d}"
            size = kept_bytes(cached[length])
            print(f"{line}{size:12d} {'#' * (size // 256)}")
    print(f"The whole text: {total(plain)} without a cache, {total(cached)} with one.")


def show_memory(lengths):
    """Print the memory in step 7, reserved and paged."""
    print("\nThe shared memory when text 7 has arrived, after texts 0 to 6. A digit is a position")
    print("of the text with this number. A dot is taken but empty. The rest, at the end, is free.")
    print("A text that has ended is gone, and the next text that needs a page may take its pages.")
    for page_size in (longest_text, main_page_size):
        tables, sizes, _ = next(itertools.islice(serve(lengths, page_size), 7, None))
        pages = [[" "] * page_size for _ in range(memory_size // page_size)]
        for text, table in tables.items():
            for position in range(len(table) * page_size):
                page, place = place_of(table, position, page_size)
                pages[page][place] = str(text) if position < sizes[text] else "."
        memory = "|".join("".join(page) for page in pages).rstrip(" |")
        title = "reserved" if page_size == longest_text else "paged"
        print(f"{title:9}{memory}")


def show_waste(reserving, paging):
    """Print how much of the memory that is taken stays empty."""
    print("\nPositions that all texts together take: how many of these are empty, how many are")
    print("taken at most, and on average. # is drawn for two that hold something, . for two empty.")
    print("               empty   at most   on average")
    rows = {f"reserve {longest_text}": reserving}
    rows |= {f"pages of {page_size}": use for page_size, use in paging.items()}
    for title, use in rows.items():
        bar = "#" * round(use.mean_used / 2) + "." * round((use.mean_taken - use.mean_used) / 2)
        print(f"{title:12}{waste(use):6.1f} %{use.peak:10d}   {bar}")


# === REPEATED from microgpt.py, word for word ===
def encode(name, chars):
    """The tokens of a name: the numbers of its letters, with a boundary in front and behind.

    The token of a letter is its place in chars, and the boundary is the number after the last of
    them. With chars a to z, "anna" becomes

        [26, 0, 13, 13, 0, 26]        boundary a n n a boundary

    Raises ValueError if a letter of the name is not in chars.
    """
    boundary = len(chars)
    return [boundary, *[chars.index(letter) for letter in name], boundary]


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


# --- AUTOGRAD DIFFERENCES IN THIS SCRIPT ---
# None. This is the engine of microgpt and of docs/autograd-interface.md.


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


def embed(model, token, position):
    """The vector [n_embd] that a position starts with: which token it has, and where it stands.

    Attention by itself would not know the order of the letters. The position embedding tells it.
    """
    tok_emb = model["wte"][token]
    pos_emb = model["wpe"][position]
    return rmsnorm([t + p for t, p in zip(tok_emb, pos_emb)])


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


def print_results(rows):
    """Print the results: one per line, with its name, its value, and the bound it has to meet."""
    print("\n=== results ===")
    for name, value, bound in rows:
        text = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{text:<8} {bound}".rstrip())


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
