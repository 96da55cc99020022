"""Attention never needs the whole score matrix: a running maximum, sum and output suffice.

The problem: in attention, a model makes three lists of d numbers for every position of a text: its
query, its key and its value. A score tells how much a position takes from another one. It is the
dot product of its own query and the other one's key, divided by sqrt(d), because dot products of
random vectors grow with sqrt(d). So a text of N positions has N rows of N scores. softmax turns a
row into weights: a weight is exp(score), divided by the sum of exp() over the whole row. The output
of a position is the average of all values, with these weights. Q, K, V and O are N x d matrices of
queries, keys, values and outputs. S and P are N x N matrices of scores and weights.

    S = Q K^T / sqrt(d)        P = softmax(S), row by row        O = P V

The usual way makes all of S, then all of P, then all of O. Between these steps it has to keep an
N x N matrix. A GPU computes on its chip, where it has a small, fast memory. Beside the chip it has
a large, slow one. The matrix of a long text fits only into the slow one. So it is written there
after each step and read back for the next one, and the chip waits.

The way out would be tiling: cut the matrix into blocks that fit into the fast memory, and finish
each block there. But softmax divides by the sum of a whole row, which is not known before the last
score is. And exp() overflows, for 64-bit floats beyond 709.78. So softmax subtracts the row's
largest score from all scores, and this is not known earlier, either. Subtracting it changes no
weight, because all exp() are divided by the same factor, which cancels:

    exp(score - largest) / (sum of all exp(score - largest)) = exp(score) / (sum of all exp(score))

The idea: the division can wait. Let l be the sum of exp(score), and o the sum of exp(score) *
value, over the keys so far. Then o / l is the average of the values so far. If exp() had no limits,
l and o alone would do. But it overflows beyond 709.78, and it is rounded to 0 below -745.14, so l
would be 0 in a row of such scores. So both sums take exp(score - m) instead, where m is the running
maximum: the largest score so far. Both then have the factor exp(-m), which cancels in o / l. When a
larger score comes, m goes from m_old to m_new, and all terms so far are wrong by the same factor:

    exp(score - m_new) = exp(score - m_old) * exp(m_old - m_new)

A factor that all terms of a sum share can be applied to the sum itself. So o and l are multiplied
by exp(m_old - m_new), and are right again. No old score is needed for that.

    1. add_block: update a row's m, l and o with the next block of its scores.
       attend_in_blocks: make a query's scores block by block, add each block, divide o by l.
    2. Memory: simulate the two memories. The fast one refuses what does not fit. Numbers pass from
       one to the other only by load and store, which count them. This is called traffic.
    3. standard_attention: make S, P and O one after the other, with S and P in the slow memory.
    4. flash_attention: take b_r queries, which are rows of S, and load keys and values, which are
       columns, b_c at a time. Make and use each block of b_r x b_c scores, and never store it.
    5. flash_blocks: choose b_r and b_c. The more queries fit into the fast memory, the less often
       all keys and values have to be loaded.
    6. check: compare the outputs with the definition, also without the factor or the maximum.
       extra, traffic: count what both ways hold beside Q, K, V and O, and what they move.

Milakov & Gimelshein (2018, algorithm 3) have the running m and l. Rabe & Staats (2021) rescale the
output as well, in blocks. FlashAttention (Dao et al. 2022) counts the traffic. In its figure 2, the
forward and backward passes on an A100 move 4.4 GB instead of 40.3 and take 7.3 ms instead of 41.7.
Step 4 is FlashAttention-2 (Dao 2023, algorithm 1). Here the memories are simulated, so the running
time says nothing. The backward pass and parallel work are left out.
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


def add_weighted(start, weights, values):
    """start [d] + the sum of weight * value, for weights [n] and values [n][d]. Returns [d]."""
    total = list(start)
    for weight, value in zip(weights, values, strict=True):
        for i, value_i in enumerate(value):
            total[i] += weight * value_i
    return total


Running = collections.namedtuple("Running", "m l o")  # what is kept of a row's scores and values


def add_block(running, scores, values):
    """The online softmax: update a row's running m, l and o with the next block of its scores.

    m is the largest score so far, l the sum of exp(score - m), and o [d] the sum of
    exp(score - m) * value. Each of the scores [n] has one of the values [n][d]. Before the first
    block, m is -inf, l is 0 and o is all 0. After each block, o / l is the average of the values so
    far, with the weights softmax(scores so far).

    An example: six scores, two in a block, and values of one number. m_old is the m before a block:

        scores       values   m_old   m_new   scale   exps       l     o    o / l
        ln 1, ln 2   4, 10    -inf    ln 2    0       1/2, 1     1.5   12   8
        ln 4, ln 1   2, 8     ln 2    ln 4    1/2     1, 1/4     2     10   5
        ln 2, ln 2   7, 9     ln 4    ln 4    1       1/2, 1/2   3     18   6

    The second block has a larger maximum, so the sums of the first one are halved: l becomes
    1/2 * 1.5 + 1 + 1/4 = 2, and o becomes 1/2 * 12 + 1 * 2 + 1/4 * 8 = 10. All at once, exp(score)
    is 1, 2, 4, 1, 2, 2, with the sum 12. The average is (4 + 20 + 8 + 8 + 14 + 18) / 12 = 6, too.
    """
    m_old = running.m
    m_new = max(m_old, max(scores))
    # scale = exp(m_old - m_new): 1 if the maximum stays, 0 for the first block, where m_old is -inf
    scale = math.exp(m_old - m_new)
    # exps = exp(scores - m_new): the weights, but not divided yet. They are 1 at most.
    exps = [math.exp(score - m_new) for score in scores]
    l_new = scale * running.l + math.fsum(exps)
    # o_new = scale * o_old + sum(exps * values): add_weighted() adds the sum to what it gets first
    o_scaled = [scale * o_i for o_i in running.o]
    o_new = add_weighted(o_scaled, exps, values)
    return Running(m_new, l_new, o_new)


def blocks(n, size):
    """Cut 0 to n - 1 into ranges of `size`: 7 by 3 into range(0, 3), range(3, 6), range(6, 7)."""
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def attend_in_blocks(query, keys, values, b_c, add=add_block):
    """The output [d] of one query [d], with b_c of the keys and values [n][d] at a time.

    This is flash attention for one query. flash_attention() takes several queries, which share the
    keys and values of a block once these are loaded. error_with() passes a broken `add`.
    """
    running = Running(-math.inf, 0.0, [0.0] * d)  # the maximum and sums of no scores
    for part in blocks(len(keys), b_c):
        scores = [dot(query, key) / math.sqrt(d) for key in keys[part.start : part.stop]]
        running = add(running, scores, values[part.start : part.stop])
    return [o_i / running.l for o_i in running.o]  # the division that could wait


# === TWO MEMORIES: a large slow one, and a small fast one in which all is computed ===
#
# In an A100 40 GB, the slow memory is called HBM, and reads 1.5 TB/s. The fast one is SRAM, 192 KB
# in each of 108 processors. Together they read about 19 TB/s (Dao et al. 2022, section 2.1).


class Memory:
    """Named matrices, of at most `size` numbers together.

    A matrix is reserved before it is filled, and keeps its shape until it is freed. Its rows are
    handed out as tuples, which cannot be changed. Only write() changes a row, and never its length.
    """

    def __init__(self, size):
        self.size = size
        self.used = 0  # numbers that are reserved now
        self.peak = 0  # the most that ever were
        self.read = 0  # slow memory: numbers that load() took from here
        self.written = 0  # slow memory: numbers that store() brought here
        self.multiplies = 0  # fast memory: multiplications and divisions, not those inside exp()
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


# The functions that compute get only the fast memory, so they cannot look at what was not loaded.
# What fills the fast memory are its matrices. A function's variables are not counted: they hold a
# few rows of a block, and in softmax_rows() two rows of N numbers.


def make_scores(fast, rows, columns, causal):
    """Make a block of S = Q K^T / sqrt(d) from the queries and keys in the fast memory.

    `rows` and `columns` are the place of the block in the N x N matrix. If `causal`, a query sees
    no later key: the score becomes -inf, and exp(-inf) is 0. In the first block every query sees
    key 0, so its m becomes finite. In a later block it may see no key. Then all its scores are
    -inf. So m stays, scale is 1, all exps are 0, and the sums stay, too.
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
    """P = softmax(S), written over S. This plain softmax() needs a whole row at once."""
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
    comes back, P goes out and comes back: 4 N^2 numbers, for any M with room for a row of scores.
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
# The numbers say in which order the blocks of the N x N matrix are made. No block is kept. From the
# first block of a line to the last, only Q, o, m and l of its queries stay in the fast memory.
#
#                 keys and values
#     queries      1   2   3   4    -> O of these queries
#                  5   6   7   8    -> O of these queries
#                  9  10  11  12    -> O of these queries
#
# FlashAttention-2 has this order. FlashAttention goes down the columns: 1, 5, 9, 2, 6, 10, ... It
# loads each block of keys and values once. But for each of them, it loads Q, O, m and l of all
# queries, and stores O, m and l.


def running_of(fast, i):
    """The running m, l and o of row i. m and l have one column.

    o stands in the matrix "O", because finish_rows() will turn it into the output there.
    """
    return Running(fast.matrix("m")[i][0], fast.matrix("l")[i][0], fast.matrix("O")[i])


def update_rows(fast):
    """Update m, l and o of every row with the block of scores S and its values V."""
    for i, scores in enumerate(fast.matrix("S")):
        new = add_block(running_of(fast, i), scores, fast.matrix("V"))
        fast.write("m", i, [new.m])
        fast.write("l", i, [new.l])
        fast.write("O", i, new.o)
        fast.multiplies += len(scores) * d  # exps * values
        # Rescaling costs 1 + d. The scores and exps * values of the row cost b_c * (2 d + 1).
        fast.multiplies += 1 + d  # scale * l and scale * o


def finish_rows(fast):
    """Turn sums into averages, O = o / l, and keep logsumexp = m + log(l), one number per row.

    logsumexp, L in the paper, is log(sum of all exp(score) of the row). From it, the backward pass
    of training computes the weights again, so they are not kept (Dao 2023, section 3.1):

        exp(score - m) / l = exp(score - m - log(l)) = exp(score - logsumexp)
    """
    for i in range(len(fast.matrix("O"))):
        done = running_of(fast, i)
        # l is 1 or more, because the largest score of the row added exp(0) = 1.
        fast.write("O", i, [o_i / done.l for o_i in done.o])
        fast.write("logsumexp", i, [done.m + math.log(done.l)])
        fast.multiplies += d


def flash_attention(slow, fast, b_r, b_c, causal):
    """The same O, without a matrix of scores in the slow memory (Dao 2023, algorithm 1).

    For N = 256 and M = 1024, standard attention moves 278,528 numbers. 4 N^2 = 262,144 of them are
    S and P, which flash attention never moves. But it moves more keys and values. Standard
    attention has 112 queries in a block, and loads all keys and values 3 times. Here a block also
    needs room for o, m, l and more keys and values, so it has only 34 queries, and all keys and
    values come in 8 times. These are 32,768 of the 37,120 numbers that flash attention moves. With
    one query in a block, they would be 2 N^2 d = 1,048,576. So large blocks are needed as well.
    Traffic stays quadratic in N, because all keys and values come in N / b_r times.

    Flash attention computes no less. It has the same multiplications, and those of rescaling.

    Returns which blocks were computed, as a list of (rows, columns).
    """
    n = len(slow.matrix("Q"))
    slow.reserve("O", n, d)
    slow.reserve("logsumexp", n, 1)
    visited = []
    for rows in blocks(n, b_r):
        load(slow, fast, "Q", rows, range(d))
        fast.reserve("m", len(rows), 1, -math.inf)  # the maximum of no scores
        fast.reserve("l", len(rows), 1)
        fast.reserve("O", len(rows), d)  # the running sums o; divided by l, they become O
        for columns in blocks(n, b_c):
            # If all keys of a block are later than all queries, those of the next blocks are too.
            if causal and columns[0] > rows[-1]:
                break
            load(slow, fast, "K", columns, range(d))
            load(slow, fast, "V", columns, range(d))
            fast.reserve("S", len(rows), len(columns))
            make_scores(fast, rows, columns, causal)
            update_rows(fast)
            fast.free("K", "V", "S")  # S was never stored
            visited.append((rows, columns))
        fast.free("Q")
        fast.reserve("logsumexp", len(rows), 1)
        finish_rows(fast)
        store(fast, slow, "O", rows, range(d))
        store(fast, slow, "logsumexp", rows, range(1))
        fast.free("m", "l", "O", "logsumexp")
    return visited


# === HOW LARGE A BLOCK: more queries, less traffic ===
def room_needed(b_r, b_c):
    """The most numbers that flash attention holds at once: Q and o, K and V, S, m and l.

    logsumexp is reserved only after Q is freed, and Q is as large or larger.
    """
    return 2 * b_r * d + 2 * b_c * d + b_r * b_c + 2 * b_r


def flash_blocks(size):
    """(b_r, b_c) for flash attention in a fast memory of this size.

    Q comes in once, O and logsumexp go out once. All keys and values, 2 N d numbers, come in once
    for each block of queries. If not causal, this adds up to

        traffic = 2 N d + N + ceil(N / b_r) * 2 N d

    If b_c is d, room_needed() is b_r (3 d + 2) + 2 d^2. So b_r is about (M - 2 d^2) / (3 d + 2),
    and traffic falls with M. It is only small if M is much larger than d^2. For N = M = 128, flash
    attention moves 90,240 numbers, and standard attention 88,064.

    b_c is d, or b_r if that is smaller. This is simple and not optimal. With one key in a block,
    M = 1024 has room for 53 queries and not 34. Traffic would fall from 37,120 to 24,832. But o and
    l would be rescaled for each key, and multiplications would rise from 1,189,888 to 1,705,984.

    Raises ValueError if one query and one key do not fit.
    """
    if room_needed(1, 1) > size:
        raise ValueError(f"one query and one key take {room_needed(1, 1)} numbers, not {size}")
    b_r = 1
    while room_needed(b_r + 1, min(b_r + 1, d)) <= size:
        b_r += 1
    return b_r, min(b_r, d)


def standard_blocks(size):
    """(b_r, b_c) for standard attention: as many queries as fit, and one key.

    All keys, and later all values, are loaded once for each block of queries. Nothing is rescaled,
    so blocks of one key cost no more. The first step holds a block of Q, one key, and their scores.
    The third holds as much: a block of O, one value, and their weights. The key or value takes d
    numbers. Each query takes d for its row of Q or O, and 1 for its score: d + b_r (d + 1) <= size.
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
    """The largest difference between exp(score - logsumexp) and the weight that softmax gives.

    Floats have 53 binary digits. From 512 = 2^9 to 1024, the last of them is worth 2^(9 - 52) =
    1.1e-13. So if logsumexp is near 1000, it is rounded by up to half of that, 5.7e-14. A weight
    near 1 is then off by as much.
    """
    errors = []
    for i, row in enumerate(flash.slow.matrix("logsumexp")):
        logsumexp = row[0]  # the matrix has one column
        scores = row_scores(inputs, i, causal)
        for score, weight in zip(scores, softmax(scores), strict=True):
            errors.append(abs(math.exp(score - logsumexp) - weight))
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


def without_factor(running, scores, values):
    """A broken add_block(): l and o are not multiplied by exp(m_old - m_new)."""
    m_new = max(running.m, max(scores))
    exps = [math.exp(score - m_new) for score in scores]
    return Running(m_new, running.l + math.fsum(exps), add_weighted(running.o, exps, values))


def without_maximum(running, scores, values):
    """A broken add_block(): nothing is subtracted, as if m were always 0."""
    exps = [math.exp(score) for score in scores]
    return Running(0.0, running.l + math.fsum(exps), add_weighted(running.o, exps, values))


def error_with(add, inputs, b_c):
    """The error of attend_in_blocks() with this `add`, not causal. It is inf if exp() overflows."""
    outputs = []
    for query in inputs["Q"]:
        try:
            outputs.append(attend_in_blocks(query, inputs["K"], inputs["V"], b_c, add))
        except OverflowError:
            return math.inf
    return largest_difference(outputs, definition(inputs, causal=False))


Check = collections.namedtuple("Check", "standard flash weights rows no_factor no_maximum")


def check(largest_score):
    """Compare both ways of attention with the definition, for N = odd_length, in all odd_blocks.

    Returns the largest errors of both outputs, of the weights from logsumexp, and of single rows
    with add_block() and two broken versions of it. Standard attention is expected to have none. It
    adds the same numbers in the same order as definition(), apart from zeros of hidden keys.
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
            errors["rows"].append(error_with(add_block, inputs, block[1]))
            errors["no_factor"].append(error_with(without_factor, inputs, block[1]))
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

    This is what the code reserves: S for standard attention, N x N, and logsumexp for flash
    attention, N x 1. Only a backward pass needs logsumexp. Without it, flash attention needs 0.
    """
    return run.slow.peak - 4 * len(run.slow.matrix("Q")) * d


def traffic(run):
    """How many numbers passed between the two memories."""
    return run.slow.read + run.slow.written


def intensity(run):
    """Multiplications and divisions for each number that passed between the two memories.

    The more operations per number moved, the less a fast processor waits for the slow memory. This
    says nothing about useful ones: rescaling counts, and smaller blocks of keys rescale more often.
    """
    return run.fast.multiplies / traffic(run)


def growth(figure, before, after):
    """How many times larger extra() or traffic() is after than before, for each way: a Pair."""
    standard = figure(after.standard) / figure(before.standard)
    return Pair(standard, figure(after.flash) / figure(before.flash))


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    show_example()

    # Is the output the same?
    checks = {largest_score: check(largest_score) for largest_score in largest_scores}
    show_checks(checks)

    # What does a longer text cost? The shorter texts are the beginnings of the longest one.
    inputs = make_inputs(lengths[-1], 10.0)  # max |score| = 10; no count depends on it
    by_length = {n: run_both(first_positions(inputs, n), fast_size) for n in lengths}
    show_lengths(by_length)

    # What does a larger fast memory save?
    by_size = {size: run_both(inputs, size) for size in fast_sizes}
    show_sizes(by_size)
    show_refusals(inputs)

    # How many blocks are left if no position may see later ones? More than half: those on the
    # diagonal are computed whole, and those of the last line are smaller but count as much.
    causal = simulate(flash_attention, inputs, fast_size, flash_blocks(fast_size), causal=True)
    draw_visits(causal.visited)

    # Were the outputs right? (show_refusals() has printed the error of its run.)
    errors = [output_error(pair) for pair in by_length.values()]
    errors += [output_error(pair) for pair in by_size.values()]
    errors.append(output_error([causal], causal=True))
    for result in checks.values():
        errors += [result.standard, result.flash, result.rows]
    max_weight_error = worst([result.weights for result in checks.values()])
    # the smallest of the errors that a missing factor makes, one for each size of the scores
    error_without_factor = min(result.no_factor for result in checks.values())

    # growth: N = 256 divided by N = 128. That of memory holds by construction (see extra). Traffic
    # of both grows less than 4 times, because Q and O move once.
    half, full = by_length[lengths[-2]], by_length[lengths[-1]]
    memory_growth = growth(extra, half, full)
    traffic_growth = growth(traffic, half, full)
    # small_m: M = 256 divided by M = 2048. Both ratios below: standard divided by flash.
    small_m = growth(traffic, by_size[fast_sizes[-1]], by_size[fast_sizes[0]])
    standard, flash = full
    print_results(
        [
            ("max_abs_error", f"{worst(errors):.1e}", "< 1e-6"),
            ("max_weight_error", f"{max_weight_error:.1e}", "< 1e-6"),
            ("error_without_factor", error_without_factor, "> 0.01"),
            ("fast_peak", flash.fast.peak, f"<= {fast_size}"),  # reserve() refuses more
            ("standard_memory_growth", memory_growth.standard, "== 4"),
            ("flash_memory_growth", memory_growth.flash, "== 2"),
            ("standard_traffic_growth", traffic_growth.standard, "3.5 to 4.2"),
            ("flash_traffic_growth", traffic_growth.flash, "3.5 to 4.2"),
            ("standard_traffic_small_m", small_m.standard, "1 to 1.2"),
            ("flash_traffic_small_m", small_m.flash, "5.5 to 12"),
            ("traffic_ratio", traffic(standard) / traffic(flash), "> 5"),
            ("multiplies_ratio", standard.fast.multiplies / flash.fast.multiplies, "0.9 to 1.1"),
            ("causal_blocks_visited", len(causal.visited) / len(flash.visited), "0.5 to 0.7"),
            ("runtime_seconds", time.perf_counter() - started, "< 120"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_example():
    """Print the example of add_block(): what o / l is after each block, and what it should be."""
    scores = [math.log(x) for x in (1, 2, 4, 1, 2, 2)]
    values = [[4.0], [10.0], [2.0], [8.0], [7.0], [9.0]]
    print("A row of six scores, the logarithms of 1 2 4 1 2 2, comes in three blocks of two. Each")
    print("score has a value of one number: 4 10 2 8 7 9. After each block, o / l is already the")
    print("average of the values seen so far, as softmax gives it all at once. Without the factor")
    print("exp(m_old - m_new), o / l goes wrong with the second block, which has a new maximum.")
    print("scores seen       m       l       o   o / l   all at once   without factor")
    running = broken = Running(-math.inf, 0.0, [0.0])
    for part in blocks(len(scores), 2):
        new_scores = scores[part.start : part.stop]
        new_values = values[part.start : part.stop]
        running = add_block(running, new_scores, new_values)
        broken = without_factor(broken, new_scores, new_values)
        weights = softmax(scores[: part.stop])
        average = add_weighted([0.0], weights, values[: part.stop])[0]
        line = f"{part.stop:11d}"
        for number in (running.m, running.l, running.o[0], running.o[0] / running.l):
            line += f"{number:8.3f}"
        print(f"{line}{average:14.3f}{broken.o[0] / broken.l:17.3f}")


def show_checks(checks):
    """Print the largest errors for each size of the scores: of both ways, and of single rows."""
    shapes = " and ".join(f"{b_r} x {b_c}" for b_r, b_c in odd_blocks)
    print(f"\nLargest errors against the definition. N = {odd_length}, in blocks of {shapes}")
    print("queries x keys, causal or not. Flash attention keeps logsumexp of each row, that is")
    print("log(sum of all exp(score)). The weights are exp(score - logsumexp).")
    print("   largest   standard      flash      flash")
    print("   |score|          O          O    weights")
    for largest_score, result in checks.items():
        line = f"{largest_score:10.0f}{result.standard:11.1e}"
        print(f"{line}{result.flash:11.1e}{result.weights:11.1e}")
    print("\nThe same for attend_in_blocks(), not causal, in the same blocks of keys. Without")
    print("the maximum, exp() overflows beyond 709.78, and the error is given as inf.")
    print("   largest       with    without    without")
    print("   |score|  add_block     factor    maximum")
    for largest_score, result in checks.items():
        line = f"{largest_score:10.0f}{result.rows:11.1e}"
        print(f"{line}{result.no_factor:11.1e}{result.no_maximum:11.1e}")


def show_lengths(by_length):
    """Print memory and traffic for each N."""
    print(f"\nTexts of N positions, M = {fast_size}. Traffic is how many numbers pass between the")
    print("memories. Memory is what the slow one holds beside Q, K, V and O: S, or logsumexp.")
    print("      standard attention   flash attention")
    print("   N   traffic    memory   traffic  memory")
    for n, (standard, flash) in by_length.items():
        line = f"{n:4d}{traffic(standard):10d}{extra(standard):10d}"
        print(f"{line}{traffic(flash):10d}{extra(flash):8d}")


def show_sizes(by_size):
    """Print blocks, traffic and intensity for each size of the fast memory."""
    print(f"\nA text of N = {lengths[-1]}, with M numbers of fast memory. Operations are")
    print("multiplications and divisions. The more per number moved, the less a GPU waits.")
    print("       blocks, queries x keys         traffic            operations per number")
    print("   M     standard   flash        standard   flash        standard   flash")
    for size, (standard, flash) in by_size.items():
        line = f"{size:4d}"
        for (b_r, b_c), width in ((standard_blocks(size), 13), (flash_blocks(size), 8)):
            line += f"{b_r} x {b_c}".rjust(width)
        line += f"{traffic(standard):16d}{traffic(flash):8d}"
        print(f"{line}{intensity(standard):16.1f}{intensity(flash):8.1f}")


def show_refusals(inputs):
    """Print what happens if a row of scores does not fit into the fast memory."""
    too_small = len(inputs["Q"]) - 1
    try:
        simulate(standard_attention, inputs, too_small, standard_blocks(too_small))
    except MemoryError as error:
        print(f"Standard attention needs a whole row of scores. M = {too_small}: {error}.")
    flash = simulate(flash_attention, inputs, too_small, flash_blocks(too_small))
    error = output_error([flash])
    print(f"Flash attention fits into it. Its largest error is {error:.1e}.")


def draw_visits(visited):
    """Print which blocks of the N x N matrix causal flash attention computed."""
    n = lengths[-1]
    b_r, b_c = flash_blocks(fast_size)
    print(f"\nCausal attention, N = {n}, blocks of {b_r} queries (down) x {b_c} keys (across).")
    print("In blocks with #, all queries see all keys. In those with /, some keys are hidden from")
    print("some queries. Those with . are neither loaded nor computed.")
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
