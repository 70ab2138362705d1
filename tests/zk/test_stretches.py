"""Stretches of a network: what each takes and gives, in which scale, whole or in parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from decentral.errors import Unproven
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


class Shortcut(nn.Module):
    """Its shortcut has a convolution of its own, which stands before the second one in the code or after it."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.early = early
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.around, self.head = nn.Conv2d(1, 4, 1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        if self.early:
            around = self.around(x)
            inner = self.second(torch.relu(inner))
        else:
            inner = self.second(torch.relu(inner))
            around = self.around(x)
        found: Tensor = self.head(torch.relu(inner + around).flatten(1))
        return found


@pytest.mark.parametrize("early", [True, False])
def test_a_shortcut_with_a_layer_comes_before_what_it_is_added_to(early: bool) -> None:
    torch.manual_seed(0)
    stretches = Stretches(Shortcut(early).eval(), quantised(torch.randn(3, 1, 4, 4), 7), 7)
    assert [stretches.name(place, place + 1) for place in range(4)] == ["first", "around", "second", "head"]
    takes = stretches.takes(2, 3)
    assert takes is not None, "there can be a cut before the addition"
    assert [port.scale for port in takes] == [14, 14]
    assert stretches.channels(2, 3) == 4, "and the layer can be cut into channels"
    assert [stretches.activations(place, place + 1) for place in range(4)] == [64, 0, 64, 0], "a ReLU is with its layer"
    first = stretches.network((0, 1), (), stretches.made(0, 1, takes), {})
    around = stretches.network((1, 2), (), stretches.made(1, 2, takes), {})
    whole = stretches.network((2, 4), takes, [stretches.last(4)], {})
    image = torch.randn(1, 1, 4, 4)
    given = {name: network(image) for name, network in (("first", first), ("around", around))}
    inputs = [given["around" if "around" in str(port.node) else "first"] for port in takes]
    torch.testing.assert_close(whole(*inputs), stretches.graph(image))
