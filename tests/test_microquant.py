"""microquant: the grids against searches, the packing against struct, the rest by formulas."""

import array
import itertools
import math
import random
import statistics
import struct

import pytest
from support import float_gpt
from support.numbers import flat, gaussian, gpt_matrices

CHARS = list("abcdefghijklmnopqrstuvwxyz")
PARAMS, MATRICES, ROWS = 4192, 9, 27 + 16 + 27 + 4 * 16 + 64 + 16
ROUNDED = 0.5 + 255 * 2**-24 + 1e-7  # half a scale; float32 scales are off by 2^-24 of themselves
each_grid = pytest.mark.parametrize("grid", ["absmax", "zero_point"])
each_precision = pytest.mark.parametrize("bits", [8, 4, 2])


def test_sizes_with_the_scales_are_those_of_the_formula(run):
    m, n = run.metrics, 4 * PARAMS
    assert m["int8_ratio"] == pytest.approx(n / (PARAMS + 4 * MATRICES), abs=1e-4)
    assert m["int4_ratio"] == pytest.approx(n / (PARAMS / 2 + 4 * MATRICES), abs=1e-4)
    assert m["int4_rows_ratio"] == pytest.approx(n / (PARAMS / 2 + 4 * ROWS), abs=1e-4)


def test_drawings(script, capsys):
    script.show_five_weights(script.five_weights)
    script.show_outlier(script.five_weights, script.outlier_row, 4)
    script.show_weights({"w": [[1.0, -1.0], [1.0, -1.0]], "v": [[100.0, -100.0]]})
    drawn = capsys.readouterr().out
    assert drawn.isascii()
    assert drawn.count(" 50.0 ") == 2  # percent at -1 and 1 of each matrix's own usual weight


# --- the grids ---


def awkward_groups():
    """Weights of all kinds: skewed, constant, zero, alone, with an outlier, tiny and huge."""
    rng = random.Random(1)
    groups = [[0.0], [0.0] * 5, [0.3] * 4, [-0.3] * 4, [2.5], [-1e-30, 1e-30], [3e30, -1e30]]
    groups += [[0.0, 1.0], [0.0, -1.0], [-0.0, 0.0], [1.0, 1.0 + 1e-9], [100.0] + [0.01] * 9]
    groups += [[k / 2 for k in range(-15, 16)], [k / 2 for k in range(-16, 1)]]  # ties
    for _ in range(150):
        low = rng.uniform(-3, 3)
        high = low + 10 ** rng.uniform(-4, 2)
        groups.append([rng.uniform(low, high) for _ in range(rng.randrange(1, 20))])
        groups.append([rng.gauss(low, 1) for _ in range(rng.randrange(1, 20))])
    return groups


@each_grid
@each_precision
def test_no_weight_moves_by_more_than_half_a_scale(script, grid, bits):
    for weights in awkward_groups():
        found = getattr(script, grid)(weights, bits)
        assert found.scale == array.array("f", [found.scale])[0] > 0  # what will be read back
        ints = script.quantize(weights, found, bits)
        assert all(type(q) is int and -(2 ** (bits - 1)) <= q < 2 ** (bits - 1) for q in ints)
        for w, back in zip(weights, script.dequantize(ints, found), strict=True):
            assert abs(back - w) <= ROUNDED * found.scale, (weights, found)


@each_grid
@each_precision
def test_quantize_finds_the_nearest_point_of_the_grid(script, grid, bits):
    """Against a search through all integers of so many bits."""
    for weights in awkward_groups()[:80]:
        found = getattr(script, grid)(weights, bits)
        scale, zero = found
        points = [(q - zero) * scale for q in range(-(2 ** (bits - 1)), 2 ** (bits - 1))]
        for w, q in zip(weights, script.quantize(weights, found, bits), strict=True):
            nearest = min(abs(point - w) for point in points)
            assert abs((q - zero) * scale - w) <= nearest + 1e-9 * scale * 2**bits


def test_quantize_stays_in_range(script):
    grid = script.Grid(1.0, 0)
    assert script.quantize([9.0, -9.0, 7.4, -8.4], grid, 4) == [7, -8, 7, -8]
    assert script.quantize([1.6, -1.6, 0.4], grid, 8) == [2, -2, 0]  # to the nearest, not to 0
    shifted = script.Grid(0.5, -3)
    assert script.quantize([1.0, 2.0], shifted, 4) == [-1, 1]
    assert script.dequantize([-1, 1], shifted) == [1.0, 2.0]


def test_the_five_weights_by_hand(script):
    """The tables in the docstrings: they were computed by hand."""
    grid = script.absmax(script.five_weights, 4)
    assert grid == (pytest.approx(0.1), 0)
    ints = script.quantize(script.five_weights, grid, 4)
    assert ints == [7, -2, 0, 3, -1]
    assert script.dequantize(ints, grid) == pytest.approx([0.7, -0.2, 0.0, 0.3, -0.1])
    assert script.pack(ints, 4) == bytes([0b1110_0111, 0b0011_0000, 0b0000_1111])
    grid = script.zero_point(script.five_weights, 4)
    assert grid == (pytest.approx(0.06), -5)
    ints = script.quantize(script.five_weights, grid, 4)
    assert ints == [7, -8, -4, -1, -7]
    assert script.dequantize(ints, grid) == pytest.approx([0.72, -0.18, 0.06, 0.24, -0.12])


def test_absmax_of_a_published_example(script):
    """Belkada & Dettmers (2022), A Gentle Introduction to 8-bit Matrix Multiplication."""
    weights = [1.2, -0.5, -4.3, 1.2, -3.1, 0.8, 2.4, 5.4]
    grid = script.absmax(weights, 8)
    assert grid.zero == 0
    assert 1 / grid.scale == pytest.approx(23.5, abs=0.05)
    assert script.quantize(weights, grid, 8) == [28, -12, -101, 28, -73, 19, 56, 127]


def test_absmax_in_closed_form(script):
    assert script.absmax([-3.5, 1.0], 4) == (0.5, 0)
    assert script.quantize([-3.5, 1.0, 0.3, -0.8], script.Grid(0.5, 0), 4) == [-7, 2, 1, -2]
    assert script.absmax([-3.5, 1.0], 2) == (3.5, 0)
    assert script.absmax([0.0, 0.0], 4) == (1.0, 0)


def test_zero_point_in_closed_form(script):
    grid = script.zero_point([-1.0, 0.0, 0.6, 2.0], 4)
    assert grid == (pytest.approx(0.2), -3)  # 5 times 0.2 below 0.0, 10 times above it
    assert script.quantize([-1.0, 0.0, 0.6, 2.0], grid, 4) == [-8, -3, 0, 7]
    assert script.zero_point([-1.5, 13.5], 4) == (1.0, -6)
    assert script.quantize([-1.5, 13.5], script.Grid(1.0, -6), 4) == [-8, 7]  # 8 has no place
    assert script.zero_point([0.5, 7.5], 4) == (0.5, -8)  # from 0.0, not from 0.5
    assert script.zero_point([-7.5, -0.5], 4) == (0.5, 7)
    assert script.zero_point([0.0], 4) == (1.0, -8)
    assert script.zero_point([255.0], 8) == (1.0, -128)
    assert script.zero_point([-85.0, 170.0], 8) == (1.0, -43)


@each_precision
def test_zero_stands_for_zero_and_has_no_more_bits_than_a_weight(script, bits):
    for weights, grid in itertools.product(awkward_groups(), ("absmax", "zero_point")):
        found = getattr(script, grid)(weights, bits)
        assert -(2 ** (bits - 1)) <= found.zero < 2 ** (bits - 1)
        ints = script.quantize([0.0, -0.0], found, bits)
        assert script.dequantize(ints, found) == [0.0, 0.0]


def test_both_use_their_extreme_integers(script):
    weights = [-0.7, 0.1, 1.3]
    for bits in (8, 4, 2):
        smallest, largest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        assert (script.smallest_int(bits), script.largest_int(bits)) == (smallest, largest)
        ints = script.quantize(weights, script.absmax(weights, bits), bits)
        assert max(ints) == largest
        assert min(ints) > smallest  # the one that absmax leaves unused
        ints = script.quantize(weights, script.zero_point(weights, bits), bits)
        assert (min(ints), max(ints)) == (smallest, largest)


def test_float32(script):
    for x in (0.1, -1 / 3, 1e-30, 3.0, 2.0**-149):
        assert script.as_float32(x) == array.array("f", [x])[0]
    assert script.as_float32(1 + 2.0**-30) == 1.0
    model = {"a": [[0.1, 0.5], [1 / 3, 3.0]], "b": [[-0.7]]}
    rounded = script.float32_model(model)
    assert [len(row) for row in rounded["a"]] == [2, 2]
    assert flat(rounded) == list(array.array("f", flat(model)))
    assert script.float32_bytes(model) == 5 * 4


# --- bytes ---


@each_precision
def test_pack_gives_back_all_integers_at_all_lengths(script, bits):
    every = list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    assert script.unpack(script.pack(every, bits), bits, len(every)) == every
    rng = random.Random(2)
    for n in range(20):
        ints = rng.choices(every, k=n)
        packed = script.pack(ints, bits)
        assert type(packed) is bytes
        assert len(packed) == math.ceil(n * bits / 8)
        assert script.unpack(packed, bits, n) == ints


def test_pack_is_twos_complement_with_the_first_in_the_lowest_bits(script):
    assert script.pack([1, 2, -1], 4) == bytes([0x21, 0x0F])
    assert script.pack([-8, 7], 4) == bytes([0x78])
    assert script.pack([0, 1, -2, -1], 2) == bytes([0b11_10_01_00])
    ints = list(range(-128, 128))
    assert script.pack(ints, 8) == struct.pack("<256b", *ints)
    assert script.unpack(bytes([0xF8]), 4, 2) == [-8, -1]


def reference(weights, bits, symmetric):
    """Weights after rounding, from the formulas of docs/implementation.md, in float32 scales."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        scale, zero = max(abs(min(weights)), abs(max(weights))) / high, 0
    else:
        scale = (max([*weights, 0.0]) - min([*weights, 0.0])) / (high - low)
    scale = array.array("f", [scale])[0] or 1.0
    if not symmetric:
        zero = low + round(-min([*weights, 0.0]) / scale)
    return [(max(low, min(high, zero + round(w / scale))) - zero) * scale for w in weights]


def referenced(matrix, bits, grid, per_row):
    """All weights of a matrix after rounding, as one list."""
    groups = matrix if per_row else [flat(matrix)]
    return [w for group in groups for w in reference(group, bits, grid == "absmax")]


@each_grid
@each_precision
@pytest.mark.parametrize("per_row", [False, True])
def test_restore_needs_only_the_bytes(script, grid, bits, per_row):
    method = script.Method(bits, getattr(script, grid), per_row)
    for rows, columns in ((3, 5), (1, 1), (4, 7), (5, 16)):
        matrix = gaussian(rows, columns, std=0.5 + rows)
        stored = script.compress(matrix, method)
        assert all(type(part) is bytes for part in stored)
        num_scales = rows if per_row else 1
        zero_bytes = math.ceil(num_scales * bits / 8) if grid == "zero_point" else 0
        sizes = [math.ceil(rows * columns * bits / 8), 4 * num_scales, zero_bytes]
        assert [len(part) for part in stored] == sizes
        restored = script.restore(stored, rows, columns, method)
        assert flat(restored) == pytest.approx(referenced(matrix, bits, grid, per_row), abs=1e-9)
        assert [len(row) for row in restored] == [columns] * rows


def test_zeros_are_stored(script):
    method = script.Method(4, script.zero_point, True)
    for matrix, zeros in (
        ([[1.0, 15.0], [-1.0, -15.0]], 0x78),  # -8 for the first row, 7 for the second
        ([[-8.0, 7.0]], 0),  # also if all are 0
    ):
        stored = script.compress(matrix, method)
        assert stored.zeros == bytes([zeros])
        assert script.restore(stored, len(matrix), 2, method) == matrix


def test_an_outlier_harms_the_rows_that_share_its_scale(script):
    """Both rows by hand: with the scale 0.3 for both, and with 0.1 and 0.3."""
    matrix = [list(script.five_weights), list(script.outlier_row)]
    outlier_row = [0.6, 2.1, -0.3, 0.3, -0.3]
    for per_row, first_row in (
        (False, [0.6, -0.3, 0.0, 0.3, 0.0]),
        (True, [0.7, -0.2, 0.0, 0.3, -0.1]),
    ):
        method = script.Method(4, script.absmax, per_row)
        restored = script.restore(script.compress(matrix, method), 2, 5, method)
        assert flat(restored) == pytest.approx(first_row + outlier_row)


# --- errors ---


def test_relative_error(script):
    assert script.root_mean_square([3.0, -4.0]) == pytest.approx(math.sqrt(12.5))
    matrix, restored = [[3.0, -4.0], [0.0, 5.0]], [[3.3, -4.0], [-0.4, 5.0]]
    error = math.sqrt((0.09 + 0.16) / 4) / math.sqrt(50 / 4)
    assert script.relative_error(matrix, restored) == pytest.approx(error)


def test_expected_error_is_that_of_many_evenly_spread_weights(script):
    """Many points between -1 and 1 are off by scale / sqrt(12), over 1 / sqrt(3)."""
    weights = [[(i - 50_000) / 50_000 for i in range(100_001)]]
    for bits in (8, 4):
        expected = (1 / (2 ** (bits - 1) - 1)) / math.sqrt(12) * math.sqrt(3)
        assert script.expected_error(weights, bits) == pytest.approx(expected, rel=1e-4)
        restored = referenced(weights, bits, "absmax", False)
        assert script.relative_error(weights, [restored]) == pytest.approx(expected, rel=1e-3)


# --- the model ---


@each_grid
def test_round_model_and_measure(script, grid):
    model, names = gpt_matrices(), ["anna", "z", "bartholomewjames"]
    heldout = [script.encode(name, CHARS) for name in names]
    losses = script.all_losses(model, heldout)
    unit = statistics.fmean(losses)
    for bits, per_row in itertools.product((8, 4), (False, True)):
        method = script.Method(bits, getattr(script, grid), per_row)
        found = script.measure(model, method, heldout, losses)
        assert found.model == script.round_model(model, method)[0]
        assert list(found.model) == list(model)
        for name, matrix in model.items():
            expected = referenced(matrix, bits, grid, per_row)
            assert flat(found.model[name]) == pytest.approx(expected, abs=1e-12)
            off = math.fsum((a - b) ** 2 for a, b in zip(flat(matrix), expected))
            size = math.fsum(w * w for w in flat(matrix))
            assert found.errors[name] == pytest.approx(math.sqrt(off / size))
        assert found.weight_bytes == PARAMS * bits / 8
        groups = [len(matrix) if per_row else 1 for matrix in model.values()]
        zeros = sum(math.ceil(n * bits / 8) for n in groups) if grid == "zero_point" else 0
        assert found.all_bytes - found.weight_bytes == 4 * sum(groups) + zeros
        by_hand = [float_gpt.loss_and_grads(found.model, tokens)[0] for tokens in heldout]
        assert found.losses == pytest.approx(by_hand, abs=1e-12)
        changes = [(a - b) / unit for a, b in zip(by_hand, losses)]
        assert found.increase.mean == pytest.approx(statistics.fmean(changes))


def test_relative_increase_and_worst_ratio(script):
    found = script.relative_increase([3.0, 4.5, 0.0, 9.0], [2.0, 1.0, 3.0, 2.0])  # of 2 on average
    xs = [0.5, 1.75, -1.5, 3.5]
    assert found == (pytest.approx(statistics.fmean(xs)), pytest.approx(statistics.stdev(xs) / 2))
    matrix_errors = {"a": 4.0, "b": 4.0, "c": 4.0}
    for row_errors in itertools.permutations([1.0, 2.0, 3.0]):
        assert script.worst_ratio(dict(zip("abc", row_errors)), matrix_errors) == 0.75


def test_enlarged_errors_are_differences_times_a_factor(script):
    model, restored = {"a": [[1.0, 2.0], [3.0, -4.0]]}, {"a": [[1.5, 2.0], [2.0, -4.25]]}
    assert script.enlarge_errors(model, restored, 2) == {"a": [[2.0, 2.0], [1.0, -4.5]]}
    assert script.enlarge_errors(model, restored, -1) == {"a": [[0.5, 2.0], [4.0, -3.75]]}
