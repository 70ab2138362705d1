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
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Running:
    """A process: its number and when it started (clock ticks since boot), which together nobody else ever has.

    `interpreter`: the program file; `package`: the folder of `decentral` that it imports; `nodes`: its programs.
    """

    pid: int
    started: int
    interpreter: Path
    package: Path
    nodes: Path


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
        started = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
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
    return Running(pid, started, interpreter, *_imported(_import_path(arguments, environment, where)))


def startable() -> Running:
    """What a node would run that this process starts: with its interpreter, `-P` and its environment, as launchers do.

    Raises UserError where that could not be measured.
    """
    interpreter = Path(sys.executable).resolve()
    paths = _import_path([str(interpreter), "-P"], dict(os.environ), Path.cwd())
    return Running(0, 0, interpreter, *_imported(paths))


def _imported(paths: list[Path]) -> tuple[Path, Path]:
    """The package that is found first, or this one, and its programs. Raises UserError."""
    for path in paths:
        if (path / PACKAGE / "__init__.py").is_file():
            return path / PACKAGE, _nodes_of(path / PACKAGE)
    return locate.PACKAGE, locate.folder("nodes")


def _strings(file: Path) -> list[str]:
    return [os.fsdecode(each) for each in file.read_bytes().split(b"\0") if each]


def _import_path(arguments: list[str], environment: dict[str, str], where: Path) -> list[Path]:
    """Where an interpreter looks before its own packages, with these arguments (sys.path as Python documents it)."""
    flags, rest = "", arguments[1:]
    while rest and rest[0].startswith("-") and rest[0] not in ("-m", "-c", "-"):
        flags, rest = flags + rest[0][1:], rest[1:]
        if flags.endswith(("W", "X")) and rest:
            rest = rest[1:]
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
