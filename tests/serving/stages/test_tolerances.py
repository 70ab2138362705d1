"""A cluster's tolerances are measured on the stages that it pins, written beside their digests, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from decentral.errors import UserError
from decentral.serving.stages import tolerances
from decentral.serving.stages.machines import machines
from decentral.serving.stages.model import Network, digest_of, save_stages
from decentral.serving.stages.tolerances import STAGES, Calibration, Wanted, calibrate
from decentral.trust.anchors import FILE, Anchor, Anchors, Part
from decentral.wire.messages import PeerId

DATA = {"name": "digits", "root": None, "verify": True, "channels": None}
NETWORK = Network("mlp", {"hidden": [16]}, (1, 8, 8), 10, ("2",), True, "nowhere", DATA, (), (5.0,), (6.0,), 16)
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
ROUGH = Wanted(false_reject=0.1)


def model(seed: int) -> nn.Module:
    network = NETWORK.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.2)
    return network


def cluster(folder: Path, network: Network = NETWORK) -> Path:
    stages = network.split(model(0))
    (folder / STAGES).mkdir(parents=True)
    save_stages(folder / STAGES, network, stages)
    parts = tuple(Part(f"stage-{i}", digest_of(stage), "peers", 1e-4, 1.0) for i, stage in enumerate(stages))
    peer = Anchor("stage-0-a", PeerId("a" * 52), "127.0.0.1:7000", "stage-0", parts[0].digest)
    Anchors(CERTIFICATE, (peer,), 4, parts).save(folder / FILE)
    return folder


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibration, list[int]]:
    folder, told = cluster(tmp_path_factory.mktemp("cluster") / "dir"), list[int]()
    save_file(model(1).state_dict(), folder / "another.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tolerances, "machines", lambda: [machines()[0], machines()[-1]])
        others = {"another": folder / "another.safetensors"}
        return folder, calibrate(folder, ROUGH, others=others, measured=told.append), told


def test_every_part_is_calibrated_on_the_clusters_own_data(calibration: tuple[Path, Calibration, list[int]]) -> None:
    _, found, told = calibration
    assert [part.name for part in found.parts] == ["stage-0", "stage-1"]
    assert "test images of digits" in found.of
    assert told[-1] == ROUGH.count() == 29
    assert found.parts[0].gain > 1
    assert found.parts[1].gain == 1
    assert found.drift == pytest.approx(found.parts[0].tolerance * found.parts[0].gain + found.parts[1].tolerance)
    for part in found.parts:
        assert part.honest.upper() <= 0.1
        assert 0 < part.limit < part.tolerance < 1e-4
        assert {"another", "int8", "bf16"} <= part.detected.keys()
        assert all(rate.events == rate.trials == 29 for rate in part.detected.values())


def test_what_is_pinned_are_tolerances_and_gains_and_nothing_else(
    calibration: tuple[Path, Calibration, list[int]],
) -> None:
    folder, found, _ = calibration
    before = Anchors.load(folder / FILE)
    found.pin(folder)
    after = Anchors.load(folder / FILE)
    assert [part.tolerance for part in after.parts] == [part.tolerance for part in found.parts]
    assert [part.gain for part in after.parts] == [part.gain for part in found.parts]
    kept = tuple(
        replace(part, tolerance=old.tolerance, gain=old.gain)
        for part, old in zip(after.parts, before.parts, strict=True)
    )
    assert replace(after, parts=kept) == before


def test_too_few_samples_are_refused_before_any_is_measured(tmp_path: Path) -> None:
    assert Wanted().count() == 2995
    assert Wanted(samples=4000).count() == 4000
    with pytest.raises(UserError, match="at least 2995 batches"):
        calibrate(tmp_path, Wanted(samples=300))


def test_what_is_no_such_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        calibrate(tmp_path, ROUGH)
    Anchors(CERTIFICATE, ()).save(tmp_path / FILE)
    with pytest.raises(UserError, match="no model in stages"):
        calibrate(tmp_path, ROUGH)


def test_stages_that_are_not_the_pinned_ones_are_refused(tmp_path: Path) -> None:
    folder = cluster(tmp_path / "dir")
    save_stages(folder / STAGES, NETWORK, NETWORK.split(model(5)))
    with pytest.raises(UserError, match="not those that"):
        calibrate(folder, ROUGH)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    folder = cluster(tmp_path / "dir")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="lacks"):
        calibrate(folder, ROUGH, others={"other": tmp_path / "other.safetensors"})


def test_where_no_data_are_known_the_inputs_are_noise_and_it_is_said() -> None:
    inputs, words = tolerances._inputs(replace(NETWORK, data=None))
    assert inputs.shape == (4096, 1, 8, 8)
    assert "noise" in words
