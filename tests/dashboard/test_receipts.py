"""Receipts of a folder are verified where they are shown, and say why they do not count."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from decentral.dashboard.receipts import NEWEST, Receipts
from decentral.trust.anchors import FILE
from decentral.trust.policy import FILE as POLICY
from decentral.trust.policy import Policy
from tests.trust.world import World


def looking(folder: Path) -> Receipts:
    return Receipts(folder / "receipts", folder / FILE, folder / POLICY)


def kept(folder: Path, name: str, world: World, acts: Any = None) -> Path:
    (folder / "receipts").mkdir(exist_ok=True)
    world.anchors.save(folder / FILE)
    file = folder / "receipts" / name
    world.receipt(acts).save(file)
    return file


def test_one_that_counts_and_who_lied_in_it(tmp_path: Path) -> None:
    world = World()
    kept(tmp_path, "one.json", world, {("stage-1", 1): "lies"})
    names = {peer.id: peer.name for peer in world.anchors.peers}
    liar = names[world.order.line(world.order.steps[1])[1]]
    (found,) = looking(tmp_path).look()
    assert found["valid"]
    assert [(fault["node"], fault["kind"]) for fault in found["faults"]] == [(liar, "disagreed")]
    assert found["parts"][1]["others"] == [liar]
    assert not found["simulated"]


def test_one_that_does_not_count_says_why(tmp_path: Path) -> None:
    kept(tmp_path, "one.json", World(), {("stage-1", 0): "lies", ("stage-1", 1): "withholds"})
    (found,) = looking(tmp_path).look()
    assert not found["valid"]
    assert any("stage-1" in reason for reason in found["reasons"])


def test_it_counts_by_the_policy_of_the_cluster(tmp_path: Path) -> None:
    kept(tmp_path, "one.json", World())
    assert looking(tmp_path).look()[0]["valid"]
    Policy(replicas=7, quorum=5, faulty=2).save(tmp_path / POLICY)
    assert not looking(tmp_path).look()[0]["valid"]


def test_what_is_no_receipt_is_shown_as_that(tmp_path: Path) -> None:
    kept(tmp_path, "one.json", World())
    (tmp_path / "receipts" / "two.json").write_text('{"format": "something else"}')
    (tmp_path / "receipts" / ".three.json.tmp").write_text("half")
    found = {each["name"]: each for each in looking(tmp_path).look()}
    assert found["one.json"]["valid"]
    assert found["two.json"]["reasons"][0].startswith("two.json: is no receipt")
    assert len(found) == 2


def test_a_receipt_is_verified_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    file, receipts = kept(tmp_path, "one.json", World()), looking(tmp_path)
    (first,) = receipts.look()
    assert receipts.look()[0] is first
    file.write_bytes(file.read_bytes()[:-20])
    (changed,) = receipts.look()
    assert not changed["valid"]


def test_of_many_the_newest_are_shown(tmp_path: Path) -> None:
    file = kept(tmp_path, "000.json", World())
    for number in range(1, NEWEST + 5):
        other = file.with_name(f"{number:03}.json")
        other.write_text("no receipt")
        os.utime(other, ns=(number * 10**9, number * 10**9))
    os.utime(file, ns=(10**12, 10**12))
    found = looking(tmp_path).look()
    assert [each["name"] for each in found[:2]] == ["000.json", f"{NEWEST + 4:03}.json"]
    assert len(found) == NEWEST


def test_where_nobody_is_trusted_yet_there_is_nothing_to_verify(tmp_path: Path) -> None:
    assert looking(tmp_path).look() == []
