"""Layers of torch beyond those of most classifiers: what they leave free, and what stays in place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decentral.core.permutation import PermutationSpec
from tests.models.stemmed import Net, pooled, units

Lawful = Callable[[nn.Module], PermutationSpec]


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def encoder(norm_first: bool) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(6, 3, 8, activation="gelu", batch_first=True, norm_first=norm_first)


FREE: dict[str, tuple[Net, dict[str, int]]] = {
    "transposed convolution": (
        Net(lambda n, x: pooled(n.c(x)), c=nn.ConvTranspose2d(6, 6, 3, stride=2)),
        {"stem": 6, "c": 6},
    ),
    "transposed convolution of a line": (
        Net(lambda n, x: n.c(x.flatten(2), [33]).mean(-1), c=nn.ConvTranspose1d(6, 6, 3, 2, bias=False)),
        {"stem": 6, "c": 6},
    ),
    "transposed convolution of a body": (
        Net(lambda n, x: n.c(x.unsqueeze(4)).mean((2, 3, 4)), c=nn.ConvTranspose3d(6, 6, 2)),
        {"stem": 6, "c": 6},
    ),
    "transposed depthwise convolution": (
        Net(lambda n, x: pooled(n.c(x)), c=nn.ConvTranspose2d(6, 6, 3, groups=6)),
        {"stem": 6},
    ),
    "functional transposed convolution": (
        Net(lambda n, x: pooled(F.conv_transpose2d(x, n.c.weight, n.c.bias, 2)), c=nn.ConvTranspose2d(6, 6, 3)),
        {"stem": 6, "c": 6},
    ),
    "instance norm": (
        Net(lambda n, x: pooled(n.norm(x) ** 2), norm=nn.InstanceNorm2d(6, affine=True)),
        {"stem": 6},
    ),
    "instance norm with running statistics": (
        Net(
            lambda n, x: (n.one(x.flatten(2)) + n.other(x[..., None]).flatten(2)).mean(2),
            one=nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
            other=nn.InstanceNorm3d(6, track_running_stats=True),
        ),
        {"stem": 6},
    ),
    "functional instance norm": (
        Net(lambda n, x: pooled(F.instance_norm(x, weight=n.c.bias, bias=n.c.bias) ** 2), c=nn.Conv2d(1, 6, 1)),
        {"stem": 6},
    ),
    "root mean square norm": (
        Net(lambda n, x: n.norm(x.permute(0, 2, 3, 1)).mean((1, 2)), norm=nn.RMSNorm(6)),
        {"stem": 6},
    ),
    "functional root mean square norm": (
        Net(lambda n, x: F.rms_norm(pooled(x), (6,), n.norm.weight), norm=nn.RMSNorm(6)),
        {"stem": 6},
    ),
}


@pytest.mark.parametrize("case", FREE)
def test_layers_with_a_rule_leave_their_units_free(case: str, lawful: Lawful) -> None:
    model, expected = FREE[case]
    assert units(lawful(model)) == expected


ENCODER = [(6, 1), (6, 3), (6, 3), (8, 1)]
"""The stream, Q with K, V, and what stands between the two linear layers."""
CELLS: dict[str, tuple[Net, list[tuple[int, int]]]] = {
    **{
        f"a transformer's layer, norm {'first' if first else 'last'}": (
            Net(lambda n, x: n.t(tokens(x)).mean(1), t=encoder(first)),
            ENCODER,
        )
        for first in (True, False)
    },
    "a transformer's layer, masked": (
        Net(lambda n, x: n.t(tokens(x), torch.ones(16, 16).triu(1).bool(), is_causal=True).mean(1), t=encoder(False)),
        ENCODER,
    ),
    "a transformer's layer, padded": (
        Net(
            lambda n, x: n.t(tokens(x), src_key_padding_mask=x.new_zeros((x.shape[0], 16)).bool()).mean(1),
            t=encoder(True),
        ),
        ENCODER,
    ),
    "a transformer's encoder": (
        Net(
            lambda n, x: n.t(tokens(x)).mean(1),
            t=nn.TransformerEncoder(encoder(True), 2, nn.LayerNorm(6), enable_nested_tensor=False),
        ),
        [(6, 1), *[(6, 3), (6, 3), (8, 1)] * 2],
    ),
    "transposed convolution of groups": (
        Net(lambda n, x: pooled(n.c(x)), c=nn.ConvTranspose2d(6, 8, 3, groups=2), out=8),
        [(6, 2), (8, 2)],
    ),
    "transposed depthwise convolution, wider": (
        Net(lambda n, x: pooled(n.c(x)), c=nn.ConvTranspose2d(6, 12, 3, groups=6), out=12),
        [(6, 6), (12, 6)],
    ),
    "a gated linear unit": (Net(lambda n, x: n.g(n.fc(pooled(x))), fc=nn.Linear(6, 12), g=nn.GLU()), [(6, 1), (6, 1)]),
    "gated channels": (Net(lambda n, x: pooled(F.glu(n.c(x), dim=1)), c=nn.Conv2d(6, 12, 1)), [(6, 1), (6, 1)]),
}


@pytest.mark.parametrize("case", CELLS)
def test_cells_of_layers_move_whole_and_units_within_them(case: str, lawful: Lawful) -> None:
    model, expected = CELLS[case]
    assert sorted((group.units, group.cells) for group in lawful(model).groups) == sorted(expected)


PINNED: dict[str, Net] = {
    "a functional transposed convolution of groups": (
        Net(lambda n, x: pooled(F.conv_transpose2d(x, n.c.weight, groups=2)), c=nn.ConvTranspose2d(6, 6, 3, groups=2))
    ),
    "instance norm of one picture": Net(lambda n, x: n.norm(x[0])[:, 0, 0][None], norm=nn.InstanceNorm2d(6)),
    "recurrence": Net(lambda n, x: n.r(tokens(x))[0][:, -1], r=nn.LSTM(6, 6, batch_first=True)),
}


@pytest.mark.parametrize("case", PINNED)
def test_layers_without_a_rule_keep_their_units_in_place(case: str, lawful: Lawful) -> None:
    assert units(lawful(PINNED[case])) == {}
