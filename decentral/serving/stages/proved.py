"""A stage's integer twin at the service of clients: it answers as a stage does, and proves what it has answered.

Proving takes seconds to minutes, in a process of its own: a node does it once at a time, clients in turn, and refuses
what would wait too long. It proves any inputs that it is given, whoever has answered about them: a proof's worth is in
its numbers, and in the question for which it is signed.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decentral.errors import Malformed, Refusal, Unproven
from decentral.serving.parts import check_address
from decentral.serving.stages.stage import StageService
from decentral.serving.stages.twin import Twin
from decentral.serving.turns import Turns
from decentral.trust.evidence import Question, tensors_digest
from decentral.trust.proofs import MOST_SAMPLES, MOST_SRS, Integers, Proofs, samples, sign_proof
from decentral.wire.conversation import Proof, Task
from decentral.wire.messages import PeerId
from decentral.wire.room import Room
from decentral.wire.sessions import Client
from decentral.zk.bundle import Bundle
from decentral.zk.proof import Proof as SampleProof
from decentral.zk.proving import prove_stage, witness_of
from decentral.zk.setup import Artefacts
from decentral.zk.srs import SRS
from decentral.zk.worker import Limits

PROVING = Limits(seconds=600)
"""Of the witness, and of the proof, of one sample."""
WAITING = 4 * MOST_SAMPLES
"""Samples that may wait at a node to be proved, and be at it."""


class Prover:
    """Proofs of one circuit, one sample at a time."""

    def __init__(self, artefacts: Artefacts, srs: SRS, limits: Limits = PROVING, *, waiting: int = WAITING) -> None:
        """`waiting`: samples that may be under way and wait, for all clients; see `Room` for the share of each."""
        self.artefacts, self.srs = artefacts, srs
        self._limits, self._turns, self._room = limits, Turns(), Room(waiting)

    async def prove(self, inputs: Sequence[Integers], client: PeerId) -> tuple[SampleProof, ...]:
        """Of each sample. If nobody waits for them any more, it ends with the process that is at it.

        Raises Malformed: BUSY where too many wait, SCHEMA for numbers that the circuit does not hold, UNSPECIFIED where
        this machine cannot prove it.
        """
        if not self._room.take(len(inputs), client):
            raise Malformed(Refusal.BUSY, "too many answers wait to be proved")
        try:
            made = []
            for sample in inputs:
                async with self._turns.of(client):
                    made.append(await self._prove(sample))
            return tuple(made)
        finally:
            self._room.give_back(len(inputs), client)

    async def _prove(self, sample: Integers) -> SampleProof:
        with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
            try:
                about = await witness_of(self.artefacts, self.srs, sample, folder=Path(scratch), limits=self._limits)
            except Unproven as error:
                raise Malformed(Refusal.SCHEMA, f"the circuit does not hold these numbers ({error})") from error
            try:
                proof, _ = await prove_stage(self.artefacts, self.srs, about, self._limits)
            except Unproven as error:
                raise Malformed(Refusal.UNSPECIFIED, f"it cannot be proved here ({error})") from error
            return proof

    def reference(self) -> bytes:
        """The SRS itself; nothing where it is too large to travel. Blocking."""
        return self.srs.path.read_bytes() if self.srs.path.stat().st_size <= MOST_SRS else b""


class ProvedService(StageService):
    """Answers tasks for a circuit, as its twin computes them, and proves them.

    `proofs` is a method of its own, as are all others in which a replica says something.
    """

    def __init__(self, twin: Twin, *arguments: Any, prover: Prover, **options: Any) -> None:
        """As a StageService; the digest is the twin's."""
        super().__init__(twin, *arguments, **options)
        self.prover = prover

    async def __call__(self, task: Task, client: Client) -> None:
        """Raises Malformed, as a StageService."""
        if task.prove is None:
            await super().__call__(task, client)
            return
        check_address(task, self.part, self.digest)
        self._check(task)
        if task.terms is None:
            raise Malformed(Refusal.MALFORMED, "there is no question to which an answer could be proved")
        try:
            inputs = samples(task.tensors, [port.name for port in self.stage.inputs])
        except ValueError as error:
            raise Malformed(Refusal.SCHEMA, str(error)) from error
        if len(inputs) > MOST_SAMPLES:
            raise Malformed(Refusal.TOO_LARGE, f"{len(inputs)} samples are to be proved; {MOST_SAMPLES} at most")
        digest = await asyncio.to_thread(tensors_digest, task.tensors)
        question = Question(task.terms.task, self.part, task.digest, digest, task.terms.nonce, task.terms.epoch)
        srs = await asyncio.to_thread(self.prover.reference) if task.prove.srs else b""
        own = await self.proofs(question, inputs, srs, client)
        await client.say(Proof(await asyncio.to_thread(own.encoded)))

    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Client) -> Proofs:
        """One of each sample, and its word that they are for this question."""
        made = await self.prover.prove(inputs, client.sender)
        signed = tuple(sign_proof(self.identity, question, sample, proof) for sample, proof in enumerate(made))
        return Proofs(self.prover.artefacts.circuit, Bundle(made, signed), srs)


class Either:
    """A stage and its twin at one node: each answers the tasks that name its digest."""

    def __init__(self, plain: StageService, proved: ProvedService) -> None:
        self.plain, self.proved = plain, proved

    async def __call__(self, task: Task, client: Client) -> None:
        """Raises Malformed, as a StageService."""
        wanted = self.proved if task.digest.hex() == self.proved.digest else self.plain
        await wanted(task, client)
