"""What a reader or a user of any script would notice. A new script needs no change here."""

import ast
import inspect
import os
import subprocess

import pytest
from support.scripts import NAMES, SCRIPTS, command, environment, load, python

ALLOWED_IMPORTS = set(
    "os math random json struct urllib collections itertools functools string hashlib time".split()
)
each_script = pytest.mark.parametrize("name", SCRIPTS)


@each_script
def test_imports_only_what_is_allowed(name):
    for node in ast.walk(ast.parse(SCRIPTS[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module.split(".")[0] in ALLOWED_IMPORTS
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "exec", "eval", "input")


@each_script
def test_importing_does_nothing(name, tmp_path):
    code = f"""
        import importlib.util, random, sys
        opened = []
        sys.addaudithook(lambda event, args: event == "open" and opened.append(args[:2]))
        state = random.getstate()
        spec = importlib.util.spec_from_file_location("script", {str(SCRIPTS[name])!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert random.getstate() == state, "it used the random stream"
        allowed = (".py", ".pyc", ".so", ".pyd", ".zip", ".cfg")
        stray = [a for a in opened if not str(a[0]).endswith(allowed) or a[1] not in ("r", "rb")]
        assert not stray, stray
    """
    done = python("-c", inspect.cleandoc(code))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(os.name == "nt", reason="Python on Windows reports a closed pipe differently")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_closed_pipe_ends_the_run_quietly(name):
    """As in `python script.py | head -n 1`: the reader goes away after the first line."""
    process = subprocess.Popen(
        command(SCRIPTS[name]),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline().strip()
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=120), stderr) == (0, b"")


def test_the_shipped_names_are_the_described_ones():
    names = load("microgpt").load_names()
    assert NAMES.read_text(encoding="ascii").split() == names
    assert len(names) == 32178
    assert len(names) - len(set(names)) == 2559
    assert names[:3] == ["emma", "olivia", "ava"]
    assert set("".join(names)) == set("abcdefghijklmnopqrstuvwxyz")
    assert max(map(len, names)) == 15
