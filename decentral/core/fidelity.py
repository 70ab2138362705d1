"""How near generated images are to real ones, and how far a router's probabilities can be believed.

Fréchet distance: Heusel et al., arXiv 1706.08500, equation 6. Kernel distance (KID): Bińkowski et al., 1801.01401.
Precision and recall: Kynkäänniemi et al., 1904.06991, equations 1 and 2. Calibration: Guo et al., 1706.04599,
equation 3. Features are rows; of which network they are is the caller's to say. All of it is float64.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROWS = 1024


def gaussian_fit(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and unbiased covariance. Raises ValueError for fewer than two samples."""
    if len(features) < 2:
        raise ValueError("a covariance needs at least two samples")
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(
    mean_a: Float[Tensor, " d"],
    covariance_a: Float[Tensor, "d d"],
    mean_b: Float[Tensor, " d"],
    covariance_b: Float[Tensor, "d d"],
) -> float:
    """|μ_a - μ_b|² + tr(A + B - 2 (A B)^½), at least zero.

    tr (A B)^½ is the sum of the roots of the eigenvalues of A^½ B A^½, which is symmetric: singular covariances, those
    of few samples, need no small number added to them.
    """
    mean_a, covariance_a, mean_b, covariance_b = (x.double() for x in (mean_a, covariance_a, mean_b, covariance_b))
    values, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * shared
    return max(float(distance), 0.0)


def kernel_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """The unbiased estimate of the squared MMD under k(x, y) = (x·y / d + 1)³; it can be below zero.

    All pairs at once, where KID's authors average over subsets. Raises ValueError for fewer than two samples.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError("the unbiased kernel distance needs at least two samples of each kind")
    a, b = a.double(), b.double()

    def total(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([(rows @ y.T / y.shape[1] + 1).pow(3).sum() for rows in torch.split(x, _ROWS)]).sum()

    def within(x: Tensor) -> Tensor:
        own = (x.square().sum(1) / x.shape[1] + 1).pow(3).sum()
        return (total(x, x) - own) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b)))


def precision_and_recall(
    real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"], neighbours: int = 3
) -> tuple[float, float]:
    """(share of generated samples inside the real manifold, share of real ones inside the generated manifold).

    A manifold is the union of balls around its samples, each as wide as the distance to its k-th nearest other sample.
    Raises ValueError unless there are more than k samples of each kind.
    """
    if neighbours < 1 or min(len(real), len(generated)) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need more than {neighbours} samples of each kind, and at least one")
    real, generated = real.double(), generated.double()
    precision = _inside(generated, real, _radii(real, neighbours))
    recall = _inside(real, generated, _radii(generated, neighbours))
    return precision.double().mean().item(), recall.double().mean().item()


def _distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # so that equal samples are at distance zero


def _radii(samples: Float[Tensor, "n d"], neighbours: int) -> Float[Tensor, " n"]:
    """The nearest of all is the sample itself."""
    return torch.cat(
        [_distances(rows, samples).kthvalue(neighbours + 1, 1).values for rows in torch.split(samples, _ROWS)]
    )


def _inside(
    samples: Float[Tensor, "n d"], centres: Float[Tensor, "m d"], radii: Float[Tensor, " m"]
) -> Bool[Tensor, " n"]:
    return torch.cat([(_distances(rows, centres) <= radii).any(1) for rows in torch.split(samples, _ROWS)])


def expected_calibration_error(probabilities: Float[Tensor, "n k"], labels: Int[Tensor, " n"], bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of the largest probability.

    Raises ValueError without samples.
    """
    if not len(labels) or bins < 1:
        raise ValueError("a calibration error needs samples and bins")
    confidence, answer = probabilities.double().max(1)
    right = (answer == labels).double()
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # (0, 1/b], (1/b, 2/b], ...
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device).index_add_(0, place, right - confidence)
    return (gaps.abs().sum() / len(labels)).item()
