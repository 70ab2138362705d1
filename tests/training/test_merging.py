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
from decentral.core.matching import Likeness
from decentral.core.permutation import Permutation, identity_permutation, random_permutation
from decentral.models.catalogue import build_model
from decentral.models.tracing import permutation_spec
from decentral.training.activations import NotFinite, ambiguous_units
from decentral.training.batchnorm import reestimate_batchnorm
from decentral.training.merging import METHODS, align, match, merge, merge_into, permute
from tests.training.untrained import SHAPE, images, network

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("mlp", {"hidden": (24, 16)}),
    ("mlp", {"hidden": (24, 16), "batch_norm": True}),
    ("cnn", {"channels": (8, 12), "hidden": 16}),
    ("resnet20", {}),
]


def drawn(model: nn.Module, seed: int = 3) -> tuple[Any, Permutation]:
    spec = permutation_spec(model, images(2))
    return spec, random_permutation(spec, torch.Generator().manual_seed(seed))


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
    assert ambiguous_units(model, spec, [images()]).count == 0
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
    left = planted.compose(match(model, permute(model, spec, planted), spec, [images()]))
    ambiguous = ambiguous_units(model, spec, [images()])
    assert ambiguous.count == 5
    assert ambiguous.allows(left)
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


def test_a_permutation_that_takes_the_weights_farther_apart_is_not_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same activations: they count for a network in another order, and not for one that shares its basis."""
    model = network("mlp", hidden=(24, 16))
    spec = permutation_spec(model, images(2))
    backwards = Permutation(tuple(tuple(reversed(range(group.units))) for group in spec.groups))
    weak = Likeness(
        tuple(0.4 * torch.eye(group.units, dtype=torch.float64).flip(1) for group in spec.groups),
        tuple(torch.ones(group.units, dtype=torch.float64) for group in spec.groups),
    )
    monkeypatch.setattr("decentral.training.merging.compare", lambda reference, others, *_: [weak] * len(others))
    near = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    apart = permute(model, spec, backwards).state_dict()
    assert align(model, [near, apart], spec, [images()]) == [identity_permutation(spec), backwards]


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


def test_activations_and_weights_together_find_what_the_images_leave_alike() -> None:
    model = network("cnn", channels=(8, 12), hidden=16)
    with torch.no_grad():
        model.classifier[1].bias[:5] = -100.0  # at rest on all images
    spec, planted = drawn(model)
    other = permute(model, spec, planted)
    assert not planted.compose(match(model, other, spec, [images()])).is_identity
    assert planted.compose(match(model, other, spec, [images()], "both")).is_identity


def test_averaged_statistics_are_those_of_all_images_together() -> None:
    """Equal weights on different images: the law of total variance makes the whole of the parts."""
    first = network("cnn", channels=(8, 12), hidden=16)
    spec, planted = drawn(first)
    second = permute(first, spec, planted)
    parts = images().split(100)
    for model, part in zip((first, second), (parts[0], 2 * parts[1] + 1), strict=True):
        reestimate_batchnorm(model, [part])
    merged = merge([first, second], [0.5, 0.5], spec, [images()], statistics="average")
    layer, whole = merged.features[1], torch.cat([parts[0], 2 * parts[1] + 1])
    convolved = merged.features[0](whole).detach()
    torch.testing.assert_close(layer.running_mean, convolved.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, convolved.var((0, 2, 3)), rtol=1e-3, atol=0)


def test_averaged_statistics_and_weight_matching_need_no_images() -> None:
    model = network("cnn", channels=(8, 12), hidden=16)
    spec, planted = drawn(model)
    others = [permute(model, spec, planted)]
    merged = merge([model, *others], [0.5, 0.5], spec, method="weight", statistics="average")
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_are_summed_in_float32(dtype: torch.dtype) -> None:
    model = network("mlp", hidden=(24, 16)).to(dtype)
    spec = permutation_spec(model, images(2, dtype))
    planted = random_permutation(spec, torch.Generator().manual_seed(3))
    merged = merge([model, *[permute(model, spec, planted)] * 2], [0.4, 0.3, 0.3], spec, [images(200, dtype)])
    for name, tensor in model.state_dict().items():
        assert merged.state_dict()[name].dtype == dtype
        # One rounding at the end, none a term.
        assert (merged.state_dict()[name].float() - tensor.float()).abs().max() <= torch.finfo(
            dtype
        ).eps * tensor.abs().max()


def test_networks_of_another_dtype_than_the_reference_are_taken_into_its_own() -> None:
    model = network("cnn", channels=(8, 12), hidden=16)
    spec, planted = drawn(model)
    merged = merge([model, permute(model, spec, planted).float()], [0.5, 0.5], spec, [images()])
    assert {tensor.dtype for tensor in merged.state_dict().values()} == {torch.float64, torch.int64}
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-5, rtol=1e-5)


def test_integers_stay_the_references_and_frozen_parameters_stay_frozen() -> None:
    model = network("cnn", channels=(8, 12), hidden=16)
    model.features[0].weight.requires_grad_(False)
    spec, planted = drawn(model)
    other = permute(model, spec, planted)
    model.register_buffer("steps", torch.tensor(7))
    other.register_buffer("steps", torch.tensor(900))
    merged = merge([model, other], [0.5, 0.5], spec, [images()], statistics="average")
    assert merged.steps.item() == 7
    assert merged.features[1].num_batches_tracked == model.features[1].num_batches_tracked
    assert [p.requires_grad for p in merged.parameters()] == [p.requires_grad for p in model.parameters()]
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_told_by_network_and_name(number: float) -> None:
    model, other = (network("mlp", seed, hidden=(24, 16)) for seed in (0, 1))
    spec = permutation_spec(model, images(2))
    with torch.no_grad():
        other[5].bias[2] = number
    with pytest.raises(NotFinite, match=r"network 1 of the others has a value in 5\.bias that is not finite") as raised:
        merge([model, model, other], [0.4, 0.3, 0.3], spec, [images()])
    assert raised.value.network == 1
    with pytest.raises(NotFinite, match=r"the reference has a value in 5\.bias") as raised:
        merge([other, model], [0.5, 0.5], spec, [images()])
    assert raised.value.network is None


def test_a_merge_that_fails_leaves_the_model() -> None:
    model, other = (network("cnn", seed, channels=(8, 12), hidden=16) for seed in (0, 1))
    spec = permutation_spec(model, images(2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"no batch of two images or more to estimate the statistics of features\.1"):
        merge_into(model, [other], [0.5, 0.5], spec, [images(1)])
    with pytest.raises(ValueError, match="3 models but 2 weights"):
        merge_into(model, [other, other], [0.5, 0.5], spec, [images()])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"method": "sinkhorn"}, "unknown matching method 'sinkhorn'; there are: activation, weight, both"),
        ({"batches": None}, "needs batches"),
        ({"batches": None, "method": "both"}, "'both' needs batches"),
        ({"batches": []}, "no activations"),
        ({"statistics": "forget"}, "unknown statistics 'forget'; there are: reestimate, average"),
        ({"repair": True, "batches": None, "method": "weight"}, "repair needs batches"),
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


def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x / 16).float().reshape(-1, *SHAPE), torch.from_numpy(y)


def trained_on_digits(name: str, epochs: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    data, labels = digits()
    model = build_model(name, SHAPE, 10, **options)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(data)).split(64):
            optimiser.zero_grad()
            cross_entropy(model(data[batch]), labels[batch]).backward()
            optimiser.step()
    return model.eval()


@pytest.mark.parametrize("count", [200, 1000])
@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {"hidden": (64, 32)}), ("mlp", {"hidden": (64, 32), "batch_norm": True}), ("cnn", {}), ("resnet20", {})],
)
def test_a_planted_permutation_of_a_trained_network_is_recovered(
    name: str, options: dict[str, Any], count: int
) -> None:
    """Up to units that are constant or alike on the images, which are counted; and the function is the same again."""
    model = trained_on_digits(name, 1 if name == "resnet20" else 3, **options)
    data, _ = digits()
    batches = data[:count].split(128)
    spec = permutation_spec(model, data[:2])
    planted = random_permutation(spec, torch.Generator().manual_seed(1))
    other = permute(model, spec, planted)
    found = match(model, other, spec, batches)
    ambiguous = ambiguous_units(model, spec, batches)
    left = planted.compose(found)
    assert ambiguous.allows(left)
    assert not ambiguous.allows(planted)
    assert ambiguous.count < 0.5 * sum(group.units for group in spec.groups)
    torch.testing.assert_close(permute(other, spec, found)(data), model(data), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_matched_merging_of_separately_trained_networks_beats_plain_averaging() -> None:
    """Real digits: two networks from different seeds on halves of the data, merged on the first one's images."""
    data, labels = digits()
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
