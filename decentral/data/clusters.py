"""Images that are alike, together: the shares of experts that train apart and sample as one.

McAllister et al., "Decentralized Diffusion Models" (arXiv 2501.05450): many fine centroids of features by mini-batch
k-means, their K coarse ones, and the nearest of these wins. Where features come from is not said here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from jaxtyping import Float64, Int64

from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, LabelledImages, Labels, Pixels
from decentral.errors import UserError
from decentral.files import write_atomic

MOST = 16
"""Clusters: as many experts has a pipeline."""
FEWEST = 10
"""Images of a cluster, by default."""
ASSIGNMENT = "assignment.json"
"""Where an ensemble's folder says who had which images."""
WHOLE = "assignment"
SUBSPACE = 4000
"""Images from which principal components are found, at most."""
BATCH = 1000

Features = Float64[np.ndarray, "n d"]
Look = Callable[[Mapping[str, object]], Features]
"""Features of the images that are shared out, in their order, as a person's options ask for them."""


def clusters(
    labels: Labels,
    peers: int,
    generator: np.random.Generator,
    *,
    look: Look,
    features: str = "pixels",
    weights: str | None = None,
    components: int = 32,
    fine: int = 1024,
    largest: float | int | None = None,
    random: bool = False,
    file: str | None = None,
    fewest: int = FEWEST,
) -> list[Indices]:
    """A cluster for each peer. See `group` for `fine` and `largest`.

    `features`: pixels (their first principal `components`), encoder (of a network trained on these images), a name of
    torchvision's with the `weights` in a safetensors file, dinov2 with the folder of a checkpoint as `weights`, or a
    safetensors file with a tensor `features`, a row for each training image. `random` cuts without looking, which is
    what clusters are to be compared with; `file` is read instead of all of it. Raises UserError for more clusters than
    there can be, and for one with fewer than `fewest` images.
    """
    check_count(len(labels), peers, fewest)
    if file is not None:
        return Assignment.load(Path(file)).of(peers, len(labels), file)
    if random:
        shares = [np.sort(share) for share in np.array_split(generator.permutation(len(labels)), peers)]
    else:
        seen = look({"features": features, "weights": weights, "components": components})
        which = group(seen, peers, int(generator.integers(2**31)), fine=fine, largest=largest)
        shares = [np.flatnonzero(which == cluster) for cluster in range(peers)]
    check_shares(shares, fewest)
    return shares


def check_count(images: int, count: int, fewest: int) -> None:
    """Raises UserError."""
    if not 1 <= count <= MOST:
        raise UserError(f"data.partition: {count} clusters cannot be: at least 1, and at most {MOST}")
    if count * fewest > images:
        raise UserError(
            f"data.partition: {images} images are too few for {count} clusters of at least {fewest} (`fewest`)"
        )


def check_shares(shares: Sequence[Indices], fewest: int) -> None:
    """Raises UserError naming the first cluster that is empty or tiny."""
    for cluster, share in enumerate(shares):
        if len(share) < fewest:
            held = f"has {len(share)} images" if len(share) else "is empty"
            raise UserError(
                f"data.partition: cluster {cluster} {held}, and should have {fewest} or more (`fewest`): fewer peers, "
                "another seed, or `largest: 1.5`, which bounds the others, may help"
            )


def group(
    features: Features, count: int, seed: int, *, fine: int = 1024, largest: float | int | None = None
) -> Int64[np.ndarray, " n"]:
    """The cluster of each image. Clusters are numbered by their size, the largest first; equal input, equal output.

    `fine`: centroids in between, at most a quarter of the images. `largest`: no cluster holds more than so many times
    its equal share; images that lie clearly in a cluster come first. Raises UserError for a value that cannot be.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    if fine < count:
        raise UserError(f"data.partition.fine: {fine} centroids are fewer than {count} clusters")
    if largest is not None and largest < 1:
        raise UserError(f"data.partition.largest: must be at least 1, an equal share, not {largest}")
    with threadpool_limits(1):  # sums must not depend on the number of threads
        between = max(count, min(fine, len(features) // 4))
        rough = MiniBatchKMeans(between, random_state=seed, n_init=1, batch_size=1024).fit(features)
        weights = np.bincount(rough.labels_, minlength=between)
        coarse = KMeans(count, random_state=seed, n_init=8).fit(rough.cluster_centers_, sample_weight=weights)
        distances = coarse.transform(features)
    which = distances.argmin(1) if largest is None else _bounded(distances, largest)
    order = np.argsort(-np.bincount(which, minlength=count), kind="stable")
    ranked: Int64[np.ndarray, " n"] = np.argsort(order)[which].astype(np.int64)
    return ranked


def _bounded(distances: Float64[np.ndarray, "n k"], largest: float) -> Int64[np.ndarray, " n"]:
    """The nearest centroid that has room, image after image, those first to whom it matters most."""
    images, count = distances.shape
    room = np.full(count, int(np.ceil(largest * images / count)))
    ordered = np.sort(distances, axis=1)
    matters = ordered[:, min(1, count - 1)] - ordered[:, 0]
    which = np.empty(images, np.int64)
    for image in np.argsort(-matters, kind="stable"):
        choice = next(cluster for cluster in np.argsort(distances[image], kind="stable") if room[cluster])
        which[image] = choice
        room[choice] -= 1
    return which


def nearest(seen: Features, shares: Sequence[Indices], others: Features) -> Int64[np.ndarray, " m"]:
    """The cluster of each of the other images: the one whose mean is nearest."""
    means = np.stack([seen[share].mean(0) for share in shares])
    which: Int64[np.ndarray, " m"] = np.square(others[:, None] - means).sum(2).argmin(1).astype(np.int64)
    return which


class PrincipalComponents:
    """Pixels along the directions in which a training set varies most; each image between 0 and 1 before."""

    def __init__(self, pixels: Pixels, components: int, seed: int, white: int) -> None:
        """Raises UserError where there are fewer directions."""
        from sklearn.decomposition import PCA
        from threadpoolctl import threadpool_limits

        self._white = white
        chosen = np.random.default_rng(derive_seed(seed, "components")).permutation(len(pixels))[:SUBSPACE]
        rows = self._rows(pixels[np.sort(chosen)])
        if not 1 <= components <= min(rows.shape):
            raise UserError(f"data.partition.components: {components} of {min(rows.shape)} cannot be")
        solver = "covariance_eigh" if rows.shape[1] <= 1024 else "randomized"
        with threadpool_limits(1):
            self._fit = PCA(components, svd_solver=solver, random_state=0).fit(rows)

    def __call__(self, pixels: Pixels) -> Features:
        from threadpoolctl import threadpool_limits

        parts = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        with threadpool_limits(1):
            return np.concatenate([self._fit.transform(self._rows(part)) for part in parts])

    def _rows(self, pixels: Pixels) -> Features:
        return pixels.reshape(len(pixels), -1).astype(np.float64) / self._white


@dataclass(frozen=True)
class Assignment:
    """Which images each cluster has, by number among those shared out; which cluster each test image would be in.

    `digests` are BLAKE3 of each cluster's images and labels: equal ones are equal data, not only equal numbers.
    """

    shares: tuple[Indices, ...]
    test: Int64[np.ndarray, " m"]
    digests: tuple[str, ...]

    @classmethod
    def make(
        cls, data: LabelledImages, chosen: Indices, shares: Sequence[Indices], test: Int64[np.ndarray, " m"]
    ) -> Assignment:
        """`chosen` are the training images that are shared out."""
        return cls(tuple(shares), test, tuple(digest(data, chosen[share]) for share in shares))

    @property
    def digest(self) -> str:
        """Of the whole: what peers compare before they train."""
        return blake3("\n".join(self.digests).encode(), derive_key_context="decentral 2026 assignment v1").hexdigest()

    def some(self, share: float, seed: int) -> tuple[Indices, Int64[np.ndarray, " n"]]:
        """So much of each cluster, drawn from the seed and at least one image: numbers, ascending, and clusters."""
        generator = np.random.default_rng(derive_seed(seed, "router", "share"))
        parts = [generator.permutation(held)[: max(1, round(share * len(held)))] for held in self.shares]
        numbers = np.concatenate(parts)
        clusters = np.concatenate([np.full(len(part), cluster) for cluster, part in enumerate(parts)])
        order = np.argsort(numbers)
        return numbers[order], clusters[order].astype(np.int64)

    def save(self, path: Path) -> None:
        """As JSON: `clusters` (image numbers), `digests`, `test` (a cluster for each test image), `assignment`."""
        said = {
            WHOLE: self.digest,
            "digests": self.digests,
            "clusters": [share.tolist() for share in self.shares],
            "test": self.test.tolist(),
        }
        write_atomic(path, json.dumps(said).encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> Assignment:
        """Raises UserError for a file that is not there, or that is none."""
        try:
            said = json.loads(path.expanduser().read_bytes())
            shares = tuple(np.array(share, dtype=np.int64) for share in said["clusters"])
            found = cls(shares, np.array(said["test"], dtype=np.int64), tuple(map(str, said["digests"])))
            whole, flat = said[WHOLE], found.test.ndim == 1 and all(share.ndim == 1 for share in shares)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"data.partition.file: {path} is no assignment ({error})") from error
        if whole != found.digest or not flat or len(found.digests) != len(shares):
            raise UserError(f"data.partition.file: {path} is damaged: its parts do not belong together")
        return found

    def of(self, count: int, images: int, name: str) -> list[Indices]:
        """The shares, if they are those of so many clusters of so many images. Raises UserError."""
        if len(self.shares) != count:
            raise UserError(f"data.partition.file: {name} has {len(self.shares)} clusters, and {count} are needed")
        numbers = np.concatenate(self.shares)
        if len(np.unique(numbers)) != len(numbers):
            raise UserError(f"data.partition.file: in {name}, an image is in two clusters")
        if not np.array_equal(np.sort(numbers), np.arange(images)):
            raise UserError(f"data.partition.file: {name} is of other images than the {images} of data")
        return list(self.shares)

    def check(self, data: LabelledImages, chosen: Indices, cluster: int) -> None:
        """Raises UserError where a cluster is of other images than it was made from."""
        if digest(data, chosen[self.shares[cluster]]) != self.digests[cluster]:
            raise UserError(f"data.partition.file: cluster {cluster} was made from other images than those of data")


def digest(data: LabelledImages, share: Indices) -> str:
    """BLAKE3 of images and labels, in hexadecimal."""
    hashed = blake3(derive_key_context="decentral 2026 images v1")
    hashed.update(json.dumps([*data.image_shape, len(share)]).encode())
    hashed.update(np.ascontiguousarray(data.train_images(share)).tobytes())
    hashed.update(data.train_labels[share].astype("<i8").tobytes())
    return hashed.hexdigest()
