"""Which hidden units of torchvision's classifiers may be permuted, and whether their function survives it.

    python -m benchmarks.permutation_zoo [--only NAME...] [--json FILE]

A line for each constructor: groups, share of hidden channels that are free to move, largest relative error of the
outputs after 3 random permutations and a fourth with all that it does in training only, such as auxiliary classifiers
(float64; float32 above 150 M parameters), and the error of a control that leaves one axis behind, which shows that the
check would have seen it. Hidden channels are the outputs of all layers with
weights that the forward pass uses, but for those layers whose outputs are the network's. Weights are random, and
constants among them are disturbed, for a zero bias or a scale of one hides mistakes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torchvision import models
from torchvision.ops import StochasticDepth

from decentral.core.permutation import PermutationSpec, apply_permutation, random_permutation
from decentral.errors import Untraceable
from decentral.models.graphs import trace
from decentral.models.tracing import permutation_spec

FAMILIES = {
    "alexnet": "AlexNet", "vgg": "VGG", "wide_resnet": "WideResNet", "resnet": "ResNet", "resnext": "ResNeXt",
    "densenet": "DenseNet", "inception": "Inception", "googlenet": "GoogLeNet", "mobilenet": "MobileNet",
    "shufflenet": "ShuffleNet", "squeezenet": "SqueezeNet", "mnasnet": "MNASNet", "efficientnet": "EfficientNet",
    "regnet": "RegNet", "convnext": "ConvNeXt", "vit": "ViT", "swin": "Swin", "maxvit": "MaxViT",
}  # fmt: skip
PERMUTATIONS = 3
LARGE = 150_000_000
"""Parameters above which float32 must do."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
REQUIRED = 75


@dataclass(frozen=True, slots=True)
class Result:
    """`why`: what stands against it. The share is of hidden channels, the errors are relative to the largest output."""

    name: str
    family: str
    parameters: int
    why: str = ""
    groups: int = 0
    hidden: int = 0
    free: int = 0
    dtype: str = ""
    error: float = float("nan")
    control: float = float("nan")
    seconds: float = 0.0

    @property
    def supported(self) -> bool:
        return not self.why

    @property
    def share(self) -> float:
        return self.free / self.hidden if self.hidden else 0.0


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network of this name with random weights, and two small images for it."""
    options: dict[str, object] = {}
    size = 64
    if name in ("googlenet", "inception_v3"):
        options, size = {"init_weights": True}, 299 if name == "inception_v3" else 96
    elif name.startswith("vit"):
        size = 2 * int(name.rpartition("_")[2])
        options = {"image_size": size}
    elif name.startswith("maxvit"):
        size = 224
    model = models.get_model(name, weights=None, **options).eval()
    return model, torch.randn(2, 3, size, size)


@torch.no_grad()
def disturb(model: nn.Module, generator: torch.Generator) -> None:
    """Vectors and all that is constant get noise; variances stay positive."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.add_(torch.rand(tensor.shape, generator=generator) - 0.5)
        elif tensor.is_floating_point() and (tensor.ndim == 1 or bool((tensor == tensor.flatten()[0]).all())):
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2)


def check(name: str, seed: int = 0) -> Result:
    """Builds, reads and permutes one network."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, images = build(name)
    disturb(model, generator)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    dtype = torch.float32 if parameters > LARGE else torch.float64
    model, images = model.to(dtype), images.to(dtype)
    family = next(family for prefix, family in FAMILIES.items() if name.startswith(prefix))
    began = time.perf_counter()
    try:
        spec = permutation_spec(model, images[:1])
    except Untraceable as refusal:
        return Result(name, family, parameters, str(refusal))
    seconds = time.perf_counter() - began
    hidden, free = channels(model, spec)
    error = max(error_of(model, spec, images, generator) for _ in range(PERMUTATIONS))
    for module in model.modules():
        # Whatever draws at random or looks at the whole batch does as in evaluation: the outputs can be compared.
        module.training = not (type(module).__module__.startswith("torch.nn") or isinstance(module, StochasticDepth))
    error = max(error, error_of(model, spec, images, generator))
    axes = sorted(spec.axes, key=lambda axis: axis.size)
    control = error_of(model, PermutationSpec(spec.groups, tuple(axes[:-1])), images, generator)
    why = "" if error <= TOLERANCE[dtype] else f"ANOTHER FUNCTION: relative error {error:.1e}"
    kind = str(dtype).removeprefix("torch.")
    return Result(name, family, parameters, why, len(spec.groups), hidden, free, kind, error, control, seconds)


@torch.no_grad()
def error_of(model: nn.Module, spec: PermutationSpec, images: Tensor, generator: torch.Generator) -> float:
    """How far the outputs are from those before a random permutation, relative to the largest."""
    expected = tensors(model(images))
    state = apply_permutation(spec, random_permutation(spec, generator), model.state_dict())
    pairs = zip(tensors(functional_call(model, state, (images,))), expected, strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


def tensors(outputs: Tensor | tuple[Tensor | None, ...]) -> list[Tensor]:
    """Networks with auxiliary classifiers return several in training."""
    return [outputs] if isinstance(outputs, Tensor) else [output for output in outputs if output is not None]


def channels(model: nn.Module, spec: PermutationSpec) -> tuple[int, int]:
    """Hidden channels of the layers that the forward pass uses, and how many of them are units of a group."""
    weights = dict(weights_used(model))
    last = {name for name, output in weights.items() if output}
    free = {
        axis.tensor: sum(len(block.entries) for block in axis.blocks)
        for axis in spec.axes
        if axis.axis == 0 and axis.tensor in weights
    }
    sizes = {name: len(model.get_parameter(name)) for name in weights if name not in last}
    return sum(sizes.values()), sum(free.get(name, 0) for name in sizes)


def weights_used(model: nn.Module) -> list[tuple[str, bool]]:
    """Every weight of a layer that is used, and whether nothing with weights stands between it and the output."""
    graph = trace(model).graph
    found: dict[str, bool] = {}
    near = {node for output in graph.nodes if output.op == "output" for node in output.all_input_nodes}
    for node in reversed(list(graph.nodes)):
        own = layers_of(model, node)
        for name in own:
            found[name] = found.get(name, True) and node in near
        weighted = bool(own)
        if node in near and not weighted:
            near |= set(node.all_input_nodes)
    return list(found.items())


def layers_of(model: nn.Module, node: fx.Node) -> list[str]:
    """Weights of linear layers, convolutions and attention that a node computes with."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
    if node.op == "call_module":
        path, names = str(node.target), ("weight", "in_proj_weight", "out_proj.weight")
        module = model.get_submodule(path)
        own = dict(module.named_parameters()) if isinstance(module, kinds) else {}
        return [f"{path}.{name}" for name in names if name in own]
    if node.op in ("call_function", "call_method"):
        attributes = [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]
        return [
            name
            for name in attributes
            if name.endswith("weight") and isinstance(model.get_submodule(name.rpartition(".")[0]), kinds)
        ]
    return []


def line(result: Result) -> str:
    head = f"{result.name:20}{result.parameters / 1e6:>8.1f}"
    if not result.groups:
        return f"{head}  not supported: {result.why}"
    figures = f"{result.groups:>8}{result.share:>8.1%}{result.hidden:>9}{result.error:>10.1e}{result.control:>10.1e}"
    return f"{head}{figures}  {result.dtype:8}{result.seconds:>6.1f}  {result.why}".rstrip()


def summary(results: list[Result]) -> str:
    """A line for each family, and the counts."""
    lines = [f"\n{'family':14}{'supported':>10}{'groups':>12}{'least free':>12}{'largest error':>15}"]
    for family in dict.fromkeys(FAMILIES.values()):
        own = [result for result in results if result.family == family]
        good = [result for result in own if result.supported]
        if good:
            groups = f"{min(r.groups for r in good)}-{max(r.groups for r in good)}"
            least, worst = min(r.share for r in good), max(r.error for r in good)
            lines.append(f"{family:14}{len(good):>6} of {len(own)}{groups:>12}{least:>12.1%}{worst:>15.1e}")
        elif own:
            lines.append(f"{family:14}{0:>6} of {len(own)}")
    counts = Counter(result.supported for result in results)
    wrong = sum(bool(result.groups) and not result.supported for result in results)
    mostly = sum(result.supported and result.share > 0.5 for result in results)
    lines.append(
        f"\n{counts[True]} of {len(results)} supported ({mostly} of them with more than half of their hidden channels "
        f"free), {counts[False] - wrong} untraceable, {wrong} of another function."
    )
    return "\n".join(lines)


def main() -> int:
    """Zero if no network computes another function and, of all, enough are supported."""
    parser = argparse.ArgumentParser(description="Permutation groups of torchvision's classifiers.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these constructors alone")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    names = arguments.only or models.list_models(module=models)
    title = f"{'free':>8}{'hidden':>9}{'error':>10}{'control':>10}  {'dtype':8}{'s':>6}"
    print(f"{'constructor':20}{'M par.':>8}{'groups':>8}{title}")
    results = []
    for name in names:
        results.append(check(name))
        print(line(results[-1]), flush=True)
    print(summary(results))
    if arguments.json:
        figures = [{**asdict(result), "share": result.share} for result in results]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    supported = sum(result.supported for result in results)
    wrong = any(result.groups and not result.supported for result in results)
    return int(wrong or supported < min(REQUIRED, len(names)))


if __name__ == "__main__":
    sys.exit(main())
