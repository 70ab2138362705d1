"""Every child runs its script as a process of its own, is announced when it ends, and never outlives the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE = 60.0


class Server:
    """The fork server with its requests and replies."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "decentral.launch.forkserver"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self.reply()["ready"] == self.process.pid

    def ask(self, **request: object) -> None:
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def reply(self) -> dict:
        return json.loads(self.process.stdout.readline())

    def fork(self, script: Path, *arguments: str, log: Path) -> int:
        self.ask(fork=[str(script), *arguments], log=str(log))
        return self.reply()["pid"]


@pytest.fixture(scope="module")
def server():
    started = Server()
    yield started
    started.process.stdin.close()
    assert started.process.wait(PATIENCE) == 0


def script(folder: Path, body: str) -> Path:
    file = folder / "child.py"
    file.write_text(body)
    return file


def gone(pid: int) -> bool:
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_a_script_runs_as_main_with_its_arguments_and_its_output_in_the_log(server, tmp_path):
    file = script(tmp_path, "import sys\nprint(__name__, sys.argv[1:], 'torch' in sys.modules)\nsys.exit(3)")
    pid = server.fork(file, "a", "b", log=tmp_path / "log.txt")
    assert server.reply() == {"exited": pid, "code": 3}
    assert (tmp_path / "log.txt").read_text() == "__main__ ['a', 'b'] True\n"


def test_an_exception_ends_the_child_alone_and_is_in_its_log(server, tmp_path):
    pid = server.fork(script(tmp_path, "raise ValueError('mine')"), log=tmp_path / "log.txt")
    assert server.reply() == {"exited": pid, "code": 1}
    assert "ValueError: mine" in (tmp_path / "log.txt").read_text()


def test_a_killed_child_is_announced_with_its_signal(server, tmp_path):
    pid = server.fork(script(tmp_path, "import time\ntime.sleep(60)"), log=tmp_path / "log.txt")
    os.kill(pid, signal.SIGKILL)
    assert server.reply() == {"exited": pid, "code": -signal.SIGKILL}


def test_torch_trains_and_threads_start_in_a_child(server, tmp_path):
    body = """
import threading, torch
x = torch.ones(64, 64)
thread = threading.Thread(target=lambda: print((x @ x).sum().item()))
thread.start()
thread.join()
"""
    pid = server.fork(script(tmp_path, body), log=tmp_path / "log.txt")
    assert server.reply() == {"exited": pid, "code": 0}
    assert (tmp_path / "log.txt").read_text() == f"{64.0**3}\n"


@pytest.mark.parametrize("end", ["its requests end", "it is killed"])
def test_children_end_with_the_server(tmp_path, end):
    own = Server()
    pid = own.fork(script(tmp_path, "import time\ntime.sleep(600)"), log=tmp_path / "log.txt")
    if end == "it is killed":
        own.process.kill()
    else:
        own.process.stdin.close()
    own.process.wait(PATIENCE)
    assert gone(pid)


def test_more_modules_are_imported_before_the_first_fork(tmp_path):
    command = [sys.executable, "-P", "-m", "decentral.launch.forkserver", "colorsys"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert json.loads(process.stdout.readline())["ready"] == process.pid
        body = "import sys\nsys.exit(0 if 'colorsys' in sys.modules else 3)\n"
        request = {"fork": [str(script(tmp_path, body))], "log": str(tmp_path / "log")}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        pid = json.loads(process.stdout.readline())["pid"]
        assert json.loads(process.stdout.readline()) == {"exited": pid, "code": 0}
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
