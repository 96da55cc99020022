import math
import random

import pytest
from harness import meets

CRITERIA = {
    "max_abs_error": "< 1e-6",
    "max_l_error": "< 1e-6",
    "fast_peak": "<= 1024",
    "fast_left": "== 0",
    "larger_blocks_refused": "== 8",
    "standard_memory_by_n": "1.9 to 2.1",
    "flash_memory_by_n": "0.9 to 1.1",
    "standard_traffic_by_n": "1.8 to 2.1",
    "flash_traffic_by_n": "1.8 to 2.1",
    "standard_traffic_by_m": "-0.1 to 0",
    "flash_traffic_by_m": "-1.2 to -0.8",
    "traffic_ratio": "> 5",
    "multiplies_ratio": "0.9 to 1.1",
    "causal_blocks_visited": "0.5 to 0.7",
    "runtime_seconds": "< 120",
}
INF = math.inf


def reference(q, k, v, causal=False):
    """softmax(Q K^T / sqrt(d)) V from the definition, and log(sum(exp(score))) of each row."""
    outputs, logs = [], []
    for i, query in enumerate(q):
        last = i + 1 if causal else len(k)
        scores = [math.fsum(map(mul, query, key)) / math.sqrt(len(query)) for key in k[:last]]
        top = max(scores)
        weights = [math.exp(s - top) for s in scores]
        total = math.fsum(weights)
        outputs.append(
            [math.fsum(w * row[j] for w, row in zip(weights, v)) / total for j in range(len(v[0]))]
        )
        logs.append(top + math.log(total))
    return outputs, logs


def mul(x, y):
    return x * y


def gaussian(rng, n, d, std=1.0):
    return [[rng.gauss(0, std) for _ in range(d)] for _ in range(n)]


def flat(matrix):
    return [x for row in matrix for x in row]


@pytest.fixture
def small(script, monkeypatch):
    """The script with d = 2, for sweeps."""
    monkeypatch.setattr(script, "d", 2)
    return script


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_the_run_shows_growth_and_traffic(run):
    """The drawn and tabled figures are the closed forms; the bars grow by two and by one."""
    lines = run.stdout.splitlines()
    for n in (32, 64, 128, 256):
        standard, flash = n * n, n
        power = round(math.log2(n))
        cells = [str(n), str(standard), "#" * 2 * power, str(flash), "#" * power]
        assert cells in [line.split() for line in lines]
    for size, wide, b_r, b_c in (
        (256, 27, 6, 6),
        (512, 56, 14, 8),
        (1024, 112, 34, 8),
        (2048, 226, 73, 8),
    ):
        standard = 256 * (2 * 8 + 2 * 8 * -(-256 // wide)) + 4 * 256**2
        flash = 256 * (2 * 8 + 2 * 8 * -(-256 // b_r) + 1)
        row = next(line.split() for line in lines if line.split()[:2] == [str(size), str(wide)])
        assert row[:9] == f"{size} {wide} x 1 {b_r} x {b_c} {standard} {flash}".split()


def test_the_run_meets_scores_that_plain_exp_cannot(run):
    """The ranges shown leave those of exp(), with weights that are still not one-hot."""
    lines = run.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "difference from the definition" in line)
    shown = [line.split() for line in lines[start + 2 : start + 6]]
    assert [row[:3] for row in shown[2:]] == [["999", "to", "1001"], ["-1001", "to", "-999"]]
    assert all(float(x) < 1e-12 for row in shown for x in row[3:])
    assert max(float(x) for row in shown for x in row[3:5]) <= run.metrics["max_abs_error"]
    assert max(float(row[5]) for row in shown) <= run.metrics["max_l_error"]
    with pytest.raises(OverflowError):
        math.exp(999)
    assert math.exp(-999) == 0.0


def test_the_run_draws_the_causal_blocks(run):
    lines = run.stdout.splitlines()
    start = lines.index("# visible, / cut by the mask, . neither loaded nor computed") + 1
    drawn = lines[start : start + 8]
    for i, row in enumerate(drawn):
        for j, mark in enumerate(row):
            queries, keys = range(34 * i, min(34 * i + 34, 256)), range(8 * j, 8 * j + 8)
            seen = [key <= query for query in queries for key in keys]
            assert mark == ("#" if all(seen) else "/" if any(seen) else ".")
    assert len(drawn[0]) == 32
    assert lines[start + 8] == ""


# The online softmax


@pytest.mark.parametrize(
    "scores",
    [
        [0.5, 2.0, -1.0, 3.0, 0.0, 3.0],
        [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],  # the maximum stands from the start
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # it rises with every score
        [-1000.0, 1000.0, -1000.0, 999.0, 1000.0, 0.0],
        [-1e5, -1e5, -1e5, -2e5, -1e5, -1e5],
        [1.0, 2.0, -INF, -INF, -INF, 0.0],  # hidden keys, after one that is seen
    ],
)
def test_online_softmax_of_parts_is_that_of_the_whole(script, scores):
    top = max(scores)
    total = math.fsum(math.exp(s - top) for s in scores)
    for cut in range(1, 7):
        m, part, shrink, exps = script.online_softmax(-INF, 0.0, scores[:cut])
        assert shrink == 0.0
        assert m == max(scores[:cut])
        if cut < 6:
            new_m, part, shrink, more = script.online_softmax(m, part, scores[cut:])
            assert shrink == math.exp(m - new_m)
            exps, m = [shrink * e for e in exps] + more, new_m
        assert m == top
        assert part == pytest.approx(total)
        assert exps == pytest.approx([math.exp(s - top) for s in scores])


def test_online_softmax_closed_form(script):
    """0, then log 3: sum 1, then 1/3 + 1. Then log 2 below it: the maximum stands."""
    m, total, _, _ = script.online_softmax(-INF, 0.0, [0.0])
    assert (m, total) == (0.0, 1.0)
    m, total, shrink, exps = script.online_softmax(m, total, [math.log(3)])
    assert (m, exps) == (math.log(3), [1.0])
    assert (total, shrink) == pytest.approx((4 / 3, 1 / 3))
    m, total, shrink, exps = script.online_softmax(m, total, [math.log(2)])
    assert (m, shrink) == (math.log(3), 1.0)
    assert (total, exps[0]) == pytest.approx((2.0, 2 / 3))


def test_a_block_wholly_hidden_from_a_row_changes_nothing(script):
    assert script.online_softmax(2.5, 1.75, [-INF, -INF]) == (2.5, 1.75, 1.0, [0.0, 0.0])


# The algorithm against the definition


@pytest.mark.parametrize("causal", [False, True])
def test_the_scripts_definition_is_ours(small, causal):
    rng = random.Random(10)
    for std in (0.3, 1.0, 30.0):
        inputs = [gaussian(rng, 9, 2, std) for _ in "QKV"]
        outputs, logs = small.definition(inputs, causal)
        expected, expected_logs = reference(*inputs, causal)
        assert flat(outputs) == pytest.approx(flat(expected), abs=1e-10)
        assert flat(logs) == pytest.approx(expected_logs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("std", [0.3, 20.0])
@pytest.mark.slow
def test_both_equal_the_definition_for_every_n_up_to_40(small, causal, std):
    rng = random.Random(1)
    for n in range(1, 41):
        q, k, v = gaussian(rng, n, 2, std), gaussian(rng, n, 2, std), gaussian(rng, n, 2)
        expected, logs = reference(q, k, v, causal)
        sizes = [(7, 2), (rng.randint(1, n), rng.randint(1, n)), (n, 1), (1, n)]
        for b_r, b_c in sizes:
            for attention in (small.standard_attention, small.flash_attention):
                slow, fast, _ = small.run(attention, (q, k, v), INF, (b_r, b_c), causal)
                assert flat(slow.matrices["O"]) == pytest.approx(flat(expected), abs=1e-12)
                assert fast.used == 0
                assert fast.matrices == {}
            assert flat(slow.matrices["L"]) == pytest.approx(logs, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_every_block_size(small, causal):
    rng = random.Random(2)
    q, k, v = (gaussian(rng, 11, 2) for _ in "QKV")
    expected = flat(reference(q, k, v, causal)[0])
    for b_r in range(1, 13):
        for b_c in range(1, 13):
            slow = small.run(small.flash_attention, (q, k, v), INF, (b_r, b_c), causal).slow
            assert flat(slow.matrices["O"]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (4, 7)])
def test_extreme_scores(small, causal, sizes):
    """Scores of -1,000 and 1,000 within one row, falling and rising along it."""
    big = 1000 * math.sqrt(2)
    slopes = [[big, 0.0], [-big, 0.0], [0.0, 0.0]] * 3
    keys = [[1 - i / 4, 0.0] for i in range(9)]  # scores from 1,000 down to -1,000, or up
    values = [[float(i), -1.0] for i in range(9)]
    expected, logs = reference(slopes, keys, values, causal)
    for attention in (small.standard_attention, small.flash_attention):
        slow = small.run(attention, (slopes, keys, values), INF, sizes, causal).slow
        assert flat(slow.matrices["O"]) == pytest.approx(flat(expected), abs=1e-12)
    assert flat(slow.matrices["L"]) == pytest.approx(logs)
    if not causal:
        assert logs[:2] == pytest.approx([1000, 1000])


def test_all_scores_alike_give_the_mean(small):
    values = [[float(i), 1.0] for i in range(10)]
    inputs = [[0.0, 0.0]] * 10, [[3.0, -1.0]] * 10, values
    slow = small.run(small.flash_attention, inputs, INF, (4, 3)).slow
    assert flat(slow.matrices["O"]) == pytest.approx([4.5, 1.0] * 10)
    assert flat(slow.matrices["L"]) == pytest.approx([math.log(10)] * 10)


def test_causal_sees_the_past_alone(small):
    """A later key or value changes no bit of an earlier row; the first row is the first value."""
    rng = random.Random(3)
    q, k, v = (gaussian(rng, 13, 2) for _ in "QKV")
    before = small.run(small.flash_attention, (q, k, v), INF, (4, 3), True).slow.matrices["O"]
    k[9], v[9] = [50.0, 50.0], [1e6, 1e6]
    after = small.run(small.flash_attention, (q, k, v), INF, (4, 3), True).slow.matrices["O"]
    assert after[:9] == before[:9]
    assert after[9] != before[9]
    assert before[0] == v[0]


def test_scores_are_scaled_by_the_root_of_d(script):
    fast = script.Memory()
    fast.reserve("Q", 1, 8)[0][:] = [2.0] * 8
    fast.reserve("K", 1, 8)[0][:] = [3.0] * 8
    script.make_scores(fast, slice(0, 1), slice(0, 1), False)
    assert fast.matrices["S"][0][0] == pytest.approx(48 / math.sqrt(8))


# The memories


def test_fast_memory_refuses_what_does_not_fit(script):
    fast = script.Memory(12)
    fast.reserve("A", 2, 4)
    with pytest.raises(MemoryError, match="no room for B, 1 x 5: 4 of 12 free"):
        fast.reserve("B", 1, 5)
    assert (fast.used, fast.peak, set(fast.matrices)) == (8, 8, {"A"})
    fast.reserve("B", 1, 4, 7.0)
    assert fast.matrices["B"] == [[7.0] * 4]
    fast.free("A")
    assert (fast.used, fast.peak) == (4, 12)
    fast.free("B")
    assert (fast.used, fast.peak, fast.matrices) == (0, 12, {})
    with pytest.raises(MemoryError):
        script.Memory(11).reserve("A", 3, 4)


def test_a_matrix_that_grew_leaves_a_trace(script):
    fast = script.Memory(12)
    fast.reserve("A", 2, 2).append([1.0])
    fast.free("A")
    assert fast.used == -1


def test_load_and_store(script):
    slow, fast = script.Memory(), script.Memory(100)
    slow.reserve("A", 4, 3)[:] = [[10.0 * i + j for j in range(3)] for i in range(4)]
    script.load(slow, fast, "A", slice(1, 3), slice(1, 3))
    assert fast.matrices["A"] == [[11.0, 12.0], [21.0, 22.0]]
    fast.matrices["A"][0][0] = -1.0
    assert slow.matrices["A"][1][1] == 11.0  # a copy
    script.store(fast, slow, "A", slice(2, 4), slice(0, 2))
    assert slow.matrices["A"] == [
        [0.0, 1.0, 2.0],
        [10.0, 11.0, 12.0],
        [-1.0, 12.0, 22.0],
        [21.0, 22.0, 32.0],
    ]
    assert (slow.read, slow.written) == (4, 4)
    assert (fast.used, fast.peak, fast.matrices) == (0, 4, {})


@pytest.mark.parametrize("size", [40, 60, 100, 256, 700, 1024])
def test_block_sizes_are_the_largest_that_fit(script, size):
    """Both run in the room that they say they need, and neither with a row more."""
    rng = random.Random(4)
    inputs = [gaussian(rng, 40, 8) for _ in "QKV"]
    wide, (b_r, b_c) = script.block_sizes(size)
    need = script.room_needed(b_r, b_c)
    assert b_c == min(b_r, 8)
    assert need <= size < script.room_needed(b_r + 1, min(b_r + 1, 8))
    fast = script.run(script.flash_attention, inputs, need, (b_r, b_c)).fast
    assert (fast.peak, fast.used) == (need, 0)
    with pytest.raises(MemoryError):
        script.run(script.flash_attention, inputs, need - 1, (b_r, b_c))
    assert script.refusal(script.flash_attention, inputs, size, (b_r, b_c)) == ""
    larger = (b_r + 1, min(b_r + 1, 8))
    assert "no room for" in script.refusal(script.flash_attention, inputs, size, larger)
    assert script.refusal(script.standard_attention, inputs, size, wide) == ""
    if wide[0] < 40:
        larger = (wide[0] + 1, 1)
        assert "no room for" in script.refusal(script.standard_attention, inputs, size, larger)


@pytest.mark.parametrize("size", [100, 256, 1024])
def test_standard_attention_moves_least_in_its_blocks(script, size):
    """Of all blocks that fit: Q, K and S, or O, V and S."""
    n = 100
    fitting = [
        (r, c) for r in range(1, n + 1) for c in range(1, n + 1) if 8 * (r + c) + r * c <= size
    ]
    least = min(-(-n // b_r) for b_r, _ in fitting)
    b_r, b_c = script.block_sizes(size)[0]
    assert b_c == 1
    assert -(-n // b_r) == least


def test_the_papers_block_sizes_are_what_the_docstring_says(script):
    assert math.ceil(512 / (4 * 8)) == 16
    assert script.room_needed(16, 8) == 544
    assert "at 512 it gives 16 x 8 blocks that need 544" in script.block_sizes.__doc__


def test_narrow_blocks_do_what_the_docstring_says(script):
    """53 x 1 against 34 x 8, at M = 1024 and N = 256; less than 4 N^2 moved beyond d / 2 rows."""
    assert script.room_needed(53, 1) <= 1024 < script.room_needed(54, 1)
    moved, multiplies = [], []
    for b_r, b_c in ((34, 8), (53, 1)):
        read, written, _, multiplied = closed_forms(256, 8, b_r, b_c)[1]
        moved.append(read + written)
        multiplies.append(multiplied)
    assert moved[1] / moved[0] == pytest.approx(2 / 3, abs=0.01)
    assert multiplies[1] / multiplies[0] == pytest.approx(1.43, abs=0.005)
    for b_r in range(1, 9):
        read, written, _, _ = closed_forms(10_000, 8, b_r, 1)[1]
        assert (read + written < 4 * 10_000**2) == (b_r > 8 / 2)


def test_standard_attention_needs_a_row_at_once_and_flash_does_not(small):
    rng = random.Random(5)
    inputs = [gaussian(rng, 30, 2) for _ in "QKV"]
    with pytest.raises(MemoryError, match="no room for S, 1 x 30"):
        small.run(small.standard_attention, inputs, 29, (2, 2))
    small.run(small.standard_attention, inputs, 30, (2, 2))
    slow, fast, _ = small.run(small.flash_attention, inputs, 29, (2, 2))
    assert fast.peak == 2 * 2 * 2 + 2 * 2 * 2 + 4 + 4
    assert flat(slow.matrices["O"]) == pytest.approx(flat(reference(*inputs)[0]), abs=1e-12)


class Watched(list):
    """A matrix that tells how often it was looked at."""

    looks = 0

    def __getitem__(self, key):
        self.looks += 1
        return super().__getitem__(key)

    def __iter__(self):
        self.looks += 1
        return super().__iter__()


def test_flash_reads_slow_memory_through_load_alone(small):
    """Q once for each block of rows, K and V once for each block of the matrix, in no other way."""
    rng = random.Random(6)
    slow, fast = small.Memory(), small.Memory(100)
    for name in "QKV":
        slow.reserve(name, 12, 2)
        slow.matrices[name] = Watched(gaussian(rng, 12, 2))
    small.flash_attention(slow, fast, 4, 3, False)
    assert [slow.matrices[name].looks for name in "QKV"] == [3, 12, 12]
    assert slow.read == 12 * 2 + 2 * 3 * 12 * 2


def closed_forms(n, d, b_r, b_c):
    """Of (read, written, extra, multiplies): standard and flash, without a mask."""
    row_blocks, column_blocks = -(-n // b_r), -(-n // b_c)
    inputs = n * d + 2 * n * d * row_blocks
    standard = inputs + 2 * n * n, n * d + 2 * n * n, n * n, n * n * (2 * d + 2)
    rescaled = n * column_blocks * (d + 1)
    return standard, (inputs, n * d + n, n, n * n * (2 * d + 1) + rescaled + n * d)


@pytest.mark.parametrize("n, b_r, b_c", [(1, 1, 1), (12, 4, 3), (13, 4, 3), (20, 7, 6), (9, 20, 2)])
def test_traffic_memory_and_arithmetic_equal_their_closed_forms(script, n, b_r, b_c):
    rng = random.Random(7)
    inputs = [gaussian(rng, n, 8) for _ in "QKV"]
    runs = script.run_both(inputs, INF, ((b_r, b_c), (b_r, b_c)))
    for r, expected in zip(runs, closed_forms(n, 8, b_r, b_c)):
        slow, fast, _ = r
        assert (slow.read, slow.written, script.extra(r), fast.multiplies) == expected
        assert script.traffic(r) == slow.read + slow.written
        assert slow.peak == 4 * n * 8 + expected[2]
    assert script.traffic(runs[0]) - script.traffic(runs[1]) == 4 * n * n - n
    assert script.difference(runs[1], "O", runs[0].slow.matrices["O"]) < 1e-12


def test_multiplies_of_a_masked_block_are_those_of_a_whole_one(small):
    rng = random.Random(11)
    inputs = [gaussian(rng, 6, 2) for _ in "QKV"]
    counts = [
        small.run(small.flash_attention, inputs, INF, (6, 3), causal).fast.multiplies
        for causal in (False, True)
    ]
    assert counts[0] == counts[1] == closed_forms(6, 2, 6, 3)[1][3]


@pytest.mark.parametrize("n, b_r, b_c", [(12, 4, 4), (13, 4, 3), (20, 6, 7), (9, 2, 20)])
def test_causal_visits_only_blocks_with_a_key_to_see(small, n, b_r, b_c):
    rng = random.Random(8)
    inputs = [gaussian(rng, n, 2) for _ in "QKV"]
    slow, fast, visited = small.run(small.flash_attention, inputs, INF, (b_r, b_c), True)
    expected = [
        (i, j) for i in range(0, n, b_r) for j in range(0, n, b_c) if j <= min(i + b_r, n) - 1
    ]
    assert [(rows.start, columns.start) for rows, columns in visited] == expected
    keys_read = sum(min(b_c, n - j) for _, j in expected)
    assert slow.read == n * 2 + 2 * 2 * keys_read
    assert fast.used == 0


def test_blocks(script):
    assert script.blocks(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert script.blocks(6, 3) == [slice(0, 3), slice(3, 6)]
    assert script.blocks(2, 3) == [slice(0, 2)]


# What main makes of it


def test_power(script):
    def of(r):
        return r

    assert script.power(of, [1, 2, 4], [2.0, -1.0, 32.0]) == pytest.approx(2.0)
    assert script.power(of, [1, 2, 4], [3.0, -1.0, 0.75]) == pytest.approx(-1.0)


def test_largest_does_not_skip_a_nan(script):
    assert script.largest([0.5, 2.0, 1.0]) == 2.0
    for xs in ([math.nan, 1.0], [1.0, math.nan], [1.0, math.nan, 2.0]):
        assert math.isnan(script.largest(xs))


def test_run_both_gives_each_its_block(small):
    rng = random.Random(9)
    inputs = [gaussian(rng, 6, 2) for _ in "QKV"]
    standard, flash = small.run_both(inputs, 100, ((2, 3), (3, 2)), True)
    assert standard.visited is None
    assert "L" not in standard.slow.matrices
    assert flash.visited[0] == (slice(0, 3), slice(0, 2))
    expected = flat(reference(*inputs, True)[0])
    for r in (standard, flash):
        assert flat(r.slow.matrices["O"]) == pytest.approx(expected)


def test_difference(small):
    rng = random.Random(9)
    inputs = [gaussian(rng, 5, 2) for _ in "QKV"]
    r = small.run(small.flash_attention, inputs, 100, (2, 2))
    expected = [[*row] for row in r.slow.matrices["O"]]
    assert small.difference(r, "O", expected) == 0.0
    expected[4][1] += 0.5
    expected[2][0] -= 0.25
    assert small.difference(r, "O", expected) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="shorter"):
        small.difference(r, "O", expected[:4])


@pytest.mark.parametrize("centre, distance", [(0.0, 100.0), (1000.0, 1.0), (-1000.0, 1.0)])
def test_make_inputs(script, centre, distance):
    random.seed(1)
    q, k, v = script.make_inputs(20, centre, distance)
    assert {len(m) for m in (q, k, v)} == {20}
    assert {len(row) for m in (q, k, v) for row in m} == {8}
    scores = [math.fsum(map(mul, a, b)) / math.sqrt(8) for a in q for b in k]
    assert max(abs(s - centre) for s in scores) == pytest.approx(distance)


def test_awkward_errors_cover_what_they_say(script, monkeypatch):
    """Every length, block size and both kinds, at the scores asked for; an error in its column."""
    seen, run_both = [], script.run_both

    def spoiled(inputs, size, pair, causal):
        q, k, _ = inputs
        scores = [script.dot(a, b) / math.sqrt(8) for a in q for b in k]
        assert max(abs(s - 50) for s in scores) == pytest.approx(10.0)
        assert pair[0] == pair[1]
        seen.append((len(q), pair[0], bool(causal)))
        standard, flash = run_both(inputs, size, pair, causal)
        if seen[-1] == (5, (5, 3), True):
            standard.slow.matrices["O"][1][0] += 0.1
            flash.slow.matrices["O"][2][0] += 0.2
            flash.slow.matrices["L"][3][0] += 0.3
        return standard, flash

    monkeypatch.setattr(script, "run_both", spoiled)
    assert script.awkward_errors(50.0, 10.0) == pytest.approx([0.1, 0.2, 0.3])
    assert len(set(seen)) == len(seen) == len(script.awkward_lengths) * 4 * 2
    assert any(n % b_r and n % b_c for n, (b_r, b_c), _ in seen)


def test_show_online_softmax(script, capsys):
    script.show_online_softmax([0.0, math.log(3), math.log(2)], [3.0, 6.0, -6.0], 1)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        ["0.00", "0.00", "0.0000", "1.0000", "3.0000", "3.0000"],
        ["1.10", "1.10", "0.3333", "1.3333", "7.0000", "5.2500"],
        ["0.69", "1.10", "1.0000", "2.0000", "3.0000", "1.5000"],
        ["all", "at", "once", "1.10", "2.0000", "3.0000", "1.5000"],
    ]
