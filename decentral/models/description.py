"""A traced graph as a text that is equal for equal graphs: what is computed, apart from the numbers of its tensors.

It says every operator with its arguments and every layer with its settings, in the order in which they run, under names
that do not depend on the machine. Together with the tensors it identifies a part of a model (`training.digest`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import resolve_name

from decentral.errors import Untraceable
from decentral.models.graphs import place_of

HEADER = "decentral graph v1"


def describe(network: fx.GraphModule, outputs: Sequence[str] = ()) -> str:
    """A line for each operator. `outputs`: names of what the graph gives. Raises Untraceable for what has no name.

    Tensors and layers go by their names in the network; settings are the public attributes of a layer that are plain
    values. They are those of the installed torch: another version may describe a layer in other words.
    """
    names: dict[fx.Node, str] = {}
    lines = [HEADER]
    for node in network.graph.nodes:
        try:
            arguments = _call(node, names)
            match node.op:
                case "placeholder":
                    names[node] = f"%{node.name}"
                    lines.append(f"input {names[node]}")
                    continue
                case "output":
                    lines.append(f"output {_written(node.args[0], names)} as {', '.join(outputs)}")
                    continue
                case "get_attr":
                    told = f"tensor {node.target}"
                case "call_module":
                    told = f"{node.target}{arguments} = {_layer(network.get_submodule(str(node.target)))}"
                case "call_method":
                    told = f".{node.target}{arguments}"
                case _:
                    told = f"{_qualified(node.target)}{arguments}"
        except TypeError as error:
            raise Untraceable(f"{place_of(node)}: {error}") from error
        names[node] = f"%{len(names)}"
        lines.append(f"{names[node]} = {told}")
    return "\n".join(lines) + "\n"


def _call(node: fx.Node, names: Mapping[fx.Node, str]) -> str:
    parts = [_written(argument, names) for argument in node.args]
    parts += [f"{key}={_written(node.kwargs[key], names)}" for key in sorted(node.kwargs)]
    return f"({', '.join(parts)})"


def _layer(module: nn.Module) -> str:
    """Its class, which tensors it has, its settings, and the same of the modules within it."""
    held = [name for name, tensor in [*module._parameters.items(), *module._buffers.items()] if tensor is not None]
    settings = {name: value for name, value in vars(module).items() if name[0] != "_" and name != "training"}
    own = {name: _written(value, {}) for name, value in settings.items()}
    own |= {name: _layer(part) for name, part in module.named_children()}
    return f"{_qualified(type(module))}[{', '.join(held)}]({', '.join(f'{name}={own[name]}' for name in sorted(own))})"


def _written(value: Any, names: Mapping[fx.Node, str]) -> str:
    """A plain value, or a structure of them. Raises TypeError for any other."""
    match value:
        case fx.Node():
            written = names[value]
        case None | bool() | int() | float() | str() | torch.dtype() | torch.device() | torch.memory_format():
            written = repr(value)
        case slice():
            written = f"slice{_written((value.start, value.stop, value.step), names)}"
        case Mapping():
            parts = [f"{key!r}: {_written(part, names)}" for key, part in sorted(value.items())]
            written = f"{{{', '.join(parts)}}}"
        case list():
            written = f"[{', '.join(_written(part, names) for part in value)}]"
        case tuple():
            written = f"({' '.join(f'{_written(part, names)},' for part in value)})"
        case _ if value is Ellipsis:
            written = "..."
        case _ if callable(value):
            written = _qualified(value)
        case _:
            raise TypeError(f"a {type(value).__name__} cannot be described")
    return written


def _qualified(target: Any) -> str:
    """Where a function or class comes from. Raises TypeError for one that has no name of its own."""
    name = resolve_name(target) if not isinstance(target, type) else None
    if name is None:
        name = f"{getattr(target, '__module__', None)}.{getattr(target, '__qualname__', None)}"
    if "None" in name.split(".") or "<" in name:
        raise TypeError(f"{target!r} has no name that another machine would know")
    return name
