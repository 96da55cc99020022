"""microflash: both ways against the definition, what they move against closed forms."""

import itertools
import math
import random

import pytest
from support.numbers import flat, gaussian, matvec, softmax

INF = math.inf
either = pytest.mark.parametrize("causal", [False, True])


def drawn(n, d=2, std=1.0, seed=1):
    """Q, K and V, [n][d] each; std is that of Q and K."""
    q, k = gaussian(n, d, std, seed), gaussian(n, d, std, seed + 100)
    return {"Q": q, "K": k, "V": gaussian(n, d, 1.0, seed + 200)}


def reference(inputs, causal=False):
    """softmax(Q K^T / sqrt(d)) V from the definition, and log(sum(exp(score))) of each row."""
    outputs, logs = [], []
    for i, query in enumerate(inputs["Q"]):
        last = i + 1 if causal else len(inputs["K"])
        scores = [s / math.sqrt(len(query)) for s in matvec(inputs["K"][:last], query)]
        outputs.append(matvec(list(zip(*inputs["V"][:last])), softmax(scores)))
        top = max(scores)
        logs.append(top + math.log(math.fsum(math.exp(s - top) for s in scores)))
    return outputs, logs


def output(run, name="O"):
    """A matrix that a run left in the slow memory, as one list."""
    return flat(run.slow.matrix(name))


@pytest.fixture
def small(script, monkeypatch):
    """The script with d = 2, for sweeps."""
    monkeypatch.setattr(script, "d", 2)
    return script


def test_drawings(small, capsys, monkeypatch):
    small.show_example()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [row[4:] for row in rows] == [
        ["8.000", "8.000", "8.000"],
        ["5.000", "5.000", "5.818"],
        ["6.000", "6.000", "6.400"],
    ]
    runs = {n: small.run_both(drawn(n), 100) for n in (8, 16)}
    small.show_lengths(runs)
    small.show_sizes({100: runs[16]})
    small.show_refusals(drawn(100))
    small.show_checks({1.0: small.Check(0.0, 1e-9, 2e-9, 3e-9, 0.5, INF)})
    monkeypatch.setattr(small, "lengths", (6,))
    monkeypatch.setattr(small, "fast_size", 32)  # blocks of 3 x 2
    small.draw_visits(small.simulate(small.flash_attention, drawn(6), INF, (3, 2), True).visited)
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
def test_blocks_of_a_row_give_the_sums_of_the_whole_row(script, scores):
    values = gaussian(6, 3)
    top = max(scores)
    exps = [math.exp(s - top) for s in scores]
    for first, second in itertools.combinations(range(1, 7), 2):
        row = script.Running(-INF, 0.0, [0.0] * 3)
        for part in (slice(first), slice(first, second), slice(second, 6)):
            if scores[part]:
                row = script.add_block(row, scores[part], values[part])
        assert row.m == top
        assert row.l == pytest.approx(math.fsum(exps))
        assert row.o == pytest.approx(matvec(list(zip(*values)), exps))


def test_after_each_block_the_row_is_that_of_the_keys_so_far(script):
    scores, values = [0.5, 2.0, -1.0, 3.0, 0.0, 3.0], gaussian(6, 3)
    row = script.Running(-INF, 0.0, [0.0] * 3)
    for stop in (2, 4, 6):
        row = script.add_block(row, scores[stop - 2 : stop], values[stop - 2 : stop])
        expected = matvec(list(zip(*values[:stop])), softmax(scores[:stop]))
        assert [o_i / row.l for o_i in row.o] == pytest.approx(expected)


@pytest.mark.parametrize("largest", [1.0, 100.0, 1000.0])
def test_what_the_factor_and_the_maximum_are_for(script, largest):
    random.seed(1)
    inputs = script.make_inputs(37, largest)
    assert script.error_with(script.add_block, inputs, 5) < 1e-12
    assert script.error_with(script.without_factor, inputs, 5) > 0.05
    assert script.error_with(script.without_factor, inputs, 37) < 1e-12  # one block
    without = script.error_with(script.without_maximum, inputs, 5)
    assert without == INF if largest == 1000.0 else without < 1e-12


def test_the_example_of_the_docstring(script, monkeypatch):
    """Scores ln 1, ln 2, ln 4, ln 1, ln 2, ln 2, with the fractions worked out by hand."""
    logs = [math.log(x) for x in (1, 2, 4, 1, 2, 2)]
    values = [[4.0], [10.0], [2.0], [8.0], [7.0], [9.0]]
    row = script.Running(-INF, 0.0, [0.0])
    by_hand = [(math.log(2), 1.5, 12), (math.log(4), 2, 10), (math.log(4), 3, 18)]
    for start, (m, total, out) in zip((0, 2, 4), by_hand):
        row = script.add_block(row, logs[start : start + 2], values[start : start + 2])
        assert (row.m, row.l, row.o[0]) == pytest.approx((m, total, out))
    monkeypatch.setattr(script, "d", 1)
    keys = [[-score / 2] for score in logs]
    assert script.attend_in_blocks([-2.0], keys, values, 2) == pytest.approx([6])
    hidden = script.add_block(row, [-INF, -INF], [[7.0], [8.0]])
    assert hidden == row  # a block without a key to see


# --- the algorithm against the definition ---


@either
def test_the_scripts_definition_is_ours(small, causal):
    for std in (0.3, 1.0, 30.0):
        inputs = drawn(9, std=std)
        expected, _ = reference(inputs, causal)
        assert flat(small.definition(inputs, causal)) == pytest.approx(flat(expected), abs=1e-10)


@either
@pytest.mark.parametrize("std", [0.3, 20.0])
def test_both_equal_the_definition(small, causal, std):
    rng = random.Random(1)
    for n in (1, 2, 3, 5, 13, 26):
        inputs = drawn(n, std=std, seed=n)
        expected, logs = reference(inputs, causal)
        sizes = [(7, 2), (rng.randint(1, n), rng.randint(1, n)), (n, 1), (1, n)]
        for block in sizes:
            for attention in (small.standard_attention, small.flash_attention):
                run = small.simulate(attention, inputs, INF, block, causal)
                assert output(run) == pytest.approx(flat(expected), abs=1e-12)
                assert run.fast.used == 0
                for name in [*"QKVOSml", "logsumexp"]:
                    with pytest.raises(KeyError):
                        run.fast.matrix(name)
            assert output(run, "logsumexp") == pytest.approx(logs, rel=1e-12, abs=1e-12)
            assert small.weight_error(inputs, run, causal) < 1e-11


@either
def test_every_block_size(small, causal):
    inputs = drawn(11)
    expected = flat(reference(inputs, causal)[0])
    for b_r in range(1, 13):
        for b_c in range(1, 13):
            run = small.simulate(small.flash_attention, inputs, INF, (b_r, b_c), causal)
            assert output(run) == pytest.approx(expected, abs=1e-12)


@either
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (4, 7)])
def test_extreme_scores(small, causal, sizes):
    """Scores of -1,000 and 1,000 within one row, falling and rising along it."""
    big = 1000 * math.sqrt(2)
    inputs = {
        "Q": [[big, 0.0], [-big, 0.0], [0.0, 0.0]] * 3,
        "K": [[1 - i / 4, 0.0] for i in range(9)],  # scores from 1,000 down to -1,000, or up
        "V": [[float(i), -1.0] for i in range(9)],
    }
    expected, logs = reference(inputs, causal)
    for attention in (small.standard_attention, small.flash_attention):
        run = small.simulate(attention, inputs, INF, sizes, causal)
        assert output(run) == pytest.approx(flat(expected), abs=1e-12)
    assert output(run, "logsumexp") == pytest.approx(logs)
    if not causal:
        assert logs[:2] == pytest.approx([1000, 1000])


@pytest.mark.parametrize("center", [1000.0, -1000.0])
def test_scores_far_from_zero_and_close_together(small, center):
    """Each exp() would overflow, or be 0, if nothing was subtracted."""
    inputs = drawn(12)
    inputs["Q"] = [[x, math.sqrt(2)] for x, _ in inputs["Q"]]
    inputs["K"] = [[x, center] for x, _ in inputs["K"]]
    run = small.simulate(small.flash_attention, inputs, INF, (5, 2))
    assert output(run) == pytest.approx(flat(reference(inputs)[0]), abs=1e-11)


def test_causal_sees_the_past_alone(small):
    """A later key or value changes no bit of an earlier row; the first row is the first value."""
    inputs = drawn(13)
    before = small.simulate(small.flash_attention, inputs, INF, (4, 3), True).slow.matrix("O")
    inputs["K"][9], inputs["V"][9] = [50.0, 50.0], [1e6, 1e6]
    after = small.simulate(small.flash_attention, inputs, INF, (4, 3), True).slow.matrix("O")
    assert after[:9] == before[:9]
    assert after[9] != before[9]
    assert list(before[0]) == inputs["V"][0]


# --- the memories ---


def test_fast_memory_refuses_what_does_not_fit(script):
    fast = script.Memory(12)
    fast.reserve("A", 2, 4)
    with pytest.raises(MemoryError, match="no room for B, 1 x 5: 4 free"):
        fast.reserve("B", 1, 5)
    assert (fast.used, fast.peak) == (8, 8)
    fast.reserve("B", 1, 4, 7.0)
    assert fast.matrix("B") == ((7.0,) * 4,)
    fast.free("A")
    assert (fast.used, fast.peak) == (4, 12)
    with pytest.raises(KeyError):
        fast.matrix("A")
    fast.free("B")
    assert (fast.used, fast.peak) == (0, 12)


@pytest.mark.parametrize("shape", [(-1, 4), (1, -4), (-2, -2), (0, 3), (3, 0)])
def test_no_size_below_one_and_no_name_twice(script, shape):
    """A negative size would make room for more; a second matrix would hide the first."""
    fast = script.Memory(12)
    with pytest.raises(ValueError):
        fast.reserve("A", *shape)
    fast.reserve("A", 1, 1)
    with pytest.raises(ValueError):
        fast.reserve("A", 1, 1)
    assert (fast.used, fast.peak) == (1, 1)


def test_no_matrix_grows_or_is_filled_past_its_reservation(script):
    fast = script.Memory(12)
    fast.reserve("A", 2, 2)
    rows = fast.matrix("A")
    with pytest.raises(TypeError):
        rows[0] = [1.0] * 100
    with pytest.raises(TypeError):
        rows[0][:] = [1.0] * 100
    for numbers, start in (([1.0] * 3, 0), ([1.0] * 2, 1), ([1.0], 2), ([1.0], -1)):
        with pytest.raises(ValueError, match="A has 2 columns"):
            fast.write("A", 0, numbers, start)
    with pytest.raises(IndexError):
        fast.write("A", 2, [1.0])
    with pytest.raises(KeyError):
        fast.write("B", 0, [1.0])
    fast.write("A", 1, [5.0], 1)
    assert fast.matrix("A") == ((0.0, 0.0), (0.0, 5.0))
    fast.write("A", 0, [1.0, 2.0])
    fast.write("A", 0, [3.0])
    assert fast.matrix("A") == ((3.0, 2.0), (0.0, 5.0))
    assert fast.used == 4


def test_load_and_store(script):
    slow, fast = script.Memory(INF), script.Memory(100)
    slow.reserve("A", 4, 3)
    for i in range(4):
        slow.write("A", i, [10.0 * i + j for j in range(3)])
    script.load(slow, fast, "A", range(1, 3), range(1, 3))
    assert fast.matrix("A") == ((11.0, 12.0), (21.0, 22.0))
    fast.write("A", 0, [-1.0])
    assert slow.matrix("A")[1][1] == 11.0  # a copy
    script.store(fast, slow, "A", range(2, 4), range(2))
    assert (fast.used, fast.peak) == (4, 4)
    assert slow.matrix("A") == (
        (0.0, 1.0, 2.0),
        (10.0, 11.0, 12.0),
        (-1.0, 12.0, 22.0),
        (21.0, 22.0, 32.0),
    )
    assert (slow.read, slow.written) == (4, 4)


def assert_refused(script, attention, inputs, size, block):
    with pytest.raises(MemoryError, match="no room for"):
        script.simulate(attention, inputs, size, block)


@pytest.mark.parametrize("size", [40, 60, 100, 256, 700, 1024])
def test_the_blocks_are_the_largest_that_fit(script, size):
    """Both run in the room that they say they need, and neither with a row more."""
    inputs = drawn(40, 8)
    wide, (b_r, b_c) = script.standard_blocks(size), script.flash_blocks(size)
    need = script.room_needed(b_r, b_c)
    assert b_c == min(b_r, 8)
    assert need <= size < script.room_needed(b_r + 1, min(b_r + 1, 8))
    fast = script.simulate(script.flash_attention, inputs, need, (b_r, b_c)).fast
    assert (fast.peak, fast.used) == (need, 0)
    assert_refused(script, script.flash_attention, inputs, need - 1, (b_r, b_c))
    larger = (b_r + 1, min(b_r + 1, 8))
    assert_refused(script, script.flash_attention, inputs, size, larger)
    script.simulate(script.standard_attention, inputs, size, wide)
    if wide[0] < 40:
        assert_refused(script, script.standard_attention, inputs, size, (wide[0] + 1, 1))


@pytest.mark.parametrize("size", [100, 256, 1024])
def test_standard_attention_moves_least_in_its_blocks(script, size):
    """Of all blocks that fit, with Q, K and S, or with O, V and S, none has more queries."""
    fitting = [r for r in range(1, 130) for c in range(1, 100) if 8 * (r + c) + r * c <= size]
    assert script.standard_blocks(size) == (max(fitting), 1)


def test_standard_attention_needs_a_row_at_once_and_flash_does_not(small):
    inputs = drawn(30)
    with pytest.raises(MemoryError, match="no room for S, 1 x 30"):
        small.simulate(small.standard_attention, inputs, 29, (2, 2))
    small.simulate(small.standard_attention, inputs, 30, (2, 2))
    for size, block in ((29, (2, 2)), (11, (1, 1))):
        assert small.flash_blocks(size) == block
        run = small.simulate(small.flash_attention, inputs, size, block)
        assert run.fast.peak == small.room_needed(*block) <= size
        assert output(run) == pytest.approx(flat(reference(inputs)[0]), abs=1e-12)
    with pytest.raises(ValueError, match="take 11 numbers, not 10"):
        small.flash_blocks(10)


def test_flash_reads_the_inputs_through_load_alone(small, monkeypatch):
    """Q once for each block of rows, K and V once for each block of the matrix, in no other way."""
    looks = []
    slow, fast = small.Memory(INF), small.Memory(100)
    for name, matrix in drawn(12).items():
        slow.reserve(name, 12, 2)
        for i, row in enumerate(matrix):
            slow.write(name, i, row)
    read = slow.matrix
    monkeypatch.setattr(slow, "matrix", lambda name: looks.append(name) or read(name))
    small.flash_attention(slow, fast, 4, 3, False)
    assert [looks.count(name) for name in "QKV"] == [1 + 3, 12, 12]  # Q once more, for n
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
    attentions = script.standard_attention, script.flash_attention
    runs = [script.simulate(attention, inputs, INF, (b_r, b_c)) for attention in attentions]
    for run, expected in zip(runs, closed_forms(n, 8, b_r, b_c)):
        read, written, extra, multiplies = expected
        slow = run.slow
        assert (slow.read, slow.written, script.extra(run)) == (read, written, extra)
        assert run.fast.multiplies == multiplies
        assert script.traffic(run) == read + written
        assert script.intensity(run) == multiplies / (read + written)
        assert slow.peak == 4 * n * 8 + extra
    assert script.traffic(runs[0]) - script.traffic(runs[1]) == 4 * n * n - n
    assert script.traffic(runs[1]) == 2 * n * 8 + n + math.ceil(n / b_r) * 2 * n * 8
    assert script.output_error(runs) < 1e-12


def test_growth_is_a_ratio_for_each_way(script):
    """From 6 positions to 12: 4 times the scores, 2 times the logsumexp, and traffic as counted."""
    before, after = (script.run_both(drawn(n, 8), 128) for n in (6, 12))
    assert script.growth(script.extra, before, after) == (4, 2)
    expected = [script.traffic(run) for run in after]
    for i, run in enumerate(before):
        expected[i] /= script.traffic(run)
    assert script.growth(script.traffic, before, after) == tuple(expected)


def test_what_the_docstrings_of_flash_attention_and_its_blocks_say(script):
    """What is saved; blocks with less traffic and more multiplications; a memory too small."""
    standard, _ = closed_forms(256, 8, *script.standard_blocks(1024))
    _, one_query = closed_forms(256, 8, 1, 8)
    assert (standard[0] + standard[1], 4 * 256**2) == (278_528, 262_144)
    assert one_query[0] + one_query[1] == 1_048_576 + 2 * 256 * 8 + 256

    def compared(block, size):
        """Traffic and multiplications of a block that fits, as a share of those of the rule."""
        assert script.room_needed(*block) <= size
        _, other = closed_forms(256, 8, *block)
        _, rule = closed_forms(256, 8, *script.flash_blocks(size))
        return (other[0] + other[1]) / (rule[0] + rule[1]), other[3] / rule[3]

    assert (script.flash_blocks(1024), script.flash_blocks(256)) == ((34, 8), (6, 6))
    assert script.room_needed(54, 1) > 1024
    assert compared((53, 1), 1024) == pytest.approx((0.67, 1.43), abs=0.005)
    _, rule = closed_forms(256, 8, 34, 8)
    _, one_key = closed_forms(256, 8, 53, 1)
    assert (rule[0] + rule[1], rule[3]) == (37_120, 1_189_888)
    assert (one_key[0] + one_key[1], one_key[3]) == (24_832, 1_705_984)
    assert math.ceil(256 / 34) * 2 * 256 * 8 == 32_768  # keys and values of the rule
    assert math.ceil(256 / script.standard_blocks(1024)[0]) == 3
    standard, _ = closed_forms(128, 8, *script.standard_blocks(128))
    _, flash = closed_forms(128, 8, *script.flash_blocks(128))
    assert (standard[0] + standard[1], flash[0] + flash[1]) == (88_064, 90_240)


@pytest.mark.parametrize("n, b_r, b_c", [(12, 4, 4), (13, 4, 3), (20, 6, 7), (9, 2, 20)])
def test_causal_visits_only_blocks_with_a_key_to_see(small, n, b_r, b_c):
    inputs = drawn(n)
    run = small.simulate(small.flash_attention, inputs, INF, (b_r, b_c), True)
    expected = [
        (i, j) for i in range(0, n, b_r) for j in range(0, n, b_c) if j <= min(i + b_r, n) - 1
    ]
    assert [(rows.start, columns.start) for rows, columns in run.visited] == expected
    keys_read = sum(min(b_c, n - j) for _, j in expected)
    assert run.slow.read == n * 2 + 2 * 2 * keys_read
    whole = small.simulate(small.flash_attention, inputs, INF, (n, b_c)).fast.multiplies
    masked = small.simulate(small.flash_attention, inputs, INF, (n, b_c), True).fast.multiplies
    assert masked == whole  # hidden scores are computed, too


def test_blocks(script):
    assert script.blocks(7, 3) == [range(3), range(3, 6), range(6, 7)]
    assert script.blocks(6, 3) == [range(3), range(3, 6)]
    assert script.blocks(2, 3) == [range(2)]


# --- measurements ---


def test_worst_does_not_skip_a_nan(script):
    assert script.worst([0.5, 2.0, 1.0]) == 2.0
    for numbers in ([math.nan, 1.0], [1.0, math.nan], [1.0, math.nan, 2.0]):
        assert math.isnan(script.worst(numbers))


def test_run_both_gives_each_its_block(small):
    standard, flash = small.run_both(drawn(6), 32)
    assert small.flash_blocks(32) == (3, 2)
    assert standard.visited is None
    assert flash.visited[0] == (range(3), range(2))
    for run in (standard, flash):
        assert output(run) == pytest.approx(flat(reference(drawn(6))[0]))


@either
def test_output_error_finds_one_wrong_number_in_any_run(small, causal):
    runs = []
    for attention in (small.standard_attention, small.flash_attention):
        runs.append(small.simulate(attention, drawn(7), INF, (3, 2), causal))
    assert small.output_error(runs, causal) < 1e-12
    assert small.output_error(runs, not causal) > 0.01
    runs[1].slow.write("O", 6, [runs[1].slow.matrix("O")[6][0] + 0.5])
    assert small.output_error(runs, causal) == pytest.approx(0.5)


def test_largest_difference(script):
    found = [[1.0, 2.0], [3.0, 4.0]]
    assert script.largest_difference(found, found) == 0.0
    assert script.largest_difference(found, [[1.5, 2.0], [3.0, 3.0]]) == pytest.approx(1.0)
    with pytest.raises(ValueError):
        script.largest_difference(found, found[:1])


@pytest.mark.parametrize("largest", [1.0, 1000.0])
def test_make_inputs(script, largest):
    random.seed(1)
    inputs = script.make_inputs(20, largest)
    assert {len(row) for matrix in inputs.values() for row in matrix} == {8}
    scores = [s / math.sqrt(8) for query in inputs["Q"] for s in matvec(inputs["K"], query)]
    assert max(map(abs, scores)) == pytest.approx(largest)
    first = script.first_positions(inputs, 7)
    assert [first[name] for name in "QKV"] == [inputs[name][:7] for name in "QKV"]


def test_check_covers_all_blocks_and_finds_an_error(script, monkeypatch):
    """Every shape and both kinds, at the scores asked for; an error shows in its place."""
    seen, simulate = [], script.simulate

    def spoiled(attention, inputs, size, block, causal):
        run = simulate(attention, inputs, size, block, causal)
        scores = [s / math.sqrt(8) for a in inputs["Q"] for s in matvec(inputs["K"], a)]
        assert max(map(abs, scores)) == pytest.approx(10.0)
        seen.append((len(inputs["Q"]), attention.__name__, block, causal))
        if (block, causal) == ((3, 5), True):
            error = 0.1 if attention is script.standard_attention else 0.2
            run.slow.write("O", 2, [run.slow.matrix("O")[2][0] + error])
            if "flash" in attention.__name__:
                logsumexp = run.slow.matrix("logsumexp")[0][0]
                run.slow.write("logsumexp", 0, [logsumexp - math.log(1.3)])
        return run

    monkeypatch.setattr(script, "odd_length", 7)
    monkeypatch.setattr(script, "simulate", spoiled)
    errors = script.check(10.0)
    assert errors[:3] == pytest.approx((0.1, 0.2, 0.3))
    assert max(errors.rows, errors.no_maximum) < 1e-12 < 0.05 < errors.no_factor
    assert len(set(seen)) == len(seen) == 2 * 2 * 2
    assert all(n % b_r and n % b_c for n, _, (b_r, b_c), _ in seen)
