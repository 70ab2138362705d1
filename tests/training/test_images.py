from __future__ import annotations

import pytest
import torch

from decentral.training import images
from decentral.training.images import NormalisedImages, augment, normalise


def pixels(count: int = 6, size: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_every_channel_has_its_own_statistics() -> None:
    mean, std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    made = normalise(pixels(), mean, std)
    for channel in range(3):
        assert torch.equal(made[:, channel], (pixels()[:, channel].float() - mean[channel]) / std[channel])


def test_kept_and_unkept_images_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = pixels(), (120.0,) * 3, (60.0,) * 3
    kept = NormalisedImages(*arguments)
    monkeypatch.setattr(images, "KEPT_BYTES", 0)
    unkept = NormalisedImages(*arguments)
    assert len(kept) == len(unkept) == 6
    for indices in (torch.tensor([4, 0, 0]), slice(2, 5)):
        assert torch.equal(kept[indices], unkept[indices])


def test_an_augmented_image_is_a_crop_of_the_padded_one_mirrored_or_not() -> None:
    whole = torch.arange(1.0, 1.0 + 3 * 3 * 32 * 32).reshape(3, 3, 32, 32)
    padded = torch.nn.functional.pad(whole, (4,) * 4)
    mirrored = []
    for seed in range(8):
        for image, source in zip(augment(whole, torch.Generator().manual_seed(seed)), padded, strict=True):
            crops = [
                (flip, crop)
                for top in range(9)
                for left in range(9)
                for flip, crop in enumerate(
                    (source[:, top : top + 32, left : left + 32], source[:, top : top + 32, left : left + 32].flip(2))
                )
            ]
            found = [flip for flip, crop in crops if torch.equal(crop, image)]
            assert len(found) == 1
            mirrored += found
    assert {*mirrored} == {0, 1}


def test_a_batch_lies_in_memory_as_asked_and_stays_so_when_augmented() -> None:
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    plain = NormalisedImages(pixels, (1.0,) * 3, (2.0,) * 3)[torch.tensor([3, 1])]
    last = NormalisedImages(pixels, (1.0,) * 3, (2.0,) * 3, torch.channels_last)[torch.tensor([3, 1])]
    assert plain.is_contiguous()
    assert torch.equal(plain, last)
    moved = [augment(batch, torch.Generator().manual_seed(1)) for batch in (plain, last)]
    assert moved[0].is_contiguous()
    assert torch.equal(*moved)
    for batch in (last, moved[1]):
        assert batch.is_contiguous(memory_format=torch.channels_last)


def test_images_smaller_than_32_are_left_as_they_are() -> None:
    small = torch.rand(2, 1, 8, 8)
    assert torch.equal(augment(small, torch.Generator()), small)
