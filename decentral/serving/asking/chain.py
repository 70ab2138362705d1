"""An answer of a model that peers serve in parts: from one part to the next goes what a quorum of replicas came to.

Every replica of a part is given the same bytes: those that the winner of the part before had committed to. So where
replicas of a part disagree, that part is where they first do, and whoever holds the model finds out who lied by
computing this part alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from decentral.errors import Malformed, Refusal, Refused, UserError
from decentral.models.stages import Stage
from decentral.serving.asking.consultation import Consultation, consult
from decentral.serving.asking.replicas import Replicas
from decentral.serving.parts import MOST_BYTES
from decentral.trust.anchors import Anchors
from decentral.trust.attested import Attestations
from decentral.trust.consensus import Judgement
from decentral.trust.evidence import FaultKind, Kind, tensors_digest
from decentral.trust.examination import judged
from decentral.trust.leakage import Measurement, stated
from decentral.trust.order import Order
from decentral.trust.policy import Policy
from decentral.trust.transcript import Exchange, Transcript
from decentral.wire.elements import Arrival, Elements
from decentral.wire.limits import Limits
from decentral.wire.messages import PeerId

Tensors = Mapping[str, Tensor]
Work = Callable[[Callable[[], Tensors]], Awaitable[Tensors]]
"""Runs a blocking computation off the event loop."""
LIMITS = Limits(model_bytes=MOST_BYTES)
LARGE = 1 << 20
"""Bytes from which on a digest is taken off the event loop."""


@dataclass(frozen=True, slots=True)
class Course:
    """How an order went: what was said, what comes of it part by part, and why replies are missing."""

    transcript: Transcript
    judgements: tuple[Judgement, ...]
    problems: Mapping[PeerId, str]


async def digest_of(tensors: Tensors) -> bytes:
    """`tensors_digest`, which takes a while for large ones."""
    if sum(tensor.nbytes for tensor in tensors.values()) < LARGE:
        return tensors_digest(tensors)
    return await asyncio.to_thread(tensors_digest, tensors)


def through(stages: Sequence[Stage], tensors: Tensors) -> Tensors:
    """Raises UserError for inputs that they do not take."""
    try:
        with torch.no_grad():
            for stage in stages:
                tensors = stage.run(tensors)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the model does not take this input: {error}") from error
    return tensors


class Chain:
    """The parts that peers serve. `model`: parts that this client holds too, to settle disputes by; `measured`: what
    the tensors that parts are sent tell of the inputs."""

    def __init__(
        self,
        replicas: Replicas,
        anchors: Anchors,
        model: Mapping[str, Stage],
        work: Work,
        measured: Measurement | None = None,
    ) -> None:
        self._replicas, self._anchors, self._model, self._work = replicas, anchors, model, work
        self._measured = measured

    async def run(self, order: Order, inputs: Tensors, policy: Policy) -> Course:
        """Through all parts, or as far as there are answers; `inputs` are the tensors that leave the client.

        Raises UserError where honest replicas refuse the task, or would: then nobody is to blame.
        """
        exchanges: list[Exchange] = []
        judgements: list[Judgement] = []
        problems: dict[PeerId, str] = {}
        digest, passed = order.inputs, inputs
        for place, step in enumerate(order.steps):
            check_size(step.part, passed)
            found = await consult(order, step, passed, digest, self._replicas)
            if found.refusal is not None:
                raise UserError(_refused(step.part, found.refusal))
            problems |= found.problems
            evidence = self._evidence(step.part, policy, found)
            exchanges.append(Exchange(step, digest, found.asked, found.replies, evidence))
            transcript = Transcript(order, tuple(exchanges), inputs)
            judgement = judged(transcript, place, self._anchors, policy)
            doubtful = judgement.answer is None or any(f.kind is FaultKind.DISAGREED for f in judgement.faults)
            if doubtful and step.part in self._model and not order.policy.proved:  # floats tell nothing of its numbers
                with suppress(UserError, ValueError):  # not in float64: then it stays what it is
                    exact = await self.computed(step.part, passed)
                    judgement = judged(transcript, place, self._anchors, policy, exact)
            judgement = _excused(judgement, found)
            judgements.append(judgement)
            if judgement.answer is None or judgement.answer.tensors is None:
                break
            digest, passed = judgement.answer.signed.claim.output, judgement.answer.tensors
        return Course(Transcript(order, tuple(exchanges), inputs), tuple(judgements), problems)

    def _evidence(self, part: str, policy: Policy, found: Consultation) -> dict[Kind, bytes]:
        """What else speaks for an answer, as far as the policy asks for it."""
        evidence = {}
        if policy.leakage is not None and self._measured is not None:
            evidence[Kind.LEAKAGE] = stated(self._measured, part)
        if policy.attested:
            seen = {peer: found.seen[peer] for peer in found.replies if peer in found.seen}
            evidence[Kind.ATTESTATION] = Attestations.of(seen).encoded()
        return evidence

    async def computed(self, part: str, inputs: Tensors) -> Tensors:
        """What a part comes to in float64. Raises UserError where it cannot be, ValueError for other inputs."""
        return await self._work(lambda: self._model[part].exact(inputs))


def check_inputs(part: str, tensors: Tensors) -> None:
    """Raises UserError for what no replica takes from the wire, whatever it computes."""
    check_size(part, tensors)
    try:
        elements = Elements(tensors)
        Arrival(elements.headers, elements.total, LIMITS)
    except (TypeError, Malformed) as error:
        raise UserError(f"{part} does not take this input: {error}") from error


def check_size(part: str, tensors: Tensors) -> None:
    """Raises UserError for more than a replica takes at once: what exceeds that would end its session with others."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MOST_BYTES:
        raise UserError(f"{part} would be given {size} bytes, and takes {MOST_BYTES} at most; ask about fewer at once")


def _excused(judgement: Judgement, found: Consultation) -> Judgement:
    """Who was busy, or was told nothing, is not called silent; who was not waited for or not led to, called nothing."""
    faults = []
    for fault in judgement.faults:
        silent = fault.kind is FaultKind.UNRESPONSIVE
        if silent and fault.node in found.busy:
            faults.append(replace(fault, kind=FaultKind.BUSY, detail="had too much to do"))
        elif silent and fault.node in found.distrusted:
            faults.append(replace(fault, kind=FaultKind.UNATTESTED, detail=found.problems[fault.node]))
        elif not silent or fault.node not in found.spared:
            faults.append(fault)
    return replace(judgement, faults=tuple(faults))


def _refused(part: str, refusal: Refused) -> str:
    if refusal.reason in (Refusal.MODEL, Refusal.STALE):
        return f"the replicas of {part} serve another model, or another epoch, than the trust file pins ({refusal})"
    return f"the replicas of {part} do not take this input ({refusal})"
