"""The seam to whoever follows calls from peer to peer: what a call carries of its sender's trace, and how it is read.

A call has the sender's place in its trace as the header `traceparent` (W3C Trace Context, version 00). It is a word of
the sender like any other: one that is not exactly of that form, or comes twice, is as if there was none. Nothing else
is taken from others, and without a tracing nothing is sent and nothing is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, Self

from decentral.wire.messages import PeerId

HEADER = "traceparent"
FORM = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}", re.ASCII)

Metadata = tuple[tuple[str, str], ...]
Said = Iterable[tuple[str, str | bytes]]
"""Metadata that somebody else has sent."""


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A place in a trace: two numbers that are not zero, of 16 and of 8 bytes."""

    trace: int
    span: int

    @classmethod
    def of(cls, metadata: Said) -> Self | None:
        """What a call says; None where it says nothing, or nothing that can be read."""
        said = [value for key, value in metadata if key == HEADER]
        if len(said) != 1 or not isinstance(said[0], str) or (match := FORM.fullmatch(said[0])) is None:
            return None
        return cls(int(match[1], 16), int(match[2], 16))

    def metadata(self) -> Metadata:
        """For a call; who sends it follows it."""
        return ((HEADER, f"00-{self.trace:032x}-{self.span:016x}-01"),)


class Tracing(Protocol):
    """Follows what one peer does; every block is a span, which an error that leaves it marks as failed."""

    def calling(self, method: str, to: PeerId) -> AbstractContextManager[Metadata | None]:
        """A call to a peer, and what it has to carry."""
        ...

    def called(self, method: str, sender: PeerId, metadata: Callable[[], Said]) -> AbstractContextManager[None]:
        """A call of a peer, below its place in the sender's trace."""
        ...

    def doing(self, what: str, **about: str) -> AbstractContextManager[None]:
        """A piece of work within whatever is being done."""
        ...


class Untraced:
    """Follows nothing and costs nothing."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *raised: object) -> None:
        return None

    def calling(self, method: str, to: PeerId) -> Untraced:
        return self

    def called(self, method: str, sender: PeerId, metadata: Callable[[], Said]) -> Untraced:
        return self

    def doing(self, what: str, **about: str) -> Untraced:
        return self


UNTRACED = Untraced()
