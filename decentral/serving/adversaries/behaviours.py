"""Replicas that break one rule each, to measure what a client's checks are worth. Nothing that serves imports them.

`earns` is the fault that a client finds in one, None where it finds none: who is outvoted has DISAGREED, and LIED once
the client has computed the part again. Their names for recipes are in `serving.adversaries.catalogue`.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from decentral.models.stages import Stage
from decentral.serving.stages.stage import StageService
from decentral.trust.evidence import FaultKind, Question, Sealed
from decentral.wire.conversation import Commitment, Reveal
from decentral.wire.messages import PeerId
from decentral.wire.sessions import Client

NOISE = 0.3
"""Of the largest number of each sample: far outside of every band."""


class Adversary(StageService):
    """One that is honest but for what a subclass says. Equal seeds tell equal lies, as colluders would."""

    earns: ClassVar[FaultKind | None]

    def __init__(self, *args: Any, seed: int | None = None, **options: Any) -> None:
        """As a StageService, and `seed`; None: of its own."""
        super().__init__(*args, **options)
        self._seed = int.from_bytes(self.identity.public_key[:4], "big") if seed is None else seed

    def lie(self, outputs: Mapping[str, Tensor], size: float = NOISE) -> dict[str, Tensor]:
        """Outputs with noise of this size, by the largest number of each sample; other integers and truth values."""
        generator = torch.Generator().manual_seed(self._seed)
        return {name: _noisy(tensor, size, generator) for name, tensor in outputs.items()}


class WrongOutput(Adversary):
    """Adds noise to what it computes: has DISAGREED."""

    earns = FaultKind.DISAGREED

    def answer(self, inputs: Mapping[str, Tensor], client: Client) -> dict[str, Tensor]:
        return self.lie(super().answer(inputs, client))


class WrongModel(Adversary):
    """Computes with other weights than it says: has DISAGREED."""

    earns = FaultKind.DISAGREED

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.stage = copy.deepcopy(self.stage)
        weights = {name: tensor for name, tensor in self.stage.state().items() if tensor.ndim > 1}
        self.stage.load({**self.stage.state(), **self.lie(weights)})


class LowerPrecision(Adversary):
    """Computes in bfloat16, which is cheaper: has DISAGREED."""

    earns = FaultKind.DISAGREED

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cheap: Stage = copy.deepcopy(self.stage).to(torch.bfloat16)

    def answer(self, inputs: Mapping[str, Tensor], client: Client) -> dict[str, Tensor]:
        outputs = self._cheap.run({n: t.bfloat16() if t.is_floating_point() else t for n, t in inputs.items()})
        return {port.name: outputs[port.name].to(port.dtype) for port in self.stage.outputs}


class CopiedCommitment(Adversary):
    """Commits to what it has overheard of another replica, in another task if not in this: BROKE_COMMITMENT."""

    earns = FaultKind.BROKE_COMMITMENT
    overheard: bytes | None = None

    def seal(self, question: Question, outputs: Mapping[str, Tensor]) -> Sealed:
        sealed = super().seal(question, outputs)
        return sealed if self.overheard is None else replace(sealed, commitment=self.overheard)

    async def reveal(self, sealed: Sealed, shown: tuple[bytes, ...], client: Client) -> None:
        self.overheard = next((other for other in shown if other != sealed.commitment), self.overheard)
        await super().reveal(sealed, shown, client)


class WithheldCommitment(Adversary):
    """Takes the task and says nothing: UNRESPONSIVE."""

    earns = FaultKind.UNRESPONSIVE

    async def commit(self, sealed: Sealed, client: Client) -> None:
        await asyncio.Event().wait()


class WithheldReveal(Adversary):
    """Commits, and says nothing more: UNRESPONSIVE."""

    earns = FaultKind.UNRESPONSIVE

    async def reveal(self, sealed: Sealed, shown: tuple[bytes, ...], client: Client) -> None:
        await asyncio.Event().wait()


class WithheldTensors(Adversary):
    """Reveals an answer that only it has, and does not send it: UNRESPONSIVE."""

    earns = FaultKind.UNRESPONSIVE

    def answer(self, inputs: Mapping[str, Tensor], client: Client) -> dict[str, Tensor]:
        return self.lie(super().answer(inputs, client))  # the truth would come from the others, and harm nobody

    async def deliver(self, outputs: Mapping[str, Tensor], client: Client) -> None:
        await asyncio.Event().wait()


class Equivocation(Adversary):
    """Tells the first client the truth and all others something else, in answers to the same inputs: EQUIVOCATED."""

    earns = FaultKind.EQUIVOCATED
    _favourite: PeerId | None = None

    def answer(self, inputs: Mapping[str, Tensor], client: Client) -> dict[str, Tensor]:
        self._favourite = self._favourite or client.sender
        outputs = super().answer(inputs, client)
        return outputs if client.sender == self._favourite else self.lie(outputs)


class Drift(Adversary):
    """Is wrong by less than the tolerance: earns no fault, and must not change what a client takes for certain."""

    earns = None

    def __init__(self, *args: Any, tolerance: float = 1e-5, **options: Any) -> None:
        """`tolerance` of the part, as clients have it."""
        super().__init__(*args, **options)
        self._size = tolerance / 2

    def answer(self, inputs: Mapping[str, Tensor], client: Client) -> dict[str, Tensor]:
        return self.lie(super().answer(inputs, client), self._size)


class ReplayedEvidence(Adversary):
    """Is honest once, and reveals what it signed then in all tasks that follow: INVALID."""

    earns = FaultKind.INVALID
    _first: Reveal | None = None

    async def reveal(self, sealed: Sealed, shown: tuple[bytes, ...], client: Client) -> None:
        self._first = self._first or sealed.open(shown, client.speak)
        await client.say(self._first)


class StaleEpoch(Adversary):
    """Signs its answers for an epoch that is not the one it was asked about: INVALID."""

    earns = FaultKind.INVALID

    def seal(self, question: Question, outputs: Mapping[str, Tensor]) -> Sealed:
        return super().seal(replace(question, epoch=abs(question.epoch - 1)), outputs)


class Crash(Adversary):
    """Drops the connection when it should reveal, with all that is said over it: UNRESPONSIVE."""

    earns = FaultKind.UNRESPONSIVE

    async def reveal(self, sealed: Sealed, shown: tuple[bytes, ...], client: Client) -> None:
        raise ConnectionAbortedError("crashed, as an adversary that is told to")


class Defection(Adversary):
    """Is honest for a number of answers, and adds noise to all that follow: has DISAGREED."""

    earns = FaultKind.DISAGREED

    def __init__(self, *args: Any, honest: int = 20, **options: Any) -> None:
        super().__init__(*args, **options)
        self._honest = honest

    def answer(self, inputs: Mapping[str, Tensor], client: Client) -> dict[str, Tensor]:
        self._honest -= 1
        outputs = super().answer(inputs, client)
        return outputs if self._honest >= 0 else self.lie(outputs)


class Slow(Adversary):
    """Commits after a delay: UNRESPONSIVE where the client's deadline is sooner, else honest."""

    earns = FaultKind.UNRESPONSIVE

    def __init__(self, *args: Any, delay: float = 60.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self._delay = delay

    async def commit(self, sealed: Sealed, client: Client) -> None:
        await asyncio.sleep(self._delay)
        await client.say(Commitment(sealed.commitment))


def _noisy(tensor: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """In [-size, size] by the largest number of each entry of the first axis."""
    if tensor.dtype == torch.bool:
        return ~tensor
    if not tensor.is_floating_point():
        return tensor + 1
    noise = (2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1).to(tensor)
    largest = tensor.abs().amax(tuple(range(1, tensor.ndim)), keepdim=True) if tensor.numel() else tensor
    return tensor + size * largest * noise
