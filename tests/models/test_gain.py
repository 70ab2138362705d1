"""A gain is reached by some push, exceeds none that is known in closed form, and does not depend on scales."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from decentral.core.agreement import SMALLEST, distance
from decentral.models.gain import gain, gains
from decentral.models.stages import Stage, split

seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(network: nn.Module, inputs: Tensor) -> Stage:
    return split(network.eval(), 1, inputs)[0]


def found(stage: Stage, inputs: Tensor, apart: float = 1e-4, steps: int = 6) -> float:
    return gain([stage], {stage.inputs[0].name: inputs}, apart, torch.Generator().manual_seed(0), steps)


def linear(seed: int, inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(normal(seed, outputs, inputs))
        layer.bias.copy_(normal(seed + 1, outputs))
    return layer


def most(layer: nn.Linear, inputs: Tensor) -> float:
    """Of a linear layer, in closed form: the largest sum of |w| of a row, on the scales of inputs and outputs."""
    x = inputs.double()
    weight = layer.weight.detach().double()
    y = x @ weight.T + layer.bias.detach().double()
    size = y.abs().amax(1)
    size = size.maximum(size.max() * SMALLEST)  # as `distance` measures samples that are next to nothing
    return float((x.abs().amax(1) * weight.abs().sum(1).max() / size).max())


@settings(max_examples=20)
@given(seeds)
@example(167177)
def test_of_one_output_it_is_the_sum_of_the_weights_sizes(seed: int) -> None:
    layer, inputs = linear(seed, 5, 1), normal(seed + 2, 4, 5)
    # A push also enlarges the output that it is measured by, by a share of the push itself.
    assert found(whole(layer, inputs), inputs, 1e-6) == pytest.approx(most(layer, inputs), rel=1e-3)


@settings(max_examples=20)
@given(seeds)
def test_of_several_outputs_it_is_never_more_and_no_random_push_does_more(seed: int) -> None:
    layer, inputs = linear(seed, 6, 4), normal(seed + 2, 3, 6)
    stage = whole(layer, inputs)
    ours = found(stage, inputs, 1e-6)
    assert ours <= most(layer, inputs) * (1 + 1e-3)
    exact, still = layer.double().requires_grad_(False), inputs.double()
    for push in range(10):
        lean = normal(seed + push, 3, 6).double().clamp(-1, 1)
        moved = still + 1e-6 * lean * still.abs().amax(1, keepdim=True)
        ratio = distance({"y": exact(moved)}, {"y": exact(still)}) / distance({"x": moved}, {"x": still})
        assert ratio <= most(layer, inputs) * (1 + 1e-3)


def test_the_power_method_gets_to_the_norm_that_a_random_push_misses() -> None:
    torch.manual_seed(0)
    layer = linear(5, 200, 3)
    inputs = normal(7, 8, 200)
    assert found(whole(layer, inputs), inputs) == pytest.approx(most(layer, inputs), rel=0.02)
    assert found(whole(linear(5, 200, 3), inputs), inputs, steps=1) < 0.5 * most(layer, inputs)


def test_what_changes_nothing_gains_nothing_and_scales_do_not_count() -> None:
    inputs = normal(1, 4, 3, 2)
    assert found(whole(nn.Flatten(), inputs), inputs) == pytest.approx(1, rel=1e-3)
    narrow = linear(3, 5, 2)
    given_ = normal(2, 4, 5)
    narrow.bias.data.zero_()
    ours = found(whole(narrow, given_), given_)
    assert found(whole(narrow, given_), given_ * 1000) == pytest.approx(ours, rel=1e-3)


def test_a_sample_of_nothing_and_a_network_that_forgets_its_inputs_are_no_trouble() -> None:
    inputs = normal(1, 2, 5)
    inputs[0] = 0
    layer = linear(3, 5, 2)
    layer.weight.data.zero_()
    assert found(whole(layer, inputs), inputs) == 0


def test_two_tensors_are_pushed_together() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    a, b = torch.ones(2, 3), torch.ones(2, 3)
    stage = split(Sum().eval(), 1, a, b)[0]
    ours = gain([stage], {"a": a, "b": b}, 1e-4, torch.Generator().manual_seed(0))
    assert ours == pytest.approx(1, rel=1e-3), "each by its size: the sum by its own"
    opposite = gain([stage], {"a": a, "b": -0.5 * b}, 1e-4, torch.Generator().manual_seed(0))
    assert opposite == pytest.approx(3, rel=1e-3), "1 + 0.5 over 0.5"


def test_pushes_have_a_size() -> None:
    inputs = normal(1, 2, 5)
    stage = whole(linear(3, 5, 2), inputs)
    for apart in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="pushed by"):
            found(stage, inputs, apart)


def test_it_is_the_same_where_nothing_is_to_be_differentiated() -> None:
    layer, inputs = linear(3, 5, 2), normal(1, 2, 5)
    stage = whole(layer, inputs)
    ours = found(stage, inputs)
    with torch.inference_mode():
        assert found(stage, inputs * 1) == ours
    with torch.no_grad():
        assert found(stage, inputs.double()) == ours


# Stages in a row


@settings(max_examples=20)
@given(seeds)
def test_stages_in_a_row_gain_no_more_than_each_at_its_worst_together(seed: int) -> None:
    layers = [linear(seed, 5, 6), linear(seed + 5, 6, 7), linear(seed + 9, 7, 2)]
    inputs = normal(seed + 2, 4, 5)
    stages = split(nn.Sequential(*layers).eval(), ["0", "1"], inputs)
    given_ = {stages[0].inputs[0].name: inputs}
    found = gains(stages, given_, [1e-6] * 3, torch.Generator().manual_seed(0))
    assert found[2] == 1
    second = stages[0].run(given_)
    third = stages[1].run(second)
    passed = [next(iter(tensors.values())).detach() for tensors in (second, third)]
    assert found[1] <= most(layers[2], passed[1]) * (1 + 1e-3)
    assert found[0] <= most(layers[1], passed[0]) * most(layers[2], passed[1]) * (1 + 1e-3)


def test_what_one_stage_enlarges_and_the_next_one_forgets_is_no_gain() -> None:
    loud, deaf = linear(1, 4, 2), linear(2, 2, 1)
    with torch.no_grad():
        loud.weight[0] *= 1000
        loud.bias[:] = torch.tensor([1.0, 1.0])
        deaf.weight[:] = torch.tensor([[0.0, 1.0]])
    inputs = normal(3, 6, 4)
    stages = split(nn.Sequential(nn.Identity(), loud, deaf).eval(), ["1"], inputs)
    own = gain(stages[:1], {stages[0].inputs[0].name: inputs}, 1e-6, torch.Generator().manual_seed(0))
    both = gain(stages, {stages[0].inputs[0].name: inputs}, 1e-6, torch.Generator().manual_seed(0))
    second = stages[0].run({stages[0].inputs[0].name: inputs})
    alone = gain(stages[1:], second, 1e-6, torch.Generator().manual_seed(0))
    assert both < 0.1 * own * alone
