"""What one merge costs, beside the least that it could.

    python -m benchmarks.merge_cost [--only resnet20] [--repeats 3] [--json FILE]

Two neighbours, the default budget of images. The floor, measured in the same run on the same batches: the forward
passes that matching needs (one and one for each neighbour, up to the last place where units are read), the pass that
estimates BatchNorm anew, the products of the activations as they are read, and SciPy's assignments. Both take turns,
each figure is the median. Images and weights are random: time does not depend on what they are, except that networks
which share a basis would be compared on the first images only, and these do not.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn
from torch.func import functional_call

from decentral.core.permutation import PermutationSpec
from decentral.models.catalogue import build_model
from decentral.models.graphs import evaluating, trace
from decentral.models.tracing import permutation_spec
from decentral.training.activations import ActivationReader, compare
from decentral.training.batchnorm import reestimate_batchnorm
from decentral.training.merging import merge_into

WANTED = 1.3
NEIGHBOURS = 2
IMAGES, BATCH = 512, 128  # the default of `matching.samples`, and the batches that a learner makes of it
NETWORKS = {
    "resnet20": ("resnet20", (3, 32, 32)),
    "vgg16-bn": ("vgg16-bn", (3, 32, 32)),
    "resnet50": ("torchvision/resnet50", (3, 64, 64)),
}


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    network: str
    ours: float
    passes: float
    reestimation: float
    products: float
    assignments: float

    @property
    def floor(self) -> float:
        return self.passes + self.reestimation + self.products + self.assignments

    @property
    def ratio(self) -> float:
        return self.ours / self.floor


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(network: str, repeats: int, images: int = IMAGES) -> Cost:
    """The medians over `repeats` turns, after one that warms up."""
    name, shape = NETWORKS[network]
    models = []
    for seed in range(1 + NEIGHBOURS):
        torch.manual_seed(seed)
        models.append(build_model(name, shape, 10).eval())
    reference, states = models[0], [model.state_dict() for model in models[1:]]
    pixels = torch.randn(images, *shape, generator=torch.Generator().manual_seed(0))
    batches = list(torch.split(pixels, BATCH))
    spec = permutation_spec(reference, batches[0][:2])
    weights = [1 / len(models)] * len(models)
    cut = up_to_the_last_tap(reference, spec)
    matrices = [
        samples_of_all(reference, spec, batches),
        *(samples_of_all(reference, spec, batches, s) for s in states),
    ]
    scores = [group.numpy() for likeness in compare(reference, states, spec, batches) for group in likeness.correlation]
    merged, estimated = copy.deepcopy(reference), copy.deepcopy(reference)
    own = {key: tensor.clone() for key, tensor in reference.state_dict().items()}

    def ours() -> float:
        merged.load_state_dict(own)
        return seconds(lambda: merge_into(merged, models[1:], weights, spec, batches))

    def passes() -> None:
        with evaluating(reference), torch.no_grad():
            for batch in batches:
                for state in (own, *states):
                    functional_call(cut, {key: state[key] for key in cut.state_dict()}, (batch,), tie_weights=False)

    def products() -> None:
        for taps in matrices[1:]:
            for first, second in zip(matrices[0], taps, strict=True):
                torch.mm(first, second.T)

    def assignments() -> None:
        for group in scores:
            linear_sum_assignment(group, maximize=True)

    floor = (passes, lambda: reestimate_batchnorm(estimated, batches), products, assignments)
    turns = [[ours(), *map(seconds, floor)] for _ in range(1 + repeats)]
    return Cost(network, *(statistics.median(column) for column in zip(*turns[1:], strict=True)))


def up_to_the_last_tap(model: nn.Module, spec: PermutationSpec) -> fx.GraphModule:
    """The network as far as it must run to be matched, with nothing read on the way."""
    graph = trace(model).graph
    taps = {tap.node for group in spec.groups for tap in group.taps}
    nodes = list(graph.nodes)
    last = max(place for place, node in enumerate(nodes) if node.name in taps)
    for node in reversed(nodes[last + 1 :]):
        graph.erase_node(node)
    graph.output(nodes[last])
    return fx.GraphModule(model, graph)


def samples_of_all(
    model: nn.Module, spec: PermutationSpec, batches: list[Tensor], state: dict[str, Tensor] | None = None
) -> list[Tensor]:
    """[units, samples of all batches] of every tap: the shapes that are multiplied."""
    reader = ActivationReader(model, spec)
    return [torch.cat(parts, dim=1) for parts in zip(*(reader.read(batch, state) for batch in batches), strict=True)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(NETWORKS), action="append")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(
        f"one merge with {NEIGHBOURS} neighbours, {options.images} images, {torch.get_num_threads()} threads; seconds"
    )
    header = f"{'network':10} {'ours':>8} {'floor':>8}   {'passes':>8} {'BatchNorm':>9} {'products':>8} {'assign':>8}"
    print(f"{header}   ratio")
    costs = []
    for network in options.only or NETWORKS:
        cost = measure(network, options.repeats, options.images)
        costs.append(cost)
        parts = f"{cost.passes:8.3f} {cost.reestimation:9.3f} {cost.products:8.3f} {cost.assignments:8.3f}"
        verdict = "" if cost.ratio <= WANTED else f"  above {WANTED}"
        print(f"{network:10} {cost.ours:8.3f} {cost.floor:8.3f}   {parts}   {cost.ratio:.2f}{verdict}", flush=True)
    if options.json:
        rows = [{**asdict(cost), "floor": cost.floor, "ratio": cost.ratio, "wanted": WANTED} for cost in costs]
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    worst = max(cost.ratio for cost in costs)
    return 0 if math.isfinite(worst) and worst <= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
