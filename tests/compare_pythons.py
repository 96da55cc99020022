"""Compare whole runs across interpreters, by hand before a release.

    python tests/compare_pythons.py python3.10 python3.13 [-- microgpt microtokenizer ...]

Each script runs once on every interpreter, each time with another PYTHONHASHSEED and from another
folder. What it prints must be the same, times apart, and nothing may go to stderr.
"""

import subprocess
import sys
import tempfile

from harness import SCRIPTS, environment, without_times


def output(interpreter, script, seed):
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [interpreter, "-W", "error", str(script)],
            env=environment(PYTHONHASHSEED=str(seed)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if done.returncode or done.stderr:
        return f"exit status {done.returncode}\n{done.stderr}"
    return without_times(done.stdout)


def main(args):
    split = args.index("--") if "--" in args else len(args)
    interpreters, names = args[:split], args[split + 1 :] or list(SCRIPTS)
    if len(interpreters) < 2:
        raise SystemExit(__doc__)
    failed = False
    for name in names:
        runs = [output(python, SCRIPTS[name], seed) for seed, python in enumerate(interpreters)]
        bad = [python for python, run in zip(interpreters, runs) if run != runs[0]]
        bad += interpreters[:1] * runs[0].startswith("exit status")
        print(
            f"{name:16} {'differs on ' + ', '.join(bad) if bad else 'the same on all'}", flush=True
        )
        for python, run in zip(interpreters, runs):
            if run.startswith("exit status"):
                print(f"--- {python}\n{run}")
        failed |= bool(bad)
    raise SystemExit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
