"""Activations of the taps, read on the same images in several networks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from decentral.core.permutation import Group, PermutationSpec, Tap
from decentral.models.catalogue import build_model
from decentral.models.tracing import permutation_spec
from decentral.training.activations import ActivationReader, correlations


def images(count: int = 40) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def cnn(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("cnn", (1, 8, 8), 4, channels=(6, 8), hidden=10)


def test_taps_are_the_centred_activations_of_the_network() -> None:
    model = cnn(0).eval()
    first, _, last = ActivationReader(model, permutation_spec(model, images(2))).read(images())
    with torch.no_grad():
        maps = model.features[:4](images())
        hidden = model.classifier[:3](model.features(images()))
    torch.testing.assert_close(first.mean.float(), maps.mean((0, 2, 3)))
    torch.testing.assert_close(last.values, (hidden - hidden.mean(0)).T)
    assert first.values.shape == (6, 40 * 16)


def test_a_state_stands_in_for_the_models_own_tensors() -> None:
    model, other = cnn(0), cnn(1)
    spec = permutation_spec(model, images(2))
    lent = ActivationReader(model, spec).read(images(), other.state_dict())
    own = ActivationReader(other, spec).read(images())
    assert all(torch.equal(a.values, b.values) for a, b in zip(lent, own, strict=True))


def test_reading_leaves_the_model_as_it_was() -> None:
    model = cnn(0).train()
    model.features[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ActivationReader(model, permutation_spec(model, images(2))).read(images(), cnn(1).state_dict())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_activations_are_read_before_a_later_operator_writes_over_them() -> None:
    # The tap behind the first layer is overwritten by an activation that works in place.
    model = nn.Sequential(nn.Linear(64, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    spec = PermutationSpec((Group("0", 5, (Tap("_0", "0", 1, 0, 1),)),), ())
    (read,) = ActivationReader(model, spec).read(images().flatten(1))
    expected = model[0](images().flatten(1)).detach().T
    torch.testing.assert_close(read.values + read.mean.float()[:, None], expected)
    assert expected.min() < 0


def test_correlations_are_summed_over_the_taps_of_a_group() -> None:
    torch.manual_seed(0)
    model = build_model("resnet20", (1, 8, 8), 4)
    spec = permutation_spec(model, images(2))
    (matrices,) = correlations(model, [model.state_dict()], spec, [images()])
    assert [tuple(m.shape) for m in matrices] == [(g.units, g.units) for g in spec.groups]
    streams = [len(group.taps) for group in spec.groups]
    assert max(streams) > 1
    for matrix, taps in zip(matrices, streams, strict=True):
        assert matrix.diagonal().max() == pytest.approx(taps)


def test_batching_does_not_matter() -> None:
    model, other = cnn(0), cnn(1)
    spec = permutation_spec(model, images(2))
    (whole,) = correlations(model, [other.state_dict()], spec, [images()])
    (parts,) = correlations(model, [other.state_dict()], spec, images().split(7))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_the_reference_runs_once_for_each_batch() -> None:
    model = cnn(0)
    spec = permutation_spec(model, images(2))
    runs = 0

    def batches() -> Iterator[Tensor]:
        yield from images().split(20)

    class Counting(ActivationReader):
        def read(self, batch: Tensor, state: object = None) -> list[object]:  # type: ignore[override]
            nonlocal runs
            runs += state is None
            return super().read(batch, state)  # type: ignore[arg-type, return-value]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("decentral.training.activations.ActivationReader", Counting)
        correlations(model, [cnn(seed).state_dict() for seed in (1, 2, 3)], spec, batches())
    assert runs == 2


def test_a_specification_of_another_network_is_refused() -> None:
    mlp = build_model("mlp", (1, 8, 8), 4)
    with pytest.raises(ValueError, match="is not computed in this one"):
        ActivationReader(mlp, permutation_spec(cnn(0), images(2)))


def test_nothing_is_known_about_a_group_that_no_layer_reads() -> None:
    model = cnn(0)
    spec = permutation_spec(model, images(2))
    spec = PermutationSpec((*spec.groups, Group("unread", 3, ())), spec.axes)
    (matrices,) = correlations(model, [model.state_dict()], spec, [images()])
    assert matrices[-1].tolist() == [[0.0] * 3] * 3


def test_no_batch_is_an_error() -> None:
    model = cnn(0)
    with pytest.raises(ValueError, match="no activations"):
        correlations(model, [model.state_dict()], permutation_spec(model, images(2)), [])
