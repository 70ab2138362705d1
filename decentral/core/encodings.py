"""How a model is written to be sent, by name. Torch-free: a recipe's choice is built, and so checked, before torch is.

The mathematics and its sources stand in `core.compression`, which reads all of them back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.registry import Registry, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ENCODINGS = Registry(
    "compression",
    {
        "none": "decentral.core.encodings:Plain",
        "bfloat16": "decentral.core.encodings:BFloat16",
        "int8": "decentral.core.encodings:Int8",
        "top-k": "decentral.core.encodings:TopK",
    },
)
"""Constructors `(**options) -> Encoding`; they raise UserError for an option that is out of its range."""


class Encoding(ABC):
    """Makes a packed model of a model, for `core.compression.unpack`."""

    plain = False
    """Whether models travel as they are."""
    step = 1.0
    """How much of the way to its neighbours' average a peer of D-PSGD goes (gamma of CHOCO-SGD, arXiv 1902.00340)."""

    @property
    def whole(self) -> Encoding:
        """How a model is written for somebody who has nothing to fill it up from."""
        return self

    @abstractmethod
    def __call__(
        self, state: Mapping[str, Tensor], base: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """`base` is what the receivers have, more or less, or what they were told last."""


class Plain(Encoding):
    """As it is."""

    plain = True

    def __call__(
        self, state: Mapping[str, Tensor], base: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        return dict(state)


class BFloat16(Encoding):
    """Half of float32's bytes: its range, with 8 bits of precision."""

    def __call__(
        self, state: Mapping[str, Tensor], base: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        from decentral.core.compression import rounded

        return rounded(state, generator)


class Int8(Encoding):
    """A quarter of float32's bytes: 255 even steps for each row of a matrix."""

    def __call__(
        self, state: Mapping[str, Tensor], base: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        from decentral.core.compression import quantised

        return quantised(state, generator)


_WHOLE: Mapping[str, type[Encoding]] = {"none": Plain, "bfloat16": BFloat16, "int8": Int8}


class TopK(Encoding):
    """The `share` of each matrix's values that changed most, with their places.

    `whole`: how a model is written where it has to be whole (none, bfloat16, int8). `step`: see `Encoding`; what is
    known of neighbours is old in part, so that going all the way would lead in circles.
    """

    def __init__(self, share: float | int = 0.1, whole: str = "int8", step: float | int = 0.5) -> None:
        if not 0 < share < 1:
            raise UserError(f"share must be greater than 0 and less than 1, not {share}")
        if not 0 < step <= 1:
            raise UserError(f"step must be greater than 0 and at most 1, not {step}")
        if whole not in _WHOLE:
            raise UserError(f"unknown whole {whole!r}; {nearest(whole, _WHOLE)}")
        self.share, self.step = float(share), float(step)
        self._whole = _WHOLE[whole]()

    @property
    def whole(self) -> Encoding:
        return self._whole

    def __call__(
        self, state: Mapping[str, Tensor], base: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        from decentral.core.compression import sparse

        return sparse(state, base, self.share, generator)
