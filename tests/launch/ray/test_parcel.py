"""A node is handed what it needs to start, or to go on, and nobody else's key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from decentral.algorithms.presence import Member
from decentral.errors import DecentralError
from decentral.launch.apart import certify
from decentral.launch.cluster import Cluster
from decentral.launch.nodes import pin
from decentral.launch.ray.parcel import MARGIN, Parcel, meet, pack, unpack
from decentral.run.directory import RunDirectory
from decentral.run.recipe import load_recipe
from decentral.wire.authority import Authority
from decentral.wire.identity import Identity

NAMES = ("peer-0", "peer-1", "peer-2")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    recipe = load_recipe("dimat-digits", ["peers=3"])
    with RunDirectory.create(tmp_path / "launcher", recipe, "ray") as made:
        issuer = Authority.open(made.authority)
        members = []
        for index, name in enumerate(NAMES):
            identity = Identity.open(made.node(name) / "identity.key")
            members.append(Member(index, name, identity.id, f"192.0.2.{index}:7000"))
            certify(issuer, made.node(name))
        Cluster(tuple(members), 12.5, ("mine.py",), "192.0.2.9:6999").save(made.path)
        pin(made, issuer, members, ())
    return made


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text("# a plugin")
    return path


def test_a_parcel_makes_a_run_directory_with_one_nodes_keys(run, plugin, tmp_path):
    made = unpack(pack(run, "peer-1", 1, [plugin], moved=False), tmp_path / "node", None)
    assert made.recipe.hash == run.recipe.hash
    keys = sorted(path.parent.name for path in made.path.rglob("identity.key"))
    assert keys == ["peer-1"]
    assert not (made.path / "authority").exists()
    assert Identity.load(made.node("peer-1") / "identity.key").id == Cluster.load(run.path).members[1].id
    assert all(path.stat().st_mode & 0o077 == 0 for path in made.path.rglob("*.pem"))
    (here,) = Cluster.load(made.path).plugins
    assert Path(here).read_text() == "# a plugin"
    assert Path(here).is_relative_to(made.path)


def test_a_node_that_moves_is_handed_what_it_left_and_outranks_its_past(run, tmp_path):
    (run.node("peer-0") / "counter").write_text("5")
    run.journal_file("peer-0").write_text('{"t":0,"peer":0,"event":"started"}\n')
    shelf = run.checkpoints / "peer-0"
    shelf.mkdir()
    (shelf / "round-000003.safetensors").write_bytes(b"model")
    first = pack(run, "peer-0", 0, [], moved=False)
    assert first.files["nodes/peer-0/counter"] == b"5"
    again = pack(run, "peer-0", 0, [], moved=True)
    made = unpack(again, tmp_path / "node", None)
    assert int((made.node("peer-0") / "counter").read_text()) == 5 + MARGIN
    assert made.journal_file("peer-0").read_bytes() == run.journal_file("peer-0").read_bytes()
    assert again.journal == len(run.journal_file("peer-0").read_bytes())
    assert (made.checkpoints / "peer-0" / "round-000003.safetensors").read_bytes() == b"model"


def test_data_that_was_unpacked_is_looked_for_there_under_the_same_hash(run, tmp_path):
    made = unpack(pack(run, "peer-2", 2, [], moved=False), tmp_path / "node", tmp_path / "data")
    assert made.recipe.data.root == str(tmp_path / "data")
    assert made.recipe.hash == run.recipe.hash
    assert RunDirectory.open(made.path).recipe.differences(run.recipe) == []


def test_who_moved_is_written_down_for_a_node_that_is_started_anew(run, plugin, tmp_path):
    made = unpack(pack(run, "peer-1", 1, [plugin], moved=False), tmp_path / "node", None)
    cluster = Cluster.load(run.path)
    moved = dataclasses.replace(cluster.members[0], address="192.0.2.77:7001")
    meet(made.path, dataclasses.replace(cluster, members=(moved, *cluster.members[1:])))
    read = Cluster.load(made.path)
    assert [member.address for member in read.members] == ["192.0.2.77:7001", "192.0.2.1:7000", "192.0.2.2:7000"]
    assert Path(read.plugins[0]).is_file()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "nodes/../../outside"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    with pytest.raises(DecentralError, match="no name of a file"):
        unpack(Parcel("peer-0", {name: b"x"}, 0), tmp_path / "node", None)
    assert not (tmp_path / "outside").exists()
