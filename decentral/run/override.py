"""`--set key.path=value`: one value of a recipe, replaced before the recipe is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args, get_origin

from pydantic import BaseModel

from decentral.errors import RecipeError
from decentral.registry import nearest
from decentral.run.source import Document, Place, read_value


def override(document: Document, setting: str, recipe: type[BaseModel]) -> None:
    """Applies one `key.path=value`. A way into a choice that is a plain name refines it: `model.hidden=[64]`."""
    origin = f"--set {setting}"
    dotted, equals, text = setting.partition("=")
    way = tuple(dotted.strip().split("."))
    if not equals or not all(way):
        raise RecipeError("must be key.path=value", file=origin)
    value = read_value(text, origin)
    schema: type[BaseModel] | None = recipe  # None: among options, whose keys are free
    values = document.values
    for depth, part in enumerate(way, start=1):
        key, last = way[:depth], depth == len(way)
        fields = schema.model_fields if schema is not None and not _free(schema) else {}
        if fields and part not in fields:
            raise RecipeError(f"unknown key; {nearest(part, fields)}", key=".".join(key), file=origin)
        if last:
            values[part] = value
            document.replace(way, Place(origin))
            return
        inner = values.get(part)
        schema = _section(fields[part].annotation) if fields else None
        if fields and schema is None and get_origin(fields[part].annotation) is not dict:
            raise RecipeError("has no keys of its own", key=".".join(key), file=origin)
        if schema is not None and _free(schema):
            document.places[key] = Place(origin)
            if not isinstance(inner, Mapping):
                inner = {"name": inner if part in values else getattr(fields[part].default, "name", None)}
        if inner is not None and not isinstance(inner, Mapping):
            raise document.error("keys of its own are needed", key)
        values[part] = dict(inner or {})
        values = values[part]


def _section(annotation: object) -> type[BaseModel] | None:
    if get_origin(annotation) is dict:
        return None
    kinds = [annotation, *get_args(annotation)]  # those of `Attack | None` are two
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _free(schema: type[BaseModel]) -> bool:
    """Whether it takes keys of any name beside its fields."""
    return getattr(schema, "free_keys", False)
