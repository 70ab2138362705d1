"""Stages come back from disk as they were cut: the same computation, the same digests, nothing else in the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decentral.errors import UserError
from decentral.models.catalogue import MODELS
from decentral.models.mlp import mlp
from decentral.serving.stages.model import FILE, Network, digest_of, file_of, load_stages, save_stages

MLP = Network("mlp", {"hidden": [6, 5]}, (1, 2, 2), 3, ("2", "4"), True, "nowhere", class_names=("a", "b", "c"))
RESNET = Network("resnet20", {"width": 1}, (3, 8, 8), 4, 3, True, "nowhere")


@pytest.mark.parametrize("network", [MLP, RESNET], ids=["mlp", "resnet"])
def test_loaded_stages_compute_what_the_network_computes_under_the_same_digests(
    tmp_path: Path, network: Network
) -> None:
    model = network.build()
    cut = network.split(model)
    save_stages(tmp_path, network, cut)
    loaded = load_stages(tmp_path)
    assert [digest_of(stage) for stage in loaded.values()] == [digest_of(stage) for stage in cut]
    x = torch.randn(4, *network.input)
    tensors = {loaded[0].inputs[0].name: x}
    for stage in loaded.values():
        tensors = stage.run(tensors)
    assert torch.equal(tensors["output"], model(x))


def test_a_network_that_nobody_has_registered_says_how_it_would_be(tmp_path: Path) -> None:
    cut = MLP.split(MLP.build())
    save_stages(tmp_path, replace(MLP, name="of-mine"), cut)
    with pytest.raises(UserError, match=r"unknown model 'of-mine'; .*registered by --plugin FILE"):
        load_stages(tmp_path)


def test_networks_of_installed_packages_are_known_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def load(self) -> None:
            MODELS._entries["of-mine"] = mlp

    cut = MLP.split(MLP.build())
    save_stages(tmp_path, replace(MLP, name="of-mine"), cut)
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: [Installed()])
    assert [digest_of(stage) for stage in load_stages(tmp_path).values()] == [digest_of(stage) for stage in cut]


def test_a_node_loads_its_stage_alone_and_needs_no_other_file(tmp_path: Path) -> None:
    cut = MLP.split(MLP.build())
    save_stages(tmp_path, MLP, cut)
    file_of(tmp_path, 0).unlink()
    assert [digest_of(stage) for stage in load_stages(tmp_path, [2]).values()] == [digest_of(cut[2])]
    with pytest.raises(UserError, match=r"stage-0\.safetensors"):
        load_stages(tmp_path)
    with pytest.raises(UserError, match="the stages 0 to 2, and no 3"):
        load_stages(tmp_path, [3])


def test_what_is_known_of_the_network_comes_back(tmp_path: Path) -> None:
    data = {"name": "digits", "root": None, "verify": True, "channels": None}
    network = replace(MLP, data=data, mean=(0.5,), std=(16.0,), white=16)
    save_stages(tmp_path, network, network.split(network.build()))
    assert Network.load(tmp_path) == network
    images = Network.load(tmp_path).dataset()
    assert images is not None and images.classes == 10
    assert MLP.dataset() is None


def test_other_numbers_have_another_digest(tmp_path: Path) -> None:
    cut = MLP.split(MLP.build())
    save_stages(tmp_path, MLP, cut)
    state = load_file(file_of(tmp_path, 1))
    save_file({name: tensor + 1e-6 for name, tensor in state.items()}, file_of(tmp_path, 1))
    assert digest_of(load_stages(tmp_path, [1])[1]) != digest_of(cut[1])


def test_parameters_of_another_stage_are_refused(tmp_path: Path) -> None:
    save_stages(tmp_path, MLP, MLP.split(MLP.build()))
    file_of(tmp_path, 0).replace(file_of(tmp_path, 1))
    with pytest.raises(UserError, match="not the parameters of stage 1"):
        load_stages(tmp_path, [1])
    file_of(tmp_path, 1).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not the parameters of stage 1"):
        load_stages(tmp_path, [1])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "mlp"}', '{"cuts": 3}'])
def test_a_damaged_description_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=r"network\.json: damaged"):
        Network.load(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model in stages"):
        load_stages(tmp_path)


def test_cuts_that_cannot_be_say_why() -> None:
    with pytest.raises(UserError, match="residual"):
        replace(RESNET, cuts=("stages.0.0.conv1",)).split(RESNET.build())
    with pytest.raises(UserError, match="is no module of this network"):
        replace(MLP, cuts=("seven",)).split(MLP.build())


def test_building_a_network_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    MLP.build()
    assert torch.equal(torch.get_rng_state(), before)
