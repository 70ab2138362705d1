"""From networks to permutation groups: any permutation of the groups that are found keeps the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_forward_hook

from decentral.core.permutation import PermutationSpec
from decentral.errors import Untraceable
from decentral.models.catalogue import build_model
from decentral.models.graphs import trace
from decentral.models.tracing import permutation_spec

Scramble = Callable[[nn.Module], nn.Module]
ErrorOf = Callable[[nn.Module, PermutationSpec, Tensor, int], float]


def units(spec: PermutationSpec) -> dict[str, int]:
    return {group.name: group.units for group in spec.groups}


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
def test_permuting_preserves_the_function(name: str, seed: int, scramble: Scramble, error_of: ErrorOf) -> None:
    shape, options = CATALOGUE[name]
    model = scramble(build_model(name, shape, 10, **options))
    x = torch.randn(3, *shape, dtype=torch.float64)
    spec = permutation_spec(model, x[:1])
    assert error_of(model, spec, x, seed) < 1e-9


@pytest.mark.parametrize(("name", "expected"), [("mlp", 21), ("cnn", 112), ("resnet20", 448), ("gn-lenet", 128)])
def test_all_hidden_units_of_our_networks_are_free(name: str, expected: int, scramble: Scramble) -> None:
    shape, options = CATALOGUE[name]
    spec = permutation_spec(scramble(build_model(name, shape, 10, **options)), torch.randn(2, *shape).double())
    assert sum(units(spec).values()) == expected
    assert all(group.taps for group in spec.groups)


@fx.wrap
def opaque(x: Tensor) -> Tensor:
    return x.flip(1)


class Opaque(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return opaque(x)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Writing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[:, 2] = 0.0
        return x


class Aliased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.rows = self.fc.weight.detach()[:1]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.rows


def hooked() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.register_forward_hook(lambda module, inputs, output: output.flip(1))
    return layer


def patched() -> nn.Module:
    """Another forward than its class's, as libraries put in that move weights between devices."""
    layer = nn.Linear(6, 6)
    layer.forward = lambda x: x.flip(1)
    return layer


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (nn.Sequential(nn.Identity(), Branching()), r"1 \(Branching\): cannot be traced"),
        (nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity(), Branching())), r"1\.1 \(Branching\)"),
        (nn.Sequential(Writing()), r"0 \(Writing\): cannot be traced: .*item assignment"),
        (nn.Sequential(Opaque()), "0: opaque: there is no rule"),
        (nn.Sequential(hooked()), "0: 0: has hooks"),
        (hooked(), "Linear: has hooks or a forward of its own"),
        (nn.Sequential(patched()), "0: 0: has hooks or a forward of its own"),
        (nn.Sequential(nn.LazyLinear(6)), r"0\.weight is not built yet"),
        (nn.Sequential(nn.Sequential(nn.Linear(5, 5))), r"0\.0: 0\.0: cannot be run on the example inputs"),
        (nn.Sequential(Aliased()), "uses a tensor that shares memory with a parameter"),
    ],
)
def test_what_cannot_be_read_for_certain_is_untraceable(model: nn.Module, complaint: str) -> None:
    with pytest.raises(Untraceable, match=complaint):
        permutation_spec(model, torch.randn(2, 6))


def test_a_branch_at_the_top_is_untraceable() -> None:
    with pytest.raises(Untraceable, match="Branching: cannot be traced"):
        permutation_spec(Branching(), torch.randn(2, 2))


def test_parameters_that_overlap_in_memory_are_pinned() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].bias = nn.Parameter(model[2].bias.data[:])
    spec = permutation_spec(model, torch.randn(2, 4).double())
    assert units(spec) == {}


def test_tied_parameters_are_listed_under_every_name(error_of: ErrorOf) -> None:
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


def test_arguments_that_are_left_out_have_their_defaults(scramble: Scramble, error_of: ErrorOf) -> None:
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


class Moody(nn.Module):
    """Not the same network in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls = nn.Linear(6, 6), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x) if self.calls % 2 else torch.relu(self.fc(x))


def test_a_network_that_changes_its_structure_is_untraceable() -> None:
    with pytest.raises(Untraceable, match="0: relu: is not the same in every call: the network changes its structure"):
        permutation_spec(nn.Sequential(Moody()), torch.randn(2, 6))


class Crossing(nn.Module):
    """The same operators in every call, and another one's output is what counts."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.calls = nn.Linear(6, 6), nn.Linear(6, 6), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        one, other = self.one(x), self.other(x)
        return torch.relu(one if self.calls % 2 else other)


def test_a_network_whose_operators_read_other_things_in_the_next_call_is_untraceable() -> None:
    with pytest.raises(Untraceable, match="0: relu: is not the same in every call"):
        permutation_spec(nn.Sequential(Crossing(), nn.Linear(6, 3)), torch.randn(2, 6))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.tanh(self.one(x)) + self.other(y))


def test_a_network_is_read_with_all_of_its_inputs_or_not_at_all() -> None:
    x = torch.randn(2, 4)
    assert units(permutation_spec(Pair(), x, x)) == {"one": 6}
    for inputs, complaint in (([], "needs x too"), ([x], "needs y too"), ([x, x, x], "takes 2 inputs, and not 3")):
        with pytest.raises(Untraceable, match=f"Pair: {complaint}"):
            permutation_spec(Pair(), *inputs)
    with pytest.raises(Untraceable, match="Pair: an example input is empty"):
        permutation_spec(Pair(), x, x[:0])


class Baked(nn.Module):
    """Takes its parameters as they are when it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = next(iter(self.fc.parameters()))
        return self.head(torch.tanh(self.fc(x))) + weight.cumsum(0)[:3].sum(1)


def test_what_was_computed_from_parameters_in_tracing_is_untraceable() -> None:
    with pytest.raises(Untraceable, match="computed from parameters while the network was traced"):
        permutation_spec(Baked(), torch.randn(2, 4))


class Several(nn.Module):
    """Returns more than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.unused = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = torch.tanh(self.fc(x))
        return {"out": self.head(hidden), "more": (hidden.sum(1), [hidden[:, :2]])}


def test_all_that_a_network_returns_stays_in_place() -> None:
    model = Several()
    assert units(permutation_spec(model, torch.randn(2, 4))) == {"fc": 4}


def test_parameters_that_are_never_used_are_left_alone() -> None:
    model = Several()
    axes = permutation_spec(model, torch.randn(2, 4)).axes
    assert {axis.tensor for axis in axes} == {"fc.weight", "fc.bias", "head.weight"}


class Language(nn.Module):
    """The embedding is the output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(10, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(x + torch.tanh(self.fc(x)))


def test_an_embedding_tied_to_the_output_keeps_its_rows_and_moves_its_columns(error_of: ErrorOf) -> None:
    model = Language().double()
    tokens = torch.randint(10, (2, 5))
    spec = permutation_spec(model, tokens)
    assert units(spec) == {"embedding": 6}
    assert {(axis.tensor, axis.axis) for axis in spec.axes} >= {("embedding.weight", 1), ("head.weight", 1)}
    assert error_of(model, spec, tokens, 0) < 1e-9


def test_frozen_parameters_are_permuted_with_the_others(error_of: ErrorOf) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    model[0].requires_grad_(False)
    x = torch.randn(5, 4).double()
    spec = permutation_spec(model, x)
    assert units(spec) == {"0": 6}
    assert error_of(model, spec, x, 0) < 1e-9


class Windows(nn.Module):
    """Looks a table up by a buffer, of which it takes a view as MaxViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 6))
        self.register_buffer("index", torch.tensor([[0, 1], [2, 3]]))
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(x)) * self.table[self.index.view(-1)].sum(0))


def test_views_of_buffers_are_read_and_leave_nothing_behind(error_of: ErrorOf) -> None:
    model = Windows().double()
    before = set(vars(model))
    x = torch.randn(5, 6).double()
    spec = permutation_spec(model, x)
    assert units(spec) == {"": 6} or units(spec) == {"table": 6}
    assert set(vars(model)) == before
    assert error_of(model, spec, x, 0) < 1e-9


def test_taps_are_what_layers_with_weights_read() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    spec = permutation_spec(model, torch.randn(1, 1, 4, 4))
    (group,) = spec.groups
    assert [(tap.module, tap.axis, tap.entries, tap.repeat) for tap in group.taps] == [("3", 1, range(16), 4)]
    described = spec.describe()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "4.weight"):
        assert f"of {name} " in described


def test_hooks_on_all_modules_are_untraceable() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    handle = register_module_forward_hook(lambda module, inputs, output: output)
    try:
        with pytest.raises(Untraceable, match="hooks on all modules"):
            permutation_spec(model, torch.randn(2, 4))
    finally:
        handle.remove()
    assert units(permutation_spec(model, torch.randn(2, 4))) == {"0": 6}


class Remembering(nn.Linear):
    """Saves more than its tensors."""

    def get_extra_state(self) -> Tensor:
        return self.bias.detach()

    def set_extra_state(self, state: Tensor) -> None:
        self.seen = state


def test_what_is_saved_besides_tensors_has_no_axes() -> None:
    model = nn.Sequential(Remembering(4, 6), nn.Tanh(), nn.Linear(6, 3))
    spec = permutation_spec(model, torch.randn(2, 4))
    assert {axis.tensor for axis in spec.axes} == {"0.weight", "0.bias", "2.weight"}


@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.booleans(), st.integers(0, 99))
def test_any_perceptron_permutes_all_its_hidden_units(
    error_of: ErrorOf, hidden: list[int], batch_norm: bool, seed: int
) -> None:
    model = build_model("mlp", (5,), 3, hidden=hidden, batch_norm=batch_norm).double().eval()
    x = torch.randn(4, 5, dtype=torch.float64)
    spec = permutation_spec(model, x)
    assert [group.units for group in spec.groups] == hidden
    assert error_of(model, spec, x, seed) < 1e-9
