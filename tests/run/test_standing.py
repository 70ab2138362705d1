"""Where peers stand follows from their events, in whatever world they were written."""

from __future__ import annotations

from decentral.run.standing import Standings


def event(peer: int | None, name: str, **fields: object) -> dict:
    return {"t": 0.0, "peer": peer, "event": name, **fields}


def test_a_peer_stands_where_its_last_event_left_it():
    standings = Standings(2)
    standings.take_all(
        [
            event(0, "started", round=0),
            event(0, "phase", round=1, phase="train"),
            event(0, "trained", round=1, loss=0.5),
            event(0, "evaluated", round=1, accuracy=0.75),
            event(0, "round", round=1, bytes={"total": 10}),
            event(0, "phase", round=2, phase="exchange"),
        ]
    )
    first, second = standings.peers
    assert (first.phase, first.round, first.loss, first.accuracy, first.sent) == ("exchange", 2, 0.5, 0.75, 10)
    assert second.phase == "starting"
    assert (standings.started, standings.sent, standings.accuracy, standings.round) == (1, 10, 0.75, 0)


def test_a_crashed_peer_holds_nobody_back_and_counts_again_when_it_returns():
    standings = Standings(2)
    standings.take_all([event(0, "phase", round=5, phase="train"), event(1, "phase", round=2, phase="train")])
    standings.take(event(None, "crashed", other=1))
    assert standings.round == 5 and len(standings.present) == 1
    standings.take(event(1, "started", round=4))
    assert standings.round == 4 and len(standings.present) == 2


def test_the_accuracy_is_that_of_the_honest():
    standings = Standings(3, aside=[1])
    standings.take_all(
        [event(peer, "evaluated", round=1, accuracy=accuracy) for peer, accuracy in enumerate((0.5, 0.1, 1.0))]
    )
    assert standings.accuracy == 0.75
    assert standings.peers[1].accuracy == 0.1


def ended(peer: int, round: int) -> dict:
    return event(peer, "round", round=round, bytes={"total": 1})


def test_a_round_has_ended_when_the_last_of_the_present_peers_has_ended_it():
    standings = Standings(3)
    standings.take_all([ended(0, 1), ended(1, 1), ended(0, 2), ended(1, 2)])
    assert standings.ended == 0
    standings.take(event(None, "left", other=2))
    assert standings.ended == 2
    standings.take(event(2, "started", round=4, rejoined=True))
    standings.take(ended(2, 5))
    assert standings.ended == 2


def test_where_peers_are_drawn_the_first_to_end_a_round_tells_how_far_the_run_is():
    standings = Standings(3)
    standings.take_all([ended(0, 1), ended(1, 7)])
    assert standings.ended == 7


def test_where_peers_are_drawn_the_accuracy_is_that_of_the_newest_aggregate():
    standings = Standings(3)
    standings.take_all([event(0, "evaluated", round=5, accuracy=0.25), event(1, "evaluated", round=10, accuracy=0.75)])
    assert standings.accuracy == 0.5
    standings.take(ended(0, 5))
    assert standings.accuracy == 0.75


def test_a_sample_drawn_for_the_next_round_does_not_move_a_peer_on():
    standings = Standings(1)
    standings.take_all(
        [event(0, "phase", round=4, phase="train"), event(0, "sampled", round=5), event(0, "sent", round=3)]
    )
    assert standings.peers[0].round == 4
