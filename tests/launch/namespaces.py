"""Machines of a test: network namespaces with addresses of their own, on a network whose faults the test chooses.

Each has a TUN device, and all that leaves one passes through a router in this process, which holds every packet for the
latency, drops as many as it is told to, and cuts machines off. So delay, loss and partitions are those of packets, and
TCP does with them what it does on any network; no queueing discipline of the kernel is needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TUN = Path("/dev/net/tun")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
NETWORK, MTU = "10.213.71", 1400
SYN, ACK = 0x02, 0x10


def unavailable() -> str:
    """Why there can be no namespaces here; empty: there can."""
    if sys.platform != "linux" or not TUN.exists():
        return f"there is no {TUN}"
    try:
        with _holder() as process:
            _in(process, "ip", "link", "set", "lo", "up")
        os.close(_tun(f"dt{os.getpid() % 10000}x")[0])
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces are not permitted ({error})"
    return ""


@dataclass(slots=True)
class Machine:
    """One namespace: its address, and what runs there."""

    address: str
    holder: subprocess.Popen[bytes]
    device: int
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def inside(self, *command: str) -> list[str]:
        return [*_entering(self.holder), *command]

    def start(self, *command: str, folder: Path, log: str) -> subprocess.Popen[str]:
        """A process whose output, and errors, go to a file of the folder."""
        with (folder / log).open("a") as output:
            process = subprocess.Popen(
                self.inside(*command), cwd=folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL, text=True
            )
        self.processes.append(process)
        return process


class Network:
    """What lies between the machines. Its faults may be changed while it is up."""

    def __init__(self, seed: int = 0) -> None:
        self.latency = 0.0
        """Seconds that a packet is under way."""
        self.loss = 0.0
        """Share of packets that get lost."""
        self.cut: set[str] = set()
        """Addresses to and from which nothing passes."""
        self.closed: set[str] = set()
        """Addresses behind NAT: connections begin there, and none arrives."""
        self.carried = self.lost = 0
        self.machines: list[Machine] = []
        self._random = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._held: list[tuple[float, int, int, bytes]] = []
        self._devices: dict[bytes, int] = {}
        self._ended = threading.Event()

    @classmethod
    @contextlib.contextmanager
    def open(cls, count: int) -> Iterator[Network]:
        """So many machines; everything that was started on them, and they themselves, are gone afterwards."""
        network = cls()
        with contextlib.ExitStack() as held:
            for number in range(1, count + 1):
                network._add(held, f"{NETWORK}.{number}", f"dt{os.getpid() % 10000}n{number}")
            router = threading.Thread(target=network._route, daemon=True)
            router.start()
            try:
                yield network
            finally:
                for machine in network.machines:
                    for process in machine.processes:
                        process.kill()
                        process.wait()
                network._ended.set()
                router.join()

    def _add(self, held: contextlib.ExitStack, address: str, name: str) -> None:
        holder = held.enter_context(_holder())
        device, made = _tun(name)
        held.callback(os.close, device)
        subprocess.run(["ip", "link", "set", made, "netns", str(holder.pid)], check=True)
        for command in (
            ("ip", "link", "set", "lo", "up"),
            ("ip", "address", "add", f"{address}/24", "dev", made),
            ("ip", "link", "set", made, "mtu", str(MTU), "up"),
        ):
            _in(holder, *command)
        self._selector.register(device, selectors.EVENT_READ)
        self._devices[socket.inet_aton(address)] = device
        self.machines.append(Machine(address, holder, device))

    def _route(self) -> None:
        number = 0
        while not self._ended.is_set():
            wait = self._held[0][0] - time.monotonic() if self._held else 0.05
            for key, _ in self._selector.select(max(min(wait, 0.05), 0.0)):
                for packet in _packets(key.fd):
                    target = self._devices.get(packet[16:20])
                    if target is None or self._drops(packet):
                        continue
                    number += 1
                    heapq.heappush(self._held, (time.monotonic() + self.latency, number, target, packet))
            while self._held and self._held[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(self._held)
                with contextlib.suppress(BlockingIOError):  # its queue is full: it is lost, as in any router
                    os.write(target, packet)

    def _drops(self, packet: bytes) -> bool:
        source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        self.carried += 1
        if {source, target} & self.cut or (target in self.closed and _begins(packet)):
            return True
        if self._random.random() < self.loss:
            self.lost += 1
            return True
        return False


def _begins(packet: bytes) -> bool:
    """Whether a packet opens a TCP connection."""
    head = (packet[0] & 0x0F) * 4
    return packet[9] == socket.IPPROTO_TCP and packet[head + 13] & (SYN | ACK) == SYN


def _packets(device: int) -> Iterator[bytes]:
    """Those of IPv4 that wait, a few at most."""
    for _ in range(64):
        try:
            packet = os.read(device, 65535)
        except BlockingIOError:
            return
        if packet[0] >> 4 == 4:
            yield packet


def _tun(name: str) -> tuple[int, str]:
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    try:
        made = fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except OSError:
        os.close(device)
        raise
    return device, made[:16].rstrip(b"\0").decode()


@contextlib.contextmanager
def _holder() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a namespace of its own, which lasts as long; it ends with its standard input, and so with us."""
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            ends = time.monotonic() + 5.0
            while _namespace(process.pid) == _namespace("self"):
                if process.poll() is not None or time.monotonic() > ends:
                    raise OSError("unshare --net did not make one")
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def _namespace(process: int | str) -> Path:
    return Path(f"/proc/{process}/ns/net").readlink()


def _entering(holder: subprocess.Popen[bytes]) -> Sequence[str]:
    return ("nsenter", f"--net=/proc/{holder.pid}/ns/net", "--")


def _in(holder: subprocess.Popen[bytes], *command: str) -> None:
    subprocess.run([*_entering(holder), *command], check=True, capture_output=True, timeout=10)
