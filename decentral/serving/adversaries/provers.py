"""Replicas that answer as they should, and then do not prove it: each breaks one rule of proofs.

As `serving.adversaries.behaviours`, whose rules they keep. Where a part has no circuit, they are honest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from decentral.serving.stages.proved import ProvedService
from decentral.trust.evidence import FaultKind, Question
from decentral.trust.proofs import Integers, Proofs, sign_proof
from decentral.wire.sessions import Client
from decentral.zk.bundle import Bundle


class ProofOfAnotherInput(ProvedService):
    """Proves what it was not asked: INVALID."""

    earns: ClassVar[FaultKind] = FaultKind.INVALID

    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Client) -> Proofs:
        other = [tuple(tuple(value + 1 for value in tensor) for tensor in sample) for sample in inputs]
        return await super().proofs(question, other, srs, client)


class DamagedProof(ProvedService):
    """Its proofs have one other bit: INVALID."""

    earns: ClassVar[FaultKind] = FaultKind.INVALID

    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Client) -> Proofs:
        own = await super().proofs(question, inputs, srs, client)
        changed = [replace(each, proof=each.proof[:-1] + bytes([each.proof[-1] ^ 1])) for each in own.bundle.proofs]
        signed = [sign_proof(self.identity, question, sample, each) for sample, each in enumerate(changed)]
        return replace(own, bundle=Bundle(tuple(changed), tuple(signed)))


class StaleProof(ProvedService):
    """Signs its proofs for another task, as those of an earlier answer would be: INVALID."""

    earns: ClassVar[FaultKind] = FaultKind.INVALID

    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Client) -> Proofs:
        return await super().proofs(replace(question, task=bytes(len(question.task))), inputs, srs, client)


class ForeignSrs(ProvedService):
    """Sends another SRS along than the one that is pinned, to who has none yet: INVALID."""

    earns: ClassVar[FaultKind] = FaultKind.INVALID

    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Client) -> Proofs:
        other = srs[:-1] + bytes([srs[-1] ^ 1]) if srs else srs
        return await super().proofs(question, inputs, other, client)


class WithheldProof(ProvedService):
    """Takes the task to prove its answer and says nothing: UNRESPONSIVE."""

    earns: ClassVar[FaultKind] = FaultKind.UNRESPONSIVE

    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Client) -> Proofs:
        await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets")
