"""Running statistics for weights that were not trained but made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from decentral.training.batchnorm import reestimate_batchnorm, spread_batchnorm, tracking_layers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8, momentum=0.3), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4), nn.BatchNorm1d(4)
    )


def images(count: int = 60) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(1)) * 3 + 1


def test_statistics_are_those_of_the_data_whatever_they_were() -> None:
    model = network()
    model[1].running_mean.fill_(100.0)
    assert reestimate_batchnorm(model, [images()]) == 1
    hidden = model[0](images()).detach()
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))


def test_every_batch_counts_the_same() -> None:
    model = network()
    assert reestimate_batchnorm(model, images().split(20)) == 3
    hidden = model[0](images()).detach()
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    expected = torch.stack([part.var(0) for part in hidden.split(20)]).mean(0)
    torch.testing.assert_close(model[1].running_var, expected)


def test_only_the_statistics_change() -> None:
    model = network()
    model[5].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    reestimate_batchnorm(model, [images()])
    assert [module.training for module in model.modules()] == modes
    assert (model[1].momentum, model[5].momentum) == (0.3, 0.1)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_dropout_sleeps_meanwhile() -> None:
    first, second = network(), network()
    reestimate_batchnorm(first, [images()])
    torch.manual_seed(99)
    reestimate_batchnorm(second, [images()])
    assert torch.equal(first[5].running_mean, second[5].running_mean)


def test_training_afterwards_forgets_at_the_layers_own_pace() -> None:
    model = network().train()
    reestimate_batchnorm(model, [images()])
    before = model[1].running_mean.clone()
    batch = images() + 10
    model(batch)
    expected = 0.7 * before + 0.3 * model[0](batch).detach().mean(0)
    torch.testing.assert_close(model[1].running_mean, expected)


def test_a_batch_of_one_image_is_passed_over() -> None:
    model, other = network(), network()
    assert reestimate_batchnorm(model, [images(), images()[:1]]) == 1
    reestimate_batchnorm(other, [images()])
    assert torch.equal(model[1].running_var, other[1].running_var)


def test_a_network_without_running_statistics_does_not_run() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.GroupNorm(1, 3))
    assert reestimate_batchnorm(model, iter([torch.zeros(0)])) == 0


@pytest.mark.parametrize("batches", [[], [torch.zeros(1, 5)]])
def test_no_usable_batch_is_an_error_that_leaves_the_statistics(batches: list[Tensor]) -> None:
    model = network()
    model[1].running_mean.fill_(7.0)
    with pytest.raises(ValueError, match="no batch of two images"):
        reestimate_batchnorm(model, batches)
    assert model[1].running_mean.eq(7.0).all()
    assert model[1].momentum == 0.3


def test_a_batch_that_fails_leaves_modes_and_momentum() -> None:
    model = network().train()
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(model, [torch.zeros(4, 6)])
    assert model[1].momentum == 0.3
    assert all(module.training for module in model.modules())


def test_means_that_differ_widen_the_variance() -> None:
    model = network()
    states = []
    for mean, variance in ((1.0, 2.0), (4.0, 5.0)):
        model[1].running_mean.fill_(mean)
        model[1].running_var.fill_(variance)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    model[1].running_mean.fill_(0.75 * 1 + 0.25 * 4)
    model[1].running_var.fill_(0.75 * 2 + 0.25 * 5)
    spread_batchnorm(model, states, [0.75, 0.25])
    assert model[1].running_mean.tolist() == [1.75] * 8
    assert model[1].running_var.tolist() == pytest.approx([2.75 + 0.75 * 0.75**2 + 0.25 * 2.25**2] * 8)
    assert tracking_layers(model).keys() == {"1", "5"}
