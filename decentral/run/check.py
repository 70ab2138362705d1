"""What a recipe's types cannot say: that its names exist, that their options do, that its topology can be built.

Nothing heavy is imported: the constructors' options are read from their source, not from the constructors.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from decentral.errors import UserError
from decentral.registry import Registry, nearest
from decentral.run.explain import explain

if TYPE_CHECKING:
    from decentral.run.recipe import Choice, Data, Recipe
    from decentral.run.source import Document, Key

_TYPES: Mapping[str, type] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "Sequence[int]": list[int],
    "tuple[int, ...]": list[int],
}
"""Annotations of options that are checked here; others are left to their constructor."""


def check(recipe: Recipe, document: Document) -> None:
    """Raises RecipeError, placed by `document`, at the first name, option or topology that cannot be."""
    from decentral.algorithms.catalogue import ALGORITHMS
    from decentral.core.topology import TOPOLOGIES
    from decentral.data.datasets import DATASETS
    from decentral.data.partition import PARTITIONS
    from decentral.models.catalogue import MODELS
    from decentral.training.catalogue import LEARNERS

    _named(ALGORITHMS, recipe.algorithm, document, ("algorithm",))
    _named(LEARNERS, recipe.learner, document, ("learner",))
    _named(DATASETS, recipe.data.name, document, ("data", "name"))
    _options(DATASETS, recipe.data, 3, document, ("data", "options"))
    _named(PARTITIONS, recipe.data.partition.name, document, ("data", "partition", "name"))
    _options(PARTITIONS, recipe.data.partition, 3, document, ("data", "partition"))
    if not _of_torchvision(recipe.model.name, document):
        _options(MODELS, recipe.model, 2, document, ("model",))
    _named(TOPOLOGIES, recipe.topology.name, document, ("topology", "name"))
    _options(TOPOLOGIES, recipe.topology, 2, document, ("topology",))
    _buildable(recipe, document)


def _named(registry: Registry, name: str, document: Document, key: Key) -> None:
    try:
        registry.check(name)
    except UserError as error:
        raise document.error(str(error), key) from None


def _of_torchvision(model: str, document: Document) -> bool:
    from decentral.models.catalogue import is_torchvision

    try:
        return is_torchvision(model)
    except UserError as error:
        raise document.error(str(error), ("model", "name")) from None


def _options(registry: Registry, choice: Choice | Data, given: int, document: Document, key: Key) -> None:
    """`given`: how many arguments the constructors of this registry get from us, before the options."""
    known = options_of(registry.target(choice.name), given)
    if known is None:
        return
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
        parameters = [*inspect.signature(target).parameters.values()][given:]
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return None
        return {
            parameter.name: Option(
                inspect.formatannotation(parameter.annotation).strip("'"), parameter.default is parameter.empty
            )
            for parameter in parameters
        }
    module, _, attribute = target.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    arguments = _arguments(ast.parse(Path(spec.origin).read_bytes()), attribute)
    if arguments is None or arguments.kwarg is not None:
        return None
    positional = [argument for argument in [*arguments.posonlyargs, *arguments.args] if argument.arg != "self"]
    mandatory = len(positional) - len(arguments.defaults)
    parts = [(argument, place < mandatory) for place, argument in enumerate(positional)][given:]
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parts += [(argument, default is None) for argument, default in named]
    return {
        argument.arg: Option(ast.unparse(argument.annotation) if argument.annotation is not None else "", required)
        for argument, required in parts
    }


def _arguments(module: ast.Module, attribute: str) -> ast.arguments | None:
    """The parameters of a module's function, or of a class's `__init__`."""
    for statement in module.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == attribute:
            return statement.args
        if isinstance(statement, ast.ClassDef) and statement.name == attribute:
            methods = (method for method in statement.body if isinstance(method, ast.FunctionDef))
            return next((method.args for method in methods if method.name == "__init__"), None)
    return None


def _buildable(recipe: Recipe, document: Document) -> None:
    from decentral.core import topology

    try:
        topology.build(recipe.topology.name, recipe.peers, recipe.seed, **recipe.topology.options)
    except UserError as error:
        raise document.error(str(error), ("topology",)) from None
