"""Eight experts who never talked beside one model at the same cost, on the pixels of complete CIFAR-10: for a GPU.

    python -m benchmarks.diffusion_cifar10 [--steps 2000] [--device cuda] [--jobs 11] [--images 5000] [--subset N]

Networks, clusters and training are those of recipes/diffusion-cifar10.yaml, in bfloat16. Each of K experts takes
`steps` optimiser steps on a K-th of the monolith's batch; the router a quarter of them on whole batches; the monolith
`steps`, and as many more as the router costs in floating-point operations. All train at the same time, each in a
process of its own, on one device. Images are drawn with classes as frequent as in the data and no guidance. Frechet and
kernel distance, precision and recall are on the 256 features of a ResNet-20 of width 4 that is trained to tell the
classes apart, of width 1 for an epoch where there is a subset (no Inception: comparable within the table and with its
floor, real test images, alone). Held-out flow loss is as in benchmarks.diffusion_quality. Trained networks are kept
in .cache/benchmarks/diffusion. The images lie under $DECENTRAL_DATA. A trial: `--device cpu --subset 1000 --steps 2
--batch 16 --images 10`, ten minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks import trained as apprentices
from benchmarks.diffusion_quality import CACHE, Ensemble, ensemble, flow_losses, operations, router_steps, trained
from benchmarks.dimat_accuracy import no_data
from benchmarks.dimat_curves import saved
from decentral.core.fidelity import frechet_distance, gaussian_fit, kernel_distance, precision_and_recall
from decentral.core.seeds import derive_seed
from decentral.data.clusters import Features
from decentral.data.datasets import Pixels
from decentral.data.partition import subset
from decentral.launch.assembly import assemble_learner
from decentral.launch.shares import assign, data_of
from decentral.models.catalogue import build_model
from decentral.run.recipe import Recipe, load_recipe
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.training.classifier import ClassifierLearner
from decentral.training.diffusion import DiffusionLearner
from decentral.training.features import features
from decentral.training.images import normalise

EXPERTS, CLASSES = 8, 10
IMAGE = (3, 32, 32)
ROUTER: dict[str, Any] = {"name": "unet", "channels": [32, 64, 64], "learning_rate": 0.0005}
SAMPLING_STEPS, TOGETHER = 50, 2500
JUDGED, SHOWN = 5000, 80
CHOICES = ("top-1", "top-2")
JUDGE = apprentices.Apprentice("resnet20", {"width": 4}, subset=None, epochs=10, batch_size=128)
COLUMNS = ("flow loss", "Frechet", "kernel", "precision", "recall", "recognised")


@dataclass(frozen=True)
class Setting:
    steps: int
    device: str
    subset: int | None
    seed: int
    batch: int

    def recipe(self, kind: str, assignment: str = "") -> Recipe:
        """Of the `monolith`, the `experts`, or the `router`, whose batches are whole."""
        common = [
            f"seed={self.seed}",
            "rounds=1",
            "checkpoint.every=1",
            "data.verify=false",
            f"device={self.device}",
            f"training.precision={'float32' if self.device == 'cpu' else 'bfloat16'}",
            "evaluation.samples=1000",
            *([] if self.subset is None else [f"data.subset={self.subset}"]),
        ]
        if kind == "monolith":
            extra = round(router_steps(self.steps) * relative_cost())
            own = ["algorithm=isolated", "peers=1", "data.partition=iid", f"training.steps={self.steps + extra}"]
            return load_recipe("diffusion-cifar10", [*common, *own, f"training.batch_size={self.batch}"])
        router = ROUTER | {"steps": router_steps(self.steps), "batch_size": self.batch}
        own = [f"training.steps={self.steps}", f"training.batch_size={self.batch // EXPERTS}"]
        own += [f"learner.router={json.dumps(router)}", *([f"data.partition={assignment}"] if assignment else [])]
        return load_recipe("diffusion-cifar10", [*common, *own])


@cache
def relative_cost() -> float:
    """Floating-point operations of a router to those of an expert, for one image."""
    model = load_recipe("diffusion-cifar10").model
    expert = build_model(model.name, IMAGE, CLASSES, **model.options)
    router = build_model(ROUTER["name"], IMAGE, CLASSES, channels=ROUTER["channels"], outputs=EXPERTS)
    return operations(router, IMAGE) / operations(expert, IMAGE)


def made(recipe: Recipe, index: int) -> int:
    """Trains a peer's network, unless it is kept. Returns the optimiser steps."""
    torch.set_num_threads(1)
    trained(recipe, index)
    return int(recipe.training.steps or 0)


@dataclass(frozen=True)
class Judge:
    """A network that tells the classes apart, and how images are prepared for it."""

    learner: ClassifierLearner
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def trained(cls, setting: Setting) -> Judge:
        """Trains it unless it is kept."""
        data = apprentices.images(JUDGE.dataset)
        small = {} if setting.subset is None else {"options": {"width": 1}, "epochs": 1}
        own = replace(JUDGE, subset=setting.subset, **cast(Any, small))
        learner = apprentices.learner(own, device=setting.device, evaluation_samples=1000)
        learner.model.eval()
        return cls(learner, data.mean, data.std)

    def seen(self, pixels: Pixels) -> Features:
        """The features of images of 8 bits."""
        return features(self.learner.model, lambda part: normalise(part, self.mean, self.std), pixels)

    @torch.no_grad()
    def recognised(self, pixels: Pixels, labels: Sequence[int]) -> float:
        parts = [part.to(self.learner.device) for part in torch.split(torch.from_numpy(pixels), 500)]
        answers = [self.learner.model(normalise(part, self.mean, self.std)).argmax(1).cpu() for part in parts]
        return float((torch.cat(answers) == torch.tensor(labels)).float().mean())

    def measures(self, pixels: Pixels, labels: Sequence[int], real: Features) -> dict[str, float]:
        """Beside the features of all real training images."""
        own, everything = torch.from_numpy(self.seen(pixels)), torch.from_numpy(real)
        some = everything[torch.from_numpy(np.random.default_rng(0).permutation(len(real))[:JUDGED])]
        precision, recall = precision_and_recall(some, own)
        return {
            "Frechet": float(frechet_distance(*gaussian_fit(own), *gaussian_fit(everything))),
            "kernel": kernel_distance(some, own),
            "precision": precision,
            "recall": recall,
            "recognised": self.recognised(pixels, labels),
        }


def judge_made(setting: Setting) -> float | None:
    torch.set_num_threads(1)
    return Judge.trained(setting).learner.evaluate().accuracy


def sampled(found: Ensemble, choice: str, labels: Sequence[int], seed: int, device: str) -> Pixels:
    """Images of 8 bits; the same noise for every row of the table."""
    noise = torch.Generator().manual_seed(derive_seed(seed, "sampling"))
    latents = torch.randn(len(labels), 3, 32, 32, generator=noise).to(device)
    parts = {f"expert_{index}": expert for index, expert in enumerate(found.experts)}
    pipeline = DecentralizedDiffusionPipeline(router=cast(Any, found.router), **cast(Any, parts))
    pipeline.set_progress_bar_config(disable=True)
    with torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"):
        images, *_ = pipeline(
            num_inference_steps=SAMPLING_STEPS,
            class_labels=labels,
            experts=choice,
            latents=latents,
            micro_batch=TOGETHER,
            output_type="pt",
            return_dict=False,
        )
    pixels: Pixels = (cast(Tensor, images).float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return pixels


def train_all(setting: Setting, jobs: int) -> tuple[Recipe, Recipe]:
    """Trains everything that is not kept; the recipes of the monolith and of the ensemble."""
    plain = setting.recipe("experts")
    data = data_of(plain)
    chosen = subset(data.train_labels, setting.subset, setting.seed)
    file = CACHE / f"assignment-{plain.hash[:16]}.json"
    if not file.is_file():
        began = time.monotonic()
        file.parent.mkdir(parents=True, exist_ok=True)
        assign(plain, data, chosen).save(file)
        say(f"clusters found in {time.monotonic() - began:.0f} s")
    whole = setting.recipe("monolith")
    apart = setting.recipe("experts", json.dumps({"name": "clusters", "file": str(file)}))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        began = time.monotonic()
        work: dict[str, Future[Any]] = {"judge": pool.submit(judge_made, setting)}
        work["monolith"] = pool.submit(made, whole, 0)
        work |= {f"peer {index}": pool.submit(made, apart, index) for index in range(EXPERTS + 1)}
        for name, future in work.items():
            result = future.result()
            say(f"{name}: {result} after {time.monotonic() - began:.0f} s")
    return whole, apart


def rows_of(setting: Setting, whole: Recipe, apart: Recipe, images: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of the table, the floor and the monolith first."""
    device = setting.device
    data = apprentices.images(JUDGE.dataset)
    judge = Judge.trained(setting)
    real = judge.seen(data.train_images(subset(data.train_labels, setting.subset, setting.seed)))
    numbers = subset(data.test_labels, images, 0)
    labels = data.test_labels[numbers].tolist()
    floor = data.some_test_images(numbers)
    yield "floor: real test images", {**judge.measures(floor, labels, real), "images": floor[:SHOWN]}
    seer = cast(DiffusionLearner, assemble_learner(whole, 0))
    alone: Tensor | None = None
    for name, recipe in (("monolith", whole), (f"K={EXPERTS}", apart)):
        found = ensemble(recipe, recipe)
        losses = flow_losses(found, seer, setting.seed)
        alone = losses["full"] if alone is None else alone
        for choice, loss in losses.items():
            gap = loss - alone
            row: dict[str, Any] = {**found.facts, "flow loss": loss.mean().item(), "paired gap": gap.mean().item()}
            row["paired error"] = (gap.std() / math.sqrt(len(gap))).item()
            if found.router is None or choice in CHOICES:
                began = time.monotonic()
                pixels = sampled(found, choice, labels, setting.seed, device)
                say(f"{name}, {choice}: sampled in {time.monotonic() - began:.0f} s")
                row |= {**judge.measures(pixels, labels, real), "images": pixels[:SHOWN]}
            yield name if found.router is None else f"{name}, {choice}", row


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':<26}" + "".join(f"{column:>12}" for column in COLUMNS)]
    for name, row in rows.items():
        cells = [f"{row[column]:.4f}" if column in row else "-" for column in COLUMNS]
        lines.append(f"{name:<26}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def draw(rows: dict[str, dict[str, Any]]) -> Path:
    """The first images of each row that was sampled: the same noises and classes in each panel."""
    from matplotlib.figure import Figure

    panels = {name: torch.from_numpy(row["images"]) for name, row in rows.items() if "images" in row}
    figure = Figure(figsize=(4 * len(panels), 4.6), layout="constrained")
    for axis, (name, images) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        across = 8
        down = len(images) // across
        grid = images[: across * down].view(down, across, 3, 32, 32).permute(0, 3, 1, 4, 2)
        axis.imshow(grid.reshape(down * 32, across * 32, 3), interpolation="nearest")
        axis.set_title(name)
        axis.axis("off")
    return saved(figure, "diffusion-cifar10")


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=512, help="of the monolith")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--jobs", type=int, default=EXPERTS + 3)
    parser.add_argument("--images", type=int, default=JUDGED, help="images sampled for each row")
    parser.add_argument("--subset", type=int, help="class-balanced training images; all of them without")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if (missing := no_data("cifar10")) is not None:
        print(f"skipped: {missing}")
        return 0
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: it needs a CUDA device; on a CPU (`--device cpu`) it takes days")
        return 0
    setting = Setting(given.steps, given.device, given.subset, given.seed, given.batch)
    began = time.monotonic()
    whole, apart = train_all(setting, given.jobs)
    training = time.monotonic() - began
    rows: dict[str, dict[str, Any]] = {}
    for name, row in rows_of(setting, whole, apart, given.images):
        rows[name] = row
        say(table({name: row}))
    place = torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device
    print(f"{EXPERTS} experts, batches of {given.batch}, {given.steps} steps; trained in {training:.0f} s on {place}")
    print(table(rows))
    for name, row in rows.items():
        if "paired gap" in row and name != "monolith":
            print(f"flow loss against the monolith: {name:<16} {row['paired gap']:+.5f} ±{row['paired error']:.5f}")
    facts = rows[f"K={EXPERTS}, full"]
    print(", ".join(f"{key} {facts[key]:.3f}" for key in facts if "router" in key))
    best = min(rows[f"K={EXPERTS}, {choice}"]["Frechet"] for choice in CHOICES)
    less = 1 - best / rows["monolith"]["Frechet"]
    print(f"Frechet distance {100 * less:.1f} % below the monolith's; goal: at least 15")
    print(f"drawn: {draw(rows)}")
    if given.json is not None:
        plain = {name: {key: value for key, value in row.items() if key != "images"} for name, row in rows.items()}
        given.json.write_text(json.dumps({"steps": given.steps, "seconds": training, "rows": plain}, indent=1) + "\n")
    return int(less < 0.15)


if __name__ == "__main__":
    sys.exit(main())
