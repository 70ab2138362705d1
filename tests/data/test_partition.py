from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.data.partition import PARTITIONS, partition, subset, with_proxy
from decentral.errors import UserError

SEEDS = st.integers(0, 2**31)


@st.composite
def labelled(draw: st.DrawFn) -> np.ndarray:
    """Labels of up to 12 classes, some of them rare or absent."""
    classes = draw(st.integers(1, 12))
    counts = draw(st.lists(st.integers(0, 40), min_size=classes, max_size=classes).filter(any))
    labels = np.repeat(np.arange(classes), counts)
    return np.random.default_rng(draw(SEEDS)).permutation(labels)


OPTIONS = st.one_of(
    st.tuples(st.just("iid"), st.just({})),
    st.tuples(st.just("by-class"), st.just({})),
    st.tuples(st.just("dirichlet"), st.fixed_dictionaries({"alpha": st.sampled_from([1e-3, 0.1, 1.0, 100.0])})),
    st.tuples(st.just("shards"), st.fixed_dictionaries({"shards": st.integers(1, 4)})),
)


@given(labels=labelled(), peers=st.integers(1, 12), seed=SEEDS, chosen=OPTIONS)
def test_every_image_is_at_exactly_one_peer_and_no_peer_is_empty_or_it_is_refused(
    labels: np.ndarray, peers: int, seed: int, chosen: tuple[str, dict[str, float]]
) -> None:
    name, options = chosen
    try:
        shares = partition(name, labels, peers, seed, **options)
    except UserError:
        fits = {"iid": peers <= len(labels), "dirichlet": peers <= len(labels)}
        fits["by-class"] = len(np.unique(labels % peers)) == peers
        fits["shards"] = peers * options.get("shards", 2) <= len(labels)
        assert not fits[name], "refused although every peer could have had images"
        return
    assert len(shares) == peers
    assert all(len(share) for share in shares)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(len(labels)))


@given(labels=labelled(), seed=SEEDS, chosen=OPTIONS)
def test_one_seed_gives_one_partition(labels: np.ndarray, seed: int, chosen: tuple[str, dict[str, float]]) -> None:
    peers = 1 + len(labels) // 50
    name, options = chosen
    try:
        first, second = (partition(name, labels, peers, seed, **options) for _ in range(2))
    except UserError:
        return
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(("name", "options"), [("iid", {}), ("dirichlet", {"alpha": 1.0}), ("shards", {})])
def test_another_seed_gives_another_partition(name: str, options: dict[str, float]) -> None:
    labels = np.arange(200) % 10
    assert not np.array_equal(partition(name, labels, 4, 0, **options)[0], partition(name, labels, 4, 1, **options)[0])


def test_partitions_are_the_same_with_every_version_of_numpy() -> None:
    """Peers on different machines compute the partition by themselves; a change of a random stream must be seen."""
    labels = np.arange(500) % 10
    digests = {
        name: hashlib.sha256(
            b"".join(share.tobytes() for share in partition(name, labels, 5, 7, **options))
        ).hexdigest()
        for name, options in {"iid": {}, "dirichlet": {"alpha": 0.1}, "shards": {"shards": 2}}.items()
    }
    assert {name: digest[:16] for name, digest in digests.items()} == PINNED


PINNED = {"iid": "0dafe9275fee029d", "dirichlet": "06cd29d8d9040360", "shards": "705d475798898742"}


@given(labels=labelled(), peers=st.integers(1, 12), seed=SEEDS)
def test_iid_shares_differ_by_one_image_at_most(labels: np.ndarray, peers: int, seed: int) -> None:
    peers = min(peers, len(labels))
    sizes = [len(share) for share in partition("iid", labels, peers, seed)]
    assert max(sizes) - min(sizes) <= 1


def test_by_class_puts_class_c_at_peer_c_mod_n() -> None:
    labels = np.arange(100) % 10
    for peer, share in enumerate(partition("by-class", labels, 3, 0)):
        assert {*labels[share]} == {label for label in range(10) if label % 3 == peer}


@given(labels=labelled(), peers=st.integers(1, 12), seed=SEEDS, alpha=st.sampled_from([1e-3, 0.1, 1.0]))
def test_dirichlet_leaves_ten_images_to_every_peer_where_there_are_enough(
    labels: np.ndarray, peers: int, seed: int, alpha: float
) -> None:
    peers = min(peers, len(labels))
    shares = partition("dirichlet", labels, peers, seed, alpha=alpha)
    assert min(map(len, shares)) >= min(10, len(labels) // peers)


def test_a_smaller_alpha_makes_peers_more_different() -> None:
    labels = np.arange(5000) % 10

    def distance(alpha: float) -> float:
        """Mean total variation between a peer's classes and all."""
        shares = partition("dirichlet", labels, 5, 0, alpha=alpha)
        return float(np.mean([abs(np.bincount(labels[s], minlength=10) / len(s) - 0.1).sum() / 2 for s in shares]))

    assert distance(0.1) > distance(1.0) > distance(100.0)


@given(seed=SEEDS, shards=st.integers(1, 4))
def test_a_peer_has_few_classes_with_few_shards(seed: int, shards: int) -> None:
    labels = np.arange(400) % 10
    for share in partition("shards", labels, 5, seed, shards=shards):
        pieces = 5 * shards
        classes_of_a_shard = int(np.ceil(10 / pieces)) + 1
        assert len(np.unique(labels[share])) <= shards * classes_of_a_shard


@pytest.mark.parametrize(
    ("name", "peers", "options", "message"),
    [
        ("iid", 0, {}, "at least one peer"),
        ("iid", 101, {}, "without training images"),
        ("by-class", 11, {}, "10 classes are too few for 11 peers"),
        ("dirichlet", 5, {"alpha": 0.0}, "alpha must be"),
        ("dirichlet", 5, {"alpha": float("inf")}, "alpha must be"),
        ("dirichlet", 5, {"alpha": float("nan")}, "alpha must be"),
        ("dirichlet", 5, {}, "needs alpha"),
        ("dirichlet", 5, {"beta": 1}, "does not take beta"),
        ("shards", 60, {"shards": 2}, "2 shards for each of 60 peers"),
        ("shards", 5, {"shards": 0}, "0 shards"),
        ("dirichlett", 5, {}, "did you mean 'dirichlet'"),
    ],
)
def test_what_cannot_be_partitioned_is_refused_with_its_reason(
    name: str, peers: int, options: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        partition(name, np.arange(100) % 10, peers, 0, **options)


def test_a_partition_of_the_users_that_loses_an_image_is_refused() -> None:
    labels = np.arange(10) % 2

    @PARTITIONS.register("test-halves")
    def halves(labels: np.ndarray, peers: int, generator: np.random.Generator, keep: int = 10) -> list[np.ndarray]:
        return [np.arange(0, 5), np.arange(5, keep)]

    assert [share.tolist() for share in partition("test-halves", labels, 2, 0)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    with pytest.raises(UserError, match="exactly one of 2 peers"):
        partition("test-halves", labels, 2, 0, keep=9)
    with pytest.raises(UserError, match="exactly one of 3 peers"):
        partition("test-halves", labels, 3, 0)


@pytest.mark.parametrize(
    ("name", "options"), [("iid", {}), ("by-class", {}), ("dirichlet", {"alpha": 0.1}), ("shards", {"shards": 2})]
)
@pytest.mark.parametrize("peers", [1, 4, 10])
def test_every_partition_shares_out_an_exactly_balanced_subset(
    name: str, options: dict[str, float], peers: int
) -> None:
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(10), np.arange(40, 140, 10)))
    chosen = subset(labels, 300, 5)
    assert np.bincount(labels[chosen]).tolist() == [30] * 10
    shares = [chosen[share] for share in partition(name, labels[chosen], peers, 5, **options)]
    assert np.array_equal(np.sort(np.concatenate(shares)), chosen)


def test_by_class_gives_the_first_peers_one_class_more_where_peers_do_not_divide_the_classes() -> None:
    labels = np.arange(100) % 10
    assert [len(np.unique(labels[share])) for share in partition("by-class", labels, 4, 0)] == [3, 3, 2, 2]


@given(labels=labelled(), seed=SEEDS, data=st.data())
def test_a_proxy_set_is_as_balanced_as_can_be_and_in_nobodys_share(
    labels: np.ndarray, seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.none() | st.integers(1, len(labels)))
    proxy = data.draw(st.integers(0, len(labels)))
    room = len(labels) - (size or 1)
    if not 1 <= proxy <= room:
        with pytest.raises(UserError, match=rf"matching\.samples: {proxy} images .* {room} are left"):
            with_proxy(labels, size, proxy, seed)
        return
    kept, held = with_proxy(labels, size, proxy, seed)
    assert len(held) == proxy
    assert not {*kept} & {*held}
    if size is None:
        assert len(kept) == len(labels) - proxy
        rest = np.arange(len(labels))
    else:
        assert np.array_equal(kept, subset(labels, size, seed)), "the shares depend on the proxy set"
        rest = np.setdiff1d(np.arange(len(labels)), kept)
    classes = labels.max() + 1
    there, taken = np.bincount(labels[rest], minlength=classes), np.bincount(labels[held], minlength=classes)
    assert all(count >= taken.max() - 1 or count == available for count, available in zip(taken, there, strict=True))


@given(labels=labelled(), seed=SEEDS, data=st.data())
def test_a_subset_takes_from_every_class_in_turn(labels: np.ndarray, seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(labels)))
    chosen = subset(labels, size, seed)
    assert len(chosen) == len(np.unique(chosen)) == size
    assert np.array_equal(chosen, subset(labels, size, seed))
    there, taken = np.bincount(labels), np.bincount(labels[chosen], minlength=labels.max() + 1)
    most = taken.max()
    assert all(count >= most - 1 or count == available for count, available in zip(taken, there, strict=True))


def test_no_subset_is_everything_and_an_impossible_one_is_refused() -> None:
    labels = np.arange(20) % 4
    assert np.array_equal(subset(labels, None, 0), np.arange(20))
    assert len(subset(labels, 20, 0)) == 20
    for size in (0, 21):
        with pytest.raises(UserError, match=r"data\.subset"):
            subset(labels, size, 0)
