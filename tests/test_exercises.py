"""Every exercise of docs/exercises.md applies to its script, and every rebuild has a test."""

import inspect
import re

import exercises
import pytest
from support.scripts import ROOT, SCRIPTS, load_file

TEXT = exercises.DOCUMENT.read_text(encoding="utf-8")
ALL = exercises.parse_exercises(TEXT)


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_every_edit_applies_and_starts_from_the_transcript(exercise):
    source = exercise.edited()
    assert source != SCRIPTS[exercise.script].read_text(encoding="utf-8")
    compile(source, exercise.name, "exec")
    before = exercises.of_script(exercise)
    assert [(result, before[result]) for result, _, _ in exercise.rows] == [
        row[:2] for row in exercise.rows
    ]
    assert any(old != new for _, old, new in exercise.rows), "nothing moves"


def test_names_are_unique():
    names = [exercise.name for exercise in ALL]
    assert len(set(names)) == len(names)


# The command, on a made-up exercise

TOY = """
### toy1: a title

In [`microtoy`](microtoy.py):

```python
x = 1
```

```python
x = 2
```

| result | script | edited |
| --- | --- | --- |
| `loss` | 1 | 0 |
"""
SCRIPT = "x = 1\nprint(f'\\n=== results ===\\nloss    {x}   < 9\\nruntime_seconds  1.0')\n"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "microtoy.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "microtoy.txt").write_text("\n=== results ===\nloss    1   < 9\n", encoding="utf-8")
    (tmp_path / "exercises.md").write_text(TOY, encoding="utf-8")
    monkeypatch.setattr(exercises, "SCRIPTS", {"microtoy": tmp_path / "microtoy.py"})
    monkeypatch.setattr(exercises, "TRANSCRIPTS", tmp_path)
    monkeypatch.setattr(exercises, "DOCUMENT", tmp_path / "exercises.md")
    return tmp_path


def test_a_wrong_figure_is_found_and_written(toy, capsys):
    assert exercises.main([]) == 1
    assert "toy1: differs" in capsys.readouterr().out
    assert exercises.main(["--write"]) == 0
    assert "| `loss` | 1 | 2 |" in (toy / "exercises.md").read_text(encoding="utf-8")
    assert exercises.main(["microtoy"]) == 0
    assert "toy1: as written" in capsys.readouterr().out


def test_an_edit_that_does_not_apply_is_said(toy):
    (toy / "exercises.md").write_text(TOY.replace("x = 1\n", "y = 1\n"), encoding="utf-8")
    with pytest.raises(SystemExit, match=re.escape("toy1: 0 places have 'y = 1'")):
        exercises.main([])


@pytest.mark.parametrize("missing", ["[`microtoy`]", "| `loss` | 1 | 0 |", "```python\nx = 2\n```"])
def test_an_incomplete_exercise_is_said(toy, missing):
    (toy / "exercises.md").write_text(TOY.replace(missing, ""), encoding="utf-8")
    with pytest.raises(SystemExit, match="toy1 needs"):
        exercises.main([])


# Rebuilding: each test of the table fails while the body of its function is missing

REBUILDS = re.findall(r"(?m)^\| (micro\w+) \| `(\w+)` \| `(test_\w+)` \|$", TEXT)


def first_parameters(test):
    """The arguments of the first case of a parametrized test: {name: value}."""
    arguments = {}
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = mark.args[0]
            names = names.replace(",", " ").split() if isinstance(names, str) else list(names)
            case = list(mark.args[1])[0]
            values = case.values if hasattr(case, "values") and not isinstance(case, dict) else case
            arguments |= dict(zip(names, values if len(names) > 1 else [values]))
    return arguments


def run_test(name, test_name, script, monkeypatch):
    """Run one test of tests/test_<name>.py, in its first case, on this module."""
    module = load_file(ROOT / "tests" / f"test_{name}.py")
    test = getattr(module, test_name)
    known = {"script": script, "monkeypatch": monkeypatch, **first_parameters(test)}

    def arguments(function):
        return {
            parameter: argument(parameter) for parameter in inspect.signature(function).parameters
        }

    def argument(parameter):
        if parameter not in known:  # a fixture of the test's own module
            fixture = inspect.unwrap(getattr(module, parameter))
            known[parameter] = fixture(**arguments(fixture))
        return known[parameter]

    test(**arguments(test))


def test_every_script_has_two_functions_to_rebuild():
    names = [name for name, _, _ in REBUILDS]
    assert {name: names.count(name) for name in names} == dict.fromkeys(SCRIPTS, 2)


def emptied(*arguments, **options):
    """What a function is without its body."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_empty_body_is_noticed(name, monkeypatch):
    for function, test_name in [row[1:] for row in REBUILDS if row[0] == name]:
        script = load_file(SCRIPTS[name])
        run_test(name, test_name, script, monkeypatch)  # it passes as the function is
        assert callable(getattr(script, function))
        setattr(script, function, emptied)
        with pytest.raises((AssertionError, TypeError, AttributeError, ValueError, LookupError)):
            run_test(name, test_name, script, monkeypatch)
