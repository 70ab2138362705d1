"""Who was at what, and who was there, told from the journals of a run that draws samples."""

from __future__ import annotations

from typing import Any

from decentral.run.timeline import Change, Round, Span, timeline


def event(t: float, peer: int | None, name: str, **fields: Any) -> dict[str, Any]:
    return {"t": t, "peer": peer, "event": name, **fields}


def trains(t: float, peer: int, round: int) -> dict[str, Any]:
    return event(t, peer, "phase", round=round, phase="train")


def trained(t: float, peer: int, round: int) -> dict[str, Any]:
    return event(t, peer, "trained", round=round, loss=1.0, samples=1, seconds=0.0)


def merged(t: float, peer: int, round: int, seconds: float = 0.0) -> dict[str, Any]:
    return event(t, peer, "merged", round=round, weights={}, moved=None, seconds=seconds)


def sent(t: float, peer: int, round: int, tag: str) -> dict[str, Any]:
    return event(t, peer, "sent", round=round, tag=tag, to=[], missed=[], view=0, bytes={})


STARTED = [event(0.0, peer, "started", round=0, resumed=False, rejoined=False) for peer in range(3)]


def spans(*events: dict[str, Any]) -> list[Span]:
    return timeline(3, [*STARTED, *events]).spans


def test_a_participant_trains_and_then_hands_over_its_model():
    found = spans(trains(1.0, 0, 4), trained(3.0, 0, 4), sent(3.5, 0, 4, "local"))
    assert found == [Span(0, "train", 1.0, 3.0, 4), Span(0, "exchange", 3.0, 3.5, 4)]


def test_an_aggregator_averages_and_hands_out_while_it_trains_already():
    found = spans(merged(2.0, 1, 4, 0.5), trains(2.1, 1, 5), sent(2.4, 1, 4, "average"), trained(3.0, 1, 5))
    assert found == [Span(1, "merge", 1.5, 2.0, 4), Span(1, "merge", 2.0, 2.4, 4), Span(1, "train", 2.1, 3.0, 5)]


def test_a_model_that_is_sent_again_is_not_handed_over_twice():
    found = spans(trained(3.0, 0, 4), sent(3.5, 0, 4, "local"), sent(9.0, 0, 4, "again"), sent(9.5, 0, 3, "local"))
    assert [span.what for span in found] == ["exchange"]


def test_training_that_is_given_up_ends_with_what_came_instead():
    assert spans(trains(1.0, 0, 4), trains(2.0, 0, 6), trained(3.0, 0, 6)) == [
        Span(0, "train", 1.0, 2.0, 4),
        Span(0, "train", 2.0, 3.0, 6),
    ]
    assert spans(trains(1.0, 0, 4), event(1.5, 0, "abandoned", round=4), trained(2.0, 1, 4)) == [
        Span(0, "train", 1.0, 1.5, 4)
    ]
    crashed = spans(trains(1.0, 0, 4), event(2.5, None, "crashed", other=0), trained(3.0, 1, 4))
    assert crashed[0] == Span(0, "train", 1.0, 2.5, 4)


def test_who_went_is_away_until_it_is_back_or_for_good():
    told = timeline(
        3,
        [
            *STARTED,
            event(2.0, None, "crashed", other=0),
            event(3.0, None, "left", other=1),
            event(5.0, 0, "started", round=3, resumed=True, rejoined=True),
            event(5.0, None, "rejoined", other=0),
            event(9.0, 2, "finished", round=9, bytes={}),
        ],
    )
    assert told.spans == [Span(0, "away", 2.0, 5.0, 0), Span(1, "away", 3.0, 9.0, 0)]
    assert told.changes == [Change(0, "crashed", 2.0), Change(1, "left", 3.0), Change(0, "rejoined", 5.0)]
    assert told.present == [(0.0, 3), (2.0, 2), (3.0, 1), (5.0, 2)]
    assert told.end == 9.0


def test_who_joins_later_was_away_from_the_start_and_who_never_came_always():
    told = timeline(
        3,
        [
            STARTED[0],
            event(4.0, 1, "started", round=2, resumed=False, rejoined=True),
            event(4.0, None, "joined", other=1),
            event(8.0, 0, "finished", round=9, bytes={}),
        ],
    )
    assert sorted(told.spans, key=lambda span: span.peer) == [
        Span(1, "away", 0.0, 4.0, 0),
        Span(2, "away", 0.0, 8.0, 0),
    ]
    assert told.present == [(0.0, 1), (4.0, 2)]


def test_a_round_lasts_from_one_aggregate_to_the_next():
    told = timeline(
        3,
        [
            *STARTED,
            trained(1.0, 0, 1), trained(1.2, 1, 1), merged(1.5, 2, 1), merged(1.6, 1, 1),
            trained(2.0, 2, 2), trained(2.5, 2, 2), merged(3.0, 0, 2),
        ],
    )  # fmt: skip
    assert told.rounds == [Round(1, 0.0, 1.5, 2, 2), Round(2, 1.5, 3.0, 1, 1)]


def test_a_run_in_which_nothing_happened_has_no_timeline():
    told = timeline(2, [])
    assert (told.rounds, told.changes, told.end) == ([], [], 0.0)
