"""The tolerances and gains of a cluster's parts: measured on its own stages and data, pinned where its clients read.

A cluster needs not be up for that: its stages are on disk. What is written is part of the trust file, so whoever has
copied that file copies it again; nodes and the parts' digests stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from decentral.core.agreement import end_to_end
from decentral.core.calibration import trials_needed
from decentral.errors import UserError
from decentral.models.stages import Stage
from decentral.serving.stages.calibration import MARGIN, Calibrated, Samples, calibrated, drawn, measure
from decentral.serving.stages.machines import Machine, machines
from decentral.serving.stages.model import Network, digest_of, load_stages
from decentral.training.images import normalise
from decentral.training.parameters import read_parameters
from decentral.trust.anchors import FILE, Anchors

STAGES = "stages"
NOISE = 4096
"""Inputs of noise, for a model of whose data nothing is known."""
LIED_TO = 300


@dataclass(frozen=True, slots=True)
class Wanted:
    """How sure one wants to be: honest answers that are rejected at most, and the margin for machines unseen.

    `samples`: batches; None: as many as the level needs, if no honest answer is beyond the limit.
    """

    false_reject: float = 1e-3
    margin: float = MARGIN
    samples: int | None = None
    seed: int = 0

    def count(self) -> int:
        """Raises UserError for samples that cannot support the level."""
        needed = trials_needed(self.false_reject)
        if self.samples is not None and self.samples < needed:
            raise UserError(
                f"--samples {self.samples}: at least {needed} batches are needed to bound false rejects by "
                f"{self.false_reject:g} with a confidence of 95 %"
            )
        return self.samples or needed


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was measured of each part, in order; `of`: what its inputs were, in words."""

    of: str
    machines: tuple[Machine, ...]
    samples: tuple[Samples, ...]
    parts: tuple[Calibrated, ...]

    @property
    def drift(self) -> float:
        """Up to which the model's outputs may be off where every part is off by its tolerance."""
        return end_to_end([part.tolerance for part in self.parts], [part.gain for part in self.parts])

    def pin(self, folder: Path) -> None:
        """Into the trust file of the cluster. Raises UserError, OSError."""
        anchors = Anchors.load(folder / FILE)
        found = {part.name: part for part in self.parts}
        parts = tuple(
            replace(part, tolerance=found[part.name].tolerance, gain=found[part.name].gain) for part in anchors.parts
        )
        replace(anchors, parts=parts).save(folder / FILE)


def calibrate(
    folder: Path,
    wanted: Wanted,
    *,
    others: Mapping[str, Path] | None = None,
    measured: Callable[[int], None] = lambda batches: None,
) -> Calibration:
    """Of the cluster in a folder. `others`: files of other checkpoints, by what they are to be called; `measured` is
    told how many batches are done.

    Raises UserError for a folder that holds no such cluster, for checkpoints that do not fit, and where honest answers
    are no numbers.
    """
    count = wanted.count()
    anchors = Anchors.load(folder / FILE)
    if not anchors.parts:
        raise UserError(f"{folder}: its peers serve no model in stages, so that there is nothing to calibrate")
    stages = _stages(folder, anchors)
    network = Network.load(folder / STAGES)
    inputs, words = _inputs(network)
    states = {name: read_parameters(file) for name, file in (others or {}).items()}
    batches = drawn({stages[0].inputs[0].name: inputs}, count, torch.Generator().manual_seed(wanted.seed))
    kinds = machines()
    try:
        samples = measure(stages, batches, kinds, others=states, lied_to=LIED_TO, seed=wanted.seed, measured=measured)
        names = [part.name for part in anchors.parts]
        parts = calibrated(names, samples, stages, false_reject=wanted.false_reject, margin=wanted.margin)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    if broken := [part.name for part in parts if not math.isfinite(part.gain)]:
        raise UserError(f"{folder}: the outputs are far apart however near those of {broken[0]} are")
    return Calibration(words, tuple(kinds), tuple(samples), tuple(parts))


def _stages(folder: Path, anchors: Anchors) -> list[Stage]:
    """Those that are pinned. Raises UserError."""
    held = load_stages(folder / STAGES)
    stages = [held[place] for place in sorted(held)]
    if [digest_of(stage) for stage in stages] != [part.digest for part in anchors.parts]:
        raise UserError(f"{folder}: the stages are not those that {FILE} pins")
    return stages


def _inputs(network: Network) -> tuple[Float[Tensor, "n ..."], str]:
    """Test images as the network sees them, or noise."""
    images = network.dataset()
    if images is not None and images.image_shape == network.input:
        pixels = torch.tensor(images.test_images())
        name = (network.data or {}).get("name")
        return normalise(pixels, images.mean, images.std), f"{len(pixels)} test images of {name}"
    noise = torch.randn(NOISE, *network.input, generator=torch.Generator().manual_seed(0))
    return noise, f"{NOISE} inputs of Gaussian noise, since the model's data are not known"
