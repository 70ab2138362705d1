"""Pictures are shown as they appear, and nothing but pictures leaves the folder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from PIL import Image

from decentral.dashboard.pictures import NEWEST, Pictures


def picture(file: Path, size: tuple[int, int] = (12, 8)) -> bytes:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)
    return file.read_bytes()


def test_a_grid_is_found_with_its_size_and_read_by_its_name(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    assert pictures.look() == []
    data = picture(tmp_path / "images" / "grid.png", (20, 10))
    (found,) = pictures.look()
    assert (found["file"], found["width"], found["height"]) == ("images/grid.png", 20, 10)
    assert pictures.read(found["name"]) == data


def test_one_that_is_replaced_has_another_name(tmp_path: Path) -> None:
    pictures, file = Pictures(tmp_path), tmp_path / "grid.png"
    picture(file)
    (before,) = pictures.look()
    picture(file, (14, 8))
    os.utime(file, ns=(10**18, 10**18))
    (after,) = pictures.look()
    assert before["name"] != after["name"]
    assert pictures.read(before["name"]) is None


def test_nothing_else_is_given_away(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    picture(secret)
    folder = tmp_path / "run"
    picture(folder / "real.png")
    (folder / "key.png").write_text("no picture at all, but long enough to have a header")
    (folder / "link.png").symlink_to(secret)
    (folder / "images").symlink_to(tmp_path)
    picture(folder / "huge.png", (20_000, 1))
    pictures = Pictures(folder)
    assert [each["file"] for each in pictures.look()] == ["real.png"]
    for name in ("../secret.png", "key.png", "real.png", ""):
        assert pictures.read(name) is None


def test_one_that_became_a_link_after_the_look_is_not_read(tmp_path: Path) -> None:
    pictures, file = Pictures(tmp_path / "run"), tmp_path / "run" / "real.png"
    picture(file)
    (found,) = pictures.look()
    picture(tmp_path / "other.png")
    file.unlink()
    file.symlink_to(tmp_path / "other.png")
    assert pictures.read(found["name"]) is None


def test_one_that_became_a_pipe_after_the_look_keeps_nobody_waiting(tmp_path: Path) -> None:
    pictures, file = Pictures(tmp_path), tmp_path / "real.png"
    picture(file)
    (found,) = pictures.look()
    file.unlink()
    os.mkfifo(file)
    reading = threading.Thread(target=pictures.read, args=(found["name"],))
    reading.start()
    reading.join(5)
    waited = reading.is_alive()
    if waited:  # until somebody writes
        file.open("wb").close()
        reading.join()
    assert not waited
    assert pictures.read(found["name"]) is None


def test_of_many_the_newest_are_shown(tmp_path: Path) -> None:
    for number in range(NEWEST + 4):
        picture(tmp_path / f"{number}.png")
        os.utime(tmp_path / f"{number}.png", ns=(number * 10**9, number * 10**9))
    assert [each["file"] for each in Pictures(tmp_path).look()] == [
        f"{NEWEST + 3 - place}.png" for place in range(NEWEST)
    ]
