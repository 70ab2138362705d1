"""The head of a run's router fitted again, for an expert that another run has trained: a matter of seconds.

McAllister et al., "Decentralized Diffusion Models" (arXiv 2501.05450): the router is a posterior over clusters, so it
needs images of all of them, those of the newcomer too. The body of the network stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from decentral.algorithms.catalogue import SERVED
from decentral.data.clusters import ASSIGNMENT, Assignment
from decentral.data.datasets import LabelledImages
from decentral.data.joined import JoinedImages
from decentral.data.partition import subset
from decentral.errors import UserError
from decentral.launch.changes import ROUTER
from decentral.launch.latents import seen
from decentral.launch.serving import EXPERT
from decentral.launch.shares import data_of, holding
from decentral.models.experts import load_denoiser, outputs
from decentral.run.directory import RunDirectory, peer_name
from decentral.serving.access import PIPELINE
from decentral.training.experts import OF_TRAINING
from decentral.training.router import RouterLearner, freeze_body, with_clusters

STEPS = 300
"""Of the optimiser."""


def refit(run: RunDirectory, source: Path, folder: Path, steps: int = STEPS) -> Path:
    """Writes into `folder` the router of `run` with one output more, for the expert `source`, and returns it. Blocking.

    `source` is the folder that a peer of another run has left, nodes/peer-N/expert; the images that it was trained on
    are found by that run's recipe. Raises UserError where they cannot be found, or do not go with those of `run`.
    """
    other, index = _origin(source)
    recipe, ensemble = run.recipe, run.path / PIPELINE
    before, assignment = load_denoiser(ensemble / ROUTER), Assignment.load(ensemble / ASSIGNMENT)
    count = outputs(before)
    if count != len(assignment.shares):
        told = f"{ensemble / ASSIGNMENT} tells of the images of {len(assignment.shares)}"
        raise UserError(f"{told} clusters, and the router knows {count}: fit it yourself and name it by --router")
    ours, theirs = data_of(recipe), data_of(other.recipe)
    options = dict(cast(Mapping[str, Any], recipe.learner.options.get("router") or {}))
    numbers, clusters = assignment.some(float(options.get("share", 1.0)), recipe.seed)
    new = holding(other.recipe, theirs, subset(theirs.train_labels, *_some(other)), index).share
    chosen = subset(ours.train_labels, *_some(run))
    images: LabelledImages = JoinedImages(ours, theirs)
    router = with_clusters(before, [*range(count), None])
    freeze_body(router)
    training = recipe.training.model_dump(exclude={"initialisation", "start_from", "rounds"})
    own = {name: value for name, value in recipe.learner.options.items() if name in OF_TRAINING}
    own |= {name: options[name] for name in (*OF_TRAINING, "calibration") if name in options}
    learner = RouterLearner(
        router,
        seen(recipe, images),
        np.concatenate([chosen[numbers], len(ours.train_labels) + new]),
        np.concatenate([clusters, np.full(len(new), count)]),
        test_clusters=np.concatenate([assignment.test, np.full(len(theirs.test_labels), count)]),
        expert=load_denoiser(source),
        **{**training, **own, "steps": steps, "seed": recipe.seed, "peer": run.recipe.peers, "device": recipe.device},
    )
    learner.train(1)
    learner.calibrate()
    with learner.averaged() as refitted:
        cast(Any, refitted).save_pretrained(folder)
    return folder


def _some(run: RunDirectory) -> tuple[int | None, int]:
    return run.recipe.data.subset, run.recipe.seed


def _origin(source: Path) -> tuple[RunDirectory, int]:
    """The run and the peer that have trained an expert. Raises UserError."""
    node = source.expanduser().resolve().parent
    if source.name != EXPERT or node.parent.name != "nodes":
        raise UserError(f"{source}: is not nodes/peer-N/{EXPERT} of a run, so nobody knows its images; name a --router")
    run = RunDirectory.open(node.parent.parent)
    experts = run.recipe.peers - (run.recipe.algorithm in SERVED)
    for index in range(experts):
        if peer_name(index) == node.name:
            return run, index
    raise UserError(f"{source}: {node.name} has not trained it there, but was given it; name a --router")
