"""Run scripts, keep what they print in docs/runs/, and fill the figures in the READMEs from there.

    python tests/update_docs.py                   all scripts, two at a time
    python tests/update_docs.py microgpt microvae only these
    python tests/update_docs.py --no-run          only fill the READMEs from the transcripts on file

Figures stand in the READMEs between HTML comments, which no reader sees:

    <!--microgpt.heldout_loss-->2.3678<!--/-->    a result, as the script prints it
    <!--microgpt.heldout_loss:2-->2.37<!--/-->    the same with two decimals
    <!--microgpt.claim-->...<!--/-->              the first line of the script, without its period
    <!--microgpt.cpu-->13<!--/-->                 CPU seconds, from docs/runs/cpu-seconds.txt
    <!--microgpt.limit-->420<!--/-->              the most seconds that a run may take

Lines of a transcript stand in a fenced block between two such comments on lines of their own:

    <!--transcript microgpt 1-46-->               the lines 1 to 46
    <!--transcript microgpt results-->            the results block at the end
    <!--transcript microgpt-->                    all lines

A script that fails keeps its old transcript. The exit status is 1 if a script failed, if a marker
cannot be filled, or if only some scripts were named and the transcripts on file are from a machine
whose exp() or log() rounds differently (docs/runs/machine.txt).
"""

import argparse
import ast
import concurrent.futures
import os
import re
import subprocess
import sys
from decimal import Decimal

from support.machine import machine_text, math_hash, recorded_hash
from support.scripts import (
    RESULT_LINE,
    ROOT,
    SCRIPTS,
    TRANSCRIPTS,
    parse,
    python,
    without_times,
)

AT_ONCE = 2  # scripts that run at the same time
READMES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/README*.md")),
    *sorted(ROOT.glob("0[123]-*/README.md")),
]

COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
FIGURE = re.compile(r"(?P<script>\w+)\.(?P<figure>\w+)(?::(?P<decimals>\d+))?")
LINES = re.compile(r"transcript (?P<script>\w+)(?: (?P<part>\S+))?")
END = "/"


class MarkerError(ValueError):
    """A marker in a README that cannot be filled. The message says why, and what to do."""


# Reading what is on file


def transcript(name):
    """The text of a script's transcript. Raises MarkerError if there is no such script or file."""
    if name not in SCRIPTS:
        raise MarkerError(f"there is no script {name}")
    path = TRANSCRIPTS / f"{name}.txt"
    if not path.exists():
        raise MarkerError(f"there is no transcript of {name}: run tests/update_docs.py {name}")
    return path.read_text(encoding="utf-8")


def results_block(text):
    """The lines of a transcript from the header of its results on: that line, and one for each."""
    lines = text.splitlines()
    return lines[lines.index("=== results ===") :]


def results(name):
    """{metric: (value, criterion)} of a transcript, as printed. The criterion may be None."""
    found = {}
    for line in results_block(transcript(name))[1:]:
        match = RESULT_LINE.match(line)
        found[match["name"]] = (match["value"], match["criterion"])
    return found


def claim(name):
    """What a script proves: the first line of its docstring, without the period."""
    tree = ast.parse(SCRIPTS[name].read_text(encoding="utf-8"))
    return ast.get_docstring(tree).splitlines()[0].removesuffix(".")


def cpu_seconds(name):
    """CPU seconds of a script as text: whole from 10 up, one decimal below."""
    path = TRANSCRIPTS / "cpu-seconds.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        if line.startswith(f"{name} "):
            seconds = float(line.split()[1])
            return f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:.0f}"
    raise MarkerError(f"{path.name} has no line for {name}: run tests/benchmark.py {name}")


# Filling the READMEs


def figure(name, metric, decimals=None):
    """The text for a marker `name.metric:decimals`. Raises MarkerError if nothing fits it."""
    if name not in SCRIPTS:
        raise MarkerError(f"there is no script {name}")
    if metric == "claim":
        return claim(name)
    if metric == "cpu":
        return cpu_seconds(name)
    found = results(name)
    if metric == "limit":
        return found["runtime_seconds"][1].split()[-1]
    if metric not in found:
        raise MarkerError(f"{name} prints no result {metric}")
    if metric == "runtime_seconds":
        raise MarkerError("runtime_seconds differs with each run: use cpu or limit")
    value = found[metric][0]
    if decimals is None:
        return value
    if "e" in value or decimals > len(value.partition(".")[2]):
        raise MarkerError(f"{name} prints {metric} as {value}, so it has no {decimals} decimals")
    return f"{Decimal(value):.{decimals}f}"


def fenced(name, part=None):
    """A transcript as a fenced block. `part` is "FIRST-LAST", "results", or None for all of it."""
    text = transcript(name)
    lines = text.splitlines()
    span = re.fullmatch(r"(\d+)-(\d+)", part or "")
    if part == "results":
        lines = results_block(text)
    elif span:
        first, last = int(span[1]), int(span[2])
        if not 1 <= first <= last <= len(lines):
            raise MarkerError(f"the transcript of {name} has the lines 1-{len(lines)}, not {part}")
        lines = lines[first - 1 : last]
    elif part:
        raise MarkerError(f"{part} is no part of a transcript: write 1-20, or results, or nothing")
    return "\n".join(["", "```", *lines, "```", ""])


def content(marker):
    """What belongs behind a marker, or None if this comment is no marker."""
    match = FIGURE.fullmatch(marker)
    if match:
        decimals = match["decimals"]
        return figure(match["script"], match["figure"], None if decimals is None else int(decimals))
    match = LINES.fullmatch(marker)
    if match:
        return fenced(match["script"], match["part"])
    return None


def filled(text):
    """A README's text as it should be: each marker followed by what is on file, then <!--/-->.

    Raises MarkerError with the line of a marker that cannot be filled, or that has no end.
    """
    done, position, is_open = [], 0, None
    for comment in COMMENT.finditer(text):
        line = text.count("\n", 0, comment.start()) + 1
        marker = comment[1]
        try:
            if marker == END:
                if is_open is None:
                    raise MarkerError(f"<!--{END}--> ends no marker")
                position, is_open = comment.start(), None
                continue
            if is_open is not None:
                raise MarkerError(f"<!--{is_open}--> has no end <!--{END}--> before this line's")
            value = content(marker)
        except MarkerError as error:
            raise MarkerError(f"line {line}: {error}") from None
        if value is not None:
            done += [text[position : comment.end()], value]
            is_open = marker
    if is_open is not None:
        raise MarkerError(f"the last marker, <!--{is_open}-->, has no end <!--{END}-->")
    return "".join(done) + text[position:]


# Writing


def write(path, text):
    """Replace a file at once, so that none is ever half-written. Lines end in LF everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def fill_readmes():
    """Write the READMEs that are out of date. Raises MarkerError before any is written."""
    changed = {}
    for readme in READMES:
        text = readme.read_text(encoding="utf-8")
        try:
            new = filled(text)
        except MarkerError as error:
            raise MarkerError(f"{readme.relative_to(ROOT).as_posix()}, {error}") from None
        if new != text:
            changed[readme] = new
    for readme, text in changed.items():
        write(readme, text)
        print(f"{readme.relative_to(ROOT).as_posix()}: filled")


def run(name):
    """Run a script to its end: (its masked output, None), or (None, what went wrong)."""
    try:
        done = python(SCRIPTS[name], PYTHONHASHSEED="0")
    except subprocess.TimeoutExpired as error:
        return None, f"it took more than {error.timeout:.0f} seconds"
    if done.returncode or done.stderr:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return None, f"exit status {done.returncode}, {last}"
    try:
        parse(done.stdout)
    except ValueError as error:
        return None, str(error).splitlines()[0]
    return without_times(done.stdout), None


def update_transcripts(names, machine_is_new):
    """Run the scripts and write their transcripts. Return the names of those that failed.

    If the transcripts on file are from another machine, they are replaced together or not at all.
    """
    new, failed = {}, []
    pool = concurrent.futures.ThreadPoolExecutor(AT_ONCE)
    runs = {pool.submit(run, name): name for name in names}
    try:
        for finished in concurrent.futures.as_completed(runs):
            name = runs[finished]
            text, problem = finished.result()
            path = TRANSCRIPTS / f"{name}.txt"
            if problem:
                failed.append(name)
                print(f"{name}: {problem}. Its old transcript stays.", file=sys.stderr, flush=True)
                continue
            is_same = path.exists() and path.read_text(encoding="utf-8") == text
            print(f"{name}: {'as before' if is_same else 'changed'}", flush=True)
            if machine_is_new:
                new[path] = text
            elif not is_same:
                write(path, text)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C no further script is started
    if machine_is_new and failed:
        print("Nothing was written: the old transcripts are another machine's.", file=sys.stderr)
    elif machine_is_new:
        (TRANSCRIPTS / "machine.txt").unlink(missing_ok=True)
        for path, text in new.items():
            write(path, text)
        write(TRANSCRIPTS / "machine.txt", machine_text())
    return failed


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="default: all")
    parser.add_argument("--no-run", action="store_true", help="only fill the READMEs")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.scripts if name not in SCRIPTS]
    if unknown:
        parser.error(f"no script {unknown[0]}; there are {' '.join(SCRIPTS)}")
    if options.no_run and options.scripts:
        parser.error("--no-run takes no scripts: it fills the READMEs from all transcripts on file")

    failed = []
    if not options.no_run:
        names = list(dict.fromkeys(options.scripts)) or list(SCRIPTS)
        machine_is_new = math_hash() != recorded_hash(TRANSCRIPTS)
        if machine_is_new and set(names) != set(SCRIPTS):
            print(
                "The transcripts on file are from another machine, and a mixture cannot be compared"
                " to the letter: run tests/update_docs.py without names, for all scripts.",
                file=sys.stderr,
            )
            return 1
        failed = update_transcripts(names, machine_is_new)
    try:
        fill_readmes()
    except MarkerError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit("Stopped. The transcripts that are written so far are whole.") from None
