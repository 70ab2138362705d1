"""Aligning and averaging networks that were trained apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decentral.core.averaging import weighted_average
from decentral.core.permutation import Permutation, identity_permutation, random_permutation
from decentral.models.catalogue import build_model
from decentral.models.tracing import permutation_spec
from decentral.training.batchnorm import reestimate_batchnorm
from decentral.training.merging import METHODS, align, match, merge, merge_into, permute

SHAPE = (1, 8, 8)


def images(count: int = 200, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


def network(name: str, seed: int = 0, **options: Any) -> nn.Module:
    """Untrained, in float64, with statistics of its own; no unit is constant on `images`."""
    torch.manual_seed(seed)
    model = build_model(name, SHAPE, 4, **options).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, nn.Linear):
            nn.init.ones_(module.bias)
    reestimate_batchnorm(model, [images()])
    return model.eval()


NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("mlp", {"hidden": (24, 16)}),
    ("mlp", {"hidden": (24, 16), "batch_norm": True}),
    ("cnn", {"channels": (8, 12), "hidden": 16}),
    ("resnet20", {}),
]


def drawn(model: nn.Module, seed: int = 3) -> tuple[Any, Permutation]:
    spec = permutation_spec(model, images(2))
    return spec, random_permutation(spec, torch.Generator().manual_seed(seed))


def constant_units(model: nn.Module, spec: Any) -> int:
    """Units that no image wakes: nothing distinguishes them from one another."""
    from decentral.training.activations import correlations

    (matrices,) = correlations(model, [model.state_dict()], spec, [images()])
    return sum(int((matrix.diagonal() == 0).sum()) for matrix in matrices)


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_a_permuted_network_is_new_and_computes_the_same(name: str, options: dict[str, Any]) -> None:
    model = network(name, **options)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    spec, permutation = drawn(model)
    permuted = permute(model, spec, permutation)
    assert permutation.share_moved > 0.8
    torch.testing.assert_close(permuted(images()), model(images()), atol=1e-9, rtol=1e-9)
    assert any(not torch.equal(permuted.state_dict()[key], before[key]) for key in before)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_a_planted_permutation_is_recovered_exactly(name: str, options: dict[str, Any], method: str) -> None:
    model = network(name, **options)
    spec, planted = drawn(model)
    assert constant_units(model, spec) == 0
    found = match(model, permute(model, spec, planted), spec, images().split(50), method)
    if method == "weight" and name == "resnet20":
        # Coordinate descent may end in a local optimum of a deep narrow network; it must have found most of it.
        assert planted.compose(found).share_moved < 0.5
    else:
        assert planted.compose(found) == identity_permutation(spec)


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_merging_with_permuted_copies_gives_back_the_same_function(name: str, options: dict[str, Any]) -> None:
    model = network(name, **options)
    spec, planted = drawn(model)
    copies = [permute(model, spec, planted), permute(model, spec, planted.invert())]
    merged = merge([model, *copies], [0.5, 0.3, 0.2], spec, [images()])
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-6, rtol=1e-6)
    naive = weighted_average([m.state_dict() for m in (model, *copies)], [0.5, 0.3, 0.2])
    plain = network(name, **options)
    plain.load_state_dict(naive)
    assert (plain(images()) - model(images())).abs().max() > 1e-3


def test_only_constant_units_may_be_left_unaligned() -> None:
    model = network("cnn", channels=(8, 12), hidden=16)
    with torch.no_grad():
        model.classifier[1].bias[:5] = -100.0  # five units that no image wakes
    spec, planted = drawn(model)
    assert constant_units(model, spec) == 5
    left = planted.compose(match(model, permute(model, spec, planted), spec, [images()]))
    wrong = [unit for group in left.sources for unit, source in enumerate(group) if unit != source]
    assert set(wrong) <= set(range(5))
    assert left.sources[0] == tuple(range(8))


def test_others_are_aligned_independently_of_one_another() -> None:
    model = network("mlp", hidden=(24, 16))
    spec, first = drawn(model, 1)
    _, second = drawn(model, 2)
    others = [permute(model, spec, first), network("mlp", 9, hidden=(24, 16)), permute(model, spec, second)]
    together = align(model, others, spec, images().split(64))
    assert together == [match(model, other, spec, images().split(64)) for other in others]


def test_a_state_may_stand_for_a_network_in_any_floating_dtype() -> None:
    model = network("mlp", hidden=(24, 16))
    spec, planted = drawn(model)
    state = {name: tensor.float() for name, tensor in permute(model, spec, planted).state_dict().items()}
    assert planted.compose(match(model, state, spec, [images()])).is_identity


def test_merging_in_place_tells_what_it_did_and_merging_leaves_its_models() -> None:
    model = network("cnn", channels=(8, 12), hidden=16)
    spec, planted = drawn(model)
    other = permute(model, spec, planted)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = merge([model, other], [0.5, 0.5], spec, [images()])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    (applied,) = merge_into(model, [other], [0.5, 0.5], spec, [images()])
    assert applied == planted.invert()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in merged.state_dict().items())


def test_batches_may_come_from_an_iterator_that_runs_only_once() -> None:
    model, other = (network("cnn", seed, channels=(8, 12), hidden=16) for seed in (0, 1))
    spec = permutation_spec(model, images(2))
    once = merge([model, other], [0.5, 0.5], spec, iter(images().split(50)))
    again = merge([model, other], [0.5, 0.5], spec, list(images().split(50)))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in once.state_dict().items())


def test_batchnorm_of_the_merged_network_is_that_of_the_images() -> None:
    models = [network("cnn", seed, channels=(8, 12), hidden=16) for seed in (0, 1, 2)]
    spec = permutation_spec(models[0], images(2))
    merged = merge(models, [1 / 3] * 3, spec, [images()])
    convolved = merged.features[0](images())
    torch.testing.assert_close(merged.features[1].running_mean, convolved.mean((0, 2, 3)).detach())
    assert merged.features[1].momentum == 0.1


def test_merging_alone_keeps_the_weights() -> None:
    model = network("mlp", hidden=(24, 16))
    merged = merge([model], [1.0], permutation_spec(model, images(2)), [images()])
    assert all(torch.equal(tensor, merged.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_network_without_free_units_is_averaged_as_it_stands() -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double() for _ in range(2)]
    spec = permutation_spec(models[0], images(2))
    assert spec.groups == ()
    merged = merge(models, [0.5, 0.5], spec, [])
    torch.testing.assert_close(merged(images()), (models[0](images()) + models[1](images())) / 2)


def test_weight_matching_needs_no_images_without_batchnorm() -> None:
    model = network("mlp", hidden=(24, 16))
    spec, planted = drawn(model)
    merged = merge([model, permute(model, spec, planted)], [0.5, 0.5], spec, method="weight")
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"method": "sinkhorn"}, "unknown matching method 'sinkhorn'; there are: activation, weight"),
        ({"batches": None}, "needs batches"),
        ({"batches": []}, "no activations"),
        ({"weights": [0.5, 0.6]}, "sum to one"),
        ({"weights": [1.0]}, "2 models but 1 weights"),
    ],
)
def test_what_cannot_be_merged_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    models = [network("mlp", seed, hidden=(24, 16)) for seed in (0, 1)]
    spec = permutation_spec(models[0], images(2))
    with pytest.raises(ValueError, match=complaint):
        merge(**{"models": models, "weights": [0.5, 0.5], "spec": spec, "batches": [images()], **arguments})


def test_networks_of_different_structure_are_refused_by_the_tensors_name() -> None:
    model = network("mlp", hidden=(24, 16))
    spec = permutation_spec(model, images(2))
    with pytest.raises(ValueError, match=r"1\.weight has the shapes \(24, 64\) and \(20, 64\)"):
        match(model, network("mlp", hidden=(20, 16)), spec, [images()])
    with pytest.raises(ValueError, match=r"only one of them has"):
        match(model, network("mlp", hidden=(24,)), spec, [images()])


@pytest.mark.slow
def test_matched_merging_of_separately_trained_networks_beats_plain_averaging() -> None:
    """Real digits: two networks from different seeds on halves of the data, merged on the first one's images."""
    x, y = load_digits(return_X_y=True)
    data, labels = torch.from_numpy(x / 16).float().reshape(-1, *SHAPE), torch.from_numpy(y)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(data)))
    test, shares = order[:360], order[360:].chunk(2)

    def accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model.eval()(data[test]).argmax(1) == labels[test]).float().mean())

    models = []
    for seed, share in enumerate(shares):
        torch.manual_seed(seed)
        model = build_model("cnn", SHAPE, 10, channels=(32, 64), hidden=128)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(10):
            for batch in share[torch.randperm(len(share))].split(32):
                optimiser.zero_grad()
                cross_entropy(model(data[batch]), labels[batch]).backward()
                optimiser.step()
        models.append(model.eval())
    spec = permutation_spec(models[0], data[:2])
    own = data[shares[0][:288]].split(64)
    merged = merge(models, [0.5, 0.5], spec, own)
    plain = build_model("cnn", SHAPE, 10, channels=(32, 64), hidden=128)
    plain.load_state_dict(weighted_average([model.state_dict() for model in models], [0.5, 0.5]))
    reestimate_batchnorm(plain, own)
    assert accuracy(merged) >= 0.9
    assert accuracy(merged) >= accuracy(plain) + 0.15
