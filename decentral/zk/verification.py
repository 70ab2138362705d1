"""Whether proofs say what a task was answered with: everything is compared with what the verifier itself has.

The instances at both ends are rebuilt from the task's own input and output, lengths and commitments are those of the
pinned circuits, and only then is ezkl asked. A proof is never partly good: what is found is one finding, of the first
thing that is wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from decentral.errors import Malformed, UserError
from decentral.wire.messages import PeerId
from decentral.zk.bundle import Bundle
from decentral.zk.circuit import Chain, Circuit
from decentral.zk.proof import MODULUS, Proof, compressed, felt_text
from decentral.zk.reading import Floats, numbers, quantised, read_inputs, read_outputs
from decentral.zk.srs import SRS
from decentral.zk.worker import Worker

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found. `stage`: the first at which it fails. `simulated`: stands on an SRS that was made for tests.

    `outputs`: what the proofs say that the model answers, flat, as floats by the pinned scales; empty if they fail.
    `signers`: who made each proof, where signatures were asked for.
    """

    passed: bool
    detail: str
    simulated: bool
    stage: int | None = None
    outputs: tuple[Floats, ...] = ()
    signers: tuple[PeerId, ...] = ()


class _Wrong(Exception):
    def __init__(self, stage: int, detail: str) -> None:
        self.stage, self.detail = stage, detail
        super().__init__(detail)


async def verify(
    alone: Worker,
    chain: Chain,
    srs: SRS,
    proofs: Bundle,
    inputs: Sequence[Tensor],
    *,
    outputs: Sequence[Tensor] | None = None,
    nonce: bytes | None = None,
) -> Verified:
    """Whether the proofs are of this model, this input and, if given, this output, and of this task.

    `outputs`: floats that are exactly what the model answered, by its scales; None: whatever the proofs say, which the
    finding gives. `nonce`: the task for which every proof has to be signed; None where nobody need sign. Raises
    UserError where the verifier's own things do not go together, Unproven where ezkl cannot be asked.
    """
    if srs.digest != chain.srs:
        raise UserError(f"{srs.path}: is another SRS than the one that this model's circuits stand on")
    simulated = chain.local or srs.local
    try:
        _count(chain, proofs)
        signers = () if nonce is None else _signers(chain, proofs, nonce)
        for place, (circuit, each) in enumerate(zip(chain.circuits, proofs.proofs, strict=True)):
            _shape(place, circuit, each)
        await _inputs(alone, chain, proofs, inputs)
        answered = _outputs(chain, proofs, outputs)
        _links(chain, proofs)
        await _hold(alone, chain, srs, proofs)
    except _Wrong as wrong:
        return Verified(False, f"stage {wrong.stage}: {wrong.detail}", simulated, wrong.stage)
    count = len(proofs.proofs)
    detail = f"{count} {'proof holds' if count == 1 else 'proofs hold'} ({chain.words})"
    return Verified(True, detail, simulated, None, answered, signers)


async def verify_stage(
    alone: Worker,
    circuit: Circuit,
    srs: SRS,
    proof: Proof,
    *,
    inputs: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
) -> str | None:
    """Why one circuit's proof is not of these whole numbers, flat, a sequence for each tensor; None if it is.

    For who has been given them all: what the proof hides is committed to again, so that nothing is left for the proofs
    of other circuits to say. Raises UserError where the SRS is another, Unproven where ezkl cannot be asked.
    """
    if srs.digest != circuit.srs:
        raise UserError(f"{srs.path}: is another SRS than the one that this circuit stands on")
    try:
        _shape(0, circuit, proof)
        taken = read_inputs(circuit, proof.instances)
        given = proof.instances[len(taken) :]
        with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:

            async def commits(slots: Sequence[tuple[int, int]], tensors: Sequence[Sequence[int]]) -> bool:
                points = [await _committed(alone, Path(scratch), circuit, srs, each) for each in tensors]
                return [proof.points(*slot) for slot in slots] == points

            if not (taken == _felts(inputs) if taken else await commits(circuit.slots.of_inputs(), inputs)):
                return "is about another input"
            if not (given == _felts(outputs) if given else await commits(circuit.slots.of_outputs(), outputs)):
                return "is about another output"
            why = await _asked(alone, Path(scratch), circuit, srs, proof)
    except _Wrong as wrong:
        return wrong.detail
    return None if why is None else f"does not hold ({why})"


def _felts(tensors: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(value % MODULUS for tensor in tensors for value in tensor)


async def _committed(
    alone: Worker, scratch: Path, circuit: Circuit, srs: SRS, values: Sequence[int]
) -> tuple[bytes, ...]:
    settings, key = _placed(scratch, circuit)
    words = [felt_text(value % MODULUS) for value in values]
    points = await alone.call("commit", values=words, settings=str(settings), key=str(key), srs=str(srs.path))
    return tuple(map(bytes.fromhex, points))


def _placed(scratch: Path, circuit: Circuit) -> tuple[Path, Path]:
    """Settings and key of a circuit as files."""
    settings, key = scratch / "settings.json", scratch / "verifying.key"
    settings.write_bytes(circuit.settings.encoded)
    key.write_bytes(circuit.key)
    return settings, key


def _count(chain: Chain, proofs: Bundle) -> None:
    stages, count = len(chain.circuits), len(proofs.proofs)
    if count != stages:
        raise _Wrong(min(stages, count), f"missing: there are {count} proofs for {stages} stages")


def _signers(chain: Chain, proofs: Bundle, nonce: bytes) -> tuple[PeerId, ...]:
    found = []
    for place, each in enumerate(proofs.proofs):
        if place >= len(proofs.bindings):
            raise _Wrong(place, "nobody has signed that this proof is for this task")
        try:
            found.append(proofs.bindings[place].signer(nonce, chain.identity, place, each))
        except Malformed as error:
            raise _Wrong(place, f"stale: it is not signed for this task, model, stage and proof ({error})") from None
    if len(proofs.bindings) > len(proofs.proofs):
        raise _Wrong(len(proofs.proofs), "there are more signatures than proofs")
    return tuple(found)


def _shape(place: int, circuit: Circuit, proof: Proof) -> None:
    """Lengths, and the parameters' commitments."""
    if (len(proof.proof), len(proof.instances)) != (circuit.proof_bytes, circuit.instances):
        raise _Wrong(
            place,
            f"has {len(proof.proof)} bytes and {len(proof.instances)} instances where this circuit's proofs have "
            f"{circuit.proof_bytes} and {circuit.instances}",
        )
    points = proof.points(*circuit.slots.of_parameters())
    if tuple(map(compressed, points)) != circuit.committed:
        raise _Wrong(place, "foreign: the parameters that it commits to are not those of the pinned model")


async def _inputs(alone: Worker, chain: Chain, proofs: Bundle, inputs: Sequence[Tensor]) -> None:
    """Every circuit that sees the model's input sees this one."""
    for place, (circuit, proof) in enumerate(zip(chain.circuits, proofs.proofs, strict=True)):
        if circuit.public_inputs and read_inputs(circuit, proof.instances) != numbers(
            await quantised(alone, circuit, inputs)
        ):
            raise _Wrong(place, "is about another input")


def _outputs(chain: Chain, proofs: Bundle, outputs: Sequence[Tensor] | None) -> tuple[Floats, ...]:
    """What the model answers, as it stands in the proofs; the same as what is claimed, if anything is."""
    found = [
        (place, each)
        for place, (circuit, proof) in enumerate(zip(chain.circuits, proofs.proofs, strict=True))
        for each in read_outputs(circuit, proof.instances)
    ]
    if outputs is not None:
        if len(outputs) != len(found):
            raise UserError(f"the model gives {len(found)} tensors, not {len(outputs)}")
        for (place, each), tensor in zip(found, outputs, strict=True):
            if each != tuple(map(float, tensor.flatten().tolist())):
                raise _Wrong(place, "is about another output")
    return tuple(each for _, each in found)


def _links(chain: Chain, proofs: Bundle) -> None:
    """Each tensor that a circuit takes is the one that was given, by its commitments."""
    for place, (circuit, wires) in enumerate(zip(chain.circuits, chain.wires, strict=True)):
        for number, ((source, output), into) in enumerate(zip(wires, circuit.slots.of_inputs(), strict=True)):
            out = chain.circuits[source].slots.of_outputs()[output]
            if proofs.proofs[source].points(*out) != proofs.proofs[place].points(*into):
                raise _Wrong(place, f"foreign link: tensor {number} is not the one that stage {source} gave")


async def _hold(alone: Worker, chain: Chain, srs: SRS, proofs: Bundle) -> None:
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        for place, (circuit, each) in enumerate(zip(chain.circuits, proofs.proofs, strict=True)):
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
    settings, key = _placed(scratch, circuit)
    said = await alone.call(
        "verify",
        instances=[felt_text(value) for value in proof.instances],
        proof=proof.proof.hex(),
        settings=str(settings),
        key=str(key),
        srs=str(srs.path),
    )
    return None if said is None else str(said)
