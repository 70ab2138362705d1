"""What to train, never where: the typed recipe that every world reads.

Torch-free, so that a recipe is checked before anything heavy is imported. Precedence: the defaults below, then the
file, then `--set key.path=value`. Peers compare `Recipe.hash` when they join one another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from decentral import locate
from decentral.errors import RecipeError
from decentral.registry import nearest
from decentral.run import source
from decentral.run.attesting import Attesting
from decentral.run.autoencoder import with_digest
from decentral.run.check import check
from decentral.run.choice import Attack, Choice, Count, Section
from decentral.run.experiment import (
    Data,
    Deadlines,
    Device,
    E,
    Experiment,
    Seconds,
    Seed,
    Threads,
    validated,
)
from decentral.run.override import override

STAGES = "stages"
"""The key by which a recipe that serves a model is told from one that trains."""
PeerCount = Annotated[int, Field(ge=1, le=100_000)]


class Training(Section):
    """Local training, the same at every peer."""

    epochs: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Local epochs a round."""
    steps: Count | None = None
    """Optimiser steps a round instead, on through the shuffled epochs; 1: peers mix after every batch."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.05
    learning_rate_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """By which the learning rate is multiplied from one round to the next."""
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
    statistics: Literal["reestimate", "average"] = "reestimate"
    """BatchNorm's statistics after a merge: estimated anew on these images, or those of all whom it joins."""
    repair: Literal["auto", True, False] = False
    """Whether a merge gives its hidden units back the mean and deviation that they had; auto: without normalisation."""


class Averaging(Section):
    """How models are averaged by algorithms that do not align them first."""

    rule: Choice = Choice(name="mean")
    """How models become one: a name of `decentral.core.rules.RULES`; all but mean bear with some that lie."""
    batchnorm: Literal["average", "reestimate"] = "average"
    """BatchNorm's statistics: averaged as the rest, or estimated anew on the images of `matching`."""
    outer: Choice | None = None
    """A name of `decentral.core.outer.OUTERS`: an optimiser over rounds, whose step leads towards the average."""


class Exchange(Section):
    """How models travel."""

    compression: Choice = Choice(name="none")
    """A name of `decentral.core.encodings.ENCODINGS`; all but none change what the receivers read."""


class Sampling(Section):
    """Algorithms that draw a sample of the peers in each round (MoDeST; the paper's letters in brackets)."""

    size: Count | None = None
    """Participants of a round (s); null: half of the peers, at most 10."""
    aggregators: Count = 1
    """Of the participants, those that average the models of the round before (a)."""
    success: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the sample's models with which an aggregator does not wait for more (sf)."""
    floor: Count | None = None
    """Models below which it waits three times as long; null: half of those it wants."""
    window: Count | None = None
    """Rounds after which a peer that nobody saw is no candidate (dk); null: 10 peers / size, at least 20."""
    ping: Seconds = 2.0
    """Within which a candidate has to answer (dt)."""
    patience: Seconds = 30.0
    """For the models of a round, and for a sign that one's own has been used. Three rounds are a good value."""
    look: Seconds | None = None
    """After which a peer that hears nothing looks around; null: patience times peers / size, at least 3 times."""


class Epidemic(Section):
    """To whom a peer sends its model in algorithm `epidemic`."""

    fanout: Count = 1
    """Others that each peer draws in a round (s of the paper)."""
    regular: bool = False
    """Whether as many send to a peer as it sends to (EL-Oracle); else some hear from nobody (EL-Local)."""


class Federated(Section):
    """Who works in a round of algorithm `fedavg`."""

    clients: Count | None = None
    """So many, drawn anew in each round (the share C of all, in the paper); null: all who are there."""


class Every(Section):
    """How often, in rounds; the last round always counts."""

    every: Count = 1


class Evaluation(Every):
    """On the common test set."""

    samples: Count | None = None
    """Class-balanced number of test images, drawn from the seed; null: all."""


class Churn(Section):
    """Peers that come and go in the simulator; who goes is drawn from the seed."""

    crash_per_minute: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Departures, at equal intervals from `after` on."""
    after: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Virtual seconds until the first."""
    until: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the peers that are gone at once, at most."""
    gracefully: bool = False
    """Whether those who go say goodbye."""
    return_after: Seconds | None = None
    """Virtual seconds after which a peer that went comes back from its checkpoint; null: never."""
    absent: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the peers that are not there at the start."""
    join_per_minute: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """How many of them arrive, at equal intervals from `after` on."""
    path: str | None = None
    """CSV file `seconds,peer,event` (crash, leave, return, join) to go by instead of all of this."""


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
    trace: Choice | None = None
    """A name of `decentral.wire.traces.TRACES`: speed, bandwidth and place of each peer; null: all alike, as above."""
    churn: Churn | None = None
    """Who comes and goes; null: everybody stays."""


class Vae(Section):
    """An autoencoder of diffusers, in whose latent space denoisers learn: `vae: FOLDER`."""

    folder: str
    """Of an `AutoencoderKL`, its parameters in safetensors. Not part of the hash."""
    digest: str | None = None
    """Of its configuration and parameters, which is hashed; null: found out when the recipe is loaded."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"folder": value} if isinstance(value, str) else value


class Recipe(Experiment):
    """One experiment in training."""

    not_hashed: ClassVar[tuple[str, ...]] = (*Experiment.not_hashed, "simulation", "vae.folder", "attestation")

    algorithm: str = "dimat"
    """A name of `decentral.algorithms.catalogue.ALGORITHMS`."""
    peers: PeerCount = 5
    topology: Choice = Choice(name="ring")
    """Who exchanges models with whom: a name of `decentral.core.topology.TOPOLOGIES`."""
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    seed: Seed = 0
    device: Device = "cpu"
    """cpu, cuda, cuda:N or auto. Not part of the hash."""
    threads: Threads = 1
    """Torch threads of each peer, equal in every world: gradients differ between one thread and two."""
    model: Choice = Choice(name="mlp")
    """A name of `decentral.models.catalogue.MODELS` or of torchvision; options go to its constructor."""
    learner: Choice = Choice(name="classifier")
    """A name of `decentral.training.catalogue.LEARNERS`; null trains nothing, in studies of the protocol alone."""
    data: Data = Data()
    vae: Vae | None = None
    """Whose latents the peers learn from, in place of pixels; null: pixels."""
    training: Training = Training()
    averaging: Averaging = Averaging()
    exchange: Exchange = Exchange()
    attack: Attack | None = None
    """A name of `decentral.core.attacks.ATTACKS`, and who does it; null: everybody is honest."""
    matching: Matching = Matching()
    sampling: Sampling = Sampling()
    epidemic: Epidemic = Epidemic()
    fedavg: Federated = Federated()
    evaluation: Evaluation = Evaluation()
    checkpoint: Every = Every()
    deadlines: Deadlines = Deadlines()
    attestation: Attesting = Attesting(mode="none")
    """`required`: the authority lets in only who shows that it runs what is pinned. Not part of the hash."""
    simulation: Simulation = Simulation()

    @field_validator("learner", mode="before")
    @classmethod
    def _no_learner(cls, value: object) -> object:
        """YAML's null is the learner of that name."""
        if isinstance(value, Mapping):
            return {**value, "name": "null"} if value.get("name", "") is None else value
        return "null" if value is None else value

    @property
    def batchnorm(self) -> Literal["reestimate", "average"]:
        """What becomes of BatchNorm's statistics when models are merged."""
        return self.matching.statistics if self.algorithm == "dimat" else self.averaging.batchnorm

    @property
    def sample(self) -> int:
        """Participants of a round, with algorithms that draw them."""
        return self.sampling.size or min(10, math.ceil(self.peers / 2))

    @property
    def draws(self) -> bool:
        """Whether a few of the peers are drawn for each round, so that there is one model for all."""
        from decentral.algorithms.catalogue import DRAWING

        return self.algorithm in DRAWING or (self.algorithm == "fedavg" and self.fedavg.clients is not None)

    @cached_property
    def attackers(self) -> tuple[int, ...]:
        """The indices of the peers that are told to misbehave. Raises UserError where they cannot be."""
        from decentral.core.attacks import attackers

        aggregator = (0,) if self.algorithm == "fedavg" else ()
        return () if self.attack is None else attackers(self.attack.peers, self.peers, self.seed, aggregator)

    @property
    def router(self) -> int | None:
        """The index of the peer that trains the router of an ensemble; None: there is none."""
        from decentral.algorithms.catalogue import SERVED

        return self.peers - 1 if self.algorithm in SERVED else None

    @property
    def aside(self) -> tuple[int, ...]:
        """Peers that do not count for means: attackers, and a router or a server, who measure something else."""
        from decentral.algorithms.catalogue import SPLIT

        server = (1,) if self.algorithm in SPLIT else ()
        return (*self.attackers, *server, *(() if self.router is None else (self.router,)))


def load_recipe(path_or_name: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe that trains, from a file or a name of recipes/, with `key.path=value` overrides, fully checked.

    Raises RecipeError that names the key, the file and the line, and offers the nearest name.
    """
    document = read_recipe(path_or_name)
    if STAGES in document.values:
        problem = f"this recipe serves a model; start it with: decentral up {path_or_name} --dir DIR"
        raise document.error(problem, (STAGES,))
    return checked(document, overrides)


def checked(document: source.Document, overrides: Sequence[str]) -> Recipe:
    """A recipe that trains, of a file that has been read. Raises RecipeError."""
    recipe = resolved(document, overrides, Recipe)
    check(recipe, document)
    return with_digest(recipe, document)


def read_recipe(path_or_name: Path | str) -> source.Document:
    """What a recipe's file says. Raises RecipeError."""
    path = find_recipe(path_or_name)
    document = source.read_file(path)
    document.values.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64] or "recipe")
    return document


def resolved(document: source.Document, overrides: Sequence[str], kind: type[E]) -> E:
    """With overrides and defaults, by its types alone. Raises RecipeError."""
    for setting in overrides:
        override(document, setting, kind)
    return validated(document, kind)


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
