"""Stock diffusers models as experts and routers: what they are asked, and what their configurations carry along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from torch import nn

from decentral.errors import UserError
from decentral.models.denoisers import ask, dit, unet
from decentral.models.experts import (
    DATA,
    FACTS,
    Router,
    classes,
    facts,
    image_size,
    load_denoiser,
    note,
    outputs,
    own_memory,
    velocity,
)

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 1])


def model(kind: str, *, conditional: bool = True, outputs: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module
    if kind == "unet":
        made = unet((1, 8, 8), 4, channels=(8, 16), conditional=conditional, outputs=outputs)
    else:
        made = dit((1, 8, 8), 4, heads=2, head=8, layers=2, conditional=conditional, outputs=outputs)
    for parameter in made.parameters():  # a DiT begins as zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.eval()


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_model_is_asked_in_the_units_of_diffusers(kind: str) -> None:
    expert = model(kind)
    expected = expert(X, torch.full((3,), 250.0), class_labels=LABELS).sample
    assert torch.equal(velocity(expert, X, 0.25, LABELS), expected)
    assert torch.equal(velocity(expert, X, torch.full((3,), 0.25), LABELS), expected)


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_no_label_is_the_label_after_the_last_class(kind: str) -> None:
    expert = model(kind)
    assert classes(expert) == 4
    assert torch.equal(velocity(expert, X, 0.5), velocity(expert, X, 0.5, torch.full((3,), 4)))
    assert not torch.equal(velocity(expert, X, 0.5), velocity(expert, X, 0.5, LABELS))


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_model_without_classes_needs_no_label(kind: str) -> None:
    expert = model(kind, conditional=False)
    assert classes(expert) == 0
    assert velocity(expert, X, 0.5).shape == X.shape


def test_halves_answer_in_the_dtype_of_the_sample() -> None:
    expert = model("unet").to(torch.bfloat16)
    assert velocity(expert, X, 0.5, LABELS).dtype == torch.float32


def test_a_prediction_of_the_image_is_converted_exactly() -> None:
    expert = model("unet")
    image = ask(expert, X, torch.full((3,), 0.4), LABELS)
    note(expert, prediction_type=DATA)
    torch.testing.assert_close(X - 0.4 * velocity(expert, X, 0.4, LABELS), image)


def test_a_prediction_of_something_else_has_no_part_in_a_flow() -> None:
    expert = model("unet")
    note(expert, prediction_type="epsilon")
    with pytest.raises(UserError, match="predicts 'epsilon'"):
        velocity(expert, X, 0.4)


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_router_is_a_model_with_a_channel_for_each_cluster(kind: str) -> None:
    router = Router(model(kind, outputs=3))
    assert outputs(router.model) == 3
    assert router.conditional
    logits = router(X, 0.5, LABELS)
    expected = router.model(X, torch.full((3,), 500.0), class_labels=LABELS).sample.mean((2, 3))
    assert torch.equal(logits, expected)


def test_a_router_without_classes_leaves_labels_out() -> None:
    router = Router(model("unet", conditional=False, outputs=3))
    assert not router.conditional
    assert torch.equal(router(X, 0.5, LABELS), router(X, 0.5))


def test_the_temperature_of_a_router_depends_on_the_noise() -> None:
    router = Router(model("unet", outputs=3))
    plain = {t: router(X, t) for t in (0.0, 0.5, 1.0)}
    note(router.model, temperature={"times": [0.0, 1.0], "values": [1.0, 3.0]})
    for t, temperature in {0.0: 1.0, 0.5: 2.0, 1.0: 3.0}.items():
        torch.testing.assert_close(router(X, t), plain[t] / temperature)
    each = router(X, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(each, torch.stack([router(X, t)[row] for row, t in enumerate(plain)]))


@pytest.mark.parametrize("kind", [UNet2DModel, DiTTransformer2DModel])
def test_facts_survive_plain_loading_and_saving(kind: type[nn.Module], tmp_path: Path) -> None:
    made = model("unet" if kind is UNet2DModel else "dit", outputs=3)
    temperature = {"times": [0.1, 0.9], "values": [1.0, 2.0]}
    note(made, temperature=temperature)
    note(made, path="linear")
    made.save_pretrained(tmp_path / "once")
    again = kind.from_pretrained(tmp_path / "once", low_cpu_mem_usage=False)
    again.save_pretrained(tmp_path / "twice")
    written = json.loads((tmp_path / "twice" / "config.json").read_text())[FACTS]
    assert written == {"temperature": temperature, "path": "linear"}
    assert facts(again).temperature == temperature


def test_a_model_without_facts_is_taken_for_a_flow() -> None:
    assert facts(model("unet")).prediction_type == "flow_prediction"


@pytest.mark.parametrize(
    "temperature", [{"times": [0.5], "values": [0.0]}, {"times": [], "values": []}, {"times": [0.5]}, {"when": [1]}]
)
def test_a_temperature_that_cannot_be_is_not_noted(temperature: dict[str, list[float]]) -> None:
    with pytest.raises(UserError, match="temperature"):
        note(model("unet"), temperature=temperature)


def test_facts_that_nobody_knows_are_refused() -> None:
    stranger = model("unet")
    stranger.register_to_config(**{FACTS: {"mood": "good"}})
    with pytest.raises(UserError, match="mood"):
        facts(stranger)


def test_the_size_of_images_must_be_said() -> None:
    assert image_size(model("unet")) == (8, 8)
    nameless = model("unet")
    nameless.register_to_config(sample_size=None)
    with pytest.raises(UserError, match="sample_size"):
        image_size(nameless)
    nameless.register_to_config(sample_size=(8, 4))
    assert image_size(nameless) == (8, 4)


@pytest.mark.parametrize("content", [None, "not json", "[]", '{"_class_name": "AutoencoderKL"}'])
def test_a_folder_that_holds_no_denoiser_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="holds no expert and no router"):
        load_denoiser(tmp_path)


def test_a_transformer_comes_back_with_its_labels_kept(tmp_path):
    dit((1, 8, 8), 10, heads=2, head=8, layers=1, outputs=2).save_pretrained(tmp_path)
    again = load_denoiser(tmp_path)
    assert outputs(again) == 2 and not again.training
    assert all(module.dropout_prob == 0 for module in again.modules() if hasattr(module, "token_drop"))


def askew(model: nn.Module, numbers: int) -> nn.Module:
    """The same model, its parameters where a file's header would leave them: that many numbers past a boundary."""
    for parameter in model.parameters():
        room = torch.empty(parameter.numel() + 32)
        start = -(room.data_ptr() // 4) % 16 + numbers
        moved = room[start : start + parameter.numel()].view(parameter.shape)
        parameter.data = moved.copy_(parameter.data)
    return model


@pytest.mark.parametrize("kind", ["unet", "dit"])
@pytest.mark.parametrize("numbers", [1, 2, 7])
@torch.no_grad()
def test_wherever_its_parameters_came_from_a_model_answers_with_the_same_bits(kind: str, numbers: int) -> None:
    """A single sample above all, whose sums depend on addresses."""
    here, moved = model(kind), own_memory(askew(model(kind), numbers))
    assert all(parameter.data_ptr() % 64 == 0 for parameter in moved.parameters())
    for count in (1, 3):
        assert torch.equal(velocity(here, X[:count], 0.3), velocity(moved, X[:count], 0.3))


def test_what_was_loaded_lies_as_torch_would_have_it(tmp_path: Path) -> None:
    cast(Any, model("unet")).save_pretrained(tmp_path)
    assert all(parameter.data_ptr() % 64 == 0 for parameter in load_denoiser(tmp_path).parameters())
