"""Round every weight to one byte, or to half a byte, and the model still works.

The problem: a trained model is a long list of numbers, its weights. As a float32, a weight takes 4
bytes, so 7 billion weights take 28 GB. To write one token, a GPT needs nearly all of them. So they
have to fit into memory, and have to be read from there for every token. Both would be easier if a
weight took fewer bits. (Models of this size are usually distributed with 16 bits per weight.
Compared with that, 8 bits are only 2 times smaller. Below, sizes are compared with float32.)

The idea: choose points at equal distances, like the marks of a ruler. For each weight, store only
the number of the nearest point, which is a small integer. For many weights together, store once how
far the points are apart. This distance is called the scale. Whoever needs a weight computes its
point from the integer and the scale. The result is off by half a scale at most. There are 256
integers of 8 bits, so the scale can be small. There are only 16 of 4 bits, so it is larger.

    1. absmax: choose the scale, so that the weight that is farthest from 0 gets the largest integer
       or minus that. The integers of 4 bits are -8 to 7. They are used from -7 to 7, so that both
       sides of 0 are alike, and -8 stays unused.
    2. quantize: divide each weight by the scale and round to the nearest integer. dequantize:
       multiply the integers by the scale, which restores the weights up to an error.
    3. zero_point: choose the scale in another way. The points reach about from the smallest weight
       to the largest, and one of them is 0.0. The integer that stands for 0.0 is stored as well.
       It is added when a weight is quantized, and subtracted when it is restored.
    4. pack: write the integers into bytes, one per byte with 8 bits, two per byte with 4 bits.
       unpack: read them again.
    5. compress: make the bytes of a matrix. One large weight is enough to make a scale large. So
       two ways are compared: one scale for the whole matrix, and one for each row. A row has fewer
       weights, so its scale is mostly smaller. restore: make the matrix again.
    6. round_model: take every matrix of a trained model to bytes and back. measure: count the
       bytes, and compute the loss on names that training has not seen.

absmax is that of Dettmers et al. (2022), section 2.1. The zero point is that of Jacob et al.
(2018), equations 1 and 12. Krishnamoorthi (2018) has the range that always includes 0.0, in section
2.1, and the scale per row, in section 2.6. In papers a scale per row is called per-channel, and a
scale per matrix per-tensor or per-layer. The model is that of microgpt, after Andrej Karpathy
(2026). It is the only model measured here, and with 4,192 weights a very small one. It computes
with restored weights, in Python's floats. So the bytes that a file would have are counted, but
nothing in this script runs faster or takes less memory.

Production systems do more. Often 32 to 128 weights of a row share a scale. Dettmers et al. also
round the inputs, multiply integers, and keep outliers among the inputs in 16 bits. GPTQ (Frantar et
al. 2022) rounds the weights of a row one by one. After each, it changes those that are not yet
rounded, so that they make up for the error of the output.
"""

import collections
import functools
import hashlib
import itertools
import math
import os
import random
import struct
import time
import urllib.request

# === CONSTANTS ===
five_weights = (0.70, -0.20, 0.04, 0.26, -0.13)  # the example that can be rounded by hand
outlier_row = (0.50, 2.10, -0.30, 0.20, -0.40)  # five more, one of them far larger than the rest
precisions = (8, 4, 2)  # bits per weight to compare
num_heldout = 500  # names to judge each version of the model by; no training step sees them
num_samples = 8  # names that each version writes
n_embd = 16  # numbers per token, as in microgpt
# the following are read by the code that is repeated from microgpt, near the end
n_head = 4  # attention heads
n_layer = 1  # layers of attention and MLP
block_size = 16  # the context: a boundary and 15 letters
num_steps = 1000  # training steps, one name each
learning_rate = 0.01  # of the first training step; it falls linearly to 0
beta1 = 0.85  # Adam averages gradients: how much of the old average is kept
beta2 = 0.99  # the same for the average of squared gradients
eps_adam = 1e-8  # keeps Adam's division finite
temperature = 0.5  # of sampling: below 1, probable letters become more probable still

# === BORROWED from microgpt.py: what you need to know of it ===
# - init_model() makes the matrices of a GPT {name: matrix}, and train() trains them. A matrix is a
#   list of rows. wte and wpe hold a vector for each token and position. The matrices named attn and
#   mlp, and lm_head, are multiplied with vectors.
# - Training needs numbers that remember how they were computed. as_values() and as_floats() copy a
#   model to such numbers and back to floats.
# - encode() turns a name into tokens, with the same boundary token before and after it. spell()
#   turns tokens into letters.
# - name_loss() is the mean of -log p(next token) over a name. A blind guess has a loss of 3.30.
# - sample() lets a model write a name.


# === ROUNDING: one scale for many weights, and an integer for each ===
#
# A stored weight is an integer q. Two more numbers say what the integers mean: the scale S, and the
# zero Z, which is the integer that stands for 0.0. A weight w is rounded to q and restored as r:
#
#     q = round(w / S) + Z, clipped to the integers of so many bits
#     r = S * (q - Z)        (Jacob et al. 2018, eq. 1)
#
# Clipped means that an integer beyond the smallest or the largest becomes that one. So r can only
# be one of a few points, which are S apart. S and Z together are called a grid.

Grid = collections.namedtuple("Grid", "scale zero")


def smallest_int(bits):
    """The smallest integer of so many bits: -128 with 8 bits, -8 with 4, -2 with 2."""
    return -(2 ** (bits - 1))


def largest_int(bits):
    """The largest integer of so many bits: 127 with 8 bits, 7 with 4, 1 with 2."""
    return 2 ** (bits - 1) - 1


def absmax(weights, bits):
    """The grid in which the weight that is farthest from 0 gets the largest integer, or minus that.

    The five weights 0.70, -0.20, 0.04, 0.26, -0.13 have the scale 0.70 / 7 = 0.1 with 4 bits. The
    zero is 0.

    With 2 bits there are only the points -S, 0 and S, and S is the size of the weight farthest from
    0. All weights nearer to 0 than half of that become 0. In the trained model these are 92 percent
    of the weights, with one scale per matrix. Its loss is then 3.07, and a blind guess has 3.30.

    Dettmers et al. (2022, section 2.1) multiply a tensor by 127 / max |number|, which is 1 / scale.
    """
    # S = max |weight| / largest integer
    scale = max(abs(weight) for weight in weights) / largest_int(bits)
    return Grid(stored_scale(scale), 0)


def quantize(weights, grid, bits):
    """Round weights to the nearest points of the grid. Return the integers of these points.

    The five weights in 4 bits, with the grid of absmax:

        weight            0.70   -0.20    0.04    0.26   -0.13
        weight / scale    7.0    -2.0     0.4     2.6    -1.3
        integer           7      -2       0       3      -1
        restored          0.70   -0.20    0.00    0.30   -0.10
        error             0.00    0.00   -0.04    0.04    0.03

    No error exceeds half a scale, 0.05, because the points are 0.1 apart and reach the outermost
    weight.
    """
    ints = []
    for weight in weights:
        q = round(weight / grid.scale) + grid.zero
        # The points reach all weights, so clipping hardly ever acts (see zero_point for a case).
        ints.append(max(smallest_int(bits), min(largest_int(bits), q)))
    return ints


def dequantize(ints, grid):
    """The restored weights that the integers stand for."""
    # r = S * (q - Z)
    return [grid.scale * (q - grid.zero) for q in ints]


def zero_point(weights, bits):
    """The grid that reaches about from the smallest weight to the largest, with all its gaps.

    absmax reaches equally far to both sides of 0. If the weights do not, some of its points lie
    where no weight is. Here the points reach from low to high, so they can be closer together. low
    is the smallest of the weights and 0.0, and high the largest. 0.0 is included, so that one of
    the integers stands for it. Then a weight of 0.0, such as a removed connection, stays 0.0.

    The 16 integers of 4 bits have 15 gaps, of which absmax uses 14. (With 2 bits it uses 2 of 3.)
    Here all are used:

        S = (high - low) / (2^bits - 1)        (Jacob et al. 2018, eq. 12)

    The weight `low` shall get the smallest integer, -8 with 4 bits. So low / S + Z = -8, and Z is
    -8 - low / S. But Z has to be an integer, too:

        Z = round(-8 - low / S)

    The five weights reach from -0.20 to 0.70. So S = 0.90 / 15 = 0.06. Z = round(-8 + 3.33) = -5:

        weight            0.70   -0.20    0.04    0.26   -0.13
        weight / scale   11.7    -3.3     0.7     4.3    -2.2
        rounded          12      -3       1       4      -2
        integer           7      -8      -4      -1      -7       rounded + zero
        restored          0.72   -0.18    0.06    0.24   -0.12
        error             0.02    0.02    0.02   -0.02    0.01

    A point is S * (q - Z), and Z is off by a half at most. So all points are moved by half a scale
    at most. Here they reach from 0.06 * (-8 - -5) = -0.18 to 0.06 * (7 - -5) = 0.72.

    This can leave a weight half a gap outside of all points. With weights from -3.5 to 11.5, S is
    1, and Z is -4.5 rounded to -4. (round() takes a half to the even side.) 11.5 becomes 12, and
    12 - 4 = 8 is clipped to 7.
    """
    low = min(0.0, min(weights))
    high = max(0.0, max(weights))
    # S = (high - low) / (2^bits - 1)
    scale = stored_scale((high - low) / (2**bits - 1))
    # Z = round(smallest - low / S)
    zero = round(smallest_int(bits) - low / scale)
    return Grid(scale, zero)


def as_float32(x):
    """The float32 that is nearest to x: what is left of a Python float in 4 bytes."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def stored_scale(scale):
    """The scale as a float32, as a file holds it. It is 1.0 and not 0.0 if all weights are 0.0."""
    rounded = as_float32(scale)
    return rounded if rounded > 0 else 1.0


# === BYTES: integers of 4 bits, two in each ===
#
# A Python list takes 8 bytes for each element, however small the integer is. To save memory, the
# integers have to become bytes. A byte has 8 bits, and half a byte is called a nibble.


def pack(ints, bits):
    """Write integers of 8, 4 or 2 bits into bytes: one, two or four in each. Return the bytes.

    A negative integer is stored as itself plus 2^bits, which is called two's complement. With 4
    bits, -2 becomes 14, in binary 1110. The first integer of a byte takes its lowest bits, which
    are written on the right. The five integers of absmax, 7 -2 0 3 -1, become three bytes:

        first   second      byte
         7      -2          1110 0111        14 * 16 + 7 = 231
         0       3          0011 0000         3 * 16 + 0 =  48
        -1      none        0000 1111         0 * 16 + 15 = 15
    """
    per_byte = 8 // bits
    packed = bytearray()
    for start in range(0, len(ints), per_byte):
        byte = 0
        for place, q in enumerate(ints[start : start + per_byte]):
            unsigned = q if q >= 0 else q + 2**bits
            byte += unsigned << (place * bits)  # << moves the bits to the left, to their place
        packed.append(byte)
    return bytes(packed)


def unpack(packed, bits, count):
    """Read the first `count` integers from bytes. The last byte may have room for more."""
    per_byte = 8 // bits
    ints = []
    for byte in packed:
        for place in range(per_byte):
            # 1110 0111 >> 4 is 1110. % 16 keeps the last four bits: 1110 0111 % 16 is 0111.
            unsigned = (byte >> (place * bits)) % 2**bits
            q = unsigned if unsigned <= largest_int(bits) else unsigned - 2**bits
            ints.append(q)
    return ints[:count]


# === ONE SCALE FOR MANY WEIGHTS: the largest of them decides how exact the others are ===
#
# An outlier is a weight that is far larger than the others. With absmax it gets the largest integer
# and loses almost nothing. But it makes the scale large, and with it the errors of all others
# (Dettmers et al. 2022, section 3). If each row has its own scale, an outlier harms only its row.
#
# Rows help without outliers, too. The largest of the 16 weights of a row (64 in mlp_fc2) is mostly
# smaller than the largest of the whole matrix, and so the scale is smaller. In the model that is
# trained here, this is nearly all that rows gain. With absmax and 4 bits, the root mean square of
# the errors is 0.141 of that of the weights with one scale, and 0.088 with rows (a mean over the
# matrices). If the weights of each matrix are shuffled first, the rows differ only by chance. They
# still gain as much: 0.091, the mean of 200 shuffles, which were made outside this run. Only in
# lm_head the shuffling harms clearly, with 0.089 instead of 0.077.
#
# The price is 4 bytes per row, and one more integer with zero_point. At 4 bits, the integers of a
# row take 8 bytes if it has 16 weights, and 2048 if it has 4096. So the price hardly matters in
# wide rows. But the largest of 4096 weights tends to be larger than the largest of 16, and so does
# the scale. So large models often divide their rows.


def flat(matrix):
    """All numbers of a matrix, as one list."""
    return [x for row in matrix for x in row]


def in_rows(numbers, columns):
    """Cut a list into rows of so many numbers. A matrix is restored from flat() in this way."""
    return [numbers[start : start + columns] for start in range(0, len(numbers), columns)]


# find_grid is absmax or zero_point.
Method = collections.namedtuple("Method", "bits find_grid per_row")
Stored = collections.namedtuple("Stored", "ints scales zeros")  # the bytes of a matrix


def compress(matrix, method):
    """A matrix of floats as bytes: integers, scales and zeros. A name and a shape are not counted.

    The zeros of absmax are all 0, so they are not stored. Those of zero_point are packed like the
    weights. With 4 bits, 16 rows need 8 bytes for their zeros. A single zero needs a whole byte.
    """
    # The weights of a group share a grid. A group is a row, or else the whole matrix.
    groups = matrix if method.per_row else [flat(matrix)]
    ints = []
    scales = []
    zeros = []
    for group in groups:
        grid = method.find_grid(group, method.bits)
        ints += quantize(group, grid, method.bits)
        scales.append(grid.scale)
        zeros.append(grid.zero)
    packed_scales = struct.pack(f"<{len(scales)}f", *scales)  # "<3f" means three float32
    packed_zeros = pack(zeros, method.bits) if method.find_grid is zero_point else b""
    return Stored(pack(ints, method.bits), packed_scales, packed_zeros)


def restore(stored, rows, columns, method):
    """The matrix [rows][columns] that the bytes of compress() stand for."""
    num_groups = rows if method.per_row else 1  # groups of weights that share a grid
    group_size = rows * columns // num_groups
    ints = unpack(stored.ints, method.bits, rows * columns)
    scales = struct.unpack(f"<{num_groups}f", stored.scales)
    zeros = [0] * num_groups
    if method.find_grid is zero_point:
        zeros = unpack(stored.zeros, method.bits, num_groups)
    weights = []
    for i, group in enumerate(in_rows(ints, group_size)):  # the integers of each group
        weights += dequantize(group, Grid(scales[i], zeros[i]))
    return in_rows(weights, columns)


def round_model(model, method):
    """Take every matrix of a model to bytes and back. Return the restored model, and the bytes."""
    restored = {}
    stored = {}
    for name, matrix in model.items():
        stored[name] = compress(matrix, method)
        restored[name] = restore(stored[name], len(matrix), len(matrix[0]), method)
    return restored, stored


# === WHY ROUNDING IS CHEAP: errors are small, and small errors cost little ===
#
# First, half a scale is not much in comparison with the usual weight. (The root mean square of
# some numbers is called the usual one here.) The scale of absmax is the largest weight divided
# by 127 or 7. In this model the weights have roughly a normal distribution, as they had at the
# start of its training. So the largest is only a few times the usual one. An output of a matrix is
# a sum of products. These have both signs, and so have their errors. So the errors cancel as much
# as the products do, and an output is off by about as large a part as the weights. In a trial with
# 4 bits outside this run, the weights of the matrices other than wte and wpe were off by 0.13 to
# 0.16 of the usual weight, and the outputs of these matrices by 0.07 to 0.16 of the usual output.
#
# Second, small errors cost very little. If the weights w_i have the errors e_i, the loss becomes
#
#     loss(w + e) = loss(w) + sum of g_i e_i + sum of h_ij e_i e_j + further terms
#
# g_i is the gradient by w_i (the derivative of the loss), and h_ij half a second derivative. In the
# first sum, ups and downs mostly cancel: with 4 bits, the sum of all |g_i e_i| is 0.038 of the
# loss, and that of g_i e_i is -0.0015 of it (measured outside this run). That training has made the
# g_i small adds less to this: in the untrained model, they are 3 to 4 times as large.
#
# If all errors change their sign, so does the first sum, but not the second. The second grows with
# the square of the errors. So an error that is half as large costs a quarter. With 4 bits, errors
# twice as large made what does not change its sign 3.9 to 4.1 times as large (seeds 42 to 46). What
# changes its sign is doubled with 8 bits, but not with 4: there, further terms matter. Why the
# second sum is small is not derived here: that 4 bits cost so little is a measurement. With 8 bits
# the first sum can be the larger one, and the loss may even fall.


def root_mean_square(xs):
    """The usual size of some numbers, whatever their signs."""
    return math.sqrt(mean([x * x for x in xs]))


def relative_error(matrix, restored):
    """The usual error of the weights of a restored matrix, divided by the usual weight."""
    errors = []
    for weight, restored_weight in zip(flat(matrix), flat(restored)):
        errors.append(restored_weight - weight)
    return root_mean_square(errors) / root_mean_square(flat(matrix))


def expected_error(matrix, bits):
    """The relative error of absmax with one scale, if errors are spread evenly over -S/2 to S/2.

    The mean of x^2 is S^2 / 12 for such x, so the usual error is S / sqrt(12). If the largest is 4
    times the usual weight, then with 8 bits that is 4 / 127 / sqrt(12) = 0.009 usual weights. With
    2 bits it does not hold: most weights become 0, and their errors are the weights themselves.
    """
    scale = absmax(flat(matrix), bits).scale
    return scale / math.sqrt(12) / root_mean_square(flat(matrix))


def enlarge_errors(model, restored, factor):
    """The model w + factor * e, if w are the weights of `model` and w + e those of `restored`."""
    enlarged = {}
    for name, matrix in model.items():
        enlarged[name] = []
        for row, restored_row in zip(matrix, restored[name]):
            enlarged[name].append([w + factor * (r - w) for w, r in zip(row, restored_row)])
    return enlarged


# === HOW GOOD IS IT: bytes, errors, and the loss on names that training has not seen ===
Increase = collections.namedtuple("Increase", "mean standard_error")
Measured = collections.namedtuple("Measured", "model weight_bytes all_bytes errors losses increase")


def float32_model(model):
    """A copy of a model of floats in which every weight is a float32: the one to compare with."""
    rounded = {}
    for name, matrix in model.items():
        rounded[name] = [[as_float32(weight) for weight in row] for row in matrix]
    return rounded


def float32_bytes(model):
    """The number of bytes of a model whose weights are float32."""
    return 4 * sum(len(flat(matrix)) for matrix in model.values())


def relative_errors(model, restored):
    """The relative error of each matrix of a restored model."""
    return {name: relative_error(model[name], restored[name]) for name in model}


def all_losses(model, heldout):
    """The loss of each held-out name, which is given as its tokens."""
    return [name_loss(model, tokens) for tokens in heldout]


def relative_increase(losses, float_losses):
    """The increase of the loss, name by name, divided by the mean loss before rounding.

    Returns the mean and its standard error, which says how far the mean may be off because other
    names could have been held out. It does not say what another training run would give.
    """
    unit = mean(float_losses)
    increases = [(loss - before) / unit for loss, before in zip(losses, float_losses)]
    center = mean(increases)
    variance = math.fsum((x - center) ** 2 for x in increases) / (len(increases) - 1)
    return Increase(center, math.sqrt(variance / len(increases)))


def measure(model, method, heldout, float_losses):
    """Round a model by a method, and find out what that costs.

    Returns the restored model, the bytes of its integers and of all that is stored, the relative
    error of each matrix, the loss of each held-out name, and the relative increase of the loss.
    """
    restored, stored = round_model(model, method)
    weight_bytes = sum(len(parts.ints) for parts in stored.values())
    grid_bytes = sum(len(parts.scales) + len(parts.zeros) for parts in stored.values())
    losses = all_losses(restored, heldout)
    return Measured(
        restored,
        weight_bytes,
        weight_bytes + grid_bytes,
        relative_errors(model, restored),
        losses,
        relative_increase(losses, float_losses),
    )


def worst_ratio(row_errors, matrix_errors):
    """Which part of its error a matrix keeps if it gets a scale per row: the largest such part."""
    return max(row_errors[name] / matrix_errors[name] for name in row_errors)


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)

    # Five weights by hand, their bytes, and what an outlier does to weights that share its scale.
    show_five_weights(five_weights)
    show_outlier(five_weights, outlier_row, 4)

    # A trained model, and names that it has not seen. Some names stand in the list twice.
    names = load_names()
    random.shuffle(names)
    chars = sorted(set("".join(names)))
    trained = set(names[:num_steps])
    others = [name for name in dict.fromkeys(names) if name not in trained]
    heldout = [encode(name, chars) for name in others[:num_heldout]]
    model = as_values(init_model(len(chars) + 1, n_embd))
    print(f"\nTraining a model on {num_steps} names. {num_heldout} others are held out:")
    show_training(train(model, names[:num_steps], chars), num_steps)
    model = float32_model(as_floats(model))

    # Why is rounding cheap?
    float_losses = all_losses(model, heldout)
    show_weights(model)
    show_enlarged(model, heldout, mean(float_losses))

    # What does each method cost, in bytes and in loss? With zero_point and 4 bits, rows cost less
    # loss than one scale on seeds 43 to 46. Here the difference is within its standard error.
    float_bytes = float32_bytes(model)
    found = {}
    show_heading(float_bytes, mean(float_losses))
    for choice in itertools.product(precisions, (absmax, zero_point), (False, True)):
        method = Method(*choice)
        found[method] = measure(model, method, heldout, float_losses)
        show_method(method, found[method], float_bytes)
    int8, int4, int2 = [found[Method(bits, absmax, False)] for bits in (8, 4, 2)]
    int4_rows = found[Method(4, absmax, True)]
    rows_ratio = worst_ratio(int4_rows.errors, int4.errors)
    print(f"With 4 bits and absmax, rows leave at most {rows_ratio:.4f} of the error of a matrix.")
    show_samples({32: model, 8: int8.model, 4: int4.model, 2: int2.model}, chars)

    # All results are of absmax. Those of "rows" are with a scale per row, the others with one per
    # matrix. The comments give the ranges over seeds 42 to 46.
    rows_bound = f"< {int4.increase.mean:.4f}"
    print_results(
        [
            ("float_loss", mean(float_losses), "< 2.45"),  # 2.31 to 2.37
            ("int8_loss_increase", int8.increase.mean, "<= 0.1"),  # 0.0000 to 0.0002: a loose bound
            ("int4_loss_increase", int4.increase.mean, "<= 0.25"),  # 0.0033 to 0.0108: loose too
            ("int2_loss_increase", int2.increase.mean, "> 0.1"),  # 0.26 to 0.38
            ("int4_rows_increase", int4_rows.increase.mean, rows_bound),  # 0.0001 to 0.0033
            ("rows_error_ratio", rows_ratio, "< 1"),  # 0.70 to 0.77
            ("int8_weights_ratio", float_bytes / int8.weight_bytes, "== 4"),
            ("int4_weights_ratio", float_bytes / int4.weight_bytes, "== 8"),
            ("int8_ratio", float_bytes / int8.all_bytes, ""),
            ("int4_ratio", float_bytes / int4.all_bytes, ""),
            ("int4_rows_ratio", float_bytes / int4_rows.all_bytes, ""),
            ("runtime_seconds", time.perf_counter() - started, "< 360"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_numbers(title, numbers, form):
    """Print a title and some numbers in one line, each number in the same form."""
    print(f"{title:<18}" + "".join(format(number, form) for number in numbers))


def show_errors_of(restored, weights):
    """Print by how much some restored weights are larger than the weights."""
    errors = [round(r - weight, 2) for r, weight in zip(restored, weights)]
    show_numbers("  error", [error + 0.0 for error in errors], "8.2f")  # -0.0 becomes 0.0


def show_five_weights(weights):
    """Print how a few weights are rounded to 4 bits, and how two of the integers share a byte."""
    print("Five weights, rounded to integers of 4 bits:")
    show_numbers("weight", weights, "8.2f")
    for find_grid in (absmax, zero_point):
        grid = find_grid(weights, 4)
        ints = quantize(weights, grid, 4)
        restored = dequantize(ints, grid)
        print(f"{find_grid.__name__}: scale {grid.scale:.2f}, zero {grid.zero}")
        show_numbers("  integer", ints, "8d")
        show_numbers("  restored", restored, "8.2f")
        show_errors_of(restored, weights)
    print("Restored is scale * (integer - zero). Is any error larger than half a scale?")
    first, second = quantize(weights[:2], absmax(weights, 4), 4)
    packed = pack([first, second], 4)
    byte = format(packed[0], "08b")
    print("\nTwo integers of absmax in one byte, the first on the right. A negative integer is")
    print(f"stored as itself plus 16. {first} is {byte[4:]} and {second} is {byte[:4]}.")
    print(f"The byte is {byte[:4]} {byte[4:]} = {packed[0]}. Read again: {unpack(packed, 4, 2)}")


def show_outlier(first_row, second_row, bits):
    """Print how two rows are restored, with one scale for both and with a scale for each."""
    print(f"\nWhat an outlier does, with absmax and {bits} bits: the five weights again, in a")
    print("matrix with a second row. Its 2.10 is an outlier. Which row gains from its own scale?")
    matrix = [list(first_row), list(second_row)]
    for row in matrix:
        show_numbers("weight", row, "8.2f")
    for per_row in (False, True):
        method = Method(bits, absmax, per_row)
        groups = matrix if per_row else [flat(matrix)]
        scales = [f"{absmax(group, bits).scale:.2f}" for group in groups]
        title = "a scale for each row: " if per_row else "one scale: "
        print(title + " and ".join(scales))
        restored = restore(compress(matrix, method), 2, len(first_row), method)
        for row, restored_row in zip(matrix, restored):
            show_errors_of(restored_row, row)


def show_weights(model):
    """Print how the weights are distributed, beside the normal distribution, and their errors."""
    ratios = []  # of each weight and the usual weight of its matrix
    for matrix in model.values():
        usual = root_mean_square(flat(matrix))
        ratios += [weight / usual for weight in flat(matrix)]
    largest = math.ceil(10 * max(abs(ratio) for ratio in ratios)) / 10
    print("\nWhy is rounding cheap? A small scale makes small errors, and these cost little loss.")
    print("absmax makes the scale from the largest weight of a matrix. That is at most")
    print(f"{largest:.1f} times the usual weight (the root mean square):")
    print("weight / usual   percent of weights   of a normal distribution   one # per percent")
    for low in range(-5, 5):
        percent = 100 * mean([low <= ratio < low + 1 for ratio in ratios])
        normal = 50 * (math.erf((low + 1) / 2**0.5) - math.erf(low / 2**0.5))
        line = f"{low:5d} to {low + 1:2d}{percent:17.1f}{normal:23.1f}          "
        print(f"{line}{'#' * round(percent)}".rstrip())
    print("\nThe usual error of a weight, divided by the usual weight: a mean over the matrices")
    print("(absmax, one scale for each matrix). An error of scale / sqrt(12) is expected:")
    print("bits   expected   measured")
    for bits in (8, 4):
        expected = mean([expected_error(matrix, bits) for matrix in model.values()])
        restored, _ = round_model(model, Method(bits, absmax, False))
        measured = mean(list(relative_errors(model, restored).values()))
        print(f"{bits:4d}{expected:11.4f}{measured:11.4f}")


def show_enlarged(model, heldout, float_loss):
    """Print what the errors cost: a part that changes its sign with them, and a part that stays.

    The part that stays is the mean of the increases with w + e and w - e.
    """
    print("\nIncrease of the held-out loss if weights w become w + e, divided by the loss before")
    print(f"rounding, {float_loss:.4f}. e is the errors of absmax with one scale per matrix. The")
    print("increase is the sum of two parts. If all errors change their sign, the first part does")
    print("so, and the second stays. Is this 4 times as large if errors are twice as large?")
    print("bits   errors   changes sign      stays   increase")
    for bits, factor in itertools.product((8, 4), (1, 2)):
        restored, _ = round_model(model, Method(bits, absmax, False))
        losses = all_losses(enlarge_errors(model, restored, factor), heldout)
        opposite_losses = all_losses(enlarge_errors(model, restored, -factor), heldout)
        increase = mean(losses) / float_loss - 1
        opposite = mean(opposite_losses) / float_loss - 1
        stays = (increase + opposite) / 2
        size = {1: "e", 2: "2 e"}[factor]
        print(f"{bits:4d}{size:>9}{increase - stays:15.6f}{stays:11.6f}{increase:11.6f}")


def show_heading(float_bytes, float_loss):
    """Print the heading of the table of methods, and what they are compared with."""
    print("\nEach method. All: bytes of integers, scales and zeros. Smaller: bytes of float32 /")
    print("all. Error: of the weights. Increase: of the loss, as above, +- its standard error over")
    print("held-out names, for this one model. Another training run can put close results in")
    print("another order. A small increase can be below 0, as its first part has either sign.")
    print("                              integers     all  smaller   error    loss    increase")
    line = f"32 bits, float32{float_bytes:22d}{float_bytes:8d}{1:9.2f}"
    print(f"{line}{float_loss:16.4f}")


def show_method(method, measured, float_bytes):
    """Print one line of the table of methods."""
    line = f"{method.bits:2d} bits, {method.find_grid.__name__:10}"
    line += " per row   " if method.per_row else " per matrix"
    line += f"{measured.weight_bytes:8d}{measured.all_bytes:8d}"
    line += f"{float_bytes / measured.all_bytes:9.2f}{mean(list(measured.errors.values())):8.4f}"
    line += f"{mean(measured.losses):8.4f}{measured.increase.mean:10.5f}"
    print(f"{line} +- {measured.increase.standard_error:.5f}")


def show_samples(models, chars):
    """Print names by each version {bits: model}. All start from the same random state."""
    print("\nNames by each version of the model (absmax, one scale for each matrix):")
    state = random.getstate()
    for bits, model in models.items():
        random.setstate(state)
        names = [spell(sample(model), chars) for _ in range(num_samples)]
        print(f"{bits:2d} bits   {' '.join(names)}")


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
