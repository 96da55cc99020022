"""Print the measures of each script's form. They guide whoever writes; no test enforces them.

    python tests/measure_form.py [SCRIPT ...]

A SCRIPT is a script's name or the path of a Python file. Without one, all scripts are measured. The
columns are:

    subject    the line of the first header (# ===) after CONSTANTS and BORROWED
    main       the lines of main()
    lines      the lines above REPEATED, without THE TASK, as in microdpo. A file without the header
               REPEATED is counted whole
    comments   the share of the non-blank lines among them that carry a comment or are a docstring's
    unchanged  the share of the non-blank lines above MAIN that stand word for word in the script as
               it was at commit 21ce246. "!" marks a share above 40 %
    longest    the three longest functions among the counted lines, main() aside, with their lines
"""

import argparse
import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

from support.scripts import ROOT, SCRIPTS

HEADER = "# === "
TASK = "# === THE TASK, as in microdpo ==="
OLD_COMMIT = "21ce246"
MARKED_SHARE = 0.4


def headers(lines):
    """[(line number, text after the marker)] of the headers, in order. Numbers start at 1."""
    found = []
    for number, line in enumerate(lines, 1):
        if line.startswith(HEADER):
            found.append((number, line.removeprefix(HEADER)))
    return found


def first_header(lines, start):
    """The line number of the first header that begins with `start`; None if there is none."""
    for number, text in headers(lines):
        if text.startswith(start):
            return number
    return None


def subject_line(lines):
    """The line of the first header that is neither CONSTANTS nor BORROWED; None without one."""
    for number, text in headers(lines):
        if not text.startswith(("CONSTANTS", "BORROWED")):
            return number
    return None


def counted_lines(lines):
    """The numbers of the lines above REPEATED that are not in a part headed THE TASK."""
    end = first_header(lines, "REPEATED") or len(lines) + 1
    counted = set()
    in_task = False
    for number, line in enumerate(lines[: end - 1], 1):
        if line.startswith(HEADER):
            in_task = line.startswith(TASK)
        if not in_task:
            counted.add(number)
    return counted


def comment_lines(source, tree):
    """The numbers of the lines that carry a comment or belong to a docstring."""
    numbers = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            numbers.add(token.start[0])
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            numbers.update(range(docstring.lineno, docstring.end_lineno + 1))
    return numbers


def functions(tree):
    """[(length, name, first line)] of all functions and methods. A docstring counts as length."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.append((node.end_lineno - node.lineno + 1, node.name, node.lineno))
    return found


def old_source(name):
    """The script as it was at OLD_COMMIT; None if there was none of this name, or git fails."""
    if name not in SCRIPTS:
        return None
    path = SCRIPTS[name].relative_to(ROOT).as_posix()
    command = ["git", "show", f"{OLD_COMMIT}:{path}"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    except OSError:
        return None
    return None if done.returncode else done.stdout


def unchanged_share(lines, old):
    """The share of the non-blank lines above MAIN that stand in the old source. Indents may differ.

    None without a header MAIN or an old source.
    """
    main_line = first_header(lines, "MAIN")
    if main_line is None or old is None:
        return None
    old_lines = {line.strip() for line in old.splitlines()}
    now = [line.strip() for line in lines[: main_line - 1] if line.strip()]
    unchanged = [line for line in now if line in old_lines]
    return len(unchanged) / len(now)


def measure(path):
    """The row of a script, as a list of texts. Raises SyntaxError if it is no Python."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = source.splitlines()
    counted = counted_lines(lines)
    non_blank = {number for number in counted if lines[number - 1].strip()}
    commented = comment_lines(source, tree) & non_blank
    main_length = "-"
    others = []
    for length, name, first in functions(tree):
        if name == "main":
            main_length = length
        elif first in counted:
            others.append((length, name))
    others.sort(key=lambda pair: -pair[0])
    share = unchanged_share(lines, old_source(path.stem))
    unchanged = "- "
    if share is not None:
        unchanged = f"{share:.0%}" + ("!" if share > MARKED_SHARE else " ")
    longest = [f"{name} {length}" for length, name in others[:3]]
    return [
        path.stem,
        str(subject_line(lines) or "-"),
        str(main_length),
        str(len(counted)),
        f"{len(commented) / max(1, len(non_blank)):.0%}",
        unchanged,
        ", ".join(longest),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT")
    args = parser.parse_args()
    paths = []
    for name in args.scripts or SCRIPTS:
        path = SCRIPTS.get(name, Path(name))
        if not path.is_file():
            valid = ", ".join(SCRIPTS)
            parser.exit(2, f"{name} is neither a file nor a script. The scripts are: {valid}\n")
        paths.append(path)

    titles = ["script", "subject", "main", "lines", "comments", "unchanged", "longest"]
    form = "{:16}{:>8}{:>6}{:>7}{:>10}{:>11}  {}"
    print(form.format(*titles))
    for path in paths:
        try:
            print(form.format(*measure(path)))
        except (SyntaxError, UnicodeDecodeError) as error:
            sys.exit(f"{path} is no Python file: {error}")


if __name__ == "__main__":
    main()
