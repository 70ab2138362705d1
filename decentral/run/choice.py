"""What recipes are built of: sections with fixed keys, and names with options of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_serializer, model_validator

Count = Annotated[int, Field(ge=1, le=10**9)]


class Section(BaseModel):
    """A part of a recipe: immutable, strictly typed, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Choice(Section):
    """A name and its options: `ring`, or `{name: regular, degree: 4}`."""

    free_keys: ClassVar[bool] = True
    name: str
    options: dict[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        """Takes a plain name, or a mapping whose keys beside `name` are the options."""
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a name, or a mapping with a name, not {value!r}")
        if (name := value.get("name")) is None:
            raise ValueError("must have a name")
        if not isinstance(name, str):
            raise ValueError(f"the name must be a word, not {name!r}")
        return gathered(cls, value)

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        return spread(self) if len(type(self).model_fields) > 2 or self.options else self.name


def gathered(kind: type[Section], value: Mapping[str, Any]) -> dict[str, Any]:
    """Of a section that has options: what is no field of it becomes one of them. Raises ValueError."""
    if "options" in value and isinstance(value["options"], Mapping) and value.keys() <= kind.model_fields.keys():
        return dict(value)
    fixed = {key: option for key, option in value.items() if key in kind.model_fields and key != "options"}
    options = {key: option for key, option in value.items() if key not in fixed}
    if not_finite := [key for key, option in options.items() if not _finite(option)]:
        raise ValueError(f"{not_finite[0]} must be finite")
    return {**fixed, "options": options}


def spread(section: Section) -> dict[str, Any]:
    """The way back: its fields, and its options beside them."""
    fixed = {key: getattr(section, key) for key in type(section).model_fields if key != "options"}
    options: dict[str, Any] = getattr(section, "options")  # noqa: B009
    return {**fixed, **options}


class Attack(Choice):
    """Peers that are told to misbehave, to measure what a defence is worth; other keys are the attack's options."""

    peers: float | tuple[int, ...]
    """Their indices, or the share of all peers that is drawn from the seed."""
    from_round: Count = 1

    @field_validator("peers", mode="plain")
    @classmethod
    def _share_or_indices(cls, value: object) -> float | tuple[int, ...]:
        if isinstance(value, float):
            return value
        if isinstance(value, list | tuple) and all(type(index) is int for index in value):
            return tuple(value)
        raise ValueError(f"must be a share of the peers, such as 0.2, or a list of their indices, not {value!r}")


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list) else True
