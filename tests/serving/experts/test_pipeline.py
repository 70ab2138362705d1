"""A diffusers pipeline of several experts: what it takes, what comes out, and what a folder of it is good for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn

from decentral.errors import Unreachable, UserError
from decentral.models.experts import Router, facts, note, velocity
from decentral.serving.experts.denoising import Answer, Evaluation, Gone
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline

Part = Callable[..., nn.Module]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def images(pipeline: DecentralizedDiffusionPipeline, number: int = 4, **arguments: Any) -> Tensor:
    given = {"generator": seed(), "num_inference_steps": 3, "output_type": "pt", **arguments}
    found: Tensor = pipeline(number, **given).images
    return found


# Sampling


@pytest.mark.parametrize("choice", ["full", "top-1", "top-2", {"threshold": 0.9}, "by-noise"])
def test_an_image_is_the_weighted_flow_from_noise(pipeline: DecentralizedDiffusionPipeline, choice: Any) -> None:
    from decentral.core.gating import gate

    route, chosen = Router(pipeline.router), gate(choice)
    x = torch.randn(4, 1, 8, 8, generator=seed())
    for step in range(3):
        t = 1 - step / 3
        weights = chosen(route(x, t).softmax(1), torch.full((4,), t))
        velocities = torch.stack([velocity(pipeline.experts[k], x, t) for k in range(4)], 1)
        x = x - (weights[..., None, None, None] * velocities).sum(1).detach() / 3
    found = images(pipeline, experts=choice)
    torch.testing.assert_close(found, (x / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_equal_seeds_give_equal_images_and_others_do_not(pipeline: DecentralizedDiffusionPipeline) -> None:
    assert torch.equal(images(pipeline), images(pipeline))
    assert not torch.equal(images(pipeline), images(pipeline, generator=seed(1)))


def test_parts_lie_in_memory_as_torch_would_have_them(part: Part) -> None:
    expert = part(0)
    for parameter in expert.parameters():  # as a mapped file's may
        parameter.data = torch.cat([torch.zeros(1), parameter.data.flatten()])[1:].view(parameter.shape)
    made = DecentralizedDiffusionPipeline(expert_0=expert)
    assert all(parameter.data_ptr() % 64 == 0 for parameter in made.experts[0].parameters())


def test_with_a_seed_for_each_image_its_noise_does_not_depend_on_the_others(
    pipeline: DecentralizedDiffusionPipeline,
) -> None:
    together = images(pipeline, 3, generator=[seed(5), seed(6), seed(7)])
    alone = torch.cat([images(pipeline, 1, generator=seed(number)) for number in (5, 6, 7)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_micro_batches_are_the_same_images(pipeline: DecentralizedDiffusionPipeline) -> None:
    torch.testing.assert_close(images(pipeline, 5, micro_batch=2), images(pipeline, 5), atol=1e-5, rtol=0)


def test_whoever_drives_the_loop_gets_the_same_bits(pipeline: DecentralizedDiffusionPipeline) -> None:
    # As a client of peers does: batches taken through the steps out of step with one another.
    given: dict[str, Any] = {"num_inference_steps": 3, "experts": "top-2", "micro_batch": 2}
    sampling = pipeline.start(num_images=5, generator=seed(), **given)
    for part in reversed(sampling.batches):
        while work := part.work():
            part.take([pipeline.evaluate(evaluation) for evaluation in work])
    found = pipeline.decode(torch.cat([part.latents for part in sampling.batches]), "pt")
    assert torch.equal(found, images(pipeline, 5, **given))


def test_a_client_of_peers_needs_no_expert_of_its_own(pipeline: DecentralizedDiffusionPipeline) -> None:
    client = DecentralizedDiffusionPipeline(router=pipeline.router, num_classes=3)
    sampling = client.start(
        num_images=4, num_inference_steps=3, class_labels=1, guidance_scale=2.0, generator=seed(), present=range(4)
    )
    [part] = sampling.batches
    while work := part.work():
        part.take([pipeline.evaluate(evaluation) for evaluation in work])
    assert torch.equal(client.decode(part.latents, "pt"), images(pipeline, class_labels=1, guidance_scale=2.0))


def test_the_result_says_who_saw_how_many_samples(pipeline: DecentralizedDiffusionPipeline) -> None:
    whole = pipeline(4, num_inference_steps=3, output_type="pt")
    assert whole.evaluations == dict.fromkeys(range(4), 12)
    assert whole.absent == {}
    assert sum(pipeline(4, num_inference_steps=3, experts="top-1").evaluations.values()) == 12
    assert sum(pipeline(class_labels=[0, 1], guidance_scale=2.0, num_inference_steps=3).evaluations.values()) == 48


def test_labels_and_guidance_have_a_say(pipeline: DecentralizedDiffusionPipeline) -> None:
    plain, labelled = images(pipeline), images(pipeline, class_labels=[0, 1, 2, 0])
    guided = images(pipeline, class_labels=[0, 1, 2, 0], guidance_scale=3.0)
    assert not torch.allclose(plain, labelled)
    assert not torch.allclose(labelled, guided)
    torch.testing.assert_close(images(pipeline, class_labels=1), images(pipeline, class_labels=torch.ones(4).int()))
    assert images(pipeline, None, class_labels=[0, 1]).shape[0] == 2


def test_a_conditional_router_hears_the_labels(pipeline: DecentralizedDiffusionPipeline, part: Part) -> None:
    pipeline.router = part(100, outputs=4, conditional=True)
    both = [images(pipeline, class_labels=label, experts="top-1") for label in (0, 1)]
    assert not torch.allclose(*both)


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_one_expert_alone_needs_no_router(part: Part, kind: str) -> None:
    alone = DecentralizedDiffusionPipeline(expert_0=part(0, kind=kind))
    alone.set_progress_bar_config(disable=True)
    x = torch.randn(4, 1, 8, 8, generator=seed())
    for step in range(3):
        x = x - velocity(alone.experts[0], x, 1 - step / 3).detach() / 3
    torch.testing.assert_close(images(alone), (x / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_transformers_sample_too(part: Part) -> None:
    experts = {f"expert_{k}": part(k, kind="dit") for k in range(2)}
    made = DecentralizedDiffusionPipeline(router=part(9, kind="dit", outputs=2), **experts)
    made.set_progress_bar_config(disable=True)
    assert images(made, class_labels=1, guidance_scale=2.0).isfinite().all()


def never_in_training(module: nn.Module, given: object) -> None:
    assert not module.training


def test_models_in_training_sample_as_if_they_were_not_and_stay_in_training(
    pipeline: DecentralizedDiffusionPipeline,
) -> None:
    expected = images(pipeline)
    for index, expert in pipeline.experts.items():
        expert.register_forward_pre_hook(never_in_training)
        expert.train(index < 2)
    assert torch.equal(images(pipeline), expected)
    assert [expert.training for expert in pipeline.experts.values()] == [True, True, False, False]


def test_the_schedulers_shift_is_honoured(pipeline: DecentralizedDiffusionPipeline) -> None:
    plain = images(pipeline)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert not torch.allclose(images(pipeline), plain)


# What comes out


def test_images_come_in_the_forms_of_diffusers(pipeline: DecentralizedDiffusionPipeline) -> None:
    numbers = images(pipeline)
    assert numbers.shape == (4, 1, 8, 8)
    assert 0 <= numbers.min() <= numbers.max() <= 1
    array = images(pipeline, output_type="np")
    np.testing.assert_array_equal(array, numbers.permute(0, 2, 3, 1).numpy())
    pictures = images(pipeline, output_type="pil")
    assert all(isinstance(picture, Image.Image) and picture.size == (8, 8) for picture in pictures)
    assert images(pipeline, output_type="latent").dtype == torch.float32
    found = pipeline(4, 3, generator=seed(), output_type="pt", return_dict=False)
    assert isinstance(found, tuple)
    assert torch.equal(found[0], numbers)


def test_the_names_of_diffusers_are_taken_too(pipeline: DecentralizedDiffusionPipeline) -> None:
    assert torch.equal(images(pipeline, None, batch_size=4), images(pipeline))
    noise = torch.randn(4, 1, 8, 8, generator=seed())
    assert torch.equal(images(pipeline, generator=None, latents=noise), images(pipeline))


def test_the_callback_sees_each_step_and_may_change_the_latents(pipeline: DecentralizedDiffusionPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def watch(pipe: object, step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        assert pipe is pipeline
        seen.append((step, timestep.item()))
        return {"latents": torch.zeros_like(values["latents"])} if step == 2 else {}

    found = images(pipeline, 5, callback_on_step_end=watch, micro_batch=2)
    assert seen == [(step, pytest.approx(1000 * (1 - step / 3))) for step in range(3)]
    assert (found == 0.5).all()


def test_progress_is_shown_as_diffusers_does(
    pipeline: DecentralizedDiffusionPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.set_progress_bar_config(disable=False)
    images(pipeline)
    assert "3/3" in capsys.readouterr().err


# Experts that are absent


def test_without_an_expert_the_others_share_its_weight_and_the_result_says_so(
    pipeline: DecentralizedDiffusionPipeline,
) -> None:
    whole = images(pipeline)
    pipeline.expert_2 = None
    found = pipeline(4, 3, generator=seed(), output_type="pt")
    assert found.absent == {2: "not loaded"}
    assert set(found.evaluations) == {0, 1, 3}
    assert not torch.equal(found.images, whole)


def test_an_expert_that_dies_in_the_middle_is_dropped(
    pipeline: DecentralizedDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = pipeline.evaluate

    def mortal(evaluation: Evaluation) -> Answer:
        return Gone("killed") if evaluation.expert == 1 and evaluation.t < 0.9 else evaluate(evaluation)

    monkeypatch.setattr(pipeline, "evaluate", mortal)
    found = pipeline(4, 3, generator=seed(), output_type="pt")
    assert found.absent == {1: "step 2 of 3: killed"}
    assert found.evaluations == {0: 12, 1: 4, 2: 12, 3: 12}
    monkeypatch.setattr(pipeline, "evaluate", lambda evaluation: Gone("killed"))
    with pytest.raises(Unreachable, match=r"step 1 of 3: expert_0: .*killed"):
        images(pipeline)


# Arguments that cannot be


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, not 0"),
        ({"num_images": 0}, "num_images must be at least 1"),
        ({"micro_batch": 0}, "micro_batch must be at least 1"),
        ({"num_images": 2, "batch_size": 3}, "same thing"),
        ({"class_labels": [0, 3]}, "between 0 and 2, not 3"),
        ({"class_labels": -1}, "between 0 and 2, not -1"),
        ({"class_labels": [0.5]}, "must be an integer"),
        ({"class_labels": ["cat"]}, "must be an integer"),
        ({"class_labels": []}, "must be an integer"),
        ({"class_labels": [0, 1], "num_images": 3}, "2 class_labels for 3 images"),
        ({"guidance_scale": 2.0}, "needs class_labels"),
        ({"experts": "top-0"}, "at least 1"),
        ({"experts": "best"}, "unknown choice of experts"),
        ({"output_type": "jpeg"}, "output_type must be one of"),
        ({"latents": torch.zeros(1, 1, 16, 16)}, r"\(1, 1, 16, 16\), not \(1, 1, 8, 8\)"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 images"),
    ],
)
def test_arguments_that_cannot_be_are_refused_with_the_reason(
    pipeline: DecentralizedDiffusionPipeline, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        pipeline(**arguments)


def test_labels_for_experts_without_classes_are_refused(part: Part) -> None:
    alone = DecentralizedDiffusionPipeline(expert_0=part(0, conditional=False))
    with pytest.raises(UserError, match="know no classes"):
        alone(class_labels=0)


def test_nobody_to_ask_is_an_error_and_so_is_a_stranger(pipeline: DecentralizedDiffusionPipeline) -> None:
    with pytest.raises(UserError, match="no experts and no router"):
        DecentralizedDiffusionPipeline()
    client = DecentralizedDiffusionPipeline(router=pipeline.router)
    with pytest.raises(UserError, match="none of expert_0 to expert_3 is loaded"):
        client(1)
    with pytest.raises(UserError, match="expert_4 is unknown to the router"):
        client.start(present=[0, 4])


def test_parts_that_do_not_fit_are_found_when_they_are_put_together_or_replaced(
    pipeline: DecentralizedDiffusionPipeline, part: Part
) -> None:
    with pytest.raises(UserError, match="expert_1 does not fit: its image size"):
        DecentralizedDiffusionPipeline(router=pipeline.router, expert_0=part(0), expert_1=part(1, shape=(1, 16, 16)))
    with pytest.raises(UserError, match="num_classes is 7, but expert_0 knows 3"):
        DecentralizedDiffusionPipeline(expert_0=part(0), num_classes=7)
    pipeline.expert_3 = part(3, layers=2)
    with pytest.raises(UserError, match="expert_3 does not fit: its layers_per_block"):
        pipeline(1)


# Folders


def test_a_folder_brings_back_the_same_images(pipeline: DecentralizedDiffusionPipeline, tmp_path: Path) -> None:
    temperature = {"times": [0.2, 0.8], "values": [0.5, 2.0]}
    note(pipeline.router, temperature=temperature)
    pipeline.expert_1 = None
    pipeline.save_pretrained(tmp_path)
    again = DecentralizedDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"class_labels": [0, 1, 2, 0], "guidance_scale": 2.0, "experts": "top-2"}
    assert torch.equal(images(again, **given), images(pipeline, **given))
    assert facts(again.router).temperature == temperature
    assert list(again.experts) == [0, 2, 3]
    assert again.config.num_classes == 3


def test_parts_of_a_folder_may_be_loaded_alone(pipeline: DecentralizedDiffusionPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    assert list(DecentralizedDiffusionPipeline.from_pretrained(tmp_path, experts=[1, 3]).experts) == [1, 3]
    client = DecentralizedDiffusionPipeline.from_pretrained(tmp_path, experts=())
    assert client.experts == {}
    assert client.config.num_classes == 3
    with pytest.raises(UserError, match="there is no expert_16: experts are numbered from 0 to 15"):
        DecentralizedDiffusionPipeline.from_pretrained(tmp_path, experts=[3, 16])


def test_half_precision_experts_sample_with_latents_in_full(
    pipeline: DecentralizedDiffusionPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path)
    half = DecentralizedDiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    latents = images(half, output_type="latent")
    assert latents.dtype == torch.float32
    assert (latents - images(pipeline, output_type="latent")).abs().mean() < 0.05


FRESH = """
import sys, torch
torch.set_num_threads(1)
from diffusers import UNet2DModel
expert = UNet2DModel.from_pretrained(sys.argv[1], subfolder="expert_2")
with torch.no_grad():
    answer = expert(torch.ones(2, 1, 8, 8), torch.full((2,), 500.0), class_labels=torch.tensor([0, 3])).sample
assert not any(name.startswith("decentral") for name in sys.modules)

from decentral import DecentralizedDiffusionPipeline
pipeline = DecentralizedDiffusionPipeline.from_pretrained(sys.argv[1])
given = {"num_inference_steps": 3, "experts": "top-2", "class_labels": 1, "output_type": "pt"}
images = pipeline(4, generator=torch.Generator().manual_seed(0), **given).images
sys.stdout.buffer.write(torch.cat([answer, images]).numpy().tobytes())
"""


def test_a_fresh_process_without_a_network_uses_an_expert_alone_and_samples_with_all(
    pipeline: DecentralizedDiffusionPipeline, tmp_path: Path
) -> None:
    # The expert by plain diffusers, before anything of ours is imported; then the same images to the bit.
    pipeline.save_pretrained(tmp_path)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FRESH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    found = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).view(6, 1, 8, 8)
    expected = velocity(pipeline.expert_2, torch.ones(2, 1, 8, 8), 0.5, torch.tensor([0, 3]))
    assert torch.equal(found[:2], expected)
    assert torch.equal(found[2:], images(pipeline, class_labels=1, experts="top-2"))
