"""Break a script in many small ways, one at a time, and see whether its tests notice.

    python tests/mutate.py microkv                     the sample of at most 150 breaks
    python tests/mutate.py microkv --list              print the sample, and run nothing
    python tests/mutate.py microkv --only forward      breaks of one function, or of one class

A break changes the syntax tree of one function: a sign, a factor, a comparison, an index, a loop,
a condition, a call, the order of arguments, a dropped statement. Broken is what a script owns: its
subject, what measures, and ADAPTED. Not broken are main(), what shows, draws or prints, and what is
repeated from another script.

The tests of the script run without those that are slow or need a whole run. They run in a copy of
the repository, in which only the script changes. A break that they all pass is a survivor. It shows
a hole in the tests, unless no input tells the broken script from the right one. The exit status is
1 if there are survivors, and 2 if the tests fail on the script as it is.
"""

import argparse
import ast
import concurrent.futures
import contextlib
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None

from support.blocks import REPEATED, TASK
from support.scripts import ROOT, SCRIPTS
from sync import DATA, IN_PLACE, OUTPUT

MAX_BREAKS = 150
SEED = 42
# The time limit of a break, from the time of the tests on the unbroken script. It is in CPU seconds
# where the system can limit these, so that a busy machine times out no more than an idle one.
LIMIT_FACTOR = 5
LIMIT_SECONDS = 10
# Elapsed seconds per CPU second that tests may take: there are also breaks that wait for ever.
PATIENCE = 10
# A broken loop that fills a list for ever has to fail before it fills the memory.
MEMORY_LIMIT = 3 * 2**30  # bytes
# Test files beside tests/test_<script>.py, as far as they exist. What microdpo shares with microppo
# and microgrpo is tested, and broken, in microdpo alone.
MORE_TESTS = {"microgpt": ["test_engine.py"], "microdpo": ["test_preference.py"]}
WIDTH = 60  # characters of a description on either side of its arrow


# === WHAT IS BROKEN: the functions that a script owns ===
DRAWING = "# === DRAWING"
NEVER_PREFIXES = ("show_", "draw_", "print_")
NEVER = {"main", "mean"} | DATA | OUTPUT


def owned_functions(name, source, module):
    """{qualified name: FunctionDef} of what may be broken in the script `name`, in file order.

    `module` is the parsed source. The methods of a class are named Class.method. A function
    inside a function counts as a part of it.
    """
    headers = {}
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("# === "):
            headers[number] = line.strip()
    functions = {}
    for node in module.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        if node.name in NEVER or node.name.startswith(NEVER_PREFIXES):
            continue
        above = [number for number in headers if number < node.lineno]
        section = headers[max(above)] if above else ""
        if section == REPEATED or section.startswith(DRAWING):
            continue
        if section == TASK and name in ("microppo", "microgrpo"):
            continue
        if node.name in IN_PLACE and name in IN_PLACE[node.name][1]:
            continue
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node
            continue
        for method in node.body:
            if isinstance(method, ast.FunctionDef):
                functions[f"{node.name}.{method.name}"] = method
    return functions


# === THE OPERATORS: each takes a node and yields its breaks, (old node, new node) ===
# A new node may hold parts of the old one. `tree` knows the parents of all nodes, and more.
class Tree:
    """A parsed script, with what the operators have to know beyond a node."""

    def __init__(self, source):
        self.module = ast.parse(source)
        self.parents = {}
        self.modules = set()  # names of imported modules
        self.strings = {}  # (called function, position): the strings that are passed there
        for node in ast.walk(self.module):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
            if isinstance(node, ast.Import):
                self.modules.update(alias.name for alias in node.names)
            if isinstance(node, ast.Call):
                for i, argument in enumerate(node.args):
                    if is_text(argument):
                        known = self.strings.setdefault((ast.unparse(node.func), i), [])
                        known.append(argument)

    def function_of(self, node):
        """The innermost function or class, or the module, that a node stands in."""
        node = self.parents[node]
        while not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
            node = self.parents[node]
        return node

    @contextlib.contextmanager
    def replaced(self, old, new):
        """The tree with `new` in the place of `old`, for the time of a with block."""
        parent = self.parents[old]
        for field, value in ast.iter_fields(parent):
            items = value if isinstance(value, list) else []
            place = next((i for i, item in enumerate(items) if item is old), None)
            if value is old:
                setattr(parent, field, new)
                try:
                    yield
                finally:
                    setattr(parent, field, old)
            elif place is not None:
                items[place] = new
                try:
                    yield
                finally:
                    items[place] = old


def is_text(node):
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
    )


def is_sequence(node):
    """Whether an operand is surely no number: + joins it, and - or / would only raise."""
    return is_text(node) or isinstance(node, (ast.List, ast.Tuple, ast.ListComp))


def is_number(node, value=None):
    if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
        return False
    return value is None or node.value == value


def binary(left, operator, right):
    return ast.BinOp(left=left, op=operator(), right=right)


def shifted(node, by):
    """The node for `node` + by, with by = 1 or -1."""
    if is_number(node) and node.value + by >= 0:
        return ast.Constant(node.value + by)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and is_number(node.operand):
        value = node.operand.value - by
        return ast.UnaryOp(ast.USub(), ast.Constant(value)) if value else ast.Constant(0)
    return binary(node, ast.Add if by > 0 else ast.Sub, ast.Constant(1))


def replaced_item(items, i, new):
    """A copy of a list of nodes with another item, or none, in place i."""
    return [*items[:i], *([new] if new is not None else []), *items[i + 1 :]]


def call_with(node, args=None, keywords=None):
    """A copy of a call with other arguments."""
    return ast.Call(
        func=node.func,
        args=node.args if args is None else args,
        keywords=node.keywords if keywords is None else keywords,
    )


def called_name(node):
    """The name of the function or method that a call calls: "exp" for exp(x) and math.exp(x)."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def sign(node, tree):
    """a + b -> a - b and back, -a -> a, and a sort key with the other sign."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        if not is_sequence(node.left) and not is_sequence(node.right):
            other = ast.Sub if isinstance(node.op, ast.Add) else ast.Add
            yield node, binary(node.left, other, node.right)
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, (ast.Add, ast.Sub)):
        if not is_sequence(node.value):
            other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield node, ast.AugAssign(node.target, other, node.value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node, node.operand
    elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Lambda):
        body = node.value.body
        if node.arg == "key" and not isinstance(body, (ast.Tuple, ast.UnaryOp)):
            yield body, ast.UnaryOp(ast.USub(), body)


OTHER_OPERATOR = {
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def factor(node, tree):
    """a * b -> a / b, a or b, and the like for the other operators. A term of a sum is dropped."""
    if isinstance(node, ast.BinOp):
        joins = is_sequence(node.left) or is_sequence(node.right)
        if type(node.op) in OTHER_OPERATOR and not joins:
            yield node, binary(node.left, OTHER_OPERATOR[type(node.op)], node.right)
        if not is_text(node.left):
            yield node, node.left
        if isinstance(node.op, (ast.Add, ast.Mult)) and not is_sequence(node.left):
            yield node, node.right
    elif isinstance(node, ast.AugAssign):
        if type(node.op) in OTHER_OPERATOR:
            other = OTHER_OPERATOR[type(node.op)]()
            yield node, ast.AugAssign(node.target, other, node.value)
        elif not is_number(node.value) and not is_sequence(node.value):
            yield node, ast.AugAssign(node.target, node.op, ast.Constant(1))


def constant(node, tree):
    """n -> n + 1 for whole numbers, x -> 2 x for others, and True -> False."""
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield node, ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield node, ast.Constant(node.value + 1)
    elif isinstance(node.value, float):
        yield node, ast.Constant(2 * node.value or 1.0)


OTHER_COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
OTHER_NAME = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil"}


def comparison(node, tree):
    """a < b -> a <= b and a > b, a == b -> a != b, min -> max, any -> all, and the reverse."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            for other in OTHER_COMPARISONS[type(operator)]:
                ops = replaced_item(node.ops, i, other())
                yield node, ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in OTHER_NAME:
        yield node, ast.Name(OTHER_NAME[node.id])


def index(node, tree):
    """x[i] -> x[i + 1]. A bound of a slice, of range() or of slice() is moved or dropped."""
    if isinstance(node, ast.Subscript):
        if isinstance(node.slice, ast.Slice):
            bounds = node.slice
            lower, upper, step = bounds.lower, bounds.upper, bounds.step
            variants = [(shifted(lower, 1) if lower else ast.Constant(1), upper, step)]
            variants.append((lower, shifted(upper, -1) if upper else shifted_end(), step))
            variants.append((None, upper, step))
            variants.append((lower, None, step))
            variants.append((lower, upper, None))
            for variant in variants:
                yield node, ast.Subscript(node.value, ast.Slice(*variant), node.ctx)
        elif not is_text(node.slice) and not isinstance(node.slice, ast.Tuple):
            yield node, ast.Subscript(node.value, shifted(node.slice, 1), node.ctx)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        args = node.args
        if node.func.id in ("range", "slice"):
            start = args[0] if len(args) > 1 else ast.Constant(0)
            stop = args[1] if len(args) > 1 else args[0]
            yield node, call_with(node, [shifted(start, 1), stop, *args[2:]])
            yield node, call_with(node, replaced_item(args, len(args[:2]) - 1, shifted(stop, -1)))
            if len(args) > 2:
                yield node, call_with(node, args[:2])
            if node.func.id == "slice" and len(args) > 1:
                yield node, call_with(node, [ast.Constant(None), *args[1:]])
        elif node.func.id == "enumerate" and len(args) == 1:
            yield node, call_with(node, [*args, ast.Constant(1)])


def shifted_end():
    return ast.UnaryOp(ast.USub(), ast.Constant(1))


def loop(node, tree):
    """A loop leaves out the first item, leaves out the last, or ends after its first pass."""
    if isinstance(node, (ast.For, ast.comprehension)):
        items = node.iter
        name = called_name(items) if isinstance(items, ast.Call) else ""
        if name not in ("range", "count", "iter", "cycle"):  # an operator of its own, or endless
            listed = ast.Call(ast.Name("list"), [items], [])
            yield items, ast.Subscript(listed, ast.Slice(ast.Constant(1), None))
            yield items, ast.Subscript(listed, ast.Slice(None, shifted_end()))
    if isinstance(node, (ast.For, ast.While)) and not isinstance(
        node.body[-1], (ast.Break, ast.Return, ast.Raise)
    ):
        body = [*node.body, ast.Break()]
        if isinstance(node, ast.For):
            yield node, ast.For(node.target, node.iter, body, node.orelse, lineno=node.lineno)
        else:
            yield node, ast.While(node.test, body, node.orelse)


def condition(node, tree):
    """if a -> if not a, if True, if False. and -> or, or one of the two conditions is dropped."""
    tests = []
    if isinstance(node, (ast.If, ast.While)):
        tests.append(node.test)
    elif isinstance(node, ast.comprehension):
        tests += node.ifs
    elif isinstance(node, ast.IfExp):
        yield node, node.body
        yield node, node.orelse
    for test in tests:
        if not isinstance(test, (ast.Compare, ast.UnaryOp)):
            yield test, ast.UnaryOp(ast.Not(), test)
        if not isinstance(node, ast.While):  # it would not end
            yield test, ast.Constant(True)
        yield test, ast.Constant(False)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, node.operand
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield node, ast.BoolOp(other, node.values)
        for i in range(len(node.values)):
            rest = replaced_item(node.values, i, None)
            yield node, rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)


# Without these calls a script would only raise, or do the same.
KEPT_CALLS = set(
    "len range enumerate zip isinstance print list tuple dict sum map filter iter next str repr"
    " bytes float open slice Value Counter values items keys encode decode copy pop split".split()
)
# The order of these arguments does not matter, or another break does the same.
UNORDERED_CALLS = {"min", "max", "zip", "isinstance", "range"}
# Of these, the first two arguments can be exchanged without an effect.
SYMMETRIC_CALLS = {"dot", "counted_dot", "add", "multiply"}


def call(node, tree):
    """f(x) -> x, f(x, y) -> y, x.f() -> x. A keyword is dropped. pop() leaves what it returns."""
    if not isinstance(node, ast.Call):
        return
    name, function = called_name(node), node.func
    is_method = isinstance(function, ast.Attribute) and not (
        isinstance(function.value, ast.Name) and function.value.id in tree.modules
    )
    of_a_list = len(node.args) == 1 and name in ("min", "max", "any", "all")
    if name == "pop" and is_method and len(node.args) < 2:
        place = node.args[0] if node.args else shifted_end()
        yield node, ast.Subscript(function.value, place)
    elif isinstance(tree.parents[node], ast.Expr) or name in KEPT_CALLS or of_a_list:
        pass
    elif is_method and not node.args:
        yield node, function.value
    elif not is_method:
        for argument in node.args[:2]:
            if not isinstance(argument, ast.Starred):
                yield node, argument
    for i in range(len(node.keywords)):
        yield node, call_with(node, keywords=replaced_item(node.keywords, i, None))


def order(node, tree):
    """f(a, b) -> f(b, a), (a, b) -> (b, a), (a, a) and (b, b), a - b -> b - a, a / b -> b / a."""
    if isinstance(node, ast.Call) and called_name(node) not in UNORDERED_CALLS:
        start = 1 if called_name(node) in SYMMETRIC_CALLS else 0
        for args in exchanged(node.args[start:]):
            yield node, call_with(node, node.args[:start] + args)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Sub, ast.Div)):
        yield node, binary(node.right, type(node.op), node.left)
    elif isinstance(node, ast.Dict):
        for values in exchanged(node.values):
            yield node, ast.Dict(node.keys, values)
    elif isinstance(node, (ast.Tuple, ast.List)) and isinstance(node.ctx, ast.Load):
        for elements in exchanged(node.elts):
            yield node, type(node)(elements, node.ctx)
        if len(node.elts) == 2 and isinstance(node, ast.Tuple):
            first, second = node.elts
            if not any(isinstance(part, (ast.Starred, ast.Constant)) for part in node.elts):
                yield node, ast.Tuple([first, first], node.ctx)
                yield node, ast.Tuple([second, second], node.ctx)
    elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Store):
        parent = tree.parents[node]
        if isinstance(parent, ast.Assign) and isinstance(parent.value, ast.Tuple):
            return  # the values are exchanged
        if any(isinstance(part, ast.Starred) for part in node.elts):
            return
        for i, elements in enumerate(exchanged(node.elts)):
            if not is_symmetric(parent, node.elts[i], node.elts[i + 1], tree):
                yield node, ast.Tuple(elements, node.ctx)


def exchanged(items):
    """Copies of a list of nodes, in each of which two neighbours have changed places."""
    for i in range(len(items) - 1):
        a, b = items[i], items[i + 1]
        if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred):
            yield [*items[:i], b, a, *items[i + 2 :]]


def is_symmetric(clause, a, b, tree):
    """Whether a comprehension over pairs (a, b) is the same over (b, a), as in a * b for a, b."""
    if not isinstance(clause, ast.comprehension):
        return False
    if not isinstance(a, ast.Name) or not isinstance(b, ast.Name):
        return False
    whole = tree.parents[clause]
    parts = [getattr(whole, field, None) for field in ("elt", "key", "value")] + clause.ifs
    names = {a.id: b.id, b.id: a.id}
    return commuted(parts, {}) == commuted(parts, names)


def commuted(node, names):
    """A text of a node that is the same for a * b and b * a, and for names a and b a + b, b + a.

    Names are replaced by those in `names`.
    """
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, list):
        return str([commuted(item, names) for item in node])
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = [commuted(value, names) for _, value in ast.iter_fields(node)]
    if isinstance(node, ast.BinOp):
        both_names = isinstance(node.left, ast.Name) and isinstance(node.right, ast.Name)
        if isinstance(node.op, ast.Mult) or (isinstance(node.op, ast.Add) and both_names):
            parts.sort()
    return type(node).__name__ + str(parts)


def key(node, tree):
    """model["wq"] -> model["wk"], f("rows") -> f("columns"): another string of this use."""
    if isinstance(node, ast.Subscript) and is_text(node.slice):
        known = []
        for other in ast.walk(tree.function_of(node)):
            if isinstance(other, ast.Subscript) and isinstance(other.slice, type(node.slice)):
                known.append(other)
        known = [o.slice for o in known if ast.unparse(o.value) == ast.unparse(node.value)]
        for other in following(node.slice, known):
            yield node, ast.Subscript(node.value, other, node.ctx)
    elif isinstance(node, ast.Call):
        for i, argument in enumerate(node.args):
            if is_text(argument):
                known = tree.strings[ast.unparse(node.func), i]
                for other in following(argument, known):
                    yield argument, other


def following(node, known):
    """A list with the first different string after `node` among the known ones, if there is one."""
    texts = list(dict.fromkeys(ast.unparse(other) for other in known))
    if len(texts) < 2:
        return []
    place = texts.index(ast.unparse(node))
    return [ast.parse(texts[(place + 1) % len(texts)], mode="eval").body]


def statement(node, tree):
    """A statement is dropped. x += f() -> x = f(), and the call without keeping its result."""
    parent = tree.parents[node]
    if isinstance(node, ast.AugAssign):
        yield node, ast.Pass()
        if not is_number(node.value):
            yield node, ast.Assign([node.target], node.value, lineno=node.lineno)
        if any(isinstance(part, ast.Call) for part in ast.walk(node.value)):
            yield node, ast.Expr(node.value)
    elif isinstance(node, (ast.Expr, ast.Delete, ast.Assert)):
        if not isinstance(getattr(node, "value", None), (ast.Yield, ast.YieldFrom)):
            yield node, ast.Pass()
    elif isinstance(node, (ast.Break, ast.Continue, ast.Return, ast.Raise)):
        if not isinstance(parent, ast.FunctionDef):  # it stands in a branch or a loop
            yield node, ast.Pass()
    elif isinstance(node, ast.Assign):
        target = node.targets[0]
        if isinstance(target, (ast.Subscript, ast.Attribute)) or is_assigned_before(node, tree):
            yield node, ast.Pass()


def is_assigned_before(node, tree):
    """Whether a variable that a statement assigns has a value before, so that dropping it runs."""
    target, function = node.targets[0], tree.function_of(node)
    if not isinstance(target, ast.Name) or not isinstance(function, ast.FunctionDef):
        return False
    for other in ast.walk(function):
        if isinstance(other, ast.arg) and other.arg == target.id:
            return True
        is_stored = isinstance(other, ast.Name) and isinstance(other.ctx, ast.Store)
        if is_stored and other.id == target.id and other.lineno < node.lineno:
            return True
    return False


OPERATORS = (
    sign,
    factor,
    constant,
    comparison,
    index,
    loop,
    condition,
    call,
    order,
    key,
    statement,
)


# === THE BREAKS of a script ===
class Break(NamedTuple):
    """One break: where it is, which operator made it, and what it replaces by what."""

    function: str
    operator: str
    line: int
    old: ast.AST
    new: ast.AST
    description: str


def parts_of(node):
    """All nodes below a node that may be broken, each before what it contains.

    Not among them are docstrings and other strings' insides, annotations, what is printed, and
    the message of an exception.
    """
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "exc", "cause", "ctx"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            printed = child.value if isinstance(child, ast.Expr) else child
            if isinstance(printed, ast.Call) and called_name(printed) == "print":
                continue
            yield child
            if not isinstance(child, ast.JoinedStr):
                yield from parts_of(child)


def find_breaks(functions, tree):
    """All breaks of {qualified name: FunctionDef}, each only once, in the order of the file.

    The functions are nodes of the tree.
    """
    breaks = []
    for name, function in functions.items():
        seen = {ast.unparse(function)}
        for node in parts_of(function):
            for operator in OPERATORS:
                for old, new in operator(node, tree):
                    before, after = describe(operator, old, new, tree)
                    with tree.replaced(old, new):
                        text = ast.unparse(function)
                    if text in seen:
                        continue
                    seen.add(text)
                    line = old.lineno
                    said = f"{name}:{line}: {before} -> {after}"
                    breaks.append(Break(name, operator.__name__, line, old, new, said))
    return breaks


def describe(operator, old, new, tree):
    """What a break changes, before and after: the largest expression around it that is short."""
    if operator is loop and isinstance(old, ast.stmt):
        return one_line(ast.unparse(old).partition("\n")[0]), "ends after the first pass"
    if operator is loop:
        which = "first" if new.slice.lower else "last"
        return cut(f"for ... in {one_line(ast.unparse(old))}", 0), f"without the {which} item"
    shown, fits = old, True
    while fits:
        parent = tree.parents[shown]
        is_part = isinstance(parent, (ast.expr, ast.keyword, ast.comprehension))
        if not is_part and (not isinstance(parent, ast.stmt) or hasattr(parent, "body")):
            break
        fits = len(ast.unparse(parent)) <= WIDTH
        if not fits and len(ast.unparse(shown)) >= WIDTH // 4:
            break
        shown = parent
    before = ast.unparse(shown)
    with tree.replaced(old, new):
        after = ast.unparse(new if shown is old else shown)
    parent = tree.parents[shown]
    if isinstance(parent, (ast.If, ast.While)) and shown is parent.test:
        word = "if" if isinstance(parent, ast.If) else "while"
        before, after = f"{word} {before}", f"{word} {after}"
    before, after = one_line(before), one_line(after)
    if max(len(before), len(after)) <= WIDTH:
        return before, after
    # Of two long texts only the surroundings of the difference are shown.
    common = len(os.path.commonprefix([before, after]))
    start = max(0, common - WIDTH // 2)
    return cut(before, start), cut(after, start)


def one_line(text):
    return " ".join(text.split())


def cut(text, start):
    """At most WIDTH characters of a text, with dots where something is left out."""
    end = start + WIDTH
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def broken_source(source, change, tree):
    """The source with one break in it, as bytes, or None if it would not compile.

    Only the text of the old node is replaced, so that the other lines and the comments stay. Where
    that does not give the broken tree, the whole statement is written anew.
    """
    whole = change.old
    while not isinstance(whole, ast.stmt):
        whole = tree.parents[whole]
    top = change.old
    while tree.parents[top] is not tree.module:
        top = tree.parents[top]
    place = tree.module.body.index(top)
    with tree.replaced(change.old, change.new):
        wanted = ast.unparse(top)
        text = ast.unparse(change.new if whole is change.old else whole)
    attempts = [(whole, text.replace("\n", "\n" + whole.col_offset * " "))]
    if whole is not change.old:
        text = ast.unparse(change.new)
        attempts = [(change.old, text), (change.old, f"({text})"), *attempts]
    for node, text in attempts:
        broken = with_text(source, node, text)
        try:
            module = ast.parse(broken)
            compile(module, "broken", "exec")
        except SyntaxError:
            continue
        if ast.unparse(module.body[place]) == wanted:
            return broken
    return None


def with_text(source, node, text):
    """The source as bytes, with the text of a node replaced. Columns are counted in bytes."""
    lines = source.encode("utf-8").splitlines(keepends=True)
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    return before + text.encode("utf-8") + after


def choose(source, breaks, tree, most, seed):
    """A sample of at most `most` breaks: [(break, broken source)], in the order of the file.

    Every function gets one break, and then a share in proportion to its breaks. Within a function
    the operators take turns, so that none of them fills the sample.
    """
    rng = random.Random(seed)
    waiting = {}  # function: its breaks, the next one last
    for name in dict.fromkeys(change.function for change in breaks):
        turns = []
        for operator in OPERATORS:
            own = [b for b in breaks if (b.function, b.operator) == (name, operator.__name__)]
            rng.shuffle(own)
            turns += enumerate(own)
        rng.shuffle(turns)
        turns.sort(key=lambda turn: turn[0], reverse=True)
        waiting[name] = [change for _, change in turns]
    total = {name: len(own) for name, own in waiting.items()}
    chosen = {name: [] for name in waiting}
    while sum(map(len, chosen.values())) < most and any(waiting.values()):
        name = min(
            (name for name in waiting if waiting[name]),
            key=lambda name: (len(chosen[name]) > 0, len(chosen[name]) / total[name]),
        )
        change = waiting[name].pop()
        broken = broken_source(source, change, tree)
        if broken is not None:
            chosen[name].append((change, broken))
    place = {id(change): i for i, change in enumerate(breaks)}
    sample = [pair for own in chosen.values() for pair in own]
    return sorted(sample, key=lambda pair: place[id(pair[0])])


# === TRYING: the tests in a copy of the repository, with a time limit ===
# What a process of tests does first: it limits its memory and, if told to, its CPU seconds, where
# the system has such limits.
RUN_TESTS = f"""
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_LIMIT}, {MEMORY_LIMIT}))
except (ImportError, OSError, ValueError):
    pass
seconds = int(sys.argv[1])
if seconds:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def time_spent():
    """CPU seconds of all finished child processes, or elapsed seconds where that is not known."""
    if resource is None:
        return time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Workshop:
    """Copies of the repository, one per worker, and the processes at work in them."""

    def __init__(self, name, folder, copies):
        self.script = SCRIPTS[name].relative_to(ROOT)
        self.tests = [f"tests/test_{name}.py"]
        for test in MORE_TESTS.get(name, []):
            if (ROOT / "tests" / test).exists():
                self.tests.append(f"tests/{test}")
        self.free = queue.Queue()
        self.processes = set()
        self.stopped = threading.Event()
        for i in range(copies):
            copy = Path(folder) / str(i)
            ignored = shutil.ignore_patterns(".*", "__pycache__", "venv", "build", "dist")
            shutil.copytree(ROOT, copy, ignore=ignored)
            self.free.put(copy)

    def run(self, broken=None, limit=None):
        """Run the tests on the script, or on a broken one. Return pytest's exit status.

        It is None if the tests have not ended after `limit` seconds, a whole number.
        """
        copy = self.free.get()
        try:
            script = copy / self.script
            right = script.read_bytes()
            if broken is not None:
                script.write_bytes(broken)
            # Two sources of one length, written within a second, would share their bytecode.
            shutil.rmtree(script.parent / "__pycache__", ignore_errors=True)
            try:
                return self.run_tests(copy, limit)
            finally:
                script.write_bytes(right)
        finally:
            self.free.put(copy)

    def run_tests(self, copy, limit):
        options = ["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-m", "not slow and not whole"]
        cpu_limit = limit if limit and resource else 0
        process = subprocess.Popen(
            [sys.executable, "-c", RUN_TESTS, str(cpu_limit), *options, *self.tests],
            cwd=copy,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that it can be ended with all that it has started
        )
        self.processes.add(process)
        try:
            if self.stopped.is_set():
                return None
            status = process.wait(PATIENCE * limit if cpu_limit else limit)
            return None if cpu_limit and status == -signal.SIGXCPU else status
        except subprocess.TimeoutExpired:
            return None
        finally:
            end(process)
            self.processes.discard(process)

    def stop(self):
        """End all processes, and start no more."""
        self.stopped.set()
        for process in list(self.processes):
            end(process)


def end(process):
    """End a process, and on Unix all processes that it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def try_all(name, sample, jobs):
    """Try each (break, broken source) of a sample. Return the breaks by their fate.

    SystemExit, with one line, if the tests fail on the unbroken script or none is selected.
    """
    fates = {"killed": [], "timed out": [], "alive": []}
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        workshop = Workshop(name, folder, jobs)
        started = time_spent()
        status = workshop.run()
        spent = time_spent() - started
        tests = " ".join(workshop.tests)
        if status == 5:
            refuse(f"No quick test is selected for {name} in {tests}. Write one first.")
        if status != 0:
            refuse(f"The quick tests of {name} fail on the unbroken script: mend {tests} first.")
        limit = round(LIMIT_FACTOR * spent + LIMIT_SECONDS)
        say(f"{name}: the tests take {spent:.1f} s; a break is given {limit} s")
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            futures = {
                pool.submit(workshop.run, broken, limit): change for change, broken in sample
            }
            try:
                for i, future in enumerate(concurrent.futures.as_completed(futures), 1):
                    status = future.result()
                    fate = {None: "timed out", 0: "alive"}.get(status, "killed")
                    fates[fate].append(futures[future])
                    said = futures[future].description
                    say(f"[{i:3d}/{len(sample)}] {fate:9}  {said}")
            finally:
                workshop.stop()
                pool.shutdown(cancel_futures=True)
    return fates


def say(line):
    print(line, file=sys.stderr, flush=True)


def refuse(line):
    say(line)
    raise SystemExit(2)


# === MAIN ===
def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", choices=sorted(SCRIPTS), metavar="script", help="microkv, ...")
    parser.add_argument("--list", action="store_true", help="print the breaks, and run nothing")
    parser.add_argument("--only", metavar="FUNCTION", help="break this function or class alone")
    parser.add_argument("--max", type=int, default=MAX_BREAKS, help="size of the sample")
    parser.add_argument("--seed", type=int, default=SEED, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2, help="processes at work at a time")
    args = parser.parse_args()
    if args.max < 1 or args.jobs < 1:
        parser.error("--max and --jobs have to be at least 1")
    source = SCRIPTS[args.script].read_text(encoding="utf-8")
    tree = Tree(source)
    owned = owned_functions(args.script, source, tree.module)
    functions = {
        name: function
        for name, function in owned.items()
        if args.only in (None, name, name.partition(".")[0])
    }
    if not functions:
        parser.error(f"{args.only} is not among what {args.script} owns: {', '.join(owned)}")
    sample = choose(source, find_breaks(functions, tree), tree, args.max, args.seed)
    if args.list:
        for change, _ in sample:
            print(change.description)
        return
    fates = try_all(args.script, sample, args.jobs)
    counts = ", ".join(f"{fate} {len(changes)}" for fate, changes in fates.items())
    print(f"{args.script}: tried {len(sample)}, {counts}")
    for change in sorted(fates["alive"], key=lambda change: change.line):
        print(change.description)
    raise SystemExit(1 if fates["alive"] else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    try:
        main()
    except KeyboardInterrupt:
        say("Interrupted. The copies of the repository are removed.")
        raise SystemExit(130) from None
