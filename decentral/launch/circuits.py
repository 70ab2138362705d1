"""A folder of circuits: from a model on disk to what proves its answers, and what a verifier of them pins.

    card.json           what somebody vouches for of it, if anybody has signed
    circuits.json       what is pinned: settings, keys, how circuits are connected, and the identity of it all
    plan.json           the budget by which the model was cut into circuits, if it was planned (`launch.planning`)
    references.json     where in this machine's store the circuits lie that prove
    stages/             the network and its parameters, as they are served

Who has the stages can make the circuits again, and come to the same identity.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from decentral.errors import Malformed, UserError
from decentral.files import write_atomic
from decentral.launch.stages import samples_of, staged
from decentral.models.folding import fold_batchnorm
from decentral.models.stages import Stage
from decentral.run.directory import ABOUT, STAGES
from decentral.run.finished import FinishedRun
from decentral.run.recipe import Recipe, read_recipe
from decentral.run.serving_recipe import ServingRecipe, any_recipe
from decentral.run.source import Document
from decentral.serving.stages.model import FILE as NETWORK
from decentral.serving.stages.model import Network, load_stages, save_stages
from decentral.zk.circuit import FILE as PINNED
from decentral.zk.circuit import Chain
from decentral.zk.planner import Plan
from decentral.zk.setup import Artefacts, Options, rebuilt, setup
from decentral.zk.srs import CEREMONY, SRS, fetch_srs, open_srs
from decentral.zk.store import Store
from decentral.zk.worker import Limits

REFERENCES = "references.json"
PARAMETERS = (".safetensors", ".pth", ".pt")
UNCUT = {"stages": 1, "single": False}
"""Of what is no recipe: a residual may cross a cut, as one more committed tensor."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A network in stages, with samples of its inputs."""

    network: Network
    stages: tuple[Stage, ...]
    samples: Tensor

    def proved(self) -> list[nn.Module]:
        """The stages as they are proved: without BatchNorm, which goes into the layers before it. Raises UserError."""
        return [fold_batchnorm(stage.network, len(stage.inputs)) for stage in self.stages]


@dataclass(frozen=True, slots=True)
class Reference:
    """Which SRS is to be used: a file, one of the store, one that is fetched, or one that is made here for tests."""

    file: Path | None = None
    local: bool = False
    fetch: bool = False

    async def get(self, store: Store, logrows: int, limits: Limits | None = None) -> SRS:
        """One for so many rows. Raises UserError that says how to come by it, Unproven."""
        if self.file is not None:
            return open_srs(self.file, local=self.local)
        if self.local:
            return await store.local_srs(logrows, limits)
        place = store.root / "srs" / f"ceremony-{logrows}.srs"
        if place.exists():
            return open_srs(place, digest=CEREMONY[logrows])
        if self.fetch:
            return await fetch_srs(place, logrows, limits)
        raise UserError(
            f"no SRS for 2^{logrows} rows is here ({place}): name the ceremony's file (--srs FILE, SHA-256 "
            f"{CEREMONY[logrows]}), have it downloaded (--fetch-srs), or have one made for tests (--local-test-srs), "
            "which proves nothing to others"
        )

    def pinned(self, store: Store, chain: Chain) -> SRS:
        """The one that circuits stand on. Raises UserError where it is not here, or is for tests and not allowed."""
        if self.file is not None:
            return open_srs(self.file, digest=chain.srs, local=self.local)
        return store.srs(chain.srs, local=self.local)


def read_model(
    source: str,
    cuts: str | None = None,
    overrides: Sequence[str] = (),
    *,
    seed: int = 0,
    say: Say = lambda words: None,
) -> Model:
    """A model that is cut already (a folder of `up`, of its stages, or of circuits); or one that is cut here: of a
    finished training run, of a file of parameters (`overrides`: model.name=..., data.name=...), or of a recipe.

    `cuts`: modules, as `a,b`, or how many stages, of which none begins with a BatchNorm that belongs to the layer
    before it. Blocking. Raises UserError, RecipeError that names the key.
    """
    path = Path(source).expanduser()
    cut = next((folder for folder in (path / STAGES, path) if (folder / NETWORK).is_file()), None)
    if cut is not None:
        if cuts is not None or overrides:
            raise UserError(f"{source}: is cut already, and stays as it is: --stages and --set are for what is not")
        network = Network.load(cut)
        return Model(network, tuple(load_stages(cut).values()), samples_of(network, seed))
    document = _document(path, source)
    given = [*overrides, *([] if cuts is None else [f"stages={_cuts(cuts)}"])]
    recipe = any_recipe(document, given)
    if isinstance(recipe, Recipe):
        raise UserError(f"{source}: trains a model, and says no cuts: run it, and give the folder of that run")
    model = Model(*_staged(recipe, say))
    moved = past_norms(model.stages) if isinstance(recipe.stages, int) else None
    if moved is None:
        return model
    return Model(*_staged(recipe.model_copy(update={"stages": moved}), lambda words: None))


def past_norms(stages: Sequence[Stage]) -> tuple[str, ...] | None:
    """The modules after which to cut instead, so that every BatchNorm is in one stage with what it follows.

    None where no stage begins with one, or where a cut is at no module's end. Raises UserError where that leaves fewer.
    """
    names, moved = [], False
    for before, after in pairwise(stages):
        first = next(node for node in after.network.graph.nodes if node.op != "placeholder")
        norm = first.op == "call_module" and isinstance(after.network.get_submodule(str(first.target)), _BatchNorm)
        *_, last, _ = before.network.graph.nodes
        if not norm and last.op != "call_module":
            return None
        names.append(str(first.target if norm else last.target))
        moved = moved or norm
    if moved and len({*names}) < len(names):
        raise UserError(
            f"{len(stages)} stages of equal cost would part a BatchNorm from its layer: ask for fewer, or name the "
            "modules after which to cut (--stages A,B)"
        )
    return tuple(names) if moved else None


def _staged(recipe: ServingRecipe, say: Say) -> tuple[Network, tuple[Stage, ...], Tensor]:
    if recipe.model.recipe is not None:
        raise UserError(f"{recipe.name}: its model is yet to be trained; `decentral up` it, and give that folder")
    run = None if recipe.model.run is None else FinishedRun.open(Path(recipe.model.run).expanduser())
    network, stages, samples = staged(recipe, run, say)
    return network, tuple(stages), samples


def _document(path: Path, source: str) -> Document:
    """What a recipe would say of it."""
    if (path / ABOUT).is_file():
        return Document(source, {"model": {"run": str(path)}, **UNCUT})
    if path.is_dir():
        raise UserError(f"{source}: holds no model in stages, and is no finished run")
    if _is_parameters(path):
        return Document(source, {"model": {"file": str(path)}, **UNCUT})
    return read_recipe(source)


def _is_parameters(path: Path) -> bool:
    return path.suffix.lower() in PARAMETERS


def _cuts(words: str) -> str:
    """As YAML: a number, or a list of names, which may look like numbers."""
    return words if words.isdecimal() else json.dumps([word.strip() for word in words.split(",") if word.strip()])


async def make_circuits(
    model: Model,
    folder: Path,
    reference: Reference,
    store: Store,
    options: Options | Plan,
    *,
    limits: Limits | None = None,
    say: Say = lambda words: None,
) -> Chain:
    """Writes the folder; its circuits lie in the store: one for each stage of the model, or those of a plan.

    Raises UserError, Unproven.
    """

    async def srs(logrows: int) -> SRS:
        return await reference.get(store, logrows, limits)

    if isinstance(options, Plan):
        names = [each.name for each in options.circuits]
        chain, artefacts, found = await setup(
            options.stages,
            [model.samples],
            srs,
            store,
            options.options,
            wires=options.wires,
            names=names,
            limits=limits,
            say=say,
        )
    else:
        proved = await asyncio.to_thread(model.proved)
        chain, artefacts, found = await setup(proved, [model.samples], srs, store, options, limits=limits, say=say)
    try:
        (folder / STAGES).mkdir(parents=True, exist_ok=True)
        save_stages(folder / STAGES, model.network, model.stages)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    save_circuits(folder, chain, artefacts, found)
    return chain


def save_circuits(folder: Path, chain: Chain, artefacts: Sequence[Artefacts], srs: SRS) -> None:
    """What is pinned, and where in the store it is proved. Raises UserError."""
    places = {"circuits": [each.folder.name for each in artefacts], "srs": str(srs.path)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / REFERENCES, json.dumps(places, indent=2).encode() + b"\n")
        write_atomic(folder / PINNED, chain.encoded())
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error


async def check_circuits(
    model: Model,
    folder: Path,
    srs: SRS,
    *,
    plan: Plan | None = None,
    limits: Limits | None = None,
    say: Say = lambda words: None,
) -> tuple[Chain, Chain]:
    """What is pinned, and what the model comes to, made again from nothing: its stages, or the circuits of a plan.

    Raises UserError, Unproven.
    """
    pinned = load_circuits(folder)
    proved = await asyncio.to_thread(model.proved) if plan is None else plan.stages
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        found = await rebuilt(pinned, proved, [model.samples], srs, Store(scratch), limits=limits, say=say)
    return pinned, found


def load_circuits(folder: Path) -> Chain:
    """What is pinned. Raises UserError for what is no folder of circuits, or a damaged one."""
    file = folder / PINNED if folder.is_dir() else folder
    try:
        return Chain.decode(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: holds no circuits (there is no {PINNED}); make them: decentral zk setup") from None
    except (Malformed, OSError) as error:
        raise UserError(f"{file}: damaged ({error})") from error


def load_artefacts(folder: Path, chain: Chain, store: Store) -> list[Artefacts]:
    """What proves them. Raises UserError where the store has lost it."""
    try:
        keys = [str(key) for key in _references(folder)["circuits"]]
        found = [Artefacts.load(store.path(key)) for key in keys if store.has(key)]
    except (OSError, ValueError, KeyError, TypeError, Malformed) as error:
        raise UserError(f"{folder / REFERENCES}: damaged, or not made here ({error})") from error
    if tuple(each.circuit for each in found) != chain.circuits:
        raise UserError(
            f"{store.root}: no longer holds what proves {folder}; make it again: decentral zk setup {folder} --out ..."
        )
    return found


def srs_of(folder: Path, chain: Chain, store: Store) -> SRS:
    """What the circuits were made with: where it was then, or in the store. Raises UserError where it is gone."""
    try:
        place = Path(str(_references(folder)["srs"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / REFERENCES}: damaged, or not made here ({error})") from error
    return Reference(place if place.is_file() else None, local=True).pinned(store, chain)


def _references(folder: Path) -> Mapping[str, Any]:
    """Where the circuits of a folder lie on this machine."""
    found: Mapping[str, Any] = json.loads((folder / REFERENCES).read_bytes())
    return found
