"""Whether proofs say what a task was answered with: everything is compared with what the verifier itself has.

The instances at both ends are rebuilt from the task's own input and output, lengths and commitments are those of the
pinned circuits, and only then is ezkl asked. A proof is never partly good: what is found is one finding, of the first
thing that is wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from decentral.errors import Malformed, UserError
from decentral.zk.binding import Binding
from decentral.zk.circuit import Chain, Circuit
from decentral.zk.proof import Proof, compressed, felt
from decentral.zk.proving import ChainProof, quantised, read_out, texts
from decentral.zk.srs import SRS
from decentral.zk.worker import Worker


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found. `stage`: the first at which it fails. `simulated`: stands on an SRS that was made for tests.

    `outputs`: what the proof says that the model answers, flat, as floats by the pinned scales; empty if it fails.
    `signers`: who made each stage's proof, where signatures were asked for.
    """

    passed: bool
    detail: str
    simulated: bool
    stage: int | None = None
    outputs: tuple[tuple[float, ...], ...] = ()
    signers: tuple[str, ...] = ()


class _Wrong(Exception):
    def __init__(self, stage: int, detail: str) -> None:
        self.stage, self.detail = stage, detail
        super().__init__(detail)


async def verify(
    alone: Worker,
    chain: Chain,
    srs: SRS,
    proof: ChainProof,
    inputs: Sequence[Tensor],
    *,
    outputs: Sequence[Tensor] | None = None,
    nonce: bytes | None = None,
    bindings: Sequence[Binding] = (),
) -> Verified:
    """Whether the proofs are of this model, this input and, if given, this output, and of this task.

    `outputs`: floats that are exactly what the model answered, by its scales; None: whatever the proof says, which the
    finding gives. `nonce`: that each stage's binding has to be for; None where nobody signs. Raises UserError where the
    verifier's own things do not go together, Unproven where ezkl cannot be asked.
    """
    if srs.digest != chain.srs:
        raise UserError(f"{srs.path}: is another SRS than the one that this model's circuits stand on")
    simulated = chain.local or srs.local
    try:
        _count(chain, proof)
        signers = _signers(chain, proof, nonce, bindings)
        for place, (circuit, each) in enumerate(zip(chain.circuits, proof.proofs, strict=True)):
            _shape(place, circuit, each)
        await _ends(alone, chain, proof, inputs, outputs)
        _links(chain, proof)
        await _hold(alone, chain, srs, proof)
    except _Wrong as wrong:
        return Verified(False, f"stage {wrong.stage}: {wrong.detail}", simulated, wrong.stage)
    last = chain.circuits[-1]
    values = proof.proofs[-1].instances[-_public(last) :] if _public(last) else ()
    detail = f"{len(proof.proofs)} {'proof holds' if len(proof.proofs) == 1 else 'proofs hold'} ({chain.words})"
    return Verified(True, detail, simulated, None, read_out(last, values), signers)


def _count(chain: Chain, proof: ChainProof) -> None:
    stages, proofs = len(chain.circuits), len(proof.proofs)
    if proofs != stages:
        raise _Wrong(min(stages, proofs), f"missing: there are {proofs} proofs for {stages} stages")


def _signers(chain: Chain, proof: ChainProof, nonce: bytes | None, bindings: Sequence[Binding]) -> tuple[str, ...]:
    if nonce is None:
        return ()
    found = []
    for place, each in enumerate(proof.proofs):
        if place >= len(bindings):
            raise _Wrong(place, "nobody has signed that this proof is for this task")
        try:
            found.append(bindings[place].signer(nonce, chain.identity, place, each))
        except Malformed as error:
            raise _Wrong(
                place, f"stale or foreign: the signature is for another task, model, stage or proof ({error})"
            ) from None
    if len(bindings) > len(proof.proofs):
        raise _Wrong(len(proof.proofs), "more signatures than proofs")
    return tuple(found)


def _shape(place: int, circuit: Circuit, proof: Proof) -> None:
    """Lengths, and the parameters' commitments."""
    if len(proof.proof) != circuit.proof_bytes or len(proof.instances) != circuit.instances:
        raise _Wrong(
            place,
            f"has {len(proof.proof)} bytes and {len(proof.instances)} instances where this circuit's proofs have "
            f"{circuit.proof_bytes} and {circuit.instances}",
        )
    points = proof.points(*circuit.slots.of_parameters())
    if tuple(compressed(point) for point in points) != circuit.committed:
        raise _Wrong(place, "foreign: the parameters that it commits to are not those of the pinned model")


async def _ends(
    alone: Worker, chain: Chain, proof: ChainProof, inputs: Sequence[Tensor], outputs: Sequence[Tensor] | None
) -> None:
    first, last = chain.circuits[0], chain.circuits[-1]
    expected = [felt(text) for tensor in await quantised(alone, first, inputs) for text in tensor]
    if list(proof.proofs[0].instances[: len(expected)]) != expected:
        raise _Wrong(0, "is about another input")
    if outputs is None:
        return
    found = read_out(last, proof.proofs[-1].instances[len(proof.proofs[-1].instances) - _public(last) :])
    given = tuple(tuple(map(float, tensor.flatten().tolist())) for tensor in outputs)
    if found != given:
        raise _Wrong(len(proof.proofs) - 1, "is about another output")


def _links(chain: Chain, proof: ChainProof) -> None:
    """Each tensor that crosses is the one that was given, by its commitments."""
    pairs = pairwise(zip(chain.circuits, proof.proofs, strict=True))
    for place, ((giver, gave), (taker, took)) in enumerate(pairs, 1):
        slots = zip(giver.slots.of_outputs(), taker.slots.of_inputs(), strict=True)
        for number, (out, into) in enumerate(slots):
            if gave.points(*out) != took.points(*into):
                raise _Wrong(place, f"foreign link: tensor {number} is not the one that stage {place - 1} gave")


async def _hold(alone: Worker, chain: Chain, srs: SRS, proof: ChainProof) -> None:
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        for place, (circuit, each) in enumerate(zip(chain.circuits, proof.proofs, strict=True)):
            said = await _asked(alone, Path(scratch), circuit, srs, each)
            if said is None:
                continue
            for other, foreign in enumerate(chain.circuits):
                fits = (len(each.instances), len(each.proof)) == (foreign.instances, foreign.proof_bytes)
                if other != place and fits and await _asked(alone, Path(scratch), foreign, srs, each) is None:
                    raise _Wrong(place, f"swapped: it is a proof of stage {other}")
            raise _Wrong(place, f"does not hold ({said})")


async def _asked(alone: Worker, scratch: Path, circuit: Circuit, srs: SRS, proof: Proof) -> str | None:
    """Why ezkl rejects it, or None."""
    settings, key = scratch / "settings.json", scratch / "verifying.key"
    settings.write_bytes(circuit.settings.encoded)
    key.write_bytes(circuit.key)
    instances = [texts(proof.instances)] if proof.instances else []
    said = await alone.call(
        "verify", instances=instances, proof=proof.proof.hex(), settings=str(settings), key=str(key), srs=str(srs.path)
    )
    return None if said is None else str(said)


def _public(circuit: Circuit) -> int:
    """Field elements of the outputs that stand in a proof."""
    return circuit.instances - sum(_size(shape) for shape in circuit.public_inputs)


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
