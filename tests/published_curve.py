"""Compare microgpt's losses with those that Karpathy published, on makemore's list of names.

    python tests/published_curve.py NAMES_FILE

NAMES_FILE is makemore's names.txt at commit 988aa59. The list in 01-foundations/names.txt is
another release, on which the losses are others. The command does what the script's main() does up
to the end of the training, with the script's own functions. A loss has to agree to five decimals.

The exit status is 1 if a loss differs, or if NAMES_FILE is missing or another file. It takes half a
minute.
"""

import argparse
import hashlib
import inspect
import random
import sys
from pathlib import Path

from support.scripts import load

NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
PUBLISHED = {  # step: loss
    1: "3.36597",
    2: "3.42427",
    3: "3.17780",
    100: "3.36693",
    1000: "2.64969",
}


def read_names(path):
    """The names of makemore's file, in file order. Raises SystemExit if it is not that file."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise SystemExit(f"{path} cannot be read: {error.strerror}.") from None
    if hashlib.sha256(raw).hexdigest() != NAMES_SHA256:
        raise SystemExit(
            f"{path} is not makemore's names.txt at commit 988aa59: its SHA-256 is another."
        )
    return raw.decode("ascii").split()


def init_values(gpt, vocab_size):
    """The script's starting model, made of Values. The old form draws Values, the new floats."""
    if len(inspect.signature(gpt.init_model).parameters) == 1:
        return gpt.init_model(vocab_size)
    return gpt.as_values(gpt.init_model(vocab_size, gpt.n_embd))


def compare(names):
    """Train, and print the losses beside the published ones. Return {step: loss} of the misses."""
    gpt = load("microgpt")
    random.seed(42)
    names = list(names)
    random.shuffle(names)
    chars = sorted(set("".join(names)))
    model = init_values(gpt, len(chars) + 1)
    missed = dict(PUBLISHED)
    print("step   microgpt  published")
    for step, loss in enumerate(gpt.train(model, names, chars), 1):
        if step not in PUBLISHED:
            continue
        same = f"{loss:.5f}" == PUBLISHED[step]
        if same:
            del missed[step]
        note = "" if same else "   differs"
        print(f"{step:4}   {loss:8.5f}   {PUBLISHED[step]}{note}", flush=True)
    return missed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names_file", metavar="NAMES_FILE")
    args = parser.parse_args()
    missed = compare(read_names(args.names_file))
    if missed:
        print(f"Different, or not reached: step {', '.join(map(str, missed))}.")
        sys.exit(1)
    print("All losses are the published ones.")


if __name__ == "__main__":
    main()
