"""What the hidden units of networks do on the same images.

A network runs up to the last tap of its permutation specification; at every tap the activations are centred where they
are computed, so that nothing but small matrices outlives a batch and nothing leaves the model's device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from decentral.core.permutation import PermutationSpec, units_by_samples
from decentral.core.statistics import Centred, Correlation, centre
from decentral.models.tracing import evaluating, trace


class ActivationReader:
    """Reads the taps of a specification, in a network or in any other state of the same architecture."""

    def __init__(self, model: nn.Module, spec: PermutationSpec):
        self._model = model
        self._device = next(model.parameters()).device
        self._tapped = _tapped(model, spec)
        self._held = self._tapped.state_dict().keys()

    def read(self, images: Tensor, state: Mapping[str, Tensor] | None = None) -> list[Centred]:
        """One entry for every tap, group by group, on a batch; `state` stands in for the model's own tensors."""
        images = images.to(self._device, non_blocking=True)
        with evaluating(self._model), torch.no_grad():
            if state is None:
                return list(self._tapped(images))
            held = {name: tensor for name, tensor in state.items() if name in self._held}
            return list(functional_call(self._tapped, held, (images,), tie_weights=False))


def correlations(
    reference: nn.Module,
    others: Sequence[Mapping[str, Tensor]],
    spec: PermutationSpec,
    batches: Iterable[Tensor],
) -> list[list[Tensor]]:
    """For every other state and group, the correlations [units of the reference, units of the other] summed over taps.

    The reference runs once for each batch, however many others there are. Raises ValueError without any batch.
    """
    reader = ActivationReader(reference, spec)
    taps = sum(len(group.taps) for group in spec.groups)
    streams = [[Correlation() for _ in range(taps)] for _ in others]
    for images in batches:
        own = reader.read(images)
        for state, correlated in zip(others, streams, strict=True):
            for stream, first, second in zip(correlated, own, reader.read(images, state), strict=True):
                stream.add(first, second)
    return [_by_group(spec, correlated) for correlated in streams]


def _by_group(spec: PermutationSpec, streams: Sequence[Correlation]) -> list[Tensor]:
    """A group that no layer with weights reads has no taps, and nothing is known about its units."""
    matrices = iter([stream.matrix() for stream in streams])
    summed = []
    for group in spec.groups:
        taps = [next(matrices) for _ in group.taps]
        summed.append(sum(taps[1:], start=taps[0]) if taps else torch.zeros(group.units, group.units).double())
    return summed


def _tapped(model: nn.Module, spec: PermutationSpec) -> fx.GraphModule:
    """The traced network up to its last tap, returning what `centre` makes of each."""
    graph = trace(model).graph
    nodes = {node.name: node for node in graph.nodes}
    taps = [(tap, group.units) for group in spec.groups for tap in group.taps]
    missing = [tap.node for tap, _ in taps if tap.node not in nodes]
    if missing:
        raise ValueError(f"the specification is of another network: {missing[0]} is not computed in this one")
    order = list(graph.nodes)
    last = max((order.index(nodes[tap.node]) for tap, _ in taps), default=0)
    for node in reversed(order[last + 1 :]):
        graph.erase_node(node)
    read = []
    for tap, units in taps:
        # Read right behind the tap: a later operator may write into the same memory.
        with graph.inserting_after(nodes[tap.node]):
            place = (tap.axis, tap.start, units, tap.repeat)
            read.append(graph.call_function(_read, (nodes[tap.node], *place)))
    graph.output(tuple(read))
    return fx.GraphModule(model, graph)


def _read(activations: Tensor, axis: int, start: int, units: int, repeat: int) -> Centred:
    return centre(units_by_samples(activations, axis, start, units, repeat))
