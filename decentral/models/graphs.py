"""The operators of a network, in the order in which they run: torch.fx's trace.

The trace of the network as it stands: in evaluation or in training mode, with nothing about it changed, and with what
torch.fx would leave out without a word refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy

from decentral.errors import Untraceable
from decentral.models.attention import WRITTEN_OUT


def trace(model: nn.Module, inputs: int = 1, *, training: bool = False) -> fx.GraphModule:
    """The graph of a network that is called with so many positional arguments; shares its tensors.

    Equal architectures give equal node names. Raises Untraceable.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise Untraceable(f"{name} is not built yet: run one batch through the model before")
    held = set(vars(model))
    with in_mode(model, training):
        try:
            left_out = _left_out(model, inputs)
            graph = _Tracer().trace(model, concrete_args=left_out or None)
        except Untraceable:
            raise
        except Exception as error:
            hint = "; if it wraps a network, give that one" if len(list(model.children())) == 1 else ""
            raise Untraceable(f"{type(model).__name__}: cannot be traced: {first_line(error)}{hint}") from error
    for placeholder in [node for node in graph.nodes if node.op == "placeholder"][inputs:]:
        for check in list(placeholder.users):
            _erase(graph, check)
        graph.erase_node(placeholder)
    graph_module = fx.GraphModule(model, graph)
    # Tensors that the forward pass makes as it is traced are kept with the graph, and not with the model.
    for name in [name for name in vars(model) if name not in held and name.startswith("_tensor_constant")]:
        delattr(model, name)
    return graph_module


def check_same(graph: fx.Graph, again: fx.Graph) -> None:
    """Raises Untraceable at the first operator of two traces that is another, or has other arguments."""
    for node, other in zip_longest(graph.nodes, again.nodes):
        if node is None or other is None or _written(node) != _written(other):
            odd = node if node is not None and node.op != "output" else other
            raise Untraceable(f"{place_of(odd)}: is not the same in every call: the network changes its structure")


def alike(graph: fx.Graph, other: fx.Graph) -> bool:
    """Whether two traces are the same operators with the same arguments."""
    return [*map(_written, graph.nodes)] == [*map(_written, other.nodes)]


def check_hooks(model: nn.Module) -> None:
    """Raises Untraceable for what runs around the network and around every module, of which no trace tells."""
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        raise Untraceable("there are hooks on all modules (register_module_forward_hook), which may compute anything")
    if surrounded(model):
        raise Untraceable(f"{type(model).__name__}: has hooks or a forward of its own, which may compute anything")


def surrounded(module: nn.Module) -> bool:
    """Whether something else than its class's forward runs when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode within the block; afterwards each module is in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Evaluation mode within the block; afterwards each module is in the mode in which it was."""
    return in_mode(model, False)


@contextmanager
def keeping_buffers(model: nn.Module) -> Iterator[None]:
    """Whatever the block does to the buffers is undone."""
    held = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in held:
                module._buffers[name] = buffer.copy_(value)


def saved_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that are saved with a network, tied ones under each of their names.

    What a module adds by `get_extra_state` is not among them.
    """
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    tensors |= module.named_buffers(remove_duplicate=False)
    return {name: tensors[name] for name in module.state_dict(keep_vars=True) if name in tensors}


def saved_state(module: nn.Module) -> dict[str, Tensor]:
    """The same tensors without their gradients: what a network's copies exchange."""
    return {name: tensor if is_lazy(tensor) else tensor.detach() for name, tensor in saved_tensors(module).items()}


def module_of(node: fx.Node) -> str:
    """The path of the module in which a node computes; "" for the network itself."""
    return str(node.target) if node.op == "call_module" else next(reversed(node.meta.get("nn_module_stack") or {}), "")


def place_of(node: fx.Node) -> str:
    """For a person: module and operator."""
    operator = getattr(node.target, "__name__", node.target)
    return f"{module_of(node) or 'the network'}: {operator}"


def first_line(error: Exception) -> str:
    """Of its message, or its name if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _Tracer(fx.Tracer):
    """Names the module in which tracing fails, and sees into modules whose forward is written out."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) not in WRITTEN_OUT and super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if type(m) in WRITTEN_OUT:
            if surrounded(m):
                raise Untraceable(
                    f"{self.path_of_module(m)}: has hooks or a forward of its own, which may compute anything"
                )
            forward = partial(WRITTEN_OUT[type(m)], m)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Untraceable:
            raise
        except Exception as error:
            raise Untraceable(
                f"{self.path_of_module(m)} ({type(m).__name__}): cannot be traced: {first_line(error)}"
            ) from error


def _left_out(model: nn.Module, inputs: int) -> dict[str, Any]:
    """The defaults of arguments beyond the first. Raises Untraceable where one has none, or there are fewer."""
    arguments = list(inspect.signature(model.forward).parameters.values())
    stars = [a for a in arguments if a.kind in {a.VAR_POSITIONAL, a.VAR_KEYWORD}]
    if not stars and inputs > len(arguments):
        raise Untraceable(f"{type(model).__name__}: takes {len(arguments)} inputs, and not {inputs}")
    for argument in arguments[inputs:]:
        if argument.default is argument.empty and argument not in stars:
            raise Untraceable(f"{type(model).__name__}: needs {argument.name} too, for which there is no input")
    return {a.name: a.default for a in arguments[inputs:] if a.default is not a.empty}


def _written(node: fx.Node) -> tuple[str, ...]:
    """Nodes among the arguments are written as their names, which are equal in equal graphs."""
    return node.op, str(node.target), repr(node.args), repr(node.kwargs)


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)
