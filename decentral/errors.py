"""Everything that `decentral` raises on purpose.

DecentralError
├── UserError              what a person gave us cannot be used; the command line prints it and exits with 2
│   ├── RecipeError        a recipe: names the key, the file and the line
│   ├── DatasetNotFound    what was looked for, where, and how to get it
│   ├── DiskFull           circuits and keys have no room (`zk.worker`)
│   └── RunDirectoryError  a run directory that is taken, unwritable, damaged or of another recipe
├── Untraceable            a model whose structure cannot be read without guessing
├── Unproven               a circuit, a key or a proof that could not be made or looked at here; says what to do
├── NotGenuine             evidence of a machine that says nothing: why (`attestation.report`)
├── ChannelEnded           an encrypted session that carries no more (`attestation.session.channel`)
├── NotUnsealed            a sealed file that does not open here: why (`attestation.sealing`)
├── Unattested             a machine that shows no evidence, or not what was asked for (`attestation.attester`)
├── Unverified             an answer that does not meet its policy: which node, and why (`serving.asking.prediction`)
├── Revoked                this node's own identity counts no more (`launch.watching`)
├── Homeless               a node that finds no machine to live on (`launch.local`)
├── TransportError         a message that did not arrive
│   ├── Unreachable        nobody answered within the deadline
│   │   ├── Silent         nothing came back at all: it, or we ourselves, may be cut off
│   │   └── Barred         a gateway on the way is the reason
│   └── Refused            the other peer answered with a typed refusal
└── Malformed              bytes from outside that break a rule, found before they are used
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class DecentralError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(DecentralError):
    """What a person gave us cannot be used. The message is one paragraph that says what to do."""


class RecipeError(UserError):
    """A recipe that cannot be run: `key` is dotted, `line` counts from 1."""

    def __init__(
        self, problem: str, *, key: str | None = None, file: Path | str | None = None, line: int | None = None
    ):
        self.problem, self.key, self.file, self.line = problem, key, file, line
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{where}{f'{key}: ' if key else ''}{problem}")


class DatasetNotFound(UserError):
    """A dataset that is not where it was looked for."""


class RunDirectoryError(UserError):
    """A run directory that is taken, unwritable, damaged or of another recipe."""


class Untraceable(DecentralError):
    """A model whose structure cannot be read without guessing; names the module and the operator."""


class Unproven(DecentralError):
    """A circuit, a key or a proof that could not be made or looked at here: nothing is said about the proof itself."""


class Refusal(IntEnum):
    """Why a peer did not take a message. The numbers are those of `decentral.wire.v1.Refusal`."""

    UNSPECIFIED = 0
    PROTOCOL_VERSION = 1
    RECIPE = 2
    SCHEMA = 3
    TOO_LARGE = 4
    MALFORMED = 5
    DIGEST = 6
    NOT_A_MEMBER = 7
    SIGNATURE = 8
    STALE = 9
    BUSY = 10
    TOKEN = 11
    EXPIRED = 12
    MODEL = 13
    REVOKED = 14
    DRAINING = 15
    FULL = 16
    ADDRESS = 17
    CLOCK = 18


class TransportError(DecentralError):
    """A message that did not arrive."""


class Unreachable(TransportError):
    """Nobody answered within the deadline."""


class Silent(Unreachable):
    """Nothing came back within the deadline, no refusal of its machine either: one of the two may be cut off."""


class Barred(Unreachable):
    """A gateway on the way to the other peer leads nowhere: nothing is known about the peer."""


class Refused(TransportError):
    """The other peer answered with a typed refusal."""

    def __init__(self, reason: Refusal, detail: str = ""):
        self.reason, self.detail = reason, detail
        super().__init__(f"refused: {reason.name.lower().replace('_', ' ')}{f' ({detail})' if detail else ''}")


class Malformed(DecentralError):
    """Bytes from outside that break a rule of the wire; `reason` is what the sender is told."""

    def __init__(self, reason: Refusal, detail: str):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason.name.lower()}: {detail}")


def leading(group: BaseExceptionGroup[BaseException]) -> DecentralError | None:
    """The first of our own errors in what a TaskGroup raised, however deep; None if there is none."""
    for error in group.exceptions:
        found = leading(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, DecentralError):
            return found
    return None
