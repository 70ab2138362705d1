"""A dataset arrives as it was sent, once on each machine, or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from decentral.errors import DecentralError
from decentral.launch.ray import freight
from decentral.run.recipe import load_recipe


def recipe_at(root: Path, name: str = "image-folder", **options: str):
    return load_recipe("dimat-digits", [f"data.name={name}", f"data.root={root}", f"data.options={options}"])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_arrives_is_the_dataset_and_nothing_else(images, tmp_path, monkeypatch):
    monkeypatch.setattr(freight, "PIECE", 4096)
    recipe = recipe_at(images, folder="tiny")
    assert freight.is_here(recipe)
    ship = freight.load(recipe, bytes)
    assert len(ship.pieces) > 5
    arrived = freight.unload(ship.digest, ship.pieces, tmp_path)
    expected = content(images)
    del expected["other/private.txt"]
    assert content(arrived) == expected
    assert freight.is_here(recipe_at(arrived, folder="tiny"))


def test_the_same_files_are_the_same_freight(images):
    recipe = recipe_at(images, folder="tiny")
    first = freight.load(recipe, bytes)
    (images / "tiny" / "val" / "cat" / "0.png").touch()
    assert freight.load(recipe, bytes) == first
    (images / "tiny" / "val" / "cat" / "0.png").write_bytes(b"another")
    assert freight.load(recipe, bytes).digest != first.digest


def test_what_is_here_is_not_unpacked_again(images, tmp_path):
    ship = freight.load(recipe_at(images, folder="tiny"), bytes)
    read: list[bytes] = []

    def pieces():
        for piece in ship.pieces:
            read.append(piece)
            yield piece

    arriving = [threading.Thread(target=freight.unload, args=(ship.digest, pieces(), tmp_path)) for _ in range(3)]
    for thread in arriving:
        thread.start()
    for thread in arriving:
        thread.join(30)
    assert len(read) == len(ship.pieces)
    assert freight.unload(ship.digest, (), tmp_path).is_dir()


@pytest.mark.parametrize("lie", [lambda data: data[:-600] + b"x" * 600, lambda data: data + bytes(512)])
def test_what_is_not_what_was_sent_is_not_used(images, tmp_path, lie):
    ship = freight.load(recipe_at(images, folder="tiny"), bytes)
    with pytest.raises(DecentralError, match="not what was sent"):
        freight.unload(ship.digest, [lie(b"".join(ship.pieces))], tmp_path)
    assert not (tmp_path / ship.digest).exists()


def test_a_dataset_that_is_not_there_is_missed_and_one_that_needs_nothing_is_not(tmp_path):
    assert not freight.is_here(recipe_at(tmp_path, "cifar10"))
    assert not freight.is_here(recipe_at(tmp_path, folder="tiny"))
    assert freight.is_here(recipe_at(tmp_path, "digits"))
    assert freight.files_of(recipe_at(tmp_path, "cifar100")) == tuple(
        f"cifar-100-python/{part}" for part in ("train", "test", "meta")
    )
