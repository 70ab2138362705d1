"""A Ray cluster of three machines, emulated on this one by Ray's own utility."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CORES = 4
"""That each machine says it has: they share those of this one."""
ATTEMPTS = 4
MEMORY = 100 << 20
"""Bytes for objects on each machine."""


@dataclass
class Emulated:
    """The cluster, and its machines by Ray's name for them; the one that it started on has no processors to offer."""

    cluster: Any
    machines: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill(self, machine: str) -> None:
        """As a machine ends that loses its power: nobody on it says goodbye, its nodes included."""
        raylet = self.machines.pop(machine).all_processes["raylet"][0].process
        for process in [raylet.pid, *descendants(raylet.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def descendants(process: int) -> list[int]:
    """All that it has started, and those have."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for parent in found:
        found += [child for child, above in parents.items() if above == parent]
    return found[1:]


@contextlib.contextmanager
def emulated(machines: int = 3, cores: int = CORES) -> Iterator[Emulated]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    for attempt in range(ATTEMPTS):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0, object_store_memory=MEMORY, include_dashboard=False)
            nodes = [cluster.add_node(num_cpus=cores, object_store_memory=MEMORY) for _ in range(machines)]
            break
        except Exception:  # Ray's own, where the processors are busy: it gives each machine half a minute to start
            cluster.shutdown()
            if attempt == ATTEMPTS - 1:
                raise
    try:
        yield Emulated(cluster, {node.node_id: node for node in nodes})
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Emulated]:
    pytest.importorskip("ray")
    with emulated() as made:
        yield made


@pytest.fixture
def fragile() -> Iterator[Emulated]:
    """One that a test may break."""
    pytest.importorskip("ray")
    with emulated() as made:
        yield made


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The root of a dataset of our own, `tiny`, and of what is not part of it."""
    root = tmp_path / "data"
    for number in range(5):
        file = root / "tiny" / ("train" if number else "val") / "cat" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * 10_000)
    (root / "other").mkdir()
    (root / "other" / "private.txt").write_text("not of this dataset")
    return root
