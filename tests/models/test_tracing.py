"""From networks to permutation groups: any permutation of the groups that are found keeps the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from decentral.core.permutation import Permutation, PermutationSpec, apply_permutation, random_permutation
from decentral.errors import Untraceable
from decentral.models.catalogue import build_model
from decentral.models.tracing import evaluating, permutation_spec, trace

Scramble = Callable[[nn.Module], nn.Module]


def units(spec: PermutationSpec) -> dict[str, int]:
    return {group.name: group.units for group in spec.groups}


def permuted(model: nn.Module, spec: PermutationSpec, permutation: Permutation, x: Tensor) -> Tensor:
    """The output of the network with permuted weights; its own weights are put back."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(apply_permutation(spec, permutation, before))
    try:
        with torch.no_grad():
            return model(x)
    finally:
        model.load_state_dict(before)


def error_of(model: nn.Module, spec: PermutationSpec, x: Tensor, seed: int) -> float:
    """How far the permuted network's outputs are from the network's, relative to the largest."""
    with torch.no_grad():
        expected = model(x)
    drawn = random_permutation(spec, torch.Generator().manual_seed(seed))
    return float((permuted(model, spec, drawn, x) - expected).abs().max() / expected.abs().max())


CATALOGUE: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "mlp": ((1, 8, 8), {"hidden": (12, 9), "batch_norm": True, "dropout": 0.1}),
    "cnn": ((1, 8, 8), {}),
    "gn-lenet": ((3, 32, 32), {}),
    "resnet20": ((3, 16, 16), {}),
    "resnet32": ((1, 8, 8), {}),
    "vgg11-bn": ((3, 32, 64), {"width": 0.1}),
    "vgg16-bn": ((3, 32, 32), {"width": 0.1}),
    "torchvision/resnet18": ((3, 32, 32), {}),
    "torchvision/mobilenet_v2": ((3, 32, 32), {"width_mult": 0.5}),
    "torchvision/squeezenet1_1": ((3, 40, 40), {}),
}


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("seed", [0, 1])
def test_permuting_preserves_the_function(name: str, seed: int, scramble: Scramble) -> None:
    shape, options = CATALOGUE[name]
    model = scramble(build_model(name, shape, 10, **options))
    x = torch.randn(3, *shape, dtype=torch.float64)
    spec = permutation_spec(model, x[:1])
    assert error_of(model, spec, x, seed) < 1e-9


@pytest.mark.parametrize(("name", "expected"), [("mlp", 21), ("cnn", 112), ("resnet20", 448), ("gn-lenet", 0)])
def test_all_hidden_units_of_our_networks_are_free(name: str, expected: int, scramble: Scramble) -> None:
    # GN-LeNet's GroupNorm has two groups of channels, which only a two-level permutation would keep whole.
    shape, options = CATALOGUE[name]
    spec = permutation_spec(scramble(build_model(name, shape, 10, **options)), torch.randn(2, *shape).double())
    assert sum(units(spec).values()) == expected
    assert all(group.taps for group in spec.groups)


class Net(nn.Module):
    """A stem with 6 channels, something in between, and a head of 3 classes."""

    def __init__(self, between: Callable[..., Tensor], *, out: int = 6, **modules: nn.Module):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        self.head = nn.Linear(out, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self, torch.tanh(self.stem(x))))


def pooled(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


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
def test_operators_with_a_rule_leave_their_units_free(case: str, scramble: Scramble) -> None:
    model, expected = FREE[case]
    scramble(model)
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    spec = permutation_spec(model, x)
    assert units(spec) == expected
    for seed in range(3):
        assert error_of(model, spec, x, seed) < 1e-9


PINNED: dict[str, tuple[Net, dict[str, int]]] = {
    "grouped convolution": (Net(lambda n, x: pooled(n.c(x)), c=nn.Conv2d(6, 6, 3, groups=2)), {}),
    "group norm of two groups": (Net(lambda n, x: pooled(n.norm(x)), norm=nn.GroupNorm(2, 6)), {}),
    "sorting channels": (Net(lambda n, x: pooled(x).sort(1)[0]), {}),
    "shuffling channels": (Net(lambda n, x: pooled(n.s(x)), s=nn.ChannelShuffle(2)), {}),
    "cumulative sum": (Net(lambda n, x: torch.cumsum(pooled(x), 1)), {}),
    "splitting": (Net(lambda n, x: torch.cat(pooled(x).chunk(2, dim=1)[::-1], 1)), {}),
    "indexing": (Net(lambda n, x: pooled(x)[:, [2, 0, 1, 5, 4, 3]]), {}),
    "a number read from a unit": (Net(lambda n, x: pooled(x) * x[0, 3, 0, 0].item()), {}),
    "a view of other bits": (Net(lambda n, x: pooled(x).view(torch.int64).view(torch.float64).view(-1, 6)), {}),
    "attention": (
        Net(
            lambda n, x: n.a(x.flatten(2).permute(2, 0, 1), x.flatten(2).permute(2, 0, 1), x.flatten(2).permute(2, 0, 1))[0].mean(0),
            a=nn.MultiheadAttention(6, 2),
        ),
        {},
    ),
    "channels as pixels": (Net(lambda n, x: pooled(n.c(x.transpose(1, 2))), c=nn.Conv2d(4, 6, 3)), {"c": 6}),
    "pooling over channels": (Net(lambda n, x: n.fc(F.max_pool1d(pooled(x), 2)), fc=nn.Linear(3, 6)), {"fc": 6}),
    "merging channels into pixels": (
        Net(lambda n, x: n.fc(x.permute(0, 2, 3, 1).flatten(1)), fc=nn.Linear(96, 6)),
        {"fc": 6},
    ),
    "regrouping channels": (
        Net(lambda n, x: n.fc(x.reshape(-1, 3, 2, 4, 4).mean(1).flatten(1)), fc=nn.Linear(32, 6)),
        {"fc": 6},
    ),
    "adding what is laid out otherwise": (
        Net(lambda n, x: n.fc(x.flatten(1)) + n.gc(torch.relu(x.permute(0, 2, 3, 1).flatten(1) + x.flatten(1))),
            fc=nn.Linear(96, 6), gc=nn.Linear(96, 6)),
        {"fc": 6},
    ),
    "a call that the rule does not take": (Net(lambda n, x: x.permute(dims=(0, 2, 3, 1)).mean((1, 2))), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", PINNED)
def test_operators_without_a_rule_keep_their_units_in_place(case: str, scramble: Scramble) -> None:
    model, expected = PINNED[case]
    scramble(model)
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    spec = permutation_spec(model, x)
    assert units(spec) == expected
    for seed in range(3):
        assert error_of(model, spec, x, seed) < 1e-9


def test_the_law_would_catch_a_wrong_group(scramble: Scramble) -> None:
    model, _ = FREE["residual"]
    scramble(model)
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    spec = permutation_spec(model, x)
    wrong = PermutationSpec(spec.groups, spec.axes[:-1])
    assert error_of(model, wrong, x, 0) > 1e-3


@fx.wrap
def opaque(x: Tensor) -> Tensor:
    return x.flip(1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Writing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[:, 2] = 0.0
        return x


class Unrunnable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Aliased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.rows = self.fc.weight.detach()[:1]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.rows


def hooked() -> nn.Module:
    layer = nn.Conv2d(6, 6, 1)
    layer.register_forward_hook(lambda module, inputs, output: output.flip(1))
    return layer


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (Net(lambda n, x: pooled(n.b(x)), b=Branching()), r"b \(Branching\): cannot be traced"),
        (Net(lambda n, x: pooled(n.b(x)), b=nn.Sequential(nn.Identity(), Branching())), r"b\.1 \(Branching\)"),
        (Net(lambda n, x: n.w(pooled(x)), w=Writing()), r"w \(Writing\): cannot be traced: .*item assignment"),
        (Net(lambda n, x: opaque(pooled(x))), "opaque: there is no rule"),
        (Net(lambda n, x: pooled(n.c(x)), c=hooked()), "c: c: has hooks"),
        (Net(lambda n, x: pooled(n.c(x)), c=nn.LazyConv2d(6, 1)), "is not built yet"),
        (Net(lambda n, x: n.u(pooled(x)), u=Unrunnable()), r"u\.fc: u\.fc: cannot be run on the example inputs"),
        (Net(lambda n, x: n.a(pooled(x)), a=Aliased()), "shares memory with a parameter"),
    ],
)
def test_what_cannot_be_read_for_certain_is_untraceable(model: nn.Module, complaint: str) -> None:
    with pytest.raises(Untraceable, match=complaint):
        permutation_spec(model, torch.randn(2, 2, 4, 4))


def test_a_branch_at_the_top_is_untraceable() -> None:
    with pytest.raises(Untraceable, match="Branching: cannot be traced"):
        permutation_spec(Branching(), torch.randn(2, 2))


def test_parameters_that_overlap_in_memory_are_pinned() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].bias = nn.Parameter(model[2].bias.data[:])
    spec = permutation_spec(model, torch.randn(2, 4).double())
    assert units(spec) == {}


def test_tied_parameters_are_listed_under_every_name() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    model[2].bias = model[0].bias
    x = torch.randn(5, 4).double()
    spec = permutation_spec(model, x)
    assert units(spec) == {"0": 6}
    assert {"0.bias", "2.bias"} <= {axis.tensor for axis in spec.axes}
    assert error_of(model, spec, x, 1) < 1e-9


class Optional(nn.Module):
    """Arguments that may be left out, as in many published models."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        hidden = torch.tanh(self.fc(x))
        return self.head(hidden if mask is None else hidden * mask) * scale


def test_arguments_that_are_left_out_have_their_defaults(scramble: Scramble) -> None:
    model = scramble(Optional())
    x = torch.randn(5, 4).double()
    spec = permutation_spec(model, x)
    assert units(spec) == {"fc": 6}
    assert error_of(model, spec, x, 0) < 1e-9
    assert torch.equal(trace(model)(x), model(x))
    assert units(permutation_spec(model, x, torch.ones(6).double())) == {}


def test_reading_a_network_leaves_it_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(24, 3))
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 2, 4, 4)
    kept = x.clone()
    permutation_spec(model, x)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(x, kept)


def test_dropout_is_read_in_evaluation_mode() -> None:
    model = Net(lambda n, x: pooled(F.dropout(x, 0.5, n.training))).double().train()
    x = torch.randn(2, 2, 4, 4).double()
    assert torch.equal(trace(model)(x), trace(model)(x))
    assert model.training


def test_modes_come_back_when_the_block_fails() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    model[0].eval()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model[1].training
        raise RuntimeError
    assert [module.training for module in model.modules()] == [True, False, True]


def test_taps_are_what_layers_with_weights_read() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    spec = permutation_spec(model, torch.randn(1, 1, 4, 4))
    (group,) = spec.groups
    assert [(tap.module, tap.axis, tap.start, tap.repeat) for tap in group.taps] == [("3", 1, 0, 4)]
    described = spec.describe()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "4.weight"):
        assert f"of {name} " in described


@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.booleans(), st.integers(0, 99))
def test_any_perceptron_permutes_all_its_hidden_units(hidden: list[int], batch_norm: bool, seed: int) -> None:
    model = build_model("mlp", (5,), 3, hidden=hidden, batch_norm=batch_norm).double().eval()
    x = torch.randn(4, 5, dtype=torch.float64)
    spec = permutation_spec(model, x)
    assert [group.units for group in spec.groups] == hidden
    assert error_of(model, spec, x, seed) < 1e-9
