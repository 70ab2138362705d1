"""What attackers find out from the tensors of a cut, on real digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from decentral.data.datasets import load_dataset
from decentral.training.inversion import Inversion, invert, label_accuracy

OWN, OTHERS = slice(0, 600), slice(600, 800)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """800 images in [0, 1] and their labels."""
    data = load_dataset("digits")
    chosen = np.arange(800)
    return torch.from_numpy(data.train_images(chosen)) / data.white, torch.from_numpy(data.train_labels[chosen])


def attack(images: Tensor, crossing: dict[str, Tensor], **options: int) -> Inversion:
    own = {name: tensor[OWN] for name, tensor in crossing.items()}
    others = {name: tensor[OTHERS] for name, tensor in crossing.items()}
    return invert(own, images[OWN], others, images[OTHERS], **{"seed": 0, "epochs": 10, **options})


def guess(labels: Tensor, crossing: dict[str, Tensor], **options: int) -> float:
    own = {name: tensor[OWN] for name, tensor in crossing.items()}
    others = {name: tensor[OTHERS] for name, tensor in crossing.items()}
    return label_accuracy(own, labels[OWN], others, labels[OTHERS], 10, **{"seed": 0, "epochs": 10, **options})


def mixed(images: Tensor) -> Tensor:
    """All that the images tell, as numbers that nobody recognises."""
    generator = torch.Generator().manual_seed(0)
    orthogonal: Tensor = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q
    return images.flatten(1) @ orthogonal


def test_an_attacker_undoes_what_loses_nothing_and_finds_nothing_in_noise(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    noise = torch.randn(800, 64, generator=torch.Generator().manual_seed(1))
    open_, blind = attack(images, {"a": mixed(images)}), attack(images, {"a": noise})
    assert open_.psnr > open_.floor_psnr + 5
    assert open_.ssim > 0.8
    assert blind.psnr < blind.floor_psnr + 0.5
    assert blind.ssim < open_.ssim - 0.3
    assert guess(labels, {"a": mixed(images)}) > 0.85
    assert guess(labels, {"a": noise}) < 0.3


def test_feature_maps_and_several_tensors_are_looked_at_together(digits: tuple[Tensor, Tensor]) -> None:
    images, _ = digits
    halves = {"top": images * (torch.arange(8) < 4).view(8, 1), "small": torch.nn.functional.avg_pool2d(images, 2)}
    both = attack(images, halves, epochs=5)
    one = attack(images, {"small": halves["small"]}, epochs=5)
    assert both.images.shape == (200, 1, 8, 8)
    assert 0 <= float(both.images.min()) <= float(both.images.max()) <= 1
    assert both.psnr > one.psnr + 1
    assert one.psnr > one.floor_psnr + 1


def test_a_linear_probe_sees_what_lies_on_a_line_alone(digits: tuple[Tensor, Tensor]) -> None:
    _, labels = digits
    crossing = {"a": torch.nn.functional.one_hot(labels, 10).float()}
    assert guess(labels, crossing, hidden=0, epochs=30) == 1.0
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (800, 2), generator=generator).float() * 2 - 1
    either = (signs.prod(1) > 0).long()
    assert guess(either, {"a": signs}, hidden=0) < 0.8
    assert guess(either, {"a": signs}, hidden=32, epochs=30) == 1.0


def test_the_same_seed_finds_the_same_and_leaves_chance_to_others(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    crossing, state = {"a": mixed(images)}, torch.get_rng_state()
    first, again, other = (attack(images, crossing, epochs=1, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert guess(labels, crossing, epochs=1, seed=3) == guess(labels, crossing, epochs=1, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_image_teaches_nothing(digits: tuple[Tensor, Tensor]) -> None:
    images, _ = digits
    with pytest.raises(ValueError, match="two images or more"):
        invert({"a": images[:1]}, images[:1], {"a": images[1:2]}, images[1:2], seed=0)
