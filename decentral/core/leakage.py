"""How much the tensors that cross a cut tell of what they were computed from, and how near a reconstruction comes.

Distance correlation: Székely, Rizzo, Bakirov, "Measuring and testing dependence by correlation of distances", Ann.
Statist. 35 (2007); bias-corrected: Székely, Rizzo, "The distance correlation t-test of independence in high dimension",
J. Multivariate Anal. 117 (2013), in the form of "Partial distance correlation", Ann. Statist. 42 (2014), section 2.
NoPeek: Vepakomma, Singh, Gupta, Raskar, arXiv 2008.09161. SSIM: Wang, Bovik, Sheikh, Simoncelli, "Image quality
assessment", IEEE Trans. Image Process. 13 (2004).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

FEWEST = 4
"""Samples that the bias-corrected estimate needs: its inner product divides by n (n - 3)."""

WINDOW, DEVIATION = 11, 1.5
"""Of SSIM's Gaussian window, in pixels (section III.B)."""

K1, K2 = 0.01, 0.03
"""SSIM's small constants (section III.B)."""


def distance_correlation(x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."]) -> float:
    """Of n pairs, in [0, 1]: the root of the bias-corrected squared distance correlation, 0 where that is below zero.

    1 if one is the other rotated, scaled and moved; near 0 for independent ones, however many numbers a sample has. It
    is what a policy bounds. Raises ValueError for fewer than four pairs.
    """
    return math.sqrt(max(squared_distance_correlation(x, y), 0.0))


def squared_distance_correlation(x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."]) -> float:
    """The bias-corrected statistic R*_n = (A·B) / sqrt((A·A) (B·B)) of U-centred distances, in [-1, 1], in float64.

    On average over independent pairs it is zero, so it can be negative; that is why it is not a root. 0 where all
    samples of one side are the same, since they tell nothing. Raises ValueError for fewer than four pairs.
    """
    if len(x) < FEWEST:
        raise ValueError(f"a bias-corrected distance correlation needs {FEWEST} samples or more, not {len(x)}")
    a, b = u_centred(distances(x)), u_centred(distances(y))
    spread = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return 0.0 if spread == 0 else max(-1.0, min(1.0, float((a * b).sum()) / spread))


def no_peek(x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """The term that NoPeek adds to the task's loss: the distance correlation of a batch's inputs and its activations.

    The statistic of 2007 (definitions 4 and 5), which is what the paper descends; differentiable in both, in [0, 1].
    Small batches of independent samples do not come to zero, but near n^-½: as a loss it matters where it falls, not
    where it stands. 0 for fewer than two samples.
    """
    a, b = v_centred(distances(x)), v_centred(distances(y))
    spread = (a * a).mean() * (b * b).mean()
    tiny = torch.finfo(spread.dtype).tiny
    return ((a * b).mean().clamp(min=tiny) / spread.clamp(min=tiny).sqrt()).sqrt().clamp(max=1.0).to(y.dtype)


def distances(samples: Float[Tensor, "n ..."]) -> Float64[Tensor, "n n"]:
    """Euclidean distances between every two samples, each of which is one long vector; differentiable."""
    rows = samples.double().flatten(1)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def u_centred(distance: Float64[Tensor, "n n"]) -> Float64[Tensor, "n n"]:
    """Definition 2 of the paper of 2014: means over the others, so that products estimate without bias."""
    n = len(distance)
    rows, columns = distance.sum(1, keepdim=True) / (n - 2), distance.sum(0, keepdim=True) / (n - 2)
    centred = distance - rows - columns + distance.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0.0)


def v_centred(distance: Float64[Tensor, "n n"]) -> Float64[Tensor, "n n"]:
    """Definition 3 of the paper of 2007: rows and columns around their means."""
    return distance - distance.mean(1, keepdim=True) - distance.mean(0, keepdim=True) + distance.mean()


def peak_signal_to_noise(
    images: Float[Tensor, "n c h w"], others: Float[Tensor, "n c h w"], span: float = 1.0
) -> Float64[Tensor, " n"]:
    """PSNR of each image in decibels, 10 log10(span² / mean squared error); infinite where nothing differs.

    `span`: how far apart the darkest and the lightest value of a pixel are.
    """
    error = (images.double() - others.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(span**2 / error)


def structural_similarity(
    images: Float[Tensor, "n c h w"], others: Float[Tensor, "n c h w"], span: float = 1.0
) -> Float64[Tensor, " n"]:
    """SSIM of each image, in [-1, 1], 1 for equal ones: the mean over windows (equations 13 and 17) and channels.

    Windows lie wholly inside the image. Where it is smaller than the paper's 11 pixels, the window is the largest odd
    size that fits, with the same deviation: figures of such images compare with one another alone.
    """
    x, y = images.double(), others.double()
    channels, size = x.shape[1], min(WINDOW, *x.shape[2:])
    size -= 1 - size % 2
    places = torch.arange(size, dtype=torch.float64, device=x.device) - size // 2
    line = torch.exp(-places.square() / (2 * DEVIATION**2))
    window = torch.outer(line, line) / line.sum() ** 2
    kernel = window.expand(channels, 1, size, size)

    def mean(values: Float64[Tensor, "n c h w"]) -> Float64[Tensor, "n c i j"]:
        return functional.conv2d(values, kernel, groups=channels)

    mean_x, mean_y = mean(x), mean(y)
    spread_x = mean(x * x) - mean_x.square()
    spread_y = mean(y * y) - mean_y.square()
    shared = mean(x * y) - mean_x * mean_y
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * shared + c2)
    likeness = likeness / ((mean_x.square() + mean_y.square() + c1) * (spread_x + spread_y + c2))
    return likeness.flatten(1).mean(1)
