"""Compare whole runs of the scripts across Python interpreters. Run by hand, before a release.

    python tests/compare_pythons.py PYTHON PYTHON [PYTHON ...] [--scripts SCRIPT ...]

Each script, or each of those named, runs once on every interpreter, two runs at a time. Every run
has another PYTHONHASHSEED and a folder of its own, stdout is ASCII, and warnings are errors. A run
must print what the run on the first interpreter prints, times aside, and nothing on stderr.

For each difference the command shows the lines: those of the first interpreter with a minus, those
of the other one with a plus. The exit status is 1 if a run differs or fails.
"""

import argparse
import concurrent.futures
import difflib
import shutil
import subprocess
import sys
import tempfile

from support.scripts import SCRIPTS, python, without_times

SHOWN_LINES = 20  # of a difference


def run(interpreter, name, seed):
    """Run a script to its end. Return (its output with the times masked, what went wrong or "")."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = python(
                SCRIPTS[name], cwd=folder, interpreter=interpreter, PYTHONHASHSEED=str(seed)
            )
        except subprocess.TimeoutExpired as error:
            return "", f"did not end within {error.timeout:.0f} s"
        except OSError as error:
            return "", f"does not start: {error.strerror}"
    if done.returncode:
        return "", f"exit status {done.returncode}\n{done.stderr}".rstrip()
    if done.stderr:
        return "", f"output on stderr\n{done.stderr}".rstrip()
    return without_times(done.stdout), ""


def difference(first, other):
    """The lines in which two outputs differ, at most SHOWN_LINES of them, as one text."""
    lines = difflib.unified_diff(first.splitlines(), other.splitlines(), n=0, lineterm="")
    lines = list(lines)[2:]  # without the two lines for file names
    if len(lines) > SHOWN_LINES:
        lines = [*lines[:SHOWN_LINES], f"and {len(lines) - SHOWN_LINES} more lines"]
    return "\n".join(lines)


def compare(interpreters, outcomes):
    """[(interpreter, what is wrong with its run)], given each run's (output, fault) in order."""
    reference = None  # the output of the first run that ended well
    problems = []
    for interpreter, (output, fault) in zip(interpreters, outcomes, strict=True):
        if fault:
            problems.append((interpreter, fault))
        elif reference is None:
            reference = output
        elif output != reference:
            problems.append((interpreter, "differs\n" + difference(reference, output)))
    return problems


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("interpreters", nargs="+", metavar="PYTHON")
    parser.add_argument("--scripts", nargs="+", default=list(SCRIPTS), metavar="SCRIPT")
    args = parser.parse_args()
    for name in args.scripts:
        if name not in SCRIPTS:
            parser.exit(2, f"No script is called {name}. They are: {', '.join(SCRIPTS)}\n")
    for interpreter in args.interpreters:
        if not shutil.which(interpreter):
            parser.exit(2, f"{interpreter} is no program here. Give the path of an interpreter.\n")
    if len(args.interpreters) < 2:
        parser.exit(2, "Give at least two interpreters to compare.\n")

    # The runs of all scripts are handed out at once, so that no core waits between two scripts.
    all_same = True
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = {}
        for name in args.scripts:
            runs[name] = []
            for seed, interpreter in enumerate(args.interpreters):
                runs[name].append(pool.submit(run, interpreter, name, seed))
        for name in args.scripts:
            outcomes = [future.result() for future in runs[name]]
            problems = compare(args.interpreters, outcomes)
            if not problems:
                print(f"{name:16} the same on all {len(args.interpreters)}", flush=True)
            for interpreter, problem in problems:
                print(f"{name:16} {interpreter}: {problem}", flush=True)
                all_same = False
    sys.exit(0 if all_same else 1)


if __name__ == "__main__":
    main()
