"""Proofs of a chain: every stage's, about one input.

The witnesses come one after another, since each stage takes the exact field elements that the one before gave; then
the proofs are independent of one another.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from decentral.errors import Malformed, Refusal, Unproven, UserError
from decentral.zk.circuit import Circuit
from decentral.zk.proof import Proof, felt, felt_text, signed
from decentral.zk.setup import COMPILED, PROVING_KEY, Artefacts, Say, witness
from decentral.zk.srs import SRS
from decentral.zk.worker import Limits, Usage, Worker, worker

KIND = "F32"
"""The type of inputs, of which the circuit takes the nearest multiple of its scale's step."""
MAGIC = b"decentral zk chain v1\0"
MOST = 1 << 12
"""Stages of a chain."""


@dataclass(frozen=True, slots=True)
class ChainProof:
    """A proof of each stage, in order."""

    proofs: tuple[Proof, ...]

    def encoded(self) -> bytes:
        pieces = [MAGIC, len(self.proofs).to_bytes(4, "big")]
        for proof in self.proofs:
            data = proof.encoded()
            pieces += (len(data).to_bytes(4, "big"), data)
        return b"".join(pieces)

    @classmethod
    def decode(cls, data: bytes) -> ChainProof:
        """Raises Malformed unless `data` is exactly what `encoded` gives."""
        if not data.startswith(MAGIC):
            raise Malformed(Refusal.MALFORMED, "no proofs of a chain")
        place = len(MAGIC) + 4
        count = int.from_bytes(data[len(MAGIC) : place], "big")
        if count > MOST:
            raise Malformed(Refusal.TOO_LARGE, f"a chain of {count} proofs")
        proofs = []
        for _ in range(count):
            length = int.from_bytes(data[place : place + 4], "big")
            proofs.append(Proof.decode(data[place + 4 : place + 4 + length]))
            place += 4 + length
        found = cls(tuple(proofs))
        if found.encoded() != data:
            raise Malformed(
                Refusal.MALFORMED, "proofs of a chain that are not in the one form in which they are written"
            )
        return found


@dataclass(frozen=True, slots=True)
class Proven:
    """`outputs`: of the last stage, as the verifier reads them. `usage`: of each stage's proof."""

    proof: ChainProof
    outputs: tuple[tuple[float, ...], ...]
    usage: tuple[Usage, ...]


async def quantised(alone: Worker, circuit: Circuit, inputs: Sequence[Tensor]) -> list[list[str]]:
    """The public inputs as field elements, exactly as the circuit takes them. Raises UserError for other shapes."""
    shapes = circuit.public_inputs
    if len(inputs) != len(shapes):
        raise UserError(f"the model takes {len(shapes)} tensors, not {len(inputs)}")
    found = []
    for tensor, shape, scale in zip(inputs, shapes, circuit.settings.input_scales, strict=True):
        if tuple(tensor.shape) not in (shape, shape[1:]):
            raise UserError(f"the model takes {list(shape[1:])}, not {list(tensor.shape)}")
        if not tensor.isfinite().all():
            raise UserError("an input that is not finite")
        values = tensor.float().flatten().tolist()
        found.append(await alone.call("felts", values=values, scale=scale, kind=KIND))
    return found


async def prove(
    stages: Sequence[Artefacts],
    srs: SRS,
    inputs: Sequence[Tensor],
    *,
    parallel: int = 1,
    limits: Limits | None = None,
    say: Say = lambda words: None,
) -> Proven:
    """Proofs of all stages about one input. `parallel`: how many at a time, each within the limits.

    Raises UserError for an input of another shape, Unproven.
    """
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        files = [Path(scratch) / f"witness-{place}.json" for place in range(len(stages))]
        outputs = await witnesses(stages, srs, inputs, files, limits=limits)
        turns = asyncio.Semaphore(parallel)

        async def one(place: int) -> tuple[Proof, Usage]:
            async with turns:
                say(f"stage {place}: proving")
                return await prove_stage(stages[place], srs, files[place], limits)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(place)) for place in range(len(stages))]
        done = [task.result() for task in tasks]
    return Proven(ChainProof(tuple(proof for proof, _ in done)), outputs, tuple(usage for _, usage in done))


async def witnesses(
    stages: Sequence[Artefacts],
    srs: SRS,
    inputs: Sequence[Tensor],
    files: Sequence[Path],
    *,
    limits: Limits | None = None,
    keep: Callable[[int], bool] = lambda place: True,
) -> tuple[tuple[float, ...], ...]:
    """Writes the witness of every stage, and gives what the last one answers, as floats."""
    async with worker(limits) as alone:
        passed = await quantised(alone, stages[0].circuit, inputs)
        for place, (stage, file) in enumerate(zip(stages, files, strict=True)):
            if keep(place):
                passed = (await witness(alone, stage.folder, srs, passed, file))["outputs"]
    return read_out(stages[-1].circuit, [felt(text) for tensor in passed for text in tensor])


async def prove_stage(stage: Artefacts, srs: SRS, witness: Path, limits: Limits | None = None) -> tuple[Proof, Usage]:
    """One proof, in a process of its own."""
    async with worker(limits) as alone:
        made = await alone.call(
            "prove",
            witness=str(witness),
            compiled=str(stage.folder / COMPILED),
            proving_key=str(stage.folder / PROVING_KEY),
            srs=str(srs.path),
        )
        usage = alone.usage
    instances = tuple(felt(text) for column in made["instances"] for text in column)
    proof = Proof(instances, bytes.fromhex(made["proof"]))
    if len(proof.proof) != stage.circuit.proof_bytes or len(instances) != stage.circuit.instances:
        raise Unproven(
            f"ezkl made a proof of {len(proof.proof)} bytes and {len(instances)} instances where its key asks for "
            f"{stage.circuit.proof_bytes} and {stage.circuit.instances}"
        )
    return proof, usage


def read_out(circuit: Circuit, values: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """The public outputs as floats, flat, by the pinned scales."""
    found, place = [], 0
    for shape, scale in zip(circuit.public_outputs, circuit.settings.output_scales, strict=True):
        size = 1
        for length in shape:
            size *= length
        found.append(tuple(signed(value) / 2**scale for value in values[place : place + size]))
        place += size
    return tuple(found)


def texts(values: Sequence[int]) -> list[str]:
    return [felt_text(value) for value in values]
