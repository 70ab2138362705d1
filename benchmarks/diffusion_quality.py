"""How good images are that experts draw who never talked, beside one model on all data at the same cost.

    python -m benchmarks.diffusion_quality [--seeds 0 1 2] [--experts 1 2 4 8] [--steps 2400] [--split batch|steps]
                                           [--figure PNG]

Experts, data and training are those of recipes/diffusion-digits.yaml; the router is a UNet with half of an expert's
channels. The monolith takes `steps` optimiser steps, and as many more as the router costs in floating-point operations;
K experts share its images alike: each takes all the steps with a K-th of the batch, as in the paper, or by `--split
steps` a K-th of the steps with the whole batch. Held-out flow loss is on test images with the same noise for every row
(paired); Frechet and kernel distance, precision and recall are on features of a classifier of digits
(benchmarks.digit_judge: no Inception), beside those of real test images. Also random clusters, the cluster known
(oracle), an expert at random, and an expert drawn once for each image. Trained networks are kept in
.cache/benchmarks/diffusion. The defaults take about 90 minutes of one core; --steps 8 --seeds 0 --images 40 is a trial.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import digit_judge
from decentral.core.fidelity import expected_calibration_error, kernel_distance, precision_and_recall
from decentral.core.flow import ensemble_velocity, velocity_target
from decentral.core.routing import top_k
from decentral.core.seeds import derive_seed
from decentral.data.clusters import Assignment
from decentral.files import replacing
from decentral.launch.assembly import assemble_learner
from decentral.models.denoisers import ask
from decentral.models.experts import Router
from decentral.run.recipe import Recipe, load_recipe
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.training.diffusion import DiffusionLearner, NoisedTraining
from decentral.training.router import RouterLearner

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks" / "diffusion"
BATCH = 64
"""Of the recipe."""
ROUTER_SHARE = 0.25
"""Steps of a router to steps of all experts together."""
SAMPLING_STEPS, GUIDANCE = 40, 1.5
SHOWN = 40
"""Images of each row in the figure."""
COLUMNS = ("flow loss", "Frechet", "kernel", "precision", "recall", "recognised")


@dataclass(frozen=True)
class Ensemble:
    """Trained experts, and who knows which of them to ask; one expert needs no router."""

    experts: list[nn.Module]
    router: nn.Module | None
    assignment: Assignment | None
    facts: dict[str, float]


def recipe_of(
    seed: int, count: int, steps: int, random: bool = False, split: str = "steps", changes: Sequence[str] = ()
) -> Recipe:
    """Of `count` experts, or with one of the monolith, whose `steps` are all its own. The router's batch is whole."""
    common = [f"seed={seed}", "rounds=1", "checkpoint.every=1", *changes]
    if count == 1:
        alone = ["algorithm=isolated", "peers=1", "data.partition=iid", f"training.steps={steps}"]
        return load_recipe("diffusion-digits", [*common, *alone])
    router = json.dumps({"name": "unet", "channels": [16, 32], "learning_rate": 0.001, "steps": router_steps(steps)})
    cut = "{name: clusters, random: true}" if random else "clusters"
    settings = [f"peers={count + 1}", f"data.partition={cut}"]
    if split == "batch":
        settings += [f"training.steps={steps}", f"training.batch_size={BATCH // count}"]
    else:
        settings += [f"training.steps={max(1, steps // count)}"]
    return load_recipe("diffusion-digits", [*common, *settings, f"learner.router={router}"])


def router_steps(steps: int) -> int:
    return max(1, round(ROUTER_SHARE * steps))


@cache
def relative_cost() -> float:
    """Floating-point operations of a router to those of an expert, for one sample."""
    recipe = recipe_of(0, 2, 2)
    counts = []
    for index in (2, 0):
        learner = cast(NoisedTraining, assemble_learner(recipe, index))
        counts.append(operations(learner.model, (1, 8, 8)))
    return counts[0] / counts[1]


def operations(model: nn.Module, image: Sequence[int]) -> int:
    """Floating-point operations of a denoiser for one image of that shape."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        ask(model, torch.zeros(1, *image), torch.zeros(1))
    return int(counted.get_total_flops())


def trained(recipe: Recipe, index: int) -> NoisedTraining:
    """A peer's learner after its rounds, from the cache if it is there."""
    learner = cast(NoisedTraining, assemble_learner(recipe, index))
    file = CACHE / f"{recipe.hash[:16]}-{index}.safetensors"
    if file.is_file():
        learner.load(load_file(file))
        return learner
    began = time.process_time()
    report = learner.train(1)
    print(f"{file.stem}: loss {report.loss:.3f}, {time.process_time() - began:.0f} s", file=sys.stderr, flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        save_file(learner.parameters(), partial)
    return learner


def averaged(learner: NoisedTraining) -> nn.Module:
    """Its network with the averaged parameters, in evaluation mode, for good."""
    learner.load(learner.parameters())
    return learner.model.eval().requires_grad_(False)


def ensemble(recipe: Recipe, routed_by: Recipe) -> Ensemble:
    """The experts of one recipe and the router of the other, which knows the same clusters."""
    if recipe.router is None or routed_by.router is None:
        return Ensemble([averaged(trained(recipe, 0))], None, None, {})
    experts = [averaged(trained(recipe, index)) for index in range(recipe.router)]
    learner = cast(RouterLearner, trained(routed_by, routed_by.router))
    learner.calibrate()
    score, model = learner.evaluate(), averaged(learner)
    assert learner.assignment is not None and score.loss is not None and score.accuracy is not None
    routed = [Router(model)(part.noised, part.t, part.labels).softmax(1).cpu() for part in learner.held_out()]
    truth = [torch.from_numpy(learner.assignment.test)[part.numbers] for part in learner.held_out()]
    error = expected_calibration_error(torch.cat(routed), torch.cat(truth))
    facts = {"router nll": score.loss, "router accuracy": score.accuracy, "router calibration error": error}
    return Ensemble(experts, model, learner.assignment, facts)


@torch.no_grad()
def flow_losses(made: Ensemble, judge: DiffusionLearner, seed: int) -> dict[str, Tensor]:
    """For each way to route, the squared error of each test image at each of its noises, over pixels."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "random routing"))
    found: dict[str, list[Tensor]] = {}
    for part in judge.held_out():
        velocities = torch.stack([ask(expert, part.noised, part.t, part.labels) for expert in made.experts], 1)
        for name, weights in routings(made, part, generator):
            error = ensemble_velocity(velocities, weights) - velocity_target(part.images, part.noise)
            found.setdefault(name, []).append(error.square().mean((1, 2, 3)))
    return {name: torch.cat(parts) for name, parts in found.items()}


def routings(made: Ensemble, part: Any, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Weights of the experts, by the name of how they were found."""
    images, count, device = len(part.t), len(made.experts), part.t.device
    if made.router is None or made.assignment is None:
        yield "full", torch.ones(images, 1, device=device)
        return
    probabilities = Router(made.router)(part.noised, part.t, part.labels).softmax(1)
    yield "full", probabilities
    for k in (1, 2):
        yield f"top-{k}", top_k(probabilities, k)
    own = torch.from_numpy(made.assignment.test)[part.numbers]
    drawn = torch.randint(count, (images,), generator=generator)
    yield "oracle", nn.functional.one_hot(own, count).float().to(device)
    yield "random", nn.functional.one_hot(drawn, count).float().to(device)


def sampled(made: Ensemble, choice: str, labels: Sequence[int], seed: int) -> Tensor:
    """Images (n, 64) in [0, 1]; the same noise for every row of the table."""
    noise = torch.Generator().manual_seed(derive_seed(seed, "sampling"))
    latents = torch.randn(len(labels), 1, 8, 8, generator=noise)
    if choice != "drawn":
        return drawn_by(made.experts, made.router, choice, labels, latents)
    whose, images = drawn_experts(made, labels, seed), torch.empty(len(labels), 64)
    for index, expert in enumerate(made.experts):
        rows = (whose == index).nonzero().flatten()
        if len(rows):
            own = [labels[row] for row in rows.tolist()]
            images[rows] = drawn_by([expert], None, "full", own, latents[rows])
    return images


def drawn_by(
    experts: Sequence[nn.Module], router: nn.Module | None, choice: str, labels: Sequence[int], latents: Tensor
) -> Tensor:
    parts = {f"expert_{index}": expert for index, expert in enumerate(experts)}
    pipeline = DecentralizedDiffusionPipeline(router=cast(Any, router), **cast(Any, parts))
    pipeline.set_progress_bar_config(disable=True)
    images, *_ = pipeline(
        num_inference_steps=SAMPLING_STEPS,
        class_labels=labels,
        guidance_scale=GUIDANCE,
        experts=choice,
        latents=latents,
        output_type="pt",
        return_dict=False,
    )
    return cast(Tensor, images).flatten(1)


def drawn_experts(made: Ensemble, labels: Sequence[int], seed: int) -> Tensor:
    """An expert for each image, drawn from the clusters of the training images of its class."""
    assert made.assignment is not None
    _, classes, _, _ = digit_judge.digits()
    counts = torch.zeros(10, len(made.experts))
    for cluster, share in enumerate(made.assignment.shares):
        counts[:, cluster] = torch.bincount(classes[torch.from_numpy(share)], minlength=10)
    generator = torch.Generator().manual_seed(derive_seed(seed, "drawn experts"))
    return torch.multinomial(counts[torch.tensor(labels)], 1, generator=generator).flatten()


def judged(images: Tensor, labels: Sequence[int]) -> dict[str, float]:
    real, seen = (digit_judge.features(some) for some in (digit_judge.digits()[0], images))
    precision, recall = precision_and_recall(real, seen)
    return {
        "Frechet": digit_judge.distance(images),
        "kernel": kernel_distance(real, seen),
        "precision": precision,
        "recall": recall,
        "recognised": digit_judge.recognised(images, labels),
    }


def rows_of(
    seed: int, counts: Sequence[int], steps: int, split: str, labels: Sequence[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of the table for one seed, the monolith first."""
    judge = cast(DiffusionLearner, assemble_learner(recipe_of(seed, 1, 1), 0))
    extra = round(router_steps(steps) * relative_cost())
    arms = [("monolith", 1, False)]
    arms += [(f"K={count}", count, False) for count in counts if count > 1]
    if 4 in counts:
        arms.append(("K=4 random clusters", 4, True))
    alone: Tensor | None = None
    for name, count, random in arms:
        own = steps + extra if count == 1 else steps
        made = ensemble(recipe_of(seed, count, own, random, split), recipe_of(seed, count, own, random))
        losses = flow_losses(made, judge, seed)
        alone = losses["full"] if alone is None else alone
        for choice in (*losses, *(["drawn"] if made.router is not None else [])):
            row: dict[str, Any] = dict(made.facts)
            if choice in losses:
                gap = losses[choice] - alone
                row |= {"flow loss": losses[choice].mean().item(), "paired gap": gap.mean().item()}
                row["paired error"] = (gap.std() / math.sqrt(len(gap))).item()
            if choice not in ("oracle", "random"):
                images = sampled(made, choice, labels, seed)
                row |= {**judged(images, labels), "images": images[:SHOWN]}
            yield name if made.router is None else f"{name}, {choice}", row


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Means over the seeds, and their standard deviations where there are several."""
    lines = [f"{'':<34}" + "".join(f"{column:>18}" for column in COLUMNS)]
    for name, rows in results.items():
        cells = []
        for column in COLUMNS:
            values = [row[column] for row in rows if column in row]
            spread = f" ±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}" if values else "-")
        lines.append(f"{name:<34}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def figure(results: dict[str, list[dict[str, Any]]], labels: Sequence[int], path: Path) -> None:
    """The first images of the first seed, a panel for each row that was sampled, and real ones."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = {"real test images": digit_judge.digits()[2][:SHOWN]}
    panels |= {name: rows[0]["images"] for name, rows in results.items() if "images" in rows[0]}
    across = 4
    down = -(-len(panels) // across)
    drawing, axes = pyplot.subplots(down, across, figsize=(3 * across, 3.3 * down), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, images) in zip(axes.flat, panels.items(), strict=False):
        grid = nn.functional.pad(images.view(-1, 8, 8), (1, 1, 1, 1), value=0.5)
        rows = len(grid) // 8
        axis.imshow(grid[: rows * 8].view(rows, 8, 10, 10).permute(0, 2, 1, 3).reshape(rows * 10, 80), cmap="gray")
        axis.set_title(name, fontsize=9)
    drawing.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=110)
    pyplot.close(drawing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--experts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--split", choices=("batch", "steps"), default="batch", help="what of training experts share")
    parser.add_argument("--images", type=int, default=355, help="images sampled for each row")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    order = np.random.default_rng(0).permutation(355)[: given.images]
    labels = digit_judge.digits()[3][torch.from_numpy(order)].tolist()
    results: dict[str, list[dict[str, Any]]] = {"floor: real test images": []}
    for seed in given.seeds:
        results["floor: real test images"].append(judged(digit_judge.digits()[2], digit_judge.digits()[3].tolist()))
        for name, row in rows_of(seed, given.experts, given.steps, given.split, labels):
            results.setdefault(name, []).append(row)
    print(f"a router costs {relative_cost():.2f} of an expert a sample; {given.images} images a row")
    print(table(results))
    for name, rows in results.items():
        if "paired gap" in rows[0] and name != "monolith":
            gaps = ", ".join(f"{row['paired gap']:+.4f} ±{row['paired error']:.4f}" for row in rows)
            print(f"flow loss against the monolith, by seed: {name:<30} {gaps}")
    for name, rows in results.items():
        if "router nll" in rows[0] and name.endswith("full"):
            shown = ", ".join(
                f"{key} {statistics.fmean(row[key] for row in rows):.3f}" for key in rows[0] if "router" in key
            )
            print(f"{name.partition(',')[0]:<22} {shown}")
    if given.figure is not None:
        figure(results, labels, given.figure)
    if given.json is not None:
        plain = {
            name: [{k: v for k, v in row.items() if k != "images"} for row in rows] for name, rows in results.items()
        }
        setting = {"steps": given.steps, "split": given.split, "seeds": given.seeds}
        given.json.write_text(json.dumps({**setting, "rows": plain}, indent=2) + "\n")


if __name__ == "__main__":
    main()
