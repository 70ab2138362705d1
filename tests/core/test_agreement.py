"""f liars never are a quorum, honest quorums always win, and nobody's place in the list matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.agreement import (
    Outcome,
    certified,
    distance,
    distances,
    end_to_end,
    exact_distances,
    vote,
)
from decentral.core.quorum import Sizes, against_colluders, with_deadlines

TOLERANCE = 1e-3
SIZES = [with_deadlines(1), with_deadlines(2), against_colluders(1), against_colluders(2)]
sizes = st.sampled_from(SIZES)
seeds = st.integers(0, 2**32 - 1)
LIES = ["together", "apart", "at the edge", "not a number", "huge", "another shape"]


def tensor(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (3, 5)), generator=torch.Generator().manual_seed(seed))


def near(answer: Tensor, seed: int, share: float) -> Tensor:
    """At most `share` of the tolerance away."""
    off = torch.rand(answer.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return answer + off * answer.abs().amax(1, keepdim=True) * TOLERANCE * share * 0.98


def lie(kind: str, truth: Tensor, seed: int) -> Tensor:
    match kind:
        case "together":
            return truth * 2
        case "apart":
            return truth + 5 * tensor(seed)
        case "at the edge":
            return truth + truth.abs().amax(1, keepdim=True) * TOLERANCE * 0.9
        case "not a number":
            return torch.full_like(truth, torch.nan)
        case "huge":
            return truth * 1e38
        case _:
            return truth[:2]


def answers(honest: int, lying: int, kind: str, seed: int) -> tuple[list[str], list[dict[str, Tensor]]]:
    truth = tensor(seed)
    given = {f"honest-{i}": near(truth, seed + i + 1, 0.5) for i in range(honest)}
    given |= {f"a-liar-{i}": lie(kind, truth, seed + 100 + i) for i in range(lying)}
    return list(given), [{"y": answer} for answer in given.values()]


# The vote


@given(sizes, st.integers(0, 4), st.sampled_from(LIES), seeds)
def test_a_quorum_of_honest_replicas_wins_however_others_lie(size: Sizes, lying: int, kind: str, seed: int) -> None:
    lying = min(lying, size.faulty)
    who, said = answers(size.replicas - lying, lying, kind, seed)
    ruling = vote(who, distances(said), TOLERANCE, size.quorum)
    assert ruling.outcome is Outcome.AGREED
    winner = said[who.index(str(ruling.winner))]
    honest = [answer for name, answer in zip(who, said, strict=True) if name.startswith("honest")]
    assert any(distance(winner, answer) <= TOLERANCE for answer in honest)
    if kind != "at the edge":
        assert ruling.near == {name for name in who if name.startswith("honest")}
        assert ruling.far == {name for name in who if "liar" in name}


@given(sizes, st.integers(0, 5), st.sampled_from(LIES), seeds)
def test_f_liars_are_no_quorum_whoever_else_is_silent(size: Sizes, honest: int, kind: str, seed: int) -> None:
    """2 f of them are none either where the quorum is 2 f + 1."""
    most = size.quorum - 1
    who, said = answers(min(honest, size.replicas - most), most, kind, seed)
    ruling = vote(who, distances(said), TOLERANCE, size.quorum)
    if ruling.outcome is Outcome.AGREED:
        assert any(name.startswith("honest") for name in ruling.near)
    alone = [place for place, name in enumerate(who) if "liar" in name]
    lies = vote([who[i] for i in alone], distances([said[i] for i in alone]), TOLERANCE, size.quorum)
    assert lies.outcome is Outcome.NO_QUORUM
    assert lies.winner is None


@given(st.integers(1, 7), st.integers(1, 7), st.floats(0.1, 4), seeds, st.randoms())
def test_the_order_of_the_answers_does_not_matter(count: int, quorum: int, spread: float, seed: int, order) -> None:
    """Nor does it decide ties: these are numbers on a line, in steps of the tolerance, many of them equal."""
    rng = np.random.default_rng(seed)
    places = np.round(rng.uniform(0, spread, count), 1)
    who = [f"peer-{i}" for i in range(count)]
    ruling = vote(who, np.abs(places[:, None] - places), 1.0, quorum)
    shuffled = list(range(count))
    order.shuffle(shuffled)
    again = places[shuffled]
    assert ruling == vote([who[i] for i in shuffled], np.abs(again[:, None] - again), 1.0, quorum)


def test_ties_go_to_the_centre_and_then_to_the_lesser_name() -> None:
    line = np.array([0.0, 0.5, 1.0])
    assert vote(["a", "b", "c"], np.abs(line[:, None] - line), 1.0, 2).winner == "b"
    assert vote(["c", "a", "b"], np.zeros((3, 3)), 1.0, 2).winner == "a"


def test_neighbours_of_neighbours_are_no_quorum() -> None:
    chain = np.arange(6) * 0.9
    ruling = vote(list("abcdef"), np.abs(chain[:, None] - chain), 1.0, 4)
    assert ruling.outcome is Outcome.NO_QUORUM
    assert len(ruling.near) == 3


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_two_quorums_apart_are_a_split_and_need_sizes_that_allow_them(k: int, q: int, one: int, other: int) -> None:
    q, one = min(q, k), min(one, k)
    other = min(other, k - one)
    side = np.array([0.0] * one + [9.0] * other + [100.0 * (i + 2) for i in range(k - one - other)])
    ruling = vote([f"p{i}" for i in range(k)], np.abs(side[:, None] - side), 1.0, q)
    groups = sorted([one, other, *[1] * (k - one - other)])
    expected = (
        Outcome.SPLIT
        if len(groups) > 1 and groups[-2] >= q
        else Outcome.AGREED
        if groups[-1] >= q
        else Outcome.NO_QUORUM
    )
    assert ruling.outcome is expected
    if Sizes(k, q - 1, q).lone:
        assert ruling.outcome is not Outcome.SPLIT
    assert (ruling.winner is not None) == (ruling.outcome is Outcome.AGREED)


def test_identities_that_answer_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="answers twice"):
        vote(["a", "a"], np.zeros((2, 2)), 1.0, 2)


def test_where_bits_are_equal_one_bit_is_another_answer() -> None:
    ruling = vote(["a", "b", "c"], exact_distances([b"x", b"y", b"x"]), 0.0, 2)
    assert (ruling.outcome, ruling.near, ruling.far) == (Outcome.AGREED, {"a", "c"}, {"b"})
    assert vote([], exact_distances([]), 0.0, 1).outcome is Outcome.NO_QUORUM


# Distances


@given(seeds, seeds, st.floats(1e-30, 1e30))
def test_a_distance_is_symmetric_relative_and_bounded(one: int, other: int, scale: float) -> None:
    a, b = tensor(one).double(), tensor(other).double()
    apart = distance({"y": a}, {"y": b})
    assert apart == distance({"y": b}, {"y": a}) <= 2
    assert distance({"y": a * scale}, {"y": b * scale}) == pytest.approx(apart)
    assert distance({"y": a}, {"y": a.clone()}) == 0
    assert (apart == 0) == torch.equal(a, b)


def test_every_sample_counts_on_its_own_scale() -> None:
    a = torch.tensor([[100.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[100.0, 0.0], [1.0, 0.5]])
    assert distance({"y": a}, {"y": b}) == 0.5
    rounding = torch.tensor([[100.0, 0.0], [1e-9, 0.0]])
    assert distance({"y": a * torch.tensor([[1.0], [0.0]])}, {"y": rounding}) < 1e-7


def test_the_largest_of_several_tensors_counts() -> None:
    one, other = {"a": torch.ones(2), "b": torch.ones(2)}, {"a": torch.ones(2), "b": torch.full((2,), 0.75)}
    assert distance(one, other) == 0.25


@pytest.mark.parametrize(
    "other",
    [
        {"z": torch.ones(2, 2)},
        {"y": torch.ones(2, 2), "z": torch.ones(1)},
        {},
        {"y": torch.ones(2, 3)},
        {"y": torch.ones(4)},
        {"y": torch.ones(2, 2).double()},
        {"y": torch.ones(2, 2).long()},
        {"y": torch.tensor([[1.0, torch.nan], [1, 1]])},
        {"y": torch.tensor([[1.0, torch.inf], [1, 1]])},
    ],
)
def test_what_is_no_such_answer_is_infinitely_far(other: dict[str, Tensor]) -> None:
    honest = {"y": torch.ones(2, 2)}
    assert distance(honest, other) == distance(other, honest) == float("inf")
    assert distance(honest, honest) == 0
    if other and not other.get("y", torch.ones(1)).isfinite().all():
        assert distance(other, other) == float("inf"), "it agrees with nobody, not even with itself"


def test_integers_are_equal_or_far_and_extremes_overflow_nothing() -> None:
    assert distance({"y": torch.tensor([1, 2])}, {"y": torch.tensor([1, 2])}) == 0
    assert distance({"y": torch.tensor([1, 2])}, {"y": torch.tensor([1, 3])}) == float("inf")
    most = torch.full((1, 2), torch.finfo(torch.float64).max, dtype=torch.float64)
    assert distance({"y": most / 4}, {"y": -most / 4}) == 2
    assert distance({"y": most}, {"y": -most}) == float("inf")
    assert distance({"y": torch.zeros(0, 3)}, {"y": torch.zeros(0, 3)}) == 0
    assert distance({"y": torch.zeros(2, 3)}, {"y": torch.zeros(2, 3)}) == 0


# Certificates


@given(seeds, st.floats(0, 0.3), seeds)
def test_no_drift_within_the_bound_changes_a_certified_class(seed: int, drift: float, other: int) -> None:
    logits = tensor(seed, 20, 4).double()
    classes = certified(logits, drift)
    decided = classes >= 0
    assert torch.equal(classes[decided], logits.argmax(1)[decided])
    assert torch.equal(certified(logits, 0.0), logits.argmax(1))
    rival = logits.topk(2, 1).indices[:, 1]
    worst = torch.zeros(20, 4).double()  # the first loses and the second gains
    worst[range(20), logits.argmax(1)] = -1.0
    worst[range(20), rival] = 1.0
    for lean in (worst, torch.rand(20, 4, generator=torch.Generator().manual_seed(other)).double() * 2 - 1):
        moved = logits + lean * drift * logits.abs().amax(1, keepdim=True)
        assert distance({"y": moved}, {"y": logits}) <= drift + 1e-12
        assert torch.equal(moved.argmax(1)[decided], classes[decided])


def test_what_a_drift_could_change_is_undecided() -> None:
    logits = torch.tensor([[1.0, 0.9, 0.0], [1.0, 0.2, 0.0], [1.0, 1.0, 0.0], [torch.nan, 0.0, 9.0]])
    assert certified(logits, 0.1).tolist() == [-1, 0, -1, -1]
    assert certified(logits, 1.0).tolist() == [-1] * 4
    assert certified(torch.ones(2, 1), 0.1).tolist() == [0, 0]


def test_drifts_grow_through_the_stages_that_come_after() -> None:
    assert end_to_end([0.1], [1.0]) == pytest.approx(0.1)
    assert end_to_end([0.1, 0.2, 0.3], [9.0, 2.0, 1.0]) == pytest.approx(0.1 * 9 + 0.2 * 2 + 0.3)
    assert end_to_end([], []) == 0


def test_an_answer_that_several_gave_is_compared_as_if_each_had_its_own() -> None:
    one, other = {"x": torch.tensor([1.0, 2.0])}, {"x": torch.tensor([1.0, 2.5])}
    lost = {"x": torch.tensor([torch.nan])}
    answers = [one, other, one, lost, lost]
    apart = distances([{"x": answer["x"].clone()} for answer in answers])
    assert np.array_equal(distances(answers), apart)
    assert distances([]).shape == (0, 0)
