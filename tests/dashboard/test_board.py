"""The state: the same whether events come one by one or all at once, and never larger than it may be."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.dashboard.board import Board
from tests.dashboard import events
from tests.dashboard.test_series import taken

PEERS = events.PEERS


class Reader:
    """A page: has what it was sent, see `store.js`."""

    def __init__(self) -> None:
        self.revision = 0
        self.cells: dict[str, Any] = {}
        self.peers: dict[str, Any] = {}
        self.series: dict[str, Any] = {}
        self.now: Any = None

    def take(self, board: Board) -> None:
        change = json.loads(json.dumps(board.since(self.revision), allow_nan=False))
        self.revision, self.now = change["revision"], change["now"]
        self.cells |= change["cells"]
        self.peers |= change["peers"]
        for name, end in change["series"].items():
            self.series[name] = taken(self.series.get(name), end)

    @property
    def state(self) -> Any:
        series = {name: each["items"] for name, each in self.series.items()}
        return copy.deepcopy((self.revision, self.now, self.cells, self.peers, series))


def read(board: Board) -> Any:
    reader = Reader()
    reader.take(board)
    return reader.state


def board(draws: bool = False) -> Board:
    return Board(PEERS, (1,), draws=draws)


@settings(max_examples=20)
@given(st.lists(st.tuples(events.anything, st.booleans()), max_size=60), st.booleans())
def test_who_is_sent_what_changes_has_what_who_is_sent_all_has(some: list[tuple[Any, bool]], draws: bool) -> None:
    """However often it looks: back-pressure loses nothing but what lay between."""
    whole, reader = board(draws), Reader()
    for event, looks in some:
        whole.take(event)
        if looks:
            reader.take(whole)
    reader.take(whole)
    assert reader.state == read(whole)


@settings(max_examples=20)
@given(st.lists(events.anything, max_size=60), st.integers(0, 60), st.booleans())
def test_a_fold_in_pieces_is_the_fold_of_the_whole(some: list[Any], cut: int, draws: bool) -> None:
    at_once, pieces = board(draws), board(draws)
    at_once.take_all(some)
    pieces.take_all(some[:cut])
    pieces.since(0)  # to look changes nothing
    pieces.take_all(some[cut:])
    assert read(pieces) == read(at_once)


@settings(max_examples=4)
@given(st.lists(events.sound, min_size=40, max_size=80), st.booleans())
def test_it_stays_small_however_long_it_goes_on(some: list[dict[str, Any]], draws: bool) -> None:
    """Rounds and time go on; the same kinds of things happen again and again."""
    whole, sizes = board(draws), []
    for again in range(24):
        for event in some:
            later = {"round": event["round"] + 41 * again} if "round" in event else {}
            whole.take({**event, **later, "t": event["t"] + 1000 * again})
        sizes.append(len(json.dumps(whole.since(0))))
    assert max(sizes[12:]) < 300_000


def test_an_unsound_event_is_counted_and_changes_nothing_else() -> None:
    whole = board()
    whole.take({"t": 1, "peer": 0, "event": "evaluated", "round": 1, "accuracy": 0.5, "loss": 1.0})
    before = read(whole)
    whole.take({"t": 2, "peer": 0, "event": "evaluated", "round": "second", "accuracy": 0.9, "loss": 1.0})
    after = read(whole)
    assert after[1].pop("unsound") == 1
    assert before[1].pop("unsound") == 0
    assert before[1:] == after[1:]


def test_the_mean_is_that_of_the_honest() -> None:
    whole = board()
    for peer, accuracy in enumerate([0.2, 0.9, 0.4]):
        whole.take({"t": 1, "peer": peer, "event": "evaluated", "round": 1, "accuracy": accuracy, "loss": None})
    series = whole.since(0)["series"]
    assert series["mean"]["items"] == [(1, 0.3)]
    assert series["peer/1"]["items"] == [(1, 0.9)]


def test_where_samples_are_drawn_there_is_one_curve_and_a_sample() -> None:
    whole = board(draws=True)
    found = {"participants": [0, 2], "aggregators": [0], "candidates": 5, "view": "ab"}
    whole.take({"t": 0, "peer": 0, "event": "sampled", "round": 1, **found})
    whole.take({"t": 1, "peer": 0, "event": "phase", "round": 1, "phase": "train"})
    whole.take({"t": 2, "peer": 0, "event": "evaluated", "round": 1, "accuracy": 0.5, "loss": None})
    shown = whole.since(0)
    assert shown["now"]["sample"]["participants"] == (0, 2)
    assert "peer/0" not in shown["series"]
    assert shown["series"]["mean"]["items"] == [(1, 0.5)]


def test_the_load_of_who_serves_is_shown() -> None:
    whole = board()
    counts = {"sessions": 1, "waiting": 2, "answered": 30, "declined": 4, "called_off": 0, "proofs": 5}
    whole.take({"t": 1, "peer": 0, "event": "load", **counts, "refused": {"BUSY": 6, "STALE": 1}})
    assert whole.since(0)["peers"][0][-1] == [2, 30, 4, 5, 7]


def test_what_is_known_again_changes_nothing() -> None:
    whole = board()
    whole.know("running", True)
    revision = whole.revision
    whole.know("running", True)
    assert whole.revision == revision
    whole.know("running", False)
    assert whole.since(revision)["cells"] == {"running": False}
