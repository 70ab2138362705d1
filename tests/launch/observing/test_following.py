"""Logs are told line by line, none twice and none in pieces, to their end or as they grow."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.launch.observing import following
from decentral.launch.observing.following import lines_of


def test_to_their_end_file_by_file(tmp_path):
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("three\nno end")
    files = {name: tmp_path / name for name in "ab"}
    assert list(lines_of(lambda: files, lambda: False)) == [
        ("a", "one"), ("a", "two"), ("b", "three"), ("b", "no end"),
    ]  # fmt: skip


@settings(max_examples=15)
@given(pieces=st.lists(st.sampled_from([b"a", b"\n", b"bc\n", b"\xff", b""]), max_size=12))
def test_a_line_that_is_written_in_pieces_is_told_once_and_whole(pieces, tmp_path_factory):
    path, waiting = tmp_path_factory.mktemp("logs") / "log.txt", list(pieces)
    path.write_bytes(b"")

    def on() -> bool:
        if waiting:
            with path.open("ab") as file:
                file.write(waiting.pop(0))
        return bool(waiting)

    pause, following.PAUSE = following.PAUSE, 0.0
    try:
        found = [line for _, line in lines_of(lambda: {"peer-0": path}, on)]
    finally:
        following.PAUSE = pause
    *whole, torn = b"".join(pieces).split(b"\n")
    assert found == [line.decode(errors="replace") for line in (*whole, *([torn] if torn else []))]


def test_a_file_that_comes_later_is_told_too(tmp_path):
    asked = iter([True, False])
    files: dict[str, Path] = {}

    def on() -> bool:
        (tmp_path / "new").write_text("hello\n")
        return next(asked)

    def there() -> dict[str, Path]:
        found, files["new"] = dict(files), tmp_path / "new"
        return found

    assert list(lines_of(there, on)) == [("new", "hello")]
