"""Attention never needs the whole score matrix: a running maximum, sum and output suffice.

FlashAttention (Dao et al. 2022) in the loop order of FlashAttention-2 (Dao 2023), on the online
softmax of Milakov & Gimelshein (2018). Only the forward pass, and simulated: in a fast memory no
more can be reserved than its size, and what passes between it and a slow one is counted. So nothing
gets faster here; what a GPU saves is traffic, since it waits for memory longer than it computes.
"""

import collections
import functools
import itertools
import math
import random
import time

# === CONSTANTS: what is computed, and in how little memory ===
d = 8  # numbers in each query, key and value; 64 or 128 in a language model
lengths = (32, 64, 128, 256)  # N, the positions
fast_size = 1024  # M, the numbers that fit on the chip, for all N
fast_sizes = (256, 512, 1024, 2048)  # M, for the largest N; standard attention needs M >= N
awkward_lengths = (1, 2, 5, 16, 37)  # N again, with blocks that do not divide it and some that do
awkward_blocks = ((1, 1), (3, 5), (5, 3), (16, 4))  # rows of Q, rows of K and V
# Centre of the scores, greatest distance from it. exp() overflows above 709, and is 0 below -745.
score_ranges = ((0.0, 1.0), (0.0, 100.0), (1000.0, 1.0), (-1000.0, 1.0))
Run = collections.namedtuple("Run", "slow fast visited")  # two memories, the blocks computed
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: random queries, keys and values ===
def dot(a, b):
    """sum_i a[i] b[i], in a loop: sum() of floats rounds differently from Python 3.12 on."""
    total = 0.0
    for x, y in zip(a, b):
        total += x * y
    return total


def make_inputs(n, centre, distance):
    """Q, K, V, each [n][d], Gaussian, with scores around `centre`, as far off as `distance`."""
    q, k = ([[random.gauss(0, 1) for _ in range(d - 1)] for _ in range(n)] for _ in "QK")
    v = [[random.gauss(0, 1) for _ in range(d)] for _ in range(n)]
    scale = distance / max(abs(dot(query, key)) * d**-0.5 for query in q for key in k)
    # The last number of query and key adds `centre` to their score, which changes no weight.
    q = [[x * scale for x in query] + [1.0] for query in q]
    return q, [key + [centre * d**0.5] for key in k], v


# === MODEL: the definition, two memories, and the steps that see the fast one alone ===
def definition(inputs, causal):
    """O = softmax(Q K^T / sqrt(d)) V [n][d] and L = log(sum(exp(score))) [n][1], row by row.

    What both attentions have to give; they share dot() alone with it. Causal: no later key is seen.
    """
    q, k, v = inputs
    outputs, logs = [], []
    for i, query in enumerate(q):
        scores = [dot(query, key) / math.sqrt(d) for key in k[: i + 1 if causal else len(k)]]
        m = max(scores)  # to subtract it from all changes no weight, and keeps exp() at 1 or less
        exps = [math.exp(s - m) for s in scores]
        outputs.append([dot(exps, column) / math.fsum(exps) for column in zip(*v)])
        logs.append([m + math.log(math.fsum(exps))])
    return outputs, logs


class Memory:
    """Named matrices, for which `size` numbers can be reserved; counters of what was done.

    A GPU has HBM, large and slow, and on its chip SRAM, small and fast: an A100 40 GB at 1.5 TB/s
    and 108 times 192 KB at 19 TB/s (Dao et al. 2022, section 2.1). It computes on what is in SRAM.
    At 312 TFLOP/s it could do 200 multiply-adds in the time that a 16-bit number takes from HBM.
    """

    def __init__(self, size=math.inf):
        self.size, self.used, self.peak = size, 0, 0  # in numbers, not bytes
        self.read, self.written = 0, 0  # read from it, written to it; counted of the slow one
        self.multiplies = 0  # divisions too; counted of the fast one
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
        """Give matrices up. Subtracts their actual size: one that grew leaves `used` below 0."""
        for name in names:
            self.used -= sum(len(row) for row in self.matrices.pop(name))


def load(slow, fast, name, rows, columns=slice(None)):
    """Copy a block of a matrix in slow memory into fast memory, under the same name."""
    block = [row[columns] for row in slow.matrices[name][rows]]
    fast.reserve(name, len(block), len(block[0]))[:] = block
    slow.read += len(block) * len(block[0])


def store(fast, slow, name, rows, columns=slice(None)):
    """Copy a block to its place in slow memory, then free it in the fast one."""
    block = fast.matrices[name]
    for row, values in zip(slow.matrices[name][rows], block, strict=True):
        row[columns] = values
    slow.written += len(block) * len(block[0])
    fast.free(name)


# From here to finish() a function gets the fast memory alone: it cannot look at a whole matrix. Its
# scratch, a row of a block at a time, is not counted: a GPU keeps such numbers in registers.
def make_scores(fast, rows, columns, causal):
    """S = Q K^T / sqrt(d) of the blocks in fast memory, [b_r][b_c].

    Where the block lies in the whole matrix, its `rows` and `columns`, matters to causality alone.
    """
    keys = fast.matrices["K"]
    scores = fast.reserve("S", rows.stop - rows.start, len(keys))
    for i, query in enumerate(fast.matrices["Q"]):
        past = max(0, rows.start + i + 1 - columns.start) if causal else len(keys)
        row = [dot(query, key) * d**-0.5 for key in keys[:past]]
        scores[i][:] = row + [-math.inf] * (len(keys) - len(row))  # a later key: exp(-inf) = 0
        fast.multiplies += len(keys) * (d + 1)  # a GPU computes whole blocks, then hides the future


def softmax_rows(fast):
    """softmax of each row of S, in its place. It needs the whole row: N numbers of room."""
    for row in fast.matrices["S"]:
        m = max(row)
        exps = [math.exp(score - m) for score in row]
        total = math.fsum(exps)
        row[:] = [e / total for e in exps]
        fast.multiplies += len(row)


def add_values(fast):
    """O += S V: each row of O [d] takes in the values, weighted by its row of S."""
    for out, weights in zip(fast.matrices["O"], fast.matrices["S"]):
        for weight, value in zip(weights, fast.matrices["V"]):
            out[:] = [o + weight * x for o, x in zip(out, value)]
        fast.multiplies += len(weights) * d


def online_softmax(m, total, scores):
    """Update maximum m and sum l of exp(score - m) of one row with more scores.

    All that went before was relative to the old maximum. One factor mends it, for every score s:
    exp(s - m) * exp(m - m') = exp(s - m'). So no old score is needed again (Milakov & Gimelshein
    2018, algorithm 3). `total` is l; returns m', l', the factor and exp(scores - m').
    """
    new_m = max(m, *scores)
    shrink = math.exp(m - new_m)  # 1 if the maximum stands; 0 at the start, where m is -inf
    exps = [math.exp(score - new_m) for score in scores]
    return new_m, shrink * total + math.fsum(exps), shrink, exps


def absorb(fast):
    """Take a block S into m, l and O of its rows."""
    for m, total, out, row in zip(*(fast.matrices[name] for name in "mlOS")):
        m[0], total[0], shrink, exps = online_softmax(m[0], total[0], row)
        row[:] = exps  # P = exp(S - m'). To be weights they lack the division by l, still unknown
        out[:] = [shrink * o for o in out]
        fast.multiplies += 1 + d
    add_values(fast)  # O' = exp(m - m') O + P V: a sum of exp(s - m) v, mended by the factor of l


def finish(fast):
    """Divide O by the row sums l, now complete; turn m and l into L = m + log(l).

    Training recomputes any weight from L, as exp(s - L), instead of keeping N^2 of them (Dao 2023,
    section 3.1).
    """
    logs = fast.reserve("L", len(fast.matrices["O"]), 1)
    for m, total, out, log in zip(*(fast.matrices[name] for name in "mlO"), logs):
        out[:] = [o / total[0] for o in out]
        log[0] = m[0] + math.log(total[0])  # total >= 1: the maximum itself adds exp(0)
        fast.multiplies += d
    fast.free("m", "l")


# === INFERENCE: attention with the score matrix, and without ===
def blocks(n, step):
    """0 .. n - 1 in slices of `step`; the last is shorter if `step` does not divide n."""
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def standard_attention(slow, fast, b_r, b_c, causal):
    """O = softmax(Q K^T / sqrt(d)) V, a step at a time (Dao et al. 2022, algorithm 0).

    Each step leaves its result in slow memory, as library calls one after the other do: S goes out
    and comes back, P goes out and comes back, 4 N^2 numbers whatever the size of the fast memory.
    K and V, once for each block of rows, add 2 N^2 d / b_r. P takes the place of S in slow memory.
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
    slow.reserve("L", n, 1)  # nothing else beside inputs and output; inference could do without
    for rows in blocks(n, b_r):  # in parallel on a GPU: no block of rows needs another
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
    """Numbers in fast memory while flash absorbs a block: Q and O, K and V, S, m and l."""
    return 2 * b_r * d + 2 * b_c * d + b_r * b_c + 2 * b_r


def block_sizes(room):
    """(b_r, b_c) of standard and of flash attention: as many rows b_r as `room` allows.

    K and V are read N / b_r times, so narrow blocks, which leave room for more rows, move least:
    standard attention gets b_c = 1. Flash attention mends l and O once for each block, which costs
    (d + 1) / b_c multiplies for each score, so b_c = min(b_r, d): at 1024, 53 x 1 would move 1/3
    less, but multiply 43 % more. It moves about 2 N^2 d / b_r numbers, Theta(N^2 d^2 / M) (Dao et
    al. 2022, theorem 2), less than 4 N^2 once b_r > d / 2. The paper's ceil(M / 4d), here for b_r,
    leaves out S, m and l: at 512 it gives 16 x 8 blocks that need 544.
    """
    b_r = 1
    while room_needed(b_r + 1, min(b_r + 1, d)) <= room:
        b_r += 1
    standard = (room - d) // (d + 1)  # b_r d + d + b_r <= room: Q, K, S; later O, V, S
    return (standard, 1), (b_r, min(b_r, d))


# === OUTPUT: measurements, tables, drawings, results ===
def run(attention, inputs, room, block, causal=False):
    """Put Q, K, V into a slow memory, an empty fast one beside it, and run attention."""
    slow, fast = Memory(), Memory(room)
    for name, matrix in zip("QKV", inputs):
        slow.reserve(name, len(matrix), d)[:] = [[*row] for row in matrix]
    return Run(slow, fast, attention(slow, fast, *block, causal))


def run_both(inputs, room, pair, causal=False):
    """Runs of standard and of flash attention, each in its block size of the pair."""
    both = zip((standard_attention, flash_attention), pair)
    return [run(attention, inputs, room, block, causal) for attention, block in both]


def refusal(attention, inputs, room, block):
    """What a fast memory says to attention in such blocks; nothing if there is room."""
    try:
        run(attention, inputs, room, block)
    except MemoryError as error:
        return str(error)
    return ""


def refuse_both(inputs, room):
    """Refusals of a row more in a block than block_sizes() allows, of standard and of flash."""
    both = zip((standard_attention, flash_attention), block_sizes(room))
    return [refusal(attention, inputs, room, (b_r + 1, b_c)) for attention, (b_r, b_c) in both]


# fmt: off
def largest(xs): return math.nan if any(map(math.isnan, xs)) else max(xs)  # max() may skip a nan
def extra(r): return r.slow.peak - 4 * d * len(r.slow.matrices["Q"])  # beside Q, K, V and O
def traffic(r): return r.slow.read + r.slow.written
# fmt: on


def difference(r, name, expected):
    """Largest |difference| between a matrix that a run left in slow memory and another one."""
    pairs = zip(r.slow.matrices[name], expected, strict=True)
    return largest([abs(a - b) for rows in pairs for a, b in zip(*rows, strict=True)])


def awkward_errors(centre, distance):
    """Largest differences from the definition: of standard O, flash O and L."""
    errors = []
    for n, block, causal in itertools.product(awkward_lengths, awkward_blocks, (False, True)):
        inputs = make_inputs(n, centre, distance)
        standard, flash = run_both(inputs, fast_size, (block, block), causal)
        o, logs = definition(inputs, causal)
        cases = (standard, "O", o), (flash, "O", o), (flash, "L", logs)
        errors.append([difference(*case) for case in cases])
    return [largest(column) for column in zip(*errors)]


def power(of, xs, runs):
    """p if of(run) ~ x^p from the first run to the last."""
    return math.log(of(runs[-1]) / of(runs[0])) / math.log(xs[-1] / xs[0])


def show_online_softmax(scores, values, step):
    """Print how m, l and O of a row come about, a block of scores at a time; d = 1 in V and O."""
    print(f"A row of scores, {step} at a time:{'m':>9}  exp(m_old - m)       l       O   O / l")
    m, total, out = -math.inf, 0.0, 0.0
    for part in blocks(len(scores), step):
        m, total, shrink, exps = online_softmax(m, total, scores[part])
        out = shrink * out + dot(exps, values[part])
        row = "".join(f"{score:7.2f}" for score in scores[part])
        print(f"{row:30}{m:7.2f}{shrink:16.4f}{total:8.4f}{out:8.4f}{out / total:8.4f}")
    m, total, _, exps = online_softmax(-math.inf, 0.0, scores)
    out = dot(exps, values)
    print(f"{'all at once':>30}{m:7.2f}{total:24.4f}{out:8.4f}{out / total:8.4f}")


def show_errors(errors):
    """Print what awkward_errors() found for each range of scores."""
    ways = f"N = {str(awkward_lengths)[1:-1]}, {len(awkward_blocks)} block sizes, causal or not"
    print(f"\nLargest difference from the definition, {ways}:")
    print(f"{'scores':>14}{'standard O':>13}{'flash O':>10}{'flash L':>10}")
    for (centre, distance), (standard, flash, logs) in zip(score_ranges, errors):
        label = f"{centre - distance:.0f} to {centre + distance:.0f}"
        print(f"{label:>14}{standard:13.1e}{flash:10.1e}{logs:10.1e}")


def draw_growth(runs):
    """Print slow memory beside inputs and output. As N doubles, a bar grows by the power of N."""
    print("\nSlow memory beside Q, K, V and O, in numbers (# doubles it; each line doubles N):")
    print("   N  standard                    flash")
    for n, pair in zip(lengths, runs):
        cells = [f"{extra(r):7d} {'#' * round(math.log2(extra(r)))}" for r in pair]
        print(f"{n:4d} {cells[0]:26}{cells[1]}")


def show_traffic(runs):
    """Print blocks, numbers moved, multiplies for each: below an A100's 200 it waits for memory."""
    print(f"\nN = {lengths[-1]}, and a fast memory of M:")
    print(f"{'blocks, rows x keys':>24}{'numbers moved':>20}{'multiplies per number':>23}")
    print("   M" + 2 * f"{'standard':>11}{'flash':>9}" + f"{'standard':>14}{'flash':>9}")
    for room, pair in zip(fast_sizes, runs):
        shapes = [f"{b_r} x {b_c}" for b_r, b_c in block_sizes(room)]
        moved = [traffic(r) for r in pair]
        used = [r.fast.multiplies / traffic(r) for r in pair]
        print("{:4d}{:>11}{:>9}{:11d}{:9d}{:14.1f}{:9.1f}".format(room, *shapes, *moved, *used))


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
    room = f"fast memories of {fast_sizes[0]} to {fast_sizes[-1]} numbers"
    print(f"Attention over up to {lengths[-1]} positions, in {room}; first one row of it.\n")
    scores = [random.gauss(0, 2) for _ in range(16)]
    show_online_softmax(scores, [random.gauss(0, 1) for _ in scores], 4)

    # Is it the same output? A score of 1000 is itself rounded, by 6e-14 or less.
    awkward = [awkward_errors(*scores) for scores in score_ranges]
    show_errors(awkward)

    # What does it need, and what does it move?
    inputs, best = make_inputs(lengths[-1], 0.0, 10.0), block_sizes(fast_size)
    by_n = [run_both([x[:n] for x in inputs], fast_size, best) for n in lengths]
    by_m = [run_both(inputs, room, block_sizes(room)) for room in fast_sizes]
    draw_growth(by_n)
    show_traffic(by_m)
    refusals = [text for room in fast_sizes for text in refuse_both(inputs, room)]
    print(f"A row more in flash's block, at M = {fast_sizes[-1]}: {refusals[-1]}")
    causal = run(flash_attention, inputs, fast_size, best[1], causal=True)
    draw_visits(causal.visited, lengths[-1], *best[1])

    outputs, logs = definition(inputs, causal=True)
    errors = [difference(flash, "O", plain.slow.matrices["O"]) for plain, flash in by_n + by_m]
    errors += [error for row in awkward for error in row[:2]] + [difference(causal, "O", outputs)]
    log_errors = [row[2] for row in awkward] + [difference(causal, "L", logs)]
    left = [abs(r.fast.used) for pair in by_n + by_m for r in pair]
    standard_by_n, flash_by_n = zip(*by_n)
    standard_by_m, flash_by_m = zip(*by_m)
    standard, flash = by_n[-1]
    last = lengths[-2:]  # the powers of N are those of the last doubling
    rows = [
        ("max_abs_error", f"{largest(errors):.1e}", "< 1e-6"),
        ("max_l_error", f"{largest(log_errors):.1e}", "< 1e-6"),
        ("fast_peak", max(r.fast.peak for pair in by_n for r in pair), f"<= {fast_size}"),
        ("fast_left", max(left), "== 0"),
        ("larger_blocks_refused", sum(text != "" for text in refusals), f"== {len(refusals)}"),
        # _by_n, _by_m: p, where what is measured grows as N^p, or M^p
        ("standard_memory_by_n", power(extra, last, standard_by_n[-2:]), "1.9 to 2.1"),
        ("flash_memory_by_n", power(extra, last, flash_by_n[-2:]), "0.9 to 1.1"),
        ("standard_traffic_by_n", power(traffic, last, standard_by_n[-2:]), "1.8 to 2.1"),
        # Flash's tends to 2 as well, but Q, O and L, moved once, still weigh. It is divided by M:
        ("flash_traffic_by_n", power(traffic, last, flash_by_n[-2:]), "1.8 to 2.1"),
        ("standard_traffic_by_m", power(traffic, fast_sizes, standard_by_m), "-0.1 to 0"),
        ("flash_traffic_by_m", power(traffic, fast_sizes, flash_by_m), "-1.2 to -0.8"),
        ("traffic_ratio", traffic(standard) / traffic(flash), "> 5"),
        ("multiplies_ratio", standard.fast.multiplies / flash.fast.multiplies, "0.9 to 1.1"),
        ("causal_blocks_visited", len(causal.visited) / len(flash.visited), "0.5 to 0.7"),
        ("runtime_seconds", time.perf_counter() - started, "< 120"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
