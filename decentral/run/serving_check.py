"""What a serving recipe's types cannot say: that its model has one source, and its policy replicas enough.

Nothing heavy is imported. Every error names the key, the file and the line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decentral.algorithms.catalogue import SERVED
from decentral.data.datasets import DATASETS
from decentral.errors import RecipeError, UserError
from decentral.models.catalogue import DENOISERS, MODELS
from decentral.registry import nearest
from decentral.run.choice import Choice
from decentral.run.finished import FinishedRun
from decentral.run.options import check_name, check_options, check_torchvision
from decentral.run.recipe import load_recipe
from decentral.serving.adversaries.catalogue import BEHAVIOURS
from decentral.trust.evidence import Kind
from decentral.zk.arguments import unambiguous

if TYPE_CHECKING:
    from decentral.run.proving import Proving
    from decentral.run.recipe import Recipe
    from decentral.run.serving_recipe import ServedModel, ServingRecipe
    from decentral.run.source import Document

OF_A_FILE = ("name", "input", "classes")
SUFFIXES = (".safetensors", ".pth", ".pt")
SERVICE, OURS = 5, frozenset({"epoch", "device", "most", "patience", "held"})
"""What the constructor of a behaviour gets from us, before its options and by name."""


def check_serving(recipe: ServingRecipe, document: Document, *, prepared: bool = False) -> None:
    """Raises RecipeError, placed by `document`. `prepared`: the model's source has been used and may be gone."""
    _one_source(recipe, document)
    model = recipe.model
    if model.file is not None:
        _file(recipe, model.file, document, prepared)
    elif model.run is not None:
        _run(model, model.run, document, prepared)
    elif model.recipe is not None and not prepared:
        _training(model.recipe, document)
    if recipe.data is not None:
        check_name(DATASETS, recipe.data.name, document, ("data", "name"))
        check_options(DATASETS, recipe.data, 3, document, ("data", "options"))
    if recipe.local >= len(recipe.parts):
        problem = f"{recipe.local} of {len(recipe.parts)} stages at the client leave none for peers"
        raise document.error(problem, ("local",))
    if recipe.proofs is not None:
        _proofs(recipe.proofs, document)
    _policy(recipe, document)
    for node, behaviour in recipe.liars.items():
        if node not in recipe.node_names:
            raise document.error(f"there is no such node; {nearest(node, recipe.node_names)}", ("liars", node))
        check_name(BEHAVIOURS, behaviour.name, document, ("liars", node, "name"))
        check_options(BEHAVIOURS, behaviour, SERVICE, document, ("liars", node), ours=OURS)


def _one_source(recipe: ServingRecipe, document: Document) -> None:
    model = recipe.model
    if model.file is not None and model.run is not None:
        raise document.error("the model comes from a run or from a file, not from both", ("model", "file"))
    if model.file is None and model.run is None and model.recipe is None:
        raise document.error("has no source: a run, a file with the name of its network, or a recipe", ("model",))
    if model.file is not None:
        if model.peer is not None:
            raise document.error("a file is of no peer", ("model", "peer"))
        return
    for key in OF_A_FILE:
        if getattr(model, key) is not None:
            raise document.error("is for a file; a run's recipe tells it", ("model", key))
    for key in model.options:
        known = [name for name in type(model).model_fields if name != "options"]
        raise document.error(f"unknown key; {nearest(key, known)}", ("model", key))


def _file(recipe: ServingRecipe, file: str, document: Document, prepared: bool) -> None:
    model = recipe.model
    if model.name is None:
        raise document.error("a file needs the name of its network", ("model", "name"))
    if not check_torchvision(model.name, document):
        check_options(MODELS, Choice(name=model.name, options=model.options), 2, document, ("model",))
    _classifies(model.name, document, ("model", "name"))
    if recipe.data is None and (model.input is None or model.classes is None):
        raise document.error("a file needs data, or model.input and model.classes: what its network takes", ("model",))
    path = Path(file).expanduser()
    if path.suffix not in SUFFIXES:
        raise document.error(f"must end in one of {', '.join(SUFFIXES)}, not in {path.suffix!r}", ("model", "file"))
    if not prepared and not path.is_file():
        raise document.error(f"there is no file {file}", ("model", "file"))


def _run(model: ServedModel, run: str, document: Document, prepared: bool) -> None:
    if prepared:
        return
    try:
        finished = FinishedRun.open(Path(run).expanduser())
        finished.choose(model.peer)
    except UserError as error:
        raise document.error(str(error), ("model", "run")) from None
    _trains_classifiers(finished.directory.recipe, document, ("model", "run"))


def _training(recipe: str, document: Document) -> None:
    try:
        training = load_recipe(recipe)
    except RecipeError as error:
        raise document.error(str(error), ("model", "recipe")) from None
    _trains_classifiers(training, document, ("model", "recipe"))


def _trains_classifiers(recipe: Recipe, document: Document, key: tuple[str, ...]) -> None:
    if recipe.algorithm in SERVED:
        raise document.error(
            f"peers of algorithm {recipe.algorithm!r} are served by: decentral up RECIPE --dir DIR", key
        )
    if recipe.learner.name == "null":
        raise document.error("the learner 'null' has no model", key)
    _classifies(recipe.model.name, document, key)


def _classifies(model: str, document: Document, key: tuple[str, ...]) -> None:
    if model in DENOISERS:
        raise document.error(f"{model!r} answers with images; stages serve networks that answer with classes", key)


def _proofs(proofs: Proving, document: Document) -> None:
    if proofs.file is not None and not Path(proofs.file).expanduser().is_file():
        problem = f"must be local-test, ceremony or the file of an SRS; there is no file {proofs.file}"
        raise document.error(problem, ("proofs", "srs"))
    if not unambiguous(proofs.base, proofs.legs):
        problem = f"{proofs.legs} digits of base {proofs.base} are more than the 126 bits that a circuit can tell apart"
        raise document.error(problem, ("proofs", "legs"))


def _policy(recipe: ServingRecipe, document: Document) -> None:
    """It can be met by the replicas that there are, with the evidence that they give; the noise can be added."""
    with document.placing():
        policy, budget = recipe.default_policy(), recipe.budget()
    if budget is not None and not recipe.local:
        raise document.error("the client adds noise to what it computes itself: local must be at least 1", ("noise",))
    offered = [] if recipe.proofs is None else [Kind.ZK]
    offered += [Kind.ATTESTATION] if recipe.attestation.shown else []
    try:
        policy.check_possible(dict.fromkeys(recipe.parts[recipe.local :], recipe.replicas), offered)
    except UserError as error:
        key, _, problem = str(error).partition(": ")
        raise document.error(problem, ("replicas",) if key == "replicas" else ("policy", key)) from None
