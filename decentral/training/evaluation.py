"""How good a model is on the common test set."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from decentral.models.graphs import evaluating
from decentral.training.images import NormalisedImages
from decentral.training.learner import Evaluation

BATCH = 256


class Tally:
    """What a model's answers come to, batch by batch, summed in float64. Of classes that tie, the first counts."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._right = torch.zeros((), dtype=torch.int64, device=device)
        self._samples = 0

    def add(self, logits: Float[Tensor, "b classes"], labels: Int[Tensor, " b"]) -> None:
        self._loss += functional.cross_entropy(logits, labels, reduction="none").sum(dtype=torch.float64)
        self._right += (logits.argmax(1) == labels).sum()
        self._samples += len(labels)

    def result(self) -> Evaluation:
        loss, right, samples = self._loss.item(), self._right.item(), self._samples
        return Evaluation(loss=loss / samples, accuracy=right / samples, samples=samples)


@torch.no_grad()
def evaluate(model: nn.Module, images: NormalisedImages, labels: Int[Tensor, " n"]) -> Evaluation:
    """Mean cross-entropy and accuracy. Dropout is off, BatchNorm uses its running statistics.

    Every module is left in the mode it was in.
    """
    tally = Tally(labels.device)
    with evaluating(model):
        for start in range(0, len(labels), BATCH):
            part = slice(start, start + BATCH)
            tally.add(model(images[part]), labels[part])
    return tally.result()
