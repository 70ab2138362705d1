"""What the kernel says of a process, whatever the process says of itself."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from decentral import locate
from decentral.attestation.host.processes import caller, is_running, node, running, startable
from decentral.errors import UserError

WAIT = "import sys; print(flush=True); sys.stdin.read()"


@contextmanager
def process(*command: str, **environment: str) -> Iterator[int]:
    """A child that has begun, and says so by a line."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    where, pipe = locate.PACKAGE / "core", subprocess.PIPE
    with subprocess.Popen(command, env={**kept, **environment}, cwd=where, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid


def python(*arguments: str, **environment: str) -> AbstractContextManager[int]:
    return process(sys.executable, *arguments, **environment)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another copy of the package, with a program beside it."""
    (tmp_path / "decentral").mkdir()
    (tmp_path / "decentral" / "__init__.py").write_text("")
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "wait.py").write_text(WAIT)
    return tmp_path


def test_a_process_runs_the_package_that_its_interpreter_finds_first(other: Path) -> None:
    with python("-P", "-c", WAIT, PYTHONPATH=str(other)) as pid:
        found = running(pid)
    assert (found.package, found.nodes) == (other / "decentral", other / "nodes")
    assert found.interpreter == Path(sys.executable).resolve()


INSTALLED: list[Sequence[str]] = [
    ("-P", "-c", WAIT),
    ("-I", "-c", WAIT),
    ("-E", "-P", "-c", WAIT),
    ("-X", "utf8", "-P", "-c", WAIT),
]


@pytest.mark.parametrize("arguments", INSTALLED, ids=lambda given: " ".join(given[:-2]))
def test_one_that_finds_no_other_runs_the_installed_package(arguments: Sequence[str], other: Path) -> None:
    path = str(other) if {"-I", "-E"} & set(arguments) else ""
    with python(*arguments, PYTHONPATH=path) as pid:
        assert running(pid).package == locate.PACKAGE


def test_a_program_beside_a_package_imports_the_one_of_its_own_folder(other: Path) -> None:
    shutil.copy(other / "nodes" / "wait.py", other / "wait.py")
    with python(str(other / "wait.py")) as pid:
        assert running(pid).package == other / "decentral"


def test_what_a_process_says_of_itself_later_does_not_count(other: Path) -> None:
    with python("-P", "-c", f"import os, sys; os.environ['PYTHONPATH'] = {str(other)!r}; {WAIT}") as pid:
        assert running(pid).package == locate.PACKAGE


def test_two_processes_are_never_taken_for_one() -> None:
    with python("-P", "-c", WAIT) as one, python("-P", "-c", WAIT) as another:
        first, second = running(one), running(another)
        assert (first.pid, first.started) == (running(one).pid, running(one).started)
    assert (first.pid, first.started) != (second.pid, second.started)


def test_one_that_is_gone_runs_nothing() -> None:
    with python("-P", "-c", WAIT) as pid:
        pass
    with pytest.raises(UserError, match="cannot be read"):
        running(pid)


def test_another_interpreter_runs_nobody_knows_what() -> None:
    with process("sh", "-c", "echo; read line") as pid, pytest.raises(UserError, match="another interpreter"):
        running(pid)


def test_a_package_without_programs_cannot_be_measured(other: Path) -> None:
    shutil.rmtree(other / "nodes")
    with python("-P", "-c", WAIT, PYTHONPATH=str(other)) as pid, pytest.raises(UserError, match="no programs"):
        running(pid)


def test_the_other_end_of_a_socket_is_who_the_kernel_says_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    one, another = socket.socketpair(socket.AF_UNIX)
    with one, another:
        assert caller(one) == os.getpid()
        monkeypatch.delattr(socket, "SO_PEERCRED")
        with pytest.raises(UserError, match="needs Linux"):
            caller(one)


def test_what_can_be_started_is_what_runs_once_it_is_started(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, package in ((str(other), other / "decentral"), ("", locate.PACKAGE)):
        monkeypatch.setenv("PYTHONPATH", path)
        with process(sys.executable, "-P", "-c", WAIT, PYTHONPATH=path) as pid:
            found, before = running(pid), startable()
        assert (found.interpreter, found.package, found.nodes) == (before.interpreter, before.package, before.nodes)
        assert before.package == package


PROGRAMS: dict[str, Sequence[str]] = {
    "a program of nodes": ("{copy}/nodes/wait.py",),
    "a module of the package": ("-P", "-m", "decentral.wait"),
}
OTHERS: dict[str, Sequence[str]] = {
    "another file": ("{copy}/other.py",),
    "a file called as one of nodes": ("{copy}/elsewhere/wait.py",),
    "words": ("-P", "-c", WAIT),
    "another module": ("-P", "-m", "elsewhere.wait"),
}


@pytest.mark.parametrize("arguments", PROGRAMS.values(), ids=PROGRAMS)
def test_a_node_runs_a_program_of_ours(arguments: Sequence[str], other: Path) -> None:
    (other / "decentral" / "wait.py").write_text(WAIT)
    with python(*(each.format(copy=other) for each in arguments), PYTHONPATH=str(other)) as pid:
        assert node(pid).package == other / "decentral"
    with (
        python(*(each.format(copy=other) for each in arguments), PYTHONPATH=str(other), PYTHONSTARTUP="x.py") as pid,
        pytest.raises(UserError, match="no program"),
    ):
        node(pid)


@pytest.mark.parametrize("arguments", OTHERS.values(), ids=OTHERS)
def test_others_are_nobodys_node(arguments: Sequence[str], other: Path) -> None:
    (other / "elsewhere").mkdir()
    for file in (other / "other.py", other / "elsewhere" / "wait.py"):
        file.write_text(WAIT)
    (other / "elsewhere" / "__init__.py").write_text("")
    with (
        python(*(each.format(copy=other) for each in arguments), PYTHONPATH=str(other)) as pid,
        pytest.raises(UserError, match="no program of decentral"),
    ):
        node(pid)


def test_a_process_is_running_until_it_has_ended() -> None:
    with python("-P", "-c", WAIT) as pid:
        started = running(pid).started
        assert is_running(pid, started)
        assert not is_running(pid, started + 1)
    assert not is_running(pid, started)
