"""SGD and Adam as one fused pass over parameters, gradients and state.

The functional forms of torch.optim do the arithmetic; their classes are left alone because constructing one imports
torch's compiler, which costs every peer 1.7 s and 150 MB. A step drops the gradients, so that nothing of it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Optimiser(Protocol):
    """Changes the parameters that it was made with. What it remembers has names like `momentum/layer.weight`."""

    learning_rate: float
    """May be changed between steps; no part of the state."""

    def backward(self, loss: Tensor) -> None:
        """Adds the loss's gradients to the parameters."""
        ...

    def step(self) -> None:
        """Moves every parameter that has a gradient, and drops the gradients."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Copies, on the CPU, of what `restore` needs to go on exactly here."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError where a tensor belongs to no parameter or has another shape than it."""
        ...


def build_optimiser(
    name: str, parameters: Mapping[str, nn.Parameter], *, learning_rate: float, momentum: float, weight_decay: float
) -> Optimiser:
    """`sgd` (with `momentum`), `adam` (weight decay added to the gradient) or `adamw` (decoupled from it)."""
    if name == "sgd":
        return SGD(parameters, learning_rate, momentum, weight_decay)
    if name in ("adam", "adamw"):
        return Adam(parameters, learning_rate, weight_decay, decoupled=name == "adamw")
    raise ValueError(f"unknown optimiser {name!r}; there are: adam, adamw, sgd")


class _Memory:
    """Tensors kept for each parameter, by the name of what they are and of the parameter."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], kinds: tuple[str, ...]) -> None:
        self._parameters = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._kept: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def _moving(self) -> tuple[list[str], list[Tensor], list[Tensor]]:
        """Names, values and gradients of the parameters that take part in this step."""
        names = [name for name, parameter in self._parameters.items() if parameter.grad is not None]
        gradients = [gradient for name in names if (gradient := self._parameters[name].grad) is not None]
        return names, [self._parameters[name] for name in names], gradients

    def _drop_gradients(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        return {
            f"{kind}/{name}": torch.empty_like(kept, device="cpu").copy_(kept)
            for kind, tensors in self._kept.items()
            for name, kept in tensors.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        restored: dict[str, dict[str, Tensor]] = {kind: {} for kind in self._kept}
        for key, tensor in state.items():
            kind, _, name = key.partition("/")
            if kind not in restored or name not in self._parameters:
                raise ValueError(f"optimiser state {key!r} belongs to no parameter")
            parameter = self._parameters[name]
            if kind != "step" and tensor.shape != parameter.shape:
                raise ValueError(f"optimiser state {key!r} is {list(tensor.shape)}, not {list(parameter.shape)}")
            # A fused step goes through memory, so what is restored must lie as its parameter does.
            like = torch.empty((), device=parameter.device) if kind == "step" else torch.empty_like(parameter)
            restored[kind][name] = like.copy_(tensor)
        self._kept = restored


class SGD(_Memory):
    """v <- momentum v + g, p <- p - learning_rate v, where v starts as the first gradient; L2 decay is part of g."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], learning_rate: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, ("momentum",))
        self.learning_rate, self._momentum, self._weight_decay = learning_rate, momentum, weight_decay

    @torch.no_grad()
    def step(self) -> None:
        names, values, gradients = self._moving()
        velocities = self._kept["momentum"]
        for known in (True, False):  # a fused call takes parameters that all have a velocity, or that all have none
            chosen = [row for row, name in enumerate(names) if (name in velocities) is known]
            buffers = [velocities.get(names[row]) for row in chosen]
            sgd(
                [values[row] for row in chosen],
                [gradients[row] for row in chosen],
                buffers,
                fused=True,
                weight_decay=self._weight_decay,
                momentum=self._momentum,
                lr=self.learning_rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            if self._momentum and not known:
                velocities.update(
                    {names[row]: buffer for row, buffer in zip(chosen, buffers, strict=True) if buffer is not None}
                )
        self._drop_gradients()


class Adam(_Memory):
    """D. Kingma, J. Ba, "Adam", 2015; decoupled: I. Loshchilov, F. Hutter, "Decoupled weight decay", 2019."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], learning_rate: float, weight_decay: float, *, decoupled: bool
    ) -> None:
        super().__init__(parameters, ("first", "second", "step"))
        self.learning_rate, self._weight_decay, self._decoupled = learning_rate, weight_decay, decoupled

    @torch.no_grad()
    def step(self) -> None:
        names, values, gradients = self._moving()
        first, second, steps = self._kept["first"], self._kept["second"], self._kept["step"]
        for name, value in zip(names, values, strict=True):
            if name not in first:
                first[name], second[name] = torch.zeros_like(value), torch.zeros_like(value)
                steps[name] = torch.zeros((), dtype=torch.float32, device=value.device)
        adam(
            values,
            gradients,
            [first[name] for name in names],
            [second[name] for name in names],
            [],
            [steps[name] for name in names],
            fused=True,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=self.learning_rate,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
            decoupled_weight_decay=self._decoupled,
        )
        self._drop_gradients()
