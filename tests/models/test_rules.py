"""What each operator does to axes: units that its rule leaves free may be permuted, all others stay in place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decentral.core.permutation import PermutationSpec, random_permutation
from decentral.errors import Untraceable
from decentral.models.calls import Value
from decentral.models.rules import FUNCTIONS
from decentral.models.tracing import permutation_spec
from tests.models.stemmed import Net, pooled, units

Scramble = Callable[[nn.Module], nn.Module]
ErrorOf = Callable[[nn.Module, PermutationSpec, Tensor, int], float]
Lawful = Callable[[nn.Module], PermutationSpec]


class Scaled(nn.Module):
    """A parameter of its own for every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


FREE: dict[str, tuple[Net, dict[str, int]]] = {
    "depthwise": (
        Net(lambda n, x: pooled(n.c(x)), c=nn.Conv2d(6, 12, 3, groups=6), out=12),
        {"stem": 6},
    ),
    "residual": (
        Net(lambda n, x: pooled(x + n.c(x) + F.relu(n.d(x))), c=nn.Conv2d(6, 6, 1), d=nn.Conv2d(6, 6, 1)),
        {"stem": 6},
    ),
    "flatten": (Net(lambda n, x: n.fc(x.flatten(1)), fc=nn.Linear(96, 6)), {"stem": 6, "fc": 6}),
    "flatten into a residual": (
        Net(lambda n, x: n.fc(x.flatten(1)) + n.gc(x.view(x.size(0), -1)), fc=nn.Linear(96, 6), gc=nn.Linear(96, 6)),
        {"stem": 6, "fc": 6},
    ),
    "unflatten": (
        Net(lambda n, x: pooled(n.c(x.flatten(1).unflatten(1, (6, 4, 4)))), c=nn.Conv2d(6, 6, 1)),
        {"stem": 6, "c": 6},
    ),
    "squeeze and excitation": (
        Net(
            lambda n, x: pooled(x * torch.sigmoid(n.up(F.relu(n.down(F.adaptive_avg_pool2d(x, 1)))))),
            down=nn.Conv2d(6, 4, 1),
            up=nn.Conv2d(4, 6, 1),
        ),
        {"stem": 6, "down": 4},
    ),
    "concatenation": (
        Net(lambda n, x: pooled(n.d(torch.cat([x, n.c(x)], 1))), c=nn.Conv2d(6, 5, 1), d=nn.Conv2d(11, 6, 1)),
        {"stem": 6, "c": 5, "d": 6},
    ),
    "layer norm": (
        Net(lambda n, x: n.norm(x.permute(0, 2, 3, 1)).mean((1, 2)), norm=nn.LayerNorm(6)),
        {"stem": 6},
    ),
    "layer norm of pixels": (Net(lambda n, x: pooled(n.norm(x)), norm=nn.LayerNorm([6, 4, 4])), {"stem": 6}),
    "group norm of one group": (Net(lambda n, x: pooled(n.norm(x)), norm=nn.GroupNorm(1, 6)), {"stem": 6}),
    "a slope a channel": (Net(lambda n, x: pooled(n.act(x - 0.5)), act=nn.PReLU(6)), {"stem": 6}),
    "one slope": (Net(lambda n, x: pooled(n.act(x - 0.5)), act=nn.PReLU()), {"stem": 6}),
    "a parameter in the open": (Net(lambda n, x: pooled(n.s(x)), s=Scaled()), {"stem": 6}),
    "tied layers": (Net(lambda n, x: pooled(n.c(torch.tanh(n.c(x)))), c=nn.Conv2d(6, 6, 1)), {"stem": 6}),
    "functional": (
        Net(
            lambda n, x: F.batch_norm(F.linear(pooled(x), n.fc.weight), None, None, n.fc.bias, training=True),
            fc=nn.Linear(6, 6),
        ),
        {"stem": 6, "fc": 6},
    ),
    "one-dimensional": (
        Net(lambda n, x: F.max_pool1d(n.c(x.flatten(2)), 2).mean(-1), c=nn.Conv1d(6, 6, 3)),
        {"stem": 6, "c": 6},
    ),
    "attention of channels to channels": (
        Net(lambda n, x: F.scaled_dot_product_attention(*[x.flatten(2)] * 3).mean(2)),
        {"stem": 6},
    ),
    "an empty tensor of the same kind": (
        Net(lambda n, x: pooled(x) * x.new_ones((x.shape[0], 1)) + torch.randn_like(pooled(x)) * 0),
        {"stem": 6},
    ),
    "attention over channels": (Net(lambda n, x: torch.softmax(pooled(x), dim=1)), {"stem": 6}),
    "transposed twice": (
        Net(lambda n, x: n.fc(x.flatten(2).transpose(1, 2)).transpose(1, 2).sum(2), fc=nn.Linear(6, 6)),
        {"stem": 6, "fc": 6},
    ),
    "in place": (Net(lambda n, x: pooled(x.mul_(2).add_(1).clamp_(0.2))), {"stem": 6}),
    "squeezed": (Net(lambda n, x: x.mean((2, 3), keepdim=True).squeeze(3).squeeze(2)), {"stem": 6}),
    "shape in the open": (Net(lambda n, x: x.reshape(x.shape[0], 6, -1).mean(-1)), {"stem": 6}),
}


@pytest.mark.parametrize("case", FREE)
def test_operators_with_a_rule_leave_their_units_free(case: str, lawful: Lawful) -> None:
    model, expected = FREE[case]
    assert units(lawful(model)) == expected


class Heads(nn.Module):
    """Attention as many models write it: one projection for Q, K and V, parted in one of several ways."""

    def __init__(self, how: str, scaled: bool = False) -> None:
        super().__init__()
        self.qkv, self.proj, self.how = nn.Linear(6, 18), nn.Linear(6, 6), how
        self.scale = nn.Parameter(torch.rand(3, 1, 1)) if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(x)
        if self.how == "at once":
            q, k, v = qkv.reshape(n, length, 3, 3, 2).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.how == "by number":
            qkv = qkv.reshape(n, length, 3, 3, 2).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
        else:
            q, k, v = torch.chunk(qkv, 3, dim=-1)
            q, k, v = (part.view(n, length, 3, 2).transpose(1, 2) for part in (q, k, v))
        if self.how == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "letters":
            weights = torch.softmax(torch.einsum("nhid,nhjd->nhij", q, k) * self.scale, -1)
            mixed = torch.einsum("nhij, nhjd -> nhid", weights, v)
        else:
            weights = (F.normalize(q, dim=-1) @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
            mixed = weights.matmul(v)
        return self.proj(mixed.transpose(1, 2).reshape(n, length, width))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def shuffled(x: Tensor, groups: int) -> Tensor:
    return x.view(x.size(0), groups, -1, 4, 4).transpose(1, 2).contiguous().view(x.size(0), -1, 4, 4)


def halves(n: Net, x: Tensor) -> Tensor:
    one, other = shuffled(torch.cat([x, n.c(x)], 1), 2).chunk(2, dim=1)
    return pooled(torch.cat([one, F.relu(n.d(other))], 1))


def gate(n: Net, x: Tensor) -> Tensor:
    one, other = n.fc(pooled(x)).split(6, dim=-1)
    return one * torch.sigmoid(other)


def token(n: Net, x: Tensor) -> Tensor:
    x = torch.cat([n.t.weight.expand(x.size(0), -1, -1), tokens(x)], 1)
    return n.a(x, x, x, need_weights=False)[0][:, 0]


class Token(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 1, 6))


HEADS = [(6, 1), (6, 3), (6, 3), (6, 1)]
CELLS: dict[str, tuple[Net, list[tuple[int, int]]]] = {
    "grouped convolution": (Net(lambda n, x: pooled(n.c(x)), c=nn.Conv2d(6, 6, 3, groups=2)), [(6, 2), (6, 2)]),
    "grouped convolution, wider": (
        Net(lambda n, x: pooled(n.c(x)), c=nn.Conv2d(6, 12, 3, groups=3), out=12),
        [(6, 3), (12, 3)],
    ),
    "grouped convolution in a residual": (
        Net(lambda n, x: pooled(x + n.d(F.relu(n.c(x)))), c=nn.Conv2d(6, 6, 1, groups=2), d=nn.Conv2d(6, 6, 1)),
        [(6, 2), (6, 2)],
    ),
    "one grouped convolution, twice": (
        Net(lambda n, x: pooled(n.c(F.relu(n.c(x)))), c=nn.Conv2d(6, 6, 1, groups=2)),
        [(6, 2)],
    ),
    "grouped in one way and normalised in another": (
        Net(lambda n, x: pooled(n.norm(n.c(x))), c=nn.Conv2d(6, 6, 1, groups=2), norm=nn.GroupNorm(3, 6)),
        [(3, 1), (3, 1)],
    ),
    "grouped convolution of a concatenation": (
        Net(
            lambda n, x: pooled(n.d(torch.cat([x, n.c(x)], 1))),
            c=nn.Conv2d(6, 6, 1),
            d=nn.Conv2d(12, 6, 1, groups=2),
        ),
        [(6, 1), (6, 1), (3, 1), (3, 1)],
    ),
    "group norm of two groups": (Net(lambda n, x: pooled(n.norm(x)), norm=nn.GroupNorm(2, 6)), [(6, 2)]),
    "a group norm, flattened": (
        Net(lambda n, x: n.fc(n.norm(x).flatten(1)), norm=nn.GroupNorm(3, 6), fc=nn.Linear(96, 6)),
        [(6, 3), (6, 1)],
    ),
    "shuffling channels": (Net(lambda n, x: pooled(n.s(x)), s=nn.ChannelShuffle(2)), [(6, 1)]),
    "shuffled halves": (
        Net(halves, c=nn.Conv2d(6, 6, 1), d=nn.Conv2d(6, 6, 1), out=12),
        [(3, 1), (3, 1), (3, 1), (3, 1), (6, 1)],
    ),
    "splitting": (Net(lambda n, x: torch.cat(pooled(x).chunk(2, dim=1)[::-1], 1)), [(3, 1), (3, 1)]),
    "a part of another length": (Net(lambda n, x: pooled(x)[:, 2:], out=4), [(4, 1), (2, 1)]),
    "a number read from a unit": (Net(lambda n, x: pooled(x) * x[0, 3, 0, 0].item()), [(5, 1)]),
    "a gate": (Net(gate, fc=nn.Linear(6, 12)), [(6, 1), (6, 1)]),
    "multi-head attention": (
        Net(lambda n, x: n.a(*[x.flatten(2).permute(2, 0, 1)] * 3)[0].mean(0), a=nn.MultiheadAttention(6, 3)),
        HEADS,
    ),
    "a class token": (Net(token, a=nn.MultiheadAttention(6, 3, batch_first=True), t=Token()), HEADS),
    **{
        f"attention, {how}": (Net(lambda n, x: n.a(tokens(x)).mean(1), a=Heads(how)), HEADS)
        for how in ("at once", "by number", "parted", "fused", "letters")
    },
    "attention with a scale a head": (
        Net(lambda n, x: n.a(tokens(x)).mean(1), a=Heads("letters", scaled=True)),
        [*HEADS, (3, 3)],
    ),
    "tokens by an outer product": (Net(lambda n, x: torch.einsum("ni,nj->nij", pooled(x), pooled(x)).sum(2)), [(6, 1)]),
    "merging channels into pixels": (
        Net(lambda n, x: n.fc(x.permute(0, 2, 3, 1).flatten(1)), fc=nn.Linear(96, 6)),
        [(6, 1), (6, 1)],
    ),
    "regrouping channels": (
        Net(lambda n, x: n.fc(x.reshape(-1, 3, 2, 4, 4).mean(1).flatten(1)), fc=nn.Linear(32, 6)),
        [(6, 2), (2, 2), (6, 1)],
    ),
    "enlarged pictures": (Net(lambda n, x: pooled(n.c(n.u(x))), u=nn.Upsample(scale_factor=2), c=nn.Conv2d(6, 6, 3)),
        [(6, 1), (6, 1)]),
    "rolled and padded pixels": (Net(lambda n, x: n.fc(F.pad(torch.roll(x, 1, 2), (1, 1)).flatten(1)),
        fc=nn.Linear(144, 6)), [(6, 1), (6, 1)]),
    "stacked": (Net(lambda n, x: torch.stack([pooled(x), n.fc(pooled(x))]).amax(0), fc=nn.Linear(6, 6)), [(6, 1)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CELLS)
def test_cells_move_whole_and_units_within_them(case: str, lawful: Lawful) -> None:
    model, expected = CELLS[case]
    spec = lawful(model)
    assert sorted((group.units, group.cells) for group in spec.groups) == sorted(expected)
    assert any(moved(spec, seed) for seed in range(3))


def moved(spec: PermutationSpec, seed: int) -> bool:
    return not random_permutation(spec, torch.Generator().manual_seed(seed)).is_identity


PINNED: dict[str, tuple[Net, dict[str, int]]] = {
    "sorting channels": (Net(lambda n, x: pooled(x).sort(1)[0]), {}),
    "cumulative sum": (Net(lambda n, x: torch.cumsum(pooled(x), 1)), {}),
    "indexing": (Net(lambda n, x: pooled(x)[:, [2, 0, 1, 5, 4, 3]]), {}),
    "a view of other bits": (Net(lambda n, x: pooled(x).view(torch.int64).view(torch.float64).view(-1, 6)), {}),
    "attention with a mask a head": (
        Net(lambda n, x: n.a(*[tokens(x)] * 3, attn_mask=torch.zeros(8, 16, 16).double())[0].mean(1),
            a=nn.MultiheadAttention(6, 2, batch_first=True)),
        {},
    ),
    "attention over other keys": (
        Net(lambda n, x: n.a(tokens(x), *[tokens(x)[..., :4]] * 2)[0].mean(1),
            a=nn.MultiheadAttention(6, 2, batch_first=True, kdim=4, vdim=4)),
        {},
    ),
    "rolling channels": (Net(lambda n, x: torch.roll(pooled(x), 1, 1)), {}),
    "padding channels": (Net(lambda n, x: F.pad(pooled(x), (1, 0)), out=7), {}),
    "two free axes in one": (
        Net(lambda n, x: torch.einsum("ni,nj->nij", pooled(x), n.fc(pooled(x))).flatten(1), fc=nn.Linear(6, 2), out=12),
        {},
    ),
    "a functional grouped convolution": (
        Net(lambda n, x: pooled(F.conv2d(x, n.c.weight, groups=2)), c=nn.Conv2d(6, 6, 3, groups=2)), {}),
    "attention of channels to those before": (
        Net(lambda n, x: F.scaled_dot_product_attention(*[x.flatten(2)] * 3, is_causal=True).mean(2)),
        {},
    ),
    "attention of channels to those before, by place": (
        Net(lambda n, x: F.scaled_dot_product_attention(*[x.flatten(2)] * 3, None, 0.0, True).mean(2)),
        {},
    ),
    "channels as pixels": (Net(lambda n, x: pooled(n.c(x.transpose(1, 2))), c=nn.Conv2d(4, 6, 3)), {"c": 6}),
    "pooling over channels": (Net(lambda n, x: n.fc(F.max_pool1d(pooled(x), 2)), fc=nn.Linear(3, 6)), {"fc": 6}),
    "adding what is laid out otherwise": (
        Net(lambda n, x: n.fc(x.flatten(1)) + n.gc(torch.relu(x.permute(0, 2, 3, 1).flatten(1) + x.flatten(1))),
            fc=nn.Linear(96, 6), gc=nn.Linear(96, 6)),
        {"fc": 6},
    ),
    "a call that the rule does not take": (Net(lambda n, x: x.permute(dims=(0, 2, 3, 1)).mean((1, 2))), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", PINNED)
def test_operators_without_a_rule_keep_their_units_in_place(case: str, lawful: Lawful) -> None:
    model, expected = PINNED[case]
    assert units(lawful(model)) == expected


def test_the_law_would_catch_a_wrong_group(scramble: Scramble, error_of: ErrorOf) -> None:
    model, _ = FREE["residual"]
    scramble(model)
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    spec = permutation_spec(model, x)
    wrong = PermutationSpec(spec.groups, spec.axes[:-1])
    assert error_of(model, wrong, x, 0) > 1e-3


class Constant(nn.Module):
    """A tensor that is not saved with the network cannot be permuted with it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.arange(6).double(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


def test_units_that_meet_an_unsaved_tensor_stay_in_place(lawful: Lawful) -> None:
    assert units(lawful(Net(lambda n, x: n.k(pooled(x)), k=Constant()))) == {}


def test_a_rule_that_is_wrong_about_the_result_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUNCTIONS, torch.flip, lambda call, x, dims: Value(x.axes[:-1]))
    model = Net(lambda n, x: torch.flip(pooled(x), (1,)))
    with pytest.raises(Untraceable, match="flip: its rule does not describe a result of shape"):
        permutation_spec(model, torch.randn(2, 2, 4, 4))
