"""One network that learns from an ensemble of experts, to be sampled from alone.

McAllister et al., "Decentralized Diffusion Models" (arXiv 2501.05450), section on distillation: the teacher of an image
is the expert of the cluster that it is known to be of, so that no router takes part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional

from decentral.core.flow import interpolate
from decentral.data.clusters import ASSIGNMENT, Assignment
from decentral.data.datasets import Indices, LabelledImages
from decentral.errors import UserError
from decentral.models.autoencoder_folder import KIND
from decentral.models.autoencoders import load_autoencoder
from decentral.models.denoisers import ask
from decentral.models.experts import KINDS, classes, image_size, load_denoiser, velocity
from decentral.training.diffusion import DiffusionLearner
from decentral.training.digest import described, model_digest
from decentral.training.latents import EncodedImages
from decentral.training.loop import Settings

VAE = "vae"
"""The folder of an ensemble's autoencoder, in that of the ensemble."""


class DistillationLearner(DiffusionLearner):
    """The student: `teachers` by cluster, `clusters` of the images of `share`."""

    def __init__(
        self,
        model: nn.Module,
        dataset: LabelledImages,
        share: Indices,
        *,
        teachers: Mapping[int, nn.Module],
        clusters: Int64[np.ndarray, " n"],
        **settings: Any,
    ) -> None:
        """Raises UserError for a cluster without a teacher, and for a teacher of other images or classes."""
        super().__init__(model, dataset, share, **settings)
        if absent := sorted(set(clusters.tolist()) - teachers.keys()):
            raise UserError(
                f"learner.teacher: expert_{absent[0]}, whose images are among those to learn from, is missing"
            )
        for cluster, teacher in teachers.items():
            if (image_size(teacher), classes(teacher)) != (image_size(model), classes(model)):
                raise UserError(f"learner.teacher: expert_{cluster} is of other images or classes than the student")
        self._teachers = {cluster: teacher.to(self.device).eval() for cluster, teacher in teachers.items()}
        self._clusters = torch.from_numpy(clusters).to(self.device)

    def loss(self, images: Float[Tensor, "b c h w"], batch: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Mean squared difference of the student's velocities from the teachers', at the same noise and labels."""
        t, noise = self.drawn_times(len(batch)), torch.randn_like(images)
        noised, labels = interpolate(images, noise, t), self.drawn_labels(batch)
        answer = ask(self.model, noised, t, labels)
        return functional.mse_loss(answer.float(), self.taught(noised, t, labels, self._clusters[batch]))

    @torch.no_grad()
    def taught(
        self,
        noised: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        labels: Int[Tensor, " b"] | None,
        clusters: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """Each image's velocity as the expert of its cluster has it."""
        found = torch.empty_like(noised)
        for cluster in sorted(set(clusters.tolist())):
            rows = clusters == cluster
            teacher, known = self._teachers[cluster], None if labels is None else labels[rows]
            found[rows] = velocity(teacher, noised[rows], t[rows], known)
        return found


def distillation(
    model: nn.Module,
    dataset: LabelledImages,
    share: Indices,
    *,
    teacher: str,
    matching_samples: int = 0,
    proxy: Indices | None = None,
    evaluation_samples: int | None = None,
    ema: float | int = 0.999,
    times: str = "uniform",
    label_dropout: float | int = 0.1,
    accumulate: int = 1,
    draws: int = 4,
    **settings: Unpack[Settings],
) -> DistillationLearner:
    """The learner `distillation`: `teacher` is the folder of an ensemble, DIR/pipeline of a run.

    Raises UserError where it is none, or one of other images.
    """
    if not isinstance(model, KINDS):
        raise UserError(f"learner 'distillation' trains the models unet and dit, not a {type(model).__name__}")
    folder = Path(teacher).expanduser()
    assignment = Assignment.load(folder / ASSIGNMENT)
    pixels = dataset.images if isinstance(dataset, EncodedImages) else dataset
    everything = np.arange(len(dataset.train_labels))
    if sum(map(len, assignment.shares)) != len(everything):
        raise UserError(f"learner.teacher: {folder} was trained on other images than the {len(everything)} of data")
    which = np.empty(len(everything), np.int64)
    for cluster, images in enumerate(assignment.shares):
        assignment.check(pixels, everything, cluster)
        which[images] = cluster
    _check_latents(folder, dataset)
    teachers = {
        cluster: load_denoiser(folder / f"expert_{cluster}")
        for cluster in range(len(assignment.shares))
        if (folder / f"expert_{cluster}").is_dir()
    }
    return DistillationLearner(
        model,
        dataset,
        share,
        teachers=teachers,
        clusters=which[share],
        evaluation_samples=evaluation_samples,
        ema=ema,
        times=times,
        label_dropout=label_dropout,
        accumulate=accumulate,
        draws=draws,
        **settings,
    )


def _check_latents(teacher: Path, dataset: LabelledImages) -> None:
    """Raises UserError unless teacher and student mean the same by a latent."""
    theirs = load_autoencoder(teacher / VAE) if (teacher / VAE).is_dir() else None
    ours = dataset.autoencoder if isinstance(dataset, EncodedImages) else None
    if (theirs is None) != (ours is None):
        raise UserError(f"learner.teacher: {teacher} {'has no' if theirs is None else 'has a'} vae, unlike this recipe")
    if theirs is not None and ours is not None and _told(theirs) != _told(ours):
        raise UserError(f"learner.teacher: {teacher / VAE} is another autoencoder than vae.folder's")


def _told(autoencoder: nn.Module) -> str:
    config = {**cast(Any, autoencoder).config, "_class_name": KIND}  # which one that was never saved lacks
    return model_digest(described(config), autoencoder.state_dict())
