"""Linear flow matching, and the identity that lets experts train apart and sample as one.

Flow matching: Lipman et al., arXiv 2210.02747; the straight path: Liu et al., 2209.03003. Experts over a partition of
the data: McAllister et al., "Decentralized Diffusion Models", 2501.05450. Time runs from data (t = 0) to noise (t = 1).
For mixtures of Gaussians, and for a finite set of images, all of it has a closed form, which is here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor


def interpolate(
    x0: Float[Tensor, " n *shape"], noise: Float[Tensor, " n *shape"], t: Float[Tensor, " n"]
) -> Float[Tensor, " n *shape"]:
    """x_t = (1 - t) x_0 + t ε, each sample at a time of its own."""
    t = t.view(-1, *[1] * (x0.ndim - 1))
    return (1 - t) * x0 + t * noise


def velocity_target(x0: Float[Tensor, " n *shape"], noise: Float[Tensor, " n *shape"]) -> Float[Tensor, " n *shape"]:
    """ε - x_0: what a network learns to expect at (x_t, t), by mean squared error."""
    return noise - x0


def velocity_of_data(
    xt: Float[Tensor, " n *shape"], x0: Float[Tensor, " n *shape"], t: Float[Tensor, " n"]
) -> Float[Tensor, " n *shape"]:
    """The velocity (x_t - x_0) / t that a prediction of x_0 stands for: exact on the straight path wherever t > 0."""
    return (xt - x0) / t.view(-1, *[1] * (x0.ndim - 1))


def ensemble_velocity(
    velocities: Float[Tensor, "n k *shape"], weights: Float[Tensor, "n k"]
) -> Float[Tensor, " n *shape"]:
    """Σ_k p(k | x, t) u_k(x, t): the flow of all data, where u_k is the flow of cluster k and p its posterior."""
    return (weights.view(*weights.shape, *[1] * (velocities.ndim - 2)) * velocities).sum(1)


class Mixture(ABC):
    """A distribution of data with m components whose flow is known in closed form; samples are vectors."""

    weights: Float[Tensor, " m"]
    """At least zero; they sum to one."""

    def __init__(self, weights: Float[Tensor, " m"]) -> None:
        if not (weights > 0).all() or not torch.isclose(weights.sum(), weights.new_ones(())):
            raise ValueError("weights of a mixture are greater than zero and sum to one")
        self.weights = weights

    @abstractmethod
    def log_likelihoods(self, x: Float[Tensor, "n d"], t: float) -> Float[Tensor, "n m"]:
        """log p_t(x | m): density of a noisy sample, given the component that its data came from. 0 < t <= 1."""

    @abstractmethod
    def velocity(self, x: Float[Tensor, "n d"], t: float, weights: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """Σ_m w_m u_m(x): flows of the components, weighted. Rows of `weights` sum to one."""

    def joint(self, x: Float[Tensor, "n d"], t: float) -> Float[Tensor, "n m"]:
        """log p_t(x, m) up to a constant of each row, whose largest entry is zero.

        Near the data logarithms are as large as 1 / t²; the largest is taken off before anything is summed.
        """
        if not 0 < t <= 1:
            raise ValueError(f"t must be greater than 0 and at most 1, not {t}")
        joint: Tensor = self.weights.log() + self.log_likelihoods(x, t)
        return joint - joint.amax(1, keepdim=True)

    def marginal_velocity(self, x: Float[Tensor, "n d"], t: float) -> Float[Tensor, "n d"]:
        """E[ε - x_0 | x_t = x]: the flow that carries noise to the whole distribution."""
        return self.velocity(x, t, self.joint(x, t).softmax(1))


class GaussianMixture(Mixture):
    """Σ_m w_m N(μ_m, S_m), of which x_t has the components N((1 - t) μ_m, (1 - t)² S_m + t² I)."""

    def __init__(
        self, weights: Float[Tensor, " m"], means: Float[Tensor, "m d"], covariances: Float[Tensor, "m d d"]
    ) -> None:
        super().__init__(weights)
        self.means, self.covariances = means, covariances

    def _residuals(self, x: Float[Tensor, "n d"], t: float) -> tuple[Float[Tensor, "m d n"], Float[Tensor, "m d d"]]:
        """x - (1 - t) μ_m, and Cholesky factors of the covariances of x_t."""
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        factors: Tensor = torch.linalg.cholesky((1 - t) ** 2 * self.covariances + t**2 * identity)
        return (x - (1 - t) * self.means[:, None]).transpose(1, 2), factors

    def log_likelihoods(self, x: Float[Tensor, "n d"], t: float) -> Float[Tensor, "n m"]:
        residuals, factors = self._residuals(x, t)
        distances: Tensor = torch.linalg.solve_triangular(factors, residuals, upper=False).square().sum(1)
        volumes = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        return -0.5 * distances.T - volumes - 0.5 * x.shape[1] * math.log(2 * math.pi)

    def velocity(self, x: Float[Tensor, "n d"], t: float, weights: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        residuals, factors = self._residuals(x, t)
        whitened = torch.cholesky_solve(residuals, factors)  # C_m⁻¹ (x - a μ_m)
        noise = t * whitened  # E[ε | x_t = x, m]
        data = self.means[..., None] + (1 - t) * self.covariances @ whitened  # E[x_0 | x_t = x, m]
        return torch.einsum("nm,mdn->nd", weights, noise - data)


class FiniteSet(Mixture):
    """Finitely many images, each a point mass: what a training set is. u_m(x) = (x - μ_m) / t."""

    def __init__(self, points: Float[Tensor, "m d"], weights: Float[Tensor, " m"] | None = None) -> None:
        """Without weights every point has the same."""
        super().__init__(torch.full_like(points[:, 0], 1 / len(points)) if weights is None else weights)
        self.points = points

    def log_likelihoods(self, x: Float[Tensor, "n d"], t: float) -> Float[Tensor, "n m"]:
        exactly = "donot_use_mm_for_euclid_dist"  # |x|² - 2 xy + |y|² loses what matters near the data
        distances = torch.cdist(x / t, self.points * ((1 - t) / t), compute_mode=exactly).square()
        return -0.5 * distances - x.shape[1] * (math.log(t) + 0.5 * math.log(2 * math.pi))

    def velocity(self, x: Float[Tensor, "n d"], t: float, weights: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        return (x * weights.sum(1, keepdim=True) - weights @ self.points) / t


class Clustered:
    """A mixture whose components are dealt out to K clusters: what K experts and a perfect router would know."""

    def __init__(self, mixture: Mixture, clusters: Int[Tensor, " m"], count: int) -> None:
        """`clusters[m]` in 0..count-1 is the cluster of component m. Raises ValueError for a cluster without any."""
        self.mixture = mixture
        self.members = clusters == torch.arange(count, device=clusters.device)[:, None]
        """Boolean (K, m)."""
        if clusters.shape != mixture.weights.shape or not bool((self.members.sum(0) == 1).all()):
            raise ValueError(f"every component belongs to one cluster of 0..{count - 1}")
        empty = (~self.members.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"clusters without a component: {', '.join(map(str, empty))}")
        self.priors = self.members.to(mixture.weights.dtype) @ mixture.weights
        """p(k), shape (K,)."""

    def responsibilities(
        self, x: Float[Tensor, "n d"], t: float, priors: Float[Tensor, " k"] | None = None
    ) -> Float[Tensor, "n k"]:
        """p(k | x, t) ∝ p(k) p_t(x | k): what the router should say. At t = 1 it is the prior.

        `priors` replaces p(k); uniform ones drop it, and the identity with it.
        """
        joint = self.mixture.joint(x, t)
        evidence = torch.stack([joint[:, members].logsumexp(1) for members in self.members], 1)
        if priors is not None:
            evidence = evidence + (priors.log() - self.priors.log())
        return evidence.softmax(1)

    def velocities(self, x: Float[Tensor, "n d"], t: float) -> Float[Tensor, "n k d"]:
        """u_k(x, t) = E[ε - x_0 | x_t = x, k]: what the expert of each cluster should say."""
        joint = self.mixture.joint(x, t)
        within = [joint.masked_fill(~members, -math.inf).softmax(1) for members in self.members]
        return torch.stack([self.mixture.velocity(x, t, weights) for weights in within], 1)

    def velocity(
        self, x: Float[Tensor, "n d"], t: float, priors: Float[Tensor, " k"] | None = None
    ) -> Float[Tensor, "n d"]:
        """The flow of the ensemble. With the true priors it is the mixture's `marginal_velocity`."""
        return ensemble_velocity(self.velocities(x, t), self.responsibilities(x, t, priors))
