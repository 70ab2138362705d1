"""A router learns which cluster a noisy image is of, believes itself as much as it may, and outlives its clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from decentral.data.datasets import load_dataset
from decentral.errors import UserError
from decentral.models.catalogue import build_model
from decentral.models.denoisers import ask_router
from decentral.models.experts import facts
from decentral.training.router import LEVELS, RouterLearner, freeze_body, head, temperature, with_clusters

KINDS = {"unet": {"channels": [8, 16]}, "dit": {"heads": 2, "head": 8, "layers": 1}}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def network(kind: str = "unet", **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(kind, (1, 8, 8), 10, **KINDS[kind], **options)


def router(digits, model=None, clusters: int = 2, images: int = 300, **options) -> RouterLearner:
    """Clusters are by class, which noise hides and nothing else does."""
    settings = {"steps": 40, "batch_size": 32, "optimizer": "adamw", "learning_rate": 3e-3, "ema": 0.5, "draws": 1}
    return RouterLearner(
        network(outputs=clusters) if model is None else model,
        digits,
        np.arange(images),
        digits.train_labels[:images] % clusters,
        test_clusters=digits.test_labels % clusters,
        expert=network(),
        **{"evaluation_samples": 80, **settings, **options},
    )


def test_it_learns_to_tell_clusters_apart(digits):
    one = router(digits)
    before = one.evaluate()
    one.train(1)
    after = one.evaluate()
    assert after.loss < before.loss and after.accuracy > 0.6 and after.samples == 80


def test_what_it_calibrates_with_it_does_not_train_on(digits):
    one = router(digits, calibration=0.2)
    assert one.samples == 240 and len(one._held) == 60
    for bad in (0, 1):
        with pytest.raises(UserError, match=r"learner\.router\.calibration"):
            router(digits, calibration=bad)


def test_it_takes_what_experts_look_like_and_not_what_it_is(digits):
    one = router(digits)
    assert one.exchanged()["conv_out.weight"].shape[0] == 1
    assert one.view()["conv_out.weight"].shape[0] == 2


def test_its_temperatures_stand_in_its_configuration(digits):
    one = router(digits, steps=5)
    one.train(1)
    one.calibrate()
    known = facts(one.model).temperature
    assert known is not None and tuple(known["times"]) == LEVELS and len(known["values"]) == len(LEVELS)


def test_a_temperature_is_the_one_with_the_least_cross_entropy():
    torch.manual_seed(0)
    true = torch.randn(3000, 4)
    clusters = torch.distributions.Categorical(logits=true).sample()
    for factor in (0.5, 1.0, 3.0):
        assert temperature(true * factor, clusters) == pytest.approx(factor, rel=0.1)
    best = temperature(true * 2, clusters)
    losses = [functional.cross_entropy(true * 2 / t, clusters) for t in (best - 0.1, best, best + 0.1)]
    assert losses[1] == min(losses)


# ---- experts that come and go ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_outputs_that_are_kept_say_what_they_said(kind: str):
    old = network(kind, outputs=3).eval()
    with torch.no_grad():
        for name, parameter in old.named_parameters():
            if name in head(old):
                parameter.normal_()
    x, t = torch.randn(4, 1, 8, 8), torch.rand(4)
    new = with_clusters(old, [2, 0, None]).eval()
    with torch.no_grad():
        before, after = ask_router(old, x, t), ask_router(new, x, t)
    torch.testing.assert_close(after[:, :2], before[:, [2, 0]])
    torch.testing.assert_close(after[:, 2], before.mean(1))
    assert facts(new).temperature is None


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_head_alone_changes(digits, kind: str):
    model = with_clusters(network(kind, outputs=2), [0, 1, None])
    freeze_body(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one = router(digits, model, clusters=3, steps=3)
    one.train(1)
    changed = {name for name, tensor in one.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == head(model)


def test_refitting_the_head_finds_the_expert_that_was_added(digits):
    first = router(digits)
    first.train(1)
    with first.averaged() as body:
        model = with_clusters(body, [0, 1, None])
    freeze_body(model)
    second = router(digits, model, clusters=3)
    before = second.evaluate()
    second.train(1)
    assert second.evaluate().loss < before.loss
