"""Accuracy beside its cost: every byte and image that all peers had spent by then, and none that came later."""

from __future__ import annotations

from typing import Any

import pytest

from decentral.run.course import Sent, course, sent_in_all
from decentral.run.recipe import Recipe

COMMON = Recipe(algorithm="dpsgd", peers=2)
DRAWN = Recipe(algorithm="modest", peers=3)


def event(t: float, peer: int, name: str, **fields: Any) -> dict[str, Any]:
    return {"t": t, "peer": peer, "event": name, **fields}


def sizes(model: int, control: int = 0) -> dict[str, int]:
    return {"model": model, "control": control, "evidence": 0, "total": model + control}


def one_round(peer: int, round: int, t: float, accuracy: float | None, sent: int) -> list[dict[str, Any]]:
    return [
        event(t - 1, peer, "trained", round=round, loss=1.0, samples=10, seconds=1.0),
        event(t, peer, "evaluated", round=round, accuracy=accuracy, loss=1.0, seconds=0.0),
        event(t, peer, "round", round=round, bytes=sizes(sent, round)),
    ]


def ordered(*parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((one for part in parts for one in part), key=lambda one: one["t"])


def test_a_common_round_is_over_when_its_last_peer_has_ended_it() -> None:
    """Peer 0 runs ahead: what it has done of round 2 by then belongs to round 2."""
    events = ordered(
        one_round(0, 1, 2.0, 0.5, 100), one_round(0, 2, 4.0, 0.75, 200), one_round(1, 1, 6.0, 0.25, 70),
        one_round(1, 2, 9.0, 0.5, 140),
    )  # fmt: skip
    first, second = course(COMMON, events)
    assert (first.round, first.accuracy, first.seconds, first.images) == (1, 0.375, 6.0, 20)
    assert first.sent == {"model": 170, "view": 0, "control": 2, "evidence": 0} and first.total == 172
    assert (second.accuracy, second.seconds, second.images, second.total) == (0.625, 9.0, 40, 344)


def test_rounds_between_evaluations_and_training_before_the_first_are_paid_for() -> None:
    events = ordered(
        [event(0.0, 0, "trained", round=0, loss=1.0, samples=50, seconds=1.0)],
        [each for each in one_round(0, 1, 2.0, None, 100) if each["event"] != "evaluated"],
        one_round(0, 2, 4.0, 0.5, 200),
    )
    [point] = course(COMMON, events)
    assert (point.round, point.images, point.total) == (2, 70, 202)


def test_who_misses_rounds_brings_its_bytes_when_it_is_back() -> None:
    events = ordered(
        one_round(0, 1, 2.0, 0.5, 100), one_round(0, 2, 4.0, 0.5, 200), one_round(1, 2, 4.5, 0.5, 60)
    )  # fmt: skip
    assert [point.sent["model"] for point in course(COMMON, events)] == [100, 260]


def test_a_common_model_counts_when_it_is_first_evaluated() -> None:
    events = [
        event(1.0, 0, "trained", round=1, loss=1.0, samples=10, seconds=1.0),
        event(1.5, 0, "sent", round=1, tag="local", to=[1], missed=[], view=5, bytes=sizes(100, 3)),
        event(2.0, 1, "evaluated", round=1, accuracy=0.5, loss=1.0, seconds=0.0),
        event(2.5, 1, "sent", round=1, tag="average", to=[2], missed=[], view=7, bytes=sizes(80)),
        event(3.0, 2, "trained", round=2, loss=1.0, samples=20, seconds=1.0),
        event(4.0, 2, "evaluated", round=2, accuracy=0.75, loss=1.0, seconds=0.0),
        event(5.0, 0, "evaluated", round=2, accuracy=0.75, loss=1.0, seconds=0.0),
        event(6.0, 0, "finished", round=2, bytes=sizes(150, 4)),
    ]
    first, second = course(DRAWN, events)
    assert (first.round, first.seconds, first.images) == (1, 2.0, 10)
    assert first.sent == {"model": 95, "view": 5, "control": 3, "evidence": 0}
    assert (second.round, second.seconds, second.images, second.total) == (2, 4.0, 30, 183)
    assert sent_in_all(events) == {"model": 218, "view": 12, "control": 4, "evidence": 0}


def test_what_attackers_think_of_themselves_does_not_count() -> None:
    told = {"peers": 2, "attack": {"name": "sign-flip", "peers": [1]}}
    events = ordered(one_round(0, 1, 2.0, 0.5, 100), one_round(1, 1, 2.0, 0.1, 100))
    [point] = course(Recipe.model_validate({**told, "algorithm": "dpsgd"}), events)
    assert (point.accuracy, point.sent["model"]) == (0.5, 200)
    assert course(Recipe.model_validate({**told, "algorithm": "modest"}), events)[0].accuracy == 0.5


@pytest.mark.parametrize("recipe", [COMMON, DRAWN])
def test_without_an_accuracy_there_is_no_point(recipe: Recipe) -> None:
    assert course(recipe, []) == []
    assert course(recipe, one_round(0, 1, 2.0, None, 100)) == []


def test_views_are_never_more_than_the_models_that_carried_them() -> None:
    """A peer that crashed goes on from the count of its checkpoint."""
    sent = Sent()
    sent.take(event(1.0, 0, "sent", round=1, tag="local", to=[1], missed=[], view=90, bytes=sizes(100)))
    sent.take(event(2.0, 0, "round", round=1, bytes=sizes(50)))
    assert sent.by_kind() == {"model": 0, "view": 50, "control": 0, "evidence": 0}
