"""Proofs of a model: every circuit's, about one input.

The witnesses come one after another, since each circuit takes the exact field elements that others gave; then the
proofs are independent of one another, and those that are done stay done.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral import cores
from decentral.errors import Malformed, Unproven, UserError
from decentral.files import write_atomic
from decentral.zk.bundle import Bundle
from decentral.zk.circuit import Chain, Circuit
from decentral.zk.proof import MODULUS, Proof, compressed, felt_text
from decentral.zk.reading import Floats, numbers, quantised, read_outputs
from decentral.zk.setup import COMPILED, PROVING_KEY, Artefacts, Say, witness
from decentral.zk.srs import SRS
from decentral.zk.worker import Limits, Usage, worker

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Proven:
    """`outputs`: of the model, as the verifier reads them. `usage`: of each proof; None for one that was there."""

    proofs: Bundle
    outputs: tuple[Floats, ...]
    usage: tuple[Usage | None, ...]


@dataclass(frozen=True, slots=True)
class Witness:
    """What a circuit computes of an input, in a file, and what its proof has to say of it."""

    file: Path
    instances: tuple[int, ...]
    committed: tuple[bytes, ...]
    """Compressed, as many as stand at the beginning of the proof."""


async def prove(
    chain: Chain,
    stages: Sequence[Artefacts],
    srs: SRS,
    inputs: Sequence[Tensor],
    *,
    parallel: int = 1,
    job: Path | None = None,
    limits: Limits | None = None,
    say: Say = lambda words: None,
) -> Proven:
    """Proofs of all circuits about one input. `parallel`: how many at a time, each within the limits; they share the
    cores out among them, so that none waits for a thread of another.

    `job`: a folder in which finished proofs are kept: who was killed goes on from there. Proofs of another input or
    model that lie there are made anew. Raises UserError for an input of another shape, Unproven, OSError.
    """
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        say("witnesses")
        made = await witnesses(chain, stages, srs, inputs, folder=Path(scratch), limits=limits)
        limits = limits or Limits()
        turns = asyncio.Queue[tuple[int, ...]]()
        for own in shares(limits.cores or cores.numbered(), parallel):
            turns.put_nowait(own)

        async def one(place: int) -> tuple[Proof, Usage | None]:
            kept = None if job is None else job / f"stage-{place}.proof"
            if kept is not None and (found := _kept(kept, stages[place].circuit, made[place])) is not None:
                say(f"stage {place}: was proved before")
                return found, None
            own = await turns.get()
            try:
                say(f"stage {place}: proving")
                proof, usage = await prove_stage(stages[place], srs, made[place], replace(limits, cores=own))
            finally:
                turns.put_nowait(own)
            if kept is not None:
                await asyncio.to_thread(_keep, kept, proof)
            say(f"stage {place}: proved in {usage.wall:.1f} s, {usage.peak / 2**30:.2f} GiB")
            return proof, usage

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(place)) for place in range(len(stages))]
        done = [task.result() for task in tasks]
    outputs = [read_outputs(stage.circuit, each.instances) for stage, each in zip(stages, made, strict=True)]
    proofs, usage = (tuple(each) for each in zip(*done, strict=True))
    return Proven(Bundle(proofs), tuple(each for some in outputs for each in some), usage)


def shares(all_cores: Sequence[int], parallel: int) -> list[tuple[int, ...]]:
    """The cores of each of so many that run side by side: disjoint, unless there are fewer cores than these."""
    if len(all_cores) < parallel:
        return [tuple(all_cores)] * parallel
    return [tuple(all_cores[place::parallel]) for place in range(parallel)]


async def witnesses(
    chain: Chain,
    stages: Sequence[Artefacts],
    srs: SRS,
    inputs: Sequence[Tensor],
    *,
    folder: Path,
    limits: Limits | None = None,
) -> list[Witness]:
    """What every circuit computes of an input, in files of a folder. Raises UserError, Unproven."""
    if tuple(stage.circuit for stage in stages) != chain.circuits:
        raise UserError("these are not the circuits of this model: set it up again")
    made, outputs = [], list[list[list[str]]]()
    async with worker(limits) as alone:
        for place, (stage, wires) in enumerate(zip(stages, chain.wires, strict=True)):
            given = [outputs[source][output] for source, output in wires]
            if not wires:
                given = await quantised(alone, stage.circuit, inputs)
            file = folder / f"witness-{place}.json"
            found = await witness(alone, stage.folder, srs, given, file)
            outputs.append(found["outputs"])
            made.append(_witness(file, stage.circuit, found))
    return made


async def witness_of(
    stage: Artefacts, srs: SRS, inputs: Sequence[Sequence[int]], *, folder: Path, limits: Limits | None = None
) -> Witness:
    """What one circuit computes of whole numbers that somebody else has come to, flat, a sequence for each tensor.

    Raises Unproven, also where the circuit does not hold such numbers.
    """
    given = [[felt_text(value % MODULUS) for value in tensor] for tensor in inputs]
    file = folder / "witness.json"
    async with worker(limits) as alone:
        return _witness(file, stage.circuit, await witness(alone, stage.folder, srs, given, file))


async def prove_stage(stage: Artefacts, srs: SRS, about: Witness, limits: Limits | None = None) -> tuple[Proof, Usage]:
    """One proof, in a process of its own. Raises Unproven."""
    async with worker(limits) as alone:
        made = await alone.call(
            "prove",
            witness=str(about.file),
            compiled=str(stage.folder / COMPILED),
            proving_key=str(stage.folder / PROVING_KEY),
            srs=str(srs.path),
        )
        usage = alone.usage
    instances = numbers([made["instances"]])
    proof = Proof(instances, bytes.fromhex(made["proof"]))
    if not _is_about(proof, stage.circuit, about):
        raise Unproven(
            f"ezkl made a proof of {len(proof.proof)} bytes and {len(instances)} instances that is not what its key "
            f"({stage.circuit.proof_bytes} bytes) and its witness ({len(about.instances)} instances) ask for"
        )
    return proof, usage


def _witness(file: Path, circuit: Circuit, found: Any) -> Witness:
    committed = [
        bytes.fromhex(point)
        for part in ("inputs", "params", "outputs")
        for each in found["committed"][part]
        for point in each
    ]
    instances = numbers(found["inputs"] if circuit.public_inputs else []) + numbers(
        found["outputs"] if circuit.public_outputs else []
    )
    return Witness(file, instances, tuple(committed))


def _is_about(proof: Proof, circuit: Circuit, about: Witness) -> bool:
    """Whether it is of this circuit's form, and says what the witness does. Whether it holds is another question."""
    return (
        len(proof.proof) == circuit.proof_bytes
        and proof.instances == about.instances
        and tuple(map(compressed, proof.points(0, len(about.committed)))) == about.committed
    )


def _kept(file: Path, circuit: Circuit, about: Witness) -> Proof | None:
    """The proof in a job's folder, if it is about this. It was written whole, by who verified nothing but its form."""
    try:
        found = Proof.decode(file.read_bytes())
    except (FileNotFoundError, Malformed):
        return None
    return found if _is_about(found, circuit, about) else None


def _keep(file: Path, proof: Proof) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, proof.encoded())
