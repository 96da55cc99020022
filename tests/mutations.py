"""Break each algorithm on purpose and name the test that notices. By hand:

    python tests/mutations.py [microgpt ...]

It is for the scripts that are still in the old form. tests/mutate.py is for all others.

Each break is one replacement in a copy of the repository. The unit tests of its script (and those
of the shared blocks) must fail; a break that they pass is a survivor, and the exit status 1.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.scripts import ROOT, SCRIPTS

# script: [(what is broken, the code, the broken code)]
# fmt: off
BREAKS = {
    "microquant": [
        ("largest weight for largest |w|", "max(map(abs, weights)) / int", "max(weights) / int"),
        ("absmax: 128 steps for 127", "/ int_range(bits)[1]) or 1.0), 0", "/ -int_range(bits)[0]) or 1.0), 0"),
        ("a group of zeros divides by zero", "/ int_range(bits)[1]) or 1.0), 0", "/ int_range(bits)[1])), 0"),
        ("the scale in 64 bits", "(as_float32(max(map(abs, weights)) / int_range(bits)[1])", "((max(map(abs, weights)) / int_range(bits)[1])"),
        ("zero-point's scale in 64 bits", "as_float32((high - low) / (2**bits - 1))", "((high - low) / (2**bits - 1))"),
        ("points for steps", "(high - low) / (2**bits - 1)", "(high - low) / 2**bits"),
        ("range without 0.0", "low, high = min(0.0, *weights), max(0.0, *weights)", "low, high = min(weights), max(weights)"),
        ("zero from the wrong end", "round(int_range(bits)[0] - low / scale)", "round(int_range(bits)[0] - high / scale)"),
        ("zero of the wrong sign", "round(int_range(bits)[0] - low / scale)", "round(int_range(bits)[0] + low / scale)"),
        ("zero-point of an unsigned range", "round(int_range(bits)[0] - low / scale)", "round(-low / scale)"),
        ("cut off, not rounded", "round(w / scale) + zero", "int(w / scale) + zero"),
        ("rounded down", "round(w / scale) + zero", "math.floor(w / scale) + zero"),
        ("scale multiplied", "round(w / scale) + zero", "round(w * scale) + zero"),
        ("zero not added", "round(w / scale) + zero", "round(w / scale)"),
        ("no upper end", "min(q_max, max(q_min, round(w / scale) + zero))", "max(q_min, round(w / scale) + zero)"),
        ("no lower end", "min(q_max, max(q_min, round(w / scale) + zero))", "min(q_max, round(w / scale) + zero)"),
        ("zero added on the way back", "[(q - zero) * scale for q in ints]", "[(q + zero) * scale for q in ints]"),
        ("zero scaled twice", "[(q - zero) * scale for q in ints]", "[q * scale - zero for q in ints]"),
        ("the first in the highest bits", "field << (bits * i)", "field << (8 - bits - bits * i)"),
        ("half a byte for all", "field << (bits * i)", "field << (4 * i)"),
        ("a value a byte", "per_byte, fields = 8 // bits,", "per_byte, fields = 1,"),
        ("the last byte dropped", "range(0, len(fields), per_byte)]", "range(0, len(fields) - per_byte + 1, per_byte)]"),
        ("unpacked from the wrong end", "for shift in range(0, 8, bits)]", "for shift in range(8 - bits, -1, -bits)]"),
        ("sign not restored", "[q - 2**bits if q > int_range(bits)[1] else q for", "[q for"),
        ("the largest taken for negative", "if q > int_range(bits)[1] else", "if q >= int_range(bits)[1] else"),
        ("padding unpacked", "for q in fields[:n]]", "for q in fields]"),
        ("always one scale", "groups = matrix if per_row else [flat(matrix)]", "groups = [flat(matrix)]"),
        ("columns for rows", "groups = matrix if per_row else [flat(matrix)]", "groups = list(zip(*matrix)) if per_row else [flat(matrix)]"),
        ("zeros not stored", "if find_grid is zero_point else b", "if False else b"),
        ("scales in 16 bits", 'struct.pack(f"<{len(scales)}f"', 'struct.pack(f"<{len(scales)}e"'),
        ("scales in 64 bits", 'struct.pack(f"<{len(scales)}f"', 'struct.pack(f"<{len(scales)}d"'),
        ("cut at the wrong length", "ints[i * columns :][:columns]", "ints[i * rows :][:columns]"),
        ("the first scale for all rows", "    if len(scales) == 1:", "    if scales := scales[:1]:"),
        ("the first zero for all rows", "    if len(scales) == 1:", "    zeros = zeros[:1] * len(scales)\n    if len(scales) == 1:"),
        ("zeros kept for absmax", "if find_grid is zero_point else b", "if True else b"),
        ("zeros dropped where all are 0", "if find_grid is zero_point else b", "if any(zeros) else b"),
        ("unpacked without a mask", "(byte >> shift) & (2**bits - 1)", "(byte >> shift)"),
        ("error of a sum, not of a mean", "for x in xs]) / (len(xs) - 1))\n", "for x in xs]))\n"),
        ("standard error about 0", "(x - mean(xs)) ** 2 for x in xs", "x ** 2 for x in xs"),
        ("error not relative to the weights", " / root_mean_square(flat(matrix))\n", "\n"),
        ("scales not counted", 'small["all_bytes"] += sum(map(len, parts))', 'small["all_bytes"] += len(parts[0])'),
        ("zeros not counted", 'small["all_bytes"] += sum(map(len, parts))', 'small["all_bytes"] += sum(map(len, parts[:2]))'),
        ("numbers for bytes", 'small["weight_bytes"] += len(parts[0])', 'small["weight_bytes"] += len(matrix) * len(matrix[0])'),
        ("the float model comes back", '    return small\n', '    return small | {"model": model}\n'),
        ("error up only", "abs(e) / scale for row", "e / scale for row"),
        ("error not in steps", "abs(e) / scale for row", "abs(e) for row"),
        ("errors of the last matrix", 'small["step_errors"] += [', 'small["step_errors"] = ['),
        ("sum for mean of the squares", "math.sqrt(mean([x * x for x in xs]))", "math.sqrt(math.fsum(x * x for x in xs))"),
        ("bars of the whole model's deviation", "        rms = root_mean_square(flat(matrix))", "        rms = 1.0"),
        ("step of the matrix for each row", "absmax(xs, bits)[0]:.4f", "step:.4f"),
        ("temperature multiplied", "[x / temperature for x", "[x * temperature for x"),
        ("predicts the token it sees", "probs[tokens[pos_id + 1]]", "probs[tokens[pos_id]]"),
        ("learning rate does not fall", "learning_rate * (1 - step / num_steps)", "learning_rate"),
    ],
}
# fmt: on


def first_failure(name, broken):
    """The test that fails first on the broken script, or None."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        (copy / SCRIPTS[name].relative_to(ROOT)).write_text(broken, encoding="utf-8")
        tests = [f"tests/test_{name}.py"]
        tests += ["tests/test_engine.py"] if name == "microgpt" else []
        tests += ["tests/test_download.py"] if name == "microgpt" else []
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-m",
            "not whole",
            *tests,
        ]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    failed = re.search(r"(?m)^(?:FAILED|ERROR) \S*?(?:::(\S+)| -|$)", done.stdout)
    return (failed[1] or "collection") if done.returncode else None


def main(names):
    survivors = 0
    for name in names:
        source = SCRIPTS[name].read_text(encoding="utf-8")
        for what, code, broken in BREAKS[name]:
            assert source.count(code) == 1, f"{name}: {what}: not one place in the script"
            test = first_failure(name, source.replace(code, broken))
            survivors += test is None
            print(f"{name:16}{what:46}{test or 'SURVIVES'}", flush=True)
    print(f"survivors: {survivors}")
    raise SystemExit(survivors > 0)


if __name__ == "__main__":
    main(sys.argv[1:] or BREAKS)
