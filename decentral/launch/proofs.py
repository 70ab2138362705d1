"""Circuits of a standing cluster: made of the parts that its peers compute, and pinned where its clients read.

They lie in the folder `zk` of the cluster, and the identity of each stands beside its part in the trust file. As with
what `calibrate` measures, the epoch stays as it is: nodes, parts and their digests are the same, only the trust file
is to be copied again by whoever has copied it. Nodes that are up learn of it when they start again.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from decentral.errors import Unproven, Untraceable, UserError
from decentral.launch.circuits import Reference, Say, load_artefacts, load_circuits, save_circuits, srs_of
from decentral.launch.stages import samples_of
from decentral.models.folding import fold_batchnorm
from decentral.models.stages import Stage
from decentral.run.directory import CIRCUITS, STAGES
from decentral.run.proving import LOCAL_TEST, Proving
from decentral.serving.stages.model import Network, digest_of, load_stages
from decentral.serving.stages.twin import Twin, quantised
from decentral.trust.anchors import FILE, Anchors, Part
from decentral.zk.arguments import Visibility
from decentral.zk.circuit import Chain
from decentral.zk.emulator import Emulator, Scales
from decentral.zk.setup import Artefacts, Options, rebuilt, setup
from decentral.zk.srs import SRS
from decentral.zk.store import Store
from decentral.zk.stretches import NEVER
from decentral.zk.unscaled import digits_of, unscaled
from decentral.zk.worker import Limits


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What peers compute, as it is proved: parts, networks without BatchNorm, and samples of what the first takes."""

    parts: tuple[Part, ...]
    stages: tuple[Stage, ...]
    networks: tuple[nn.Module, ...]
    samples: tuple[Tensor, ...]

    @property
    def names(self) -> list[str]:
        return [part.name for part in self.parts]


def options_of(proving: Proving) -> Options:
    """Of the circuits that a recipe asks for."""
    options = Options(
        Visibility.of_parameters(proving.parameters),
        proving.scale,
        proving.parameter_scale,
        proving.rebase,
        base=proving.base,
        legs=proving.legs,
        logrows=proving.logrows,
    )
    return options if proving.rescale else unscaled(options)


def limits_of(proving: Proving) -> Limits:
    return Limits(int(proving.memory * 2**30), proving.timeout)


def reference_of(proving: Proving) -> Reference:
    """The SRS that a recipe names."""
    file = proving.file
    return Reference(None if file is None else Path(file).expanduser(), proving.srs == LOCAL_TEST)


def served(folder: Path, scales: Scales) -> Served:
    """The parts of the cluster in a folder, each known to be one that circuits can compute. Blocking.

    Raises UserError that names the part which cannot be, or where there is none.
    """
    anchors = Anchors.load(folder / FILE)
    if not any(part.at == "peers" for part in anchors.parts):
        raise UserError(f"{folder}: its peers serve no model in stages, so that there is nothing to prove")
    network, held = Network.load(folder / STAGES), load_stages(folder / STAGES)
    stages = [held[place] for place in sorted(held)]
    if [digest_of(stage) for stage in stages] != [part.digest for part in anchors.parts]:
        raise UserError(f"{folder}: the stages are not those that {FILE} pins")
    tensors: Mapping[str, Tensor] = {stages[0].inputs[0].name: samples_of(network, 0)}
    own, theirs = list[Stage](), list[tuple[Part, Stage]]()
    for part, stage in zip(anchors.parts, stages, strict=True):
        if part.at == "client":
            own.append(stage)
        else:
            theirs.append((part, stage))
    with torch.no_grad():
        for stage in own:
            tensors = stage.run(tensors)
    for (_, before), (part, after) in pairwise(theirs):
        if [port.name for port in before.outputs] != [port.name for port in after.inputs]:
            raise UserError(f"{part.name}: cannot become a circuit: it takes other tensors than the part before gives")
    networks = tuple(_proved(part, stage, scales) for part, stage in theirs)
    samples = tuple(tensors[port.name] for port in theirs[0][1].inputs)
    return Served(tuple(part for part, _ in theirs), tuple(stage for _, stage in theirs), networks, samples)


def _proved(part: Part, stage: Stage, scales: Scales) -> nn.Module:
    """A part without BatchNorm, whose every operator can be computed in the whole numbers of a circuit."""
    try:
        network = fold_batchnorm(stage.network, len(stage.inputs))
        Emulator(network, scales, inputs=len(stage.inputs))
    except (Unproven, Untraceable, UserError) as error:
        raise UserError(f"{part.name}: cannot become a circuit: {error}") from error
    return network


async def set_up(
    folder: Path,
    reference: Reference,
    store: Store,
    options: Options,
    *,
    limits: Limits | None = None,
    say: Say = lambda words: None,
) -> Chain:
    """Makes the circuits of a cluster and pins them; what was made before is found in the store.

    Raises UserError that names the part which cannot become a circuit, Unproven.
    """

    async def srs(logrows: int) -> SRS:
        return await reference.get(store, logrows, limits)

    found = await asyncio.to_thread(served, folder, Scales(options.parameter_scale, options.rebase))
    each = [options] * len(found.networks)
    if options.rebase >= NEVER:
        say("digits")
        each = await asyncio.to_thread(digits_of, found.networks, found.samples, options, found.names)
    chain, artefacts, used = await setup(
        found.networks, found.samples, srs, store, each, names=found.names, limits=limits, say=say
    )
    await asyncio.to_thread(check_numbers, found, chain)
    save_circuits(folder / CIRCUITS, chain, artefacts, used)
    pin(folder, chain)
    return chain


def check_numbers(found: Served, chain: Chain) -> None:
    """That what nodes pass on fits into 64 bits, as far as the samples tell. Raises UserError that names the part."""
    names = [port.name for port in found.stages[0].inputs]
    scales, name = chain.circuits[0].settings.input_scales, found.parts[0].name
    try:
        tensors: Mapping[str, Tensor] = {
            port: quantised(sample, scale) for port, sample, scale in zip(names, found.samples, scales, strict=True)
        }
        for part, stage, circuit in zip(found.parts, found.stages, chain.circuits, strict=True):
            name = part.name
            tensors = Twin(stage, circuit).run(tensors)
    except ValueError as error:
        raise UserError(f"{name}: cannot be passed on: {error}; have them rescaled (rebase 1)") from error


async def check(
    folder: Path, srs: SRS, *, limits: Limits | None = None, say: Say = lambda words: None
) -> tuple[Chain, Chain]:
    """What lies in the cluster's folder of circuits, and what its parts come to: made again from nothing.

    Raises UserError, also where the trust file pins others; Unproven.
    """
    pinned = load_circuits(folder / CIRCUITS)
    if not is_pinned(Anchors.load(folder / FILE), pinned):
        raise UserError(f"{folder / FILE}: pins other circuits than those in {folder / CIRCUITS}")
    arguments = pinned.circuits[0].settings.arguments
    found = await asyncio.to_thread(served, folder, Scales(arguments.parameter_scale, arguments.rebase))
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        store = Store(scratch)
        again = await rebuilt(
            pinned, found.networks, found.samples, srs, store, names=found.names, limits=limits, say=say
        )
    return pinned, again


def pin(folder: Path, chain: Chain) -> None:
    """Writes the identity of each part's circuit into the trust file. Raises UserError, OSError."""
    anchors, identities = Anchors.load(folder / FILE), iter(chain.circuits)
    parts = tuple(
        replace(part, circuit=next(identities).identity.hex()) if part.at == "peers" else part for part in anchors.parts
    )
    if parts != anchors.parts:
        replace(anchors, parts=parts).save(folder / FILE)


def is_pinned(anchors: Anchors, chain: Chain) -> bool:
    """Whether these are the circuits of the parts that peers compute."""
    pinned = [part.circuit for part in anchors.parts if part.at == "peers"]
    return pinned == [circuit.identity.hex() for circuit in chain.circuits]


def proving_of(folder: Path, part: Part, store: Store) -> tuple[Artefacts, SRS] | None:
    """What proves a part of the cluster in a folder, None where it is not proved. Blocking.

    Raises UserError with the command to use where circuits are pinned and cannot be found.
    """
    if not part.circuit:
        return None
    again = f"make them again: decentral zk setup {folder}"
    try:
        chain = load_circuits(folder / CIRCUITS)
        artefacts = load_artefacts(folder / CIRCUITS, chain, store)
        srs = srs_of(folder / CIRCUITS, chain, store)
    except UserError as error:
        raise UserError(f"{folder / FILE} pins circuits that are not here ({error}); {again}") from error
    own = [each for each in artefacts if each.circuit.identity.hex() == part.circuit]
    if not own:
        raise UserError(f"{folder / FILE}: pins another circuit of {part.name} than {folder / CIRCUITS} has; {again}")
    return own[0], srs
