"""Folders for machines of their own: where nodes listen, who may read which key, what stays when made again."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import RecipeError, RunDirectoryError, UserError
from decentral.launch import apart
from decentral.launch.apart import APART, OWN, addresses, hand_over, names_of, settle
from decentral.launch.cluster import Cluster
from decentral.run.directory import RunDirectory, ServingDirectory
from decentral.run.recipe import Recipe, load_recipe
from decentral.trust.anchors import FILE, Anchors
from decentral.wire.certificate import AUTHORITIES, TLS, Credentials
from decentral.wire.identity import IDENTITY, Identity
from tests.launch.rendered import untrained

HOSTS = ("one.example:7000", "two.example:7000")


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("dimat-digits", ["peers=2"])


# Addresses


def test_a_host_listens_at_the_port_that_it_names_or_at_the_usual_one():
    assert addresses(["a", "b:8000"], ["x", "y"]) == ("a:7000", "b:8000")


def test_nodes_of_one_host_listen_at_ports_of_their_own():
    assert addresses(["a", "b", "a"], ["x", "y", "z"], 9000) == ("a:9000", "b:9000", "a:9001")


def test_an_address_of_version_six_keeps_its_brackets():
    assert addresses(["[fd00::1]:7001", "[fd00::2]"], ["x", "y"]) == ("[fd00::1]:7001", "[fd00::2]:7000")


@given(st.lists(st.sampled_from(["a", "b", "c.example"]), min_size=1, max_size=20), st.integers(1, 65000))
def test_no_two_nodes_have_one_address(hosts, port):
    found = addresses(hosts, [f"node-{k}" for k in range(len(hosts))], port)
    assert len(set(found)) == len(hosts)
    assert [one.rpartition(":")[0] for one in found] == hosts


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        (["a"], "names 1, and there are 2 nodes: x to y"),
        (["a", "b", "c"], "names 3"),
        (["a:7000", "a:7000"], "two nodes"),
        (["a:7001", "a"], "two nodes"),
        (["a", "b c"], "neither"),
        (["a", "http://b"], "neither"),
        (["a", "-b"], "neither"),
        (["a", "fd00::1"], "neither"),
        (["a", "b:70000"], "no port"),
        (["a", "b:0"], "no port"),
        (["a", "b" * 300], "neither"),
    ],
)
def test_hosts_that_are_none_are_refused(hosts, words):
    with pytest.raises(UserError, match=words):
        addresses(hosts, ["x", "y"])


# The folder


def test_everybody_is_certified_by_one_authority_and_listens_where_it_was_said(recipe, tmp_path):
    directory = settle(recipe, tmp_path / "run", HOSTS)
    members = Cluster.load(directory.path).members
    assert tuple(member.address for member in members) == HOSTS
    pinned = Anchors.load(directory.path / FILE)
    for member, anchor in zip(members, pinned.peers, strict=True):
        credentials = Credentials.load(directory.node(member.name))
        credentials.check(member.id)
        assert credentials.authority == pinned.authority and (anchor.id, anchor.address) == (member.id, member.address)


def test_a_node_s_own_folder_holds_its_keys_and_nobody_else_s(recipe, tmp_path):
    directory = settle(recipe, tmp_path / "run", HOSTS, apart=True)
    secrets = {name: (directory.node(name) / IDENTITY).read_bytes() for name in names_of(recipe)}
    for name, key in secrets.items():
        held = [file.read_bytes() for file in (directory.path / APART / name).rglob("*") if file.is_file()]
        assert key in held
        assert not [other for other in secrets.values() if other != key and other in held]
        assert not [content for content in held if content == (directory.authority / "authority.pem").read_bytes()]
        node = directory.path / APART / name / "nodes" / name
        assert all((node / file).stat().st_mode & 0o077 == 0 for file in OWN)
        assert RunDirectory.open(directory.path / APART / name).recipe.hash == recipe.hash


def test_made_again_nothing_changes(recipe, tmp_path):
    def content() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in sorted((tmp_path / "run").rglob("*")) if file.is_file()}

    settle(recipe, tmp_path / "run", HOSTS, apart=True).close()
    before = content()
    settle(recipe, tmp_path / "run", HOSTS, apart=True).close()
    assert content() == before


def test_a_certificate_that_is_about_to_expire_is_made_anew_for_the_same_identity(recipe, tmp_path, monkeypatch):
    settle(recipe, tmp_path / "run", HOSTS, apart=True).close()
    own = tmp_path / "run" / APART / "peer-0" / "nodes" / "peer-0"
    before, who = Credentials.load(own), Identity.load(own / IDENTITY).id
    monkeypatch.setattr(apart, "RENEW_BEFORE", 8 * 24 * 3600.0)
    settle(recipe, tmp_path / "run", HOSTS, apart=True).close()
    after = Credentials.load(own)
    assert after.certificate != before.certificate and after.peer == before.peer == who


def test_other_hosts_or_another_recipe_are_refused(recipe, tmp_path):
    settle(recipe, tmp_path / "run", HOSTS).close()
    with pytest.raises(RunDirectoryError, match=r"one\.example:7000, not at three"):
        settle(recipe, tmp_path / "run", ("three.example:7000", HOSTS[1]))
    with pytest.raises(RunDirectoryError, match="rounds"):
        settle(load_recipe("dimat-digits", ["peers=2", "rounds=3"]), tmp_path / "run", HOSTS)


def test_where_certificates_are_renewed_may_change_and_the_run_s_clock_does_not(recipe, tmp_path):
    settle(recipe, tmp_path / "run", HOSTS).close()
    before = Cluster.load(tmp_path / "run")
    settle(recipe, tmp_path / "run", HOSTS, authority="three.example:6999").close()
    after = Cluster.load(tmp_path / "run")
    assert (before.authority, after.authority) == ("", "three.example:6999")
    assert (after.epoch, after.members) == (before.epoch, before.members)


def test_a_run_of_one_machine_is_left_alone(recipe, tmp_path):
    RunDirectory.create(tmp_path / "run", recipe, "local").close()
    with pytest.raises(RunDirectoryError, match="this machine alone"):
        settle(recipe, tmp_path / "run", HOSTS)


@pytest.mark.parametrize(
    ("settings", "key"), [(["attestation=required"], "attestation"), (["training.start_from=x"], "training.start_from")]
)
def test_what_only_one_machine_has_is_refused_by_its_key(tmp_path, settings, key):
    recipe = load_recipe("dimat-digits", ["peers=2", *settings])
    with pytest.raises(RecipeError) as refused:
        settle(recipe, tmp_path / "run", HOSTS)
    assert refused.value.key == key and not (tmp_path / "run").exists()


def test_a_full_disk_is_named(recipe, tmp_path, monkeypatch):
    def full(path: Path, data: bytes, *, private: bool = False) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(apart, "write_atomic", full)
    with pytest.raises(RunDirectoryError, match="No space left"):
        settle(recipe, tmp_path / "run", HOSTS, apart=True)


# What is handed over


@pytest.fixture
def made(recipe: Recipe, tmp_path: Path) -> Path:
    settle(recipe, tmp_path / "run", HOSTS).close()
    return tmp_path / "run"


def test_who_a_node_is_follows_from_its_key(made, tmp_path):
    member = hand_over(made, made / "nodes" / "peer-1", tmp_path / "own")
    assert (member.name, member.index) == ("peer-1", 1)
    assert [folder.name for folder in (tmp_path / "own" / "nodes").iterdir()] == ["peer-1"]


def test_keys_that_others_may_read_where_they_are_mounted_are_the_owner_s_alone_afterwards(made, tmp_path):
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name in OWN:
        (mounted / name).write_bytes((made / "nodes" / "peer-0" / name).read_bytes())
        (mounted / name).chmod(0o440)
    hand_over(made, mounted, tmp_path / "own")
    assert Identity.load(tmp_path / "own" / "nodes" / "peer-0" / IDENTITY).id == Cluster.load(made).members[0].id


def test_what_the_node_has_written_stays(made, tmp_path):
    hand_over(made, made / "nodes" / "peer-0", tmp_path / "own")
    (tmp_path / "own" / "nodes" / "peer-0" / "counter").write_text("7")
    hand_over(made, made / "nodes" / "peer-0", tmp_path / "own")
    assert (tmp_path / "own" / "nodes" / "peer-0" / "counter").read_text() == "7"


def test_a_certificate_that_the_node_got_later_stays(made, tmp_path, monkeypatch):
    keys = made / "nodes" / "peer-0"
    old = {name: (keys / name).read_bytes() for name in (TLS, AUTHORITIES)}
    monkeypatch.setattr("decentral.wire.enrolment.VALIDITY", apart_days(6))
    stale = tmp_path / "stale"
    stale.mkdir()
    from decentral.wire.authority import Authority
    from decentral.wire.enrolment import grant

    identity = Identity.load(keys / IDENTITY)
    identity.save(stale / IDENTITY)
    grant(Authority.load(made / "authority"), identity).save(stale)
    hand_over(made, keys, tmp_path / "own")
    hand_over(made, stale, tmp_path / "own")
    assert {name: (tmp_path / "own" / "nodes" / "peer-0" / name).read_bytes() for name in (TLS, AUTHORITIES)} == old


def apart_days(days: int):
    from datetime import timedelta

    return timedelta(days=days)


def test_a_stranger_s_keys_and_another_s_folder_are_refused(made, recipe, tmp_path):
    settle(recipe, tmp_path / "other", HOSTS).close()
    with pytest.raises(UserError, match="nobody in this cluster"):
        hand_over(made, tmp_path / "other" / "nodes" / "peer-0", tmp_path / "own")
    hand_over(made, made / "nodes" / "peer-0", tmp_path / "own")
    with pytest.raises(RunDirectoryError, match="keys of another peer-0"):
        hand_over(tmp_path / "other", tmp_path / "other" / "nodes" / "peer-0", tmp_path / "own")


def test_a_folder_that_lacks_a_file_is_named(made, tmp_path):
    (made / FILE).unlink()
    with pytest.raises(RunDirectoryError, match=str(made)):
        hand_over(made, made / "nodes" / "peer-0", tmp_path / "own")


def test_plugins_are_copied_to_every_node_and_stay_when_it_is_made_again(recipe, tmp_path):
    file = tmp_path / "network.py"
    file.write_text("ONE = 1\n")
    hosts = ("one:7000", "two:7000")
    settle(recipe, tmp_path / "run", hosts, apart=True, plugins=[file]).close()
    settle(recipe, tmp_path / "run", hosts, apart=True).close()
    for folder in (tmp_path / "run", tmp_path / "run" / APART / "peer-1"):
        assert Cluster.load(folder).plugins == ("plugins/network.py",)
        assert (folder / "plugins" / "network.py").read_text() == "ONE = 1\n"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "network.py").write_text("")
    with pytest.raises(UserError, match=r"--plugin .*other/network\.py: another one has that name"):
        settle(recipe, tmp_path / "two", hosts, plugins=[file, tmp_path / "other" / "network.py"])
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("plugin", ["/elsewhere/network.py", "../network.py", "plugins/../../network.py"])
def test_what_a_cluster_file_names_outside_the_folder_is_not_copied(made, tmp_path, plugin):
    replace(Cluster.load(made), plugins=(plugin,)).save(made)
    (tmp_path / "network.py").write_text("")
    hand_over(made, made / "nodes" / "peer-0", tmp_path / "far" / "own")
    assert list((tmp_path / "far").rglob("network.py")) == []


def test_a_replica_is_handed_its_own_stage_and_a_client_gets_in(tmp_path):
    served = untrained(tmp_path)
    hosts = tuple(f"h{index}:7000" for index in range(3))
    directory = settle(served, tmp_path / "run", hosts, apart=True)
    for place, name in enumerate(names_of(served)):
        own = ServingDirectory.open(directory.path / APART / name)
        assert sorted(file.name for file in own.stages.iterdir()) == ["network.json", f"stage-{place}.safetensors"]
    pinned = Anchors.load(directory.path / FILE)
    assert [(peer.part, peer.address) for peer in pinned.peers] == [(f"stage-{k}", hosts[k]) for k in range(3)]
    assert Credentials.load(directory.client).authority == pinned.authority
    assert json.loads((directory.path / "run.json").read_text())["does"] == "serving"
