"""Whoever has a cluster's folder rules on its keys; what is ruled lies where nodes and clients find it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from decentral.errors import UserError
from decentral.launch import keys
from decentral.launch.apart import settle
from decentral.launch.keys import CLIENT, Keys
from decentral.run.directory import RunDirectory, open_cluster
from decentral.run.recipe import load_recipe
from decentral.trust.anchors import FILE as TRUST
from decentral.trust.anchors import Anchors, Revoked
from decentral.wire.certificate import Credentials
from decentral.wire.enrolment import grant
from decentral.wire.identity import Identity
from decentral.wire.notice import FILE, read_notice
from tests.launch.rendered import untrained

HOSTS = ("one:7000", "two:7000", "three:7000")
SAID: list[str] = []


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLING", "SETTLING_AWAY"):
        monkeypatch.setattr(keys, name, 0.1)


@pytest.fixture
def ring(tmp_path: Path) -> Keys:
    """Of three peers on machines of their own, that do not run, and whose authority does."""
    settle(load_recipe("dimat-digits", ["peers=3"]), tmp_path / "run", HOSTS, authority="here:6999").close()
    return Keys(RunDirectory.open(tmp_path / "run"))


@pytest.fixture
def stopped(ring: Keys, tmp_path: Path) -> Keys:
    """As if a launcher of ours had run them here."""
    (tmp_path / "run" / "nodes" / "launcher").mkdir()
    return ring


def test_everybody_is_shown_with_certificate_and_state(ring: Keys) -> None:
    shown = ring.show()
    assert [each.holder.name for each in shown] == ["peer-0", "peer-1", "peer-2"]
    assert {each.state for each in shown} == {"ok"} and not any(each.holder.runs for each in shown)
    assert all(each.issued is not None and each.issued.expires > time.time() for each in shown)


def test_a_revocation_is_signed_for_nodes_and_stands_in_the_trust_file_for_clients(ring: Keys, tmp_path: Path) -> None:
    peer, path = ring.identity("peer-1"), tmp_path / "run"
    before = int(time.time())
    notice = ring.revoke(peer, "its disk was stolen")
    assert read_notice((path / FILE).read_bytes(), ring.authority.pem) == notice
    (gone,) = Anchors.load(path / TRUST).revoked
    assert (gone.id, gone.reason) == (peer, "its disk was stolen") and before <= gone.since <= time.time()
    assert [(each.state, each.reason) for each in ring.show()][1] == ("revoked", "its disk was stolen")
    assert [each.state for each in ring.show()].count("ok") == 2
    with pytest.raises(UserError, match="peer-1: has been revoked"):
        ring.rotate(["peer-1"], SAID.append)


def test_a_compromise_may_lie_in_the_past_and_be_of_somebody_without_a_name(ring: Keys, tmp_path: Path) -> None:
    stranger = Identity.generate().id
    assert ring.identity(stranger) == stranger
    ring.revoke(stranger, since=50)
    assert Anchors.load(tmp_path / "run" / TRUST).revoked == (Revoked(stranger, 50),)
    assert [(each.holder.name, each.since) for each in ring.show() if each.state == "revoked"] == [("", 50)]


def test_what_was_ruled_survives_whoever_writes_the_trust_file_next(ring: Keys, tmp_path: Path) -> None:
    ring.revoke(ring.identity("peer-2"))
    ring.authority.register.name_successor()
    for name in ("peer-1", "peer-2"):
        (tmp_path / "run" / "nodes" / name / "tls.pem").unlink()
    settle(load_recipe("dimat-digits", ["peers=3"]), tmp_path / "run", HOSTS, authority="here:6999").close()
    made = [(tmp_path / "run" / "nodes" / name / "tls.pem").exists() for name in ("peer-1", "peer-2")]
    assert made == [True, False], "and whoever is revoked gets no certificate"
    pinned = Anchors.load(tmp_path / "run" / TRUST)
    assert [each.id for each in pinned.revoked] == [ring.identity("peer-2")]
    assert pinned.authority == ring.authority.pem and pinned.authority.count(b"BEGIN") == 2


def test_nobody_is_called_by_a_name_that_nobody_has(ring: Keys) -> None:
    with pytest.raises(UserError, match="peer-9: there is no such node; there are peer-0, peer-1, peer-2"):
        ring.identity("peer-9")


def test_where_the_authority_is_elsewhere_nothing_is_ruled_and_what_is_there_is_shown(tmp_path: Path) -> None:
    settle(load_recipe("dimat-digits", ["peers=2"]), tmp_path / "run", HOSTS[:2], apart=True).close()
    ring = Keys(open_cluster(tmp_path / "run" / "apart" / "peer-1"))
    assert [each.state for each in ring.show()] == ["unknown", "ok"]
    with pytest.raises(UserError, match="authority is not here"):
        ring.revoke(ring.identity("peer-0"))


# Rotation


def test_who_does_not_run_gets_new_keys_when_it_starts(stopped: Keys) -> None:
    rotated = stopped.rotate(["peer-0", "peer-2"], SAID.append)
    assert (rotated.renewed, rotated.at_start, rotated.missing) == ((), ("peer-0", "peer-2"), ())
    assert [each.state for each in stopped.show()] == ["to renew", "ok", "to renew"]


def test_who_runs_elsewhere_is_awaited_and_keeps_the_old_certificate_until_it_has_another(
    ring: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWAY", "HERE"):
        monkeypatch.setattr(keys, name, 0.1)
    asked: list[str] = []

    def asks_again(say: str) -> None:  # one of them does, once it is told
        asked.append(say)
        grant(ring.authority, Identity.load(tmp_path / "run" / "nodes" / "peer-0" / "identity.key"))

    rotated = ring.rotate([], asks_again)
    assert (rotated.renewed, rotated.at_start, rotated.missing) == (("peer-0",), (), ("peer-1", "peer-2"))
    assert [each.state for each in ring.show()] == ["ok", "to renew", "to renew"] and len(asked) == 1
    notice = ring.authority.register.notice
    assert notice is not None and [notice.of(each.id).refuse > 0 for each in ring.holders()] == [True, False, False]


def test_nodes_elsewhere_that_have_nobody_to_ask_are_said_to_be_made_anew(tmp_path: Path) -> None:
    settle(load_recipe("dimat-digits", ["peers=2"]), tmp_path / "run", HOSTS[:2]).close()
    with pytest.raises(UserError, match="decentral prepare"):
        Keys(RunDirectory.open(tmp_path / "run")).rotate([], SAID.append)


def test_another_authority_takes_over_and_the_client_of_the_folder_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = settle(untrained(tmp_path), tmp_path / "run", HOSTS)
    (directory.path / "nodes" / "launcher").mkdir()
    directory.close()
    ring, trust = Keys(open_cluster(directory.path)), directory.path / TRUST
    old = ring.authority.pem
    with pytest.raises(UserError, match="no authority has taken over"):
        ring.finish()
    rotated = ring.succeed(SAID.append)
    assert rotated.renewed == (CLIENT,) and len(rotated.at_start) == 3
    both = Anchors.load(trust).authority
    assert old in both and both.count(b"BEGIN") == 2
    assert Credentials.load(directory.client).authority == both == ring.authority.pem
    assert ring.succeed(SAID.append).renewed == (CLIENT,), "said again, it goes on"
    ring.finish()
    alone = Anchors.load(trust).authority
    assert alone == ring.authority.pem and old not in alone and alone.count(b"BEGIN") == 1
    shown = Credentials.load(directory.client)
    assert shown.authority == alone and ring.authority.register.admitted.peer_of(shown.certificate) == shown.peer


def test_nobody_is_left_behind_unless_that_is_meant(ring: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWAY", "HERE", "ASK"):
        monkeypatch.setattr(keys, name, 0.0)
    assert ring.succeed(SAID.append).missing == ("peer-0", "peer-1", "peer-2")
    with pytest.raises(UserError, match="peer-0, peer-1, peer-2: without"):
        ring.finish()
    assert ring.finish(force=True).authorities == (ring.authority.register.voice.der,)


def test_a_node_that_runs_here_has_its_certificate_once_it_is_written_down(tmp_path: Path) -> None:
    """That it was issued is not enough: the answer may be on its way."""
    node = keys.Holder("peer-0", Identity.generate().id, tmp_path, runs=True)
    assert not keys._has_it(node, 0)
    (tmp_path / "tls.pem").write_bytes(b"")
    written = int((tmp_path / "tls.pem").stat().st_mtime)
    assert keys._has_it(node, written) and not keys._has_it(node, written + 1)
    assert keys._has_it(keys.Holder("peer-1", node.id, tmp_path / "elsewhere", runs=False), written)
