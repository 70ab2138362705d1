"""Trials of a client's judgement: replicas of one part, some of them told to lie, and what the client makes of them.

All of it is what serves and asks in a deployment (`serving.stages.stage`, `serving.asking.consultation`,
`trust.receipt`), in one process and on whatever clock the event loop has. A virtual one costs no time where somebody is
silent.

    study = Study(stage, cases, tolerance)
    outcome = await Trial(study, with_deadlines(1), {2: "wrong-output"}, seed).ask()
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor

from decentral.core.agreement import distance
from decentral.core.quorum import Sizes
from decentral.errors import Malformed
from decentral.models.stages import Stage
from decentral.serving.adversaries.behaviours import CopiedCommitment
from decentral.serving.adversaries.catalogue import BEHAVIOURS
from decentral.serving.adversaries.memory import MemoryReplicas
from decentral.serving.asking.consultation import consult
from decentral.serving.stages.stage import StageService
from decentral.training.digest import model_digest
from decentral.trust.anchors import Anchor, Anchors, Part
from decentral.trust.evidence import Claim, Fault, FaultKind, Question, Reply, SignedClaim, tensors_digest, together
from decentral.trust.examination import Examination, examine
from decentral.trust.order import Order, Step
from decentral.trust.policy import Policy
from decentral.trust.transcript import Exchange, Transcript
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId
from decentral.wire.sessions import Client, Serve

Tensors = Mapping[str, Tensor]
T = TypeVar("T")
PART, EPOCH = "stage-1", 3
NOW = 1_700_000_000
"""Seconds since 1970, as an order has them; nothing here depends on it."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Inputs, the answers of several honest machines, and that in float64."""

    inputs: Tensors
    answers: Sequence[Tensors]
    reference: Tensors


@dataclass(frozen=True, eq=False)
class Study:
    """A stage, what it was asked, and how far apart honest answers to that are at most."""

    stage: Stage
    cases: Sequence[Case]
    tolerance: float

    @cached_property
    def digest(self) -> str:
        return model_digest(self.stage.description, self.stage.state())

    @cached_property
    def known(self) -> Mapping[bytes, Case]:
        """By the digest of the inputs."""
        return {tensors_digest(case.inputs): case for case in self.cases}


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one client made of it. `wrong`: it accepted an answer farther from the truth than the tolerance."""

    answered: bool
    wrong: bool
    faults: tuple[Fault, ...]

    def named(self) -> frozenset[PeerId]:
        return frozenset(fault.node for fault in self.faults)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One task: who was asked, which of them were told to lie, what they signed and sent, and what clients find.

    `compares`: one that has the replies and nothing else. `doubts`: one that computes the part again where not all
    agree. `computes`: one that always does. `proves`: one whose policy wants a proof too, and nobody has sent any.
    """

    honest: frozenset[PeerId]
    lying: frozenset[PeerId]
    claims: Mapping[PeerId, SignedClaim]
    tensors: Mapping[PeerId, Tensors]
    compares: Outcome
    doubts: Outcome
    computes: Outcome
    proves: Outcome


class Machine(StageService):
    """An honest replica that computes as one of the machines of the study does."""

    def __init__(self, study: Study, place: int, identity: Identity, overhearing: Sequence[CopiedCommitment]) -> None:
        super().__init__(study.stage, PART, study.digest, identity, inline, epoch=EPOCH)
        self._study, self._place, self._overhearing = study, place, overhearing

    def answer(self, inputs: Mapping[str, Tensor], client: Client) -> dict[str, Tensor]:
        answers = self._study.known[tensors_digest(inputs)].answers
        return dict(answers[self._place % len(answers)])

    async def commit(self, sealed: Any, client: Client) -> None:
        await super().commit(sealed, client)
        for copier in self._overhearing:
            copier.overheard = sealed.commitment


async def inline(fn: Callable[[], T]) -> T:
    """A computation that nobody has to wait beside."""
    return fn()


class Trial:
    """Replicas that live through several tasks."""

    def __init__(
        self,
        study: Study,
        sizes: Sizes,
        liars: Mapping[int, str],
        seed: int,
        *,
        weights: Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`liars`: by the place of the candidate, how it misbehaves (`adversaries.catalogue`), with these `options`.
        `weights` of the candidates when they are drawn; None: there are as many as are asked.
        """
        self.study, self.sizes = study, sizes
        self._random = random.Random(seed)  # noqa: S311 - a trial is to be repeated, not to be secret
        count = sizes.replicas if weights is None else len(weights)
        self._identities = [identity(place) for place in range(count)]
        self._random.shuffle(self._identities)
        self._weights = {who.id: weight for who, weight in zip(self._identities, weights or [1.0] * count, strict=True)}
        self.liars = frozenset(self._identities[place].id for place in liars)
        self._services = self._served(liars, options or {})
        peers = [
            Anchor(f"peer-{place}", who.id, "127.0.0.1:1", PART, study.digest)
            for place, who in enumerate(self._identities)
        ]
        part = Part(PART, study.digest, "peers", study.tolerance, 1.0)
        self.anchors = Anchors(b"", tuple(peers), EPOCH, (part,))
        self.policy = Policy(sizes.replicas, sizes.quorum, sizes.faulty, study.tolerance)
        self._case = self._random.randrange(len(study.cases))

    def _served(self, liars: Mapping[int, str], options: Mapping[str, Any]) -> dict[PeerId, Serve]:
        study, services = self.study, dict[PeerId, Serve]()
        for place, name in liars.items():
            who = self._identities[place]
            behaviour = BEHAVIOURS.resolve(name)
            services[who.id] = behaviour(study.stage, PART, study.digest, who, inline, epoch=EPOCH, **options)
        copiers = [service for service in services.values() if isinstance(service, CopiedCommitment)]
        first = self._random.randrange(64)  # which machine is whose differs from trial to trial
        for place, who in enumerate(self._identities):
            if place not in liars:
                services[who.id] = Machine(study, first + place, who, copiers)
        return services

    async def ask(self, client: str = "client") -> Asked:
        """The same inputs every time, by a client of that name."""
        case = self.study.cases[self._case]
        digest = tensors_digest(case.inputs)
        server = self._random.choices(list(self._weights), list(self._weights.values()))[0]
        step = Step(PART, bytes.fromhex(self.study.digest), server, self._weights)
        me = Identity.from_seed(client.encode()).id
        order = Order(self._random.randbytes(32), EPOCH, me, NOW, self.policy, digest, (step,))
        found = await consult(order, step, case.inputs, digest, MemoryReplicas(self._services, me))
        transcript = Transcript(order, (Exchange(step, digest, found.asked, found.replies),), case.inputs)
        compared = examine(transcript, self.anchors, self.policy)
        computed = examine(transcript, self.anchors, self.policy, {PART: case.reference})
        proved = examine(transcript, self.anchors, self.policy.requiring("consensus,zk"))
        asked = frozenset(found.asked)
        return Asked(
            asked - self.liars,
            asked & self.liars,
            _claims(order.question(step, digest), found.replies),
            _sent(found.replies),
            self._outcome(compared, case),
            self._outcome(computed if _doubtful(compared) else compared, case),
            self._outcome(computed, case),
            self._outcome(proved, case),
        )

    def _outcome(self, found: Examination, case: Case) -> Outcome:
        off = 0.0 if found.output is None else distance(_exact(found.output), _exact(case.reference))
        return Outcome(found.output is not None, not off <= self.study.tolerance, found.faults)


_IDENTITIES: list[Identity] = []


def identity(place: int) -> Identity:
    """Made once: a trial is about what they say."""
    while len(_IDENTITIES) <= place:
        _IDENTITIES.append(Identity.from_seed(hashlib.sha256(f"replica {len(_IDENTITIES)}".encode()).digest()))
    return _IDENTITIES[place]


def _doubtful(found: Examination) -> bool:
    """Where a client that holds the model computes the part itself, as `serving.asking.chain` does."""
    return found.output is None or any(fault.kind is FaultKind.DISAGREED for fault in found.faults)


def _claims(question: Question, replies: Mapping[PeerId, Reply]) -> dict[PeerId, SignedClaim]:
    """What each has signed for this question, whether or not it keeps the other rules."""
    shown = together(reply.commitment for reply in replies.values() if reply.commitment is not None)
    found = {}
    for node, reply in replies.items():
        if (reveal := reply.reveal) is not None:
            signed = SignedClaim(reveal.public_key, Claim(question, reveal.output), shown, reveal.signature)
            with suppress(Malformed):
                if signed.signer() == node:
                    found[node] = signed
    return found


def _sent(replies: Mapping[PeerId, Reply]) -> dict[PeerId, Tensors]:
    """The answer of each who revealed one, which several may share that have the same bits."""
    revealed = {node: reply.reveal.output for node, reply in replies.items() if reply.reveal is not None}
    come = {revealed[node]: replies[node].tensors for node in revealed if replies[node].tensors is not None}
    found = {node: come.get(output) for node, output in revealed.items()}
    return {node: tensors for node, tensors in found.items() if tensors is not None}


def _exact(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
