"""What all parts of models have in common at the nodes that serve them: whom they answer, and where they compute."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from decentral.errors import Malformed, Refusal
from decentral.wire.clock import Clock
from decentral.wire.conversation import Task

T = TypeVar("T")

MOST_BYTES = 64 << 20
"""Of one task, and of its answer."""


class Work(Protocol):
    """Runs a blocking computation off the event loop, one after another."""

    def __call__(self, fn: Callable[[], T], /) -> Awaitable[T]: ...


def served_by(clock: Clock) -> Work:
    """The worker of a node's clock."""

    async def work(fn: Callable[[], T]) -> T:
        return await clock.work(fn, 0.0)

    return work


def check_address(task: Task, part: str, digest: str) -> None:
    """Raises Malformed unless the task is for this part, with this digest in hexadecimal."""
    if task.part != part or task.digest.hex() != digest:
        raise Malformed(Refusal.MODEL, f"this is {part} with the digest {digest}")
