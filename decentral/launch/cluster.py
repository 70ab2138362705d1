"""The file that every node of a run reads first: who takes part, where, since when, and with which plugins."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from decentral.algorithms.session import Member
from decentral.errors import RunDirectoryError, UserError
from decentral.files import write_atomic
from decentral.wire.messages import PeerId

FILE = "cluster.json"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Members by index; `epoch` is the Unix time at which the run's clock stood at zero."""

    members: tuple[Member, ...]
    epoch: float
    plugins: tuple[str, ...] = ()

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
            return cls(members, float(content["epoch"]), tuple(map(str, content["plugins"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{file}: not a readable cluster file ({error})") from error


@contextlib.contextmanager
def node_lock(folder: Path) -> Iterator[None]:
    """Held by a node for as long as it lives, so that none is started twice. Raises UserError if it is running."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"{folder.name} of this run is running already") from None
    finally:
        os.close(descriptor)


def is_running(folder: Path) -> bool:
    """Whether a process holds the node's lock."""
    try:
        with node_lock(folder):
            return False
    except UserError:
        return True


def write_trust(run: Path, authority: bytes, members: Iterable[Member]) -> None:
    """DIR/trust.toml: what a client of this cluster pins, the authority's certificate and the peers' ids."""
    lines = [
        "# What a client of this cluster trusts: copy it by a way that you trust too.",
        f'authority = """\n{authority.decode()}"""',
        "",
    ]
    for member in members:
        lines += ["[[peers]]", f'name = "{member.name}"', f'id = "{member.id}"', f'address = "{member.address}"', ""]
    write_atomic(run / "trust.toml", "\n".join(lines).encode())
