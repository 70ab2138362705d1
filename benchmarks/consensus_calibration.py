"""How far apart honest machines are, and which lies stand out: false rejects and detection, each with its bound.

    DECENTRAL_DATA=... python -m benchmarks.consensus_calibration [--samples 3000] [--lied-to 300] [--json FILE]

Two networks in three stages: a perceptron on digits, ResNet-20 on CIFAR-10 (4,096 training images, five epochs; kept in
.cache/benchmarks/trained). Every batch of 1, 2, 8 or 32 test images, small ones more often, is computed by every
machine that this one can be (`serving.stages.machines`), in a shape that is drawn; its honest distance is the largest
between any two of them and a float64 reference. The tolerance is the rank that bounds false rejects by one in a
thousand, times the margin. A lie counts as found where it is farther than that from all honest answers to the batch.
Draws docs/figures/consensus-roc.png.
Bounds are one-sided, of 95 %. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from benchmarks.trained import Apprentice, images, learner, trained
from decentral.core.agreement import certified, end_to_end
from decentral.core.calibration import Rate, curve
from decentral.files import write_atomic
from decentral.models.cheaper import noisy
from decentral.models.stages import Stage, split
from decentral.serving.stages.calibration import MARGIN, Calibrated, Samples, calibrated, drawn, measure
from decentral.serving.stages.machines import machines
from decentral.training.images import normalise

FALSE_REJECT, DETECTION = 1e-3, 0.99
PROMISED = ("int8", "bf16", "weight noise", "an epoch older")
"""Lies that have to be found as often as that; how often the others are is shown."""
FAINT = (1e-4, 1e-5, 1e-6)
"""Weight noise, by the size of the weights, that comes down to what rounding is."""
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "consensus-roc.png"


@dataclass(frozen=True, slots=True)
class Subject:
    """A network, what it was an epoch before, and one that started elsewhere; where it is cut."""

    now: Apprentice
    before: Apprentice
    elsewhere: Apprentice
    cuts: int | Sequence[str]


def perceptron(epochs: int, seed: int) -> Apprentice:
    return Apprentice("mlp", dataset="digits", subset=None, epochs=epochs, seed=seed, augment=False)


def resnet(epochs: int, seed: int) -> Apprentice:
    return Apprentice("resnet20", {"width": 1}, subset=4096, epochs=epochs, seed=seed)


SUBJECTS = {
    "digits": Subject(perceptron(30, 0), perceptron(29, 0), perceptron(30, 1), ["2", "4"]),
    "cifar10": Subject(resnet(5, 0), resnet(4, 0), resnet(5, 1), 3),
}


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What came of one network."""

    accuracy: float
    drift: float
    """Of the outputs, where every part is off by its tolerance, and the share of test images that this leaves open."""
    undecided: float
    samples: Sequence[Samples]
    parts: Sequence[Calibrated]


def examine(subject: Subject, count: int, lied_to: int) -> Result:
    data = images(subject.now.dataset)
    whole = learner(subject.now)
    accuracy = whole.evaluate().accuracy
    assert accuracy is not None
    test = normalise(torch.tensor(data.test_images()), data.mean, data.std)
    stages = split(whole.model, subject.cuts, test[:2])
    state = whole.parameters()
    others: dict[str, Mapping[str, Tensor]] = {
        "an epoch older": trained(subject.before),
        "another seed": trained(subject.elsewhere),
        **{f"noise {size:g}": faint(state, size) for size in FAINT},
    }
    batches = drawn({stages[0].inputs[0].name: test}, count, torch.Generator().manual_seed(0))
    samples = measure(stages, batches, machines(), others=others, lied_to=lied_to)
    parts = calibrated([f"stage-{i}" for i in range(len(stages))], samples, stages, false_reject=FALSE_REJECT)
    check_lies(stages, samples)
    drift = end_to_end([part.tolerance for part in parts], [part.gain for part in parts])
    with torch.no_grad():
        logits = torch.cat([whole.model.eval()(test[i : i + 100]) for i in range(0, min(len(test), 2000), 100)])
    undecided = float((certified(logits, drift) < 0).double().mean())
    return Result(accuracy, drift, undecided, samples, parts)


def faint(state: Mapping[str, Tensor], size: float) -> dict[str, Tensor]:
    """Of all parameters, and not of BatchNorm's statistics."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: noisy(tensor, generator, size)
        if tensor.is_floating_point() and not name.endswith(("running_mean", "running_var"))
        else tensor
        for name, tensor in state.items()
    }


def check_lies(stages: Sequence[Stage], samples: Sequence[Samples]) -> None:
    """Every stage here has weights, so that every promised lie is told in every stage."""
    for stage, found in zip(stages, samples, strict=True):
        missing = set(PROMISED) - found.lies.keys()
        if missing:
            raise SystemExit(f"nobody told {', '.join(sorted(missing))} in {stage.inputs[0].name}")


# ---- what is shown ------------------------------------------------------------------------------------------------


def show(name: str, result: Result) -> list[str]:
    """Prints it; which goals were missed."""
    missed = []
    print(f"\n{name}: test accuracy {result.accuracy:.3f}; distance to the float64 reference, median and largest")
    print(f"{'machine':<22}" + "".join(f"{part.name:>22}" for part in result.parts))
    for machine in result.samples[0].machines:
        off = [found.machines[machine] for found in result.samples]
        print(f"{machine:<22}" + "".join(f"{np.median(each):>12.1e}{each.max():>10.1e}" for each in off))
    print(f"\n{'':<10}{'answers':<16}{'n':>6}{'rejected':>10}{'bound':>11}   goal")
    for part in result.parts:
        print(f"{part.name}: limit {part.limit:.2e}, tolerance {part.tolerance:.2e}, gain {part.gain:.1f}")
        met = part.honest.upper() <= FALSE_REJECT
        row("honest", part.honest, f"at most {part.honest.upper():.5f}", f"<= {FALSE_REJECT:g}: {said(met)}")
        missed += [] if met else [f"{name}, {part.name}: false rejects"]
        for lie, rate in part.detected.items():
            met = rate.lower() >= DETECTION
            goal = f">= {DETECTION:g}: {said(met)}" if lie in PROMISED else ""
            row(lie, rate, f"at least {rate.lower():.4f}", goal)
            missed += [f"{name}, {part.name}: {lie}"] if lie in PROMISED and not met else []
    print(f"drift of the outputs {result.drift:.2e}, which leaves {result.undecided:.1%} of the test images undecided")
    return missed


def row(what: str, rate: Rate, bound: str, goal: str) -> None:
    print(f"{'':<10}{what:<16}{rate.trials:>6}{rate.value:>10.4f}  {bound:<16} {goal}")


def said(met: bool) -> str:
    return "met" if met else "MISSED"


def draw(networks: Mapping[str, Any], figure: Path) -> None:
    """For each network the stage whose honest answers are farthest apart: by tolerance, and as ROC curves."""
    mpl.use("agg")
    plot, grid = plt.subplots(len(networks), 2, figsize=(11, 3.8 * len(networks)), layout="constrained", squeeze=False)
    for (by_tolerance, roc), (name, network) in zip(grid, networks.items(), strict=True):
        stage, part = max(network["parts"].items(), key=lambda each: each[1]["limit"])
        honest = np.array(part["distances"]["honest"])
        least = 0.5 / len(honest)
        by_tolerance.set_title(f"{name}, {stage}: answers farther away than a tolerance")
        survival(by_tolerance, honest, "honest", color="black", linewidth=2)
        by_tolerance.axvline(part["tolerance"], color="gray", linestyle="--", linewidth=1, label="the tolerance")
        colours = mpl.colormaps["tab10"].resampled(10)
        for place, (lie, off) in enumerate(part["distances"]["lies"].items()):
            survival(by_tolerance, np.array(off), lie, color=colours(place))
            found = curve(honest, np.array(off))
            roc.plot(np.maximum(found.false_rejects, least), found.detections, color=colours(place))
        roc.set_title(f"{name}, {stage}: lies found by honest answers lost")
        roc.axvline(FALSE_REJECT, color="gray", linestyle="--", linewidth=1)
        by_tolerance.set(xscale="log", xlim=(1e-8, 3), xlabel="tolerance", ylabel="share rejected", ylim=(-0.02, 1.04))
        roc.set(xscale="log", xlim=(0.8 * least, 1), xlabel="share of honest answers rejected (left edge: none)")
        roc.set(ylabel="share of lies found", ylim=(-0.02, 1.04))
        handles, labels = by_tolerance.get_legend_handles_labels()
        roc.legend(handles, labels, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.parent.mkdir(parents=True, exist_ok=True)
    plot.savefig(figure, dpi=120)
    plt.close(plot)


def survival(axes: Axes, distances: np.ndarray, label: str, **style: object) -> None:
    found = np.sort(distances)
    share = 1 - np.arange(1, len(found) + 1) / len(found)
    axes.step(np.maximum([1e-9, *found], 1e-9), [1.0, *share], where="post", label=label, **style)  # type: ignore[arg-type]


def rounded(distances: np.ndarray) -> list[float]:
    return [float(f"{each:.4g}") for each in distances]


def record(result: Result) -> dict[str, object]:
    return {
        "accuracy": result.accuracy,
        "drift": result.drift,
        "undecided": result.undecided,
        "parts": {
            part.name: {
                "limit": part.limit,
                "tolerance": part.tolerance,
                "gain": part.gain,
                "honest": told(part.honest),
                "detected": {lie: told(rate) for lie, rate in part.detected.items()},
                "machines": {machine: float(off.max()) for machine, off in samples.machines.items()},
                "distances": {
                    "honest": rounded(samples.honest),
                    "lies": {lie: rounded(off) for lie, off in samples.lies.items()},
                },
            }
            for part, samples in zip(result.parts, result.samples, strict=True)
        },
    }


def told(rate: Rate) -> dict[str, float]:
    return {"n": rate.trials, "rate": rate.value, "lower": rate.lower(), "upper": rate.upper()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3000, help="batches that all machines compute")
    parser.add_argument("--lied-to", type=int, default=300, help="of them, those that each lie answers too")
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every distance")
    parser.add_argument("--redraw", type=Path, metavar="FILE", help="what --json wrote: draws the figure and no more")
    options = parser.parse_args()
    if options.redraw:
        draw(json.loads(options.redraw.read_text())["networks"], options.figure)
        return 0
    torch.set_num_threads(1)
    began = time.monotonic()
    results = {name: examine(SUBJECTS[name], options.samples, options.lied_to) for name in options.networks}
    missed = [goal for name, result in results.items() for goal in show(name, result)]
    print(f"\nmargin {MARGIN:g}; {len(machines())} machines; {time.monotonic() - began:.0f} s")
    found = {name: record(result) for name, result in results.items()}
    if options.json:
        write_atomic(options.json, json.dumps({"margin": MARGIN, "networks": found, "missed": missed}).encode())
    draw(found, options.figure)
    print("\n".join(f"MISSED: {goal}" for goal in missed) or "all goals met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
