"""To adapt a model, train a product of two thin matrices beside each frozen one.

The problem: there is a trained model, and there is new text at which it should become better. The
plain way is full fine-tuning: train the model further, with all of its parameters, on the new text.
That is expensive. Parameters are the numbers in the model. Training needs a gradient for each of
them, and Adam, the usual optimizer, keeps two more numbers for each that it trains. In the end
there is a second model, as large as the first. Every other kind of new text needs one more.

The idea of low-rank adaptation (LoRA): leave the model as it is, and train a correction beside it.
A model consists mostly of matrices. The correction of a matrix W has to have the shape of W, so it
seems to need as many numbers. But it can be a product B A of two thin matrices: A has only r rows,
and B has only r columns. The small number r is called the rank. With r = 1, a correction of 1000 x
1000 numbers is made of 1000 + 1000. Something is lost: most corrections are no such product. Let x
be a vector that W multiplies. Then A x is only r numbers, and B (A x) is the sum of the r columns
of B, each times one of these numbers. So whatever x is, the result is a mixture of r directions.
Still, a small r may be enough. For a single x, each entry of the gradient of W is a number of its
row times a number of its column, so it is a product of rank 1. Training adds up many of these. LoRA
assumes that r directions are enough to adapt a model, which experiments have to support. All the A
and B together are called an adapter.

The model stays frozen: its own numbers never change. So the adapter can be taken off again, and the
old model is there. Or the adapter can be merged, which means that each correction is added to its
matrix. Then the adapted model needs no more operations than the old one. But while an adapter is
on, the model may be worse at the old text. This is called forgetting here, and it is measured.

    1. split_half: the text is a list of 32,000 first names. Those that begin with A to M, 70 % of
       them, are called half a, and the others half b. (The halves are unrelated to the matrices A
       and B.) The base is a GPT that train() has trained on half a only.
    2. adapted_linear: where the base multiplies a matrix W with a vector x, add B (A x).
    3. init_adapter: B starts at 0, so that the adapter changes nothing at first. A starts at random
       numbers, because nothing would ever move with zeros in both.
    4. fine_tune: train on half b. Gradients flow through the whole model, but the optimizer is
       given A and B alone. If it is given everything instead, this is full fine-tuning.
    5. merge: replace each W by W + B A. To take the adapter off, use the base.
    6. name_losses: judge all models on both halves. A model that only learns to begin with N to Z
       already gets better on half b and worse on half a. So the loss of the first letter and the
       loss of the later letters are measured separately as well.

The paper is Hu et al. (2021): the names A and B are theirs, and so are equation 3 and section 4.1,
which are cited below. The paper multiplies the correction by alpha / r, with a constant alpha, so
that one learning rate suits several r. This is left out, and the one rate that is used here for two
ranks is a compromise. The paper mostly adapts two matrices per layer, wq and wv, which make the
queries and the values of attention. Here all seven matrices that are multiplied with a vector get a
correction. Only the two tables get none: the rows of wte and wpe are looked up, one per token and
one per position. The base is the GPT of microgpt, after Andrej Karpathy (2026).
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
half_a = "abcdefghijklm"  # first letters of the names that the base learns
half_b = "nopqrstuvwxyz"  # first letters of the names that it is adapted to
ranks = (1, 4)  # r: rows of A and columns of B; one adapter is trained for each
tables = ("wte", "wpe")  # they get no corrections; full fine-tuning trains them, too
adapt_steps = 250  # steps of every adaptation, one name each
# Learning rates of the first step, falling linearly to 1/250 of that in the last. Three were tried
# for each. The best one had the lowest loss on 500 further names of half b (seed 42). For adapters,
# this is the mean of both ranks.
adapter_rate = 0.02  # of both ranks (for rank 1 alone, 0.04 was better)
full_rate = 0.005  # of full fine-tuning (0.0025 and 0.01 were worse)
num_heldout = 500  # names of each half to judge by; no training sees them
num_compared = 100  # of the held-out names, to compare the adapted model with the merged one
num_samples = 200  # names that a model writes
num_turns = 100  # rounds of a search, for the side question behind main()
n_embd = 16  # numbers per token in the GPT
n_head = 4  # attention heads, which share those numbers
# the following are read by the code that is repeated from microgpt, near the end
n_layer = 1  # layers of attention and MLP
block_size = 16  # the longest context: a boundary and 15 letters, the longest name in the list
num_steps = 700  # steps of the base's training, one name each
learning_rate = 0.01  # of the base's training; it falls linearly to 0
beta1 = 0.85  # Adam's memory of the gradient
beta2 = 0.99  # Adam's memory of the squared gradient
eps_adam = 1e-8  # keeps Adam's division finite
temperature = 0.5  # of sampling: below 1, the most probable tokens become more probable still

# === BORROWED from microgpt.py: what you need to know of it ===
# - Value is a number that remembers how it was computed. loss.backward() finds the gradient of each
#   Value: how much the loss changes per unit of change in it. It is added to the Value's .grad.
# - A model is {name: matrix}. Its numbers are Values, which can be trained, or floats, which are
#   fast. init_model() draws floats. as_values() and as_floats() copy a model into the other kind.
# - linear() multiplies a matrix with a vector. dot() multiplies two vectors.
# - encode() puts a boundary token in front of a name and behind it. spell() undoes that.
# - gpt(model, token, position, cache) gives a score (logit) to every token that may come next. The
#   cache is {} at the start of a name, and collects what later tokens need of the earlier ones.
#   Here gpt() is not quite microgpt's, because it calls adapted_linear(). It stands under ADAPTED.
# - softmax() turns logits into probabilities. log() is the logarithm.
# - name_loss() is the mean of -log(probability) over the tokens of a name. train() trains a whole
#   model on names by this loss. sample() writes a name.
# - adam_step(params, m, v, step, rate) changes the Values in params by their gradients, and sets
#   these gradients back to 0. The lists m and v are Adam's two numbers per parameter.


# === THE CORRECTION: read r numbers from the input, and add r directions to the output ===
#
#              W, frozen
#          +----------------+
#     x ---+                +---> y = W x + B (A x)                                       (eq. 3)
#          +---- A --- B ---+
#
# x has n_in numbers, and y has n_out. W is [n_out][n_in], which means n_out rows and n_in columns.
# A is [r][n_in], and B is [n_out][r].
#
# A and B together have r * (n_in + n_out) numbers. The larger W is, the more is saved:
#
#     W                              numbers in W     in A and B together, with r = 1
#     16 x 16, attention here                 256                                  32
#     12288 x 12288, as in GPT-3      150,994,944                              24,576


def adapted_linear(x, model, name):
    """W x + B (A x) for the matrix W = model[name], or W x if it has no correction.

    x [n_in] -> [n_out]. The correction of model["lm_head"] is in model["lm_head.A"] [r][n_in] and
    model["lm_head.B"] [n_out][r], and so for every other name. With n_in = 4, n_out = 3 and r = 1:

        W = 1 0 0 1     A = 1 0 2 -1     B = 2     B A = 2 0 4 -2     W + B A = 3 0 4 -1
            0 2 0 0                          0           0 0 0  0               0 2 0  0
            1 1 1 0                          1           1 0 2 -1               2 1 3 -1

    Each row of B A is the row A, multiplied by one number of B. So the 12 numbers of B A are made
    of 7: the 3 in B and the 4 in A.

        x = 1 2 3 4     W x = 5 4 6     A x = 3     B (A x) = 6 0 3     W x + B (A x) = 11 4 9

    (W + B A) x is 11 4 9 as well. But in the order of B (A x), the matrix B A is never needed.
    """
    y = linear(x, model[name])
    if f"{name}.A" not in model:
        return y
    numbers_read = linear(x, model[f"{name}.A"])  # A x, [r]: a single number if r = 1
    correction = linear(numbers_read, model[f"{name}.B"])  # B (A x), [n_out]
    return [y_i + c_i for y_i, c_i in zip(y, correction, strict=True)]


# === THE START: B is 0, and A must not be ===
#
# Take one matrix W and one token: x is what W multiplies there, and y is W x + B (A x). Let k count
# the r rows of A, and so the r columns of B. Then
#
#     y[i] = (W x)[i] + sum over k of B[i][k] * (sum over j of A[k][j] * x[j])
#
# The inner sum is (A x)[k]. Let dL/dy[i] be the gradient with respect to y[i]: how much the loss L
# changes per unit of change in y[i]. B[i][k] occurs in y[i] alone, with the factor (A x)[k].
# A[k][j] occurs in every y[i], with the factor B[i][k] * x[j]. So the gradients are
#
#     dL/dB[i][k] = dL/dy[i] * (A x)[k]
#     dL/dA[k][j] = sum over i of dL/dy[i] * B[i][k] * x[j]
#
# The gradients of all tokens of a name add up. If B is 0, then so is B (A x), and the training
# begins with the base exactly. The gradients for A are 0 then, but those for B are not. So B moves
# in the first step, and A from the second step on. If A were 0 as well, all these gradients would
# be 0, and neither would ever move. (A = 0 with a random B would begin with the base, too.)


def init_adapter(base, rank):
    """An adapter of Values {name: matrix}, with an A and a B for each matrix but the tables.

    A [rank][n_in] is drawn from a Gaussian, and B [n_out][rank] is 0, as in section 4.1. The
    standard deviation is that of microgpt's matrices.

    Why every matrix, and not only wq and wv as in the paper? With these two alone, rank 1 reached a
    loss of 2.46 on half b at this rate, and 2.42 at higher ones. With all seven it was 2.34 to 2.37
    (seed 42, several draws of A). All but wq and wk also reached 2.37. These two decide where
    attention looks. At the first letter, which is most of what is learned here, it sees only one
    position.
    """
    adapter = {}
    for name, matrix in base.items():
        if name not in tables:
            n_out = len(matrix)
            n_in = len(matrix[0])
            a = [[random.gauss(0, 0.08) for _ in range(n_in)] for _ in range(rank)]
            adapter[f"{name}.A"] = a
            adapter[f"{name}.B"] = [[0.0] * rank for _ in range(n_out)]
    return as_values(adapter)


# === THE TRAINING: frozen is what the optimizer is not given ===
def all_numbers(model):
    """The numbers of all matrices of a model, or of a part of one, in one list."""
    return [number for matrix in model.values() for row in matrix for number in row]


def fine_tune(model, trained, names, chars, first_rate):
    """Train a part of a model in place, one name per step.

    Yields the loss of each name before its step, so that show_training() can print it at once. The
    part is `trained`, a {name: matrix} with matrices of the model. Everything else is frozen.

        LoRA                 model = base | adapter     trained = adapter
        full fine-tuning     model = a copy of base     trained = model

    base | adapter is a new dictionary, but its matrices are not copies. So a step that changes the
    adapter changes the model. The learning rate falls linearly, from first_rate to nearly 0.

    LoRA saves memory: m and v have one number each per trained parameter. It could also save the
    gradients of the frozen numbers, as PyTorch does with requires_grad=False. Not those of what the
    matrices compute: the loss depends on an A and a B through all later layers. Here the base is
    made of Values, to show what "frozen" means, and gets gradients, too. The corrections are
    computed in addition. So a step of rank 1 took up to 1.5 times as long as one of full
    fine-tuning, and one of rank 4 up to 1.65 times.
    """
    params = all_numbers(trained)
    # What is frozen: nothing in full fine-tuning, and the whole base in LoRA.
    frozen = all_numbers({name: model[name] for name in model if name not in trained})
    m = [0.0] * len(params)
    v = [0.0] * len(params)
    for step, name in enumerate(names):
        loss = name_loss(model, encode(name, chars))
        loss.backward()
        rate = first_rate * (1 - step / len(names))
        adam_step(params, m, v, step + 1, rate)
        # backward() has added to the gradients of the frozen Values, too. Nothing reads them here.
        # The reset only keeps them from adding up.
        for number in frozen:
            number.grad = 0.0
        yield loss.data


# === MERGING: the correction becomes a part of the matrix ===
def merge(model):
    """A model without adapter that computes the same: every W is replaced by W + B A.

    It needs no more operations than the base. Subtracting B A gives W again, but only up to
    rounding: keep a copy of the base if you want W exactly. Several adapters can also share one
    base that is not merged, each computed beside it for its own task.
    """
    merged = {}
    for name, matrix in model.items():
        if f"{name}.A" in model:
            correction = product(model[f"{name}.B"], model[f"{name}.A"])
            merged[name] = add(matrix, correction)
        elif not name.endswith((".A", ".B")):
            merged[name] = matrix  # it has no correction
    return merged


def product(b, a):
    """The matrix product B A, of b [n_out][r] and a [r][n_in]. Returns [n_out][n_in]."""
    columns = list(zip(*a))  # the columns of A, [n_in][r]
    rows = []
    for b_row in b:
        rows.append([dot(b_row, column) for column in columns])
    return rows


def add(matrix, other):
    """The sum of two matrices of the same shape. Raises ValueError if the shapes differ."""
    rows = []
    for row, other_row in zip(matrix, other, strict=True):
        rows.append([x + y for x, y in zip(row, other_row, strict=True)])
    return rows


# === HOW GOOD IS IT: on both halves, at the first letter and at the later ones ===
#
# Rank 1 mostly learned one thing, to begin with N to Z. The base has a loss of 2.92 on half b, and
# rank 1 reached 2.34 to 2.37 (six draws of A). But a count does this as well: if only the first
# letter of the base is replaced, by the shares of first letters in the 250 names, its loss is 2.35.
# So the whole loss says little about LoRA. At the later letters, rank 1 reached 34 % of the gain of
# full fine-tuning. (A gain is a fall of the loss. All this is of seed 42.) The gains at the later
# letters of half b:
#
#     seed          42        43        44        45        46
#     rank 1    0.0258    0.0254    0.0314    0.0041   -0.0052
#     rank 4    0.0429    0.0206    0.0433    0.0256    0.0261
#     full      0.0760    0.0384    0.0698    0.0488    0.0349
#     control   0.0203    0.0128    0.0232   -0.0038   -0.0218
#
# The control is full training on 250 further names of half a instead. Its mean is 0.006, that of
# full is 0.054. So on average, little comes from more training as such. But the control varies:
# with seed 42, it has a quarter of full's gain. Adapters that were trained on half a gained next to
# nothing: rank 1 -0.007 to 0.006, and rank 4 -0.003 to 0.011.
#
# Half a never begins with N to Z, so whoever learns the first letter of half b must lose on half a.
# That letter is 94 % of the rise of rank 1 on half a. At the later letters of half a, the mean rise
# over the five seeds is 0.026 for rank 1, 0.019 for rank 4, and 0.033 for full, which also gained
# more on half b. So it is not shown whether LoRA forgets less.


def split_half(names, letters, num_train):
    """The names that begin with one of the letters: (names held out, num_train names to train on).

    A name that stands in the list twice is used once. So no name is in both.
    """
    half = [name for name in dict.fromkeys(names) if name[0] in letters]
    return half[:num_heldout], half[num_heldout : num_heldout + num_train]


def name_logits(model, tokens):
    """The logits [t][vocab_size] for every token of a name but the boundary in front of it.

    A name that is longer than the context loses its end.
    """
    cache = {}
    logits = []
    for position in range(min(block_size, len(tokens) - 1)):
        logits.append(gpt(model, tokens[position], position, cache))
    return logits


Losses = collections.namedtuple("Losses", "whole first later")


def name_losses(model, names, chars):
    """The losses of a model of floats on names. Return a Losses of three lists.

    Each list has one number per name. The loss of a token is -log(probability), measured in nats,
    the unit of the natural logarithm:

        whole    the mean over all letters of the name and the boundary behind it
        first    the loss of the first letter alone
        later    the mean over the later letters and the boundary behind the name
    """
    losses = Losses([], [], [])
    for name in names:
        tokens = encode(name, chars)
        token_losses = []
        for position, logits in enumerate(name_logits(model, tokens)):
            next_token = tokens[position + 1]
            token_losses.append(-log(softmax(logits)[next_token]))
        losses.whole.append(mean(token_losses))
        losses.first.append(token_losses[0])
        losses.later.append(mean(token_losses[1:]))
    return losses


def gains(before, after):
    """How far the loss of each name has fallen, from two lists of losses of the same names."""
    return [x - y for x, y in zip(before, after, strict=True)]


def standard_error(values):
    """How far the mean of the values is off, typically, because they are only a sample.

    That is the sample of held-out names. What another seed changes in the training is not in it.
    """
    average = mean(values)
    variance = math.fsum((value - average) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def count(model):
    """How many numbers a model has, or a part of one."""
    return len(all_numbers(model))


def count_different(model, other):
    """How many numbers of a model of floats are not exactly those of another one."""
    pairs = zip(all_numbers(model), all_numbers(other), strict=True)
    return sum(x != y for x, y in pairs)


def max_difference(model, other, names, chars):
    """The largest difference between two models in any logit, over the tokens of some names."""
    largest = 0.0
    for name in names:
        tokens = encode(name, chars)
        for logits, others in zip(name_logits(model, tokens), name_logits(other, tokens)):
            for x, y in zip(logits, others):
                largest = max(largest, abs(x - y))
    return largest


def first_letter_probs(model):
    """The probabilities [vocab_size] of all tokens behind the boundary that begins a name."""
    boundary = len(model["wte"]) - 1  # the last row of the token embeddings
    return softmax(gpt(model, boundary, 0, {}))


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    show_example()
    names = load_names()
    random.shuffle(names)
    chars = sorted(set("".join(names)))
    heldout_a, names_a = split_half(names, half_a, num_steps)
    heldout_b, names_b = split_half(names, half_b, adapt_steps)
    print(f"\nTraining the base on {len(names_a)} names from A to M, half a:")
    base = as_values(init_model(len(chars) + 1, n_embd))
    show_training(train(base, names_a, chars), num_steps)

    # All adaptations start as the base and see the same names.
    models = {"base": as_floats(base)}
    trained = {"base": base}  # what was trained: the base in train(), the rest in fine_tune()
    for rank in ranks:
        print(f"\nTraining an adapter of rank {rank} on {len(names_b)} names from N to Z, half b:")
        adapter = init_adapter(base, rank)
        show_training(fine_tune(base | adapter, adapter, names_b, chars, adapter_rate), adapt_steps)
        models[f"rank {rank}"] = as_floats(base | adapter)
        trained[f"rank {rank}"] = adapter
    print("\nFull fine-tuning on the same names:")
    full = as_values(models["base"])
    show_training(fine_tune(full, full, names_b, chars, full_rate), adapt_steps)
    models["full"] = as_floats(full)
    trained["full"] = full

    # What has each model learned about half b, and what has it forgotten about half a?
    losses_a = {title: name_losses(model, heldout_a, chars) for title, model in models.items()}
    losses_b = {title: name_losses(model, heldout_b, chars) for title, model in models.items()}
    base_a, base_b = mean(losses_a["base"].whole), mean(losses_b["base"].whole)
    show_losses(trained, losses_a, losses_b)
    lora = f"rank {ranks[0]}"  # it stands for LoRA in all that follows
    show_writing({title: models[title] for title in ("base", lora)}, chars)

    # Is merging exact? How close to rank 1 is what full fine-tuning has changed?
    merge_diff = max_difference(models[lora], merge(models[lora]), heldout_b[:num_compared], chars)
    shares = rank1_shares(changes(models["base"], models["full"]))
    random_shares = rank1_shares(random_like(models["base"]))
    random_share = mean(random_shares.values())
    show_shares(shares, random_shares)
    print_results(
        [
            ("trainable_fraction", count(trained[lora]) / count(base), "< 0.1"),
            ("base_loss_a", base_a, "< 2.5"),
            ("base_loss_b", base_b, ""),
            ("lora_loss_b", mean(losses_b[lora].whole), f"< {base_b - 0.3:.4f}"),
            ("full_loss_b", mean(losses_b["full"].whole), ""),
            ("lora_loss_a", mean(losses_a[lora].whole), f"> {base_a + 0.2:.4f}"),
            ("full_loss_a", mean(losses_a["full"].whole), ""),
            # These two and the fraction are true by construction: checks of the code, no evidence.
            ("frozen_changed", count_different(models["base"], as_floats(base)), "== 0"),
            ("merged_max_diff", f"{merge_diff:.1e}", "< 1e-9"),
            ("random_rank1_share", random_share, ""),
            ("change_rank1_share", mean(shares.values()), f"> {2 * random_share:.4f}"),
            ("runtime_seconds", time.perf_counter() - started, "< 420"),
        ]
    )


# === A SIDE QUESTION: is what full fine-tuning changes close to rank 1? ===
#
# Full fine-tuning may change a matrix in any way. Let D be the change: the matrix afterwards, minus
# the matrix before. rank1_share() measures how close to D a product of rank 1 can come. It may come
# close: at one token, dL/dW[i][j] is dL/dy[i] * x[j]. But Adam rescales every entry.
#
# What came out: 0.53 to 0.64 with seeds 42 to 46, as means over the matrices, against 0.18 to 0.19
# for random numbers. Most of the difference is not due to half b: after full training on 250
# further names of half a, the share was 0.40 to 0.49. Nor does it follow that rank 1 is enough,
# because the part that does not fit may matter.


def changes(before, after):
    """{name: after - before} for every matrix of two models of floats."""
    found = {}
    for name, matrix in before.items():
        negative = [[-x for x in row] for row in matrix]
        found[name] = add(after[name], negative)
    return found


def random_like(model):
    """A model of the same shapes, of random numbers: matrices that are not of low rank."""
    drawn = {}
    for name, matrix in model.items():
        drawn[name] = [[random.gauss(0, 1) for _ in row] for row in matrix]
    return drawn


def rank1_shares(model):
    """{name: share of the matrix that a product of rank 1 can hold}, without the two tables."""
    return {name: rank1_share(matrix) for name, matrix in model.items() if name not in tables}


def rank1_share(matrix):
    """How much of a matrix D the best product of rank 1 holds.

    The entries of the product are u[i] * v[j], with a column u and a row v. Its error is the sum of
    all (D[i][j] - u[i] * v[j]) ** 2. The share is 1 if there is no error, and 0 if the error is as
    large as the sum of all D[i][j] ** 2.

    The search begins with a random v. For a fixed v, the best u is where the error has slope 0:

        slope of the error by u[i]:    sum over j of -2 * v[j] * (D[i][j] - u[i] * v[j])
        it is 0 at                     u[i] = (sum of D[i][j] * v[j]) / (sum of v[j] ** 2)

    Then the best v for this u is found in the same way, and so on. (This is the power iteration for
    the largest singular value.)
    """
    columns = list(zip(*matrix))
    v = [random.gauss(0, 1) for _ in columns]
    for _ in range(num_turns):
        u = [dot(row, v) / dot(v, v) for row in matrix]
        v = [dot(column, u) / dot(u, u) for column in columns]
    error = 0.0
    total = 0.0
    for row, u_i in zip(matrix, u):
        for x, v_j in zip(row, v):
            error += (x - u_i * v_j) ** 2
            total += x**2
    return 1 - error / total


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_example():
    """Print the correction of a small matrix, and what it does to a vector."""
    model = {
        "w": [[1, 0, 0, 1], [0, 2, 0, 0], [1, 1, 1, 0]],
        "w.A": [[1, 0, 2, -1]],
        "w.B": [[2], [0], [1]],
    }
    x = [1, 2, 3, 4]
    correction = product(model["w.B"], model["w.A"])
    merged = merge(model)["w"]
    print("A small matrix W, and an adapter of rank 1:")
    print(" W             A             B    B A           W + B A")
    for i in range(len(merged)):
        a_row = model["w.A"][i] if i == 0 else []  # A has one row only, and it is drawn on top
        cells = [model["w"][i], a_row, model["w.B"][i], correction[i], merged[i]]
        texts = ["".join(f"{number:3.0f}" for number in row) for row in cells]
        print("{:<14}{:<14}{:<5}{:<14}{}".format(*texts).rstrip())
    num_thin = count({"A": model["w.A"], "B": model["w.B"]})
    print(f"Numbers: {count({'B A': correction})} in B A, made of the {num_thin} in A and B.")
    numbers_read = linear(x, model["w.A"])
    vectors = {
        "x": x,
        "W x": linear(x, model["w"]),
        "A x": numbers_read,
        "B (A x)": linear(numbers_read, model["w.B"]),
        "W x + B (A x)": adapted_linear(x, model, "w"),
        "(W + B A) x": linear(x, merged),
    }
    for title, vector in vectors.items():
        print(f"{title:<14}= {' '.join(f'{number:.0f}' for number in vector)}")


def show_losses(trained, losses_a, losses_b):
    """Print the mean losses of all models on both halves, and their gains at b's later letters."""
    uniform = math.log(len(half_b))
    print(f"\nLosses in nats, as means over {num_heldout} held-out names of each half.")
    print("whole: of all tokens of a name. first: of its first letter, where a uniform guess")
    print(f"from N to Z has {uniform:.3f} on half b. later: of the later letters and the end.")
    print("gain: how far later has fallen on half b, with its standard error over the names.")
    print("Seeds differ by more than this error, as the script shows under HOW GOOD IS IT.")
    print(f"{'numbers':>19}{'half a, from A to M':>27}{'half b, from N to Z':>27}")
    titles = f"{'whole   first   later':>27}"
    print(f"{'trained':>19}{titles}{titles}      gain")
    for title in trained:
        line = f"{title:<12}{count(trained[title]):7d}   "
        for half in (losses_a[title], losses_b[title]):
            line += f"   {mean(half.whole):8.3f}{mean(half.first):8.3f}{mean(half.later):8.3f}"
        if title != "base":
            gained = gains(losses_b["base"].later, losses_b[title].later)
            line += f"{mean(gained):10.4f} ({standard_error(gained):.4f})"
        print(line)


def show_writing(models, chars):
    """Print names that models write, and how probable it is that they begin with N to Z."""
    print(f"\nNames that these models write at temperature {temperature}:")
    for title, model in models.items():
        samples = [spell(sample(model), chars) for _ in range(num_samples)]
        from_b = sum(name.startswith(tuple(half_b)) for name in samples)
        probs = first_letter_probs(model)
        at_1 = math.fsum(probs[chars.index(letter)] for letter in half_b)
        print(f"{title}: {from_b} of {num_samples} begin with N to Z.")
        print(f"(At temperature 1, the probability of such a first letter is {at_1:.2f}.)")
        print(" ".join(samples[:14]))


def show_shares(shares, random_shares):
    """Print two bars per matrix: what rank 1 holds of its change, and of random numbers."""
    print("\nThe share of a matrix that the best product of rank 1 holds, from 0 to 1. It is")
    print("1 - (the sum of its squared errors) / (the sum of the squares of the matrix).")
    print(f"{'':<18}{'of what full fine-tuning changed':<35}of random numbers")
    for name, share in shares.items():
        line = f"{name:<18}{share:.2f} {'#' * round(25 * share):<30}"
        line += f"{random_shares[name]:.2f} {'#' * round(25 * random_shares[name])}"
        print(line.rstrip())


# === ADAPTED from microgpt.py: adapted_linear() stands for linear() ===
def gpt(model, token, position, cache):
    """microgpt's gpt(), in which each matrix that multiplies may have an adapter.

    Only this differs: it calls adapted_linear() with the model and the name of the matrix, where
    microgpt calls linear() with the matrix. A model without adapters gives the same scores as
    there. Returns the scores (logits) [vocab_size] of what may follow `token`, which stands at
    `position`. The cache is {} at the start of a name, then {layer: (keys, values)}.
    """
    x = embed(model, token, position)
    head_size = len(x) // n_head
    for layer in range(n_layer):
        h = rmsnorm(x)
        query = adapted_linear(h, model, f"layer{layer}.attn_wq")
        key = adapted_linear(h, model, f"layer{layer}.attn_wk")
        value = adapted_linear(h, model, f"layer{layer}.attn_wv")
        if layer not in cache:
            cache[layer] = ([], [])
        keys, values = cache[layer]
        keys.append(key)
        values.append(value)
        heads = []
        for start in range(0, len(x), head_size):
            part = slice(start, start + head_size)
            head_keys = [k[part] for k in keys]
            head_values = [v[part] for v in values]
            heads.extend(attend(query[part], head_keys, head_values))
        attended = adapted_linear(heads, model, f"layer{layer}.attn_wo")
        x = [xi + ai for xi, ai in zip(x, attended)]

        h = rmsnorm(x)
        hidden = [relu(u) for u in adapted_linear(h, model, f"layer{layer}.mlp_fc1")]
        computed = adapted_linear(hidden, model, f"layer{layer}.mlp_fc2")
        x = [xi + ci for xi, ci in zip(x, computed)]
    return adapted_linear(x, model, "lm_head")


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


def spell(tokens, chars):
    """The letters of the tokens, without boundaries: [26, 0, 13, 13, 0, 26] -> "anna"."""
    return "".join(chars[token] for token in tokens if token < len(chars))


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
