"""One stage of a model at the service of clients, who get evidence of what it answers where they ask for it.

What comes is checked against the stage before it is computed with. Computing is off the event loop, but for what takes
next to no time, one task after another, clients in turn; while a replica waits for the others' commitments, it computes
for somebody else. The tensors of an answer and of its inputs are hashed once, and it is signed once.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from decentral.core.finite import finite
from decentral.errors import Malformed, Refusal
from decentral.models.stages import Port, Stage
from decentral.serving.parts import MOST_BYTES, MOST_SAMPLES, Work, check_address, check_batch, within_memory
from decentral.serving.turns import Turns
from decentral.trust.evidence import SALT_BYTES, Claim, Question, Sealed, commit, tensors_digest
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Task, Terms
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId
from decentral.wire.room import Room
from decentral.wire.sessions import Client

T = TypeVar("T")

QUICK = 0.001
"""Seconds: what takes less is done on the event loop, since a thread of its own costs as much."""


class StageService:
    """Answers tasks for one stage; `work` runs it.

    What a replica says is in methods of its own (`answer`, `seal`, `commit`, `reveal`, `deliver`), so that one which
    breaks a rule (`serving.adversaries.behaviours`) keeps all the others.
    """

    def __init__(
        self,
        stage: Stage,
        part: str,
        digest: str,
        identity: Identity,
        work: Work,
        *,
        epoch: int,
        device: torch.device | str = "cpu",
        most: int = MOST_SAMPLES,
        patience: float = 60.0,
        held: int = 16 * MOST_BYTES,
    ) -> None:
        """`digest` of the stage in hexadecimal, as clients have it pinned; the stage is on `device`.

        A task has `most` samples at most. A client that has a commitment has `patience` seconds until it fetches
        the output or goes. `held`: bytes of answers that may wait for that.
        """
        self.part, self.digest, self.epoch = part, digest, epoch
        self.stage, self.device, self.identity = stage, torch.device(device), identity
        self._work, self._most, self._patience = _Nearby(work, self.device), most, patience
        self._room = Room(held)

    async def __call__(self, task: Task, client: Client) -> None:
        """Raises Malformed for a task that is not for this stage, or a client that breaks the rules."""
        check_address(task, self.part, self.digest)
        if task.prove is not None:
            raise Malformed(Refusal.UNSPECIFIED, f"{self.part} is not proved here")
        self._check(task)
        if task.terms is None:
            outputs = await self._work(partial(self._compute, task, client), _bytes(task.tensors), client.sender)
            await client.say(Output(outputs))
            return
        prepare = partial(self._prepare, task, task.terms, client)
        sealed, outputs = await self._work(prepare, _bytes(task.tensors), client.sender)
        size = _bytes(outputs)
        if not self._room.take(size, client.sender):
            raise Malformed(Refusal.BUSY, "too many answers wait for their clients")
        try:
            await self._converse(sealed, outputs, client)
        except TimeoutError:
            raise Malformed(Refusal.STALE, f"an answer waits {self._patience:g} s for its client, no longer") from None
        finally:
            self._room.give_back(size, client.sender)

    async def _converse(self, sealed: Sealed, outputs: Mapping[str, Tensor], client: Client) -> None:
        """Raises TimeoutError. The client may end it at any time, which cancels it."""
        await self.commit(sealed, client)
        async with asyncio.timeout(self._patience):
            opened = await client.hear()
            if not isinstance(opened, Open):
                raise Malformed(Refusal.MALFORMED, "an answer is fetched before all have committed")
            await self.reveal(sealed, opened.commitments, client)
            if not isinstance(await client.hear(), Fetch):
                raise Malformed(Refusal.MALFORMED, "commitments are shown twice")
        await self.deliver(outputs, client)

    # ---- what a replica says ----------------------------------------------------------------------------------------

    def answer(self, inputs: Mapping[str, Tensor], client: Client) -> dict[str, Tensor]:
        """What the stage comes to, on its device."""
        return self.stage.run(inputs)

    def seal(self, question: Question, outputs: Mapping[str, Tensor]) -> Sealed:
        return commit(self.identity, Claim(question, tensors_digest(outputs)), os.urandom(SALT_BYTES))

    async def commit(self, sealed: Sealed, client: Client) -> None:
        await client.say(Commitment(sealed.commitment))

    async def reveal(self, sealed: Sealed, shown: tuple[bytes, ...], client: Client) -> None:
        """Raises Malformed where its own commitment is not among those that are shown."""
        await client.say(sealed.open(shown, client.speak))

    async def deliver(self, outputs: Mapping[str, Tensor], client: Client) -> None:
        await client.say(Output(outputs))

    # ---- off the event loop -----------------------------------------------------------------------------------------

    def _prepare(self, task: Task, terms: Terms, client: Client) -> tuple[Sealed, dict[str, Tensor]]:
        outputs = self._compute(task, client)
        inputs = tensors_digest(task.tensors)
        question = Question(terms.task, self.part, task.digest, inputs, terms.nonce, terms.epoch)
        return self.seal(question, outputs), outputs

    @torch.no_grad()
    def _compute(self, task: Task, client: Client) -> dict[str, Tensor]:
        """The outputs, contiguous on the CPU. Raises Malformed for what the stage cannot compute with."""
        for name, tensor in task.tensors.items():
            if not finite(tensor):
                raise Malformed(Refusal.MALFORMED, f"{name} is not finite")
        # In memory that torch has aligned: how products are rounded depends on it, and equal bits are compared at once.
        inputs = {name: tensor.to(self.device, copy=True) for name, tensor in task.tensors.items()}
        try:
            with within_memory():
                outputs = self.answer(inputs, client)
        except (RuntimeError, IndexError, ValueError) as error:  # sizes that do not go together, indices out of range
            raise Malformed(Refusal.SCHEMA, f"{self.part} cannot compute with these inputs") from error
        return {name: tensor.to("cpu").contiguous() for name, tensor in outputs.items()}

    # ---- what is taken ----------------------------------------------------------------------------------------------

    def _check(self, task: Task) -> None:
        """Raises Malformed unless these are the stage's inputs, for some batch, of the epoch that is now."""
        if task.terms is not None and task.terms.epoch != self.epoch:
            raise Malformed(Refusal.STALE, f"this is epoch {self.epoch}, not {task.terms.epoch}")
        ports = self.stage.inputs
        if task.tensors.keys() != {port.name for port in ports}:
            raise Malformed(Refusal.SCHEMA, f"the inputs of {self.part} are {', '.join(port.name for port in ports)}")
        for port in ports:
            self._check_port(port, task.tensors[port.name])

    def _check_port(self, port: Port, tensor: Tensor) -> None:
        """The first dimension is the batch's."""
        fits = tensor.dtype == port.dtype and tensor.ndim == len(port.shape) and tensor.shape[1:] == port.shape[1:]
        if not fits or (tensor.ndim and not len(tensor)):
            wanted = f"{port.dtype} {('n', *port.shape[1:]) if port.shape else ()}".replace("'", "")
            given = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise Malformed(Refusal.SCHEMA, f"{port.name} is {given}, not {wanted}")
        if tensor.ndim:
            check_batch(len(tensor), self._most)


class _Nearby:
    """Computes off the event loop, unless a task of this size was quicker than the way there and back.

    Clients take turns there, so that nobody waits for all that another has asked. Never two at once, and with as many
    threads of torch wherever it is: how sums are rounded depends on them.
    """

    def __init__(self, work: Work, device: torch.device) -> None:
        self._work, self._device, self._turns = work, device, Turns()
        self._computing = threading.Lock()
        self._quick = 0
        """Bytes of the largest task that was."""
        self._threads = 0
        """Of torch, where that was found."""

    async def __call__(self, fn: Callable[[], T], size: int, client: PeerId) -> T:
        near = self._device.type == "cpu" and size <= self._quick and torch.get_num_threads() == self._threads
        if not near or not self._computing.acquire(blocking=False):
            async with self._turns.of(client):
                return await self._work(partial(self._alone, fn, size))
        try:
            return self._timed(fn, size)
        finally:
            self._computing.release()

    def _alone(self, fn: Callable[[], T], size: int) -> T:
        with self._computing:
            return self._timed(fn, size)

    def _timed(self, fn: Callable[[], T], size: int) -> T:
        """What was refused tells nothing of how long an answer takes."""
        began = time.perf_counter()
        found = fn()
        if time.perf_counter() - began > QUICK:
            self._quick = min(self._quick, size - 1)
        elif size > self._quick:
            self._quick, self._threads = size, torch.get_num_threads()
        return found


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
