"""Blocks: the pieces of source that several scripts repeat, and where they stand in a file.

A block is a top-level function or class, the line `print = ...`, the NAMES_ constants, or the guard
at the end, with the comment lines that touch it from above. Headers (`# ===`) belong to no block.
"""

import ast
import symtable
from dataclasses import dataclass

BORROWED = "# === BORROWED from microgpt.py: what you need to know of it ==="
REPEATED = "# === REPEATED from microgpt.py, word for word ==="
TASK = "# === THE TASK, as in microdpo ==="
CALLOUT = "# --- AUTOGRAD DIFFERENCES IN THIS SCRIPT ---"
NO_DIFFERENCES = (
    f"{CALLOUT}\n# None. This is the engine of microgpt and of docs/autograd-interface.md."
)
GUARD = "guard"


@dataclass
class Block:
    """A block of a file: lines[start:end], counted from 0, and the names that they define."""

    name: str
    names: tuple
    start: int
    end: int
    text: str

    def is_code(self):
        """Whether it is a function, a class or the guard, which blank lines set apart."""
        return self.text.lstrip().split("\n")[-1].startswith((" ", ")")) or self.name == GUARD


def names_of(node):
    """(name of the block, names that it defines) of a top-level statement, or None."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name, (node.name,)
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return GUARD, ()
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        if name == "print":
            return name, (name,)
        if name.startswith("NAMES_"):
            return "NAMES", (name,)
    return None


def blocks_of(text):
    """All blocks of a source text, in order. NAMES_ constants that touch are one block.

    Raises SyntaxError if the text is no Python.
    """
    lines = text.splitlines()
    found = []
    for node in ast.parse(text).body:
        named = names_of(node)
        if not named:
            continue
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while start > 0 and lines[start - 1].startswith("#"):
            if lines[start - 1].startswith("# ==="):
                break
            start -= 1
        name, names = named
        if found and name == "NAMES" == found[-1].name and start == found[-1].end:
            start, names = found[-1].start, found.pop().names + names
        end = node.end_lineno
        found.append(Block(name, names, start, end, "\n".join(lines[start:end])))
    return found


def part(text, header):
    """(first, end): the lines of the part under a header, to the next header, the guard or the end.

    The header's own line is `first`. None if the header is not there.
    """
    lines = text.splitlines()
    if header not in lines:
        return None
    first = lines.index(header)
    for i in range(first + 1, len(lines)):
        if lines[i].startswith(("# === ", "if __name__")):
            return first, i
    return first, len(lines)


def without(text, *parts):
    """The text with the lines of these parts blank, so that the numbers of the others stay."""
    lines = text.splitlines()
    for found in parts:
        for i in range(*found) if found else ():
            lines[i] = ""
    return "\n".join(lines) + "\n"


def globals_used(text):
    """The module-level names that a source text reads anywhere, local variables excepted."""
    used = set()

    def visit(table):
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
                used.add(symbol.get_name())
        for child in table.get_children():
            visit(child)

    visit(symtable.symtable(text, "<source>", "exec"))
    return used


def defined(text):
    """The names that a source text defines at its top level."""
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                found |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found
