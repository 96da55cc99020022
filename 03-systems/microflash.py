"""Attention never needs the whole score matrix: a running maximum, sum and output suffice.

The problem: in attention, every position of a text looks at every other position. A dot product of
its query with the key of a position gives a score, so a text of N positions has N rows of N scores.
softmax turns a row into weights: a weight is exp(score), divided by the sum of exp() over the whole
row. The output of a position is the average of all values, with these weights. Q, K, V and O are
the matrices of queries, keys, values and outputs: N rows of d numbers. S and P are those of scores
and weights: N rows of N numbers.

    S = Q K^T / sqrt(d)        P = softmax(S), row by row        O = P V

The usual way makes all of S, then all of P, then all of O. Between these steps it has to keep an
N x N matrix. A GPU computes on its chip, where it has a small, fast memory. Beside the chip it has
a large, slow one. The matrix fits only into the slow one. So it is written there after each step
and read back for the next one, and the chip waits.

The way out would be tiling: cut the matrix into blocks that fit into the fast memory, and finish
each block there. That looks impossible. softmax divides by a sum over the whole row, so the first
weight is not known before the last score is. And exp() overflows, for 64-bit floats from 710 on. So
the largest score of the row, m, is subtracted from all scores. This divides all exp() by exp(m),
which cancels:

    exp(score - m) / (sum of all exp(score - m)) = exp(score) / (sum of all exp(score))

No weight changes, but m is not known before the last score is, either.

The idea: neither the sum nor the maximum has to be known at the start. The division can wait. Let o
be the sum of exp(score - m) * value, and l the sum of exp(score - m). At the end, o / l is the
average. As m, use the largest score so far, m_old. When a larger one comes, m_new, all terms so far
are wrong by the same factor:

    exp(score - m_new) = exp(score - m_old) * exp(m_old - m_new)

A factor that all terms of a sum share can be applied to the sum itself. So o and l are multiplied
by exp(m_old - m_new), and are right again. No old score is needed for that. After every block of
scores, o / l is already the attention over the keys seen so far.

    1. add_block: take a block of a row's scores into the row's running m, l and o.
    2. Memory: simulate the two memories. The fast one refuses what does not fit. Numbers pass from
       one to the other only by load and store, which count them. This is called traffic.
    3. standard_attention: make S, P and O one after the other, with S and P in the slow memory.
    4. flash_attention: take some queries, and load the keys and values block by block. Use each
       block of scores where it was made. After the last one, divide o by l.
    5. flash_blocks: choose how many queries to take. The more fit into the fast memory, the less
       often all keys and values have to be loaded.
    6. check: compare the outputs with the definition, and with what comes out if a step of
       add_block is missing. extra and traffic measure what the two ways hold and move.

m and l are by Milakov & Gimelshein (2018, algorithm 3), one score at a time. Rabe & Staats (2021)
put off the division (section 2), and rescale the output as well (section 3). FlashAttention (Dao et
al. 2022) works in blocks that suit the two memories (algorithm 1), and its traffic is worked out
(theorem 2). On an A100 it moved 4.4 GB instead of 40.3 and took 7.3 ms instead of 41.7, although it
computed more (figure 2, with the backward pass). It loads each block of keys and values once. For
each of them it loads the queries, o, m and l of all rows again, and writes o, m and l again.
FlashAttention-2 (Dao 2023, algorithm 1) is step 4: the queries and o stay, the keys and values are
loaded again, and o is divided only at the end. Here the memories are simulated, so nothing gets
faster. Left out are the backward pass, and all that a GPU does in parallel.
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
fast_size = 1024  # M, how many numbers fit into the fast memory
fast_sizes = (256, 512, 1024, 2048)  # M again, to compare with each other for the largest N
odd_length = 37  # N in check(); it is prime, so no block divides it
odd_blocks = ((3, 5), (16, 4))  # queries and keys of a block in check()
largest_scores = (1.0, 100.0, 1000.0)  # in check(), the largest score, signs aside


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
    """o [d] + the sum of weight * value, for weights [n] and values [n][d]. Returns [d]."""
    total = list(o)
    for weight, value in zip(weights, values, strict=True):
        for i, value_i in enumerate(value):
            total[i] += weight * value_i
    return total


Running = collections.namedtuple("Running", "m l o")  # what is kept of a row's scores and values


def add_block(running, scores, values):
    """The online softmax: take the next block of a row's scores into its running m, l and o.

    m is the largest score so far, l the sum of exp(score - m), and o [d] the sum of
    exp(score - m) * value. Each of the scores [n] has one of the values [n][d]. Before the first
    block, m is -inf, l is 0 and o is all 0. After each block, o / l is the average of the values so
    far, with the weights softmax(scores so far).

    An example with six scores, two in a block, and values of only one number:

        scores       values   m_old   m_new   scale   P          l      o    o / l
        ln 1, ln 2   4, 8     -inf    ln 2    0       1/2, 1     1.5    10   6.667
        ln 4, ln 2   2, 6     ln 2    ln 4    1/2     1, 1/2     2.25   10   4.444
        ln 1, ln 2   0, 4     ln 4    ln 4    1       1/4, 1/2   3      12   4

    The second block has a larger maximum, so the sums of the first one are halved: l becomes
    1/2 * 1.5 + 1 + 1/2, and o becomes 1/2 * 10 + 1 * 2 + 1/2 * 6. All at once, exp(score) is 1, 2,
    4, 2, 1, 2, with the sum 12, and the average is (4 + 16 + 8 + 12 + 0 + 8) / 12 = 4 as well.
    """
    # m_old: the maximum that all terms so far are relative to
    m_old = running.m
    # m_new = max(m_old, max(S)), where S are the new scores
    m_new = max(m_old, max(scores))
    # scale = exp(m_old - m_new): 1 if the maximum stays, 0 for the first block, where m_old is -inf
    # m_new is never -inf: key 0 is in the first block, and every query may see it.
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
# 16-bit number comes from HBM, the card can do about 200 multiplications, and add up the products.
# A program that has fewer to do per number waits for memory.


class Memory:
    """Named matrices, of at most `size` numbers together.

    A matrix is reserved before it is filled, and keeps its shape until it is freed. Its rows are
    handed out as tuples, which cannot be changed. Only write() changes a row, and never its length.
    """

    def __init__(self, size):
        self.size = size
        self.used = 0  # numbers that are reserved now
        self.peak = 0  # the most that ever were
        # The next two are counted in the slow memory only, and the third in the fast one only.
        self.read = 0  # numbers that load() took from here
        self.written = 0  # numbers that store() brought here
        self.multiplies = 0  # multiplications and divisions, without those inside exp()
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
    """Reserve room for a block of a matrix in the fast memory, and copy it there.

    `rows` and `columns` are ranges: the place of the block in the whole matrix.
    """
    matrix = slow.matrix(name)
    fast.reserve(name, len(rows), len(columns))
    for i, row in enumerate(rows):
        fast.write(name, i, matrix[row][columns.start : columns.stop])
    slow.read += len(rows) * len(columns)


def store(fast, slow, name, rows, columns):
    """Copy a block to its place in the slow memory. It stays in the fast one until it is freed."""
    for row, numbers in zip(rows, fast.matrix(name), strict=True):
        slow.write(name, row, numbers, columns.start)
    slow.written += len(rows) * len(columns)


def blocks(n, size):
    """Cut 0 to n - 1 into ranges of `size`. The last one may be shorter.

    With n = 7 and size = 3: range(0, 3), range(3, 6), range(6, 7).
    """
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


# The functions that compute get only the fast memory, so they cannot look at a whole matrix. What
# they hold in variables of their own is not counted. It is a few rows of a block, where a GPU would
# use its registers. In softmax_rows() these are rows of N numbers, so the count favors standard
# attention.


def make_scores(fast, rows, columns, causal):
    """S = Q K^T / sqrt(d), for the queries and keys in the fast memory. S [b_r][b_c].

    A block has b_r queries and b_c keys. `rows` and `columns` are its place in the N x N matrix. If
    `causal`, a query may not see later positions. Their scores become -inf, and exp(-inf) is 0.
    Dividing by sqrt(d) keeps scores from growing with the number of terms in the dot product.
    """
    for i, query in enumerate(fast.matrix("Q")):
        position = rows[i]  # of the query in the text; i is its row in the block
        scores = []
        for key_position, key in zip(columns, fast.matrix("K"), strict=True):
            hidden = causal and key_position > position
            scores.append(-math.inf if hidden else dot(query, key) / math.sqrt(d))
        fast.write("S", i, scores)
        fast.multiplies += len(scores) * (d + 1)  # hidden ones too: a GPU computes whole blocks


# === STANDARD ATTENTION: the matrix goes out and comes back, twice ===
def softmax_rows(fast):
    """P = softmax(S), written over S. softmax() is given a whole row at once."""
    for i, scores in enumerate(fast.matrix("S")):
        fast.write("S", i, softmax(scores))
        fast.multiplies += len(scores)


def add_averages(fast):
    """O += P V: each row of O takes in the values of a block. The weights P stand in S."""
    for i, weights in enumerate(fast.matrix("S")):
        fast.write("O", i, add_weighted(fast.matrix("O")[i], weights, fast.matrix("V")))
        fast.multiplies += len(weights) * d


def standard_attention(slow, fast, b_r, b_c, causal):
    """O = softmax(Q K^T / sqrt(d)) V in three steps (Dao et al. 2022, algorithm 0).

    Each step leaves its result in the slow memory, like three calls of a library. S goes out and
    comes back, P goes out and comes back: 4 N^2 numbers, whatever the size of the fast memory.
    P is written over S, under the name "S". So the slow memory holds N^2 numbers and not 2 N^2.
    """
    n = len(slow.matrix("Q"))
    slow.reserve("S", n, n)
    slow.reserve("O", n, d)
    for rows in blocks(n, b_r):  # S = Q K^T / sqrt(d)
        load(slow, fast, "Q", rows, range(d))
        for columns in blocks(n, b_c):
            load(slow, fast, "K", columns, range(d))
            fast.reserve("S", len(rows), len(columns))
            make_scores(fast, rows, columns, causal)
            store(fast, slow, "S", rows, columns)
            fast.free("K", "S")
        fast.free("Q")
    for rows in blocks(n, 1):  # P = softmax(S), one row at a time
        load(slow, fast, "S", rows, range(n))
        softmax_rows(fast)
        store(fast, slow, "S", rows, range(n))
        fast.free("S")
    for rows in blocks(n, b_r):  # O = P V
        fast.reserve("O", len(rows), d)
        for columns in blocks(n, b_c):
            load(slow, fast, "S", rows, columns)  # P by now
            load(slow, fast, "V", columns, range(d))
            add_averages(fast)
            fast.free("S", "V")
        store(fast, slow, "O", rows, range(d))
        fast.free("O")


# === FLASH ATTENTION: a block of scores is used up where it was made ===
#
# The numbers say in which order the blocks of the N x N matrix are made. None of them is kept. From
# the first block of a line to the last, only Q, O, m and l of its queries stay in the fast memory.
#
#                 keys and values
#     queries      1   2   3   4    -> O of these queries
#                  5   6   7   8    -> O of these queries
#                  9  10  11  12    -> O of these queries
#
# Why not hold whole rows of scores in the fast memory, and do without a running maximum? With N =
# 256 and M = 1024, only 3 rows fit beside their queries and outputs, because 4 * 256 = 1024 would
# fill it. All keys and values have to be loaded for every 3 queries: 256 / 3, rounded up, is 86
# times. flash_blocks() finds room for 34 queries: 256 / 34, rounded up, is 8 times. If N is larger
# than M, not even one row fits.


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
        fast.multiplies += len(scores) * d  # P V
        fast.multiplies += 1 + d  # scale * l and scale * o


def finish_rows(fast):
    """Divide O by l. Then it holds the averages. Also keep L = m + log(l), one number per row.

    L is for training. Its backward pass needs the weights again. It does not keep N^2 of them, but
    computes a weight from its score once more (Dao 2023, section 3.1):

        exp(score - m) / l = exp(score - m) / exp(log(l)) = exp(score - m - log(l)) = exp(score - L)
    """
    for i in range(len(fast.matrix("O"))):
        done = running_of(fast, i)
        # l is 1 or more, because the largest score of the row added exp(0) = 1.
        fast.write("O", i, [o_i / done.l for o_i in done.o])
        fast.write("L", i, [done.m + math.log(done.l)])
        fast.multiplies += d


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
            fast.reserve("S", len(rows), len(columns))
            make_scores(fast, rows, columns, causal)
            update_rows(fast)
            fast.free("K", "V", "S")  # S is never stored
            visited.append((rows, columns))
        fast.reserve("L", len(rows), 1)
        finish_rows(fast)
        store(fast, slow, "O", rows, range(d))
        store(fast, slow, "L", rows, range(1))
        fast.free("Q", "m", "l", "O", "L")
    return visited


# === HOW LARGE A BLOCK: as many queries as fit ===
def room_needed(b_r, b_c):
    """The most numbers that flash attention holds at once: Q and O, K and V, S, m and l.

    L comes when K, V and S have been freed, and takes less room than they did.
    """
    return 2 * b_r * d + 2 * b_c * d + b_r * b_c + 2 * b_r


def flash_blocks(size):
    """(b_r, b_c) for flash attention in a fast memory of this size.

    Q comes in once, O and L go out once: 2 N d + N numbers. All keys and values, 2 N d numbers,
    come in once for each block of queries. So the traffic is 2 N d + N + ceil(N / b_r) * 2 N d, and
    b_r should be large.

    A query takes d numbers for its row of Q and d for that of O, b_c for its scores, and 2 for m
    and l. With b_c = d that is about 3 d, so b_r is about M / (3 d). Put into N / b_r * 2 N d, this
    gives 6 N^2 d^2 / M numbers of traffic. A larger fast memory means less traffic (Dao et al.
    2022, theorem 2: traffic in proportion to N^2 d^2 / M).

    At most d keys are a round choice, and not that of the least traffic, which standard attention
    gets below. With N = 256 and M = 1024, 4 keys would leave room for 43 queries instead of 34, and
    1 key for 53. That takes 22% and 33% off the traffic. But o and l are rescaled once per block,
    so fewer keys mean more multiplications: 6% and 43% more.
    """
    b_r = 1
    while room_needed(b_r + 1, min(b_r + 1, d)) <= size:
        b_r += 1
    return b_r, min(b_r, d)


def standard_blocks(size):
    """(b_r, b_c) for standard attention: those with the least traffic, to compare it fairly.

    Standard attention also loads all keys, and later all values, once for each block of queries. So
    it gets as many queries as fit. It rescales nothing, so a block of only one key costs no
    multiplications more. Such a block takes b_r d numbers for Q or O, d for the row of K or V, and
    b_r for S.
    """
    return (size - d) // (d + 1), 1


# === HOW GOOD: the same output, with how much memory and traffic ===
Run = collections.namedtuple("Run", "slow fast visited")


def make_inputs(n, largest_score):
    """Random Q, K and V {name: matrix [n][d]}. Q is scaled so that max |score| = largest_score."""
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

    From 512 to 1024, neighboring floats are 2^-43 = 1.1e-13 apart. So if L is near 1000, it is
    rounded by up to half of that, 5.7e-14, and a weight near 1 is off by as much.
    """
    errors = []
    for i, row in enumerate(flash.slow.matrix("L")):
        log_sum = row[0]  # L has one column
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


def without_scale(running, scores, values):
    """A broken add_block(): scale is 1. The sums so far count as if they belonged to m_new."""
    m_new = max(running.m, max(scores))
    return add_block(Running(m_new, running.l, running.o), scores, values)


def without_maximum(running, scores, values):
    """A broken add_block(): nothing is subtracted, as if m were always 0."""
    p = [math.exp(score) for score in scores]
    return Running(0.0, running.l + math.fsum(p), add_weighted(running.o, p, values))


def error_with(add, inputs, b_c):
    """The error of the output if each row is taken in by `add` instead of add_block().

    There are b_c keys in a block. If exp() overflows, the error is inf.
    """
    outputs = []
    for i in range(len(inputs["Q"])):
        scores = row_scores(inputs, i, causal=False)
        running = Running(-math.inf, 0.0, [0.0] * d)
        for part in blocks(len(scores), b_c):
            new_values = inputs["V"][part.start : part.stop]
            try:
                running = add(running, scores[part.start : part.stop], new_values)
            except OverflowError:
                return math.inf
        outputs.append([o_i / running.l for o_i in running.o])
    return largest_difference(outputs, definition(inputs, causal=False))


Check = collections.namedtuple("Check", "standard flash weights no_scale no_maximum")


def check(largest_score):
    """Compare both ways of attention with the definition, for N = odd_length, in all odd_blocks.

    Returns the largest errors of both outputs, of the weights from L, and of two broken versions of
    add_block(). Standard attention has to have no error at all, because it multiplies and adds the
    same numbers in the same order as definition(). This tests its memory, and not its arithmetic.
    """
    errors = {name: [] for name in Check._fields}
    for block in odd_blocks:
        for causal in (False, True):
            inputs = make_inputs(odd_length, largest_score)
            expected = definition(inputs, causal)
            standard = simulate(standard_attention, inputs, fast_size, block, causal)
            flash = simulate(flash_attention, inputs, fast_size, block, causal)
            errors["standard"].append(largest_difference(standard.slow.matrix("O"), expected))
            errors["flash"].append(largest_difference(flash.slow.matrix("O"), expected))
            errors["weights"].append(weight_error(inputs, flash, causal))
            errors["no_scale"].append(error_with(without_scale, inputs, block[1]))
            errors["no_maximum"].append(error_with(without_maximum, inputs, block[1]))
    return Check(**{name: worst(found) for name, found in errors.items()})


Pair = collections.namedtuple("Pair", "standard flash")


def run_both(inputs, size):
    """Run both ways of attention, each in its own blocks."""
    standard = simulate(standard_attention, inputs, size, standard_blocks(size))
    flash = simulate(flash_attention, inputs, size, flash_blocks(size))
    return Pair(standard, flash)


def output_error(runs, causal=False):
    """The largest difference between the definition and the outputs of runs on the same inputs."""
    inputs = {name: runs[0].slow.matrix(name) for name in "QKV"}
    expected = definition(inputs, causal)
    return worst([largest_difference(run.slow.matrix("O"), expected) for run in runs])


def extra(run):
    """The most numbers in the slow memory at once, without Q, K, V and O.

    This is what the code reserves: S for standard attention, N x N, and L for flash attention,
    N x 1. L is for a backward pass, which is left out. For the output alone it would be 0.
    """
    return run.slow.peak - 4 * len(run.slow.matrix("Q")) * d


def traffic(run):
    """How many numbers passed between the two memories."""
    return run.slow.read + run.slow.written


def intensity(run):
    """Multiplications and divisions for each number that passed between the two memories.

    A score costs d + 1 for S, 1 for P and d for O, and standard attention moves more than 4 numbers
    for it. So standard attention stays below (2 d + 2) / 4 = 4.5. Flash attention multiplies about
    as much, and moves about 2 d / b_r numbers per score. So its intensity is about b_r.
    """
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

    # What does a larger fast memory save?
    by_size = {size: run_both(inputs, size) for size in fast_sizes}
    show_sizes(by_size)
    show_refusals(inputs)

    # How much is left to compute if no position may see later ones?
    causal = simulate(flash_attention, inputs, fast_size, flash_blocks(fast_size), causal=True)
    draw_visits(causal.visited)

    errors = [output_error(pair) for pair in [*by_length.values(), *by_size.values()]]
    errors.append(output_error([causal], causal=True))
    for result in checks.values():
        errors += [result.standard, result.flash]
    max_weight_error = worst([result.weights for result in checks.values()])
    standard_half, flash_half = by_length[lengths[-2]]
    standard, flash = by_length[lengths[-1]]
    standard_small, flash_small = by_size[fast_sizes[0]]
    standard_large, flash_large = by_size[fast_sizes[-1]]
    # growth: the figure for N = 256, divided by that for N = 128. The growth of memory holds by
    # construction (see extra). flash_traffic_growth is less than 4, because Q, O and L move once.
    # cut: the traffic with M = 256, divided by that with M = 2048, which is 8 times as large.
    # flash_traffic_cut is more than 8. A block of keys and values takes its part of M first, so b_r
    # falls from 73 to 6, and K and V are loaded 43 times instead of 4.
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
def show_example():
    """Print the example of add_block(): what o / l is after each block, and what it should be."""
    scores = [math.log(x) for x in (1, 2, 4, 2, 1, 2)]
    values = [[4.0], [8.0], [2.0], [6.0], [0.0], [4.0]]
    print("A row of six scores, the logarithms of 1 2 4 2 1 2, comes in three blocks of two. Each")
    print("score has a value of one number: 4 8 2 6 0 4. After each block, o / l is already the")
    print("average of the values seen so far, as softmax gives it all at once. Without the factor")
    print("exp(m_old - m_new), o / l goes wrong with the second block, which has a new maximum.")
    print("scores seen       m       l       o   o / l   all at once   without factor")
    running = broken = Running(-math.inf, 0.0, [0.0])
    for part in blocks(len(scores), 2):
        new_scores = scores[part.start : part.stop]
        new_values = values[part.start : part.stop]
        running = add_block(running, new_scores, new_values)
        broken = without_scale(broken, new_scores, new_values)
        weights = softmax(scores[: part.stop])
        average = add_weighted([0.0], weights, values[: part.stop])[0]
        line = f"{part.stop:11d}"
        for number in (running.m, running.l, running.o[0], running.o[0] / running.l):
            line += f"{number:8.3f}"
        print(f"{line}{average:14.3f}{broken.o[0] / broken.l:17.3f}")


def show_checks(checks):
    """Print the largest errors for each size of the scores."""
    shapes = " and ".join(f"{b_r} x {b_c}" for b_r, b_c in odd_blocks)
    print(f"\nLargest errors against the definition. N = {odd_length}, in blocks of {shapes}")
    print("queries x keys. O and the weights exp(score - L) are checked, causal or not. On the")
    print("right, O if add_block lacks the factor, or the maximum. inf: exp() overflows.")
    print("               standard     flash   weights   without    without")
    print("        scores        O         O    from L    factor    maximum")
    for largest_score, result in checks.items():
        label = f"{-largest_score:.0f} to {largest_score:.0f}"
        line = f"{label:>14}"
        for error, width in zip(result, (9, 10, 10, 10, 11)):
            line += f"{error:{width}.1e}"
        print(line)


def show_lengths(by_length):
    """Print memory and traffic for each N."""
    print(f"\nTexts of N positions, M = {fast_size}. Traffic is how many numbers pass between the")
    print("memories. Memory is what the slow one holds beside Q, K, V and O: S with standard")
    print("attention, and with flash attention L, one number per row, which only training needs.")
    print("      standard attention   flash attention")
    print("   N   traffic    memory   traffic  memory")
    for n, (standard, flash) in by_length.items():
        line = f"{n:4d}{traffic(standard):10d}{extra(standard):10d}"
        print(f"{line}{traffic(flash):10d}{extra(flash):8d}")


def show_sizes(by_size):
    """Print blocks, traffic and multiplications per number for each size of the fast memory."""
    print(f"\nA text of N = {lengths[-1]} positions, and a fast memory of M numbers. On the right,")
    print("multiplications per number of traffic. With few of them, a GPU waits for its memory: an")
    print(f"A100 with less than 200. But d = {d} and these M are too small to compare that with.")
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
    """Print what happens if a block has one query more, and if a row of scores does not fit."""
    b_r, b_c = flash_blocks(fast_size)
    text = refusal(flash_attention, inputs, fast_size, (b_r + 1, b_c))
    print(f"One query more in flash attention, M = {fast_size}: {text}.")
    too_small = len(inputs["Q"]) - 1
    text = refusal(standard_attention, inputs, too_small, standard_blocks(too_small))
    print(f"Standard attention takes a row of scores at once. M = {too_small}: {text}.")
    flash = simulate(flash_attention, inputs, too_small, flash_blocks(too_small))
    error = output_error([flash])
    print(f"Flash attention, M = {too_small}: it fits, and its largest error is {error:.1e}.")


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
        print(f"{name:<26}{text:<8} {bound}".rstrip())


print = functools.partial(print, flush=True)  # print each line at once, also into a pipe


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the reader of the pipe has gone, as in `python script.py | head`
