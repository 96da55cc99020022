"""microflash: both ways against the definition, what they move against closed forms."""

import math
import random

import pytest
from support.numbers import flat, gaussian, matvec, softmax

INF = math.inf
either = pytest.mark.parametrize("causal", [False, True])


def drawn(n, d=2, std=1.0, seed=1):
    """Q, K and V, [n][d] each; std is that of Q and K."""
    q, k = gaussian(n, d, std, seed), gaussian(n, d, std, seed + 100)
    return [q, k, gaussian(n, d, 1.0, seed + 200)]


def reference(q, k, v, causal=False):
    """softmax(Q K^T / sqrt(d)) V from the definition, and log(sum(exp(score))) of each row."""
    outputs, logs = [], []
    for i, query in enumerate(q):
        last = i + 1 if causal else len(k)
        scores = [s / math.sqrt(len(query)) for s in matvec(k[:last], query)]
        outputs.append(matvec(list(zip(*v[:last])), softmax(scores)))
        top = max(scores)
        logs.append(top + math.log(math.fsum(math.exp(s - top) for s in scores)))
    return outputs, logs


@pytest.fixture
def small(script, monkeypatch):
    """The script with d = 2, for sweeps."""
    monkeypatch.setattr(script, "d", 2)
    return script


def test_errors_are_those_of_rounding(run):
    """Also at scores of 1,000, where one number is rounded by 6e-14."""
    assert run.metrics["max_abs_error"] < 1e-12
    assert run.metrics["max_l_error"] < 1e-12


def test_drawings(small, capsys):
    small.show_online_softmax([0.0, math.log(3), math.log(2)], [3.0, 6.0, -6.0], 1)
    *_, last, at_once = capsys.readouterr().out.splitlines()
    assert last.split()[-3:] == at_once.split()[-3:] == ["2.0000", "3.0000", "1.5000"]
    visited = small.run(small.flash_attention, drawn(6), INF, (4, 2), True).visited
    small.draw_visits(visited, 6, 4, 2)
    drawing = capsys.readouterr().out
    assert drawing.isascii()
    assert drawing.endswith("\n//.\n##/\n")


# --- the online softmax ---


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


# --- the algorithm against the definition ---


@either
def test_the_scripts_definition_is_ours(small, causal):
    for std in (0.3, 1.0, 30.0):
        inputs = drawn(9, std=std)
        outputs, logs = small.definition(inputs, causal)
        expected, expected_logs = reference(*inputs, causal)
        assert flat(outputs) == pytest.approx(flat(expected), abs=1e-10)
        assert flat(logs) == pytest.approx(expected_logs)


@either
@pytest.mark.parametrize("std", [0.3, 20.0])
def test_both_equal_the_definition(small, causal, std):
    rng = random.Random(1)
    for n in (1, 2, 3, 5, 13, 26):
        inputs = drawn(n, std=std, seed=n)
        expected, logs = reference(*inputs, causal)
        sizes = [(7, 2), (rng.randint(1, n), rng.randint(1, n)), (n, 1), (1, n)]
        for block in sizes:
            for attention in (small.standard_attention, small.flash_attention):
                slow, fast, _ = small.run(attention, inputs, INF, block, causal)
                assert flat(slow.matrices["O"]) == pytest.approx(flat(expected), abs=1e-12)
                assert fast.used == 0
                assert fast.matrices == {}
            assert flat(slow.matrices["L"]) == pytest.approx(logs, rel=1e-12, abs=1e-12)


@either
def test_every_block_size(small, causal):
    inputs = drawn(11)
    expected = flat(reference(*inputs, causal)[0])
    for b_r in range(1, 13):
        for b_c in range(1, 13):
            slow = small.run(small.flash_attention, inputs, INF, (b_r, b_c), causal).slow
            found = flat(slow.matrices["O"])
            assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 1e-12


@either
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (4, 7)])
def test_extreme_scores(small, causal, sizes):
    """Scores of -1,000 and 1,000 within one row, falling and rising along it."""
    big = 1000 * math.sqrt(2)
    queries = [[big, 0.0], [-big, 0.0], [0.0, 0.0]] * 3
    keys = [[1 - i / 4, 0.0] for i in range(9)]  # scores from 1,000 down to -1,000, or up
    values = [[float(i), -1.0] for i in range(9)]
    expected, logs = reference(queries, keys, values, causal)
    for attention in (small.standard_attention, small.flash_attention):
        slow = small.run(attention, (queries, keys, values), INF, sizes, causal).slow
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
    q, k, v = drawn(13)
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


# --- the memories ---


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
    inputs = drawn(40, 8)
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


def test_a_row_more_is_refused_by_both(script):
    for size in (256, 1024):
        refusals = script.refuse_both(drawn(120, 8), size)
        assert len(refusals) == 2
        assert all("no room for" in text for text in refusals)


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


def test_standard_attention_needs_a_row_at_once_and_flash_does_not(small):
    inputs = drawn(30)
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
    slow, fast = small.Memory(), small.Memory(100)
    for name, matrix in zip("QKV", drawn(12)):
        slow.reserve(name, 12, 2)
        slow.matrices[name] = Watched(matrix)
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
    inputs = drawn(n, 8)
    runs = script.run_both(inputs, INF, ((b_r, b_c), (b_r, b_c)))
    for r, expected in zip(runs, closed_forms(n, 8, b_r, b_c)):
        slow, fast, _ = r
        assert (slow.read, slow.written, script.extra(r), fast.multiplies) == expected
        assert script.traffic(r) == slow.read + slow.written
        assert slow.peak == 4 * n * 8 + expected[2]
    assert script.traffic(runs[0]) - script.traffic(runs[1]) == 4 * n * n - n
    assert script.difference(runs[1], "O", runs[0].slow.matrices["O"]) < 1e-12


def test_multiplies_of_a_masked_block_are_those_of_a_whole_one(small):
    inputs = drawn(6)
    counts = [
        small.run(small.flash_attention, inputs, INF, (6, 3), causal).fast.multiplies
        for causal in (False, True)
    ]
    assert counts[0] == counts[1] == closed_forms(6, 2, 6, 3)[1][3]


@pytest.mark.parametrize("n, b_r, b_c", [(12, 4, 4), (13, 4, 3), (20, 6, 7), (9, 2, 20)])
def test_causal_visits_only_blocks_with_a_key_to_see(small, n, b_r, b_c):
    inputs = drawn(n)
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


# --- measurements ---


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
    inputs = drawn(6)
    standard, flash = small.run_both(inputs, 100, ((2, 3), (3, 2)), True)
    assert standard.visited is None
    assert "L" not in standard.slow.matrices
    assert flash.visited[0] == (slice(0, 3), slice(0, 2))
    expected = flat(reference(*inputs, True)[0])
    for r in (standard, flash):
        assert flat(r.slow.matrices["O"]) == pytest.approx(expected)


def test_difference(small):
    inputs = drawn(5)
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
    scores = [s / math.sqrt(8) for a in q for s in matvec(k, a)]
    assert max(abs(s - centre) for s in scores) == pytest.approx(distance)


def test_awkward_errors_cover_what_they_say(script, monkeypatch):
    """Every length, block size and both kinds, at the scores asked for; an error in its column."""
    seen, run_both = [], script.run_both

    def spoiled(inputs, size, pair, causal):
        q, k, _ = inputs
        scores = [s / math.sqrt(8) for a in q for s in matvec(k, a)]
        assert max(abs(s - 50) for s in scores) == pytest.approx(10.0)
        assert pair[0] == pair[1]
        seen.append((len(q), pair[0], bool(causal)))
        standard, flash = run_both(inputs, size, pair, causal)
        if seen[-1] == (5, (5, 3), True):
            standard.slow.matrices["O"][1][0] += 0.1
            flash.slow.matrices["O"][2][0] += 0.2
            flash.slow.matrices["L"][3][0] += 0.3
        return standard, flash

    monkeypatch.setattr(script, "awkward_lengths", (1, 5, 7))
    monkeypatch.setattr(script, "run_both", spoiled)
    assert script.awkward_errors(50.0, 10.0) == pytest.approx([0.1, 0.2, 0.3])
    assert len(set(seen)) == len(seen) == 3 * 4 * 2
    assert any(n % b_r and n % b_c for n, (b_r, b_c), _ in seen)
