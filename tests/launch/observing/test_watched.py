"""What is said of a directory is what its files say."""

from __future__ import annotations

import json

from decentral.algorithms.presence import Member
from decentral.launch.cluster import Cluster
from decentral.launch.observing.watched import Watched
from decentral.run.directory import RunDirectory, ServingDirectory
from decentral.run.metrics import EXPIRY, INFO, REPUTATION, ROUNDS, SERVING
from decentral.run.recipe import Recipe, load_recipe
from decentral.run.serving_recipe import load_any_recipe
from decentral.serving.selection.ledger import FILE as LEDGER
from decentral.serving.selection.ledger import Ledger
from decentral.serving.selection.reputation import Reputations
from decentral.trust.anchors import Anchor, Anchors
from decentral.wire.authority import Authority
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId


def made(path) -> RunDirectory:
    with RunDirectory.create(path, load_recipe("dimat-digits", ["peers=2"]), "local") as run:
        return run


def write(run, name: str, *events: dict) -> None:
    run.node(name)
    run.journal_file(name).write_text("".join(f"{json.dumps(event)}\n" for event in events))


def test_it_says_which_recipe_and_who_takes_part_before_anybody_has_started(tmp_path):
    run = made(tmp_path / "run")
    about = Watched(run).about()
    assert about["hash"] == run.recipe.hash and about["does"] == "training" and about["node"] is None
    assert about["members"] == [{"index": 0, "name": "peer-0"}, {"index": 1, "name": "peer-1"}]
    assert Recipe.model_validate(json.loads(json.dumps(about["recipe"]))).hash == run.recipe.hash


def test_members_and_time_are_those_of_the_cluster_file_once_it_is_there(tmp_path):
    run = made(tmp_path / "run")
    watched = Watched(run, 1)
    Cluster((Member(0, "peer-0", PeerId("a"), "127.0.0.1:1"),), 1000.0).save(run.path)
    write(run, "peer-1", {"t": 1.0, "peer": 1, "event": "certified", "left": 60.0})
    watched.lines.poll()
    assert watched.about()["members"] == [{"index": 0, "name": "peer-0"}] and watched.about()["node"] == 1
    assert watched.metrics.values(EXPIRY) == {("peer-1",): 1061.0}


def test_one_node_is_told_of_itself_alone_and_a_launcher_of_all(tmp_path):
    run = made(tmp_path / "run")
    sent = {"model": 1, "control": 1, "evidence": 0, "total": 2}
    for index in range(2):
        write(run, f"peer-{index}", {"t": 1.0, "peer": index, "event": "round", "round": 1, "bytes": sent})
    alone, both = Watched(run, 1), Watched(run)
    alone.lines.poll()
    both.lines.poll()
    assert alone.metrics.values(ROUNDS) == {("peer-1",): 1}
    assert both.metrics.values(ROUNDS) == {("peer-0",): 1, ("peer-1",): 1}
    assert list(alone.metrics.values(INFO)) == [("dimat-digits", run.recipe.hash, "training", "local")]


def test_nodes_that_serve_have_their_own_names(tmp_path):
    with ServingDirectory.create(tmp_path / "up", load_any_recipe("serve-digits"), "local") as cluster:
        names = cluster.recipe.node_names
    watched = Watched(cluster)
    write(cluster, names[1], {"t": 1.0, "peer": 1, "event": "serving", "part": "stage-0", "digest": "00"})
    watched.lines.poll()
    assert list(watched.metrics.values(SERVING)) == [(names[1], "stage-0")]
    assert watched.name_of(99) == "peer-99"


def test_what_this_machine_s_client_thinks_is_shown_by_the_launcher(tmp_path, authority: Authority):
    run = made(tmp_path / "run")
    peers = tuple(Anchor(f"peer-{index}", Identity.generate().id, f"127.0.0.1:{7000 + index}") for index in range(2))
    Anchors(authority.pem, peers).save(run.path / "trust.toml")
    watched = Watched(run)
    watched.judge()
    assert watched.metrics.values(REPUTATION) == {}
    with Ledger.open(run.client / LEDGER) as ledger:
        Reputations(ledger).record(agreed=[peers[0].id] * 8)
    watched.judge()
    shown = watched.metrics.values(REPUTATION)
    assert shown["peer-0",] > 0.7 > 0.3 > shown["peer-1",]
    alone = Watched(run, 0)
    alone.judge()
    assert alone.metrics.values(REPUTATION) == {}


def test_a_ledger_that_cannot_be_read_hides_nothing_else(tmp_path, authority: Authority):
    run = made(tmp_path / "run")
    Anchors(authority.pem, ()).save(run.path / "trust.toml")
    (run.client / LEDGER).write_bytes(b"no ledger")
    watched = Watched(run)
    watched.judge()
    assert watched.metrics.values(REPUTATION) == {}
