"""A served expert computes what the model computes, for well-formed tasks that are for this model, and no others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decentral.errors import Malformed, Refusal
from decentral.models.denoisers import unet
from decentral.models.experts import load_denoiser, velocity
from decentral.serving.experts.expert import ExpertService, digest_of
from decentral.serving.parts import MOST_SAMPLES
from decentral.wire.conversation import Output, Said, Task
from decentral.wire.identity import Identity
from decentral.wire.sessions import Client

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor(0.5, dtype=torch.float64)
LABELS = torch.tensor([0, 3])


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return unet((1, 8, 8), 3, channels=(8, 16)).eval()


async def inline(fn: Any) -> Tensor:
    result: Tensor = fn()
    return result


async def answer(
    service: ExpertService, tensors: dict[str, Tensor], *, part: str = "expert-0", digest: str = "", sender: Any = None
) -> Said:
    said: list[Said] = []

    async def say(message: Said) -> None:
        said.append(message)

    await service(
        Task(part, bytes.fromhex(digest or service.digest), tensors), Client(sender or Identity.generate().id, say)
    )
    return said[0]


async def test_it_answers_with_the_models_velocities(model):
    output = await answer(ExpertService(model, "expert-0", inline), {"x": X, "t": T, "labels": LABELS})
    assert isinstance(output, Output)
    with torch.no_grad():
        assert torch.equal(output.tensors["v"], velocity(model, X, 0.5, LABELS))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"x": X}, Refusal.SCHEMA),
        ({"t": T}, Refusal.SCHEMA),
        ({"x": X, "t": T, "y": X}, Refusal.SCHEMA),
        ({"x": X.double(), "t": T}, Refusal.SCHEMA),
        ({"x": X[:, :, :4], "t": T}, Refusal.SCHEMA),
        ({"x": X[:0], "t": T}, Refusal.SCHEMA),
        ({"x": torch.zeros(MOST_SAMPLES + 1, 1, 8, 8), "t": T}, Refusal.TOO_LARGE),
        ({"x": X[0], "t": T}, Refusal.SCHEMA),
        ({"x": X, "t": T.float()}, Refusal.SCHEMA),
        ({"x": X, "t": T + 1}, Refusal.SCHEMA),
        ({"x": X, "t": T * torch.nan}, Refusal.SCHEMA),
        ({"x": X * torch.nan, "t": T}, Refusal.MALFORMED),
        ({"x": X, "t": T, "labels": LABELS[:1]}, Refusal.SCHEMA),
        ({"x": X, "t": T, "labels": LABELS + 1}, Refusal.SCHEMA),
        ({"x": X, "t": T, "labels": LABELS - 1}, Refusal.SCHEMA),
        ({"x": X, "t": T, "labels": LABELS.float()}, Refusal.SCHEMA),
    ],
    ids=[
        "no t", "no x", "another tensor", "doubles", "another width", "no samples", "too many samples",
        "one sample alone", "t as float", "t above 1", "t is NaN", "x is NaN", "too few labels", "label too high",
        "label too low", "labels as float",
    ],
)  # fmt: skip
async def test_what_the_model_cannot_take_is_refused_before_it_is_computed(model, tensors, reason):
    with pytest.raises(Malformed) as refused:
        await answer(ExpertService(model, "expert-0", inline), tensors)
    assert refused.value.reason is reason


async def test_as_many_samples_as_are_taken_at_once_are_answered(model):
    x = torch.zeros(MOST_SAMPLES, 1, 8, 8)
    output = await answer(
        ExpertService(model, "expert-0", inline), {"x": x, "t": T, "labels": torch.zeros(len(x)).long()}
    )
    assert isinstance(output, Output) and output.tensors["v"].shape == x.shape


async def test_where_memory_runs_out_one_is_told_to_come_back(model, monkeypatch):
    def too_much(*inputs: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("decentral.serving.experts.expert.velocity", too_much)
    with pytest.raises(Malformed, match="no memory") as refused:
        await answer(ExpertService(model, "expert-0", inline), {"x": X, "t": T})
    assert refused.value.reason is Refusal.BUSY


async def test_clients_take_turns(model):
    """Nobody waits for all that another has asked."""
    many, one = Identity.generate().id, Identity.generate().id
    done: list[str] = []

    async def slowly(fn: Any) -> Tensor:
        await asyncio.sleep(0.001)
        return await inline(fn)

    service = ExpertService(model, "expert-0", slowly)

    async def ask(sender: Any) -> None:
        await answer(service, {"x": X, "t": T, "labels": LABELS}, sender=sender)
        done.append(sender)

    async with asyncio.timeout(60), asyncio.TaskGroup() as asking:
        for _ in range(10):
            asking.create_task(ask(many))
        asking.create_task(ask(one))
    assert done.index(one) <= 2 and len(done) == 11


async def test_another_part_and_another_digest_are_refused(model):
    service = ExpertService(model, "expert-0", inline)
    for wrong in ({"part": "expert-1"}, {"digest": "00" * 32}):
        with pytest.raises(Malformed) as refused:
            await answer(service, {"x": X, "t": T}, **wrong)
        assert refused.value.reason is Refusal.MODEL


def test_a_model_comes_back_from_its_folder_with_its_digest(tmp_path: Path, model):
    model.save_pretrained(tmp_path / "expert")
    assert digest_of(load_denoiser(tmp_path / "expert")) == digest_of(model)
