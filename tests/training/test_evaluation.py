from __future__ import annotations

import pytest
import torch
from torch import nn

from decentral.training import evaluation
from decentral.training.evaluation import evaluate
from decentral.training.images import NormalisedImages


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 17, (50, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (50,), generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    images = NormalisedImages(pixels, (0.0,), (16.0,))
    whole = evaluate(model, images, labels)
    monkeypatch.setattr(evaluation, "BATCH", 7)
    parts = evaluate(model, images, labels)
    assert parts.accuracy == whole.accuracy
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert whole.samples == 50
    with torch.no_grad():
        logits = model(images[:])
    assert whole.accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert whole.loss == pytest.approx(nn.functional.cross_entropy(logits.double(), labels).item(), rel=1e-5)


def test_dropout_is_off_batch_statistics_are_not_touched_and_modes_are_restored() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model[2].eval()  # a part that the user froze stays frozen
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = NormalisedImages(torch.randint(0, 9, (8, 1, 2, 2), dtype=torch.uint8), (0.0,), (1.0,))
    labels = torch.zeros(8, dtype=torch.int64)
    first = evaluate(model, images, labels)
    assert evaluate(model, images, labels) == first
    assert [module.training for module in model] == [True, True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_modes_are_restored_when_the_model_fails() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).train()
    images = NormalisedImages(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), (0.0,), (1.0,))
    with pytest.raises(RuntimeError):
        evaluate(model, images, torch.zeros(2, dtype=torch.int64))
    assert model.training
    assert model[0].training
