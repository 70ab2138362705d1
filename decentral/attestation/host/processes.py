"""Which code a process of this machine runs, as the kernel tells it: whoever is measured is not asked.

That is what a simulation has in place of memory which the host cannot write. It keeps one node from naming another's
measurement; it does not keep the machine's owner from anything, and a process can write over its own command line.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from decentral import locate
from decentral.errors import UserError

PROC = Path("/proc")
PACKAGE = "decentral"
LOADED = frozenset({"LD_PRELOAD", "LD_AUDIT", "PYTHONHOME", "PYTHONSTARTUP"})
"""Of an environment: other code than that of the interpreter and its packages."""
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Running:
    """A process: its number and when it started (clock ticks since boot), which together nobody else ever has.

    `interpreter`: the program file; `package`: the folder of `decentral` that it imports; `nodes`: its programs;
    `program`: what it was started to run, a file or `-m` and a module; empty: something else.
    """

    pid: int
    started: int
    interpreter: Path
    package: Path
    nodes: Path
    program: str = ""


def caller(connection: socket.socket) -> int:
    """The process at the other end of a Unix socket. Raises UserError on a system that does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise UserError("this system does not tell which process asks for a quote; a simulation needs Linux")
    pid, _, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid)


def running(pid: int) -> Running:
    """What a process runs. Raises UserError where it is gone, or runs nothing that could be measured."""
    folder = PROC / str(pid)
    try:
        started = _started(folder)
        interpreter = (folder / "exe").resolve(strict=True)
        arguments = _strings(folder / "cmdline")
        environment = dict(each.partition("=")[::2] for each in _strings(folder / "environ"))
        where = (folder / "cwd").resolve(strict=True)
        if not arguments:
            raise ValueError("it has not begun, or has ended")
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"process {pid}: what it runs cannot be read ({error})") from error
    if interpreter != Path(sys.executable).resolve():
        raise UserError(f"process {pid}: {interpreter} is another interpreter, and what it imports is not known")
    flags, rest = _options(arguments)
    package, nodes = _imported(_import_path(flags, rest, environment, where))
    loaded = sorted(LOADED & environment.keys())
    return Running(pid, started, interpreter, package, nodes, "" if loaded else _program(rest, where))


def node(pid: int) -> Running:
    """The same of a process that runs a program of ours, which is all that is measured of what it does.

    Raises UserError for others, and for one into which other code was loaded.
    """
    found = running(pid)
    if found.program.startswith("-m ") and found.program.split()[1].split(".")[0] == PACKAGE:
        return found
    file = Path(found.program)
    console = file.name == PACKAGE and file.parent == Path(sys.executable).parent
    if found.program and (file.parent == found.nodes.resolve() or console):
        return found
    raise UserError(f"process {pid}: runs {found.program or 'something else'}, which is no program of {PACKAGE}")


def startable() -> Running:
    """What a node would run that this process starts: with its interpreter, `-P` and its environment, as launchers do.

    Raises UserError where that could not be measured.
    """
    interpreter = Path(sys.executable).resolve()
    paths = _import_path("P", [], dict(os.environ), Path.cwd())
    return Running(0, 0, interpreter, *_imported(paths))


def _imported(paths: list[Path]) -> tuple[Path, Path]:
    """The package that is found first, or this one, and its programs. Raises UserError."""
    for path in paths:
        if (path / PACKAGE / "__init__.py").is_file():
            return path / PACKAGE, _nodes_of(path / PACKAGE)
    return locate.PACKAGE, locate.folder("nodes")


def is_running(pid: int, started: int) -> bool:
    """Whether that very process is still there."""
    try:
        return _started(PROC / str(pid)) == started
    except (OSError, ValueError, IndexError):
        return False


def _started(folder: Path) -> int:
    return int((folder / "stat").read_text().rpartition(")")[2].split()[19])


def _strings(file: Path) -> list[str]:
    return [os.fsdecode(each) for each in file.read_bytes().split(b"\0") if each]


def _options(arguments: list[str]) -> tuple[str, list[str]]:
    """The interpreter's own flags, and the rest of its arguments."""
    flags, rest = "", arguments[1:]
    while rest and rest[0].startswith("-") and rest[0] not in ("-m", "-c", "-"):
        flags, rest = flags + rest[0][1:], rest[1:]
        if flags.endswith(("W", "X")) and rest:
            rest = rest[1:]
    return flags, rest


def _program(rest: list[str], where: Path) -> str:
    if rest and not rest[0].startswith("-"):
        return str((where / rest[0]).resolve())
    return f"-m {rest[1]}" if len(rest) > 1 and rest[0] == "-m" else ""


def _import_path(flags: str, rest: list[str], environment: dict[str, str], where: Path) -> list[Path]:
    """Where an interpreter looks before its own packages, with these arguments (sys.path as Python documents it)."""
    found: list[Path] = []
    if "P" not in flags and "I" not in flags and "PYTHONSAFEPATH" not in environment:
        script = bool(rest) and not rest[0].startswith("-")
        found.append((where / rest[0]).resolve().parent if script else where)
    if "E" not in flags and "I" not in flags:
        found += [where / each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    return found


def _nodes_of(package: Path) -> Path:
    """Raises UserError."""
    for nodes in (package / "_data" / "nodes", package.parent / "nodes"):
        if nodes.is_dir():
            return nodes
    raise UserError(f"{package}: there are no programs of nodes beside it, or in it")
