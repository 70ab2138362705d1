"""Images as a network sees them: normalised floats, made from bytes when they are used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

KEPT_BYTES = 16 * 2**20
"""Sets that are no larger than this as floats are normalised once; larger ones stay bytes, a quarter of the size."""

PADDING = 4
SMALLEST_AUGMENTED = 32


def normalise(
    pixels: UInt8[Tensor, "n c h w"] | Float[Tensor, "n c h w"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "n c h w"]:
    """(pixel - mean) / std, with one mean and one standard deviation a channel, in units of a pixel's value."""
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(shape)
    return pixels.to(torch.float32, copy=True).sub_(centre).div_(scale)


class NormalisedImages:
    """A set of images on one device. `images[indices]` is a batch: the same values whether they were kept or not.

    `layout` is how a batch lies in memory: torch.channels_last, or torch.contiguous_format.
    """

    def __init__(
        self,
        pixels: UInt8[Tensor, "n c h w"] | Float[Tensor, "n c h w"],
        mean: Sequence[float],
        std: Sequence[float],
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._mean, self._std, self._layout = tuple(mean), tuple(std), layout
        self._pixels = pixels
        small = pixels.numel() * torch.float32.itemsize <= KEPT_BYTES
        self._kept = normalise(pixels, mean, std) if small else None

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, indices: Int[Tensor, " b"] | slice) -> Float[Tensor, "b c h w"]:
        if self._kept is not None:
            return self._kept[indices].contiguous(memory_format=self._layout)
        return normalise(self._pixels[indices], self._mean, self._std).contiguous(memory_format=self._layout)


def augment(images: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Each image moved by up to four pixels a side and mirrored half of the time; smaller ones than 32x32 as they are.

    The border is filled with the mean colour. K. He et al., "Deep residual learning for image recognition", 2016,
    section 4.2.
    """
    count, _, height, width = images.shape
    if min(height, width) < SMALLEST_AUGMENTED:
        return images
    padded = functional.pad(images, (PADDING,) * 4)
    top, left = torch.randint(2 * PADDING + 1, (2, count), generator=generator).to(images.device)
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)  # [b, h]
    columns = torch.arange(width, device=images.device).expand(count, width)
    columns = left[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)  # [b, w]
    batch = torch.arange(count, device=images.device)[:, None, None]
    # Advanced indices around a slice put the channels last.
    cropped = padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return cropped.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
