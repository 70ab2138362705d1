"""What networks compute in training only: it keeps its function too, or the network is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decentral.core.permutation import PermutationSpec, random_permutation
from decentral.errors import Untraceable
from decentral.models.tracing import permutation_spec
from decentral.training.merging import permute

Scramble = Callable[[nn.Module], nn.Module]
ErrorOf = Callable[[nn.Module, PermutationSpec, Tensor, int], float]


def units(spec: PermutationSpec) -> dict[str, int]:
    return {group.name: group.units for group in spec.groups}


class Branched(nn.Module):
    """A classifier beside the network's own that only training looks at, and units of which only it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.aside, self.beside = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.tanh(self.stem(x))
        logits = self.head(torch.tanh(self.body(x)))
        return (logits, self.beside(torch.tanh(self.aside(x)))) if self.training else logits


def test_what_is_computed_in_training_only_keeps_its_function_too() -> None:
    model = Branched().double().eval()
    x = torch.randn(5, 4).double()
    spec = permutation_spec(model, x)
    assert units(spec) == {"stem": 6, "body": 5, "aside": 7}
    assert {group.name for group in spec.groups if group.taps} == {"stem", "body"}
    permuted = permute(model, spec, random_permutation(spec, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(permuted(x), model(x))
    torch.testing.assert_close(permuted.train()(x), model.train()(x))
    assert not torch.allclose(permuted.aside.weight, model.aside.weight)


class Reversing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc(x))
        return self.head(x.flip(1) if self.training else x)


def test_units_that_keep_their_order_in_training_stay_in_place() -> None:
    assert units(permutation_spec(Reversing(), torch.randn(2, 4))) == {}


class Skipping(nn.Module):
    """Another structure in every other call, or one that depends on its input, but in training only."""

    def __init__(self, by_input: bool) -> None:
        super().__init__()
        self.fc, self.by_input, self.calls = nn.Linear(6, 6), by_input, 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.fc(x)
        self.calls += 1
        return x if (x.sum() > 0 if self.by_input else self.calls % 2) else self.fc(x)


@pytest.mark.parametrize(
    ("by_input", "complaint"),
    [(False, "is not the same in every call"), (True, r"0 \(Skipping\): cannot be traced")],
)
def test_what_cannot_be_read_in_training_is_untraceable(by_input: bool, complaint: str) -> None:
    with pytest.raises(Untraceable, match=f"in training mode: .*{complaint}"):
        permutation_spec(nn.Sequential(Skipping(by_input), nn.Linear(6, 3)), torch.randn(2, 6))


class Dropping(nn.Module):
    """Counts its calls, normalises, and drops whole images at random, as many published blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.norm = nn.Linear(4, 6), nn.Linear(6, 3), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        if self.training:
            self.norm.num_batches_tracked.add_(1)
            x = x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5).div_(0.5)
            x = x + 0.1 * torch.randn_like(x)
        norm = self.norm
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training)
        return self.head(torch.relu(x))


def test_reading_training_changes_neither_buffers_nor_what_is_drawn_next(scramble: Scramble, error_of: ErrorOf) -> None:
    model = scramble(Dropping())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(5, 4).double()
    drawn = torch.random.get_rng_state()
    spec = permutation_spec(model, x)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert units(spec) == {"fc": 6}
    assert error_of(model, spec, x, 0) < 1e-9
