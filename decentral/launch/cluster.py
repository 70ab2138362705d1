"""The file that every node of a run reads first: who takes part, where, since when, and with which plugins."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from decentral import lock
from decentral.algorithms.presence import Member
from decentral.errors import RunDirectoryError, UserError
from decentral.files import write_atomic
from decentral.wire.messages import PeerId

FILE = "cluster.json"
LOCK, COUNTER = "lock", "counter"
"""In a node's folder: held while it runs; how many membership records it has signed."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Members by index; `epoch` is the Unix time at which the run's clock stood at zero; `authority` is an address;
    `plugins` are files of this machine, or in the run directory."""

    members: tuple[Member, ...]
    epoch: float
    plugins: tuple[str, ...] = ()
    authority: str = ""

    def save(self, run: Path) -> None:
        write_atomic(run / FILE, json.dumps(asdict(self), indent=2).encode())

    @classmethod
    def load(cls, run: Path) -> Cluster:
        """Raises RunDirectoryError."""
        file = run / FILE
        try:
            content = json.loads(file.read_bytes())
            members = tuple(
                Member(int(m["index"]), str(m["name"]), PeerId(m["id"]), str(m["address"])) for m in content["members"]
            )
            plugins = tuple(map(str, content["plugins"]))
            return cls(members, float(content["epoch"]), plugins, str(content["authority"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{file}: not a readable cluster file ({error})") from error


@contextlib.contextmanager
def node_lock(folder: Path) -> Iterator[None]:
    """Held by a node for as long as it lives, so that none is started twice. Raises UserError if it is running."""
    held = lock.take(folder / LOCK)
    if held is None:
        raise UserError(f"{folder.name} of this run is running already")
    try:
        yield
    finally:
        os.close(held)


def is_running(folder: Path) -> bool:
    """Whether a process holds the node's lock."""
    return lock.is_held(folder / LOCK)
