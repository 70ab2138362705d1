"""The sample of the present round, and how far views agree, follow from what those who drew it say."""

from __future__ import annotations

import json

from decentral.run.samples import KEPT, Samples, turn_words


def event(peer: int | None, name: str, **fields: object) -> dict:
    return {"t": 0.0, "peer": peer, "event": name, **fields}


def trains(peer: int, round: int) -> dict:
    return event(peer, "phase", round=round, phase="train")


def draws(peer: int, round: int, found: tuple[int, ...], view: str = "aaaa", candidates: int = 9) -> dict:
    return event(
        peer,
        "sampled",
        round=round,
        participants=list(found),
        aggregators=list(found[:1]),
        candidates=candidates,
        view=view,
    )


def taken(*events: dict) -> Samples:
    samples = Samples()
    samples.take_all(events)
    return samples


def test_before_anybody_has_begun_there_is_no_round():
    assert taken(event(0, "started", round=0), draws(0, 2, (1, 2))).turn is None


def test_nobody_draws_the_first_sample_so_it_is_those_who_train():
    turn = taken(trains(4, 1), trains(2, 1), event(2, "trained", round=1)).turn
    assert (turn.round, turn.participants, turn.trained, turn.aggregators) == (1, (4, 2), (2,), ())
    assert turn.agreement is None


def test_a_later_sample_is_the_one_that_most_have_found_and_the_next_one_averages():
    samples = taken(
        trains(3, 6),
        event(3, "trained", round=6),
        draws(0, 7, (1, 2, 3)),
        draws(5, 7, (1, 2, 4), view="bbbb"),
        draws(6, 7, (1, 2, 3)),
        event(1, "merged", round=6),
        trains(1, 7),
        event(1, "trained", round=7),
        draws(1, 8, (5, 6, 7)),
    )
    turn = samples.turn
    assert (turn.round, turn.participants, turn.trained) == (7, (1, 2, 3), (1,))
    assert (turn.aggregators, turn.averaged) == ((5,), 6)


def test_views_agree_as_far_as_digests_are_equal():
    samples = taken(
        trains(0, 7),
        draws(0, 7, (1, 2), "aaaa", 9),
        draws(1, 7, (1, 2), "bbbb", 8),
        draws(2, 7, (1, 3), "aaaa", 9),
        draws(3, 8, (4, 5), "cccc", 7),
    )
    found = samples.turn.agreement
    assert (found.round, found.asked, found.view, found.sample, found.candidates) == (7, 3, 2, 2, (8, 9))
    samples.take(draws(4, 8, (4, 5), "cccc", 7))
    assert samples.turn.agreement.round == 8, "the newest that a few have drawn for"


def test_who_is_gone_is_not_asked_until_it_is_back():
    samples = taken(trains(0, 2), *(draws(peer, 2, (1, 2), f"{peer // 2}") for peer in range(4)))
    assert samples.turn.agreement.asked == 4
    samples.take(event(None, "crashed", other=0))
    samples.take(event(None, "left", other=2))
    assert (samples.turn.agreement.asked, samples.turn.agreement.view) == (2, 1)
    samples.take(event(0, "started", round=1, rejoined=True))
    assert samples.turn.agreement.asked == 3


def test_who_draws_again_is_counted_once_with_what_it_found_last():
    samples = taken(trains(0, 2), draws(0, 2, (1, 2)), draws(1, 2, (1, 2)), draws(0, 2, (2, 3), "bbbb"))
    assert (samples.turn.agreement.asked, samples.turn.agreement.view) == (2, 1)


def test_rounds_that_are_done_again_are_told_of_by_those_who_do_them():
    """Who comes back after the end, with others, goes on from where it was; nobody that it would draw is there."""
    first = [each for round in (6, 7, 8) for each in (trains(0, round), trains(1, round), draws(0, round + 1, (0, 1)))]
    samples = taken(*first, event(0, "merged", round=8), trains(4, 6), draws(4, 7, (4, 5)), draws(5, 7, (4, 5)))
    assert (samples.turn.round, samples.turn.averaged) == (8, 8)
    samples.take(event(4, "merged", round=6, weights={"4": 0.5, "5": 0.5}))
    samples.take(trains(5, 7))
    turn = samples.turn
    assert (turn.round, turn.averaged, turn.participants) == (7, 6, (4, 5))
    assert (turn.agreement.asked, turn.agreement.sample) == (2, 2), "without those who are gone"


def test_two_aggregators_of_a_round_are_no_step_back():
    samples = taken(trains(0, 6), draws(0, 7, (1, 2)), event(1, "merged", round=6), event(2, "merged", round=6))
    samples.take_all([trains(1, 7), draws(1, 7, (1, 2))])
    assert (samples.turn.round, samples.turn.averaged, samples.turn.agreement.asked) == (7, 6, 2)


def test_only_the_newest_rounds_are_remembered():
    samples = taken(*(each for round in range(1, 1000) for each in (trains(0, round), draws(0, round, (1,)))))
    assert samples.turn.round == 999
    assert all(len(kept) == KEPT for kept in (samples._drawn, samples._begun))


def test_programs_get_names_and_people_get_lines():
    samples = taken(trains(3, 2), event(3, "trained", round=2), draws(0, 2, (3, 1)), draws(1, 2, (3, 1)))
    samples.take(draws(3, 3, (5, 6)))
    turn = samples.turn
    told = json.loads(json.dumps(turn.as_json()))
    assert (told["participants"], told["trained"], told["aggregators"]) == (
        ["peer-3", "peer-1"],
        ["peer-3"],
        ["peer-5"],
    )
    assert told["agreement"]["candidates"] == [9, 9]
    first, second, third = turn_words(turn, 60)
    assert first == "round 2 of 60: peer-3, peer-1 in the sample, 1 done"
    assert "averaged by peer-5" in second
    assert "2 of 2 who drew for round 2 see the same candidates (9), 2 found the same sample" in third
