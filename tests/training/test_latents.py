"""Training on latents is training on the encoded tensors as images: nobody knows of the autoencoder but the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decentral.data.datasets import LabelledImages, load_dataset
from decentral.errors import UserError
from decentral.models.autoencoders import encoded
from decentral.models.catalogue import build_model
from decentral.training.diffusion import DiffusionLearner
from decentral.training.experts import diffusion
from decentral.training.latents import EncodedImages
from decentral.training.router import RouterLearner
from tests.autoencoder import tiny

SHARE = np.arange(40)


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    return load_dataset("digits")


@pytest.fixture
def latents(digits: LabelledImages) -> EncodedImages:
    return EncodedImages(digits, tiny(shift_factor=0.2))


class AsImages(LabelledImages):
    """Latents that were made at another place, as images whose values are what a network sees."""

    def __init__(self, digits: LabelledImages, train: np.ndarray, test: np.ndarray) -> None:
        self.class_names, self.image_shape = digits.class_names, train.shape[1:]
        self.mean, self.std = (0.0, 0.0), (1.0, 1.0)
        self._digits, self._train, self._test = digits, train, test

    span = (0.0, 1.0)

    @property
    def train_labels(self):
        return self._digits.train_labels

    @property
    def test_labels(self):
        return self._digits.test_labels

    def train_images(self, indices):
        return self._train[indices]

    def test_images(self):
        return self._test


def learner(data: LabelledImages, kind: str = "expert") -> DiffusionLearner | RouterLearner:
    torch.manual_seed(0)
    model = build_model("unet", data.image_shape, data.classes, channels=[8, 16])
    settings = {"steps": 3, "batch_size": 16, "optimizer": "adamw", "draws": 1, "evaluation_samples": 30}
    if kind == "expert":
        return DiffusionLearner(model, data, SHARE, **settings)
    which = (SHARE % 2).astype(np.int64)
    tests = np.arange(len(data.test_labels)) % 2
    return RouterLearner(
        build_model("unet", data.image_shape, data.classes, channels=[8, 16], outputs=2),
        data, SHARE, which, test_clusters=tests, expert=model, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["expert", "router"])
def test_training_on_latents_is_training_on_the_encoded_tensors_as_images(digits, latents, kind: str) -> None:
    train = latents.train_images(np.arange(len(digits.train_labels)))
    images = AsImages(digits, latents.train_images(SHARE), latents.some_test_images(np.arange(355)))
    assert np.allclose(train[SHARE], images.train_images(SHARE), atol=1e-6)
    one, other = learner(latents, kind), learner(images, kind)
    assert one.train(1) == other.train(1)
    own, others = one.parameters(), other.parameters()
    assert own.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in own.items())
    assert one.evaluate().loss == pytest.approx(other.evaluate().loss, rel=1e-5)


def test_the_loss_is_the_flow_of_latents_and_falls(latents) -> None:
    trained = learner(latents)
    assert trained.model.config.in_channels == 2 and trained.model.config.sample_size == 4
    before = trained.evaluate().loss
    for round in range(1, 16):
        trained.train(round)
    assert trained.evaluate().loss < 0.9 * before


def test_images_are_encoded_as_a_denoiser_sees_them_between_minus_one_and_one(digits, latents) -> None:
    pixels = torch.from_numpy(digits.train_images(SHARE)).float() / 8 - 1
    assert pixels.min() == -1 and pixels.max() == 1
    torch.testing.assert_close(torch.from_numpy(latents.train_images(SHARE)), encoded(latents.autoencoder, pixels))
    assert latents.train_images(SHARE).dtype == np.float32


def test_no_more_test_images_are_encoded_than_are_asked_for(digits, latents, monkeypatch) -> None:
    seen = []
    asked = type(digits).some_test_images
    monkeypatch.setattr(type(digits), "some_test_images", lambda own, at: seen.append(len(at)) or asked(own, at))
    learner(latents).evaluate()
    assert sum(seen) == 30
    few = latents.some_test_images(np.array([7, 3]))
    assert np.allclose(few, latents.test_images()[[7, 3]], atol=1e-5)


def test_images_are_encoded_once_and_not_again_while_it_trains(digits, latents, monkeypatch) -> None:
    made = learner(latents)
    monkeypatch.setattr(latents, "train_images", None)
    made.train(1)
    made.train(2)


def test_a_learner_of_latents_carries_its_autoencoder_and_one_of_pixels_none(digits, latents) -> None:
    assert learner(latents).autoencoder is latents.autoencoder
    assert learner(digits).autoencoder is None
    model = build_model("unet", latents.image_shape, 10, channels=[8, 16])
    assert diffusion(model, latents, SHARE, steps=1).autoencoder is latents.autoencoder


def test_latents_that_are_not_finite_are_refused(digits) -> None:
    broken = tiny()
    with torch.no_grad():
        broken.quant_conv.bias.fill_(float("inf"))
    with pytest.raises(UserError, match=r"vae.folder: the autoencoder makes what is not finite"):
        EncodedImages(digits, broken).train_images(SHARE)
