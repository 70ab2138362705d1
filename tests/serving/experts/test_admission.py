"""What may stand in one ensemble: each part that does not fit is named, with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from torch import nn

from decentral.errors import UserError
from decentral.models.experts import note
from decentral.serving.experts.admission import check_experts, check_folder, check_part, check_router, check_scheduler
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline

Part = Callable[..., nn.Module]


def test_experts_of_one_kind_fit(part: Part) -> None:
    check_experts({0: part(0), 3: part(1)})
    check_experts({1: part(0, kind="dit"), 2: part(1, kind="dit")})
    check_experts({})


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"kind": "dit"}, "its architecture is DiTTransformer2DModel, that of expert_0 is UNet2DModel"),
        ({"channels": (16, 16)}, r"its block_out_channels is \(16, 16\), that of expert_0 is \(8, 16\)"),
        ({"layers": 2}, "its layers_per_block is 2, that of expert_0 is 1"),
        ({"shape": (3, 8, 8)}, "its in_channels is 3, that of expert_0 is 1"),
        ({"shape": (1, 16, 16)}, r"its image size is \(16, 16\), that of expert_0 is \(8, 8\)"),
        ({"conditional": False}, "its number of classes is 0, that of expert_0 is 3"),
        ({"outputs": 2}, "answers 1 channels with 2"),
    ],
)
def test_an_expert_unlike_the_others_is_named_with_the_difference(
    part: Part, other: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=f"expert_2.*{problem}"):
        check_experts({0: part(0), 1: part(1), 2: part(2, **other)})


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"prediction_type": "epsilon"}, "predicts 'epsilon'"),
        ({"path": "cosine"}, "path 'cosine', not on the linear one"),
        ({"num_train_timesteps": 100}, "counts 100 timesteps"),
    ],
)
def test_an_expert_of_another_prediction_or_schedule_is_named(part: Part, facts: dict[str, Any], problem: str) -> None:
    stranger = part(1)
    note(stranger, **facts)
    with pytest.raises(UserError, match=f"expert_1.*{problem}"):
        check_experts({0: part(0), 1: stranger})


def test_an_expert_that_predicts_the_image_fits_beside_others(part: Part) -> None:
    other = part(1)
    note(other, prediction_type="sample")
    check_experts({0: part(0), 1: other})


def test_dropout_and_the_place_it_was_loaded_from_make_no_difference(part: Part) -> None:
    other = part(1)
    other.register_to_config(dropout=0.1, _name_or_path="elsewhere")
    check_experts({0: part(0), 1: other})


def test_other_kinds_of_models_are_refused_by_name(part: Part) -> None:
    with pytest.raises(UserError, match="expert_1 is a Linear, not a UNet2DModel or DiTTransformer2DModel"):
        check_experts({0: part(0), 1: nn.Linear(2, 2)})
    text = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    )
    with pytest.raises(UserError, match="expert_0 is a UNet2DConditionModel"):
        check_experts({0: text})
    strange = part(0)
    strange.register_to_config(class_embed_type="timestep")
    with pytest.raises(UserError, match="expert_0 has class_embed_type"):
        check_experts({0: strange})


def test_a_router_says_how_many_experts_there_are(part: Part) -> None:
    experts = {0: part(0), 2: part(2)}
    assert check_router(part(9, outputs=4), experts) == 4
    assert check_router(part(9, outputs=4, conditional=False), experts) == 4
    assert check_router(part(9, kind="dit", outputs=4), experts) == 4, "it may be of another kind than the experts"
    assert check_router(part(9, outputs=4), {}) == 4
    assert check_router(None, {2: part(2)}) == 3


@pytest.mark.parametrize(
    ("router", "problem"),
    [
        (None, "2 experts need a router"),
        ({"outputs": 2}, "expert_2 is unknown to the router, which tells 2 clusters apart"),
        ({"outputs": 4, "shape": (3, 8, 8)}, "router does not fit: its in_channels is 3, that of expert_0 is 1"),
        ({"outputs": 4, "shape": (1, 16, 16)}, "router does not fit: its image size"),
    ],
)
def test_a_router_that_does_not_fit_is_refused(part: Part, router: dict[str, Any] | None, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        check_router(None if router is None else part(9, **router), {0: part(0), 2: part(2)})


def test_a_scheduler_takes_straight_steps(part: Part) -> None:
    check_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))
    with pytest.raises(UserError, match="the scheduler is a DDPMScheduler"):
        check_scheduler(DDPMScheduler())
    for option in ("invert_sigmas", "stochastic_sampling", "use_dynamic_shifting"):
        with pytest.raises(UserError, match=option):
            check_scheduler(FlowMatchEulerDiscreteScheduler(**{option: True}))


# Folders


@pytest.fixture
def folder(pipeline: DecentralizedDiffusionPipeline, tmp_path: Path) -> Path:
    pipeline.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(folder: Path, **parts: Any) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **parts}))


def test_what_was_saved_may_be_loaded(folder: Path) -> None:
    for name, value in check_folder(folder).items():
        if isinstance(value, list) and value[0]:
            check_part(folder, name)


def test_a_folder_without_an_index_or_with_a_damaged_one_is_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        check_folder(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(UserError, match="no saved pipeline"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"expert_16": ["diffusers", "UNet2DModel"]}, "not known: expert_16; there are at most 16"),
        ({"safety": ["diffusers", "UNet2DModel"]}, "not known: safety"),
        ({"expert_2": ["subprocess", "Popen"]}, r"expert_2 in .* is a subprocess\.Popen"),
        ({"expert_2": ["diffusers", "UNet3DConditionModel"]}, r"expert_2 in .* is a diffusers\.UNet3DConditionModel"),
        ({"scheduler": ["diffusers", "DDPMScheduler"]}, "scheduler"),
    ],
)
def test_an_index_that_names_other_parts_or_other_code_is_not_followed(
    folder: Path, parts: dict[str, Any], problem: str
) -> None:
    rewrite(folder, **parts)
    with pytest.raises(UserError, match=problem):
        DecentralizedDiffusionPipeline.from_pretrained(folder)


def test_a_part_that_is_missing_is_named(folder: Path) -> None:
    (folder / "expert_1" / "config.json").unlink()
    with pytest.raises(UserError, match="expert_1 has no configuration"):
        DecentralizedDiffusionPipeline.from_pretrained(folder)
    (folder / "expert_0" / "diffusion_pytorch_model.safetensors").rename(folder / "expert_0" / "model.bin")
    with pytest.raises(UserError, match="expert_0 has no weights"):
        DecentralizedDiffusionPipeline.from_pretrained(folder)
    shutil.rmtree(folder / "expert_0")
    with pytest.raises(UserError, match=r"expert_0 is missing: .*; expert_0=None goes on without it"):
        DecentralizedDiffusionPipeline.from_pretrained(folder)
    alone = DecentralizedDiffusionPipeline.from_pretrained(folder, expert_0=None, expert_1=None)
    assert list(alone.experts) == [2, 3]
    shutil.rmtree(folder / "router")
    with pytest.raises(UserError, match="router is missing"):
        DecentralizedDiffusionPipeline.from_pretrained(folder, expert_0=None, expert_1=None)
