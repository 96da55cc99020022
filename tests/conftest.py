"""Run each script once, as many at a time as there are cores, for all the tests that look at it.

A test module `test_<script>.py` gets its script as the fixture `script` (the imported module) and a
finished run of it as `run`. Tests that need the run of a script outside QUICK are marked whole and
slow; those that try a copy of shared code, slow.
"""

import concurrent.futures
import os
import tempfile
from types import SimpleNamespace

import pytest
from harness import QUICK, ROOT, SCRIPTS, load, parse, python


def scripts_of(item):
    """The scripts whose runs a test item needs: that of `run`, or those of its mark `runs`."""
    mark = item.get_closest_marker("runs")
    if "run" not in item.fixturenames:
        return list(mark.args) if mark else []
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return [params.get("name") or item.module.__name__.rpartition("test_")[2]]


def tries_a_copy(item):
    """Whether a test of shared code tries it in another script than the one it is copied from.

    The quick tier tries one of them: test_rules shows that the others are the same code.
    """
    original = {"test_autograd": "microgpt", "test_preference": "microdpo"}.get(
        item.module.__name__
    )
    values = item.callspec.params.values() if hasattr(item, "callspec") else []
    names = [value for value in values if isinstance(value, str) and value in SCRIPTS]
    return original is not None and names not in ([], [original])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        whole = bool(set(scripts_of(item)) - QUICK)
        if whole:
            item.add_marker("whole")
        if whole or tries_a_copy(item):
            item.add_marker("slow")


def pytest_collection_finish(session):
    """Start the runs that the selected tests need. They go on while the other tests are at work."""
    session.config.runs = {}
    session.config.pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    if not session.config.option.collectonly:
        for name in dict.fromkeys(name for item in session.items for name in scripts_of(item)):
            session.config.runs[name] = session.config.pool.submit(python, SCRIPTS[name])
        for item in session.items:
            if "seeded_runs" in item.fixturenames:
                name = item.callspec.params["name"]
                session.config.runs["seeded", name] = [
                    session.config.pool.submit(
                        python, *item.module.short(name), PYTHONHASHSEED=seed, cwd=folder
                    )
                    for seed, folder in (("1", ROOT), ("7", tempfile.gettempdir()))
                ]


def pytest_sessionfinish(session):
    if hasattr(session.config, "pool"):
        session.config.pool.shutdown(cancel_futures=True)


@pytest.fixture
def script(request):
    return load(request.module.__name__.rpartition("test_")[2])


def finished(config, name):
    """stdout, stderr, metrics and criteria of the one run of a script."""
    done = config.runs[name].result()
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stderr}"
    metrics, criteria = parse(done.stdout)
    return SimpleNamespace(
        stdout=done.stdout, stderr=done.stderr, metrics=metrics, criteria=criteria
    )


@pytest.fixture
def run(request):
    return finished(request.config, *scripts_of(request.node))


@pytest.fixture
def runs(request):
    return [finished(request.config, name) for name in scripts_of(request.node)]


@pytest.fixture
def seeded_runs(request, name):
    """Two processes that ran a script, or its first steps, differing in hash seed and folder."""
    return [done.result() for done in request.config.runs["seeded", name]]
