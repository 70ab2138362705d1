"""Names of registries and their options, as a recipe gives them: that both exist, with values of the right kind.

Nothing heavy is imported: the constructors' options are read from their source, not from the constructors.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from decentral.errors import UserError
from decentral.registry import Registry, nearest
from decentral.run.explain import explain

if TYPE_CHECKING:
    from decentral.run.choice import Choice
    from decentral.run.experiment import Data
    from decentral.run.source import Document, Key

_TYPES: Mapping[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "str | None": str | None,
    "Sequence[int]": list[int],
    "Sequence[str]": list[str],
    "tuple[int, ...]": list[int],
    "int | None": int | None,
    "float | int": float,
    "float | int | None": float | None,
}
"""Annotations of options that are checked here; others are left to their constructor."""


def check_name(registry: Registry, name: str, document: Document, key: Key) -> None:
    try:
        registry.check(name)
    except UserError as error:
        raise document.error(str(error), key) from None


def check_torchvision(model: str, document: Document) -> bool:
    from decentral.models.catalogue import is_torchvision

    try:
        return is_torchvision(model)
    except UserError as error:
        raise document.error(str(error), ("model", "name")) from None


def check_options(
    registry: Registry,
    choice: Choice | Data,
    given: int,
    document: Document,
    key: Key,
    *,
    ours: frozenset[str] = frozenset(),
) -> None:
    """`given`: how many arguments the constructors of this registry get from us before the options; `ours`: by name."""
    known = options_of(registry.target(choice.name), given)
    if known is None:
        return
    known = {name: option for name, option in known.items() if name not in ours}
    for name, value in choice.options.items():
        if name not in known:
            there = nearest(name, known) if known else "it has no options"
            raise document.error(f"unknown option of {choice.name!r}; {there}", (*key, name))
        if (kind := _TYPES.get(known[name].annotation)) is not None:
            try:
                TypeAdapter(kind).validate_python(value, strict=True)
            except ValidationError as invalid:
                raise document.error(explain(invalid.errors()[0])[1], (*key, name)) from None
    if missing := [name for name, option in known.items() if option.required and name not in choice.options]:
        raise document.error(f"{choice.name!r} needs a value for {missing[0]!r}", key)


@dataclass(frozen=True, slots=True)
class Option:
    """A parameter of a constructor; its annotation as it is written in the source."""

    annotation: str
    required: bool


def options_of(target: str | Callable[..., object], given: int) -> dict[str, Option] | None:
    """What a constructor takes after the `given` arguments that are ours; None: anything, or its text does not tell.

    `module:attribute` is read as text, without importing it, since that could import torch.
    """
    if callable(target):
        known = [*inspect.signature(target).parameters.values()]
        ours = [each for each in known if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)][:given]
        parameters = [each for each in known if each not in ours and each.kind is not each.VAR_POSITIONAL]
        rest = [parameter for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD]
        if any(not _told(inspect.formatannotation(parameter.annotation).strip("'")) for parameter in rest):
            return None
        return {
            parameter.name: Option(
                inspect.formatannotation(parameter.annotation).strip("'"), parameter.default is parameter.empty
            )
            for parameter in parameters
            if parameter not in rest
        }
    module, _, attribute = target.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    arguments = _arguments(ast.parse(Path(spec.origin).read_bytes()), attribute)
    if arguments is None or (arguments.kwarg is not None and not _told(_written(arguments.kwarg))):
        return None
    positional = [argument for argument in [*arguments.posonlyargs, *arguments.args] if argument.arg != "self"]
    mandatory = len(positional) - len(arguments.defaults)
    parts = [(argument, place < mandatory) for place, argument in enumerate(positional)][given:]
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parts += [(argument, default is None) for argument, default in named]
    return {argument.arg: Option(_written(argument), required) for argument, required in parts}


def _written(argument: ast.arg) -> str:
    """Its annotation, as in the source; empty where there is none."""
    return "" if argument.annotation is None else ast.unparse(argument.annotation)


def _told(annotation: str) -> bool:
    """Whether `**rest: Unpack[...]` is what we tell the constructor, and nothing of the person's."""
    return annotation.startswith("Unpack[")


def _arguments(module: ast.Module, attribute: str) -> ast.arguments | None:
    """The parameters of a module's function, or of a class's `__init__`."""
    for statement in module.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == attribute:
            return statement.args
        if isinstance(statement, ast.ClassDef) and statement.name == attribute:
            methods = (method for method in statement.body if isinstance(method, ast.FunctionDef))
            return next((method.args for method in methods if method.name == "__init__"), None)
    return None
