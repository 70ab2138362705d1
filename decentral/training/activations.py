"""What the hidden units of networks do on the same images.

A network runs up to the last tap of its permutation specification. Large maps are averaged over neighbouring pixels
where they are read, so that a unit that wakes anywhere is seen; nothing but small matrices outlives a few batches, and
nothing leaves the model's device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.functional import linear

from decentral.core.matching import SHARED, Ambiguity, Likeness, activation_matching, ambiguity
from decentral.core.permutation import Group, PermutationSpec, Tap, units_by_samples
from decentral.core.statistics import Correlation, centre
from decentral.models.graphs import evaluating, trace

PLACES = 64
"""Samples that one image gives of one unit, about: a map of 32 x 32 pixels is read as 8 x 8 averages."""

DECISIVE = 64
"""Images after which a network that shares the reference's basis already is compared no further."""


class NotFinite(ValueError):
    """Activations or parameters that are not finite. `network` is its place among the others; None: the reference."""

    def __init__(self, problem: str, network: int | None) -> None:
        whose = "the reference" if network is None else f"network {network} of the others"
        super().__init__(f"{whose} {problem}")
        self.problem, self.network = problem, network


class ActivationReader:
    """Reads the taps of a specification, in a network or in any other state of the same architecture."""

    def __init__(self, model: nn.Module, spec: PermutationSpec):
        self._model = model
        self._device = next(model.parameters()).device
        self._tapped = _tapped(model, spec)
        self._held = self._tapped.state_dict().keys()

    def read(self, images: Tensor, state: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """[units, samples] for every tap, group by group, on a batch; `state` stands in for the model's own tensors."""
        images = images.to(self._device, non_blocking=True)
        with evaluating(self._model), torch.no_grad():
            if state is None:
                return list(self._tapped(images))
            held = {name: tensor for name, tensor in state.items() if name in self._held}
            return list(functional_call(self._tapped, held, (images,), tie_weights=False))


def compare(
    reference: nn.Module,
    others: Sequence[Mapping[str, Tensor]],
    spec: PermutationSpec,
    batches: Iterable[Tensor],
) -> list[Likeness]:
    """How alike the units of the reference and of every other state are.

    The reference runs once for each batch, however many others there are. A state whose units already stand where the
    reference's do runs on the first `DECISIVE` images only, and when there is no other left, the reference too. Raises
    ValueError without any batch, and NotFinite.
    """
    comparison = _Comparison(spec, len(others))
    reader = ActivationReader(reference, spec)
    open_ = list(range(len(others)))
    seen, decided = 0, False
    for images in batches:
        if not open_:
            break
        if not len(images):
            continue
        comparison.add([(None, reader.read(images)), *((other, reader.read(images, others[other])) for other in open_)])
        seen += len(images)
        if not decided and seen >= DECISIVE:
            open_, decided = [other for other in open_ if not comparison.settled(other)], True
    return [comparison.likeness(other) for other in range(len(others))]


def ambiguous_units(model: nn.Module, spec: PermutationSpec, batches: Iterable[Tensor]) -> Ambiguity:
    """Units that are constant, or alike, on these images: activation matching cannot tell them apart.

    `describe()` shows them, `count` counts them. Raises as `compare` does.
    """
    comparison, reader = _Comparison(spec, 1), ActivationReader(model, spec)
    for images in batches:
        own = reader.read(images)
        comparison.add([(None, own), (0, own)])
    return ambiguity(spec, comparison.likeness(0))


class _Comparison:
    """Correlations of one reference with several other networks, tap by tap.

    What small maps give is kept until there are enough samples to make a product worth while: the sum of products of
    wide layers costs as much as some hundred samples.
    """

    def __init__(self, spec: PermutationSpec, others: int) -> None:
        self._spec = spec
        self._taps = list(_taps(spec))
        self._streams = [[Correlation() for _ in self._taps] for _ in range(others)]
        self._waiting: list[dict[int | None, list[Tensor]]] = [{} for _ in self._taps]

    def add(self, read: Iterable[tuple[int | None, Sequence[Tensor]]]) -> None:
        """What networks (None: the reference) do on one batch."""
        for network, taps in read:
            for waiting, activations in zip(self._waiting, taps, strict=True):
                waiting.setdefault(network, []).append(activations)
        for tap, (group, _) in enumerate(self._taps):
            if sum(part.shape[1] for part in self._waiting[tap][None]) >= 2 * group.units:
                self._flush(tap)

    def _flush(self, tap: int) -> None:
        waiting, self._waiting[tap] = self._waiting[tap], {}
        if waiting:
            own = centre(torch.cat(waiting.pop(None), dim=1))
            for other, parts in waiting.items():
                if other is not None:
                    self._streams[other][tap].add(own, centre(torch.cat(parts, dim=1)))

    def settled(self, other: int) -> bool:
        """Whether every unit of the other network stands where the reference's does, as far as was seen."""
        for tap in range(len(self._taps)):
            self._flush(tap)
        streams = self._streams[other]
        staying = sum(float(stream.staying().sum()) for stream in streams)
        attainable = sum(int((stream.first_spread() > 0).sum()) for stream in streams)
        if staying < SHARED * attainable:  # the cheap test first: strangers need no assignment to be known as such
            return False
        return activation_matching(self._spec, self.likeness(other)).is_identity

    def likeness(self, other: int) -> Likeness:
        """Of what was added so far. A group without taps is seen nowhere: nothing is known of it."""
        for tap in range(len(self._taps)):
            self._flush(tap)
        self._check(other)
        streams = iter(self._streams[other])
        correlation, attainable = [], []
        for group in self._spec.groups:
            own = [next(streams) for _ in group.taps]
            empty = torch.zeros(group.units, group.units, dtype=torch.float64)
            correlation.append(_sum([stream.matrix() for stream in own]) if own else empty)
            attainable.append(_sum([(stream.first_spread() > 0).double() for stream in own]) if own else empty[:, 0])
        return Likeness(tuple(correlation), tuple(attainable))

    def _check(self, other: int) -> None:
        """Activations that are not finite leave a spread that is not."""
        spreads = [(stream.first_spread(), stream.second_spread()) for stream in self._streams[other]]
        for whose, side in ((None, 0), (other, 1)):
            finite = [pair[side].isfinite().all() for pair in spreads]
            if finite and not torch.stack(finite).all():
                group, tap = self._taps[[bool(one) for one in finite].index(False)]
                where = f"at {tap.node} (in {tap.module or 'the network itself'}), which are units of {group.name}"
                raise NotFinite(f"has activations that are not finite {where}", whose)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def _taps(spec: PermutationSpec) -> Iterable[tuple[Group, Tap]]:
    return ((group, tap) for group in spec.groups for tap in group.taps)


def _tapped(model: nn.Module, spec: PermutationSpec) -> fx.GraphModule:
    """The traced network up to its last tap, returning the samples of each."""
    traced = trace(model)
    graph = traced.graph
    nodes = {node.name: node for node in graph.nodes}
    taps = [tap for _, tap in _taps(spec)]
    missing = [tap.node for tap in taps if tap.node not in nodes]
    if missing:
        raise ValueError(f"the specification is of another network: {missing[0]} is not computed in this one")
    order = list(graph.nodes)
    last = max((order.index(nodes[tap.node]) for tap in taps), default=0)
    for node in reversed(order[last + 1 :]):
        graph.erase_node(node)
    read = []
    for tap in taps:
        # Read right behind the tap: a later operator may write into the same memory.
        behind, weight = nodes[tap.node], None
        if tap.weight:
            with graph.inserting_after(behind):
                behind = weight = graph.get_attr(tap.weight)
        with graph.inserting_after(behind):
            read.append(graph.call_function(_read, (nodes[tap.node], tap.axis, tap.entries, tap.repeat, weight)))
    graph.output(tuple(read))
    return fx.GraphModule(traced, graph)


def _read(activations: Tensor, axis: int, entries: Sequence[int], repeat: int, weight: Tensor | None) -> Tensor:
    samples = _averaged(activations, axis)
    if weight is None:
        samples = units_by_samples(samples, axis, entries, repeat)
    else:
        # Averages are as linear as the layer. Its bias is left out: correlation knows no constants.
        rows = units_by_samples(weight, 0, entries, repeat)
        return linear(samples, rows.to(samples.dtype)).flatten(end_dim=-2).T
    shared = samples.untyped_storage().data_ptr() == activations.untyped_storage().data_ptr()
    return samples.clone() if shared else samples


def _averaged(activations: Tensor, axis: int) -> Tensor:
    """Averages (times a constant) of neighbours along all axes but the images' and the units', down to about PLACES."""
    places = [place for place in range(1, activations.ndim) if place != axis]
    if math.prod(activations.shape[place] for place in places) <= PLACES:
        return activations
    wanted = round(PLACES ** (1 / len(places)))
    dtype = torch.float32 if activations.dtype in (torch.float16, torch.bfloat16) else activations.dtype
    for place in places:
        size = activations.shape[place]
        width = math.ceil(size / wanted)
        if width == 1:
            continue
        whole = size // width
        windows = (*activations.shape[:place], whole, width, *activations.shape[place + 1 :])
        parts = activations.narrow(place, 0, whole * width).reshape(windows).sum(place + 1, dtype=dtype)
        if whole * width < size:
            rest = activations.narrow(place, whole * width, size - whole * width)
            rest = rest.sum(place, keepdim=True, dtype=dtype) * (width / rest.shape[place])
            parts = torch.cat([parts, rest], dim=place)
        activations = parts
    return activations
