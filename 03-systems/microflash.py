"""Attention never needs the whole score matrix: a running maximum and a running sum suffice.

FlashAttention (Dao et al. 2022) in the loop order of FlashAttention-2 (Dao 2023), on the online
softmax of Milakov & Gimelshein (2018). Only the forward pass, and simulated: a fast memory refuses
to hold more than its size, and what passes between it and a slow one is counted. So nothing gets
faster here; what a GPU gains is the traffic, since it waits for memory longer than it computes.
"""

import collections
import functools
import math
import random
import time

# === CONSTANTS: what is computed, and in how little memory ===
d = 8  # numbers in each query, key and value; 64 or 128 in a language model
lengths = (32, 64, 128, 256)  # N, the positions
fast_size = 1024  # M, the numbers that fit on the chip, for all N
fast_sizes = (256, 512, 1024, 2048)  # M, for the largest N
awkward_lengths = (1, 2, 5, 16, 37)  # not all of them multiples of any block below
awkward_blocks = ((1, 1), (3, 5), (5, 3), (16, 4))  # rows of Q, rows of K and V
score_scales = (1.0, 100.0, 1000.0)  # the largest |score|; exp() overflows beyond 709
Run = collections.namedtuple("Run", "slow fast visited")  # two memories, the blocks computed
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: random queries, keys and values ===
def dot(a, b):
    """sum_i a[i] b[i], in a loop: sum() of floats rounds differently from Python 3.12 on."""
    total = 0.0
    for x, y in zip(a, b):
        total += x * y
    return total


def make_inputs(n, largest_score):
    """Q, K, V, each [n][d], Gaussian, with Q scaled for the largest |score| to be as asked."""
    q, k, v = ([[random.gauss(0, 1) for _ in range(d)] for _ in range(n)] for _ in "QKV")
    scale = largest_score / max(abs(dot(query, key)) * d**-0.5 for query in q for key in k)
    return [[x * scale for x in query] for query in q], k, v


# === MODEL: two memories, and the steps that see the fast one alone ===
class Memory:
    """Named matrices that hold no more than `size` numbers together; counters of what was done.

    A GPU has HBM, large and slow, and on its chip SRAM, small and fast: an A100 40 GB at 1.5 TB/s
    and 108 times 192 KB at 19 TB/s (Dao et al. 2022, section 2.1). It computes on what is in SRAM.
    At 312 TFLOP/s it could do 200 multiply-adds in the time that a 16-bit number takes from HBM.
    """

    def __init__(self, size=math.inf):
        self.size, self.used, self.peak = size, 0, 0  # in numbers, not bytes
        self.read, self.written = 0, 0  # numbers that left it for the other memory, or came
        self.multiplies = 0  # of its contents; divisions too
        self.matrices = {}

    def reserve(self, name, rows, columns, fill=0.0):
        """A new matrix [rows][columns], asked for before it is computed. MemoryError if no room."""
        if self.used + rows * columns > self.size:
            free = self.size - self.used
            raise MemoryError(f"no room for {name}, {rows} x {columns}: {free} of {self.size} free")
        self.used += rows * columns
        self.peak = max(self.peak, self.used)
        self.matrices[name] = [[fill] * columns for _ in range(rows)]
        return self.matrices[name]

    def free(self, *names):
        """Give matrices up, at their present size: if one has grown, `used` never returns to 0."""
        for name in names:
            self.used -= sum(len(row) for row in self.matrices.pop(name))


def load(slow, fast, name, rows, columns=slice(None)):
    """Copy a block of a matrix in slow memory into fast memory, under the same name."""
    block = [row[columns] for row in slow.matrices[name][rows]]
    fast.reserve(name, len(block), len(block[0]))[:] = block
    slow.read += len(block) * len(block[0])


def store(fast, slow, name, rows, columns=slice(None)):
    """Move a block from fast memory to its place in slow memory."""
    block = fast.matrices[name]
    for row, values in zip(slow.matrices[name][rows], block, strict=True):
        row[columns] = values
    slow.written += len(block) * len(block[0])
    fast.free(name)


# From here to finish() a function gets the fast memory alone: it cannot look at a whole matrix. Its
# scratch, a row of a block at a time, is not counted: a GPU keeps such numbers in registers.
def make_scores(fast, rows, columns, causal):
    """S = Q K^T / sqrt(d) of the blocks in fast memory, [b_r][b_c].

    `rows` and `columns` say where the block lies in the whole matrix, as causality depends on it.
    """
    keys = fast.matrices["K"]
    scores = fast.reserve("S", rows.stop - rows.start, len(keys))
    for i, query in enumerate(fast.matrices["Q"]):
        past = max(0, rows.start + i + 1 - columns.start) if causal else len(keys)
        row = [dot(query, key) * d**-0.5 for key in keys[:past]]
        scores[i][:] = row + [-math.inf] * (len(keys) - len(row))  # a later key: exp(-inf) = 0
        fast.multiplies += len(row) * (d + 1)


def softmax_rows(fast):
    """softmax of each row of S, in its place. It has to have the whole row: N numbers of room."""
    for row in fast.matrices["S"]:
        m = max(row)  # to subtract it from all changes no weight, and keeps exp() at 1 or less
        exps = [math.exp(score - m) for score in row]
        total = math.fsum(exps)
        row[:] = [e / total for e in exps]
        fast.multiplies += len(row)


def add_values(fast):
    """O += S V: each row of O [d] takes in the values, weighted by its row of S."""
    columns = list(zip(*fast.matrices["V"]))  # V again, read the other way
    for out, weights in zip(fast.matrices["O"], fast.matrices["S"]):
        out[:] = [o + dot(weights, column) for o, column in zip(out, columns)]
        fast.multiplies += len(weights) * d


def online_softmax(m, total, scores):
    """One row: from its maximum m and sum l of exp(score - m) so far to those with more scores.

    All that went before was relative to the old maximum. One factor mends it, for every score s:
    exp(s - m) * exp(m - m') = exp(s - m'). So no old score is needed again (Milakov & Gimelshein
    2018, algorithm 3). `total` is l; returns m', l', the factor and exp(scores - m'). In the same
    way results of several GPUs, each with a part of the keys, are joined (Liu et al. 2023).
    """
    new_m = max(m, *scores)
    shrink = math.exp(m - new_m)  # 1 if the maximum stands; 0 at the start, where m is -inf
    exps = [math.exp(score - new_m) for score in scores]
    return new_m, shrink * total + math.fsum(exps), shrink, exps


def absorb(fast):
    """Take a block S into m, l and O of its rows: l' = exp(m - m') l + rowsum(P), O' likewise."""
    for m, total, out, row in zip(*(fast.matrices[name] for name in "mlOS")):
        # P = exp(S - m') replaces S. To be weights they lack the division by l, still unknown.
        m[0], total[0], shrink, row[:] = online_softmax(m[0], total[0], row)
        out[:] = [shrink * o for o in out]  # O is a sum of exp(s - m) v: the same factor mends it
        fast.multiplies += 1 + d
    add_values(fast)  # O' = exp(m - m') O + P V


def finish(fast):
    """Divide O by the row sums l, now complete, and leave L = m + log(l) in the place of m and l.

    L is log(sum(exp(s))) of a row. Training recomputes any weight from it, as exp(s - L), instead
    of keeping N^2 of them (Dao 2023, section 3.1); inference could do without.
    """
    logs = fast.reserve("L", len(fast.matrices["O"]), 1)
    for m, total, out, log in zip(*(fast.matrices[name] for name in "mlO"), logs):
        out[:] = [o / total[0] for o in out]
        log[0] = m[0] + math.log(total[0])  # total >= 1: the maximum itself adds exp(0)
        fast.multiplies += d
    fast.free("m", "l")


# === INFERENCE: attention with the score matrix, and without ===
def blocks(n, size):
    """0 .. n - 1 in slices of `size`; the last is shorter if `size` does not divide n."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def standard_attention(slow, fast, b_r, b_c, causal):
    """O = softmax(Q K^T / sqrt(d)) V, a step at a time (Dao et al. 2022, algorithm 0).

    Each step leaves its result in slow memory, as library calls one after the other do: S goes out
    and comes back, P goes out and comes back, 4 N^2 numbers whatever the size of the fast memory.
    P takes the place of S, or there would be two such matrices.
    """
    n = len(slow.matrices["Q"])
    slow.reserve("S", n, n)
    slow.reserve("O", n, d)
    for rows in blocks(n, b_r):  # S = Q K^T / sqrt(d)
        load(slow, fast, "Q", rows)
        for columns in blocks(n, b_c):
            load(slow, fast, "K", columns)
            make_scores(fast, rows, columns, causal)
            store(fast, slow, "S", rows, columns)
            fast.free("K")
        fast.free("Q")
    for row in blocks(n, 1):  # P = softmax(S)
        load(slow, fast, "S", row)
        softmax_rows(fast)
        store(fast, slow, "S", row)
    for rows in blocks(n, b_r):  # O = P V
        fast.reserve("O", rows.stop - rows.start, d)
        for columns in blocks(n, b_c):
            load(slow, fast, "S", rows, columns)
            load(slow, fast, "V", columns)
            add_values(fast)
            fast.free("S", "V")
        store(fast, slow, "O", rows)


def flash_attention(slow, fast, b_r, b_c, causal):
    """The same O in one pass: a block of S is used up where it was made (Dao 2023, algorithm 1).

    The paper of 2022 has the loops the other way round, K and V outside: O, m and l then travel to
    and fro for each block of K. Here they stay until they are done. Returns the blocks visited.
    """
    n, visited = len(slow.matrices["Q"]), []
    slow.reserve("O", n, d)
    slow.reserve("L", n, 1)
    for rows in blocks(n, b_r):  # on a GPU all at once: no block of rows needs another
        load(slow, fast, "Q", rows)
        fast.reserve("O", rows.stop - rows.start, d)
        fast.reserve("m", rows.stop - rows.start, 1, -math.inf)  # maximum of no scores
        fast.reserve("l", rows.stop - rows.start, 1)
        for columns in blocks(n, b_c):
            if causal and columns.start >= rows.stop:
                break  # all keys from here on are in the future of all these queries
            load(slow, fast, "K", columns)
            load(slow, fast, "V", columns)
            make_scores(fast, rows, columns, causal)
            absorb(fast)  # key 0 comes first and all may see it: m is finite from there on
            fast.free("K", "V", "S")
            visited.append((rows, columns))
        fast.free("Q")
        finish(fast)
        store(fast, slow, "O", rows)
        store(fast, slow, "L", rows)
    return visited


def room_needed(b_r, b_c):
    """Numbers in fast memory while a block is absorbed: Q and O, K and V, S, m and l."""
    return 2 * b_r * d + 2 * b_c * d + b_r * b_c + 2 * b_r


def block_sizes(size):
    """The largest b_r and b_c = min(b_r, d) for which a fast memory of `size` has room.

    K and V are read once for each block of Q, N / b_r times: b_r should be large, b_c need not be.
    Up to b_c = d, S takes no more room than O. The paper's ceil(size / 4d), here for b_r, is right
    but for a constant, as it leaves out S, m and l: at 512 it gives 16 x 8 blocks that need 544.
    """
    b_r = 1
    while room_needed(b_r + 1, min(b_r + 1, d)) <= size:
        b_r += 1
    return b_r, min(b_r, d)


def run(attention, inputs, size, sizes, causal=False):
    """Put Q, K, V into a slow memory, an empty fast one of `size` beside it, and run attention."""
    slow, fast = Memory(), Memory(size)
    for name, matrix in zip("QKV", inputs):
        slow.reserve(name, len(matrix), d)[:] = [[*row] for row in matrix]
    return Run(slow, fast, attention(slow, fast, *sizes, causal))


def run_both(inputs, size, sizes, causal=False):
    """Runs of standard and of flash attention, and the largest difference between their outputs."""
    runs = [run(f, inputs, size, sizes, causal) for f in (standard_attention, flash_attention)]
    pairs = zip(*(r.slow.matrices["O"] for r in runs))
    return *runs, largest([abs(a - b) for rows in pairs for a, b in zip(*rows)])


def refusal(inputs, size, sizes):
    """What a fast memory of `size` says to flash attention in such blocks; nothing if they fit."""
    try:
        run(flash_attention, inputs, size, sizes)
    except MemoryError as error:
        return str(error)
    return ""


def awkward_errors(largest_score):
    """Differences where blocks do not fit and keys are hidden, for scores of one magnitude."""
    return [
        run_both(inputs, fast_size, sizes, causal)[-1]
        for inputs in [make_inputs(n, largest_score) for n in awkward_lengths]
        for sizes in awkward_blocks
        for causal in (False, True)
    ]


# fmt: off
def largest(xs): return math.nan if any(map(math.isnan, xs)) else max(xs)  # max() may skip a nan
def extra(r): return r.slow.peak - 4 * d * len(r.slow.matrices["Q"])  # beside Q, K, V and O
def traffic(r): return r.slow.read + r.slow.written
# fmt: on


def powers(of, xs, runs):
    """p if of(run) ~ x^p from the first run to the last: for standard and for flash attention."""
    ends = [[of(pair[i]) for pair in (runs[0], runs[-1])] for i in (0, 1)]
    return [math.log(last / first) / math.log(xs[-1] / xs[0]) for first, last in ends]


# === OUTPUT: tables, drawings, results ===
def show_online_softmax(scores, size):
    """Print how maximum and sum of a row come about, a block of scores at a time."""
    print(f"A row of scores, {size} at a time:{'m':>10}  exp(m_old - m)         l")
    m, total = -math.inf, 0.0
    for part in blocks(len(scores), size):
        m, total, shrink, _ = online_softmax(m, total, scores[part])
        row = "".join(f"{score:7.2f}" for score in scores[part])
        print(f"{row:30}{m:8.2f}{shrink:16.4f}{total:10.4f}")
    m, total, _, _ = online_softmax(-math.inf, 0.0, scores)
    print(f"{'all at once':>30}{m:8.2f}{total:26.4f}")


def draw_growth(runs):
    """Print slow memory beside inputs and output, a # for each doubling: the slope is the power."""
    print("\nSlow memory beside Q, K, V and O, in numbers (a # for each doubling):")
    print("   N  standard                    flash")
    for n, (*both, _) in zip(lengths, runs):
        cells = [f"{extra(r):7d} {'#' * round(math.log2(extra(r)))}" for r in both]
        print(f"{n:4d} {cells[0]:26}{cells[1]}")


def show_traffic(runs):
    """Print what fits into each size of fast memory, and what was moved for how much arithmetic."""
    print(f"\nN = {lengths[-1]}, and a fast memory of M:")
    print(f"{'block,':>15}{'most':>6}{'numbers moved':>19}{'multiplies for each':>23}")
    print(f"   M{'rows x keys':>12}{'held':>5}" + 2 * f"{'standard':>11}{'flash':>9}")
    for size, (*both, _) in zip(fast_sizes, runs):
        b_r, b_c = block_sizes(size)
        moved = [traffic(r) for r in both]
        used = [r.fast.multiplies / traffic(r) for r in both]
        print(f"{size:4d}{b_r:6d} x {b_c}{both[1].fast.peak:7d}", end="")
        print("{:11d}{:9d}{:11.1f}{:9.1f}".format(*moved, *used))


def draw_visits(visited, n, b_r, b_c):
    """Print which blocks of the score matrix were visited, and which of them the mask cuts."""
    print(f"\nCausal, N = {n}, blocks of {b_r} queries (down) x {b_c} keys (across):")
    print("# visible, / cut by the mask, . neither loaded nor computed")
    for rows in blocks(n, b_r):
        marks = ["/" if c.stop - 1 > rows.start else "#" for r, c in visited if r == rows]
        print("".join(marks).ljust(len(blocks(n, b_c)), "."))


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
    show_online_softmax([random.gauss(0, 2) for _ in range(16)], 4)

    print(f"\nFlash against standard attention, N = {str(awkward_lengths)[1:-1]}, causal or not:")
    errors = []
    for score in score_scales:
        found = awkward_errors(score)
        errors += found
        gap = f"largest difference {largest(found):.1e} in {len(found)} pairs of runs"
        print(f"|score| up to {score:5.0f}: {gap}")

    inputs, sizes = make_inputs(lengths[-1], 10.0), block_sizes(fast_size)
    by_n = [run_both([x[:n] for x in inputs], fast_size, sizes) for n in lengths]
    draw_growth(by_n)
    by_m = [run_both(inputs, size, block_sizes(size)) for size in fast_sizes]
    show_traffic(by_m)
    larger = [(size, block_sizes(size)[0] + 1) for size in fast_sizes]
    refusals = [refusal(inputs, size, (b_r, min(b_r, d))) for size, b_r in larger]
    print(f"A row more in each block, at M = {fast_sizes[-1]}: {refusals[-1]}")
    _, causal, error = run_both(inputs, fast_size, sizes, causal=True)
    draw_visits(causal.visited, lengths[-1], *sizes)

    standard, flash, _ = by_n[-1]
    errors += [error, *(e for _, _, e in by_n + by_m)]
    memory_by_n = powers(extra, lengths[-2:], by_n[-2:])
    traffic_by_n = powers(traffic, lengths[-2:], by_n[-2:])  # when N doubles for the last time
    traffic_by_m = powers(traffic, fast_sizes, by_m)
    rows = [
        ("comparisons", len(errors), ""),
        ("max_abs_error", f"{largest(errors):.1e}", "< 1e-6"),
        ("fast_peak", max(f.fast.peak for _, f, _ in by_n), f"<= {fast_size}"),
        ("fast_left", max(abs(f.fast.used) for _, f, _ in by_n + by_m), "== 0"),
        ("larger_blocks_refused", sum(text != "" for text in refusals), f"== {len(larger)}"),
        # _by_n, _by_m: p, where what is measured grows as N^p, or M^p
        ("standard_memory_by_n", memory_by_n[0], "1.9 to 2.1"),
        ("flash_memory_by_n", memory_by_n[1], "0.9 to 1.1"),
        ("standard_traffic_by_n", traffic_by_n[0], "1.8 to 2.1"),
        ("flash_traffic_by_n", traffic_by_n[1], "1.8 to 2.1"),  # not less, but divided by M:
        ("standard_traffic_by_m", traffic_by_m[0], "-0.3 to 0"),
        ("flash_traffic_by_m", traffic_by_m[1], "-1.2 to -0.8"),  # Dao et al. 2022, theorem 2
        ("traffic_ratio", traffic(standard) / traffic(flash), "> 5"),
        ("multiplies_ratio", standard.fast.multiplies / flash.fast.multiplies, "0.9 to 1.1"),
        ("causal_blocks_visited", len(causal.visited) / len(flash.visited), "0.5 to 0.7"),
        ("runtime_seconds", time.perf_counter() - started, "< 120"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
