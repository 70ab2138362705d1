"""Files that are whole or absent."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from decentral.files import open_plain, replace_folder, replacing_folder, write_atomic


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    write_atomic(file, b"one")
    write_atomic(file, memoryview(b"two"))
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]


def test_a_private_file_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "key"
    write_atomic(file, b"secret", private=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    write_atomic(tmp_path / "public", b"")
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) & 0o400


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"untouched")
    link = tmp_path / "link"
    link.symlink_to(other)
    write_atomic(link, b"new")
    assert other.read_bytes() == b"untouched"
    assert link.read_bytes() == b"new"
    assert not link.is_symlink()


def test_what_is_no_ordinary_file_is_left_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(OSError, match="ordinary"):
            write_atomic(path, b"new")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_only_an_ordinary_file_is_read_where_only_one_may_be(tmp_path: Path) -> None:
    """Nobody writes to the pipe: whoever waits for it waits for ever."""
    file, link, pipe = tmp_path / "a.bin", tmp_path / "link", tmp_path / "pipe"
    file.write_bytes(b"content")
    link.symlink_to(file)
    os.mkfifo(pipe)
    with open_plain(file) as reader:
        assert reader.read() == b"content"
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for other in (link, pipe, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(OSError, match=other.name):
            open_plain(other)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    file = tmp_path / "a.bin"
    write_atomic(file, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if failing == "fsync" else (Path, "replace", full)))
    with pytest.raises(OSError, match="No space"):
        write_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere" / "a", b"")


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder"
    with pytest.raises(RuntimeError), replacing_folder(place) as folder:
        (folder / "part").write_text("half")
        raise RuntimeError
    assert list(place.parent.iterdir()) == []
    with replacing_folder(place) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "part").write_text("whole")
        assert not place.exists()
    assert (place / "deep" / "part").read_text() == "whole"


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    for content in ("old", "new"):
        with replacing_folder(place) as folder:
            (folder / content).write_text(content)
    assert [file.name for file in place.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [place]
    with pytest.raises(RuntimeError), replacing_folder(place):
        raise RuntimeError
    assert (place / "new").read_text() == "new"


def test_a_folder_is_moved_into_the_place_of_another(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "new.txt"]
    replace_folder(tmp_path / "old", tmp_path / "elsewhere")
    assert [path.name for path in tmp_path.rglob("*")] == ["elsewhere", "new.txt"]
