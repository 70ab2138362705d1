"""A stage as its circuit computes it: whole numbers in, whole numbers out, equal on all machines.

The tensors are of int64 and hold the signed representatives of field elements. What they mean is the circuit's to say:
a number x at scale s stands for x / 2^s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from decentral.errors import UserError
from decentral.models.folding import fold_batchnorm
from decentral.models.stages import Stage
from decentral.zk.circuit import Circuit
from decentral.zk.emulator import Emulator, Scales
from decentral.zk.fixed import Fixed

LARGEST = 1 << 62
"""Of the numbers that are passed on: below it no conversion wraps around."""


class Twin(Stage):
    """See above. Its network is the stage's without BatchNorm; its ports are of int64."""

    def __init__(self, stage: Stage, circuit: Circuit) -> None:
        """Raises UserError, Unproven, Untraceable for a stage that cannot be the circuit's."""
        arguments, scales = circuit.settings.arguments, circuit.settings.input_scales
        counts = len(scales), len(circuit.settings.output_scales)
        if counts != (len(stage.inputs), len(stage.outputs)):
            raise UserError(
                f"the stage takes {len(stage.inputs)} tensors and gives {len(stage.outputs)}; its circuit takes "
                f"{counts[0]} and gives {counts[1]}"
            )
        network = fold_batchnorm(stage.network, len(stage.inputs))
        inputs, outputs = (
            [replace(port, dtype=torch.int64) for port in ports] for ports in (stage.inputs, stage.outputs)
        )
        super().__init__(network, inputs, outputs)
        self.circuit, self._scales = circuit, scales
        self._emulator = Emulator(network, Scales(arguments.parameter_scale, arguments.rebase), inputs=len(inputs))

    @property
    def digest(self) -> str:
        """By which a task names it: the circuit's identity in hexadecimal."""
        return self.circuit.identity.hex()

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raises ValueError if these are not the stage's inputs, or come to more than 62 bits."""
        names = [port.name for port in self.inputs]
        if set(tensors) != set(names):
            raise ValueError(f"the inputs are {', '.join(names)}, not {', '.join(sorted(tensors)) or 'nothing'}")
        taken = [fixed(tensors[name], scale) for name, scale in zip(names, self._scales, strict=True)]
        found = map(whole, self._emulator(*taken))
        return dict(zip((port.name for port in self.outputs), found, strict=True))

    def exact(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same: whole numbers are exact."""
        return self.run(tensors)


def fixed(numbers: Int64[Tensor, "*shape"], scale: int) -> Fixed:
    """As the emulator takes them."""
    return Fixed.of_integers(numbers.flatten().tolist(), numbers.shape, scale)


def whole(numbers: Fixed) -> Int64[Tensor, "*shape"]:
    """As they are passed on. Raises ValueError for more than 62 bits."""
    found = numbers.integers()
    if any(abs(value) >= LARGEST for value in found):
        raise ValueError("numbers of more than 62 bits")
    return torch.tensor(found, dtype=torch.int64).reshape(numbers.shape)


def quantised(numbers: Tensor, scale: int) -> Int64[Tensor, "*shape"]:
    """Floats as a circuit of this scale takes them; what is of int64 is whole already.

    Raises ValueError for what is neither, or comes to more than 62 bits.
    """
    if numbers.dtype == torch.int64:
        return numbers
    if not numbers.is_floating_point():
        raise ValueError(f"{numbers.dtype} is nothing that a circuit takes")
    return whole(Fixed.of_real(numbers.detach().cpu().float(), scale))
