"""Find the scripts, import them, run them, and read what they print."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = {path.stem: path for path in sorted(ROOT.glob("0[123]-*/micro*.py"))}
TRANSCRIPTS = ROOT / "docs" / "runs"
NAMES = ROOT / "01-foundations" / "names.txt"
# The quick tier runs these to their end. The others take more than a few seconds.
QUICK = {"microtokenizer", "microattention", "microflash"}

RESULT_LINE = re.compile(r"^(?P<name>[a-z0-9_]+) +(?P<value>\S+)(?: +(?P<criterion>\S.*))?$")


@functools.cache
def load(name):
    """Import a script as a module. It does not enter sys.modules: nothing may depend on that."""
    return load_file(SCRIPTS[name])


def load_file(path):
    """Import any Python file as a module, anew with each call."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script_of(test_file):
    """The name of the script that a test file is about: tests/test_microgpt.py -> microgpt."""
    return Path(test_file).stem.removeprefix("test_")


def environment(**changes):
    """The environment of a script's process: no network, ASCII stdout, no bytecode left behind."""
    settings = {
        "PYTHONPATH": str(ROOT / "tests" / "support" / "offline"),
        "PYTHONIOENCODING": "ascii",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {**os.environ, **settings, **changes}


def command(*args, interpreter=sys.executable):
    """The command line that runs Python on `args`, with warnings as errors."""
    return [interpreter, "-W", "error", *map(str, args)]


def python(*args, timeout=900, cwd=None, interpreter=sys.executable, **changes):
    """Run Python to its end. Return the finished process, with its output as text.

    Line ends become \\n, but a lone carriage return stays. `changes` are environment variables.
    Raises subprocess.TimeoutExpired after `timeout` seconds.
    """
    done = subprocess.run(
        command(*args, interpreter=interpreter),
        env=environment(**changes),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
    )
    done.stdout = done.stdout.decode("utf-8").replace(os.linesep, "\n")
    done.stderr = done.stderr.decode("utf-8").replace(os.linesep, "\n")
    return done


def first_lines(count, *args, cwd=None, **changes):
    """Run Python, read the first lines of its stdout, and end it.

    Returns these lines as text, or all output if there is less.
    """
    process = subprocess.Popen(
        command(*args),
        env=environment(**changes),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        lines = [process.stdout.readline() for _ in range(count)]
        process.kill()
    return b"".join(lines).decode("utf-8").replace(os.linesep, "\n")


def without_times(stdout):
    """The output with every duration masked, so that two runs can be compared."""
    stdout = re.sub(r" *\b\d+\.\d+ s\b", " <time>", stdout)
    runtime = r"(?m)^(runtime_seconds +)\d+\.\d+ *(.*)$"
    return re.sub(runtime, r"\1<time>   \2", stdout)  # as wide as a value's column, whatever it was


def parse(stdout):
    """Read the results block at the end of stdout: {name: value} and {name: criterion}.

    Raises ValueError if there is no such block, a line is not a result, or a name stands twice.
    """
    _, separator, block = stdout.rpartition("\n=== results ===\n")
    if not separator:
        raise ValueError(f"no results block in:\n{stdout}")
    metrics, criteria = {}, {}
    for line in block.splitlines():
        match = RESULT_LINE.match(line)
        if not match or match["name"] in metrics:
            raise ValueError(f"not a result, or a second one of this name: {line!r}")
        metrics[match["name"]] = float("nan" if match["value"] == "<time>" else match["value"])
        criteria[match["name"]] = match["criterion"] or ""
    return metrics, criteria


def run_copy(name, source):
    """Run a source text as a script, alone in a folder with names.txt. Return its stdout.

    Raises RuntimeError if the run fails, or prints no results.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"{name}.py"
        copy.write_text(source, encoding="utf-8")
        shutil.copy(NAMES, Path(folder) / "names.txt")
        try:
            done = python(copy, cwd=folder, timeout=1800)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"did not end within {error.timeout:.0f} s") from None
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"failed: {last_line}")
    try:
        parse(done.stdout)
    except ValueError:
        raise RuntimeError("printed no results block") from None
    return done.stdout
