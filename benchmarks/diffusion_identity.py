"""Is the flow of an ensemble that of all data? In closed form, where experts and router are perfect.

    python -m benchmarks.diffusion_identity [--samples 256] [--json FILE]

Two distributions of which everything is known: a mixture of 40 Gaussians in 8 dimensions, and the 1,797 digits as a
finite set, each an equally probable point in 64 dimensions. Both are dealt out to K = 4 clusters by k-means. At each t,
for noisy samples: the largest difference between Σ_k p(k | x, t) u_k(x, t) and the flow of the whole distribution,
computed without clusters in the same dtype; the same in float64 when the clusters' priors are dropped from p; and the
cross-entropy of the perfect router, below which no router gets. Exits with 1 if float64 differs by more than 1e-10, or
if the priors could be dropped unnoticed at t = 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor

from decentral.core.flow import Clustered, FiniteSet, GaussianMixture, interpolate

TIMES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)
TOLERANCE = 1e-10
CLUSTERS = 4
COMPONENTS, DIMENSIONS = 40, 8

Problem = Callable[[torch.dtype], tuple[Clustered, Tensor]]
"""A clustered distribution in a dtype, and data of it, as many as there are samples, in float64."""


@dataclass(frozen=True, slots=True)
class Row:
    """Largest absolute differences over samples and dimensions; `router`: nats."""

    distribution: str
    t: float
    float64: float
    float32: float
    without_priors: float
    router: float


def clusters_of(points: Tensor) -> Tensor:
    found = KMeans(CLUSTERS, n_init=10, random_state=0).fit_predict(points.numpy())
    return torch.from_numpy(found).long()


def gaussians(samples: int, generator: torch.Generator) -> Problem:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factors = normal(COMPONENTS, DIMENSIONS, DIMENSIONS) / 4
    covariances = factors @ factors.mT + 0.01 * torch.eye(DIMENSIONS, dtype=torch.float64)
    means, weights = normal(COMPONENTS, DIMENSIONS), torch.rand(COMPONENTS, generator=generator, dtype=torch.float64)
    weights /= weights.sum()
    drawn = torch.multinomial(weights, samples, replacement=True, generator=generator)
    root = torch.linalg.cholesky(covariances)[drawn]
    data = means[drawn] + (root @ normal(samples, DIMENSIONS, 1))[..., 0]
    clusters = clusters_of(means)

    def problem(dtype: torch.dtype) -> tuple[Clustered, Tensor]:
        mixture = GaussianMixture(weights.to(dtype), means.to(dtype), covariances.to(dtype))
        return Clustered(mixture, clusters, CLUSTERS), data

    return problem


def digits(samples: int, generator: torch.Generator) -> Problem:
    points = torch.from_numpy(load_digits().data) / 8 - 1  # to [-1, 1]
    data = points[torch.randint(len(points), (samples,), generator=generator)]
    clusters = clusters_of(points)
    return lambda dtype: (Clustered(FiniteSet(points.to(dtype)), clusters, CLUSTERS), data)


def measure(name: str, problem: Problem, generator: torch.Generator) -> list[Row]:
    exact, data = problem(torch.float64)
    single, _ = problem(torch.float32)
    uniform = torch.full_like(exact.priors, 1 / CLUSTERS)
    rows = []
    for t in TIMES:
        noise = torch.randn(data.shape, generator=generator, dtype=torch.float64)
        x = interpolate(data, noise, torch.full((len(data),), t, dtype=torch.float64))
        flow, responsibilities = exact.mixture.marginal_velocity(x, t), exact.responsibilities(x, t)
        rounded = x.float()
        rows.append(
            Row(
                distribution=name,
                t=t,
                float64=difference(exact.velocity(x, t), flow),
                float32=difference(single.velocity(rounded, t), single.mixture.marginal_velocity(rounded, t)),
                without_priors=difference(exact.velocity(x, t, uniform), flow),
                router=torch.special.entr(responsibilities).sum(1).mean().item(),
            )
        )
    return rows


def difference(found: Tensor, expected: Tensor) -> float:
    return (found - expected).abs().max().item()


def faults(rows: list[Row]) -> list[str]:
    """What stands against the claim."""
    found = [
        f"{row.distribution}, t = {row.t}: differs by {row.float64:.1e}" for row in rows if not row.float64 <= TOLERANCE
    ]
    return found + [
        f"{row.distribution}: without the priors nothing is missing at t = 1"
        for row in rows
        if row.t == 1 and row.without_priors <= TOLERANCE
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for number, (name, make) in enumerate({"40 Gaussians": gaussians, "1,797 digits": digits}.items()):
        generator = torch.Generator().manual_seed(number)
        problem = make(options.samples, generator)
        clustered, _ = problem(torch.float64)
        priors, entropy = clustered.priors, torch.special.entr(clustered.priors).sum()
        shares = ", ".join(f"{prior:.3f}" for prior in priors.tolist())
        print(f"\n{name}: K = {CLUSTERS}, priors {shares} (entropy {entropy:.3f} nats)\n")
        print("| t | float64 | float32 | without priors | perfect router, nats |\n|---|---|---|---|---|")
        for row in measure(name, problem, generator):
            print(
                f"| {row.t:g} | {row.float64:.1e} | {row.float32:.1e} | {row.without_priors:.1e} | {row.router:.4f} |"
            )
            rows.append(row)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    problems = faults(rows)
    worst = max((row.float64 for row in rows), default=math.nan)
    print(f"\nlargest difference in float64: {worst:.1e}; at most {TOLERANCE:.0e} is allowed", *problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
