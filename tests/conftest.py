"""Run each script once, for all the tests that look at its run.

`test_<script>.py` gets its script as the fixture `script`, the imported module. A test that asks
for `run` gets one finished run of a script: of the script that the file is named after, or of the
parameter `name`. The runs start when the tests have been collected, two at a time, and go on while
other tests are at work.

Marks: `whole` is a test that needs a whole run. `slow` is a test that the quick tier leaves out,
because it needs the run of a script that takes more than a few seconds, or takes long itself.
"""

import concurrent.futures
import os
import tempfile
from types import SimpleNamespace

import pytest
from support.scripts import (
    QUICK,
    ROOT,
    SCRIPTS,
    first_lines,
    load,
    parse,
    python,
    script_of,
)

FIRST_LINES = 20  # of a second run


def runs_of(item):
    """The scripts whose runs a test needs: that of `run`, or those of its mark `runs`."""
    mark = item.get_closest_marker("runs")
    if mark:
        return list(mark.args)
    if "run" not in item.fixturenames and "second_run" not in item.fixturenames:
        return []
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return [params.get("name") or script_of(item.path)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        names = runs_of(item)
        if names:
            item.add_marker("whole")
        if set(names) - QUICK:
            item.add_marker("slow")
    items.sort(key=lambda item: bool(runs_of(item)))  # what needs no run does not wait for one


def pytest_collection_finish(session):
    """Start the runs that the selected tests need."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    session.config.pool, session.config.runs = pool, {}
    if session.config.option.collectonly:
        return
    for name in dict.fromkeys(name for item in session.items for name in runs_of(item)):
        session.config.runs[name] = pool.submit(
            python, SCRIPTS[name], cwd=tempfile.gettempdir(), PYTHONHASHSEED="1"
        )
    for item in session.items:
        if "second_run" in item.fixturenames:
            name = item.callspec.params["name"]
            session.config.runs["second", name] = pool.submit(
                first_lines, FIRST_LINES, SCRIPTS[name], cwd=ROOT, PYTHONHASHSEED="7"
            )


def pytest_sessionfinish(session):
    if hasattr(session.config, "pool"):
        session.config.pool.shutdown(cancel_futures=True)


@pytest.fixture
def script(request):
    return load(script_of(request.path))


def finished(config, name):
    """One finished run: stdout, stderr, metrics, criteria. It fails the test if it ended badly."""
    done = config.runs[name].result()
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stderr}"
    metrics, criteria = parse(done.stdout)
    return SimpleNamespace(
        stdout=done.stdout, stderr=done.stderr, metrics=metrics, criteria=criteria
    )


@pytest.fixture
def run(request):
    return finished(request.config, *runs_of(request.node))


@pytest.fixture
def runs(request):
    return [finished(request.config, name) for name in runs_of(request.node)]


@pytest.fixture
def second_run(request, name):
    """The first lines of another process, which differs in its hash seed and its folder."""
    return request.config.runs["second", name].result()
