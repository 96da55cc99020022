"""microquant: the grids against searches, the packing against struct, the rest by formulas."""

import array
import itertools
import math
import random
import statistics
import struct

import pytest
from support import float_gpt
from support.numbers import adam, flat, gpt_matrices, lift, lower, softmax

CHARS = list("abcdefghijklmnopqrstuvwxyz")
PARAMS, MATRICES, ROWS = 4192, 9, 27 + 16 + 27 + 4 * 16 + 64 + 16
ROUNDED = 0.5 + 255 * 2**-24 + 1e-7  # half a step; float32 scales are off by 2^-24 of themselves


def test_what_rows_gain_at_int4_is_more_than_its_standard_error(run):
    m = run.metrics
    assert 0.0005 < m["int4_gain_error"] < 0.003
    assert m["int4_loss_increase"] - m["int4_channel_increase"] > m["int4_gain_error"]


def test_two_bits_for_the_matrix_are_too_few(run):
    assert run.metrics["int2_loss_increase"] > 0.1


def test_sizes_with_the_scales_are_those_of_the_formula(run):
    m, n = run.metrics, 4 * PARAMS
    assert m["int8_ratio"] == pytest.approx(n / (PARAMS + 4 * MATRICES), abs=1e-4)
    assert m["int4_ratio"] == pytest.approx(n / (PARAMS / 2 + 4 * MATRICES), abs=1e-4)


def test_drawings(script, capsys):
    script.draw_histogram({"w": [[1.0, -1.0], [1.0, -1.0]], "v": [[100.0, -100.0]]})
    script.draw_rows([[-1.0, 0.0, 1.0], [0.5, 0.0, 0.0]], 2, half=4)
    drawn = capsys.readouterr().out
    assert drawn.isascii()
    assert drawn.count(" 50.0 ") == 2  # percent at -1 and 1 of each matrix's own deviation
    assert "all |   |   |" in drawn
    assert drawn.endswith(" 0.5000\n")  # the last row's own step


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


each_grid = pytest.mark.parametrize("grid", ["absmax", "zero_point"])
each_precision = pytest.mark.parametrize("bits", [8, 4, 2])


@each_grid
@each_precision
def test_no_weight_moves_by_more_than_half_a_step(script, grid, bits):
    for weights in awkward_groups():
        scale, zero = getattr(script, grid)(weights, bits)
        ints = script.quantize(weights, scale, zero, bits)
        assert all(type(q) is int and -(2 ** (bits - 1)) <= q < 2 ** (bits - 1) for q in ints)
        for w, back in zip(weights, script.dequantize(ints, scale, zero), strict=True):
            assert abs(back - w) <= ROUNDED * scale, (weights, scale, zero)


@each_grid
@each_precision
def test_quantize_finds_the_nearest_point_of_the_grid(script, grid, bits):
    """Against a search through all integers of so many bits."""
    for weights in awkward_groups()[:80]:
        scale, zero = getattr(script, grid)(weights, bits)
        points = [(q - zero) * scale for q in range(-(2 ** (bits - 1)), 2 ** (bits - 1))]
        for w, q in zip(weights, script.quantize(weights, scale, zero, bits)):
            nearest = min(abs(point - w) for point in points)
            assert abs((q - zero) * scale - w) <= nearest + 1e-9 * scale * 2**bits


def test_quantize_stays_in_range(script):
    assert script.quantize([9.0, -9.0, 7.4, -8.4], 1.0, 0, 4) == [7, -8, 7, -8]
    assert script.quantize([1.6, -1.6, 0.4], 1.0, 0, 8) == [2, -2, 0]  # to the nearest, not to 0
    assert script.quantize([1.0, 2.0], 0.5, -3, 4) == [-1, 1]
    assert script.dequantize([-1, 1], 0.5, -3) == [1.0, 2.0]


def test_absmax_of_a_published_example(script):
    """Belkada & Dettmers (2022), A Gentle Introduction to 8-bit Matrix Multiplication."""
    weights = [1.2, -0.5, -4.3, 1.2, -3.1, 0.8, 2.4, 5.4]
    scale, zero = script.absmax(weights, 8)
    assert zero == 0
    assert 1 / scale == pytest.approx(23.5, abs=0.05)
    assert script.quantize(weights, scale, zero, 8) == [28, -12, -101, 28, -73, 19, 56, 127]


def test_absmax_in_closed_form(script):
    assert script.absmax([-3.5, 1.0], 4) == (0.5, 0)
    assert script.quantize([-3.5, 1.0, 0.3, -0.8], 0.5, 0, 4) == [-7, 2, 1, -2]
    assert script.absmax([-3.5, 1.0], 2) == (3.5, 0)
    assert script.absmax([0.0, 0.0], 4) == (1.0, 0)


def test_zero_point_in_closed_form(script):
    scale, zero = script.zero_point([-1.0, 0.0, 0.6, 2.0], 4)
    assert (scale, zero) == (pytest.approx(0.2), -3)  # 5 steps of 0.2 below 0.0, 10 above it
    assert script.quantize([-1.0, 0.0, 0.6, 2.0], scale, zero, 4) == [-8, -3, 0, 7]
    assert script.zero_point([0.5, 7.5], 4) == (0.5, -8)  # from 0.0, not from 0.5
    assert script.zero_point([-7.5, -0.5], 4) == (0.5, 7)
    assert script.zero_point([0.0], 4) == (1.0, -8)
    assert script.zero_point([255.0], 8) == (1.0, -128)
    assert script.zero_point([-85.0, 170.0], 8) == (1.0, -43)


@each_precision
def test_zero_stands_for_zero_and_has_no_more_bits_than_a_weight(script, bits):
    for weights, grid in itertools.product(awkward_groups(), ("absmax", "zero_point")):
        scale, zero = getattr(script, grid)(weights, bits)
        assert -(2 ** (bits - 1)) <= zero < 2 ** (bits - 1)
        ints = script.quantize([0.0, -0.0], scale, zero, bits)
        assert script.dequantize(ints, scale, zero) == [0.0, 0.0]
        assert scale > 0


def test_both_use_their_extreme_integers(script):
    weights = [-0.7, 0.1, 1.3]
    for bits in (8, 4, 2):
        ints = script.quantize(weights, *script.absmax(weights, bits), bits)
        assert max(ints) == 2 ** (bits - 1) - 1
        assert min(ints) > -(2 ** (bits - 1))  # the one that absmax leaves unused
        ints = script.quantize(weights, *script.zero_point(weights, bits), bits)
        assert (min(ints), max(ints)) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@each_grid
def test_scales_are_those_that_will_be_read_back(script, grid):
    for weights in awkward_groups():
        scale, _ = getattr(script, grid)(weights, 4)
        assert scale == array.array("f", [scale])[0]


def test_as_float32(script):
    for x in (0.1, -1 / 3, 1e-30, 3.0, 2.0**-149):
        assert script.as_float32(x) == array.array("f", [x])[0]
    assert script.as_float32(1 + 2.0**-30) == 1.0


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


def some_matrix(rows, columns, seed=3):
    rng = random.Random(seed)
    return [[rng.gauss(0.1 * i, 0.1 + i) for _ in range(columns)] for i in range(rows)]


@each_grid
@each_precision
@pytest.mark.parametrize("per_row", [False, True])
def test_restore_needs_only_the_bytes(script, grid, bits, per_row):
    for rows, columns in ((3, 5), (1, 1), (4, 7), (5, 16)):
        matrix = some_matrix(rows, columns)
        parts = script.compress(matrix, bits, getattr(script, grid), per_row)
        assert all(type(part) is bytes for part in parts)
        num_scales = rows if per_row else 1
        zero_bytes = math.ceil(num_scales * bits / 8) if grid == "zero_point" else 0
        sizes = [math.ceil(rows * columns * bits / 8), 4 * num_scales, zero_bytes]
        assert [len(part) for part in parts] == sizes
        restored, scales = script.restore(*parts, rows, columns, bits)
        groups = matrix if per_row else [flat(matrix)]
        expected = [reference(group, bits, grid == "absmax") for group in groups]
        assert flat(restored) == pytest.approx(flat(expected), abs=1e-9)
        assert [len(row) for row in restored] == [columns] * rows
        assert scales == [
            getattr(script, grid)(groups[i if per_row else 0], bits)[0] for i in range(rows)
        ]


def test_zeros_are_stored_even_if_all_are_0(script):
    symmetric = [[-8.0, 0.0, 7.0]]
    assert script.zero_point(symmetric[0], 4) == (1.0, 0)
    parts = script.compress(symmetric, 4, script.zero_point, True)
    assert parts[2] == bytes(1)
    assert script.restore(*parts, 1, 3, 4)[0] == symmetric


def test_zeros_are_stored(script):
    parts = script.compress([[1.0, 15.0], [-1.0, -15.0]], 4, script.zero_point, True)
    assert parts[2] == bytes([0x78])  # -8 for the first row, 7 for the second
    assert script.restore(*parts, 2, 2, 4)[0] == [[1.0, 15.0], [-1.0, -15.0]]


# --- the model ---


@each_grid
def test_quantize_model_measures_what_it_did(script, grid):
    model = gpt_matrices()
    for bits, per_row in itertools.product((8, 4), (False, True)):
        found = script.quantize_model(model, bits, getattr(script, grid), per_row)
        assert list(found["model"]) == list(model)
        worst = 0.0
        for name, matrix in model.items():
            groups = matrix if per_row else [flat(matrix)]
            expected = flat([reference(group, bits, grid == "absmax") for group in groups])
            assert flat(found["model"][name]) == pytest.approx(expected, abs=1e-12)
            off = math.fsum((a - b) ** 2 for a, b in zip(flat(matrix), expected))
            size = math.fsum(w * w for w in flat(matrix))
            assert found["errors"][name] == pytest.approx(math.sqrt(off / size))
            for group in groups:
                scale = getattr(script, grid)(group, bits)[0]
                back = reference(group, bits, grid == "absmax")
                worst = max(worst, *(abs(a - b) / scale for a, b in zip(group, back)))
        assert len(found["step_errors"]) == PARAMS
        assert max(found["step_errors"]) == pytest.approx(worst)
        assert 0.4 < worst <= ROUNDED
        num_scales = ROWS if per_row else MATRICES
        assert found["weight_bytes"] == PARAMS * bits / 8
        extra = found["all_bytes"] - found["weight_bytes"] - 4 * num_scales
        groups = [len(matrix) if per_row else 1 for matrix in model.values()]
        zeros = sum(math.ceil(n * bits / 8) for n in groups)
        assert extra == (zeros if grid == "zero_point" else 0)


def test_errors_up_and_down_both_count(script):
    """A matrix whose largest error is downwards: 0.45 of a step, the others' are smaller."""
    found = script.quantize_model({"w": [[7.0, 2.45, 3.1]]}, 4, script.absmax, False)
    assert max(found["step_errors"]) == pytest.approx(0.45)
    size = math.sqrt((7.0**2 + 2.45**2 + 3.1**2) / 3)
    assert found["errors"]["w"] == pytest.approx(math.sqrt((0.45**2 + 0.1**2) / 3) / size)


def test_errors_fall_with_bits_with_rows_and_with_all_integers_in_use(script):
    model, errors = {"w": gpt_matrices()["layer0.attn_wo"]}, {}
    for bits, grid, per_row in itertools.product((8, 4, 2), ("absmax", "zero_point"), (0, 1)):
        found = script.quantize_model(model, bits, getattr(script, grid), per_row)
        errors[bits, grid, per_row] = found["errors"]["w"]
    for bits, grid, per_row in errors:
        assert errors[bits, grid, 1] <= 0.9 * errors[bits, grid, 0]
        assert errors[bits, "zero_point", per_row] <= errors[bits, "absmax", per_row]
        assert bits == 8 or errors[bits, grid, per_row] > 4 * errors[2 * bits, grid, per_row]


def test_loss_of_the_restored_model_equals_the_hand_written_one(script):
    model = gpt_matrices()
    names = [script.encode(name, CHARS) for name in ("anna", "z", "bartholomewjames")]
    for bits in (8, 4, 2):
        restored = script.quantize_model(model, bits, script.absmax, True)["model"]
        expected = [float_gpt.loss_and_grads(restored, tokens)[0] for tokens in names]
        losses = script.all_losses(restored, names)
        assert losses == pytest.approx(expected, abs=1e-12)
        assert losses != script.all_losses(model, names)


def test_more_bits_less_change_of_the_logits(script):
    model, changes = gpt_matrices(), []
    logits = script.gpt(model, 3, 0, {})
    for bits in (2, 4, 8):
        restored = script.quantize_model(model, bits, script.zero_point, True)["model"]
        off = [abs(a - b) for a, b in zip(logits, script.gpt(restored, 3, 0, {}))]
        changes.append(script.mean(off))
    assert changes[0] > 2 * changes[1] > 10 * changes[2] > 0


def test_training_is_adam_on_the_hand_derived_gradient(script, monkeypatch):
    """Three names in turn, at a rate that falls to 0."""
    monkeypatch.setattr(script, "num_steps", 4)
    names, model = ["emma", "bo", "bartholomewjamess"], lift(script, gpt_matrices())
    m, v = [0.0] * PARAMS, [0.0] * PARAMS
    training = script.train(model, names, CHARS)
    for step in range(4):
        before = lower(model)
        tokens = script.encode(names[step % 3], CHARS)
        expected, grads = float_gpt.loss_and_grads(before, tokens)
        assert next(training) == pytest.approx(expected, abs=1e-12)
        rate = 0.01 * (1 - step / 4)
        params, m, v = adam(flat(before), flat(grads), m, v, step + 1, rate)
        assert max(abs(a - b) for a, b in zip(flat(lower(model)), params)) < 1e-9
    assert next(training, None) is None


def test_sample_draws_at_a_temperature_of_one_half_until_the_boundary(script):
    model, rng, drawn = gpt_matrices(), random.Random(4), []
    for _ in range(5):
        name, token, cache = "", 26, {}
        while len(name) < 16:
            probs = softmax([x / 0.5 for x in script.gpt(model, token, len(name), cache)])
            token = rng.choices(range(27), weights=probs)[0]
            if token == 26:
                break
            name += CHARS[token]
        drawn.append(name)
    random.seed(4)
    assert [script.sample(model, CHARS) for _ in range(5)] == drawn


def test_root_mean_square_and_standard_error(script):
    assert script.root_mean_square([3.0, -4.0]) == pytest.approx(math.sqrt(12.5))
    xs = [2.0, 3.5, -1.0, 8.0]
    assert script.standard_error(xs) == pytest.approx(statistics.stdev(xs) / 2)
