"""Weighted averages of models."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.averaging import WeightedAverage, weighted_average


def model(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(7, 3, generator=generator).to(dtype), "b": torch.randn(3, generator=generator).to(dtype)}


raw = st.lists(st.integers(1, 100), min_size=1, max_size=6)


@given(raw)
def test_the_average_is_the_weighted_sum(counts: list[int]) -> None:
    weights = [count / sum(counts) for count in counts]
    models = [model(seed, torch.float64) for seed in range(len(counts))]
    average = weighted_average(models, weights)
    for name in ("w", "b"):
        expected = torch.stack([m[name] * w for m, w in zip(models, weights, strict=True)]).sum(0)
        torch.testing.assert_close(average[name], expected)


@given(raw)
def test_one_at_a_time_is_all_at_once_to_the_bit(counts: list[int]) -> None:
    weights = [count / sum(counts) for count in counts]
    models = [model(seed) for seed in range(len(counts))]
    stream = WeightedAverage()
    for state, weight in zip(models, weights, strict=True):
        stream.add(state, weight)
    streamed, together = stream.result(), weighted_average(models, weights)
    assert all(torch.equal(streamed[name], together[name]) for name in together)


@given(raw)
def test_sample_counts_are_weights_too(counts: list[int]) -> None:
    models = [model(seed) for seed in range(len(counts))]
    stream = WeightedAverage()
    for state, count in zip(models, counts, strict=True):
        stream.add(state, count)
    assert stream.weight == sum(counts)
    expected = weighted_average(models, [count / sum(counts) for count in counts])
    for name, tensor in stream.result().items():
        torch.testing.assert_close(tensor, expected[name])


def test_models_are_added_in_the_order_given() -> None:
    # A quarter of each: 1, 1, 2^24 and -2^24. Two ones survive beside 2^24 in float32, one is rounded away.
    small, big, minus = ({"w": torch.tensor([value])} for value in (4.0, 2.0**26, -(2.0**26)))
    assert weighted_average([small, small, big, minus], [0.25] * 4)["w"].item() == 2.0
    assert weighted_average([big, small, small, minus], [0.25] * 4)["w"].item() == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_summed_in_float32_and_returned_as_halves(dtype: torch.dtype) -> None:
    one, tiny = {"w": torch.ones(1, dtype=dtype)}, {"w": torch.full((1,), 2.0**-11, dtype=dtype)}
    stream = WeightedAverage()
    stream.add(one, 1.0)
    for _ in range(2048):  # each of them alone would be rounded away
        stream.add(tiny, 1.0)
    average = stream.result()["w"]
    assert average.dtype == dtype
    assert average.item() == pytest.approx(2 / 2049, rel=0.01)


def test_models_may_come_in_another_dtype_than_the_first() -> None:
    mixed = weighted_average([model(0), model(1, torch.bfloat16)], [0.5, 0.5])
    assert mixed["w"].dtype == torch.float32
    torch.testing.assert_close(mixed["w"], (model(0)["w"] + model(1)["w"]) / 2, atol=1e-2, rtol=1e-2)


def test_integers_and_booleans_are_the_first_models() -> None:
    first = {"count": torch.tensor(3), "mask": torch.tensor([True, False])}
    second = {"count": torch.tensor(900), "mask": torch.tensor([False, False])}
    average = weighted_average([first, second], [0.5, 0.5])
    assert average["count"].item() == 3
    assert average["mask"].tolist() == [True, False]
    stream = WeightedAverage()
    stream.add(first, 2)
    stream.add(second, 6)
    assert stream.result()["count"].item() == 3


def test_complex_tensors_are_averaged() -> None:
    average = weighted_average([{"w": torch.tensor([2 + 2j])}, {"w": torch.tensor([4j])}], [0.5, 0.5])
    assert average["w"].tolist() == [1 + 3j]


def test_the_models_are_left_as_they_were() -> None:
    models = [model(0), model(1)]
    average = weighted_average(models, [0.5, 0.5])
    average["w"].zero_()
    assert torch.equal(models[0]["w"], model(0)["w"])
    assert torch.equal(models[1]["w"], model(1)["w"])


def test_a_consumed_model_lends_its_memory_to_the_average() -> None:
    first = model(0)
    place = first["w"].data_ptr()
    stream = WeightedAverage()
    stream.add(first, 0.5, consume=True)
    stream.add(model(1), 0.5)
    average = stream.result()
    assert average["w"].data_ptr() == place
    assert torch.equal(average["w"], weighted_average([model(0), model(1)], [0.5, 0.5])["w"])


def test_gradients_do_not_flow_into_an_average() -> None:
    state = {"w": torch.ones(2, requires_grad=True)}
    assert not weighted_average([state, state], [0.5, 0.5])["w"].requires_grad


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ({"w": torch.zeros(7, 3)}, "only one of them has b"),
        ({**model(1), "c": torch.zeros(1)}, "only one of them has c"),
        ({**model(1), "w": torch.zeros(1, 3)}, r"w has the shapes \(7, 3\) and \(1, 3\)"),
    ],
)
def test_models_of_different_structure_are_refused(second: dict[str, Tensor], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        weighted_average([model(0), second], [0.5, 0.5])


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0]])
def test_weights_that_are_not_those_of_a_mean_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="sum to one"):
        weighted_average([model(0), model(1)], weights)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="at least zero"):
        WeightedAverage().add(model(0), weight)


def test_an_average_needs_a_model_and_is_given_once() -> None:
    with pytest.raises(ValueError, match="no model"):
        WeightedAverage().result()
    stream = WeightedAverage()
    stream.add(model(0), 1.0)
    stream.result()
    with pytest.raises(ValueError, match="handed over"):
        stream.add(model(0), 1.0)
