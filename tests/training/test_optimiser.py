from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from decentral.training.optimiser import Optimiser, build_optimiser

KINDS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda values: torch.optim.SGD(values, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda values: torch.optim.Adam(values, lr=0.1, weight_decay=0.01),
    "adamw": lambda values: torch.optim.AdamW(values, lr=0.1, weight_decay=0.01),
}


def values() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(3, 4, generator=generator)) for name in ("a", "b", "unused")}


def gradients(parameters: dict[str, nn.Parameter], step: int) -> None:
    """b takes no part in the first step, `unused` in none."""
    generator = torch.Generator().manual_seed(step)
    for name in ("a", "b") if step else ("a",):
        parameters[name].grad = torch.randn(3, 4, generator=generator)


def ours(name: str, parameters: dict[str, nn.Parameter], momentum: float = 0.9) -> Optimiser:
    return build_optimiser(name, parameters, learning_rate=0.1, momentum=momentum, weight_decay=0.01)


@pytest.mark.parametrize("name", KINDS)
def test_steps_are_those_of_torch(name: str) -> None:
    mine, theirs = values(), values()
    optimiser, reference = ours(name, mine), KINDS[name](list(theirs.values()))
    for step in range(5):
        gradients(mine, step)
        gradients(theirs, step)
        optimiser.step()
        reference.step()
        reference.zero_grad()
        for key in mine:
            torch.testing.assert_close(mine[key], theirs[key])
            assert mine[key].grad is None
    assert not torch.equal(mine["b"], values()["b"])
    assert torch.equal(mine["unused"], values()["unused"])


def test_sgd_without_momentum_remembers_nothing() -> None:
    parameters = values()
    optimiser = ours("sgd", parameters, momentum=0.0)
    before = parameters["a"].detach().clone()
    gradients(parameters, 0)
    gradient = parameters["a"].grad
    assert gradient is not None
    optimiser.step()
    torch.testing.assert_close(parameters["a"].detach(), before - 0.1 * (gradient + 0.01 * before))
    assert optimiser.state() == {}


@pytest.mark.parametrize("name", KINDS)
def test_a_restored_optimiser_goes_on_exactly(name: str) -> None:
    straight, interrupted = values(), values()
    first, second = ours(name, straight), ours(name, interrupted)
    for step in range(6):
        if step == 3:
            state = second.state()
            second = ours(name, interrupted)
            second.restore(state)
        gradients(straight, step)
        gradients(interrupted, step)
        first.step()
        second.step()
    for key in straight:
        assert torch.equal(straight[key], interrupted[key])


def test_state_of_another_model_or_optimiser_is_refused() -> None:
    parameters = values()
    optimiser = ours("sgd", parameters)
    optimiser.restore({"momentum/a": torch.zeros(3, 4)})
    for key, tensor in (
        ("momentum/c", torch.zeros(3, 4)),
        ("first/a", torch.zeros(3, 4)),
        ("momentum/a", torch.zeros(4, 3)),
    ):
        with pytest.raises(ValueError, match=key):
            optimiser.restore({key: tensor})
    assert set(optimiser.state()) == {"momentum/a"}


def test_frozen_parameters_stay() -> None:
    parameters = values()
    parameters["a"].requires_grad_(False)
    optimiser = ours("sgd", parameters)
    parameters["a"].grad = torch.ones(3, 4)
    optimiser.step()
    assert torch.equal(parameters["a"], values()["a"])


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="adam, adamw, sgd"):
        ours("lion", values())


def test_no_step_imports_the_compiler_of_torch() -> None:
    program = (
        "import sys, torch\n"
        "from decentral.training.optimiser import build_optimiser\n"
        "for name in ('sgd', 'adam', 'adamw'):\n"
        "    parameter = torch.nn.Parameter(torch.zeros(2))\n"
        "    parameter.grad = torch.ones(2)\n"
        "    build_optimiser(name, {'p': parameter}, learning_rate=0.1, momentum=0.9, weight_decay=0.0).step()\n"
        "    assert parameter.detach().abs().sum() > 0\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.strip() == "False"
