"""Averaged units get back the mean and the deviation that they have in the networks they come from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from decentral.core.permutation import random_permutation
from decentral.models.tracing import permutation_spec
from decentral.training.merging import match, merge, permute
from decentral.training.repair import applies, layer_moments, mix, repairable_layers


def images(count: int = 150) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 10, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(160, 12),
        nn.ReLU(),
        nn.Linear(12, 4),
    ).double()


def test_units_of_the_average_have_the_mean_moments_of_the_aligned_networks() -> None:
    models, weights = [network(seed) for seed in range(3)], [0.5, 0.3, 0.2]
    spec = permutation_spec(models[0], images(2))
    layers = repairable_layers(models[0], spec)
    assert layers[0] == "0"
    assert layers[-1] == "5"
    aligned = [permute(model, spec, match(models[0], model, spec, [images()])) for model in models]
    wanted = mix([layer_moments(model, layers, [images()]) for model in aligned], weights)
    repaired = layer_moments(merge(models, weights, spec, [images()], repair=True), layers, [images()])
    plain = layer_moments(merge(models, weights, spec, [images()]), layers, [images()])
    for name in layers:
        torch.testing.assert_close(repaired[name].mean, wanted[name].mean)
        torch.testing.assert_close(repaired[name].deviation, wanted[name].deviation)
        assert (plain[name].deviation - wanted[name].deviation).abs().max() > 0.01
        assert plain[name].deviation.mean() < wanted[name].deviation.mean()


def test_several_batches_come_near_it() -> None:
    models = [network(seed) for seed in range(2)]
    spec = permutation_spec(models[0], images(2))
    whole = merge(models, [0.5, 0.5], spec, [images()], repair="auto")
    parts = merge(models, [0.5, 0.5], spec, images().split(50), repair="auto")
    plain = merge(models, [0.5, 0.5], spec, [images()])
    distance = (whole(images()) - parts(images())).abs().mean()
    assert distance < 0.2 * (whole(images()) - plain(images())).abs().mean()


def test_a_network_merged_with_its_copies_is_left_as_it_is() -> None:
    model = network()
    spec = permutation_spec(model, images(2))
    planted = random_permutation(spec, torch.Generator().manual_seed(2))
    merged = merge([model, permute(model, spec, planted)], [0.5, 0.5], spec, [images()], repair=True)
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-9, rtol=1e-9)


def test_units_at_rest_are_moved_and_not_stretched() -> None:
    first, second = network(0), network(1)
    with torch.no_grad():
        for model, sign in ((first, 1.0), (second, -1.0)):
            model[5].weight.fill_(sign)  # each varies, their average does not
    spec = permutation_spec(first, images(2))
    merged = merge([first, second], [0.5, 0.5], spec, [images()], repair=True)
    assert all(tensor.isfinite().all() for tensor in merged.state_dict().values())
    assert merged[5].weight.abs().max() < 1e-6


class Awkward(nn.Module):
    """Layers that cannot be rescaled: without a bias, used twice, with a weight that is used elsewhere, the output."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.bare = nn.Linear(64, 10), nn.Linear(10, 10, bias=False)
        self.twice, self.tied, self.other = nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 10)
        self.other.weight = self.tied.weight
        self.output = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bare(relu(self.fine(x.flatten(1)))))
        x = relu(self.twice(relu(self.twice(x))))
        logits: Tensor = self.output(relu(self.other(relu(self.tied(x)))))
        return logits


def test_layers_that_cannot_be_rescaled_are_left() -> None:
    torch.manual_seed(0)
    models = [Awkward().double() for _ in range(2)]
    spec = permutation_spec(models[0], images(2))
    assert repairable_layers(models[0], spec) == ["fine"]
    repaired = merge(models, [0.5, 0.5], spec, [images()], repair=True)
    plain = merge(models, [0.5, 0.5], spec, [images()])
    changed = {n for n, t in repaired.state_dict().items() if not torch.equal(t, plain.state_dict()[n])}
    assert changed == {"fine.weight", "fine.bias"}


@pytest.mark.parametrize(
    ("layer", "auto"),
    [(nn.Identity(), True), (nn.GroupNorm(2, 8), False), (nn.BatchNorm2d(8), False), (nn.LayerNorm(6), False)],
)
def test_auto_means_networks_without_normalisation(layer: nn.Module, auto: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), layer)
    assert applies(model, "auto") is auto
    assert not applies(model, False)


def test_networks_with_batchnorm_are_repaired_by_its_statistics() -> None:
    with pytest.raises(ValueError, match="for networks without BatchNorm"):
        applies(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), True)


def test_without_images_auto_does_nothing() -> None:
    models = [network(seed) for seed in range(2)]
    spec = permutation_spec(models[0], images(2))
    auto, plain = (merge(models, [0.5, 0.5], spec, None, "weight", repair=how) for how in ("auto", False))
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in auto.state_dict().items())


def test_the_model_runs_as_before_afterwards() -> None:
    models = [network(seed).train() for seed in range(2)]
    spec = permutation_spec(models[0], images(2))
    merged = merge(models, [0.5, 0.5], spec, [images()], repair=True)
    assert not any(module._forward_hooks for module in merged.modules())
    assert all(module.training for module in merged.modules())
