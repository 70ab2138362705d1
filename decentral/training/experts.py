"""Who trains what in an ensemble: an expert on each cluster of the data, and the router on some of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from decentral.core.seeds import derive_seed
from decentral.data.clusters import Assignment
from decentral.data.datasets import Indices, LabelledImages
from decentral.errors import UserError
from decentral.models.catalogue import build_model
from decentral.models.experts import KINDS, load_denoiser, outputs
from decentral.training.diffusion import DiffusionLearner
from decentral.training.loop import Settings
from decentral.training.router import RouterLearner, freeze_body, with_clusters

OF_TRAINING = ("steps", "learning_rate", "batch_size", "label_dropout", "ema", "times")
"""What a router may have otherwise than the experts."""
OF_ROUTER = ("calibration", "share", "start_from", "kept", "head_alone")


def diffusion(
    model: nn.Module,
    dataset: LabelledImages,
    share: Indices,
    *,
    assignment: Assignment | None = None,
    clusters: Int64[np.ndarray, " n"] | None = None,
    matching_samples: int = 0,
    proxy: Indices | None = None,
    evaluation_samples: int | None = None,
    ema: float | int = 0.999,
    times: str = "uniform",
    label_dropout: float | int = 0.1,
    accumulate: int = 1,
    draws: int = 4,
    router: Mapping[str, Any] | None = None,
    **settings: Unpack[Settings],
) -> DiffusionLearner | RouterLearner:
    """The learner `diffusion`: an expert, or with `clusters` (of the images of `share`) the router.

    `router`: the network `name` with its options, and options of its training and of its share. Raises UserError.
    """
    if not isinstance(model, KINDS):
        raise UserError(f"learner 'diffusion' trains the models unet and dit, not a {type(model).__name__}")
    common: dict[str, Any] = {
        "ema": ema, "times": times, "label_dropout": label_dropout, "accumulate": accumulate, "draws": draws,
        "evaluation_samples": evaluation_samples, **settings,
    }  # fmt: skip
    seed, peer = settings.get("seed", 0), settings.get("peer", 0)
    if assignment is None or clusters is None:
        test = None if assignment is None else np.flatnonzero(assignment.test == peer)
        expert = DiffusionLearner(model, dataset, share, test=test, **common)
        expert.assignment = assignment
        return expert
    options = dict(router or {})
    own = {name: options.pop(name) for name in (*OF_TRAINING, *OF_ROUTER) if name in options}
    own.pop("share", None)
    count = len(assignment.shares)
    network = make_router(dataset, count, seed, options, own)
    learner = RouterLearner(
        network,
        dataset,
        share,
        clusters,
        test_clusters=assignment.test,
        expert=model,
        **{**common, **own},
    )
    learner.assignment = assignment
    return learner


def make_router(
    dataset: LabelledImages, count: int, seed: int, options: dict[str, Any], own: dict[str, Any]
) -> nn.Module:
    """A new router, or one for other clusters than an earlier one's. Takes what is its own out of `own`."""
    earlier, kept, alone = own.pop("start_from", None), own.pop("kept", None), own.pop("head_alone", False)
    if earlier is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "initialisation", "router"))
            name = options.pop("name", "unet")
            return build_model(name, dataset.image_shape, dataset.classes, outputs=count, **options)
    before = load_denoiser(Path(earlier).expanduser())
    kept = list(range(outputs(before))) if kept is None else list(kept)
    if len(kept) > count or any(index is not None and not 0 <= index < outputs(before) for index in kept):
        raise UserError(f"learner.router.kept: {kept} cannot be: {outputs(before)} clusters became {count}")
    network = with_clusters(before, [*kept, *[None] * (count - len(kept))])
    if alone:
        freeze_body(network)
    return network
