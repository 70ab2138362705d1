"""Merging networks unlike most: tied, with aids for training, with more than tensors; and networks on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decentral.core.permutation import random_permutation
from decentral.models.tracing import permutation_spec
from decentral.training.merging import METHODS, match, merge, merge_into, permute
from tests.training.untrained import images, network


class Tied(nn.Module):
    """Encodes and decodes with one weight, which the state dict names twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.middle = nn.Linear(64, 12), nn.Linear(12, 12)
        self.again = nn.Linear(64, 12)
        self.again.weight = self.encoder.weight
        self.classifier = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        logits: Tensor = self.classifier(self.middle(self.encoder(x).relu()).relu() + self.again(x).relu())
        return logits


@pytest.mark.parametrize("method", METHODS)
def test_tied_parameters_stay_tied(method: str) -> None:
    torch.manual_seed(0)
    model = Tied().double()
    spec = permutation_spec(model, images(2))
    planted = random_permutation(spec, torch.Generator().manual_seed(1))
    assert planted.share_moved > 0.5
    merged = merge([model, permute(model, spec, planted)], [0.5, 0.5], spec, [images()], method)
    assert merged.again.weight is merged.encoder.weight
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-9, rtol=1e-9)


def test_two_weights_are_not_merged_into_one() -> None:
    """The reference has one tensor where the other has two: one of those would be lost without a word."""
    torch.manual_seed(0)
    model, other = Tied().double(), Tied().double()
    spec = permutation_spec(model, images(2))
    other.again.weight = nn.Parameter(other.encoder.weight.detach().clone())
    merge([model, other], [0.5, 0.5], spec, [images()])
    with torch.no_grad():
        other.again.weight[0, 0] += 1
    complaint = r"encoder\.weight and again\.weight are one tensor, and two in network {} of the others"
    with pytest.raises(ValueError, match=complaint.format(1)):
        merge([model, model, other], [0.4, 0.3, 0.3], spec, [images()])
    with pytest.raises(ValueError, match=complaint.format(0)):
        match(model, {**model.state_dict(), "again.weight": other.again.weight}, spec, [images()])


def test_a_reference_with_two_weights_takes_one_that_is_tied() -> None:
    torch.manual_seed(0)
    model, other = Tied().double(), Tied().double()
    model.again.weight = nn.Parameter(model.encoder.weight.detach() + 1)
    spec = permutation_spec(model, images(2))
    merged = merge([model, other], [1.0, 0.0], spec, [images()])
    torch.testing.assert_close(merged(images()), model(images()))


class Counting(nn.Linear):
    """Saves more than its tensors."""

    seen = "nothing"

    def get_extra_state(self) -> str:
        return self.seen

    def set_extra_state(self, state: str) -> None:
        self.seen = state


def test_what_is_no_tensor_stays_the_references() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Counting(64, 12), nn.ReLU(), nn.Linear(12, 4)).double()
    spec = permutation_spec(model, images(2))
    planted = random_permutation(spec, torch.Generator().manual_seed(1))
    other = permute(model, spec, planted)
    model[1].seen, other[1].seen = "this", "that"
    for given in (other, other.state_dict()):
        assert planted.compose(match(model, given, spec, [images()])).is_identity
    assert merge_into(model, [other.state_dict()], [0.5, 0.5], spec, [images()]) == [planted.invert()]
    assert (model[1].seen, other[1].seen) == ("this", "that")


def test_auxiliary_classifiers_are_merged_as_they_compute() -> None:
    """What only training looks at is aligned with what it reads; its own units are found by their weights."""

    class Aided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.aside = nn.Linear(64, 12), nn.Linear(12, 4), nn.Linear(12, 8)
            self.beside = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = self.stem(x.flatten(1)).relu()
            logits: Tensor = self.head(x)
            return (logits, self.beside(self.aside(x).relu())) if self.training else logits

    torch.manual_seed(0)
    model = Aided().double().eval()
    spec = permutation_spec(model, images(2))
    planted = random_permutation(spec, torch.Generator().manual_seed(1))
    merged = merge([model, permute(model, spec, planted)], [0.5, 0.5], spec, [images()], "both")
    torch.testing.assert_close(merged.train()(images()), model.train()(images()))


class Enlarging(nn.Module):
    """Transposed convolutions, dense and of groups; normalised picture by picture, and gated."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 8, 2)
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.groups = nn.ConvTranspose2d(8, 12, 2, groups=2)
        self.gate = nn.Sequential(nn.Conv2d(12, 12, 1), nn.GLU(1))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.gate(self.groups(self.norm(self.up(x)).tanh()).tanh()).tanh().mean((2, 3)))
        return logits


@pytest.mark.parametrize("method", METHODS)
def test_units_of_transposed_convolutions_are_found_again(method: str) -> None:
    torch.manual_seed(0)
    model = Enlarging().double().eval()
    nn.init.uniform_(model.norm.weight)
    spec = permutation_spec(model, images(2))
    planted = random_permutation(spec, torch.Generator().manual_seed(2))
    assert sorted((group.units, group.cells) for group in spec.groups) == [(6, 1), (8, 2), (12, 2)]
    found = match(model, permute(model, spec, planted), spec, [images()], method)
    assert planted.compose(found).is_identity


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "options", "repair"), [("resnet20", {}, False), ("mlp", {"hidden": (24, 16)}, True)])
def test_a_merge_on_a_device_is_that_of_the_cpu(name: str, options: dict[str, Any], repair: bool, method: str) -> None:
    """Networks on a GPU, images and another network's state on the host: the merge stays on the GPU."""
    model, other = network(name, 0, **options), network(name, 1, **options)
    spec = permutation_spec(model, images(2))
    here = merge([model, other], [0.5, 0.5], spec, images().split(50), method, repair=repair)
    model.cuda()
    assert permutation_spec(model, images(2).cuda()) == spec
    merge_into(model, [other.state_dict()], [0.5, 0.5], spec, images().split(50), method=method, repair=repair)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
    torch.testing.assert_close(model(images().cuda()).cpu(), here(images()), atol=1e-5, rtol=1e-5)
