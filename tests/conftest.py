"""Run each script once, as many at a time as there are cores, for all the tests that look at it.

A test module `test_<script>.py` gets its script as the fixture `script` (the imported module) and a
finished run of it as `run`. Tests that need the run of a script outside QUICK are marked slow.
"""

import concurrent.futures
import os
from types import SimpleNamespace

import pytest
from harness import QUICK, SCRIPTS, load, parse, python


def script_of(item):
    """The script whose run a test item needs, or None."""
    if "run" not in item.fixturenames:
        return None
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return params.get("name") or item.module.__name__.rpartition("test_")[2]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if script_of(item) not in {None, *QUICK}:
            item.add_marker("slow")


def pytest_collection_finish(session):
    """Start the runs that the selected tests need. They go on while the other tests are at work."""
    session.config.runs = {}
    session.config.pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    if not session.config.option.collectonly:
        for name in dict.fromkeys(filter(None, map(script_of, session.items))):
            session.config.runs[name] = session.config.pool.submit(python, SCRIPTS[name])


def pytest_sessionfinish(session):
    if hasattr(session.config, "pool"):
        session.config.pool.shutdown(cancel_futures=True)


@pytest.fixture
def script(request):
    return load(request.module.__name__.rpartition("test_")[2])


@pytest.fixture
def run(request):
    """stdout, stderr, returncode, metrics and criteria of the one run of this test's script."""
    done = request.config.runs[script_of(request.node)].result()
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stderr}"
    metrics, criteria = parse(done.stdout)
    return SimpleNamespace(
        stdout=done.stdout, stderr=done.stderr, metrics=metrics, criteria=criteria
    )
