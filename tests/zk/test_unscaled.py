"""Numbers that keep all their bits are those of the network, in circuits of as many digits as they need."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from decentral.errors import UserError
from decentral.zk.arguments import unambiguous
from decentral.zk.emulator import Emulator, Scales, quantised
from decentral.zk.setup import Options
from decentral.zk.stretches import NEVER
from decentral.zk.unscaled import digits_of, unscaled

OPTIONS = unscaled(Options())


def stages(channels: int = 4) -> list[nn.Module]:
    return [
        nn.Sequential(nn.Conv2d(2, channels, 3, stride=2, padding=1), nn.ReLU()).eval(),
        nn.Sequential(nn.Conv2d(channels, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5)).eval(),
    ]


def test_a_stage_has_the_digits_that_its_largest_number_needs() -> None:
    torch.manual_seed(0)
    networks = stages()
    sample = torch.randn(6, 2, 8, 8)
    first, second = digits_of(networks, [sample], OPTIONS, ["front", "back"])
    assert (first.base, first.checked, first.rebase) == (2**14, False, NEVER)
    value = quantised(sample, 7)
    for network, own in zip(networks, (first, second), strict=True):
        emulator = Emulator(network, Scales(7, NEVER))
        bits = emulator.bits(value)
        assert 14 * own.legs >= bits + 2
        assert own.legs == 2 or 14 * (own.legs - 1) < bits + 2
        (value,) = emulator(value)
    assert second.legs > first.legs


def test_numbers_that_grow_beyond_what_a_circuit_tells_apart_are_refused_with_their_stage() -> None:
    networks = [nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(20)]
    names = [f"stage-{place}" for place in range(20)]
    with pytest.raises(UserError, match=r"stage-1\d: numbers have grown to 1\d\d bits"):
        digits_of(networks, [torch.ones(1, 2)], OPTIONS, names)
    found = digits_of(networks[:9], [torch.ones(1, 2)], OPTIONS, names[:9])
    assert all(unambiguous(each.base, each.legs) for each in found)
