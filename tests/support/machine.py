"""Does this machine's arithmetic agree, to the last bit, with that of the transcripts?

IEEE 754 fixes the results of +, -, *, / and sqrt. It leaves the last bit of exp, log, pow and
others to the mathematical library of the system. Training amplifies a difference in that bit until
the printed figures differ. So a transcript can be compared to the letter only where these functions
give the same results as on the machine that wrote it.
"""

import hashlib
import math
import random

from support.scripts import TRANSCRIPTS

COUNT = 1000  # inputs for each function
LABEL = "math hash: "


def math_hash():
    """A digest of 16 hexadecimal characters over results of the functions that the scripts call.

    The inputs come from a generator of its own and spread over the ranges that the scripts use.
    Where two machines give the same hash, a script prints the same on both, times aside.
    """
    rng = random.Random(2024)
    results = []
    for _ in range(COUNT):
        results.append(math.exp(rng.uniform(-40, 10)))
        results.append(math.log(rng.uniform(0, 1) + 1e-12))
        results.append(math.log(rng.uniform(1, 2000)))
        results.append(math.log2(rng.uniform(0, 1) + 1e-12))
        results.append(math.log1p(rng.uniform(0, 1)))
        results.append(math.pow(rng.uniform(1e-6, 30), -0.5))
        results.append(math.pow(rng.uniform(1e-6, 30), -1.5))
        results.append(math.pow(rng.uniform(0.8, 1), rng.randrange(1, 3000)))
        results.append(math.pow(rng.uniform(1e-6, 1), rng.uniform(-1, 3)))
        results.append(math.sqrt(rng.uniform(0, 100)))
        results.append(math.tanh(rng.uniform(-6, 6)))
        results.append(math.erf(rng.uniform(-4, 4)))
        results.append(math.sin(rng.uniform(-20, 20)))
        results.append(math.cos(rng.uniform(-20, 20)))
        results.append(rng.gauss(0, 1))
    return hashlib.sha256(repr(results).encode("ascii")).hexdigest()[:16]


def recorded_hash(folder=TRANSCRIPTS):
    """The hash of the machine that wrote the transcripts in `folder`, or None without a record."""
    path = folder / "machine.txt"
    if not path.exists():
        return None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(LABEL):
            return line.removeprefix(LABEL).strip()
    return None


def machine_text():
    """The content of docs/runs/machine.txt for this machine."""
    return (
        f"{LABEL}{math_hash()}\n"
        "\n"
        "The hash is over results of exp, log, pow, tanh and their like. Where math_hash() in\n"
        "tests/support/machine.py gives the same hash, each script prints its transcript in this\n"
        "folder to the letter, times aside. Elsewhere the figures may differ a little.\n"
    )
