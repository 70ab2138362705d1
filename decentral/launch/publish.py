"""What peers that train an ensemble leave behind, as folders that plain diffusers loads.

nodes/peer-0/expert/   a peer's expert, with the `digest` by which its clients know it
nodes/peer-4/router/   the router's peer's router
pipeline/              all of them, with the `assignment.json` of images to experts, and the `vae` of those who learned
                       from its latents
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from decentral.data.clusters import ASSIGNMENT
from decentral.files import replacing_folder
from decentral.launch.changes import DIGEST, ROUTER
from decentral.launch.serving import EXPERT
from decentral.models.experts import load_denoiser
from decentral.models.graphs import saved_state
from decentral.serving.access import PIPELINE
from decentral.serving.experts.expert import digest_of
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.training.diffusion import NoisedTraining
from decentral.training.router import RouterLearner


class EnsemblePublisher:
    """Writes the folders of one peer of a run. Blocking."""

    def __init__(self, run: Path, node: Path, learner: NoisedTraining) -> None:
        self._run, self._node, self._learner = run, node, learner

    def own(self) -> None:
        learner = self._learner
        if isinstance(learner, RouterLearner):
            learner.calibrate()
        kind = ROUTER if isinstance(learner, RouterLearner) else EXPERT
        with replacing_folder(self._node / kind) as folder:
            with learner.averaged() as model:
                cast(Any, model).save_pretrained(folder)
            (folder / DIGEST).write_text(digest_of(load_denoiser(folder)) + "\n")

    def ensemble(self, parts: Mapping[int, Mapping[str, Tensor]]) -> None:
        """An expert that is missing stays out: the others share its weight."""
        router = self._learner
        assert isinstance(router, RouterLearner)
        experts = {}
        for index, state in parts.items():
            experts[f"expert_{index}"] = expert = copy.deepcopy(router.expert)
            with torch.no_grad():
                for name, tensor in saved_state(expert).items():
                    tensor.copy_(state[name])
        with router.averaged() as model, replacing_folder(self._run / PIPELINE) as folder:
            decoder = cast(Any, router.autoencoder)
            ensemble = DecentralizedDiffusionPipeline(router=cast(Any, model), vae=decoder, **cast(Any, experts))
            ensemble.save_pretrained(folder)
            (folder / ROUTER / DIGEST).write_text(digest_of(load_denoiser(folder / ROUTER)) + "\n")
            if router.assignment is not None:
                router.assignment.save(folder / ASSIGNMENT)
