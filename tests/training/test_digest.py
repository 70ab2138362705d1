"""A digest tells any two models apart, and nothing but the model changes it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from decentral.training.digest import described, model_digest

STATE = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()


def test_the_order_and_the_memory_of_tensors_do_not_matter() -> None:
    again = {name: STATE[name].clone() for name in reversed(STATE)}
    assert model_digest("net", again) == model_digest("net", STATE)
    transposed = {**STATE, "0.weight": STATE["0.weight"].t().contiguous().t()}
    assert model_digest("net", transposed) == model_digest("net", STATE)


@given(st.sampled_from(sorted(name for name, tensor in STATE.items() if tensor.is_floating_point())))
def test_one_bit_of_one_number_changes_it(name: str) -> None:
    changed = {key: tensor.clone() for key, tensor in STATE.items()}
    changed[name].view(torch.int32).view(-1)[0] ^= 1
    assert model_digest("net", changed) != model_digest("net", STATE)


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "extra": torch.zeros(0)},
        {name: tensor for name, tensor in STATE.items() if name != "0.bias"},
        {**STATE, "0.weight": STATE["0.weight"].reshape(3, 2)},
        {**STATE, "0.weight": STATE["0.weight"].view(torch.int32)},
        {**STATE, "0.weight": STATE["0.bias"], "0.bias": STATE["0.weight"]},
    ],
    ids=["more", "less", "shape", "dtype", "swapped"],
)
def test_another_schema_changes_it(other: dict[str, torch.Tensor]) -> None:
    assert model_digest("net", other) != model_digest("net", STATE)


def test_what_is_computed_is_part_of_it_and_where_it_came_from_is_not() -> None:
    config = {"_class_name": "UNet2DModel", "sample_size": 8, "_diffusers_version": "0.42.1", "_name_or_path": "/a"}
    elsewhere = {**config, "_diffusers_version": "0.43", "_name_or_path": "/b"}
    assert described(config) == described(elsewhere)
    assert described(config) != described({**config, "sample_size": 16})
    assert described(config) != described({**config, "_class_name": "DiTTransformer2DModel"})
    assert model_digest("a", STATE) != model_digest("b", STATE)
