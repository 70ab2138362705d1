"""A student's teacher is the expert of the cluster that an image is known to be of, and nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decentral.data.clusters import ASSIGNMENT, Assignment
from decentral.data.datasets import load_dataset
from decentral.errors import UserError
from decentral.models.denoisers import unet
from decentral.models.experts import velocity
from decentral.training.distillation import VAE, DistillationLearner, distillation
from decentral.training.latents import EncodedImages
from tests.autoencoder import tiny

COUNT = 3
SETTINGS: dict[str, Any] = {"seed": 0, "batch_size": 64, "steps": 40, "optimizer": "adamw", "learning_rate": 3e-3}


def small(seed: int, classes: int = 10, shape: tuple[int, int, int] = (1, 8, 8)) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return unet(shape, classes, channels=(8, 16))


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture
def ensemble(tmp_path: Path, digits) -> Path:
    """The folder of three experts that nobody has trained, with who has which images."""
    numbers = np.arange(len(digits.train_labels))
    shares = [numbers[cluster::COUNT] for cluster in range(COUNT)]
    for cluster in range(COUNT):
        small(cluster).save_pretrained(tmp_path / f"expert_{cluster}")
    Assignment.make(digits, numbers, shares, np.zeros(len(digits.test_labels), np.int64)).save(tmp_path / ASSIGNMENT)
    return tmp_path


def student(digits, ensemble: Path, share: np.ndarray | None = None, **settings: Any) -> DistillationLearner:
    share = np.arange(len(digits.train_labels)) if share is None else share
    return distillation(small(9), digits, share, teacher=str(ensemble), **{**SETTINGS, **settings})


def test_each_image_is_taught_by_the_expert_of_its_cluster(digits, ensemble):
    learner = student(digits, ensemble, np.array([0, 1, 2, 4]))
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([0.2, 0.4, 0.6, 0.8])
    labels = torch.tensor([1, 10, 3, 4])
    taught = learner.taught(x, t, labels, learner._clusters)
    with torch.no_grad():
        for row, cluster in enumerate([0, 1, 2, 1]):
            alone = velocity(small(cluster).eval(), x[[row]], t[[row]], labels[[row]])
            torch.testing.assert_close(taught[[row]], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_student_comes_nearer_to_its_teachers(digits, ensemble):
    learner = student(digits, ensemble)
    losses = [learner.train(round).loss for round in (1, 2, 3)]
    assert losses == sorted(losses, reverse=True)
    assert learner.evaluate().loss is not None


def test_a_student_that_is_its_teacher_has_nothing_to_learn(digits, ensemble):
    share = np.arange(0, 300, COUNT)
    same = distillation(small(0), digits, share, teacher=str(ensemble), **{**SETTINGS, "steps": 1})
    other = distillation(small(1), digits, share, teacher=str(ensemble), **{**SETTINGS, "steps": 1})
    assert same.train(1).loss < 1e-9 < other.train(1).loss


def test_a_missing_teacher_is_named_unless_nobody_needs_it(digits, ensemble):
    (ensemble / "expert_1").rename(ensemble / "away")
    with pytest.raises(UserError, match="expert_1"):
        student(digits, ensemble)
    assert student(digits, ensemble, np.arange(0, 90, COUNT)).samples == 30


def test_teachers_of_other_images_or_classes_are_refused(digits, ensemble):
    small(0, classes=4).save_pretrained(ensemble / "expert_0")
    with pytest.raises(UserError, match="expert_0 is of other images or classes"):
        student(digits, ensemble)


def test_an_ensemble_of_other_data_is_refused(digits, ensemble):
    numbers = np.arange(90)
    test = np.zeros(len(digits.test_labels), np.int64)
    Assignment.make(digits, numbers, [numbers[:40], numbers[40:]], test).save(ensemble / ASSIGNMENT)
    with pytest.raises(UserError, match="trained on other images"):
        student(digits, ensemble)


def test_what_is_no_ensemble_and_what_is_no_denoiser_are_refused(digits, tmp_path):
    with pytest.raises(UserError, match="no assignment"):
        student(digits, tmp_path)
    with pytest.raises(UserError, match="trains the models unet and dit"):
        distillation(torch.nn.Linear(2, 2), digits, np.arange(9), teacher=str(tmp_path), **SETTINGS)


def test_a_student_of_latents_has_the_autoencoder_of_its_teachers(digits, ensemble):
    for cluster in range(COUNT):
        small(cluster, shape=(2, 4, 4)).save_pretrained(ensemble / f"expert_{cluster}")
    latents, model = EncodedImages(digits, tiny(5)), small(9, shape=(2, 4, 4))
    with pytest.raises(UserError, match="has no vae, unlike this recipe"):
        distillation(model, latents, np.arange(90), teacher=str(ensemble), **SETTINGS)
    tiny(5).save_pretrained(ensemble / VAE)
    learner = distillation(model, latents, np.arange(90), teacher=str(ensemble), **{**SETTINGS, "steps": 2})
    assert np.isfinite(learner.train(1).loss)
    other = EncodedImages(digits, tiny(6))
    with pytest.raises(UserError, match=r"vae is another autoencoder than vae.folder's"):
        distillation(model, other, np.arange(90), teacher=str(ensemble), **SETTINGS)
    with pytest.raises(UserError, match="has a vae, unlike this recipe"):
        student(digits, ensemble)
