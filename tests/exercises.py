"""Run the exercises of docs/exercises.md, and compare what they print with the figures there.

    python tests/exercises.py                 all of them, two at a time
    python tests/exercises.py microgpt vae2   those of a script, or a single one by its name
    python tests/exercises.py --write         write the figures that the edited scripts printed

An exercise has a title, one or more edits, and a table of results:

    ### gpt1: a title                          the name of the exercise; its script is named below
    In [`microgpt`](...), ...                  the first link of this kind names the script
    ```python  ...  ```                        each pair of code blocks is an edit, from and to, of
                                               what stands at the start of one line
    | result | script | edited |               the figures as the script and its edited copy print
    | `heldout_loss` | 2.3678 | 2.3650 |       them

Each edit is applied to a copy, so no script changes. The exit status is 1 if an edit does not
apply, a copy fails, or a figure differs.
"""

import argparse
import concurrent.futures
import re
import sys
from dataclasses import dataclass

from support.scripts import RESULT_LINE, ROOT, SCRIPTS, TRANSCRIPTS, run_copy

DOCUMENT = ROOT / "docs" / "exercises.md"
TITLE = re.compile(r"(?m)^### (\w+): (.*)$")
CODE = re.compile(r"(?ms)^```python\n(.*?)^```$")
ROW = re.compile(r"(?m)^\| `(\w+)` \| (\S+) \| (\S+) \|$")
AT_ONCE = 2


@dataclass
class Exercise:
    """name, script, edits [(from, to)], and rows [(result, of the script, of the edited copy)]."""

    name: str
    script: str
    edits: list
    rows: list

    def edited(self):
        """The source of the script with all edits. Raises ValueError if one does not apply."""
        source = SCRIPTS[self.script].read_text(encoding="utf-8")
        for old, new in self.edits:
            places = list(re.finditer(rf"(?m)^{re.escape(old)}", source))
            if len(places) != 1:
                raise ValueError(f"{self.name}: {len(places)} places have {old.strip()!r}")
            source = source[: places[0].start()] + new + source[places[0].end() :]
        return source


def parse_exercises(text):
    """The exercises in a document. Raises ValueError if one is not complete."""
    exercises = []
    titles = list(TITLE.finditer(text))
    for title, following in zip(titles, [*titles[1:], None]):
        body = text[title.end() : following.start() if following else len(text)]
        body = body.partition("\n## ")[0]
        script = re.search(r"\[`(\w+)`\]", body)
        blocks = [block.rstrip("\n") for block in CODE.findall(body)]
        rows = ROW.findall(body)
        if not script or script[1] not in SCRIPTS or not rows or not blocks or len(blocks) % 2:
            raise ValueError(f"{title[1]} needs a script, pairs of code blocks, and figures")
        edits = list(zip(blocks[::2], blocks[1::2]))
        exercises.append(Exercise(title[1], script[1], edits, rows))
    return exercises


def printed(stdout):
    """{result: its value, as it was printed} of a run."""
    block = stdout.rpartition("\n=== results ===\n")[2]
    matches = [RESULT_LINE.match(line) for line in block.splitlines()]
    return {match["name"]: match["value"] for match in matches if match}


def of_script(exercise):
    """{result: value} of the script as it is, from its transcript."""
    return printed((TRANSCRIPTS / f"{exercise.script}.txt").read_text(encoding="ascii"))


def with_figures(text, exercise, before, after):
    """The document with the figures of an exercise filled in. KeyError if a result is unknown."""
    start = re.search(rf"(?m)^### {exercise.name}: ", text).start()
    head, body = text[:start], text[start:]
    for result, old_before, old_after in exercise.rows:
        old = f"| `{result}` | {old_before} | {old_after} |"
        body = body.replace(old, f"| `{result}` | {before[result]} | {after[result]} |", 1)
    return head + body


def chosen(exercises, names):
    """Those of the scripts or names given, or all. Raises SystemExit if one is unknown."""
    known = {exercise.name for exercise in exercises} | {exercise.script for exercise in exercises}
    if set(names) - known:
        raise SystemExit(f"No exercise or script: {', '.join(sorted(set(names) - known))}")
    return [e for e in exercises if not names or e.name in names or e.script in names]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="SCRIPT_OR_EXERCISE")
    parser.add_argument("--write", action="store_true", help="write the figures into the document")
    args = parser.parse_args(arguments)
    try:
        exercises = chosen(parse_exercises(DOCUMENT.read_text(encoding="utf-8")), args.names)
        sources = [exercise.edited() for exercise in exercises]
    except ValueError as error:
        raise SystemExit(str(error)) from None

    wrong = 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(run_copy, e.script, s) for e, s in zip(exercises, sources)]
        for exercise, run in zip(exercises, runs):
            try:
                before, after = of_script(exercise), printed(run.result())
                expected = [(r, before[r], after[r]) for r, *_ in exercise.rows]
            except (RuntimeError, KeyError) as error:
                print(f"{exercise.name}: the edited {exercise.script} {error}", flush=True)
                wrong += 1
                continue
            if expected == exercise.rows:
                print(f"{exercise.name}: as written", flush=True)
            elif args.write:
                text = DOCUMENT.read_text(encoding="utf-8")
                text = with_figures(text, exercise, before, after)
                DOCUMENT.write_text(text, encoding="utf-8", newline="\n")
                print(f"{exercise.name}: written", flush=True)
            else:
                print(f"{exercise.name}: differs: {expected}", flush=True)
                wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
