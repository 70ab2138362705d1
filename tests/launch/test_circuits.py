"""A folder of circuits: from any model on disk, and found out again by who has its parameters."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decentral.errors import RecipeError, UserError
from decentral.launch.circuits import (
    REFERENCES,
    Reference,
    check_circuits,
    load_artefacts,
    load_circuits,
    make_circuits,
    read_model,
)
from decentral.models.catalogue import build_model
from decentral.zk.circuit import FILE as PINNED
from decentral.zk.setup import Options
from decentral.zk.srs import CEREMONY
from decentral.zk.store import Store
from decentral.zk.worker import Limits

SMALL = Limits(memory=2 * 2**30, seconds=100)
OPTIONS = Options(base=16, legs=8)
NAMED = ("model.name=mlp", "model.hidden=[6]", "data.name=digits")


@pytest.fixture(scope="module")
def parameters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file(build_model("mlp", (1, 8, 8), 10, hidden=[6]).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def folder(parameters: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("circuits") / "c"
    model = read_model(str(parameters), "2", NAMED)
    asyncio.run(make_circuits(model, folder, Reference(local=True), store, OPTIONS, limits=SMALL))
    return folder


def test_a_file_of_parameters_is_cut_here(parameters: Path) -> None:
    model = read_model(str(parameters), "2", NAMED)
    assert len(model.stages) == 2 and model.samples.shape[1:] == (1, 8, 8)
    assert [len(read_model(str(parameters), cuts, NAMED).stages) for cuts in (None, "2", "1,2")] == [1, 2, 3]


def test_no_stage_begins_with_a_norm_that_belongs_to_the_layer_before_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_model("strided-cnn", (1, 8, 8), 10, channels=[8, 8])
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    named = ("model.name=strided-cnn", "model.channels=[8,8]", "data.name=digits")
    for count in (1, 2):
        model = read_model(str(tmp_path / "model.safetensors"), str(count), named)
        assert len(model.stages) == count == len(model.proved())
    with pytest.raises(UserError, match="ask for fewer"):
        read_model(str(tmp_path / "model.safetensors"), "3", named)
    with pytest.raises(UserError, match="cannot be folded"):
        read_model(str(tmp_path / "model.safetensors"), "features.0", named).proved()


def test_what_is_cut_already_stays_as_it_is(folder: Path) -> None:
    assert len(read_model(str(folder)).stages) == len(read_model(str(folder / "stages")).stages) == 2
    with pytest.raises(UserError, match="cut already"):
        read_model(str(folder), "3")


def test_what_holds_no_model_is_said_to(parameters: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        read_model(str(tmp_path))
    with pytest.raises(RecipeError, match="name"):
        read_model(str(parameters))
    with pytest.raises(UserError, match="trains a model"):
        read_model("dimat-digits")
    with pytest.raises(UserError, match="yet to be trained"):
        read_model("serve-digits")


def test_a_folder_holds_what_is_pinned_and_where_it_is_proved(folder: Path, store: Store) -> None:
    chain = load_circuits(folder)
    assert len(chain.circuits) == 2 and load_circuits(folder / PINNED) == chain
    assert [each.circuit for each in load_artefacts(folder, chain, store)] == list(chain.circuits)


def test_what_is_damaged_or_gone_is_said_to_be(folder: Path, tmp_path: Path) -> None:
    chain = load_circuits(folder)
    with pytest.raises(UserError, match="holds no circuits"):
        load_circuits(tmp_path)
    (tmp_path / PINNED).write_bytes((folder / PINNED).read_bytes().replace(b'"simulated"', b"") + b" ")
    with pytest.raises(UserError, match="damaged"):
        load_circuits(tmp_path)
    with pytest.raises(UserError, match="damaged, or not made here"):
        load_artefacts(tmp_path, chain, Store(tmp_path))
    (tmp_path / REFERENCES).write_bytes((folder / REFERENCES).read_bytes())
    with pytest.raises(UserError, match="no longer holds"):
        load_artefacts(tmp_path, chain, Store(tmp_path))


async def test_the_same_parameters_come_to_the_same_circuits_and_others_do_not(
    folder: Path, parameters: Path, store: Store, tmp_path: Path
) -> None:
    srs = Reference(local=True).pinned(store, load_circuits(folder))
    pinned, found = await check_circuits(await read(folder), folder, srs, limits=SMALL)
    assert found.encoded() == pinned.encoded()
    state = load_file(parameters)
    state["3.weight"][0, 0] += 1 / 128
    save_file(state, tmp_path / "model.safetensors")
    other = await asyncio.to_thread(read_model, str(tmp_path / "model.safetensors"), "2", NAMED)
    pinned, found = await check_circuits(other, folder, srs, limits=SMALL)
    assert found.identity != pinned.identity
    assert [one == other for one, other in zip(pinned.circuits, found.circuits, strict=True)].count(False) == 1
    whole = await asyncio.to_thread(read_model, str(parameters), None, NAMED)
    with pytest.raises(UserError, match="1 stages, and 2 circuits"):
        await check_circuits(whole, folder, srs, limits=SMALL)


async def read(folder: Path):  # type: ignore[no-untyped-def]
    return await asyncio.to_thread(read_model, str(folder))


async def test_without_an_srs_it_is_said_how_to_come_by_one(tmp_path: Path, folder: Path, store: Store) -> None:
    with pytest.raises(UserError, match=r"--fetch-srs.*--local-test-srs") as caught:
        await Reference().get(Store(tmp_path), 12, SMALL)
    assert CEREMONY[12] in str(caught.value)
    with pytest.raises(UserError, match="local test SRS"):
        Reference().pinned(store, load_circuits(folder))
    found = await Reference(local=True).get(store, load_circuits(folder).logrows, SMALL)
    assert Reference(found.path, local=True).pinned(Store(tmp_path), load_circuits(folder)).digest == found.digest
    with pytest.raises(UserError, match="forge"):
        await Reference(found.path).get(store, 12, SMALL)
