"""Clusters are the same for everybody, hold each image once, and are refused where they cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from decentral.data.clusters import Assignment, PrincipalComponents, clusters, digest, group, nearest
from decentral.data.datasets import load_dataset
from decentral.data.partition import partition
from decentral.errors import UserError


def blobs(sizes: list[int], seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = 10 * np.eye(len(sizes), 6)
    return np.concatenate(
        [centre + generator.normal(size=(size, 6)) for centre, size in zip(centres, sizes, strict=True)]
    )


def shared_out(features: np.ndarray, count: int, **options: object) -> list[np.ndarray]:
    labels = np.zeros(len(features), np.int64)
    return partition("clusters", labels, count, 0, look=lambda asked: features, **options)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_what_lies_together_stays_together_and_the_largest_comes_first():
    sizes = [30, 80, 50]
    shares = shared_out(blobs(sizes), 3)
    assert [len(share) for share in shares] == [80, 50, 30]
    assert shares[0].tolist() == list(range(30, 110))


@pytest.mark.parametrize("largest", [None, 1.0, 1.3])
def test_every_image_is_in_one_cluster_and_none_is_larger_than_it_may_be(largest: float | None):
    features = blobs([20, 150, 40])
    shares = shared_out(features, 4, largest=largest, fewest=1)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(210))
    assert max(map(len, shares)) <= np.ceil((largest or 4) * 210 / 4)


def test_whoever_asks_gets_the_same_and_another_seed_another_random_cut():
    features = blobs([40, 60])
    labels = np.zeros(100, np.int64)
    assert np.array_equal(group(features, 2, 7), group(features, 2, 7))
    cuts = [partition("clusters", labels, 2, seed, look=None, random=True) for seed in (0, 0, 1)]
    assert np.array_equal(cuts[0][0], cuts[1][0]) and not np.array_equal(cuts[0][0], cuts[2][0])


def test_a_random_cut_looks_at_nothing():
    shares = clusters(np.zeros(40, np.int64), 2, np.random.default_rng(0), look=lambda asked: 1 / 0, random=True)
    assert [len(share) for share in shares] == [20, 20]


@pytest.mark.parametrize(
    ("count", "options", "problem"),
    [
        (17, {}, "17 clusters cannot be: at least 1, and at most 16"),
        (11, {}, "100 images are too few for 11 clusters of at least 10"),
        (2, {"fine": 1}, "data.partition.fine: 1 centroids are fewer than 2 clusters"),
        (2, {"largest": 0.5}, "data.partition.largest: must be at least 1"),
        (2, {"file": "/nowhere.json"}, "data.partition.file: .*nowhere.json is no assignment"),
    ],
)
def test_what_cannot_be_is_named(count: int, options: dict[str, object], problem: str):
    with pytest.raises(UserError, match=problem):
        shared_out(blobs([50, 50]), count, **options)


def test_a_tiny_cluster_is_named():
    with pytest.raises(UserError, match="cluster 1 has 3 images, and should have 10 or more"):
        shared_out(blobs([60, 3]), 2)
    assert len(shared_out(blobs([60, 3]), 2, fewest=3)[1]) == 3


def test_a_test_image_belongs_where_the_nearest_mean_is():
    features = blobs([40, 60])
    shares = shared_out(features, 2)
    assert nearest(features, shares, 10 * np.eye(2, 6)).tolist() == [1, 0]


def test_components_are_those_that_vary_most_whatever_white_is(digits):
    pixels = digits.train_images(np.arange(200))
    look = PrincipalComponents(pixels, 8, 0, digits.white)
    found = look(pixels)
    assert found.shape == (200, 8)
    spread = found.var(0)
    assert (np.diff(spread) < 0).all()
    bright = PrincipalComponents((pixels * 15).astype(np.uint8), 8, 0, 240)
    np.testing.assert_allclose(bright((pixels * 15).astype(np.uint8)), found, atol=1e-6)
    with pytest.raises(UserError, match=r"data\.partition\.components: 65"):
        PrincipalComponents(pixels, 65, 0, digits.white)


# ---- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def assignment(digits) -> Assignment:
    shares = [np.arange(0, 1442, 2), np.arange(1, 1442, 2)]
    return Assignment.make(digits, np.arange(1442), shares, np.zeros(355, np.int64))


def test_a_file_gives_the_assignment_back(assignment, tmp_path):
    path = tmp_path / "assignment.json"
    assignment.save(path)
    again = Assignment.load(path)
    assert again.digest == assignment.digest and again.digests == assignment.digests
    assert np.array_equal(again.shares[1], assignment.shares[1])
    labels = np.zeros(1442, np.int64)
    shares = partition("clusters", labels, 2, 0, look=None, file=str(path))
    assert np.array_equal(shares[0], assignment.shares[0])
    with pytest.raises(UserError, match="has 2 clusters, and 3 are needed"):
        partition("clusters", labels, 3, 0, look=None, file=str(path))
    with pytest.raises(UserError, match="is of other images than the 1000 of data"):
        partition("clusters", labels[:1000], 2, 0, look=None, file=str(path))


def test_an_image_in_two_clusters_is_refused(digits, tmp_path):
    shares = [np.arange(1442), np.arange(1)]
    Assignment.make(digits, np.arange(1442), shares, np.zeros(355, np.int64)).save(tmp_path / "a.json")
    with pytest.raises(UserError, match="an image is in two clusters"):
        partition("clusters", np.zeros(1442, np.int64), 2, 0, look=None, file=str(tmp_path / "a.json"), fewest=1)


def test_other_images_have_another_digest(digits, assignment):
    assignment.check(digits, np.arange(1442), 0)
    with pytest.raises(UserError, match="cluster 0 was made from other images"):
        assignment.check(digits, np.arange(1442)[::-1], 0)
    assert digest(digits, np.array([0, 1])) != digest(digits, np.array([1, 0]))


@pytest.mark.parametrize("key", ["digests", "assignment", "clusters", "test"])
def test_a_damaged_file_is_refused(assignment, tmp_path, key: str):
    path = tmp_path / "assignment.json"
    assignment.save(path)
    said = json.loads(path.read_text())
    said[key] = said[key][1:]
    path.write_text(json.dumps(said))
    if key == "test":  # any number of test images may be meant: the digest is of what is trained on
        assert len(Assignment.load(path).test) == 354
        return
    with pytest.raises(UserError, match="damaged"):
        Assignment.load(path)


def test_some_of_each_cluster_is_a_share_with_its_labels(assignment):
    numbers, which = assignment.some(0.25, seed=3)
    assert len(numbers) == len(which) == 2 * round(0.25 * 721)
    assert np.array_equal(numbers % 2, which) and (np.diff(numbers) > 0).all()
    assert len(assignment.some(1.0, seed=3)[0]) == 1442
