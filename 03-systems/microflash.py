"""Attention never needs the whole score matrix: a running maximum, sum and output suffice.

The problem: in attention, every position of a text looks at every other position. A dot product of
its query with the key of a position gives a score, so a text of N positions has N rows of N scores.
softmax turns a row into weights: a weight is exp(score), divided by the sum of exp() over the whole
row. The output of a position is the average of all values, with these weights. The usual way makes
all scores, then all weights, then all averages. Between these steps it has to keep an N x N matrix.
A GPU computes on its chip, where it has a small, fast memory. Beside the chip it has a large, slow
one. The matrix fits only into the slow one. So it is written there after each step and read back
for the next one, and the chip waits.

The way out would be tiling: cut the matrix into blocks that fit into the fast memory, and finish
each block there. That looks impossible. softmax divides by a sum over the whole row, so the first
weight is not known before the last score is. It also subtracts the largest score of the row from
all scores, because exp() of a large number overflows. The largest score may come last, too.

The idea: neither has to be known at the start. The division can wait. Add up exp(score) * value,
add up exp(score), and divide the one sum by the other at the end. As the maximum, use the largest
score so far, m_old. When a larger one comes, m_new, all terms so far are wrong by the same factor:

    exp(score - m_new) = exp(score - m_old) * exp(m_old - m_new)

A factor that all terms of a sum share can be applied to the sum itself. So each of the two sums is
multiplied by exp(m_old - m_new), and is right again. No old score is needed for that.

    1. add_block: take a block of a row's scores into three running figures: the maximum m, the sum
       l of exp(score - m), and the output o, which is the sum of exp(score - m) * value.
    2. Memory: simulate the two memories. The fast one refuses what does not fit. Numbers pass from
       one to the other only by load and store, which count them. This is called traffic.
    3. standard_attention: make scores, weights and averages, with the matrix in the slow memory.
    4. flash_attention: take some queries, and load the keys and values block by block. Use each
       block of scores where it was made. After the last one, divide o by l.
    5. flash_blocks: choose how many queries to take. The more fit into the fast memory, the less
       often all keys and values have to be loaded.
    6. check: compare the outputs with the definition. Then compare what both ways need and move.

m and l are by Milakov & Gimelshein (2018, algorithm 3), one score at a time. Rabe & Staats (2021)
put off the division (section 2), and rescale the output as well (section 3). FlashAttention (Dao et
al. 2022, algorithm 1) works in blocks that suit the two memories, and counts the traffic. On an
A100 it moved 4.4 GB instead of 40.3 and took 7.3 ms instead of 41.7, although it computed more
(figure 2, with the backward pass). It loads each block of keys and values once, and the queries
again for each of them. FlashAttention-2 (Dao 2023, algorithm 1) turns these loops around and
divides only at the end, as is done here. Here the memories are simulated, so nothing gets faster.
Left out are the backward pass, and all that a GPU does in parallel.
"""

import collections
import functools
import math
import os
import random
import time

# === CONSTANTS ===
d = 8  # numbers in each query, key and value; 64 or 128 in a language model
lengths = (32, 64, 128, 256)  # N, the positions of the text; each is twice the one before
fast_size = 1024  # M, how many numbers fit into the fast memory, for all of these N
fast_sizes = (256, 512, 1024, 2048)  # M again, for the largest N
odd_length = 37  # N again, for blocks that do not divide it
odd_blocks = ((1, 1), (5, 3), (3, 5), (16, 4))  # queries and keys of a block, for this N
largest_scores = (1.0, 100.0, 1000.0)  # to check with; exp() overflows from 710 on


# === ONE ROW: a single factor corrects all that came before ===
def dot(a, b):
    """The dot product of two lists of floats. Raises ValueError if their lengths differ."""
    total = 0.0  # in a loop, because the built-in sum() rounds differently from Python 3.12 on
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def softmax(logits):
    """Turn scores [n] into probabilities [n]: exp(score), divided by the sum of all exp(score).

    Subtracting the largest score changes no probability, and exp() then sees no positive number,
    which could overflow.
    """
    largest = max(logits)
    exps = [math.exp(x - largest) for x in logits]
    total = math.fsum(exps)
    return [e / total for e in exps]


def add_weighted(o, weights, values):
    """Add values to a vector, each times its weight. o [d], weights [n], values [n][d] -> [d]."""
    for weight, value in zip(weights, values, strict=True):
        o = [o_i + weight * value_i for o_i, value_i in zip(o, value, strict=True)]
    return o


Running = collections.namedtuple("Running", "m l o")  # what is kept of a row's scores and values


def add_block(running, scores, values):
    """The online softmax: take the next block of a row's scores into its running m, l and o.

    m is the largest score so far, l the sum of exp(score - m), and o [d] the sum of
    exp(score - m) * value. Each of the scores [n] has one of the values [n][d]. Before the first
    block, m is -inf, l is 0 and o is all 0. After the last block, o / l is the average of all
    values, with the weights softmax(all scores).

    An example with six scores, two in a block, and values of only one number:

        scores        values   m_old   m_new   scale   P            l      o    o / l
        ln 1   ln 2   4   8    -inf    ln 2    0       1/2   1      1.5    10   6.667
        ln 4   ln 2   2   6    ln 2    ln 4    1/2     1     1/2    2.25   10   4.444
        ln 1   ln 2   0   4    ln 4    ln 4    1       1/4   1/2    3      12   4

    The second block has a larger maximum, so the sums of the first one are halved: l becomes
    1/2 * 1.5 + 1 + 1/2, and o becomes 1/2 * 10 + 1 * 2 + 1/2 * 6. All at once, exp(score) is 1, 2,
    4, 2, 1, 2, with the sum 12, and the average is (4 + 16 + 8 + 12 + 0 + 8) / 12 = 4 as well.
    """
    # m_old: the maximum that all terms so far are relative to
    m_old = running.m
    # m_new = max(m_old, max(S)), where S are the new scores
    m_new = max(m_old, max(scores))
    # scale = exp(m_old - m_new): 1 if the maximum stays, 0 for the first block, where m_old is -inf
    scale = math.exp(m_old - m_new)
    # P = exp(S - m_new): weights that are not divided yet. They are 1 at most.
    p = [math.exp(score - m_new) for score in scores]
    # l_new = scale * l_old + sum(P)
    l_new = scale * running.l + math.fsum(p)
    # o_new = scale * o_old + P V
    o_scaled = [scale * o_i for o_i in running.o]
    o_new = add_weighted(o_scaled, p, values)
    return Running(m_new, l_new, o_new)


# === TWO MEMORIES: a large slow one, and a small fast one in which all is computed ===
#
# In an A100 40 GB, the slow memory is called HBM, and reads 1.5 TB/s. The fast one is SRAM, 192 KB
# for each of 108 processors, and reads about 19 TB/s (Dao et al. 2022, section 2.1). While one
# 16-bit number comes from HBM, the card can do about 200 multiplications and additions. A program
# that has fewer to do per number waits for memory.


class Memory:
    """Named matrices, of at most `size` numbers together.

    A matrix is reserved before it is filled, and keeps its shape until it is freed. Its rows are
    handed out as tuples, which cannot be changed. Only write() changes a row, and never its length.
    """

    def __init__(self, size):
        self.size = size
        self.used = 0  # numbers that are reserved now
        self.peak = 0  # the most that ever were
        self.read = 0  # numbers that load() read here; of interest for the slow memory
        self.written = 0  # numbers that store() wrote here; of interest for the slow memory
        self.multiplies = 0  # multiplications and divisions done in the fast memory
        self._matrices = {}  # {name: list of rows}

    def reserve(self, name, num_rows, num_columns, fill=0.0):
        """Make room for a matrix. Raises MemoryError if it does not fit.

        Raises ValueError if it has less than one row or column, or if the name is taken.
        """
        if num_rows < 1 or num_columns < 1 or name in self._matrices:
            raise ValueError(f"cannot reserve {name}, {num_rows} x {num_columns}")
        free = self.size - self.used
        if num_rows * num_columns > free:
            raise MemoryError(f"no room for {name}, {num_rows} x {num_columns}: {free} free")
        self.used += num_rows * num_columns
        self.peak = max(self.peak, self.used)
        self._matrices[name] = [(fill,) * num_columns] * num_rows

    def matrix(self, name):
        """The rows of a matrix, to read."""
        return tuple(self._matrices[name])

    def write(self, name, row, numbers, start=0):
        """Write numbers into a row, from column `start` on. Raises ValueError beyond its end."""
        old = self._matrices[name][row]
        stop = start + len(numbers)
        if start < 0 or stop > len(old):
            raise ValueError(f"{name} has {len(old)} columns, not {start} to {stop}")
        self._matrices[name][row] = old[:start] + tuple(numbers) + old[stop:]

    def free(self, *names):
        """Give up matrices."""
        for name in names:
            matrix = self._matrices.pop(name)
            self.used -= len(matrix) * len(matrix[0])


def load(slow, fast, name, rows, columns):
    """Copy a block of a matrix into the fast memory, under the same name.

    `rows` and `columns` are ranges: the place of the block in the whole matrix.
    """
    matrix = slow.matrix(name)
    fast.reserve(name, len(rows), len(columns))
    for i, row in enumerate(rows):
        fast.write(name, i, matrix[row][columns.start : columns.stop])
    slow.read += len(rows) * len(columns)


def store(fast, slow, name, rows, columns):
    """Copy a block to its place in the slow memory, and free it in the fast one."""
    for row, numbers in zip(rows, fast.matrix(name), strict=True):
        slow.write(name, row, numbers, columns.start)
    slow.written += len(rows) * len(columns)
    fast.free(name)


def blocks(n, size):
    """Cut 0 to n - 1 into ranges of `size`. The last one may be shorter.

    With n = 7 and size = 3: range(0, 3), range(3, 6), range(6, 7).
    """
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


# The functions that compute get only the fast memory, so they cannot look at a whole matrix. What
# they hold in variables of their own is not counted. It is never more than a row or two of a block,
# and stands for what a GPU keeps in its registers.


def make_scores(fast, rows, columns, causal):
    """S = Q K^T / sqrt(d), for the queries and keys in the fast memory. S [b_r][b_c].

    A block has b_r queries and b_c keys. `rows` and `columns` are its place in the N x N matrix. If
    `causal`, a query may not see later positions. Their scores become -inf, and exp(-inf) is 0.
    Dividing by sqrt(d) keeps scores from growing with the number of terms in the dot product.
    """
    fast.reserve("S", len(rows), len(columns))
    for i, query in enumerate(fast.matrix("Q")):
        scores = []
        for column, key in zip(columns, fast.matrix("K"), strict=True):
            hidden = causal and column > rows[i]
            scores.append(-math.inf if hidden else dot(query, key) / math.sqrt(d))
        fast.write("S", i, scores)
        fast.multiplies += len(scores) * (d + 1)  # hidden ones too: a GPU computes whole blocks


# === STANDARD ATTENTION: the matrix goes out and comes back, twice ===
def softmax_rows(fast):
    """P = softmax(S), in the place of S. Every row has to be there as a whole."""
    for i, scores in enumerate(fast.matrix("S")):
        fast.write("S", i, softmax(scores))
        fast.multiplies += len(scores)


def add_averages(fast):
    """O += P V: each row of O takes in the values of a block. The weights P are in S."""
    for i, weights in enumerate(fast.matrix("S")):
        fast.write("O", i, add_weighted(fast.matrix("O")[i], weights, fast.matrix("V")))
        fast.multiplies += len(weights) * d


def standard_attention(slow, fast, b_r, b_c, causal):
    """O = softmax(Q K^T / sqrt(d)) V in three steps (Dao et al. 2022, algorithm 0).

    Each step leaves its result in the slow memory, like three calls of a library. S goes out and
    comes back, P goes out and comes back: 4 N^2 numbers, whatever the size of the fast memory.
    P takes the place of S in the slow memory, which would otherwise hold 2 N^2 numbers.
    """
    n = len(slow.matrix("Q"))
    slow.reserve("S", n, n)
    slow.reserve("O", n, d)
    for rows in blocks(n, b_r):  # S = Q K^T / sqrt(d)
        load(slow, fast, "Q", rows, range(d))
        for columns in blocks(n, b_c):
            load(slow, fast, "K", columns, range(d))
            make_scores(fast, rows, columns, causal)
            store(fast, slow, "S", rows, columns)
            fast.free("K")
        fast.free("Q")
    for rows in blocks(n, 1):  # P = softmax(S)
        load(slow, fast, "S", rows, range(n))
        softmax_rows(fast)
        store(fast, slow, "S", rows, range(n))
    for rows in blocks(n, b_r):  # O = P V
        fast.reserve("O", len(rows), d)
        for columns in blocks(n, b_c):
            load(slow, fast, "S", rows, columns)
            load(slow, fast, "V", columns, range(d))
            add_averages(fast)
            fast.free("S", "V")
        store(fast, slow, "O", rows, range(d))


# === FLASH ATTENTION: a block of scores is used up where it was made ===
#
# The numbers say in which order the blocks of the N x N matrix are made. None of them is kept. Only
# m, l and O of some queries stay in the fast memory, from the first block of a line to the last.
#
#                 keys and values
#     queries      1   2   3   4    -> O of these queries
#                  5   6   7   8    -> O of these queries
#                  9  10  11  12    -> O of these queries
#
# Why not hold whole rows of scores in the fast memory, and do without a running maximum? Only 3
# rows of 256 scores fit into 1024 numbers, beside queries and keys. Then all keys and values are
# loaded for every 3 queries, which is 86 times. With blocks of 34 queries, they are loaded 8 times.
# If N is larger than M, not even one row fits.


def running_of(fast, i):
    """The running m, l and o of row i. In the fast memory, m and l are matrices with one column."""
    return Running(fast.matrix("m")[i][0], fast.matrix("l")[i][0], fast.matrix("O")[i])


def update_rows(fast):
    """Take a block of scores S and its values V into m, l and O, row by row."""
    for i, scores in enumerate(fast.matrix("S")):
        new = add_block(running_of(fast, i), scores, fast.matrix("V"))
        fast.write("m", i, [new.m])
        fast.write("l", i, [new.l])
        fast.write("O", i, new.o)
        fast.multiplies += len(scores) * d + 1 + d  # P V, scale * l, scale * o


def finish_rows(fast):
    """Divide O by l. Then it holds the averages. Also keep L = m + log(l), one number per row.

    L is for training. Its backward pass needs the weights again. It does not keep N^2 of them, but
    computes a weight from its score once more, as exp(score - L) (Dao 2023, section 3.1).
    """
    fast.reserve("L", len(fast.matrix("O")), 1)
    for i in range(len(fast.matrix("O"))):
        done = running_of(fast, i)
        # l is 1 or more, because the largest score of the row added exp(0) = 1.
        fast.write("O", i, [o_i / done.l for o_i in done.o])
        fast.write("L", i, [done.m + math.log(done.l)])
        fast.multiplies += d
    fast.free("m", "l")


def flash_attention(slow, fast, b_r, b_c, causal):
    """The same O, without a matrix of scores in the slow memory (Dao 2023, algorithm 1).

    Returns which blocks were computed, as a list of (rows, columns).
    """
    n = len(slow.matrix("Q"))
    slow.reserve("O", n, d)
    slow.reserve("L", n, 1)
    visited = []
    for rows in blocks(n, b_r):
        load(slow, fast, "Q", rows, range(d))
        fast.reserve("m", len(rows), 1, -math.inf)  # the maximum of no scores
        fast.reserve("l", len(rows), 1)
        fast.reserve("O", len(rows), d)
        for columns in blocks(n, b_c):
            # If all keys of a block are later than all queries, those of the next blocks are too.
            if causal and columns[0] > rows[-1]:
                break
            load(slow, fast, "K", columns, range(d))
            load(slow, fast, "V", columns, range(d))
            make_scores(fast, rows, columns, causal)
            # Every query may see key 0, which is in the first block. So m is finite from there on.
            # Otherwise m_old - m_new could be -inf + inf, which is NaN.
            update_rows(fast)
            fast.free("K", "V", "S")
            visited.append((rows, columns))
        finish_rows(fast)
        store(fast, slow, "O", rows, range(d))
        store(fast, slow, "L", rows, range(1))
        fast.free("Q")
    return visited


# === HOW LARGE A BLOCK: as many queries as fit ===
def room_needed(b_r, b_c):
    """The most numbers that flash attention holds at once: Q and O, K and V, S, m and l."""
    return 2 * b_r * d + 2 * b_c * d + b_r * b_c + 2 * b_r


def flash_blocks(size):
    """(b_r, b_c) for flash attention in a fast memory of this size.

    All keys and values, 2 N d numbers, are loaded once for each block of queries, so N / b_r times.
    That is 2 N^2 d / b_r numbers, and b_r should be large. A query takes room in proportion to d,
    so b_r grows as M / d, and the traffic as N^2 d^2 / M (Dao et al. 2022, theorem 2): a larger
    fast memory means less traffic. A block with fewer keys leaves room for more queries, but then
    l and o are rescaled more often. At most d keys are a compromise.

    What would that be on an A100, by the same count? 192 KB hold 98304 numbers of 16 bits. With
    d = 64, b_r is 464. There are about 2 d + 2 = 130 multiplications per score, and 2 d / b_r =
    0.28 numbers of traffic. That makes about 470 per number, more than the 200 that keep the card
    busy. Standard attention moves more than 4 numbers per score, so it has less than 33.
    """
    b_r = 1
    while room_needed(b_r + 1, min(b_r + 1, d)) <= size:
        b_r += 1
    return b_r, min(b_r, d)


def standard_blocks(size):
    """(b_r, b_c) for standard attention: those with the least traffic, to compare it fairly.

    It also loads all keys for each block of queries, so it gets as many queries as fit. It rescales
    nothing, so blocks of one key cost nothing. They take b_r d numbers for Q or O, d for a row of K
    or V, and b_r for S.
    """
    return (size - d) // (d + 1), 1


# === HOW GOOD: the same output, with how much memory and traffic ===
Run = collections.namedtuple("Run", "slow fast visited")


def make_inputs(n, largest_score):
    """Random Q, K and V {name: matrix [n][d]}, whose largest score, signs aside, is given."""
    inputs = {}
    for name in "QKV":
        inputs[name] = [[random.gauss(0, 1) for _ in range(d)] for _ in range(n)]
    largest = 0.0
    for query in inputs["Q"]:
        for key in inputs["K"]:
            largest = max(largest, abs(dot(query, key)) / math.sqrt(d))
    inputs["Q"] = [[x * largest_score / largest for x in query] for query in inputs["Q"]]
    return inputs


def first_positions(inputs, n):
    """The inputs of the first n positions of a text."""
    return {name: matrix[:n] for name, matrix in inputs.items()}


def simulate(attention, inputs, size, block, causal=False):
    """Put the inputs into a slow memory, and run attention with an empty fast one of this size.

    `block` is (b_r, b_c). The field `visited` is None for standard attention.
    """
    slow = Memory(math.inf)
    fast = Memory(size)
    for name, matrix in inputs.items():
        slow.reserve(name, len(matrix), d)
        for i, vector in enumerate(matrix):
            slow.write(name, i, vector)
    b_r, b_c = block
    return Run(slow, fast, attention(slow, fast, b_r, b_c, causal))


def row_scores(inputs, i, causal):
    """The scores of query i, with all keys, or with those up to i if `causal`."""
    num_visible = i + 1 if causal else len(inputs["K"])
    return [dot(inputs["Q"][i], key) / math.sqrt(d) for key in inputs["K"][:num_visible]]


def definition(inputs, causal):
    """O = softmax(Q K^T / sqrt(d)) V, row by row, without blocks or memories. Returns [n][d]."""
    outputs = []
    for i in range(len(inputs["Q"])):
        weights = softmax(row_scores(inputs, i, causal))
        values = inputs["V"][: len(weights)]
        # zip(*values) yields the first number of every value, then the second of every value, ...
        outputs.append([dot(weights, numbers) for numbers in zip(*values)])
    return outputs


def weight_error(inputs, flash, causal):
    """The largest difference between exp(score - L) and the weight that softmax gives.

    If L is near 1000, it is rounded by up to 6e-14, and a weight near 1 is off by as much.
    """
    errors = []
    for i, (log_sum,) in enumerate(flash.slow.matrix("L")):
        scores = row_scores(inputs, i, causal)
        for score, weight in zip(scores, softmax(scores), strict=True):
            errors.append(abs(math.exp(score - log_sum) - weight))
    return worst(errors)


def worst(numbers):
    """The largest of some numbers, or NaN if one of them is NaN, which max() may pass over."""
    if any(math.isnan(number) for number in numbers):
        return math.nan
    return max(numbers)


def largest_difference(found, expected):
    """The largest difference between the numbers of two matrices, signs aside."""
    differences = []
    for found_row, expected_row in zip(found, expected, strict=True):
        for x, y in zip(found_row, expected_row, strict=True):
            differences.append(abs(x - y))
    return worst(differences)


Check = collections.namedtuple("Check", "standard_error flash_error weight_error")


def check(largest_score):
    """Compare both ways of attention with the definition, for N = odd_length, in all odd_blocks.

    Returns the largest errors of each. Standard attention multiplies and adds the same numbers in
    the same order as the definition, so it should have no error at all.
    """
    standard_errors = []
    flash_errors = []
    weight_errors = []
    for block in odd_blocks:
        for causal in (False, True):
            inputs = make_inputs(odd_length, largest_score)
            expected = definition(inputs, causal)
            standard = simulate(standard_attention, inputs, fast_size, block, causal)
            flash = simulate(flash_attention, inputs, fast_size, block, causal)
            standard_errors.append(largest_difference(standard.slow.matrix("O"), expected))
            flash_errors.append(largest_difference(flash.slow.matrix("O"), expected))
            weight_errors.append(weight_error(inputs, flash, causal))
    return Check(worst(standard_errors), worst(flash_errors), worst(weight_errors))


Pair = collections.namedtuple("Pair", "standard flash")


def run_both(inputs, size):
    """Run both ways of attention, each in its own blocks."""
    standard = simulate(standard_attention, inputs, size, standard_blocks(size))
    flash = simulate(flash_attention, inputs, size, flash_blocks(size))
    return Pair(standard, flash)


def output_error(pair):
    """The largest difference between the two outputs."""
    return largest_difference(pair.standard.slow.matrix("O"), pair.flash.slow.matrix("O"))


def extra(run):
    """The most numbers in the slow memory at once, without Q, K, V and O."""
    return run.slow.peak - 4 * len(run.slow.matrix("Q")) * d


def traffic(run):
    """How many numbers passed between the two memories."""
    return run.slow.read + run.slow.written


def intensity(run):
    """Multiplications and divisions for each number that passed between the two memories."""
    return run.fast.multiplies / traffic(run)


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    show_example()

    # Is the output the same?
    checks = {largest_score: check(largest_score) for largest_score in largest_scores}
    show_checks(checks)

    # What does a longer text cost? The shorter texts are the beginnings of the longest one.
    inputs = make_inputs(lengths[-1], 10.0)
    by_length = {n: run_both(first_positions(inputs, n), fast_size) for n in lengths}
    show_lengths(by_length)

    # What does a larger fast memory save? The run with fast_size is there already.
    by_size = {}
    for size in fast_sizes:
        by_size[size] = by_length[lengths[-1]] if size == fast_size else run_both(inputs, size)
    show_sizes(by_size)
    show_refusals(inputs)

    # How much is left to compute if no position may see later ones?
    causal = simulate(flash_attention, inputs, fast_size, flash_blocks(fast_size), causal=True)
    draw_visits(causal.visited)

    errors = [output_error(pair) for pair in [*by_length.values(), *by_size.values()]]
    errors += [result.standard_error for result in checks.values()]
    errors += [result.flash_error for result in checks.values()]
    errors.append(largest_difference(causal.slow.matrix("O"), definition(inputs, causal=True)))
    max_weight_error = worst([result.weight_error for result in checks.values()])
    standard_half, flash_half = by_length[lengths[-2]]
    standard, flash = by_length[lengths[-1]]
    standard_small, flash_small = by_size[fast_sizes[0]]
    standard_large, flash_large = by_size[fast_sizes[-1]]
    # growth: the factor between the two longest texts. It tends to 4 for the traffic of flash
    # attention, too, but Q, O and L are moved only once. cut: the factor from the largest fast
    # memory to the smallest, which is 8 times smaller.
    print_results(
        [
            ("max_abs_error", f"{worst(errors):.1e}", "< 1e-6"),
            ("max_weight_error", f"{max_weight_error:.1e}", "< 1e-6"),
            ("fast_peak", max(standard.fast.peak, flash.fast.peak), f"<= {fast_size}"),
            ("standard_memory_growth", extra(standard) / extra(standard_half), "== 4"),
            ("flash_memory_growth", extra(flash) / extra(flash_half), "== 2"),
            ("standard_traffic_growth", traffic(standard) / traffic(standard_half), "3.5 to 4.2"),
            ("flash_traffic_growth", traffic(flash) / traffic(flash_half), "3.5 to 4.2"),
            ("standard_traffic_cut", traffic(standard_small) / traffic(standard_large), "1 to 1.2"),
            ("flash_traffic_cut", traffic(flash_small) / traffic(flash_large), "5.5 to 12"),
            ("traffic_ratio", traffic(standard) / traffic(flash), "> 5"),
            ("multiplies_ratio", standard.fast.multiplies / flash.fast.multiplies, "0.9 to 1.1"),
            ("causal_blocks_visited", len(causal.visited) / len(flash.visited), "0.5 to 0.7"),
            ("runtime_seconds", time.perf_counter() - started, "< 120"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def in_columns(numbers, width, decimals):
    """Numbers as text, one after the other."""
    return "".join(f"{number:{width}.{decimals}f}" for number in numbers)


def show_example():
    """Print the example of add_block(), block by block, and the same row all at once."""
    scores = [math.log(x) for x in (1, 2, 4, 2, 1, 2)]
    values = [[4.0], [8.0], [2.0], [6.0], [0.0], [4.0]]
    print("A row of six scores, the logarithms of 1 2 4 2 1 2, with values of one number. It comes")
    print("in three blocks. m is the largest score so far, and scale = exp(m_old - m_new). P are")
    print("the new exp(score - m_new). They are added to scale * l, and P * value to scale * o.")
    print("    scores     values   m_old   m_new   scale         P            l       o    o / l")
    running = Running(-math.inf, 0.0, [0.0])
    for part in blocks(len(scores), 2):
        new_scores = scores[part.start : part.stop]
        new_values = values[part.start : part.stop]
        new = add_block(running, new_scores, new_values)
        line = in_columns(new_scores, 7, 3) + "  " + in_columns([v[0] for v in new_values], 4, 0)
        line += in_columns([running.m, new.m, math.exp(running.m - new.m)], 8, 3) + "  "
        line += in_columns([math.exp(score - new.m) for score in new_scores], 7, 3)
        print(line + in_columns([new.l, new.o[0], new.o[0] / new.l], 8, 3))
        running = new
    weights = softmax(scores)
    terms = [f"{weight:.3f} * {value[0]:.0f}" for weight, value in zip(weights, values)]
    average = add_weighted([0.0], weights, values)[0]
    print(f"All at once: {' + '.join(terms)} = {average:.3f}")


def show_checks(checks):
    """Print the largest errors for each size of the scores."""
    shapes = ", ".join(f"{b_r} x {b_c}" for b_r, b_c in odd_blocks)
    print(f"\nLargest errors against the definition. N = {odd_length}, causal or not, in blocks of")
    print(f"{shapes} queries x keys. L gives the weights back as exp(score - L).")
    print("        scores   standard O   flash O   weights from L")
    for largest_score, result in checks.items():
        label = f"{-largest_score:.0f} to {largest_score:.0f}"
        line = f"{label:>14}{result.standard_error:13.1e}{result.flash_error:10.1e}"
        print(f"{line}{result.weight_error:17.1e}")


def show_lengths(by_length):
    """Print memory and traffic for each N."""
    print(f"\nTexts of N positions, M = {fast_size}. Traffic is how many numbers pass between the")
    print("memories. Memory is what the slow one holds beside Q, K, V and O. There, each #")
    print("stands for a factor of 2: from 1 number to 2, to 4, to 8 and so on.")
    print("       standard attention                     flash attention")
    print("   N   traffic  memory                        traffic  memory")
    for n, pair in by_length.items():
        line = f"{n:4d}"
        for run in pair:
            memory = extra(run)
            bar = "#" * round(math.log2(memory))
            line += f"{traffic(run):10d}{memory:8d} {bar:19}"
        print(line.rstrip())


def show_sizes(by_size):
    """Print blocks, traffic and multiplications per number for each size of the fast memory."""
    print(f"\nA text of N = {lengths[-1]} positions, and a fast memory of M numbers. On the right,")
    print("multiplications per number of traffic. With few of them, a GPU waits for its memory.")
    print("       blocks, queries x keys         traffic         multiplications per number")
    print("   M     standard   flash        standard   flash        standard   flash")
    for size, (standard, flash) in by_size.items():
        line = f"{size:4d}"
        for (b_r, b_c), width in ((standard_blocks(size), 13), (flash_blocks(size), 8)):
            line += f"{b_r} x {b_c}".rjust(width)
        line += f"{traffic(standard):16d}{traffic(flash):8d}"
        print(f"{line}{intensity(standard):16.1f}{intensity(flash):8.1f}")


def refusal(attention, inputs, size, block):
    """What a fast memory says to attention in such blocks. It is empty if there is room."""
    try:
        simulate(attention, inputs, size, block)
    except MemoryError as error:
        return str(error)
    return ""


def show_refusals(inputs):
    """Print what happens if a block has one query more, and if a row does not fit."""
    b_r, b_c = flash_blocks(fast_size)
    text = refusal(flash_attention, inputs, fast_size, (b_r + 1, b_c))
    print(f"One query more in flash attention, M = {fast_size}: {text}.")
    too_small = len(inputs["Q"]) - 1
    text = refusal(standard_attention, inputs, too_small, standard_blocks(too_small))
    print(f"Standard attention with M less than N, {too_small}: {text}.")


def draw_visits(visited):
    """Print which blocks of the N x N matrix causal flash attention computed."""
    n = lengths[-1]
    b_r, b_c = flash_blocks(fast_size)
    print(f"\nCausal attention, N = {n}, blocks of {b_r} queries (down) x {b_c} keys (across).")
    print("In blocks with #, all queries see all keys. In those with /, only some do. Those with .")
    print("are neither loaded nor computed.")
    for rows in blocks(n, b_r):
        line = ""
        for columns in blocks(n, b_c):
            if (rows, columns) not in visited:
                line += "."
            elif columns[-1] > rows[0]:
                line += "/"
            else:
                line += "#"
        print(line)


# === REPEATED from microgpt.py, word for word ===
def print_results(rows):
    """Print the results: one per line, with its name, its value, and the bound it has to meet."""
    print("\n=== results ===")
    for name, value, bound in rows:
        text = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{text:<9}{bound}".rstrip())


print = functools.partial(print, flush=True)  # print each line at once, also into a pipe


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the reader of the pipe has gone, as in `python script.py | head`
