"""A model that peers serve: where it comes from, where it is cut, by how many each part of it is computed.

Torch-free, like every recipe: what only the network itself can tell (whether it can be cut there) is told when it is
cut, by `decentral.launch.stages`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Any, ClassVar

from pydantic import Field, JsonValue, PlainValidator, model_serializer, model_validator

from decentral.core.budget import Budget
from decentral.errors import RecipeError
from decentral.run.attesting import Attesting
from decentral.run.choice import Choice, Count, Section, gathered, spread
from decentral.run.experiment import Data, Deadlines, Device, Experiment, Seed, Threads
from decentral.run.proving import Proving
from decentral.run.recipe import STAGES, Recipe, checked, read_recipe, resolved
from decentral.run.source import Document
from decentral.trust.evidence import Kind
from decentral.trust.policy import Policy

MOST_REPLICAS = len(ascii_lowercase)


def _shape(value: object) -> tuple[int, ...]:
    if isinstance(value, list | tuple) and value and all(type(size) is int and 0 < size <= 10**6 for size in value):
        return tuple(value)
    raise ValueError(f"must be the shape of one input, such as [3, 32, 32], not {value!r}")


def _cuts(value: object) -> int | tuple[str, ...]:
    if type(value) is int and 1 <= value <= 1000:
        return value
    if isinstance(value, list | tuple) and all(isinstance(module, str) for module in value):
        return tuple(value)
    raise ValueError(f"must be how many there are, or a list of the modules after which to cut, not {value!r}")


class ServedModel(Section):
    """One source: `run`; or `file` and `name`; or `recipe`, for where neither is given.

    Keys beside these are options of the network that a file is for.
    """

    free_keys: ClassVar[bool] = True
    recipe: str | None = None
    """A recipe that trains: a name or a file. It is run first, and the model is the best that comes of it."""
    run: str | None = None
    """The folder of a finished training run, whose recipe tells the network and the data."""
    peer: Annotated[int, Field(ge=0)] | None = None
    """Whose model of that run; null: of the peer with the best accuracy."""
    file: str | None = None
    """Parameters: .safetensors, or a state dict that torch has saved (.pth, .pt)."""
    name: str | None = None
    """The network that they are for: a name of `decentral.models.catalogue.MODELS` or of torchvision."""
    input: Annotated[tuple[int, ...], PlainValidator(_shape)] | None = None
    """Of that network, the shape of one input; null: as the data's images."""
    classes: Count | None = None
    """Of that network; null: as many as the data has."""
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _with_options(cls, value: object) -> object:
        return gathered(cls, value) if isinstance(value, Mapping) else value

    @model_serializer
    def _spread(self) -> dict[str, Any]:
        return spread(self)


@dataclass(frozen=True, slots=True)
class Replica:
    """One node of a serving cluster: its name, and the place of the stage that it computes."""

    node: str
    stage: int


class ServingRecipe(Experiment):
    """A model in stages, each computed by several peers."""

    not_hashed: ClassVar[tuple[str, ...]] = (*Experiment.not_hashed, "proofs", "attestation")
    """Circuits change nothing of what is answered without them, nor does evidence; who asks for either pins it."""
    model: ServedModel = ServedModel()
    """Where the network and its parameters come from."""
    stages: Annotated[int | tuple[str, ...], PlainValidator(_cuts)]
    """How many there are, of equal cost; or the modules after which the network is cut."""
    single: bool = True
    """Whether only one tensor may cross a cut; else there may be cuts inside residual connections."""
    local: Annotated[int, Field(ge=0)] = 0
    """So many of the first stages are computed by the client itself: no peer sees its inputs."""
    replicas: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 3
    """Nodes of each other stage."""
    tolerance: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """How far apart honest answers of a stage are at most, until it has been measured (`decentral calibrate`)."""
    policy: dict[str, JsonValue] = Field(default_factory=dict)
    """What an answer needs unless its client says otherwise: keys of `decentral.trust.policy.Policy`."""
    noise: dict[str, JsonValue] | None = None
    """What a client adds to the tensors that leave it, if it computes the first stages: keys of
    `decentral.core.budget.Budget`; null: nothing."""
    liars: dict[str, Choice] = Field(default_factory=dict)
    """Nodes that are told to misbehave, by name, to measure what a client's checks are worth: a name of
    `decentral.serving.adversaries.catalogue.BEHAVIOURS` each."""
    proofs: Proving | None = None
    """Circuits with which peers prove their answers to who asks for it; null: they have none. Not part of the hash."""
    attestation: Attesting = Attesting(mode="none")
    """Whether nodes show evidence of the machines that they run on. Not part of the hash."""
    data: Data | None = None
    """What the inputs are taken from; null: the data of the run."""
    seed: Seed = 0
    device: Device = "cpu"
    """cpu, cuda, cuda:N or auto. Not part of the hash."""
    threads: Threads = 1
    """Torch threads of each node."""
    deadlines: Deadlines = Deadlines()

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all stages, in order."""
        count = self.stages if isinstance(self.stages, int) else len(self.stages) + 1
        return tuple(f"stage-{place}" for place in range(count))

    @property
    def nodes(self) -> tuple[Replica, ...]:
        """Who computes the stages that are not the client's: stage-1-a, stage-1-b, ..."""
        letters = ascii_lowercase[: self.replicas]
        served = list(enumerate(self.parts))[self.local :]
        return tuple(Replica(f"{part}-{letter}", place) for place, part in served for letter in letters)

    @property
    def node_names(self) -> tuple[str, ...]:
        """By index."""
        return tuple(replica.node for replica in self.nodes)

    @property
    def liars_words(self) -> str | None:
        """Who misbehaves, for people: that it is a simulation must be seen wherever its results are."""
        told = ", ".join(f"{node} by {behaviour.name}" for node, behaviour in self.liars.items())
        return f"simulated liars: {told} (told to by the recipe)" if told else None

    def default_policy(self) -> Policy:
        """What its clients ask for. Raises RecipeError, though not of a recipe that was checked."""
        policy = Policy.of({"tolerance": self.tolerance, **self.policy}, partial(_refuse, "policy"))
        return replace(policy, require=policy.require | {Kind.ATTESTATION}) if self.attestation.required else policy

    def budget(self) -> Budget | None:
        """Of the noise. Raises RecipeError, though not of a recipe that was checked."""
        return None if self.noise is None else Budget.of(self.noise, partial(_refuse, "noise"))


def load_any_recipe(path_or_name: Path | str, overrides: Sequence[str] = ()) -> Recipe | ServingRecipe:
    """A recipe of either kind, fully checked: see `decentral.run.recipe.load_recipe`."""
    return any_recipe(read_recipe(path_or_name), overrides)


def any_recipe(document: Document, overrides: Sequence[str] = (), *, prepared: bool = False) -> Recipe | ServingRecipe:
    """The same of a file that has been read. `prepared`: its stages are on disk, and nothing is asked of its source."""
    from decentral.run.serving_check import check_serving

    if STAGES not in document.values:
        return checked(document, overrides)
    serving = resolved(document, overrides, ServingRecipe)
    check_serving(serving, document, prepared=prepared)
    return serving


def _refuse(section: str, problem: str, key: tuple[str, ...]) -> RecipeError:
    return RecipeError(problem, key=".".join([section, *key]))
