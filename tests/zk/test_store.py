"""The store: made once for the same content, whole or absent, and shared by processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from decentral.errors import Unproven, UserError
from decentral.zk.store import MANIFEST, Store, key_of, store_root
from decentral.zk.worker import DiskFull


async def filled(folder: Path) -> None:
    (folder / "a").write_bytes(b"first")
    (folder / "b").write_bytes(b"second")


async def test_a_folder_is_made_once(tmp_path: Path) -> None:
    store, made = Store(tmp_path), []

    async def make(folder: Path) -> None:
        made.append(folder)
        await asyncio.sleep(0.05)
        await filled(folder)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(Store(tmp_path).folder("key", make)) for _ in range(5)]
    assert {task.result() for task in tasks} == {store.path("key")}
    assert len(made) == 1 and store.has("key")


async def test_what_failed_leaves_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    store = Store(tmp_path)

    async def fail(folder: Path) -> None:
        await filled(folder)
        raise Unproven("no")

    with pytest.raises(Unproven):
        await store.folder("key", fail)
    assert not store.has("key") and {p.name for p in (tmp_path / "circuits").iterdir()} == {"key.lock"}
    await store.folder("key", filled)
    assert store.has("key")


async def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = tmp_path / "circuits" / ".key.0123456789ab.tmp"
    left.mkdir(parents=True)
    (left / "a").write_bytes(b"half")
    await store.folder("key", filled)
    assert not left.exists() and store.has("key")


@pytest.mark.parametrize("damage", ["shorter", "changed", "missing", "no manifest"])
async def test_a_damaged_folder_is_made_again(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    file = await store.folder("key", filled) / "a"
    match damage:
        case "shorter":
            file.write_bytes(b"firs")
        case "changed":
            file.write_bytes(b"First")
        case "missing":
            file.unlink()
        case _:
            (file.parent / MANIFEST).unlink()
    assert not store.has("key")
    await store.folder("key", filled)
    assert file.read_bytes() == b"first" and store.has("key")


async def test_a_full_disk_names_the_store_and_leaves_it_usable(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.folder("other", filled)

    async def fill(folder: Path) -> None:
        await filled(folder)
        raise DiskFull("No space left on device")

    with pytest.raises(UserError, match="full") as caught:
        await store.folder("key", fill)
    assert str(tmp_path) in str(caught.value) and "DECENTRAL_ZK" in str(caught.value)
    assert store.has("other") and not store.has("key")
    await store.folder("key", filled)


async def test_who_waits_for_another_does_not_wait_for_ever(tmp_path: Path) -> None:
    began = asyncio.Event()

    async def slow(folder: Path) -> None:
        began.set()
        await asyncio.sleep(60)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(Store(tmp_path).folder("key", slow))
        await began.wait()
        with pytest.raises(Unproven, match="another process"):
            await Store(tmp_path).folder("key", filled, seconds=0.3)
        task.cancel()


def test_keys_are_those_of_content() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})


def test_where_the_store_is_can_be_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DECENTRAL_ZK", str(tmp_path / "there"))
    assert store_root() == tmp_path / "there"
    assert store_root(tmp_path / "here") == tmp_path / "here"
    monkeypatch.delenv("DECENTRAL_ZK")
    assert store_root() == Path("~/.cache/decentral/zk").expanduser()
