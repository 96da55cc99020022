"""Find the scripts, import them, run them, read what they print."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {path.stem: path for path in sorted(ROOT.glob("0[123]-*/micro*.py"))}
QUICK = {"microtokenizer", "microattention", "microflash"}  # whole runs take a few seconds

RESULT_LINE = re.compile(r"^(?P<name>[a-z0-9_]+) +(?P<value>\S+)(?: +(?P<criterion>\S.*))?$")
OPERATORS = {
    "<": float.__lt__,
    "<=": float.__le__,
    ">": float.__gt__,
    ">=": float.__ge__,
    "==": float.__eq__,
}


@functools.cache
def load(name):
    """The script as a module. It is never entered into sys.modules: nothing may depend on that."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(**changes):
    """The environment of a script's process: offline, ASCII stdout, no bytecode left behind."""
    settings = {
        "PYTHONPATH": str(ROOT / "tests" / "offline"),
        "PYTHONIOENCODING": "ascii",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {**os.environ, **settings, **changes}


def python(*args, timeout=900, cwd=None, **changes):
    """Run this Python with warnings as errors; return the finished process, output as text."""
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, args)],
        env=environment(**changes),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def without_times(stdout):
    """The output with every duration masked, for comparing runs."""
    stdout = re.sub(r" *\b\d+\.\d+ s\b", " <time>", stdout)
    return re.sub(r"(?m)^runtime_seconds .*$", "runtime_seconds <time>", stdout)


def parse(stdout):
    """{name: value} and {name: criterion} of the results block, which must be what ends stdout."""
    _, separator, block = stdout.rpartition("\n=== results ===\n")
    assert separator, f"no results block in:\n{stdout}"
    metrics, criteria = {}, {}
    for line in block.splitlines():
        match = RESULT_LINE.match(line)
        assert match, f"not a result: {line!r}"
        assert match["name"] not in metrics, f"{match['name']} twice"
        metrics[match["name"]] = float(match["value"])
        criteria[match["name"]] = match["criterion"] or ""
    return metrics, criteria


def meets(value, criterion):
    """Whether a number meets a criterion such as '< 2.7', '== 0' or '0.1 to 10'."""
    if " to " in criterion:
        low, high = map(float, criterion.split(" to "))
        return low <= value <= high
    operator, bound = criterion.split()
    return OPERATORS[operator](value, float(bound))
