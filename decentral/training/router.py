"""Local training of a router: which cluster a noisy image may have come from.

McAllister et al., arXiv 2501.05450: cross-entropy on (x_t, t), and here on the label too where there is one.
Temperatures are fitted on images that were not trained on: Guo et al., "On calibration of modern neural networks"
(arXiv 1706.04599), section 4.2, for each noise level by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.flow import interpolate
from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, LabelledImages
from decentral.errors import UserError
from decentral.models.denoisers import ask_router
from decentral.models.experts import FACTS, note, outputs
from decentral.models.graphs import saved_state
from decentral.training.diffusion import NoisedTraining
from decentral.training.learner import Evaluation, State

LEVELS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
"""Noise levels whose temperatures are measured; others are between them."""
COLDEST, HOTTEST = 0.25, 4.0


class RouterLearner(NoisedTraining):
    """Trains `model`, of one output channel for each cluster, to tell the `clusters` of the images `share` apart.

    `test_clusters` are those of all test images. The share `calibration` of the images, drawn from the seed, is not
    trained on but calibrated with. `expert` is what those look like that this peer will receive.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: LabelledImages,
        share: Indices,
        clusters: Int64[np.ndarray, " n"],
        *,
        test_clusters: Int64[np.ndarray, " m"],
        expert: nn.Module,
        calibration: float | int = 0.1,
        **options: Any,
    ) -> None:
        """Raises UserError for an option that cannot be."""
        if not 0 < calibration < 1:
            raise UserError(f"learner.router.calibration: must be between 0 and 1, not {calibration}")
        seed = int(options.get("seed", 0))
        order = np.random.default_rng(derive_seed(seed, "calibration")).permutation(len(share))
        held, kept = np.split(order, [max(1, round(calibration * len(share)))])
        held, kept = np.sort(held), np.sort(kept)
        super().__init__(model, dataset, share[kept], **options)
        self._clusters = torch.from_numpy(clusters[kept]).to(self.device)
        self._test_clusters = torch.from_numpy(test_clusters)
        self._held, self._held_clusters = share[held], torch.from_numpy(clusters[held]).to(self.device)
        self.expert = expert

    def exchanged(self) -> State:
        """What this peer takes from others is not what it trains."""
        return saved_state(self.expert)

    def loss(self, images: Float[Tensor, "b c h w"], batch: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        t = self.drawn_times(len(batch))
        noisy = interpolate(images, torch.randn_like(images), t)
        logits = ask_router(self.model, noisy, t, self.drawn_labels(batch))
        return functional.cross_entropy(logits, self._clusters[batch])

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Mean cross-entropy and accuracy over noisy test images of all levels."""
        nll, right, seen = 0.0, 0, 0
        with self.averaged() as model:
            for part in self.held_out():
                logits = ask_router(model, part.noised, part.t, part.labels)
                clusters = self._test_clusters[part.numbers].to(self.device)
                nll += functional.cross_entropy(logits.double(), clusters, reduction="sum").item()
                right += int((logits.argmax(1) == clusters).sum())
                seen += len(logits)
        return Evaluation(loss=nll / seen, accuracy=right / seen, samples=len(self._test_numbers))

    @torch.no_grad()
    def calibrate(self) -> None:
        """Writes the temperature of each noise level into the configuration of the network, where the sampler looks."""
        images = self._normalised(torch.from_numpy(self._dataset.train_images(self._held)))[:]
        labels = torch.from_numpy(self._dataset.train_labels[self._held]).to(self.device) if self._conditional else None
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "calibration", "noise"))
        found = []
        with self.averaged() as model:
            for level in LEVELS:
                t = torch.full((len(images),), level, device=self.device)
                logits = []
                for _ in range(self._draws):
                    noise = torch.randn(images.shape, generator=generator).to(self.device)
                    logits.append(ask_router(model, interpolate(images, noise, t), t, labels))
                found.append(temperature(torch.cat(logits), self._held_clusters.repeat(self._draws)))
        note(self.model, temperature={"times": list(LEVELS), "values": found})


def temperature(logits: Float[Tensor, "n k"], clusters: Int[Tensor, " n"]) -> float:
    """What the logits are divided by so that their cross-entropy is least, within bounds: a few images prove little."""
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return functional.cross_entropy(logits / math.exp(log_temperature), clusters).item()

    best = minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return float(round(math.exp(best.x), 4))


def with_clusters(router: nn.Module, kept: Sequence[int | None]) -> nn.Module:
    """A copy of a router for other clusters: output k is the old one's `kept[k]`, or a new one, at first their mean.

    The temperatures are left behind, since they were of the old outputs.
    """
    old = cast(Any, router)
    known = {key: value for key, value in old.config.items() if key != FACTS}
    copy: nn.Module = type(old).from_config({**known, "out_channels": len(kept)})
    state, before = saved_state(copy), saved_state(router)
    with torch.no_grad():
        for name, tensor in state.items():
            if name in head(router):
                rows = before[name].reshape(-1, outputs(router), *tensor.shape[1:])  # [patch², clusters, ...]
                new = [rows.mean(1) if index is None else rows[:, index] for index in kept]
                tensor.copy_(torch.stack(new, 1).flatten(0, 1))
            else:
                tensor.copy_(before[name])
    return copy


def head(router: nn.Module) -> frozenset[str]:
    """The parameters of the last layer, which alone depend on how many clusters there are."""
    last = "conv_out" if hasattr(router, "conv_out") else "proj_out_2"
    return frozenset(name for name, _ in router.named_parameters() if name.partition(".")[0] == last)


def freeze_body(router: nn.Module) -> None:
    """Training changes the head alone from now on: what an expert that comes or goes needs, in little time."""
    for name, parameter in router.named_parameters():
        parameter.requires_grad_(name in head(router))
