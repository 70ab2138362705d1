"""Lines have numbers that stay, and are read from where they lie."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.launch.observing.lines import Lines
from decentral.run.journal import FILE, NODES


def append(folder, node: str, *events: dict) -> None:
    path = folder / NODES / node / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(json.dumps(event).encode() + b"\n" for event in events))


def said(number: int, peer: int = 0) -> dict:
    return {"t": float(number), "peer": peer, "event": "round", "round": number}


def rounds(found) -> list[tuple[int, int]]:
    return [(number, json.loads(line)["round"]) for number, line in found]


def test_a_line_keeps_its_number_whatever_comes_later(tmp_path):
    taken: list = []
    lines = Lines(tmp_path, None, taken.append)
    append(tmp_path, "peer-1", said(3, 1))
    append(tmp_path, "peer-0", said(1), said(5))
    lines.poll()
    before = lines.after(0)
    assert rounds(before) == [(1, 1), (2, 3), (3, 5)]
    append(tmp_path, "peer-1", said(4, 1))
    lines.poll()
    assert lines.after(0)[:3] == before and rounds(lines.after(3)) == [(4, 4)]
    assert [event["round"] for event in taken] == [1, 3, 5, 4]


def test_of_one_node_they_are_the_lines_of_its_journal(tmp_path):
    append(tmp_path, "peer-0", said(1), said(2))
    append(tmp_path, "peer-1", said(9, 1))
    lines = Lines(tmp_path, "peer-0", lambda event: None)
    lines.poll()
    assert rounds(lines.after(1)) == [(2, 2)] and len(lines) == 2


def test_a_half_written_line_waits(tmp_path):
    append(tmp_path, "peer-0", said(1))
    path = tmp_path / NODES / "peer-0" / FILE
    whole = json.dumps(said(2)).encode() + b"\n"
    path.write_bytes(path.read_bytes() + whole[:9])
    lines = Lines(tmp_path, None, lambda event: None)
    lines.poll()
    assert len(lines) == 1
    with path.open("ab") as file:
        file.write(whole[9:])
    lines.poll()
    assert rounds(lines.after(1)) == [(2, 2)]


@settings(max_examples=15)
@given(most=st.integers(1, 400), count=st.integers(0, 30))
def test_pieces_are_the_whole_and_none_is_much_larger_than_was_asked_for(most, count, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    append(folder, "peer-0", *(said(number) for number in range(count)))
    lines = Lines(folder, None, lambda event: None)
    lines.poll()
    number, pieces = 0, []
    while found := lines.after(number, most):
        assert sum(len(line) for _, line in found[:-1]) < most
        number = found[-1][0]
        pieces += found
    assert rounds(pieces) == [(index + 1, index) for index in range(count)]


def test_before_there_is_anything_there_is_nothing(tmp_path):
    lines = Lines(tmp_path, "peer-0", lambda event: None)
    lines.poll()
    assert lines.after(0) == []
