"""REPAIR: averaged units have less variance than those they come from; give it back, in the weights themselves.

Jordan et al., "REPAIR: REnormalizing Permuted Activations for Interpolation Repair" (arXiv 2211.08403). For networks
without BatchNorm; where there is BatchNorm, its re-estimated statistics do the same (`training.batchnorm`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from decentral.core.permutation import PermutationSpec
from decentral.models.graphs import evaluating, trace

SMALLEST = 1e-3
"""A unit of the average that varies less than this share of what it should is at rest: it is moved, not stretched."""

Look = Callable[[str, Tensor], Tensor]
"""Takes a layer's name and output; what it returns takes the output's place."""

_RESCALED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMALISATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and standard deviation of each unit of a layer, before its nonlinearity."""

    mean: Float[Tensor, " units"]
    deviation: Float[Tensor, " units"]


def applies(model: nn.Module, repair: bool | Literal["auto"]) -> bool:
    """`auto`: to networks without any normalisation. Raises ValueError where True is asked of one with BatchNorm."""
    normalised = any(isinstance(module, _NORMALISATIONS) for module in model.modules())
    tracked = any(isinstance(module, _NormBase) and module.track_running_stats for module in model.modules())
    if repair is True and tracked:
        raise ValueError("repair is for networks without BatchNorm: its statistics, estimated anew, do the same")
    return not normalised if repair == "auto" else repair


def repairable_layers(model: nn.Module, spec: PermutationSpec) -> list[str]:
    """Linear and convolution layers of hidden units that can take a scale and a shift into weight and bias.

    Left as they are: layers without a bias, layers whose parameters have a second use, and what is no such layer.
    """
    hidden = {
        axis.tensor
        for axis in spec.axes
        if axis.axis == 0 and axis.within is None and axis.size == sum(len(block.entries) for block in axis.blocks)
    }
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    nodes = list(trace(model).graph.nodes)
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    elsewhere = {str(node.target) for node in nodes if node.op == "get_attr"}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _RESCALED)
        and module.bias is not None
        and f"{name}.weight" in hidden
        and f"{name}.bias" in hidden
        and calls[name] == 1
        and all(uses[id(tensor)] == 1 for tensor in (module.weight, module.bias))
        and not {f"{name}.weight", f"{name}.bias"} & elsewhere
    ]


def layer_moments(
    model: nn.Module, layers: Sequence[str], batches: Sequence[Tensor], state: Mapping[str, Tensor] | None = None
) -> dict[str, Moments]:
    """Of each layer's output, averaged over the batches, each of which counts the same as in BatchNorm.

    `state` stands in for the model's own tensors.
    """
    seen: dict[str, list[Moments]] = {name: [] for name in layers}

    def look(name: str, output: Tensor) -> Tensor:
        seen[name].append(_moments(output, _axis(model, name)))
        return output

    _run(model, look, layers, batches, state)
    return {name: _average(moments) for name, moments in seen.items()}


def mix(networks: Sequence[Mapping[str, Moments]], weights: Sequence[float]) -> dict[str, Moments]:
    """What the units of an average should do: the weighted mean of means and of deviations (REPAIR)."""
    return {
        name: Moments(
            sum((m[name].mean * w for m, w in zip(networks, weights, strict=True)), start=torch.zeros(())),
            sum((m[name].deviation * w for m, w in zip(networks, weights, strict=True)), start=torch.zeros(())),
        )
        for name in networks[0]
    }


def rescale(model: nn.Module, targets: Mapping[str, Moments], batches: Sequence[Tensor]) -> None:
    """Changes weight and bias of each layer so that its units have the moments wanted, on these batches.

    One pass: every layer's output is corrected as it is computed, so that later layers see what they will see. Exact
    for one batch; the averages over several are those of BatchNorm's re-estimation.
    """
    seen: dict[str, list[Moments]] = {name: [] for name in targets}

    def correct(name: str, output: Tensor) -> Tensor:
        axis = _axis(model, name)
        found, wanted = _moments(output, axis), targets[name]
        seen[name].append(found)
        shape = [-1 if place == axis % output.ndim else 1 for place in range(output.ndim)]
        scale = _scale(found, wanted)
        shift = wanted.mean - found.mean * scale
        return (output * scale.view(shape) + shift.view(shape)).to(output.dtype)

    _run(model, correct, list(targets), batches, None)
    with torch.no_grad():
        for name, wanted in targets.items():
            layer = model.get_submodule(name)
            found = _average(seen[name])
            scale = _scale(found, wanted)
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            weight.copy_(weight * scale.view(-1, *[1] * (weight.ndim - 1)))
            bias.copy_((bias - found.mean) * scale + wanted.mean)


def _run(
    model: nn.Module,
    look: Look,
    layers: Sequence[str],
    batches: Sequence[Tensor],
    state: Mapping[str, Tensor] | None,
) -> None:
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad(), _hooked(model, layers, look):
        for images in batches:
            if len(images):
                functional_call(model, dict(state or {}), (images.to(device, non_blocking=True),), tie_weights=False)


@contextmanager
def _hooked(model: nn.Module, layers: Sequence[str], look: Look) -> Iterator[None]:
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _axis(model: nn.Module, name: str) -> int:
    """Where a layer's output has its units."""
    layer = model.get_submodule(name)
    return -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)  # type: ignore[arg-type]


def _moments(output: Tensor, axis: int) -> Moments:
    others = [place for place in range(output.ndim) if place != axis % output.ndim]
    wide = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
    deviation, mean = torch.std_mean(wide, dim=others, correction=0)
    return Moments(mean, deviation)


def _average(moments: Sequence[Moments]) -> Moments:
    mean = torch.stack([one.mean for one in moments]).mean(0)
    variance = torch.stack([one.deviation.square() for one in moments]).mean(0)
    return Moments(mean, variance.sqrt())


def _scale(found: Moments, wanted: Moments) -> Tensor:
    resting = found.deviation <= SMALLEST * wanted.deviation
    return torch.where(resting, 1.0, wanted.deviation / found.deviation)
