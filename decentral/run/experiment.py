"""What every recipe has, whether it trains a model or serves one: its name, hash and YAML, its data and deadlines.

Torch-free, so that a recipe is checked before anything heavy is imported. Precedence: the defaults, then the file, then
`--set key.path=value`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from decentral.run import source
from decentral.run.choice import Choice, Count, Section
from decentral.run.explain import explain

FILE = "recipe.yaml"
"""A run's resolved recipe."""


def _known_device(value: str) -> str:
    if not re.fullmatch(r"cpu|auto|cuda(:[0-9]{1,3})?", value):
        raise ValueError(f"must be cpu, cuda, cuda:N or auto, not {value!r}")
    return value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Device = Annotated[str, AfterValidator(_known_device)]
Threads = Annotated[int, Field(ge=1, le=256)]
Seconds = Annotated[float, Field(gt=0, le=1e6)]


class Data(Section):
    """What the peers learn from, and how it is shared out among them."""

    name: str = "digits"
    """A name of `decentral.data.datasets.DATASETS`."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of the dataset's loader."""
    root: str | None = None
    """Folder of the archives; null: $DECENTRAL_DATA, or ~/.cache/decentral/data. Not part of the hash."""
    partition: Choice = Choice(name="iid")
    """Who holds which training images."""
    subset: Count | None = None
    """Class-balanced number of training images over all peers; null: all."""
    verify: bool = True
    """Whether the archives' checksums must be the published ones."""
    download: bool = False
    """Whether a missing archive may be fetched."""
    augment: bool = False
    """Random crop and flip, for images of 32x32 and larger."""
    channels: Literal[3] | None = None
    """3: grayscale images become three equal channels, as torchvision's networks need them; null: as they are."""


class Deadlines(Section):
    """Seconds that a peer waits at most."""

    round: Seconds = 120.0
    """For the models of a round."""
    probe: Seconds = 1.0
    """Between probes of a silent neighbour."""
    call: Seconds = 30.0
    """For the answer to one call."""


class Experiment(Section):
    """A resolved recipe: every key has its value."""

    not_hashed: ClassVar[tuple[str, ...]] = ("name", "device", "data.root")
    """What may differ between peers that work together: none of it changes what is computed."""
    name: Name = "recipe"
    """What its runs are called; the file's name if not given. Not part of the hash."""

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of what decides the result: all but `not_hashed`, as canonical JSON."""
        values = self.model_dump()
        for key in self.not_hashed:
            *way, last = key.split(".")
            section = values
            for part in way:
                section = section[part] or {}
            section.pop(last, None)
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_yaml(self) -> str:
        """Resolved, in the order of the schema; a comment carries the hash."""
        return f"# hash: {self.hash}\n{source.dump(self.model_dump())}"

    @classmethod
    def from_run(cls, directory: Path) -> Self:
        """The recipe of a run directory. Its names are not looked up: a report needs no plugin."""
        return validated(source.read_file(directory / FILE), cls)

    def differences(self, other: Experiment) -> list[str]:
        """Dotted keys whose values differ, of those that are hashed."""
        own, others = dict(_flat(self.model_dump())), dict(_flat(other.model_dump()))
        keys = dict.fromkeys([*own, *others])
        different = [key for key in keys if key not in own or key not in others or own[key] != others[key]]
        hidden = self.not_hashed
        return [key for key in different if not any(key == name or key.startswith(f"{name}.") for name in hidden)]


E = TypeVar("E", bound=Experiment)


def validated(document: source.Document, kind: type[E]) -> E:
    """What types can say of a document. Raises RecipeError that names the key, the file and the line."""
    try:
        return kind.model_validate(document.values)
    except ValidationError as invalid:
        key, problem = explain(invalid.errors()[0], kind)
        raise document.error(problem, key) from None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
