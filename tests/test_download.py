"""What load_names() does where something is missing, broken, or in its way.

It is the same code in every script, so microgpt's copy is tried: as a single file in an empty
folder, in a process of its own, against a server of the test's own.
"""

import hashlib
import inspect
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time

import pytest
from support.scripts import NAMES, ROOT, SCRIPTS, command, environment

SCRIPT = SCRIPTS["microgpt"]
RAW = NAMES.read_bytes()
# Loads the names from the test's server. The timeout is checked, then shortened.
CODE = """
    import functools, signal, sys, urllib.request
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    sys.path.insert(0, {folder!r})
    import microgpt as script
    script.NAMES_URL, script.NAMES_SHA256 = {url!r}, {sha256!r}
    real = urllib.request.urlopen
    def urlopen(url, timeout):
        assert url == {url!r} and timeout == 10
        return real(url, timeout={timeout})
    urllib.request.urlopen = urlopen
    {before}
    print(len(script.load_names()), "names")
"""
# As on a read-only file system, where root may not write either.
READ_ONLY = """
    import os, signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)
    def refuse(event, args):
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(13, "read-only", str(args[0]))
    sys.addaudithook(refuse)
"""


@pytest.fixture
def serve():
    """serve(answer) -> URL of a server that hands each connection's request to answer(socket)."""
    servers = []

    def start(answer):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.recv(4096)
                answer(self.request)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/names.txt"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def http(body, status="200 OK", length=None):
    """An answer that sends `body`, and claims `length` bytes of it."""
    head = f"HTTP/1.0 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    return lambda connection: connection.sendall(head.encode() + body)


@pytest.fixture
def folder(tmp_path):
    """An empty folder with the script in it and nothing else."""
    (tmp_path / "alone").mkdir()
    shutil.copy(SCRIPT, tmp_path / "alone")
    return tmp_path / "alone"


def start_load(folder, url="http://127.0.0.1:1/", body=RAW, before="", timeout=0.4):
    code = inspect.cleandoc(CODE).format(
        folder=str(folder),
        timeout=timeout,
        url=url,
        sha256=hashlib.sha256(body).hexdigest(),
        before=inspect.cleandoc(before),
    )
    return start("-c", code, PYTHONPATH="", no_proxy="*")


def start(*args, **changes):
    """A Python process, with pipes for what it says."""
    return subprocess.Popen(
        command(*args),
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def load_names(folder, *args, **kwargs):
    """(exit status, stdout, stderr) of loading the names there."""
    process = start_load(folder, *args, **kwargs)
    stdout, stderr = process.communicate(timeout=30)
    return process.returncode, stdout, stderr


def assert_refused(result, folder, *words):
    """One line that says what failed and what to do, exit status 1, and nothing left behind."""
    status, stdout, stderr = result
    assert (status, stdout) == (1, "")
    assert stderr.count("\n") == 1, stderr
    for word in (*words, "Put an ASCII text file of names", str(folder / "names.txt")):
        assert word in stderr, stderr


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".py")


def test_a_good_file_is_kept_and_read_from_then_on(folder, serve):
    assert load_names(folder, serve(http(RAW))) == (0, "32178 names\n", "")
    assert left_behind(folder) == ["names.txt"]
    assert (folder / "names.txt").read_bytes() == RAW
    assert load_names(folder, "http://127.0.0.1:1/") == (0, "32178 names\n", "")  # nobody there


def test_a_clone_reads_the_shipped_file(tmp_path):
    for name in ("01-foundations", "03-systems"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "01-foundations" / "names.txt", tmp_path / "01-foundations")
    shutil.copy(SCRIPT, tmp_path / "03-systems")
    assert load_names(tmp_path / "03-systems") == (0, "32178 names\n", "")
    assert left_behind(tmp_path / "03-systems") == []


def test_a_file_beside_the_script_comes_first(tmp_path, folder):
    (tmp_path / "01-foundations").mkdir()
    (tmp_path / "01-foundations" / "names.txt").write_bytes(RAW)
    (folder / "names.txt").write_bytes(b"\r\n".join(RAW.split()[:12000]) + b"\r\n\r\n")
    assert load_names(folder) == (0, "12000 names\n", "")


def test_wrong_hash(folder, serve):
    result = load_names(folder, serve(http(RAW + b"mallory\n")))
    assert_refused(result, folder, "SHA-256")
    assert left_behind(folder) == []


def test_truncated(folder, serve):
    result = load_names(folder, serve(http(RAW[:1000], length=len(RAW))))
    assert_refused(result, folder)
    assert left_behind(folder) == []


def test_404(folder, serve):
    result = load_names(folder, serve(http(b"not here", "404 Not Found")))
    assert_refused(result, folder, "404")
    assert left_behind(folder) == []


def test_refused_connection(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/names.txt"
    assert_refused(load_names(folder, url), folder, "refused")
    assert left_behind(folder) == []


@pytest.mark.slow
def test_a_server_that_never_answers(folder, serve):
    never = threading.Event()
    result = load_names(folder, serve(lambda connection: never.wait(20)))
    never.set()
    assert_refused(result, folder, "timed out")
    assert left_behind(folder) == []


@pytest.mark.slow
def test_a_server_that_stops_in_the_middle(folder, serve):
    never = threading.Event()

    def answer(connection):
        http(RAW[:1000], length=len(RAW))(connection)
        never.wait(20)

    result = load_names(folder, serve(answer))
    never.set()
    assert_refused(result, folder, "timed out")
    assert left_behind(folder) == []


def test_a_server_that_does_not_speak_http(folder, serve):
    result = load_names(folder, serve(lambda connection: connection.sendall(b"220 smtp\r\n")))
    assert_refused(result, folder)
    assert left_behind(folder) == []


def test_at_most_five_megabytes_are_read(folder, serve):
    result = load_names(folder, serve(http(b"a" * 6_000_000)), body=b"a" * 6_000_000)
    assert_refused(result, folder, "SHA-256")


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(folder, serve):
    # Gone, since root may write into a read-only folder.
    gone = f"import shutil; shutil.rmtree({str(folder)!r})"
    status, stdout, stderr = load_names(folder, serve(http(RAW)), before=gone)
    assert (status, stderr) == (0, "")
    first, second = stdout.splitlines()
    assert "could not be kept" in first
    assert second == "32178 names"


def test_a_failed_or_interrupted_move_leaves_nothing(folder, serve):
    for error, status in (("OSError('disk full')", 0), ("KeyboardInterrupt", 1)):
        before = f"script.os.replace = lambda a, b: (_ for _ in ()).throw({error})"
        result = load_names(folder, serve(http(RAW)), before=before)
        assert (result[0] == 0) == (status == 0)
        assert left_behind(folder) == []


def test_no_two_runs_share_a_temporary_file(folder, serve):
    before = "script.os.replace = lambda temporary, path: print(temporary)"
    runs = [load_names(folder, serve(http(RAW)), before=before) for _ in range(2)]
    assert runs[0][1].splitlines()[0] != runs[1][1].splitlines()[0]


@pytest.mark.slow
def test_four_runs_at_once_on_an_empty_cache(folder, serve):
    url = serve(http(RAW))
    runs = [start_load(folder, url) for _ in range(4)]
    assert [run.communicate(timeout=30) for run in runs] == [("32178 names\n", "")] * 4
    assert left_behind(folder) == ["names.txt"]
    assert (folder / "names.txt").read_bytes() == RAW


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "fewer than 10000"),
        (b"\n \n", "fewer than 10000"),
        (b"emma\nolivia\n" * 10000, "fewer than 10000"),
        (RAW + "zoë\n".encode(), "ascii"),
        (b"\xef\xbb\xbf" + RAW, "ascii"),
        (RAW.decode().encode("utf-16"), "ascii"),
    ],
    ids=["empty", "blank", "two names", "not ASCII", "byte order mark", "UTF-16"],
)
def test_a_cache_that_cannot_be_used(folder, content, word):
    (folder / "names.txt").write_bytes(content)
    assert_refused(load_names(folder), folder, word)
    assert (folder / "names.txt").read_bytes() == content  # it may be somebody's work


def test_a_cache_that_is_a_folder(folder):
    (folder / "names.txt").mkdir()
    assert_refused(load_names(folder), folder)


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to send")
def test_an_interrupted_download_leaves_nothing(folder, serve):
    asked, never = threading.Event(), threading.Event()

    def answer(connection):
        http(RAW[:1000], length=len(RAW))(connection)
        asked.set()
        never.wait(20)

    process = start_load(folder, serve(answer), timeout=20)
    assert asked.wait(20)
    time.sleep(0.2)  # it is reading now, and will wait for the rest
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    never.set()
    assert process.returncode != 0
    assert left_behind(folder) == []


@pytest.mark.slow
def test_a_download_in_a_read_only_folder(folder, serve):
    status, stdout, stderr = load_names(folder, serve(http(RAW)), before=READ_ONLY)
    assert (status, stderr) == (0, "")
    first, second = stdout.splitlines()
    assert "could not be kept" in first
    assert second == "32178 names"
    assert left_behind(folder) == []


def test_a_run_alone_and_without_network(folder):
    process = start(folder / SCRIPT.name)
    stdout, stderr = process.communicate(timeout=30)
    assert_refused((process.returncode, stdout, stderr), folder, "offline")
    assert left_behind(folder) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to send")
def test_an_interrupted_run_in_a_read_only_folder_leaves_nothing(folder):
    """The run needs to write nowhere. It starts to work, and then somebody presses Ctrl-C."""
    (folder / "names.txt").write_bytes(RAW)
    main = f"import runpy\nrunpy.run_path({str(folder / SCRIPT.name)!r}, run_name='__main__')"
    process = start("-c", f"{inspect.cleandoc(READ_ONLY)}\n{main}")
    assert process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert stderr.rstrip().endswith("KeyboardInterrupt"), stderr
    assert left_behind(folder) == ["names.txt"]
    assert (folder / "names.txt").read_bytes() == RAW
