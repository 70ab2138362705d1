"""What to run, never where: the typed recipe that every world reads.

Torch-free, so that a recipe is checked before anything heavy is imported. Precedence: the defaults below, then the
file, then `--set key.path=value`. Peers compare `Recipe.hash` when they join one another.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from decentral import locate
from decentral.errors import RecipeError
from decentral.registry import nearest
from decentral.run import source
from decentral.run.check import check
from decentral.run.explain import explain

NOT_HASHED = ("name", "device", "data.root", "simulation")
"""What may differ between peers that train together: none of it changes what is computed."""

Seconds = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10**9)]
PeerCount = Annotated[int, Field(ge=1, le=1024)]


class Section(BaseModel):
    """A part of a recipe: immutable, strictly typed, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Choice(Section):
    """A name and its options: `ring`, or `{name: regular, degree: 4}`."""

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
        given = dict(value)
        if set(given) == {"name", "options"} and isinstance(given["options"], Mapping):
            return given
        name = given.pop("name", None)
        if not isinstance(name, str):
            raise ValueError("must have a name" if name is None else f"the name must be a word, not {name!r}")
        if not_finite := [key for key, option in given.items() if not _finite(option)]:
            raise ValueError(f"{not_finite[0]} must be finite")
        return {"name": name, "options": given}

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.options} if self.options else self.name


class Data(Section):
    """What the peers learn from, and how it is shared out among them."""

    name: str = "digits"
    """A name of `decentral.data.datasets.DATASETS`."""
    options: dict[str, JsonValue] = {}
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


class Training(Section):
    """Local training, the same at every peer."""

    epochs: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Local epochs a round."""
    steps: Count | None = None
    """Optimiser steps a round instead, on through the shuffled epochs; 1: peers mix after every batch."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.0
    fresh_optimizer: bool = True
    """Whether each round forgets the optimiser's state."""
    initialisation: Literal["common", "separate"] = "common"
    """One seed for every peer's first parameters, or another for each."""
    start_from: str | None = None
    """Folder of another run's checkpoints, of which each peer takes its own newest model; null: a new model."""
    pretrain_epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Local epochs before round 1, journalled as round 0."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the arithmetic of a training step; parameters, and what is sent and merged, are float32."""
    channels_last: bool = False
    """Whether images and convolutions lie in memory with the channels last, which accelerators prefer."""


class Matching(Section):
    """How DIMAT aligns the units of two models before it averages them."""

    method: Literal["activation", "weight", "both"] = "activation"
    samples: Count = 512
    """Images used for matching and to re-estimate BatchNorm."""
    data: Literal["own", "proxy"] = "own"
    """own: of the peer's share; proxy: class-balanced, the same for every peer, and in nobody's share."""


class Averaging(Section):
    """How models are averaged by algorithms that do not align them first."""

    batchnorm: Literal["average", "reestimate"] = "average"
    """BatchNorm's statistics: averaged as the rest, or estimated anew on the images of `matching`."""


class Every(Section):
    """How often, in rounds; the last round always counts."""

    every: Count = 1


class Evaluation(Every):
    """On the common test set."""

    samples: Count | None = None
    """Class-balanced number of test images, drawn from the seed; null: all."""


class Deadlines(Section):
    """Seconds that a peer waits at most."""

    round: Seconds = 120.0
    """For the models of a round."""
    probe: Seconds = 1.0
    """Between probes of a silent neighbour."""
    call: Seconds = 30.0
    """For the answer to one call."""


class Simulation(Section):
    """The simulated network and peers; read in the simulator only, not part of the hash."""

    latency: Annotated[float, Field(ge=0, le=3600)] = 0.01
    """Seconds, one way."""
    bandwidth: Annotated[float, Field(gt=0, le=1e15)] = 12.5e6
    """Bytes a second that a peer can send."""
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of messages that are lost on the way."""
    samples_per_second: Annotated[float, Field(gt=0, le=1e12)] = 2000.0
    """Training samples that a peer gets through."""


class Recipe(Section):
    """One experiment, resolved: every key has its value."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "recipe"
    """What its runs are called; the file's name if not given. Not part of the hash."""
    algorithm: str = "dimat"
    """A name of `decentral.algorithms.catalogue.ALGORITHMS`."""
    peers: PeerCount = 5
    topology: Choice = Choice(name="ring")
    """Who exchanges models with whom: a name of `decentral.core.topology.TOPOLOGIES`."""
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "cpu"
    """cpu, cuda, cuda:N or auto. Not part of the hash."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Torch threads of each peer, equal in every world: gradients differ between one thread and two."""
    model: Choice = Choice(name="mlp")
    """A name of `decentral.models.catalogue.MODELS` or of torchvision; options go to its constructor."""
    learner: str = "classifier"
    data: Data = Data()
    training: Training = Training()
    averaging: Averaging = Averaging()
    matching: Matching = Matching()
    evaluation: Evaluation = Evaluation()
    checkpoint: Every = Every()
    deadlines: Deadlines = Deadlines()
    simulation: Simulation = Simulation()

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|auto|cuda(:[0-9]{1,3})?", value):
            raise ValueError(f"must be cpu, cuda, cuda:N or auto, not {value!r}")
        return value

    @property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of what decides the result: all but `NOT_HASHED`, as canonical JSON."""
        values = self.model_dump()
        for key in NOT_HASHED:
            *way, last = key.split(".")
            section = values
            for part in way:
                section = section[part]
            del section[last]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_yaml(self) -> str:
        """Resolved, in the order of the schema; a comment carries the hash."""
        return f"# hash: {self.hash}\n{source.dump(self.model_dump())}"

    @staticmethod
    def from_run(directory: Path) -> Recipe:
        """The recipe of a run directory. Its names are not looked up: a report needs no plugin."""
        return _validated(source.read_file(directory / "recipe.yaml"))

    def differences(self, other: Recipe) -> list[str]:
        """Dotted keys whose values differ, of those that are hashed."""
        own, others = dict(_flat(self.model_dump())), dict(_flat(other.model_dump()))
        keys = dict.fromkeys([*own, *others])
        different = [key for key in keys if key not in own or key not in others or own[key] != others[key]]
        return [key for key in different if not any(key == name or key.startswith(f"{name}.") for name in NOT_HASHED)]


def load_recipe(path_or_name: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a file, or from a name of recipes/, with `key.path=value` overrides, fully checked.

    Raises RecipeError that names the key, the file and the line, and offers the nearest name.
    """
    path = find_recipe(path_or_name)
    document = source.read_file(path)
    document.values.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64] or "recipe")
    for override in overrides:
        _override(document, override)
    recipe = _validated(document)
    check(recipe, document)
    return recipe


def find_recipe(path_or_name: Path | str) -> Path:
    """The file meant: a path if it looks like one, else a name from recipes/."""
    text = str(path_or_name)
    if isinstance(path_or_name, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(path_or_name).expanduser()
        if not path.is_file():
            raise RecipeError("no such file" if not path.is_dir() else "is a folder, not a recipe", file=text)
        return path
    known = {recipe.stem: recipe for recipe in recipe_files()}
    if text not in known:
        raise RecipeError(f"no recipe is called {text!r}; {nearest(text, known)}")
    return known[text]


def recipe_files() -> list[Path]:
    """The recipes that decentral brings, by name."""
    return sorted(locate.folder("recipes").glob("*.yaml"), key=lambda file: file.stem)


def describe(file: Path) -> str:
    """The first line of a recipe's header comment."""
    first = file.read_text().partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def _validated(document: source.Document) -> Recipe:
    try:
        return Recipe.model_validate(document.values)
    except ValidationError as invalid:
        key, problem = explain(invalid.errors()[0], Recipe)
        raise document.error(problem, key) from None


def _override(document: source.Document, override: str) -> None:
    """Applies one `key.path=value`. A way into a choice that is a plain name refines it: `model.hidden=[64]`."""
    origin = f"--set {override}"
    dotted, equals, text = override.partition("=")
    way = tuple(dotted.strip().split("."))
    if not equals or not all(way):
        raise RecipeError("must be key.path=value", file=origin)
    value = source.read_value(text, origin)
    schema: type[BaseModel] | None = Recipe  # None: among options, whose keys are free
    values = document.values
    for depth, part in enumerate(way, start=1):
        key, last = way[:depth], depth == len(way)
        fields = schema.model_fields if schema not in (None, Choice) else {}
        if fields and part not in fields:
            raise RecipeError(f"unknown key; {nearest(part, fields)}", key=".".join(key), file=origin)
        if last:
            values[part] = value
            document.replace(way, source.Place(origin))
            return
        inner = values.get(part)
        schema = _section(fields[part].annotation) if fields else None
        if fields and schema is None and get_origin(fields[part].annotation) is not dict:
            raise RecipeError("has no keys of its own", key=".".join(key), file=origin)
        if schema is Choice:
            document.places[key] = source.Place(origin)
            if not isinstance(inner, Mapping):
                inner = {"name": fields[part].default.name if inner is None else inner}
        if inner is not None and not isinstance(inner, Mapping):
            raise document.error("keys of its own are needed", key)
        values[part] = dict(inner or {})
        values = values[part]


def _section(annotation: object) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list) else True


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
