"""Cuts that cannot be, and networks that cannot be read, are refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decentral.errors import Untraceable, UserError
from decentral.models.stages import split


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Deciding()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x.sin(), 0.5, True) + x


class Aside(nn.Module):
    """Has a module for training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.auxiliary, self.b = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(self.auxiliary(x) if self.training else x)


@pytest.mark.parametrize(
    ("cuts", "why"),
    [
        (["aa"], "'aa' is no module of this network; did you mean 'a'?"),
        (["auxiliary"], "'auxiliary' is never reached in evaluation mode"),
        (["b"], "nothing is computed after it"),
        (["a", "a"], "at the same place"),
        (0, "can be cut into 1 to 2"),
        (3, "can be cut into 1 to 2"),
        ("a", r"cuts are a list of modules.*\['a'\]"),
    ],
)
def test_cuts_that_cannot_be_are_refused_with_the_reason(cuts: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        split(Aside(), cuts, torch.randn(2, 4))


def test_what_cannot_be_read_is_untraceable() -> None:
    with pytest.raises(Untraceable, match=r"inner \(Deciding\)"):
        split(Branching(), 1, torch.randn(2, 4))
    with pytest.raises(Untraceable, match="draws at random"):
        split(Drawing(), 1, torch.randn(2, 40))
    hooked = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    hooked[0].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(Untraceable, match="0: has hooks"):
        split(hooked, 1, torch.randn(2, 4))
    with pytest.raises(Untraceable, match="cannot be run on the example inputs"):
        split(nn.Sequential(nn.Linear(4, 4)), 1, torch.randn(2, 5))
