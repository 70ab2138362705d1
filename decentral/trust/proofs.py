"""Zero-knowledge proofs as evidence: that an answer is what the pinned circuits come to, of what the client has asked.

Each part of an answer brings proofs of its own, one for each sample, with the word of the replica that made them. They
count together or not at all: the inputs of the first and the outputs of the last are those of the receipt, and every
commitment between them is compared with that of the part before. Where the head alone is to be proved, what it was
given stands in the receipt, as a quorum has said it, and is committed to again. What a verifier needs for that travels
along and is worth nothing of itself: the trust file pins the identity of each circuit, and that covers its key,
settings and SRS.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from decentral import canonical
from decentral.errors import Malformed, Refusal
from decentral.trust.evidence import Finding, Kind, Question
from decentral.trust.policy import HEAD
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId
from decentral.zk.binding import Binding, bind
from decentral.zk.bundle import Bundle
from decentral.zk.circuit import Chain, Circuit, in_a_row
from decentral.zk.proof import Proof, signed
from decentral.zk.reading import read_inputs
from decentral.zk.srs import SRS, open_srs
from decentral.zk.store import Store
from decentral.zk.verification import Verified, verify, verify_stage
from decentral.zk.worker import Limits, worker

if TYPE_CHECKING:
    from decentral.trust.examination import Case

MOST_SAMPLES = 64
"""Of one answer that is proved: each is a proof of every part."""
MOST_SRS = (1 << 24) + (1 << 10)
"""Bytes of an SRS that travels along, of 2^17 rows; a larger one has to be in the verifier's store."""
VERIFYING = Limits(seconds=600)
T = TypeVar("T")
Integers = tuple[tuple[int, ...], ...]
"""Tensors of one sample, flat."""


@dataclass(frozen=True, slots=True)
class Proofs:
    """Of one part: a proof and a signature for each sample. `srs`: the file itself; empty: of the verifier's store."""

    circuit: Circuit
    bundle: Bundle
    srs: bytes = b""

    def encoded(self) -> bytes:
        return canonical.encode(
            {
                "circuit": self.circuit.encoded(),
                "proofs": canonical.text(self.bundle.encoded()),
                "srs": canonical.text(self.srs),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Proofs:
        """Raises Malformed unless `data` is exactly what `encoded` gives."""
        value: Any = canonical.decode(data)
        try:
            bundle = Bundle.decode(canonical.data(value["proofs"]))
            found = cls(Circuit.decode(value["circuit"]), bundle, canonical.data(value["srs"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Malformed(Refusal.MALFORMED, f"no proofs of a part ({error})") from None
        if found.encoded() != data:
            raise Malformed(Refusal.MALFORMED, "proofs of a part that say more than such proofs do")
        if max(len(bundle.proofs), len(bundle.bindings)) > MOST_SAMPLES or len(found.srs) > MOST_SRS:
            raise Malformed(Refusal.TOO_LARGE, f"more than {MOST_SAMPLES} proofs, or an SRS of {len(found.srs)} bytes")
        return found


def sign_proof(identity: Identity, question: Question, sample: int, proof: Proof) -> Binding:
    """A replica's word that it has made this proof for this question, which names the circuit as its model."""
    return bind(identity, _task(question), question.model, sample, proof)


def _task(question: Question) -> bytes:
    """One digest for the task, its nonce, epoch, part, model and inputs."""
    return hashlib.sha256(question.encoded()).digest()


class _Wrong(ValueError):
    """Why proofs do not count."""


async def check_part(
    own: Proofs, question: Question, node: PeerId, inputs: Sequence[Integers], outputs: Sequence[Integers]
) -> str | None:
    """Why what a replica has sent does not prove its part of these numbers, of each sample; None if it does.

    For the client, which has been given the numbers and so tells who is to blame, before all proofs are there. Raises
    UserError where there is no SRS, Unproven where the proofs cannot be verified here.
    """
    try:
        _check_sent(own, question, node, len(inputs))
    except _Wrong as wrong:
        return str(wrong)
    return await _each_holds(own, inputs, outputs)


async def _each_holds(own: Proofs, inputs: Sequence[Integers], outputs: Sequence[Integers]) -> str | None:
    """Why the proof of a sample is not of these numbers, at both ends of its part; None if all are."""
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        reference = await asyncio.to_thread(_placed, Path(scratch), own.circuit.srs, own.srs)
        async with worker(VERIFYING) as alone:
            for sample, proof in enumerate(own.bundle.proofs):
                problem = await verify_stage(
                    alone, own.circuit, reference, proof, inputs=inputs[sample], outputs=outputs[sample]
                )
                if problem is not None:
                    return f"proof {sample} {problem}"
    return None


def _check_sent(own: Proofs, question: Question, node: PeerId, count: int) -> None:
    if own.circuit.identity != question.model:
        raise _Wrong("foreign: they are of another circuit than the one that was asked")
    if not len(own.bundle.proofs) == len(own.bundle.bindings) == count:
        raise _Wrong(f"missing: there are {len(own.bundle.proofs)} proofs of {count} samples")
    if own.srs and hashlib.sha256(own.srs).hexdigest() != own.circuit.srs:
        raise _Wrong("foreign: the SRS that came with them is not the one that is pinned")
    for sample, (proof, binding) in enumerate(zip(own.bundle.proofs, own.bundle.bindings, strict=True)):
        try:
            signer = binding.signer(_task(question), question.model, sample, proof)
        except Malformed:
            raise _Wrong(f"stale: proof {sample} is not signed for this task, part and sample") from None
        if signer != node:
            raise _Wrong(f"proof {sample} is signed by another peer")


def verify_proofs(evidence: bytes, case: Case) -> Finding:
    """Whether a part is proved, with all the others. Raises Malformed; UserError where the verifier lacks the SRS,
    Unproven where the proofs cannot be verified here."""
    own = Proofs.decode(evidence)
    try:
        _check_own(own, case)
        found = _alone(own, case) if _by_itself(case) else _together(case)
    except _Wrong as wrong:
        return Finding(Kind.ZK, case.question.part, False, str(wrong), None, own.circuit.local)
    return Finding(Kind.ZK, case.question.part, found.passed, found.detail, None, found.simulated)


def _check_own(own: Proofs, case: Case) -> None:
    """The circuit, and that each proof was signed for this question by one whose answer is the one that counts."""
    if not case.transcript.order.policy.proved:
        raise _Wrong("the answer was not ordered as that of circuits")
    if own.circuit.identity != case.question.model:
        raise _Wrong("foreign: they are of another circuit than the one that was asked")
    if case.answer is None:
        raise _Wrong("there is no answer that they could be about")
    if len(own.bundle.proofs) != len(own.bundle.bindings):
        raise _Wrong("nobody has signed that each proof is for this task")
    output = case.answer.signed.claim.output
    for sample, (proof, binding) in enumerate(zip(own.bundle.proofs, own.bundle.bindings, strict=True)):
        try:
            signer = binding.signer(_task(case.question), own.circuit.identity, sample, proof)
        except Malformed:
            raise _Wrong(f"stale: proof {sample} is not signed for this task, part and sample") from None
        reveal = case.exchange.replies[signer].reveal if signer in case.exchange.replies else None
        if signer not in case.exchange.asked or reveal is None or reveal.output != output:
            raise _Wrong(f"proof {sample} is signed by one who did not give this answer")


def _by_itself(case: Case) -> bool:
    """Whether the order wants a proof of the head alone, of several parts. Raises _Wrong for those of another part."""
    order = case.transcript.order
    parts = [step.part for step in order.steps]
    if order.policy.proof_parts != HEAD or len(parts) == 1:
        return False
    if case.question.part != parts[-1]:
        raise _Wrong("the order wants a proof of the head alone")
    return True


def _alone(own: Proofs, case: Case) -> Verified:
    """What the head's proofs say of what it was given, which the replicas of the part before agree on."""
    part, exchanges = case.question.part, case.transcript.exchanges
    pinned = {each.name: each for each in case.anchors.parts}
    if part not in pinned or pinned[part].circuit != own.circuit.identity.hex():
        raise _Wrong("foreign: the circuit is not the one that is pinned")
    if (given := case.transcript.given(len(exchanges) - 1)) is None:
        raise _Wrong("what the head was given is not in the receipt")
    came = case.answer.tensors if case.answer is not None else None
    if came is None:
        raise _Wrong("what the head came to is not in the receipt")
    inputs = samples(given, pinned[part].inputs or tuple(sorted(given)))
    outputs = samples(came, tuple(sorted(came)))
    if not len(own.bundle.proofs) == len(inputs) == len(outputs):
        raise _Wrong(f"missing: there have to be {len(inputs)} proofs, one for each sample")
    if own.srs and hashlib.sha256(own.srs).hexdigest() != own.circuit.srs:
        raise _Wrong("foreign: the SRS that came with them is not the one that is pinned")
    return _found_alone(own, inputs, outputs)


def _together(case: Case) -> Verified:
    """What the proofs of all parts say."""
    order, exchanges = case.transcript.order, case.transcript.exchanges
    lacking = [each.step.part for each in exchanges if Kind.ZK not in each.evidence]
    lacking += [step.part for step in order.steps[len(exchanges) :]]
    if lacking:
        raise _Wrong(f"missing: {lacking[0]} is not proved, and no part is without the others")
    parts = [Proofs.decode(each.evidence[Kind.ZK]) for each in exchanges]
    pinned = {part.name: part for part in case.anchors.parts}
    for step, part in zip(order.steps, parts, strict=True):
        if step.part not in pinned or pinned[step.part].circuit != part.circuit.identity.hex():
            raise _Wrong(f"foreign: the circuit of {step.part} is not the one that is pinned")
    circuits = tuple(part.circuit for part in parts)
    chain = Chain(circuits, in_a_row([len(circuit.settings.output_scales) for circuit in circuits]))
    if (given := case.transcript.given(0)) is None:
        raise _Wrong("what was asked is not in the receipt")
    names = pinned[order.steps[0].part].inputs or tuple(sorted(given))
    if set(names) != set(given):
        raise _Wrong(f"the model takes {', '.join(names)}")
    last = case.judgements[-1].answer
    if last is None or last.tensors is None or len(last.tensors) != 1:
        raise _Wrong("there is no answer of one tensor that they could be about")
    inputs, outputs = samples(given, names), samples(last.tensors, tuple(last.tensors))
    if {len(part.bundle.proofs) for part in parts} != {len(inputs)} or len(outputs) != len(inputs):
        raise _Wrong(f"missing: each part needs {len(inputs)} proofs, one for each sample")
    for sample, wanted in enumerate(outputs):
        proof = parts[-1].bundle.proofs[sample]
        said = proof.instances[len(read_inputs(circuits[-1], proof.instances)) :]
        if tuple(map(signed, said)) != wanted[0]:
            raise _Wrong(f"{order.steps[-1].part}: proof {sample} is about another output")
    srs = parts[0].srs
    if srs and hashlib.sha256(srs).hexdigest() != chain.srs:
        raise _Wrong("foreign: the SRS that came with them is not the one that is pinned")
    bundles = tuple(Bundle(tuple(part.bundle.proofs[sample] for part in parts)) for sample in range(len(inputs)))
    return _found(chain, srs, bundles, inputs)


def samples(tensors: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Integers, ...]:
    """The field elements of each sample: signed whole numbers of 64 bits, in the order of the names.

    Raises ValueError for other tensors.
    """
    chosen = [tensors[name] for name in names]
    if any(tensor.dtype != torch.int64 or not tensor.ndim for tensor in chosen):
        raise _Wrong("the numbers are not those of circuits: whole ones, of 64 bits")
    if len({len(tensor) for tensor in chosen}) != 1:
        raise _Wrong("the tensors are not of as many samples each")
    return tuple(tuple(tuple(tensor[i].flatten().tolist()) for tensor in chosen) for i in range(len(chosen[0])))


@lru_cache(maxsize=16)
def _found_alone(own: Proofs, inputs: tuple[Integers, ...], outputs: tuple[Integers, ...]) -> Verified:
    """As `_found`, of one part with the numbers at both of its ends."""
    if (problem := _apart(lambda: _each_holds(own, inputs, outputs))) is not None:
        return Verified(False, problem, own.circuit.local)
    count = len(inputs)
    detail = f"{count} {'proof' if count == 1 else 'proofs'} of the head hold ({own.circuit.words})"
    return Verified(True, detail, own.circuit.local)


@lru_cache(maxsize=16)
def _found(chain: Chain, srs: bytes, bundles: tuple[Bundle, ...], inputs: tuple[Integers, ...]) -> Verified:
    """Of all samples. It is asked once for each part, and by each policy, and computed once."""
    return _apart(lambda: _hold(chain, srs, bundles, inputs))


def _apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """In a thread with an event loop of its own, since whoever asks may be in one."""
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(lambda: asyncio.run(work())).result()


async def _hold(chain: Chain, srs: bytes, bundles: Sequence[Bundle], inputs: Sequence[Integers]) -> Verified:
    shapes = next(circuit.public_inputs for circuit in chain.circuits if circuit.public_inputs)
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        reference = _placed(Path(scratch), chain.srs, srs)
        async with worker(VERIFYING) as alone:
            for sample, (bundle, values) in enumerate(zip(bundles, inputs, strict=True)):
                sizes = [torch.Size(shape).numel() for shape in shapes]
                if [len(each) for each in values] != sizes:
                    return Verified(False, f"sample {sample} is of another shape than the circuit takes", chain.local)
                tensors = [torch.tensor(each).reshape(shape) for each, shape in zip(values, shapes, strict=True)]
                found = await verify(alone, chain, reference, bundle, tensors)
                if not found.passed:
                    return Verified(False, f"sample {sample}: {found.detail}", found.simulated, found.stage)
    count = len(bundles) * len(chain.circuits)
    return Verified(True, f"{count} proofs of {len(bundles)} samples hold ({chain.words})", chain.local)


def _placed(folder: Path, digest: str, srs: bytes) -> SRS:
    if not srs:
        return Store().srs(digest, local=True)
    file = folder / "reference.srs"
    file.write_bytes(srs)
    return open_srs(file, digest=digest, local=True)
