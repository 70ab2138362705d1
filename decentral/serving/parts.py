"""What all parts of models have in common at the nodes that serve them.

Whom they answer, how much they take at once, and where they compute.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

from decentral.errors import Malformed, Refusal
from decentral.wire.clock import Clock
from decentral.wire.conversation import Task

T = TypeVar("T")

MOST_BYTES = 64 << 20
"""Of one task, and of its answer."""
MOST_SAMPLES = 1024
"""Of one task: what is computed of them on the way may be many times their own bytes."""


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


def check_batch(samples: int, most: int = MOST_SAMPLES) -> None:
    """Raises Malformed for a batch that is too large to be computed at once."""
    if samples > most:
        raise Malformed(Refusal.TOO_LARGE, f"{samples} samples; {most} at most")


@contextmanager
def within_memory() -> Iterator[None]:
    """Raises Malformed where memory runs out in the body: there may be enough later, or at somebody else's."""
    try:
        yield
    except RuntimeError as error:  # on a CPU torch has no class of its own for it
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise Malformed(Refusal.BUSY, "there is no memory for that now") from error
        raise
