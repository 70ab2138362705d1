"""From a network to its permutation groups, with nobody listing them.

The network is traced (`graphs`), run once on example inputs for the shapes, and every operator's rule says which axes
must be permuted alike (`rules`, `axes`). What then remains free is a group. Never a guess: inputs and outputs stay in
place, an operator without a rule is pinned with all that it touches, and what cannot be seen through is Untraceable.
What the network does in training only, such as auxiliary classifiers, is read as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn

from decentral.core.permutation import PermutationSpec
from decentral.errors import Untraceable
from decentral.models.axes import Axis, AxisSystem
from decentral.models.calls import Call, Projection, Rule, Shape, Value
from decentral.models.collection import Place, collect
from decentral.models.graphs import (
    alike,
    check_hooks,
    check_same,
    evaluating,
    first_line,
    keeping_buffers,
    module_of,
    place_of,
    saved_tensors,
    surrounded,
    trace,
)
from decentral.models.rules import FUNCTIONS, METADATA, MODULES, PARTED


def permutation_spec(model: nn.Module, *example_inputs: Tensor) -> PermutationSpec:
    """The groups of units of a torch.fx-traceable network that may be permuted without changing its function.

    Neither the function in evaluation mode nor that in training changes. `example_inputs` are what the network is
    called with, a batch of any size. The model is neither changed nor left in another mode. Raises Untraceable, naming
    module and operator, for a network that cannot be read for certain.
    """
    if any(not example.numel() for example in example_inputs):
        raise Untraceable(f"{type(model).__name__}: an example input is empty")
    graph_module = _trace_twice(model, len(example_inputs), training=False)
    check_hooks(model)
    propagation = _Propagation(model)
    propagation.follow(graph_module, _shapes(model, graph_module, example_inputs))
    read, made = [*propagation.read()], [*propagation.made()]
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices), keeping_buffers(model):
        try:
            training = _trace_twice(model, len(example_inputs), training=True)
            if not alike(graph_module.graph, training.graph):
                propagation.follow(training, _shapes(model, training, example_inputs))
        except Untraceable as error:
            raise Untraceable(f"in training mode: {error}") from error
    return propagation.spec(read, made)


def _trace_twice(model: nn.Module, inputs: int, training: bool) -> fx.GraphModule:
    """Raises Untraceable for a network that is not the same in every call."""
    with keeping_buffers(model):
        graph_module = trace(model, inputs, training=training)
    with keeping_buffers(model):
        check_same(graph_module.graph, trace(model, inputs, training=training).graph)
    return graph_module


def _shapes(model: nn.Module, graph_module: fx.GraphModule, inputs: Iterable[Tensor]) -> dict[fx.Node, Any]:
    """What every operator computes with tensors replaced by their shapes; layers do as they do in evaluation."""
    with evaluating(model), torch.no_grad():
        return _Recorder(graph_module).record(*(example.clone() for example in inputs))


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps, for every node, what it computed with tensors replaced by their shapes."""

    def __init__(self, graph_module: fx.GraphModule):
        super().__init__(graph_module)
        self._results: dict[fx.Node, Any] = {}
        self._running: fx.Node | None = None

    def record(self, *inputs: Tensor) -> dict[fx.Node, Any]:
        try:
            self.run(*inputs)
        except Exception as error:
            where = place_of(self._running) if self._running else "the network"
            raise Untraceable(f"{where}: cannot be run on the example inputs: {first_line(error)}") from error
        return self._results

    def run_node(self, n: fx.Node) -> Any:
        self._running = n
        result = super().run_node(n)
        self._results[n] = _each(result, Tensor, lambda tensor: Shape(tensor.shape))
        return result


class _Propagation:
    """Carries axes through traced graphs of one network."""

    def __init__(self, model: nn.Module):
        self._system = AxisSystem()
        self._graph_module: fx.GraphModule
        self._results: dict[fx.Node, Any] = {}
        self._values: dict[fx.Node, Any] = {}
        self._reads: set[str] = set()
        self._layers: set[str] = set()
        """Nodes that read others: layers with weights."""
        self._projections: list[Projection] = []
        self._saved: dict[int, Value] = {}
        self._names: dict[str, Value] = {}
        """Every tensor that is saved with the model, under each of its names; tied ones share their axes."""
        self._met: set[int] = set()
        tensors = saved_tensors(model)
        grouped = {id(part.weight): part.groups for part in model.modules() if isinstance(part, _CONVOLUTIONS)}
        for name, tensor in tensors.items():
            fresh = self._fresh(name, tensor, grouped.get(id(tensor), 1))
            self._names[name] = self._saved.setdefault(id(tensor), fresh)
        self._memory = [*tensors.values()]
        for one, other in _overlaps({id(tensor): tensor for tensor in self._memory}.values()):
            self._pin((self._saved[id(one)], self._saved[id(other)]))

    def follow(self, graph_module: fx.GraphModule, results: dict[fx.Node, Any]) -> None:
        """One graph, in which every operator computed the `results`."""
        self._graph_module, self._results, self._values = graph_module, results, {}
        for node in graph_module.graph.nodes:
            try:
                value = self._visit(node)
            except (ValueError, IndexError, AttributeError) as error:
                raise Untraceable(f"{place_of(node)}: {error}") from error
            self._values[node] = _each(value, Value, partial(_computed, node))

    def spec(self, read: Iterable[Place], made: Iterable[Place]) -> PermutationSpec:
        """What all graphs leave free."""
        # What the forward pass never uses is left alone.
        self._pin([value for key, value in self._saved.items() if key not in self._met])
        return collect(self._system, self._names, read, made)

    def _visit(self, node: fx.Node) -> Any:
        """What a node computes, as a structure with a Value for every tensor."""
        args, kwargs = self._seen((node.args, node.kwargs))
        match node.op:
            case "placeholder":
                value = _each(self._results[node], Shape, self._fixed)
            case "get_attr":
                value = _each(_attribute(self._graph_module, str(node.target)), Tensor, self._own)
            case "output":
                self._pin(args)
                value = None
            case "call_module":
                module = self._graph_module.get_submodule(str(node.target))
                if any(map(surrounded, module.modules())):
                    raise Untraceable(
                        f"{place_of(node)}: has hooks or a forward of its own, which may compute anything"
                    )
                value = self._apply(node, type(module), MODULES.get(type(module)), (module, *args), kwargs)
            case _ if node.target is getitem and not isinstance(args[0], Value):
                value = args[0][args[1]]
            case _ if node.target in METADATA and not isinstance(self._results[node], Shape):
                value = self._results[node]
            case _:
                rule = FUNCTIONS.get(node.target) or FUNCTIONS.get(_qualified(node.target))
                value = self._apply(node, node.target, rule, args, kwargs)
        return value

    def _apply(self, node: fx.Node, operator: Any, rule: Rule | None, args: tuple[Any, ...], kwargs: Any) -> Any:
        """By the operator's rule if it has one that takes this call, else pinned."""
        result = self._results[node]
        first = result[0] if isinstance(result, (tuple, list)) and not isinstance(result, Shape) and result else result
        if rule is not None and isinstance(first, Shape):
            if rule not in PARTED:
                args, kwargs = _each((args, kwargs), Value, self._whole)
            call = Call(self._system, result, self._own, self._weight)
            if _takes(rule, call, *args, **kwargs) and (value := rule(call, *args, **kwargs)) is not None:
                value = _each(value, Value, lambda each: replace(each, axes=self._system.complete(each.axes)))
                if _each(value, Value, lambda each: tuple(axis.size for axis in each.axes)) != result:
                    raise ValueError(f"its rule does not describe a result of shape {result}")
                if call.reads:
                    self._layers.add(node.name)
                self._reads.update(call.reads)
                self._projections += call.projections
                return value
        return self._pinned(node, operator, (args, kwargs), result)

    def _seen(self, arguments: Any) -> Any:
        """Arguments of a node with other nodes replaced by what they compute."""
        return fx.node.map_arg(arguments, lambda node: self._values[node])

    def _pinned(self, node: fx.Node, operator: Any, arguments: Any, result: Any) -> Any:
        """Unpermuted inputs and parameters give an unpermuted result, if those are all that the operator depends on."""
        provenance = "torch" if isinstance(operator, str) else getattr(operator, "__module__", None) or "unknown"
        if provenance.partition(".")[0] not in _PURE:
            raise Untraceable(f"{place_of(node)}: there is no rule for it, and what it depends on is not known")
        self._pin(arguments)
        return _each(result, Shape, self._fixed)

    def _fresh(self, name: str, tensor: Tensor, groups: int) -> Value:
        """Free axes of a tensor; of a grouped convolution's weight, axis 1 is parted from the axis of all inputs."""
        axes = [self._system.fresh(size) for size in tensor.shape]
        if groups > 1 and axes[1].size > 1:
            inputs = self._system.fresh(groups * tensor.shape[1]).rows(groups)
            axes[1] = Axis(inputs.units, inputs.labels, 1)
        return Value(tuple(axes), name=name)

    def _own(self, tensor: Tensor) -> Value:
        """Axes of a tensor that the network holds. What is not saved with it cannot be permuted: it is fixed."""
        return self._whole(self._weight(tensor))

    def _weight(self, tensor: Tensor) -> Value:
        """The same with axes that are parted from the start."""
        if id(tensor) in self._saved:
            self._met.add(id(tensor))
            return self._saved[id(tensor)]
        for saved in self._memory:
            if _overlap(saved, tensor):
                if isinstance(saved, nn.Parameter):
                    raise ValueError("uses a tensor that shares memory with a parameter but is not one")
                # A view of a buffer that was taken while tracing: it is what it was if the buffer is.
                self._pin(self._saved[id(saved)])
        if tensor.grad_fn is not None:
            raise ValueError("uses a tensor that was computed from parameters while the network was traced")
        return self._fixed(Shape(tensor.shape))

    def _fixed(self, shape: Shape) -> Value:
        return Value(tuple(map(self._system.fixed, shape)))

    def _whole(self, value: Value) -> Value:
        """The value as rules take it that know nothing of parted axes: those stay in place."""
        self._system.pin(axis for axis in value.axes if axis.is_parted)
        axes = (self._system.fixed(axis.size) if axis.is_parted else axis for axis in value.axes)
        return replace(value, axes=tuple(axes))

    def _pin(self, arguments: Any) -> None:
        """Everything among the arguments: tensors, and modules with all that is saved with them."""
        _each(arguments, Value, lambda value: self._system.pin(value.axes))
        _each(arguments, nn.Module, lambda module: self._pin([*map(self._own, saved_tensors(module).values())]))

    def read(self) -> Iterator[Place]:
        """What layers with weights read in the last graph."""
        for node, value in self._values.items():
            if node.name in self._reads and isinstance(value, Value):
                yield Place(node.name, module_of(node), value.axes)

    def made(self) -> Iterator[Place]:
        """What they compute, in the graph or inside an operator."""
        modules: dict[str, str] = {}
        for node, value in self._values.items():
            modules[node.name] = module_of(node)
            if node.name in self._layers and isinstance(value, Value):
                yield Place(node.name, module_of(node), value.axes)
        for inside in self._projections:
            inputs = (self._system.fixed(axis.size) for axis in inside.x.axes[:-1])
            rows = self._system.resolve(self._names[inside.weight].axes[0]).only(inside.rows)
            yield Place(inside.x.node, modules[inside.x.node], (*inputs, rows), inside.weight)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_PURE = frozenset({"torch", "torchvision", "_operator", "builtins", "math"})
"""Where functions come from whose results depend on nothing but their arguments (and torch's random state)."""


def _computed(node: fx.Node, value: Value) -> Value:
    """The value as its node's: what is saved under a name is no longer that once an operator has it."""
    return replace(value, node=node.name, name=value.name if node.op == "get_attr" else "")


def _qualified(operator: Any) -> str:
    return f"{getattr(operator, '__module__', '')}.{getattr(operator, '__name__', '')}"


def _takes(rule: Rule, *args: Any, **kwargs: Any) -> bool:
    try:
        inspect.signature(rule).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _each(structure: Any, kind: type[Any], change: Callable[[Any], Any]) -> Any:
    """A nested structure with every instance of a type replaced."""
    if isinstance(structure, kind):
        return change(structure)
    if isinstance(structure, dict):
        return {key: _each(part, kind, change) for key, part in structure.items()}
    if isinstance(structure, (list, tuple)) and not isinstance(structure, (Shape, torch.Size)):
        parts = [_each(part, kind, change) for part in structure]
        return parts if isinstance(structure, list) else tuple(parts)
    return structure


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First byte and end of a tensor's memory."""
    return tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()


def _overlap(one: Tensor, other: Tensor) -> bool:
    (start, end), (since, until) = _extent(one), _extent(other)
    return start < until and since < end


def _overlaps(tensors: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors that are different objects over the same memory."""
    widest: Tensor | None = None
    for tensor in sorted((tensor for tensor in tensors if tensor.data_ptr()), key=_extent):
        if widest is not None and tensor.data_ptr() < _extent(widest)[1]:
            yield widest, tensor
        if widest is None or _extent(widest)[1] < _extent(tensor)[1]:
            widest = tensor


def _attribute(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
