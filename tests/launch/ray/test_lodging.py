"""A node's folder is its owner's alone, and does not outlive it for long."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from decentral import lock
from decentral.errors import UserError
from decentral.launch.cluster import LOCK
from decentral.launch.ray import lodging


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_room_is_private_and_gone_with_its_node():
    with lodging.room("peer-0") as path:
        assert path.stat().st_mode & 0o077 == 0
        (path / "identity.key").write_text("a key")
    assert not path.exists()


def test_rooms_of_nodes_that_were_killed_are_swept_up_and_those_of_others_are_not():
    with lodging.room("peer-0") as mine:
        left = mine.parent / "peer-1-killed"
        left.mkdir()
        (left / "lock").touch()
        (left / "identity.key").write_text("a key")
        with lodging.room("peer-2") as other:
            assert mine.is_dir() and other.is_dir()
            assert not left.exists()


def test_a_room_is_not_swept_up_before_it_is_held(monkeypatch):
    """Nodes that start together sweep while others make their rooms."""
    take = lock.take

    def slow(path):
        path.touch()
        lodging.sweep(path.parent.parent)
        return take(path)

    monkeypatch.setattr(lock, "take", slow)
    with lodging.room("peer-0") as path:
        lodging.sweep(path.parent)
        assert (path / LOCK).exists()
        assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_what_nodes_share_stays():
    (lodging.shared() / "dataset").write_text("images")
    with lodging.room("peer-0"):
        assert (lodging.shared() / "dataset").exists()
    assert (lodging.shared() / "dataset").exists()


def test_a_folder_that_others_can_write_is_not_moved_into():
    house = lodging.house()
    house.chmod(0o777)
    with pytest.raises(UserError, match="not a folder of this user alone"):
        lodging.house()


def test_a_link_is_not_followed(machine):
    house = lodging.house()
    house.rmdir()
    (machine / "elsewhere").mkdir(mode=0o700)
    house.symlink_to(machine / "elsewhere")
    with pytest.raises(UserError, match="not a folder of this user alone"):
        lodging.house()
