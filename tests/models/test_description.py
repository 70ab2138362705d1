"""A description is equal for equal graphs and tells all that decides what is computed, apart from the numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from decentral.errors import Untraceable
from decentral.models.description import HEADER, describe
from decentral.models.graphs import trace


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.between, self.layer = between, layer or nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self.layer(x))


def told(between: Callable[[Tensor], Tensor], layer: nn.Module | None = None) -> str:
    return describe(trace(Net(between, layer)), ["output"])


def test_numbers_and_modes_are_not_part_of_it() -> None:
    one = Net(F.relu)
    text = describe(trace(one), ["y"])
    assert text == describe(trace(Net(F.relu).train()), ["y"])
    assert text.startswith(HEADER)
    assert "torch.nn.functional.relu" in text
    assert "in_features=4" in text


def test_what_decides_the_computation_is() -> None:
    texts = [
        told(F.relu),
        told(F.gelu),
        told(lambda x: F.gelu(x, approximate="tanh")),
        told(lambda x: x * 2),
        told(lambda x: x * 2.0),
        told(lambda x: x * 3),
        told(lambda x: x[:, 1:]),
        told(lambda x: x[..., 1:]),
        told(lambda x: x[..., None]),
        told(lambda x: x.to(torch.float64)),
        told(lambda x: torch.cat([x, x], 1)),
        told(lambda x: torch.cat((x, x), dim=1)),
        told(lambda x: x.sum(1)),
        told(lambda x: x.sum(dim=1)),
        told(lambda x: x, nn.Linear(4, 4, bias=False)),
        told(lambda x: x),
        told(lambda x: x, nn.LayerNorm(4)),
        told(lambda x: x, nn.LayerNorm(4, eps=1e-3)),
    ]
    assert len(set(texts)) == len(texts)


def test_settings_that_a_layer_does_not_print_are_told() -> None:
    class Attending(nn.Module):
        def __init__(self, heads: int) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, heads)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    one, other = (describe(trace(Attending(heads)), ["output"]) for heads in (2, 4))
    assert repr(nn.MultiheadAttention(8, 2)) == repr(nn.MultiheadAttention(8, 4))
    assert one != other


def test_what_has_no_name_elsewhere_is_untraceable() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(lambda given: given + 1, (x,)))
    with pytest.raises(Untraceable, match="no name that another machine would know"):
        describe(fx.GraphModule(nn.Module(), graph))
