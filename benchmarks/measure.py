"""What a command costs: wall time, memory of its whole process tree, bytes on loopback. Linux, standard library.

Memory is the proportional set size (a page shared by n processes counts 1/n in each), summed over the tree, so that
processes that fork from one another and processes that do not compare fairly. Bytes are the receive counter of `lo` in
a network namespace of this process's own, where each byte that is sent counts once and nothing else is heard.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
PRIVATE = "DECENTRAL_BENCHMARK_PRIVATE_NETWORK"


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds and bytes; `loopback` is None where no private network could be made."""

    wall: float
    memory: int
    processes: int
    loopback: int | None


class Failed(RuntimeError):
    """A command that did not end well; shows the end of what it printed."""


def enter_private_network() -> None:
    """Starts this script again in a network namespace with loopback alone; goes on without where it may not."""
    if os.environ.get(PRIVATE):
        request = struct.pack("16sh", b"lo", 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            flags = struct.unpack("16sh", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))
        return
    unshare = shutil.which("unshare")
    if unshare is None:
        return
    enter = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--map-root-user", "--net"]
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode == 0:
        sys.stdout.flush()
        os.execve(unshare, [*enter, sys.executable, *sys.orig_argv[1:]], {**os.environ, PRIVATE: "1"})


def loopback() -> int | None:
    """Bytes received on `lo` so far, if it is ours alone."""
    if not os.environ.get(PRIVATE):
        return None
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        interface, _, counters = line.partition(":")
        if interface.strip() == "lo":
            return int(counters.split()[0])
    return None


def busy(seconds: float = 1.0) -> float:
    """Cores that the machine keeps busy while we wait: what else runs there disturbs a measurement."""

    def used() -> float:
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and waiting for disks

    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds


def descendants() -> list[int]:
    """All processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def proportional_set_size(processes: Sequence[int]) -> int:
    """Bytes, of all of them together."""
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def end(processes: Sequence[int], grace: float = 5.0) -> None:
    """Ends what a command left behind: asks first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        until = time.monotonic() + grace
        while (processes := [p for p in descendants() if p in processes]) and time.monotonic() < until:
            reap()
            time.sleep(0.05)


def reap() -> None:
    """Orphans of a command become children of this process and are waited for here."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


def measure(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, deadline: float = 300.0
) -> Cost:
    """Runs a command to its end, its output into `log`. Raises Failed if it fails or takes longer than `deadline`."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    memory = processes = 0
    sampled, bytes_before, began = 0.0, loopback(), time.monotonic()
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        while (returned := child.poll()) is None and time.monotonic() - began < deadline:
            if time.monotonic() - sampled > 1.0:  # reading the page tables of a tree is not free
                tree = descendants()
                memory, processes = max(memory, proportional_set_size(tree)), max(processes, len(tree))
                sampled = time.monotonic()
            time.sleep(0.02)
    wall, bytes_after = time.monotonic() - began, loopback()
    end(descendants())
    if returned != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        problem = "took too long" if returned is None else f"ended with {returned}"
        raise Failed(f"{' '.join(command)} {problem}:\n{last}")
    moved = None if bytes_before is None or bytes_after is None else bytes_after - bytes_before
    return Cost(wall=wall, memory=memory, processes=processes, loopback=moved)
