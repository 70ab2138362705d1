"""Stretches of a network: what each takes and gives, in which scale, whole or in parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from decentral.errors import Unproven
from decentral.zk.convolution import PatchConvolution
from decentral.zk.emulator import quantised
from decentral.zk.stretches import Stretches


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.third = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.third(torch.relu(self.second(x))) + x)
        found: Tensor = self.head(x.flatten(1))
        return found


@pytest.fixture
def block() -> Stretches:
    torch.manual_seed(0)
    return Stretches(Block().eval(), quantised(torch.randn(3, 1, 4, 4), 7), 7)


def test_each_layer_has_what_follows_it_and_no_batchnorm(block):
    assert [block.name(place, place + 1) for place in range(len(block))] == ["first", "second", "third", "head"]
    assert block.name(0, 3) == "first .. third"
    assert block.activations(0, 1) == 4 * 16 and block.activations(0, 4) == 3 * 4 * 16
    assert [block.channels(place, place + 1) for place in range(4)] == [4, 4, 4, 3]
    assert block.channels(0, 2) == 1
    assert sum(isinstance(module, PatchConvolution) for module in block.graph.modules()) == 3


def test_what_crosses_is_in_one_scale(block):
    assert block.takes(0, 2) == ()
    inner, around = block.takes(2, 3)
    assert (inner.scale, around.scale) == (21, 21), "the one around the block is raised"
    assert block.values[around.node].scale == 14
    assert block.made(0, 1, [inner, around]) == (around,)
    assert [port.scale for port in block.made(2, 4, [])] == [35]


@torch.no_grad()
def test_a_layer_in_parts_is_the_layer(block):
    takes = block.takes(2, 3)
    gives = (block.last(3),)
    inputs = [block.example(port.node) for port in takes]
    whole = block.network((2, 3), takes, gives, {})(*inputs)
    parts = [block.network((2, 3), takes, gives, {}, slice(at, at + 2))(*inputs) for at in (0, 2)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(whole, block.example(gives[0].node), rtol=0.0, atol=0.03)
    assert block.portion(2, gives[0].node, slice(1, 3)) == slice(16, 48), "flattened: 16 of each channel"


@torch.no_grad()
def test_a_stretch_joins_what_came_in_pieces(block):
    (port,) = block.takes(3, 4)
    value = block.example(port.node)
    network = block.network((3, 4), [port], block.made(3, 4, []), {port.node: 3})
    pieces = value[:, :16], value[:, 16:32], value[:, 32:]
    torch.testing.assert_close(network(*pieces), block.example(block.made(3, 4, [])[0].node), rtol=0.0, atol=0.03)


def test_raising_changes_no_number(block):
    _, around = block.takes(2, 3)
    network = block.network((0, 1), (), (around,), {})
    images = block.example()
    torch.testing.assert_close(network(images), block.network((0, 1), (), (block.last(1),), {})(images))


def test_a_network_of_several_answers_is_refused():
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.relu(x), torch.relu(x + x)

    with pytest.raises(Unproven, match="several"):
        Stretches(Both(), quantised(torch.randn(2, 3), 7), 7)
