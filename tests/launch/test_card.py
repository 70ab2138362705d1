"""A card holds for the circuits and parameters beside it, and says what was measured."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from decentral.data.datasets import load_dataset
from decentral.launch.card import check_card, measured_accuracy, sign_card
from decentral.launch.circuits import PINNED, Model, Reference, load_circuits, make_circuits, read_model
from decentral.models.catalogue import build_model
from decentral.training.images import normalise
from decentral.wire.identity import Identity
from decentral.zk.card import SignedCard, sign
from decentral.zk.setup import Options
from decentral.zk.store import Store
from decentral.zk.worker import Limits

SMALL = Limits(memory=2 * 2**30, seconds=100)


def learn(network: torch.nn.Module) -> None:
    """Enough that it does not say the same of everything."""
    images = load_dataset("digits")
    pixels = normalise(torch.from_numpy(images.train_images(np.arange(1280))), images.mean, images.std)
    labels, optimiser = torch.from_numpy(images.train_labels).long(), torch.optim.Adam(network.parameters(), 0.02)
    for start in range(0, 1280, 64):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(pixels[start : start + 64]), labels[start : start + 64]).backward()
        optimiser.step()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The circuits of a network with BatchNorm, and their card."""
    place = tmp_path_factory.mktemp("card")
    torch.manual_seed(0)
    network = build_model("strided-cnn", (1, 8, 8), 10, channels=[2, 3])
    learn(network)
    save_file(network.state_dict(), place / "model.safetensors")
    named = ("model.name=strided-cnn", "model.channels=[2,3]", "data.name=digits")
    model = read_model(str(place / "model.safetensors"), "features.2", named)
    reference, options = Reference(local=True), Options(base=16, legs=8)
    chain = asyncio.run(make_circuits(model, place / "c", reference, Store(place / "store"), options, limits=SMALL))
    sign_card(place / "c", model, chain, Identity.generate())
    return place / "c"


def test_it_holds_for_what_lies_beside_it(folder: Path) -> None:
    signed, wrong = check_card(folder)
    assert wrong == []
    accuracy = signed.card.accuracy
    assert accuracy is not None and (accuracy.data, accuracy.images) == ("digits", 355)
    assert accuracy.trained > 0.3
    assert accuracy.proved is not None and abs(accuracy.trained - accuracy.proved) < 0.05


def test_parameters_circuits_and_signatures_of_others_are_found(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "c")
    file = tmp_path / "c" / "stages" / "stage-0.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    signed, wrong = check_card(tmp_path / "c")
    assert wrong == ["the parameters in stages/ are others"]
    SignedCard(signed.card, Identity.generate().public_key, signed.signature).save(tmp_path / "c")
    assert "not signed by the key" in check_card(tmp_path / "c")[1][0]
    other = load_circuits(folder)
    card = signed.card
    lie = sign(
        type(card)("00" * 32, card.parameters, card.scales, card.visibility, card.standing_on, None),
        Identity.generate(),
    )
    lie.save(tmp_path / "c")
    assert any(other.identity.hex() in each and PINNED in each for each in check_card(tmp_path / "c")[1])


def test_accuracy_is_not_made_up_where_there_are_no_images(folder: Path) -> None:
    model = read_model(str(folder))
    network = type(model.network)(**{**_fields(model), "data": None})
    assert measured_accuracy(Model(network, model.stages, model.samples), load_circuits(folder)) is None


def _fields(model: Model) -> dict[str, object]:
    return {name: getattr(model.network, name) for name in type(model.network).__dataclass_fields__}
