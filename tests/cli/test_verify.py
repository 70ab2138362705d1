"""`decentral verify` says by its exit code: valid, not valid with every reason, or that it cannot use what it got."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from decentral import canonical
from decentral.cli.main import app
from decentral.trust.anchors import FILE
from tests.trust.world import Acts, Filed, World


def kept(folder: Path, acts: Acts | None = None, world: World | None = None) -> World:
    """A receipt, and the trust file of its cluster."""
    world = world or World()
    world.receipt(acts).save(folder / "receipt.json")
    world.anchors.save(folder / FILE)
    return world


def said(folder: Path, *more: str, receipt: str = "receipt.json", trust: str = FILE) -> Result:
    return CliRunner().invoke(app, ["verify", str(folder / receipt), "--trust", str(folder / trust), *more])


def test_a_valid_receipt_is_said_to_be_valid_with_who_agreed(tmp_path: Path) -> None:
    kept(tmp_path)
    result = said(tmp_path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("valid: 3 or more replicas agree on every part (3); client ")
    assert "2023-11-14 22:13:20 UTC as it says" in lines[0]
    assert [line.split()[:4] for line in lines[3:6]] == [[f"stage-{i}", "3", "of", "3"] for i in range(3)]
    assert "stage-1-a" in lines[4]
    assert lines[-1].startswith("a receipt cannot tell")


def test_faults_are_named_as_the_trust_file_names_their_peers(tmp_path: Path) -> None:
    world = kept(tmp_path, {("stage-1", 1): "lies", ("stage-2", 0): "withholds"})
    names = {peer.id: peer.name for peer in world.anchors.peers}
    liar = names[world.order.line(world.order.steps[1])[1]]
    mute = names[world.order.line(world.order.steps[2])[0]]
    result = said(tmp_path)
    assert result.exit_code == 0
    assert f"disagreed: {liar} (stage-1): a quorum came to something else" in result.stdout
    assert f"unresponsive: {mute} (stage-2): committed, and revealed nothing" in result.stdout
    found = json.loads(said(tmp_path, "--json").stdout)
    assert [(fault["kind"], fault["node"]) for fault in found["faults"]] == [
        ("disagreed", liar),
        ("unresponsive", mute),
    ]
    assert found["parts"][1]["others"] == [liar]
    assert len(found["parts"][1]["agree"]) == 2


def test_json_says_all_that_was_found(tmp_path: Path) -> None:
    world = kept(tmp_path)
    found = json.loads(said(tmp_path, "--json").stdout)
    assert found["valid"]
    assert found["reasons"] == []
    assert found["task"] == world.order.task.hex()
    assert len(found["findings"]) == 12
    assert [each["measured"] for each in found["findings"] if each["kind"] == "consensus"] == [3.0] * 3


def test_every_reason_why_it_is_not_valid_is_told(tmp_path: Path) -> None:
    kept(tmp_path)
    anchors = World().anchors
    fewer = tuple(peer for peer in anchors.peers if peer.part != "stage-2")
    replace(anchors, epoch=8, parts=anchors.parts[:2], peers=fewer).save(tmp_path / "other.toml")
    result = said(tmp_path, trust="other.toml")
    assert result.exit_code == 1
    assert result.stdout.startswith("NOT VALID")
    for reason in (
        "the receipt says of itself what is not found again",
        "the order is not for the parts that are pinned",
        "stage-2: model: is no part that is pinned",
        *(f"stage-{i}: fresh: of epoch 7, which is over: it is 8 now" for i in range(3)),
    ):
        assert reason in result.stdout
    found = json.loads(said(tmp_path, "--json", trust="other.toml").stdout)
    assert not found["valid"]
    assert len(found["reasons"]) > 5


def test_an_answer_that_did_not_come_is_not_valid(tmp_path: Path) -> None:
    kept(tmp_path, {("stage-0", place): "silent" for place in range(3)})
    result = said(tmp_path)
    assert result.exit_code == 1
    assert "stage-0  0 of 3" in result.stdout


def test_the_policy_is_the_verifiers_own(tmp_path: Path) -> None:
    kept(tmp_path, world=World(replicas=4))
    (tmp_path / "strict.toml").write_text("replicas = 4\nquorum = 3\nfaulty = 1\n")
    result = said(tmp_path, "--policy", str(tmp_path / "strict.toml"))
    assert result.exit_code == 1
    assert "3 were asked, and the policy wants 4" in result.stdout
    result = said(tmp_path, "--require", "consensus,zk")
    assert result.exit_code == 1
    assert "stage-0: zk: there is no evidence that passed" in result.stdout
    for one in ("consensus", "consensus,", " consensus "):
        assert said(tmp_path, "--require", one).exit_code == 0


def test_what_cannot_be_used_is_named_and_is_no_verdict(tmp_path: Path) -> None:
    kept(tmp_path)
    whole = (tmp_path / "receipt.json").read_bytes()
    (tmp_path / "half.json").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "spaced.json").write_bytes(whole.replace(b",", b", "))
    (tmp_path / "bad.toml").write_text("quorum = 9\n")
    for result, words in (
        (said(tmp_path, trust="absent.toml"), "absent.toml"),
        (said(tmp_path, trust="receipt.json"), "is no trust file"),
        (said(tmp_path, receipt="absent.json"), "absent.json"),
        (said(tmp_path, receipt="half.json"), "is no receipt"),
        (said(tmp_path, receipt="spaced.json"), "one form"),
        (said(tmp_path, receipt=FILE), "is no receipt"),
        (said(tmp_path, receipt="."), "cannot be read"),
        (said(tmp_path, "--policy", str(tmp_path / "bad.toml")), "bad.toml:1: quorum"),
        (said(tmp_path, "--policy", str(tmp_path / "absent.toml")), "absent.toml"),
        (said(tmp_path, "--require", "consensus,magic"), "magic"),
        (said(tmp_path, "--require", ""), "require"),
        (CliRunner().invoke(app, ["verify", str(tmp_path / "receipt.json")]), "--trust"),
    ):
        assert result.exit_code == 2, result.output
        assert words in result.output


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_changed_receipt_is_never_valid(tmp_path: Path, place: float) -> None:
    kept(tmp_path)
    data = bytearray((tmp_path / "receipt.json").read_bytes())
    data[int(place * len(data))] ^= 1
    (tmp_path / "receipt.json").write_bytes(bytes(data))
    assert said(tmp_path).exit_code in (1, 2)


def test_a_time_that_no_calendar_has_is_said_as_it_is(tmp_path: Path) -> None:
    world = World()
    order = replace(world.order, time=2**62)
    world.signed(world.transcript(order=order)).save(tmp_path / "receipt.json")
    world.anchors.save(tmp_path / FILE)
    result = said(tmp_path)
    assert result.exit_code == 0
    assert f"{2**62} s after 1970" in result.stdout


def test_nothing_that_a_receipt_brings_steers_a_terminal(tmp_path: Path) -> None:
    world = kept(tmp_path)
    order = replace(world.order, steps=(replace(world.order.steps[0], part="stage\x1b[2J"), *world.order.steps[1:]))
    data = (tmp_path / "receipt.json").read_bytes()
    plain = canonical.decode(data)
    (tmp_path / "part.json").write_bytes(canonical.encode({**plain, "order": order.plain()}))
    (tensors,) = plain["tensors"].values()
    tensors["tensors"][0][1] = "\x1b[2J\nvalid"
    (tmp_path / "dtype.json").write_bytes(canonical.encode(plain))
    for receipt in ("part.json", "dtype.json"):
        result = said(tmp_path, receipt=receipt)
        assert result.exit_code == 2
        assert "\x1b" not in result.output
        assert "\nvalid" not in result.output.lower()


def test_who_has_the_model_is_told_who_lied(tmp_path: Path) -> None:
    Filed().keep(tmp_path / "stages")
    kept(tmp_path, {("stage-1", 1): "lies"}, Filed())
    assert "disagreed: " in said(tmp_path).stdout
    for folder in (tmp_path, tmp_path / "stages"):
        result = said(tmp_path, "--model", str(folder))
        assert result.exit_code == 0
        assert "lied: stage-1-" in result.stdout
        assert "computed again: stage-1" in result.stdout
    kept(tmp_path, {("stage-0", 1): "conspires", ("stage-0", 2): "conspires"}, Filed())
    assert said(tmp_path).exit_code == 0
    result = said(tmp_path, "--model", str(tmp_path), "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["computed_again"] == ["stage-0"]
    assert [each["kind"] for each in found["faults"]] == ["lied", "lied"]
    assert "2 of 3 agree on an answer that is wrong" in "".join(found["reasons"])
    result = said(tmp_path, "--model", str(tmp_path / "absent"))
    assert result.exit_code == 2
    assert "absent" in result.output
