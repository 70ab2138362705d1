"""From how many images on experts who never talked learn the flow as well as one model does at the same cost.

    python -m benchmarks.diffusion_trend [--images 1500 6000 24000 48000] [--seeds 0 1 2] [--experts 4] [--jobs 2]

CIFAR-10 in eight by eight pixels, averages of four by four: as cheap as the digits, and thirty times as many. Networks,
training and what is equal are those of benchmarks.diffusion_quality, whatever the number of images: the monolith sees
2,400 batches and what the router costs, each of K experts as many of a K-th of the size. Held-out flow loss is on 1,000
test images with the same noise for every row. `full` mixes by the router, `oracle` asks the expert of the image's own
cluster: what the experts themselves are worth. Prints the gaps to the monolith, with the standard error over paired
images or, of several seeds, their standard deviation; draws docs/figures/diffusion-trend.png. Trained networks are kept
in .cache/benchmarks/diffusion. The images lie under $DECENTRAL_DATA.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import numpy as np
import torch

from benchmarks.diffusion_quality import ensemble, flow_losses, recipe_of, relative_cost, router_steps
from benchmarks.dimat_accuracy import no_data
from benchmarks.dimat_curves import saved
from decentral.data.cifar import cifar10
from decentral.data.datasets import DATASETS, ArrayImages, Pixels
from decentral.launch.assembly import assemble_learner
from decentral.training.diffusion import DiffusionLearner

DATASET, EDGE = "cifar10-8x8", 8
CHOICES = ("full", "top-1", "oracle")


@DATASETS.register(DATASET)
def small(root: Path, verify: bool, download: bool) -> ArrayImages:
    """CIFAR-10, each pixel the mean of four by four."""
    whole = cifar10(root, verify, download)

    def shrunk(images: Pixels) -> Pixels:
        pooled = images.reshape(len(images), 3, EDGE, 4, EDGE, 4).mean((3, 5))
        return cast(Pixels, pooled.round().astype("uint8"))

    return ArrayImages(
        images=shrunk(whole.train_images(np.arange(len(whole.train_labels)))),
        labels=whole.train_labels,
        held_out_images=shrunk(whole.test_images()),
        held_out_labels=whole.test_labels,
        class_names=whole.class_names,
        mean=whole.mean,
        std=whole.std,
    )


@dataclass(frozen=True)
class Row:
    """Of one seed: the monolith's loss, and by choice how much more the experts' is, with its error over images."""

    images: int
    seed: int
    alone: float
    gaps: dict[str, float]
    errors: dict[str, float]


def measure(images: int, seed: int, count: int, steps: int) -> Row:
    torch.set_num_threads(1)
    changes = [f"data.name={DATASET}", "data.verify=false", f"data.subset={images}", "evaluation.samples=1000"]
    judge = cast(DiffusionLearner, assemble_learner(recipe_of(seed, 1, 1, changes=changes), 0))
    own = steps + round(router_steps(steps) * relative_cost())
    whole = recipe_of(seed, 1, own, changes=changes)
    alone = flow_losses(ensemble(whole, whole), judge, seed)["full"]
    shared = recipe_of(seed, count, steps, split="batch", changes=changes)
    losses = flow_losses(ensemble(shared, recipe_of(seed, count, steps, changes=changes)), judge, seed)
    gaps = {choice: losses[choice] - alone for choice in CHOICES}
    return Row(
        images,
        seed,
        alone.mean().item(),
        {choice: gap.mean().item() for choice, gap in gaps.items()},
        {choice: (gap.std() / math.sqrt(len(gap))).item() for choice, gap in gaps.items()},
    )


def shown(rows: Sequence[Row], choice: str) -> tuple[float, float]:
    """The gap and how sure it is."""
    gaps = [row.gaps[choice] for row in rows]
    return statistics.fmean(gaps), statistics.stdev(gaps) if len(gaps) > 1 else rows[0].errors[choice]


def draw(rows: Sequence[Row], sizes: Sequence[int], count: int) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    panel = figure.subplots()
    for choice in CHOICES:
        points = [shown([row for row in rows if row.images == size], choice) for size in sizes]
        panel.errorbar(sizes, [gap for gap, _ in points], [error for _, error in points], marker=".", label=choice)
    panel.axhline(0, color="grey", linestyle=":", label="one network")
    panel.set_xscale("log")
    panel.minorticks_off()
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
    panel.set_xlabel("training images (logarithmic)")
    panel.set_ylabel("held-out flow loss, against one network's")
    panel.set_title(f"{count} experts, CIFAR-10 in {EDGE}x{EDGE} pixels, equal training cost")
    panel.grid(which="both", alpha=0.2)
    panel.legend(fontsize="small")
    return saved(figure, "diffusion-trend")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1500, 6000, 24000, 48000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if (missing := no_data("cifar10")) is not None:
        print(f"skipped: {missing}")
        return 0
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        work = [
            pool.submit(measure, images, seed, given.experts, given.steps)
            for seed in given.seeds
            for images in given.images
        ]
        rows = [each.result() for each in work]
    print(f"{given.experts} experts, {given.steps} steps, seeds {', '.join(map(str, given.seeds))}")
    print(f"{'images':>8}{'one network':>14}" + "".join(f"{choice + ' - one':>20}" for choice in CHOICES))
    for size in given.images:
        mine = [row for row in rows if row.images == size]
        cells = "".join(f"{gap:>+12.4f} ±{error:.4f}" for gap, error in (shown(mine, choice) for choice in CHOICES))
        print(f"{size:>8}{statistics.fmean(row.alone for row in mine):>14.4f}{cells}")
    print(f"drawn: {draw(rows, given.images, given.experts)}")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
