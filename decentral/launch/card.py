"""The card of a folder of circuits: measured, signed, and compared with what lies beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from decentral.errors import Malformed, Unproven, UserError
from decentral.launch.circuits import Model, Say, load_circuits
from decentral.run.directory import STAGES
from decentral.serving.stages.model import file_of
from decentral.training.images import normalise
from decentral.wire.identity import Identity
from decentral.zk.card import Accuracy, Card, SignedCard, sign
from decentral.zk.circuit import FILE as PINNED
from decentral.zk.circuit import Chain
from decentral.zk.emulator import Emulator, Scales, quantised
from decentral.zk.fixed import Fixed
from decentral.zk.planner import Plan

BATCH = 200
"""Test images at a time."""


def sign_card(
    folder: Path,
    model: Model,
    chain: Chain,
    identity: Identity,
    say: Say = lambda words: None,
    *,
    plan: Plan | None = None,
) -> SignedCard:
    """Writes the card of a folder that was just made. Blocking: the test set is answered twice. Raises UserError.

    `plan`: by which the circuits were made; None: they are the model's stages.
    """
    arguments = [circuit.settings.arguments for circuit in chain.circuits]
    pairs = zip(arguments, chain.circuits, strict=True)
    card = Card(
        chain.identity.hex(),
        parameters_of(folder, len(model.stages)),
        tuple((own.input_scale, own.parameter_scale, each.settings.output_scales[0]) for own, each in pairs),
        max(own.parameters.value for own in arguments),
        chain.words,
        measured_accuracy(model, chain, say, plan=plan),
    )
    signed = sign(card, identity)
    try:
        signed.save(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return signed


def check_card(folder: Path) -> tuple[SignedCard, list[str]]:
    """The card of a folder, and what of it does not hold. Raises UserError where there is none."""
    signed, chain = SignedCard.load(folder), load_circuits(folder)
    wrong = []
    try:
        signed.signer()
    except Malformed:
        wrong.append("it was not signed by the key that it names")
    if signed.card.identity != chain.identity.hex():
        wrong.append(f"it is of the model {signed.card.identity}, and {PINNED} of {chain.identity.hex()}")
    if signed.card.parameters != parameters_of(folder, len(signed.card.parameters)):
        wrong.append(f"the parameters in {STAGES}/ are others")
    return signed, wrong


def parameters_of(folder: Path, stages: int) -> tuple[str, ...]:
    """SHA-256 of each stage's file. Raises UserError."""
    files = [file_of(folder / STAGES, place) for place in range(stages)]
    try:
        return tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    except OSError as error:
        raise UserError(f"{folder / STAGES}: cannot be read ({error})") from error


@torch.no_grad()
def measured_accuracy(
    model: Model, chain: Chain, say: Say = lambda words: None, *, plan: Plan | None = None
) -> Accuracy | None:
    """On the whole test set of the network's data; None where there is none of its shape. Raises UserError."""
    images = model.network.dataset()
    if images is None or tuple(images.image_shape) != model.network.input:
        return None
    labels = torch.from_numpy(images.test_labels).long()
    say(f"answering {len(labels)} test images, as it was trained and as it is proved")
    circuits = _emulated(model.proved() if plan is None else plan.stages, chain, say)
    trained = proved = 0
    for start in range(0, len(labels), BATCH):
        part = slice(start, start + BATCH)
        seen = normalise(torch.from_numpy(images.test_images()[part]), images.mean, images.std)
        floats: Any = seen
        for stage in model.stages:
            floats = stage(floats)
        trained += int((floats.argmax(1) == labels[part]).sum())
        if circuits:
            given = quantised(seen, chain.circuits[0].settings.arguments.input_scale)
            proved += int((answered(circuits, chain, given).real().argmax(1) == labels[part]).sum())
    name = str((model.network.data or {}).get("name"))
    return Accuracy(name, len(labels), trained / len(labels), proved / len(labels) if circuits else None)


def answered(circuits: Sequence[Emulator], chain: Chain, given: Fixed) -> Fixed:
    """What the last circuit of a chain gives for the model's input."""
    made: list[tuple[Fixed, ...]] = []
    for circuit, wires in zip(circuits, chain.wires, strict=True):
        made.append(circuit(*([made[source][output] for source, output in wires] or [given])))
    return made[-1][0]


def _emulated(networks: Sequence[nn.Module], chain: Chain, say: Say) -> list[Emulator]:
    """What computes as the circuits do; nothing where a layer is not known to it."""
    found = []
    try:
        for network, circuit, wires in zip(networks, chain.circuits, chain.wires, strict=True):
            own = circuit.settings.arguments
            scales = Scales(own.parameter_scale, own.rebase)
            found.append(Emulator(network, scales, inputs=max(1, len(wires))))
    except Unproven as error:
        say(f"not measured as it is proved: {error}")
        return []
    return found
