"""Measure what dot() buys microgpt, and the CPU seconds of each script. Run by hand.

    python tests/benchmark.py [SCRIPT ...]
    python tests/benchmark.py --ratios

The first part trains microgpt for some steps in four ways, in one process:

    micrograd  the engine of support/reference_gpt.py: a node for every multiply and every add
    composed   the script's engine, with a dot() that is made of such nodes
    dot        the script as it is
    floats     no graph, gradients derived by hand (support/float_gpt.py): the floor in Python

All four start from the same model and must have the same losses. Other work on the machine can only
add time, so the best of several rounds counts. The ratios are the result, not the seconds.

The second part runs each script, or those named, and writes docs/runs/cpu-seconds.txt. Only the
rows of the scripts that ran change. The file stays as it is if rows of another Python or machine
would be left in it. With --ratios there is no second part.

The exit status is 1 if a ratio or a target is missed, a script fails, or the file stays as it is.
"""

import argparse
import itertools
import os
import platform
import random
import subprocess
import sys
import time

from support import float_gpt, reference_gpt
from support.numbers import lift, lower
from support.scripts import NAMES, SCRIPTS, TRANSCRIPTS, load, python

STEPS = 20
ROUNDS = 5
SLOW_ROUNDS = 2  # for the two slow ways: a long measurement varies less
MIN_SPEEDUP = 12  # micrograd / dot
MAX_OVER_FLOOR = 3.0  # dot / floats
MAX_LOSS_DIFFERENCE = 1e-9  # between any two ways, at each step

CPU_SECONDS_FILE = TRANSCRIPTS / "cpu-seconds.txt"
TARGETS = {  # CPU seconds of one run
    "microgpt": 20,
    "micrornn": 100,
    "microtokenizer": 3,
    "microembedding": 20,
    "microrag": 40,
    "microdiffusion": 25,
    "microvae": 25,
    "microlora": 40,
    "microdpo": 40,
    "microppo": 40,
    "microgrpo": 60,
    "micromoe": 20,
    "microattention": 2,
    "microkv": 20,
    "microquant": 30,
    "microflash": 3,
    "microbeam": 40,
}
TOTAL_TARGET = 420

SCRIPT_NAMES = {  # what the matrices of reference_gpt.py are called in the script
    "wte": "wte",
    "wpe": "wpe",
    "lm_head": "lm_head",
    "wq": "layer0.attn_wq",
    "wk": "layer0.attn_wk",
    "wv": "layer0.attn_wv",
    "wo": "layer0.attn_wo",
    "fc1": "layer0.mlp_fc1",
    "fc2": "layer0.mlp_fc2",
}


# === THE RATIOS ===
def composed_dot(a, b):
    """dot() as a chain of multiply and add nodes of the script's own engine."""
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:]):
        total = total + x * y
    return total


def start():
    """The shuffled names, their characters, and the float model that all four ways start from."""
    random.seed(42)
    names = NAMES.read_text(encoding="ascii").split()
    random.shuffle(names)
    chars = sorted(set("".join(names)))
    drawn = lower(reference_gpt.init(len(chars) + 1))
    model = {SCRIPT_NAMES[name]: matrix for name, matrix in drawn.items()}
    return names, chars, model


def tokens_of(names, chars):
    """For each of the first names, its token ids between two boundary tokens."""
    boundary = len(chars)
    return [[boundary, *map(chars.index, name), boundary] for name in names[:STEPS]]


def graph_steps(gpt, dot):
    """(CPU seconds, losses) of the first training steps of the script, with this dot()."""
    names, chars, model = start()
    model = lift(gpt, model)
    kept = gpt.dot
    gpt.dot = dot
    try:
        started = time.process_time()
        losses = list(itertools.islice(gpt.train(model, names, chars), STEPS))
        return time.process_time() - started, losses
    finally:
        gpt.dot = kept


def micrograd_steps(gpt):
    """(CPU seconds, losses) of the same steps on the engine of reference_gpt.py."""
    names, chars, model = start()
    nodes = {}
    for short, name in SCRIPT_NAMES.items():
        nodes[short] = [[reference_gpt.Node(x) for x in row] for row in model[name]]
    sequences = tokens_of(names, chars)
    started = time.process_time()
    losses = list(reference_gpt.train(nodes, sequences, gpt.num_steps))
    return time.process_time() - started, losses


def float_steps(gpt):
    """(CPU seconds, losses) of the same steps on floats, with gradients derived by hand."""
    names, chars, model = start()
    m = {name: [[0.0] * len(row) for row in matrix] for name, matrix in model.items()}
    v = {name: [[0.0] * len(row) for row in matrix] for name, matrix in model.items()}
    sequences = tokens_of(names, chars)
    losses = []
    started = time.process_time()
    for step, tokens in enumerate(sequences):
        loss, grads = float_gpt.loss_and_grads(model, tokens)
        lr = gpt.learning_rate * (1 - step / gpt.num_steps)
        float_gpt.adam_step(model, grads, m, v, step + 1, lr)
        losses.append(loss)
    return time.process_time() - started, losses


def ratios():
    """Measure the four ways and print the ratios. Return whether the bounds are met.

    Raises SystemExit if the losses of two ways differ.
    """
    gpt = load("microgpt")
    best = {}
    for number in range(ROUNDS):
        measured = {"dot": graph_steps(gpt, gpt.dot), "floats": float_steps(gpt)}
        if number < SLOW_ROUNDS:
            measured["composed"] = graph_steps(gpt, composed_dot)
            measured["micrograd"] = micrograd_steps(gpt)
        expected = measured["dot"][1]
        for way, (seconds, losses) in measured.items():
            difference = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
            if not difference < MAX_LOSS_DIFFERENCE:
                raise SystemExit(f"The losses of {way} differ from those of dot by {difference}.")
            best[way] = min(seconds, best.get(way, seconds))
    for way in ("micrograd", "composed", "dot", "floats"):
        print(f"microgpt, {STEPS} steps, {way:9} {best[way]:8.3f} CPU s")
    speedup = best["micrograd"] / best["dot"]
    over_floor = best["dot"] / best["floats"]
    print(f"micrograd / dot  {speedup:5.1f}   >= {MIN_SPEEDUP}")
    print(f"composed / dot   {best['composed'] / best['dot']:5.1f}")
    print(f"dot / floats     {over_floor:5.2f}   <= {MAX_OVER_FLOOR}", flush=True)
    return speedup >= MIN_SPEEDUP and over_floor <= MAX_OVER_FLOOR


# === THE CPU SECONDS ===
def heading():
    """The first line of the file: on what Python and what kind of machine it was measured."""
    version = f"{platform.python_implementation()} {platform.python_version()}"
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"# script, CPU seconds of one run, target; {version}, {machine}"


def read_rows():
    """The heading of docs/runs/cpu-seconds.txt and {script: row}. ("", {}) if there is no file."""
    if not CPU_SECONDS_FILE.exists():
        return "", {}
    first, *lines = CPU_SECONDS_FILE.read_text(encoding="ascii").splitlines()
    return first, {line.split()[0]: line for line in lines}


def write_rows(measured):
    """Put rows, given as {script: row}, into docs/runs/cpu-seconds.txt. Return whether it was done.

    Rows from two machines or two Pythons cannot be compared, so the file never mixes them.
    """
    recorded, rows = read_rows()
    rows.update(measured)
    rows = {name: rows[name] for name in SCRIPTS if name in rows}
    if recorded not in ("", heading()) and set(rows) != set(measured):
        print(
            f"{CPU_SECONDS_FILE.name} stays as it is, because its first line names another Python "
            "or machine. Without names, this command measures every row anew."
        )
        return False
    CPU_SECONDS_FILE.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([heading(), *rows.values()]) + "\n"
    CPU_SECONDS_FILE.write_text(text, encoding="ascii", newline="\n")
    return True


def cpu_seconds(path):
    """CPU seconds of one run of a script, as its reader would run it. None if the run failed."""
    before = os.times()
    try:
        done = python(path, PYTHONPATH="")
    except subprocess.TimeoutExpired:
        return None
    after = os.times()
    if done.returncode:
        return None
    user = after.children_user - before.children_user
    system = after.children_system - before.children_system
    return user + system


def time_scripts(names):
    """Run the scripts one after the other. Return ({script: row}, whether the targets are met)."""
    rows = {}
    met = True
    total = 0.0
    for name in names:
        spent = cpu_seconds(SCRIPTS[name])
        if spent is None:
            print(f"{name:16} failed or did not end; its row stays as it is", flush=True)
            met = False
            continue
        target = TARGETS.get(name)
        rows[name] = f"{name:16}{spent:8.1f}{target or '-':>6}"
        print(f"{name:16}{spent:8.1f} CPU s   <= {target or '-'}", flush=True)
        met = met and (target is None or spent <= target)
        total += spent
    print(f"{'total':16}{total:8.1f} CPU s   <= {TOTAL_TARGET} for all")
    return rows, met and total <= TOTAL_TARGET


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT")
    parser.add_argument("--ratios", action="store_true", help="measure only the ratios")
    args = parser.parse_args()
    for name in args.scripts:
        if name not in SCRIPTS:
            parser.exit(2, f"No script is called {name}. They are: {', '.join(SCRIPTS)}\n")
    if args.ratios:
        sys.exit(0 if ratios() else 1)

    if os.name == "nt":
        parser.exit(2, "Windows does not tell the CPU seconds of a process: use --ratios.\n")
    ratios_met = ratios()
    measured, targets_met = time_scripts(args.scripts or list(SCRIPTS))
    written = write_rows(measured)
    sys.exit(0 if ratios_met and targets_met and written else 1)


if __name__ == "__main__":
    main()
