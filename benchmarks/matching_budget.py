"""How many images matching needs: accuracy of a merged network against the images that it was matched on.

    DECENTRAL_DATA=... python -m benchmarks.matching_budget [--networks 3] [--subset 4096] [--epochs 5] [--json FILE]

ResNet-20 of width 1, trained apart from different seeds on one class-balanced subset of CIFAR-10 (kept in
.cache/benchmarks/trained), then every pair is merged with each budget. One curve shows matching alone: BatchNorm is
estimated anew on the same 1,024 images every time. The other is what `matching.samples` does: BatchNorm sees as many
images as matching. "none" is the average without matching. The paper's code looks at 50,000 images a pass. Prints a
table and draws docs/figures/matching-budget.png.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torch import nn

from benchmarks.trained import Apprentice, learner
from decentral.core.permutation import apply_permutation, identity_permutation
from decentral.models.tracing import permutation_spec
from decentral.training.batchnorm import reestimate_batchnorm
from decentral.training.classifier import ClassifierLearner
from decentral.training.merging import merge_into

BUDGETS = (64, 128, 256, 512, 1024, 2048, 4096)
PAPER_IMAGES = 50_000
BATCH = 128
ESTIMATION, TEST = 1024, 2000
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "matching-budget.png"


Found = dict[int, list[float]]
"""For each budget (0: no matching) the accuracy of each pair's merge, in the basis of its first."""


def accuracies(learners: list[ClassifierLearner], budgets: list[int]) -> tuple[Found, Found]:
    """With BatchNorm from `ESTIMATION` images, and from the budget's own (with none, those images too)."""
    images = torch.cat(list(learners[0].matching_batches()))
    spec = permutation_spec(learners[0].model, images[:2])
    states = [one.parameters() for one in learners]
    scratch = learners[0]
    alone: Found = {}
    both: Found = {}
    for budget in (0, *budgets):
        alone[budget], both[budget] = [], []
        for first, second in combinations(states, 2):
            scratch.load(first)
            merged: nn.Module = scratch.model
            if budget:
                # Averaged statistics cost nothing here: those that count are estimated below.
                batches = torch.split(images[:budget], BATCH)
                merge_into(merged, [second], [0.5, 0.5], spec, batches, statistics="average")
            else:
                stays = apply_permutation(spec, identity_permutation(spec), second)
                scratch.load({name: (t + stays[name]) / 2 if t.is_floating_point() else t for name, t in first.items()})
            for found, seen in ((alone, ESTIMATION), (both, budget or ESTIMATION)):
                reestimate_batchnorm(merged, torch.split(images[:seen], BATCH))
                found[budget].append(accuracy(scratch))
    return alone, both


def accuracy(learner: ClassifierLearner) -> float:
    found = learner.evaluate().accuracy
    assert found is not None
    return found


def draw(found: Found, both: Found, alone: list[float], chosen: int, figure: Path) -> None:
    """Mean and range over the pairs."""
    mpl.use("agg")
    plot, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    budgets = [budget for budget in found if budget]
    means = [statistics.mean(found[budget]) for budget in budgets]
    axes.fill_between(budgets, [min(found[b]) for b in budgets], [max(found[b]) for b in budgets], alpha=0.2)
    axes.plot(budgets, means, marker="o", label=f"merged by matching, BatchNorm from {ESTIMATION:,} images")
    shared = [statistics.mean(both[budget]) for budget in budgets]
    axes.plot(budgets, shared, marker="x", linestyle="--", label="BatchNorm from the same images as matching")
    axes.axhline(statistics.mean(alone), color="gray", linestyle="--", label="the networks alone")
    axes.axhline(statistics.mean(found[0]), color="tab:red", linestyle=":", label="averaged without matching")
    axes.axvline(chosen, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="images that matching looks at", ylabel="test accuracy")
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.parent.mkdir(parents=True, exist_ok=True)
    plot.savefig(figure, dpi=150)
    plt.close(plot)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--subset", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--chosen", type=int, default=512, help="the default of matching.samples, marked in the figure")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    budgets = sorted({min(budget, options.subset) for budget in options.budgets})
    learners = [
        learner(
            Apprentice("resnet20", {"width": options.width}, subset=options.subset, epochs=options.epochs, seed=seed),
            matching_samples=max(*budgets, ESTIMATION),
            evaluation_samples=TEST,
        )
        for seed in range(options.networks)
    ]
    alone = [accuracy(one) for one in learners]
    found, both = accuracies(learners, budgets)
    print(f"ResNet-20 width {options.width}, {options.subset} images of CIFAR-10, {options.epochs} epochs, from")
    print(
        f"{options.networks} seeds; {math.comb(options.networks, 2)} merges of two; alone {statistics.mean(alone):.4f}"
    )
    print(f"{'images':>8} {'accuracy':>9} {'min':>7} {'max':>7} {'BN too':>9}   share of the paper code's pass")
    for budget, reached in found.items():
        row = f"{statistics.mean(reached):9.4f} {min(reached):7.4f} {max(reached):7.4f}"
        row += f" {statistics.mean(both[budget]):9.4f}"
        print(f"{budget or 'none':>8} {row}   {budget / PAPER_IMAGES:.2%}")
    draw(found, both, alone, options.chosen, options.figure)
    if options.json:
        record = {"alone": alone, "accuracy": found, "BatchNorm from as many": both}
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
