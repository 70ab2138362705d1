"""Stretches of a network that become circuits: what each takes and gives, and its network.

A circuit reads all of its inputs in one scale. Where a stretch takes tensors of different scales, as after half of a
residual block, whoever makes the one with the smaller scale gives it times one, as often as it takes: a weight of one
changes no number, and adds the bits of parameters to its scale.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import getitem

import torch
from torch import Tensor, fx, nn

from decentral.errors import Unproven
from decentral.models.folding import fold_batchnorm
from decentral.models.graphs import module_of
from decentral.zk.emulator import Emulator, Scales
from decentral.zk.fixed import Fixed

NEVER = 64
"""Times the scale of the input before a number is divided: never."""
CHANNELS = 1
"""The dimension along which a layer is cut, and put together again."""
_ADDS = ("add", "iadd")
_LAYERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that crosses between circuits, in the scale in which it does."""

    node: fx.Node
    scale: int


class Stretches:
    """A network without BatchNorm in layers, each a convolution or a product with all that follows up to the next."""

    def __init__(self, model: nn.Module, samples: Fixed, parameter_scale: int) -> None:
        """Raises Unproven that names a layer whose circuit is not known here, UserError, Untraceable."""
        self.graph = fold_batchnorm(model)
        self.parameter_scale = parameter_scale
        self.values: dict[fx.Node, Fixed] = Emulator(self.graph, Scales(parameter_scale, NEVER)).values(samples)
        nodes = self._by_depth()
        self._input, answer = nodes[0], nodes[-1].args[0]
        if not isinstance(answer, fx.Node):
            raise Unproven("a network that gives several tensors: only one can be proved here")
        self._answer = answer
        self.layers: list[list[fx.Node]] = []
        self._place: dict[fx.Node, int] = {}
        for node in nodes[1:-1]:
            before = [self._place[source] for source in node.all_input_nodes if source in self._place]
            if self._module(node) is not None or not self.layers:
                self.layers.append([])
                before = []
            self._place[node] = max(before, default=len(self.layers) - 1)
            self.layers[self._place[node]].append(node)

    def _by_depth(self) -> list[fx.Node]:
        """The operators by how many layers are before them: the convolution of a shortcut comes before the layer to
        which it is added, so that there can be a cut between the two."""
        depths = dict[fx.Node, int]()
        for node in self.graph.graph.nodes:
            before = max((depths[source] for source in node.all_input_nodes), default=0)
            depths[node] = before + (self._module(node) is not None)
        return sorted(depths, key=depths.__getitem__)

    def __len__(self) -> int:
        return len(self.layers)

    def name(self, start: int, end: int) -> str:
        """Of the first and the last module that is computed."""
        found = [module_of(node) for layer in self.layers[start:end] for node in layer if module_of(node)]
        return found[0] if not found[1:] or found[0] == found[-1] else f"{found[0]} .. {found[-1]}"

    def last(self, end: int) -> Port:
        """What the layer before a cut gives."""
        node = self.layers[end - 1][-1]
        return Port(node, self.values[node].scale)

    def example(self, node: fx.Node | None = None, channels: slice | None = None) -> Tensor:
        """For the first sample: what an operator gives, or some channels of it; the model's input."""
        found = self.values[node or self._input].real()[:1].float()
        return found if channels is None else found[:, channels]

    def bits(self, start: int, end: int) -> int:
        """The bits of the largest number that the samples lead to."""
        return max(self.values[node].bits() for layer in self.layers[start:end] for node in layer)

    def activations(self, start: int, end: int) -> int:
        """Elements that go through a ReLU, for one input."""
        relus = [node for layer in self.layers[start:end] for node in layer if self._is_relu(node)]
        return sum(self.values[node].digits[0][0].numel() for node in relus)

    def channels(self, start: int, end: int) -> int:
        """Output channels that a single layer can be cut into; 1 where it cannot."""
        if end != start + 1 or (layer := self._module(self.layers[start][0])) is None:
            return 1
        return len(layer.weight)

    def portion(self, place: int, node: fx.Node, channels: slice | None) -> slice | None:
        """Where some channels of a layer are in what follows it, which may have made several of each."""
        if channels is None:
            return None
        each = self.values[node].shape[CHANNELS] // self.channels(place, place + 1)
        return slice(channels.start * each, channels.stop * each)

    def needs(self, start: int, end: int) -> tuple[Port, ...]:
        """The tensors that the stretch computes from, in the largest of their scales."""
        sources = dict.fromkeys(
            source
            for layer in self.layers[start:end]
            for node in layer
            for source in node.all_input_nodes
            if source is self._input or self._place[source] < start
        )
        scale = max(self.values[node].scale for node in sources)
        return tuple(Port(node, scale) for node in sources)

    def takes(self, start: int, end: int) -> tuple[Port, ...] | None:
        """What the stretch takes; () for the model's input; None where it would take that and another tensor, or
        tensors that cannot cross in one scale."""
        found = self.needs(start, end)
        if self._input in [port.node for port in found]:
            return () if len(found) == 1 else None
        if not all(self._raisable(port.node, port.scale, start, end) for port in found):
            return None
        return found

    def _raisable(self, node: fx.Node, scale: int, start: int, end: int) -> bool:
        """Whether it can cross in this scale: it has it, or it is raised to it and what is made of it is not."""
        less = scale - self.values[node].scale
        if less == 0:
            return True
        possible = less % self.parameter_scale == 0 and len(self.values[node].shape) == 4
        return possible and self._absorbed(node, scale, (start, end))

    def _absorbed(self, node: fx.Node, scale: int, stretch: tuple[int, int]) -> bool:
        """Whether all that is made of it in the stretch is added, there, to what has as large a scale anyway."""
        for user in node.users:
            place = self._place.get(user, -1)
            if not stretch[0] <= place < stretch[1]:
                continue
            if self._function(user).startswith(_ADDS):
                if self.values[user].scale < scale:
                    return False
                continue
            outside = any(not stretch[0] <= self._place.get(each, -1) < stretch[1] for each in user.users)
            if outside or not self._absorbed(user, scale + self.values[user].scale - self.values[node].scale, stretch):
                return False
        return True

    def made(self, start: int, end: int, wanted: Sequence[Port]) -> tuple[Port, ...]:
        """Those of the ports that others want that the stretch makes; the network's answer is one."""
        answer = Port(self._answer, self.values[self._answer].scale)
        inside = [port for port in dict.fromkeys([*wanted, answer]) if start <= self._place[port.node] < end]
        return tuple(inside)

    def network(
        self,
        stretch: tuple[int, int],
        takes: Sequence[Port],
        gives: Sequence[Port],
        pieces: Mapping[fx.Node, int],
        channels: slice | None = None,
    ) -> fx.GraphModule:
        """Of a stretch, which takes each tensor in so many pieces; or of some output channels of one layer."""
        start, end = stretch
        root, graph, here = copy.deepcopy(self.graph), fx.Graph(), dict[fx.Node, fx.Node]()
        for node in [port.node for port in takes] or [self._input]:
            parts = [graph.placeholder(f"{node.name}_{piece}") for piece in range(pieces.get(node, 1))]
            here[node] = parts[0] if len(parts) == 1 else graph.call_function(torch.cat, (parts, CHANNELS))
        for layer in self.layers[start:end]:
            for node in layer:
                here[node] = graph.node_copy(node, here.__getitem__)
        if channels is not None:
            first = self.layers[start][0]
            root.set_submodule(str(first.target), _sliced(root.get_submodule(str(first.target)), channels))
            self._slice_others(graph, here, start, channels)
        raised: list[fx.Node] = []
        for number, port in enumerate(gives):
            given = here[port.node]
            for time in range((port.scale - self.values[port.node].scale) // self.parameter_scale):
                name = f"raise_{number}_{time}"
                whole = self.values[port.node].shape[CHANNELS]
                root.add_submodule(name, _ones(whole if channels is None else channels.stop - channels.start))
                given = graph.call_module(name, (given,))
            raised.append(given)
        graph.output(tuple(raised) if len(raised) > 1 else raised[0])
        found = fx.GraphModule(root, graph)
        found.delete_all_unused_submodules()
        return found

    def _slice_others(self, graph: fx.Graph, here: dict[fx.Node, fx.Node], start: int, channels: slice) -> None:
        """What a part of a layer adds to its channels are these channels of it."""
        inside = {here[node] for node in self.layers[start]}
        for node in self.layers[start][1:]:
            own = here[node]
            for source in own.all_input_nodes:
                if source not in inside:
                    with graph.inserting_before(own):
                        part = graph.call_function(getitem, (source, (slice(None), channels)))
                    own.replace_input_with(source, part)

    def _module(self, node: fx.Node) -> nn.Conv2d | nn.Linear | None:
        module = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        return module if isinstance(module, _LAYERS) else None

    def _is_relu(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self.graph.get_submodule(str(node.target)), nn.ReLU)
        return self._function(node).startswith("relu")

    @staticmethod
    def _function(node: fx.Node) -> str:
        if node.op == "call_module":
            return ""
        return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""))


def _sliced(layer: nn.Module, channels: slice) -> nn.Module:
    """Some output channels of it."""
    part = copy.deepcopy(layer)
    for name, parameter in list(part.named_parameters()):
        setattr(part, name, nn.Parameter(parameter.detach()[channels].clone(), False))
    return part


def _ones(channels: int) -> nn.Module:
    """A weight of one for each channel, written so that no exporter takes it away."""
    layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    nn.init.ones_(layer.weight)
    return layer.requires_grad_(False)
