"""Activations of the taps, read on the same images in several networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils._python_dispatch import TorchDispatchMode

from decentral.core.matching import activation_matching
from decentral.core.permutation import (
    Group,
    Permutation,
    PermutationSpec,
    Tap,
    apply_permutation,
    random_permutation,
)
from decentral.models.catalogue import build_model
from decentral.models.tracing import permutation_spec
from decentral.training.activations import ActivationReader, NotFinite, ambiguous_units, compare


def images(count: int = 40) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def cnn(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("cnn", (1, 8, 8), 4, channels=(6, 8), hidden=10)


def spec_of(model: nn.Module) -> PermutationSpec:
    return permutation_spec(model, images(2))


def permuted(model: nn.Module, spec: PermutationSpec, seed: int = 3) -> tuple[dict[str, Tensor], Permutation]:
    planted = random_permutation(spec, torch.Generator().manual_seed(seed))
    return apply_permutation(spec, planted, model.state_dict()), planted


def test_taps_are_the_activations_of_the_network() -> None:
    model = cnn(0).eval()
    first, _, last = ActivationReader(model, spec_of(model)).read(images())
    with torch.no_grad():
        maps = model.features[:4](images())
        hidden = model.classifier[:3](model.features(images()))
    torch.testing.assert_close(first, maps.movedim(1, 0).flatten(1))
    torch.testing.assert_close(last, hidden.T)
    assert first.shape == (6, 40 * 16)


@pytest.mark.parametrize("size", [16, 19, 32])
def test_large_maps_are_read_as_averages_of_neighbours(size: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    x = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(1))
    (read,) = ActivationReader(model, permutation_spec(model, x)).read(x)
    window = -(-size // 8)
    with torch.no_grad():
        maps = avg_pool2d(model[:2](x), window, ceil_mode=True)  # a window at the edge is averaged over what it has
    torch.testing.assert_close(read, maps.movedim(1, 0).flatten(1) * window**2)


def test_a_unit_that_wakes_at_a_single_pixel_is_seen() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2).view(2, 2, 1, 1))
        model[0].bias.zero_()
    x = torch.zeros(70, 2, 32, 32)
    x[11, 0, 31, 17] = x[60, 1, 3, 30] = 1.0
    spec = permutation_spec(model, x)
    assert ambiguous_units(model, spec, x.split(35)).count == 0
    (likeness,) = compare(model, [permuted(model, spec, 0)[0]], spec, x.split(35))
    assert likeness.correlation[0].max(1).values.tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_state_stands_in_for_the_models_own_tensors() -> None:
    model, other = cnn(0), cnn(1)
    spec = spec_of(model)
    lent = ActivationReader(model, spec).read(images(), other.state_dict())
    own = ActivationReader(other, spec).read(images())
    assert all(torch.equal(a, b) for a, b in zip(lent, own, strict=True))


def test_reading_leaves_the_model_as_it_was() -> None:
    model = cnn(0).train()
    model.features[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ActivationReader(model, spec_of(model)).read(images(), cnn(1).state_dict())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_activations_are_read_before_a_later_operator_writes_over_them() -> None:
    # The tap behind the first layer is overwritten by an activation that works in place.
    model = nn.Sequential(nn.Linear(64, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    spec = PermutationSpec((Group("0", 4, (Tap("_0", "0", 1, range(1, 5), 1),)),), ())
    (read,) = ActivationReader(model, spec).read(images().flatten(1))
    expected = model[0](images().flatten(1)).detach().T[1:]
    torch.testing.assert_close(read, expected)
    assert expected.min() < 0


def test_correlations_are_summed_over_the_taps_of_a_group() -> None:
    torch.manual_seed(0)
    model = build_model("resnet20", (1, 8, 8), 4)
    spec = spec_of(model)
    (likeness,) = compare(model, [model.state_dict()], spec, [images()])
    assert [tuple(m.shape) for m in likeness.correlation] == [(g.units, g.units) for g in spec.groups]
    streams = [len(group.taps) for group in spec.groups]
    assert max(streams) > 1
    for matrix, attainable, taps in zip(likeness.correlation, likeness.attainable, streams, strict=True):
        assert matrix.diagonal().max() == pytest.approx(taps)
        torch.testing.assert_close(matrix.diagonal(), attainable, atol=1e-5, rtol=0)


def test_batching_does_not_matter() -> None:
    model, other = cnn(0), cnn(1)
    spec = spec_of(model)
    (whole,) = compare(model, [other.state_dict()], spec, [images()])
    (parts,) = compare(model, [other.state_dict()], spec, [images()[:0], *images().split(7)])
    for a, b in zip(whole.correlation, parts.correlation, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


class Counting(ActivationReader):
    """Which states were run, in order; None: the reference."""

    runs: ClassVar[list[int | None]] = []
    states: ClassVar[list[Mapping[str, Tensor]]] = []

    def read(self, batch: Tensor, state: Mapping[str, Tensor] | None = None) -> list[Tensor]:  # type: ignore[override]
        self.runs.append(None if state is None else next(n for n, one in enumerate(self.states) if one is state))
        return super().read(batch, state)


def runs_of(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, states: list[Mapping[str, Tensor]], size: int
) -> list[int | None]:
    monkeypatch.setattr("decentral.training.activations.ActivationReader", Counting)
    monkeypatch.setattr(Counting, "runs", [])
    monkeypatch.setattr(Counting, "states", states)
    compare(model, states, spec_of(model), iter(images(200).split(size)))
    return Counting.runs


def test_the_reference_runs_once_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(monkeypatch, cnn(0), [cnn(seed).state_dict() for seed in (1, 2, 3)], 100)
    assert runs == [None, 0, 1, 2, None, 0, 1, 2]


def test_networks_in_the_references_basis_run_on_the_first_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cnn(0)
    near = {
        name: tensor + 0.01 * tensor.std() if tensor.ndim > 1 else tensor for name, tensor in model.state_dict().items()
    }
    assert runs_of(monkeypatch, model, [near, model.state_dict()], 40) == [None, 0, 1] * 2
    moved, _ = permuted(model, spec_of(model))
    assert runs_of(monkeypatch, model, [near, moved], 100) == [None, 0, 1, None, 1]


def test_two_units_that_changed_places_are_no_shared_basis() -> None:
    model = cnn(0)
    spec = spec_of(model)
    for group in range(len(spec.groups)):
        sources = [list(range(g.units)) for g in spec.groups]
        sources[group][1], sources[group][4] = 4, 1
        planted = Permutation(tuple(map(tuple, sources)))
        state = apply_permutation(spec, planted, model.state_dict())
        (likeness,) = compare(model, [state], spec, images(200).split(70))
        assert planted.compose(activation_matching(spec, likeness)).is_identity


def test_activations_that_are_not_finite_are_told_by_network_and_place() -> None:
    model, other = cnn(0), cnn(1).state_dict()
    other["features.0.weight"] = torch.full_like(other["features.0.weight"], 1e38)
    spec = spec_of(model)
    with pytest.raises(NotFinite, match=r"network 1 of the others has activations .*in features.3.*of features.0"):
        compare(model, [cnn(2).state_dict(), other], spec, [images()])
    with pytest.raises(NotFinite, match=r"the reference has activations that are not finite") as raised:
        compare(model, [cnn(2).state_dict()], spec, [images() * torch.inf])
    assert raised.value.network is None


def test_what_cannot_be_told_apart_is_counted_and_shown() -> None:
    model = cnn(0).eval()
    with torch.no_grad():
        model.classifier[1].bias.fill_(1.0)
        model.classifier[1].bias[:3] = -1000.0
        for name in ("weight", "bias"):
            model.classifier[1].get_parameter(name)[7] = model.classifier[1].get_parameter(name)[5]
    spec = spec_of(model)
    ambiguous = ambiguous_units(model, spec, images().split(20))
    assert (ambiguous.constant, ambiguous.alike) == (((), (), (0, 1, 2)), ((), (), ((5, 7),)))
    assert ambiguous.count == 5
    assert "5 of 24 units" in ambiguous.describe()
    assert "classifier.1: 3 constant (0, 1, 2); alike: 5, 7" in ambiguous.describe()
    sources = [list(range(group.units)) for group in spec.groups]
    for one, other, allowed in ((0, 2, True), (5, 7, True), (0, 5, False), (3, 4, False)):
        swapped = [list(group) for group in sources]
        swapped[2][one], swapped[2][other] = other, one
        assert ambiguous.allows(Permutation(tuple(map(tuple, swapped)))) is allowed


def test_a_specification_of_another_network_is_refused() -> None:
    mlp = build_model("mlp", (1, 8, 8), 4)
    with pytest.raises(ValueError, match="is not computed in this one"):
        ActivationReader(mlp, permutation_spec(cnn(0), images(2)))


def test_nothing_is_known_about_a_group_that_no_layer_reads() -> None:
    model = cnn(0)
    spec = spec_of(model)
    spec = PermutationSpec((*spec.groups, Group("unread", 3, ())), spec.axes)
    (likeness,) = compare(model, [model.state_dict()], spec, [images()])
    assert likeness.correlation[-1].tolist() == [[0.0] * 3] * 3
    assert likeness.attainable[-1].tolist() == [0.0] * 3


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 1, 8, 8)]])
def test_no_image_is_an_error(batches: list[Tensor]) -> None:
    model = cnn(0)
    with pytest.raises(ValueError, match="no activations"):
        compare(model, [model.state_dict()], spec_of(model), batches)


def test_half_precision_is_compared_in_float32() -> None:
    model = cnn(0).bfloat16()
    spec = permutation_spec(model, images(2).bfloat16())
    state, planted = permuted(model, spec)
    (likeness,) = compare(model, [state], spec, [images(200).bfloat16()])
    assert likeness.correlation[0].dtype == torch.float64
    left = planted.compose(activation_matching(spec, likeness))
    assert ambiguous_units(model, spec, [images(200).bfloat16()]).allows(left)
    assert not planted.is_identity


class Leaving(TorchDispatchMode):
    """Writes down what is copied from a GPU to the host, but for single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [arg for arg in args if isinstance(arg, Tensor)]
        if isinstance(result, Tensor) and result.device.type == "cpu" and result.numel() > 1:
            self.copied += [str(func) for tensor in given if tensor.is_cuda and tensor.numel() > 1][:1]
        return result


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_activations_and_correlations_stay_on_the_device() -> None:
    """Images come to it once; of what was computed, nothing leaves but numbers that say how to go on."""
    model = cnn(0).cuda()
    spec = spec_of(cnn(0))
    others = [{name: tensor.cuda() for name, tensor in cnn(seed).state_dict().items()} for seed in (1, 2)]
    with Leaving() as leaving:
        found = compare(model, others, spec, images(200).split(64))
    assert leaving.copied == []
    assert {scores.device.type for likeness in found for scores in likeness.correlation} == {"cuda"}
    here = compare(cnn(0), [cnn(seed).state_dict() for seed in (1, 2)], spec, images(200).split(64))
    for ours, theirs in zip(found, here, strict=True):
        for one, other in zip(ours.correlation, theirs.correlation, strict=True):
            torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-3)
    with Leaving() as leaving:
        ActivationReader(model, spec).read(images())[0].cpu()
    assert len(leaving.copied) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_planted_permutation_is_found_on_a_device() -> None:
    model = cnn(0).cuda()
    spec = permutation_spec(model, images(2).cuda())
    state, planted = permuted(model, spec)
    (likeness,) = compare(model, [state], spec, images(300).split(100))
    left = planted.compose(activation_matching(spec, likeness))
    assert ambiguous_units(model, spec, [images(300)]).allows(left)
