"""How good a model is on the common test set."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional

from decentral.training.images import NormalisedImages
from decentral.training.learner import Evaluation

BATCH = 256


@torch.no_grad()
def evaluate(model: nn.Module, images: NormalisedImages, labels: Int[Tensor, " n"]) -> Evaluation:
    """Mean cross-entropy and accuracy, summed in float64. Dropout is off, BatchNorm uses its running statistics.

    Every module is left in the mode it was in. Of classes that tie, the first is the answer.
    """
    modes = {module: module.training for module in model.modules()}
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    right = torch.zeros((), dtype=torch.int64, device=labels.device)
    model.eval()
    try:
        for start in range(0, len(labels), BATCH):
            part = slice(start, start + BATCH)
            logits = model(images[part])
            loss += functional.cross_entropy(logits, labels[part], reduction="none").sum(dtype=torch.float64)
            right += (logits.argmax(1) == labels[part]).sum()
    finally:
        for module, training in modes.items():
            module.training = training
    samples = len(labels)
    return Evaluation(loss=loss.item() / samples, accuracy=right.item() / samples, samples=samples)
