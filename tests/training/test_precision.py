from __future__ import annotations

import pytest
import torch
from torch import nn

from decentral.training import precision
from decentral.training.optimiser import Optimiser, build_optimiser
from decentral.training.precision import ScaledOptimiser, arithmetic

CPU = torch.device("cpu")


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def plain(model: nn.Module, name: str = "sgd") -> Optimiser:
    parameters = dict(model.named_parameters())
    return build_optimiser(name, parameters, learning_rate=0.1, momentum=0.9, weight_decay=0.0)


def scaled(model: nn.Module, name: str = "sgd") -> ScaledOptimiser:
    return ScaledOptimiser(plain(model, name), dict(model.named_parameters()))


def step(model: nn.Module, optimiser: Optimiser, factor: float = 1.0) -> None:
    optimiser.backward(factor * model(torch.linspace(-1, 1, 8).view(2, 4)).square().sum())
    optimiser.step()


def scale(optimiser: ScaledOptimiser) -> list[float]:
    return optimiser.state()["scale/loss"].tolist()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_scaled_step_is_the_plain_step(name: str) -> None:
    one, other = network(), network()
    for model, optimiser in ((one, plain(one, name)), (other, scaled(other, name))):
        for _ in range(3):
            step(model, optimiser)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_gradients_that_are_not_finite_move_nothing_and_halve_the_scale(factor: float) -> None:
    model = network()
    optimiser = scaled(model)
    step(model, optimiser)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = optimiser.state()
    step(model, optimiser, factor)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert scale(optimiser) == [precision.FIRST_SCALE / 2, 0]
    assert all(torch.equal(kept[name], tensor) for name, tensor in optimiser.state().items() if name != "scale/loss")
    step(model, optimiser)
    assert scale(optimiser) == [precision.FIRST_SCALE / 2, 1]
    assert not torch.equal(model.weight, before["weight"])


def test_the_scale_doubles_after_enough_good_steps_and_stays_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "PATIENCE", 2)
    model = network()
    optimiser = scaled(model)
    for _ in range(4):
        step(model, optimiser)
    assert scale(optimiser) == [4 * precision.FIRST_SCALE, 0]
    for _ in range(20):
        step(model, optimiser)
    assert scale(optimiser) == [precision.LARGEST_SCALE, 0]
    for _ in range(30):
        step(model, optimiser, float("nan"))
    assert scale(optimiser) == [1.0, 0]


def test_gradients_too_small_for_float16_survive() -> None:
    """2e-5 times 1e-4 is under the least float16, and a step without scaling would be none."""
    gradients = []
    for make in (plain, scaled):
        model = network()
        nn.init.zeros_(model.weight)
        optimiser = make(model)
        with arithmetic("float16", CPU):
            loss = 1e-4 * model(torch.full((1, 4), 2e-5)).float().sum()
        optimiser.backward(loss)
        optimiser.step()
        gradients.append(model.weight.detach() / -0.1)
    assert not gradients[0].any()
    torch.testing.assert_close(gradients[1], torch.full((3, 4), 2e-9), rtol=0.05, atol=0.0)


def test_a_scaled_optimiser_goes_on_where_its_checkpoint_was() -> None:
    straight, resumed = network(), network()
    optimiser = scaled(straight)
    step(straight, optimiser, float("nan"))
    step(straight, optimiser)
    resumed.load_state_dict(straight.state_dict())
    other = scaled(resumed)
    other.restore(optimiser.state())
    assert scale(other) == [precision.FIRST_SCALE / 2, 1]
    step(straight, optimiser)
    step(resumed, other)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("wrong", [{}, {"scale/loss": torch.ones(3)}])
def test_a_state_without_a_scale_is_refused(wrong: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="scale/loss"):
        scaled(network()).restore(wrong)


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_the_arithmetic_is_of_the_type_named(name: str, dtype: torch.dtype) -> None:
    with arithmetic(name, CPU):
        assert network()(torch.ones(1, 4)).dtype == dtype
