"""Circuits of a standing cluster: of the parts that peers compute, pinned once, found by nodes, and found out again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from decentral.errors import UserError
from decentral.launch.circuits import Reference, load_circuits
from decentral.launch.prepare import prepare
from decentral.launch.proofs import (
    check,
    check_numbers,
    is_pinned,
    options_of,
    pin,
    proving_of,
    reference_of,
    served,
    set_up,
)
from decentral.models.catalogue import build_model
from decentral.run.directory import CIRCUITS
from decentral.run.proving import Proving
from decentral.run.serving_recipe import ServingRecipe
from decentral.serving.stages.twin import Twin
from decentral.serving.stages.twin import quantised as quantised_whole
from decentral.trust.anchors import FILE, Anchors
from decentral.zk.emulator import Emulator, Scales, quantised
from decentral.zk.setup import Options
from decentral.zk.srs import open_srs
from decentral.zk.store import Store
from decentral.zk.stretches import NEVER
from decentral.zk.unscaled import unscaled
from decentral.zk.worker import Limits

SMALL = Limits(memory=2 * 2**30, seconds=100)
TINY = {"srs": "local-test", "base": 16, "legs": 8}
OPTIONS = Options(base=16, legs=8)


def recipe(folder: Path, network: str = "mlp", **values: object) -> ServingRecipe:
    """Of a model that nobody has trained, in two stages."""
    torch.manual_seed(0)
    options = {"hidden": [6]} if network == "mlp" else {"channels": [4, 4]}
    torch.save(build_model(network, (1, 8, 8), 10, **options).state_dict(), folder / "model.pth")
    model = {"file": str(folder / "model.pth"), "name": network, **options}
    return ServingRecipe.model_validate({"stages": ["2"], "model": model, "data": {}, **values})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def cluster(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `up` prepares it, of a recipe with proofs."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DECENTRAL_ZK", str(store.root))
        said: list[str] = []
        prepare(recipe(folder, proofs=TINY), folder / "here", say=said.append)
    assert "stage-1: keys" in said
    return folder / "here"


def test_every_part_that_peers_compute_is_pinned_with_its_circuit(cluster: Path, store: Store) -> None:
    chain, anchors = load_circuits(cluster / CIRCUITS), Anchors.load(cluster / FILE)
    assert is_pinned(anchors, chain) and anchors.epoch == 1
    assert [part.circuit for part in anchors.parts] == [circuit.identity.hex() for circuit in chain.circuits]
    for part in anchors.parts:
        found = proving_of(cluster, part, store)
        assert found is not None
        artefacts, srs = found
        assert (artefacts.circuit.identity.hex(), srs.digest) == (part.circuit, chain.srs)
    assert proving_of(cluster, replace(anchors.parts[0], circuit=""), store) is None


async def test_setting_up_again_changes_nothing(cluster: Path, store: Store) -> None:
    files = [cluster / FILE, *sorted((cluster / CIRCUITS).iterdir())]
    before, said = [file.read_bytes() for file in files], list[str]()
    await set_up(cluster, Reference(local=True), store, OPTIONS, limits=SMALL, say=said.append)
    assert [file.read_bytes() for file in files] == before
    assert not any("keys" in words for words in said)


async def test_what_was_calibrated_and_the_epoch_stay_and_a_part_without_circuit_gets_it_back(
    cluster: Path, store: Store, tmp_path: Path
) -> None:
    anchors = Anchors.load(cluster / FILE)
    bare = tuple(replace(part, circuit="", tolerance=3e-6, gain=2.5) for part in anchors.parts)
    replace(anchors, parts=bare, epoch=4).save(tmp_path / FILE)
    pin(tmp_path, load_circuits(cluster / CIRCUITS))
    found = Anchors.load(tmp_path / FILE)
    pinned = tuple(replace(own, circuit=part.circuit) for own, part in zip(bare, anchors.parts, strict=True))
    assert (found.epoch, found.parts) == (4, pinned)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_convolutions_that_never_rescale_are_pinned_and_answered_by_their_twins(
    tmp_path: Path, store: Store
) -> None:
    made = recipe(tmp_path, "strided-cnn", stages=["features.2"])
    folder = (await asyncio.to_thread(prepare, made, tmp_path / "here")).path
    options = options_of(Proving.model_validate({"srs": "local-test", "rescale": False}))
    chain = await set_up(folder, Reference(local=True), store, options)
    arguments = [circuit.settings.arguments for circuit in chain.circuits]
    assert [(each.checked, each.rebase) for each in arguments] == [(False, NEVER)] * 2
    found = served(folder, Scales(7, NEVER))
    (sample,) = found.samples
    with torch.no_grad():
        expected = found.stages[1](found.stages[0](sample))
    tensors = {found.stages[0].inputs[0].name: quantised_whole(sample, 7)}
    for stage, circuit in zip(found.stages, chain.circuits, strict=True):
        tensors = Twin(stage, circuit).run(tensors)
    (scale,) = chain.circuits[-1].settings.output_scales
    assert scale == 7 * 4, "the input's bits, and those of three layers"
    assert torch.allclose(next(iter(tensors.values())).double() / 2.0**scale, expected.double(), atol=0.1)
    pinned, again = await check(folder, await store.local_srs(chain.logrows))
    assert pinned.identity == again.identity


async def test_the_parts_come_to_the_same_circuits_again(cluster: Path, store: Store) -> None:
    srs = open_srs(store.root / "srs" / f"local-test-{load_circuits(cluster / CIRCUITS).logrows}.srs", local=True)
    pinned, found = await check(cluster, srs, limits=SMALL)
    assert found.encoded() == pinned.encoded()


async def test_circuits_see_what_leaves_a_client_that_computes_the_first_part(tmp_path: Path, store: Store) -> None:
    cluster = prepare(recipe(tmp_path, local=1), tmp_path / "here").path
    found = served(cluster, Scales(7, 1))
    assert found.names == ["stage-1"] and found.samples[0].shape[1:] == (6,)
    chain = await set_up(cluster, Reference(local=True), store, OPTIONS, limits=SMALL)
    parts = Anchors.load(cluster / FILE).parts
    assert [part.circuit for part in parts] == ["", chain.circuits[0].identity.hex()]
    assert chain.circuits[0].public_inputs == ((1, 6),)
    assert Emulator(found.networks[0], Scales(7, 1))(quantised(found.samples[0], 7))[0].shape == (32, 10)


def test_numbers_that_no_message_holds_are_found_before_anything_is_pinned(cluster: Path) -> None:
    found, chain = served(cluster, Scales(7, 1)), load_circuits(cluster / CIRCUITS)
    check_numbers(found, chain)
    huge = replace(found, samples=(found.samples[0] * 2.0**60,))
    with pytest.raises(UserError, match=r"stage-0: cannot be passed on: .*62 bits"):
        check_numbers(huge, chain)


def test_batchnorm_goes_into_the_layer_before_it(tmp_path: Path) -> None:
    cut = recipe(tmp_path, "strided-cnn").model_copy(update={"stages": ("features.2",)})
    found = served(prepare(cut, tmp_path / "here").path, Scales(7, 1))
    assert not any(isinstance(module, nn.BatchNorm2d) for network in found.networks for module in network.modules())


def test_a_part_that_cannot_become_a_circuit_names_itself_and_its_layer(tmp_path: Path) -> None:
    cut = recipe(tmp_path, "strided-cnn").model_copy(update={"stages": ("features.0",)})
    with pytest.raises(UserError, match=r"stage-1: cannot become a circuit: .*features.* cannot be folded"):
        served(prepare(cut, tmp_path / "here").path, Scales(7, 1))


def test_other_stages_than_those_that_are_pinned_are_not_proved(cluster: Path, tmp_path: Path) -> None:
    other = prepare(recipe(tmp_path), tmp_path / "here").path
    anchors = Anchors.load(other / FILE)
    parts = (replace(anchors.parts[0], digest="0" * 64), *anchors.parts[1:])
    replace(anchors, parts=parts).save(other / FILE)
    with pytest.raises(UserError, match="are not those that"):
        served(other, Scales(7, 1))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / CIRCUITS / "circuits.json").unlink(), "holds no circuits"),
        (lambda folder: (folder / CIRCUITS / "references.json").write_text("{}"), "damaged"),
        (lambda folder: None, "no longer holds what proves"),
    ],
)
def test_a_node_that_cannot_find_its_circuit_says_which_command_makes_it(
    cluster: Path, tmp_path: Path, damage: Callable[[Path], object], why: str
) -> None:
    (tmp_path / CIRCUITS).mkdir()
    for file in (cluster / FILE, *(cluster / CIRCUITS).iterdir()):
        (tmp_path / file.relative_to(cluster)).write_bytes(file.read_bytes())
    damage(tmp_path)
    part = Anchors.load(tmp_path / FILE).parts[0]
    with pytest.raises(UserError, match=why) as refused:
        proving_of(tmp_path, part, Store(tmp_path / "empty"))
    assert f"decentral zk setup {tmp_path}" in str(refused.value)


async def test_without_an_srs_nothing_is_pinned_and_it_is_said_how_to_come_by_one(tmp_path: Path) -> None:
    cluster = (await asyncio.to_thread(prepare, recipe(tmp_path), tmp_path / "here")).path
    before = (cluster / FILE).read_bytes()
    with pytest.raises(UserError, match="--local-test-srs"):
        await set_up(cluster, Reference(), Store(tmp_path / "empty"), OPTIONS, limits=SMALL)
    assert (cluster / FILE).read_bytes() == before and not (cluster / CIRCUITS).exists()


def test_what_a_recipe_says_is_what_circuits_are_made_with() -> None:
    assert options_of(Proving.model_validate(TINY)) == OPTIONS
    assert options_of(Proving(srs="local-test", rescale=False)) == unscaled(Options())
    assert reference_of(Proving(srs="local-test")) == Reference(local=True)
    assert reference_of(Proving(srs="ceremony")) == Reference()
    assert reference_of(Proving(srs="kzg.srs")) == Reference(Path("kzg.srs"))
