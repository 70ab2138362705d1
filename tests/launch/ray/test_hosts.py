"""A simulated run whose peers train on a Ray cluster is the run of one process, to the last byte."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from decentral.errors import DecentralError, UserError
from decentral.launch.engine import Options, execute
from decentral.launch.ray.options import RayOptions
from decentral.models.catalogue import MODELS
from decentral.registry import load_plugin
from decentral.run.recipe import load_recipe
from tests.launch.pool.test_pool import LAUNCHERS
from tests.launch.ray.test_freight import recipe_at
from tests.launch.test_simulated import digests, simulate

PLUGIN = """
from decentral.models.catalogue import MODELS
from decentral.models.mlp import mlp

@MODELS.register("brought")
def brought(input_shape, classes):
    return mlp(input_shape, classes, hidden=[12])
"""


@pytest.mark.parametrize(("world", "workers"), [("local", None), ("sim", None), ("sim", 1), ("sim", 0)])
def test_a_cluster_is_for_peers_on_ray_or_for_several_workers(tmp_path, world, workers):
    options = Options(out=tmp_path / "run", workers=workers, ray=RayOptions(address="auto"))
    with pytest.raises(UserError, match="--workers of 2 or more"):
        execute(load_recipe("dimat-digits"), world, options)


def test_what_is_on_this_machine_alone_is_not_for_workers_elsewhere(tmp_path):
    pytest.importorskip("ray")
    recipe = load_recipe("dimat-digits", (f"training.start_from={tmp_path}",))
    with pytest.raises(UserError, match="start_from"):
        execute(recipe, "sim", Options(out=tmp_path / "run", workers=2, ray=RayOptions(address="auto")))


def test_what_a_machine_lacks_is_brought_before_it_is_asked(images, tmp_path, monkeypatch):
    """Here the machine is this one, and its way there a call."""
    pytest.importorskip("ray")
    from decentral.launch.ray import freight, hosts

    class Remote:
        def __init__(self, method):
            self.remote = method

    class Handle(hosts.HostActor):
        def __getattribute__(self, name):
            found = super().__getattribute__(name)
            return Remote(found) if name in ("lacks", "unload", "take", "answer") else found

    monkeypatch.setattr(hosts.ray, "get", lambda value: value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    recipe = recipe_at(images, folder="tiny")
    ship = freight.load(recipe, bytes)
    plugin = tmp_path / "one.py"
    plugin.write_text("# brought")
    actor = Handle()
    way = hosts.Actor(0, actor, lambda: ship)
    assert way.prepared(recipe, ()) == (recipe, []), "all of it is there"
    monkeypatch.setattr(hosts.HostActor, "lacks", lambda self, recipe: True)
    there, (file,) = way.prepared(recipe, [plugin])
    assert there.hash == recipe.hash and there.data.root != recipe.data.root and freight.is_here(there)
    assert Path(file) != plugin and Path(file).read_text() == "# brought"
    actor.move_out()
    assert not Path(file).exists() and freight.is_here(there)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "overrides", [("model=brought",), ("algorithm=modest", "sampling.size=3")], ids=["a plugin's model", "samples"]
)
def test_who_trains_on_which_machine_changes_no_byte(cluster, tmp_path, overrides):
    plugin = tmp_path / "brought.py"
    plugin.write_text(PLUGIN)
    if "brought" not in MODELS.names():
        load_plugin(plugin)
    options = {"workers": 3, "ray": RayOptions(address=cluster.address), "plugins": (plugin,)}
    alone, placed = simulate(tmp_path / "alone", *overrides), simulate(tmp_path / "placed", *overrides, **options)
    assert digests(alone, without=LAUNCHERS) == digests(placed, without=LAUNCHERS)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_more_workers_than_there_is_room_for_are_told_what_is_missing(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("decentral.launch.ray.placement.PLACING", 2.0)
    with pytest.raises(UserError, match="--workers 13: 13 workers need 1 CPU each"):
        simulate(tmp_path, "peers=20", workers=13, ray=RayOptions(address=cluster.address))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_machine_that_dies_ends_the_run_with_its_name_and_the_run_goes_on(fragile, tmp_path):
    ray = RayOptions(address=fragile.address)

    def killing(event: dict[str, object]) -> None:
        if event["event"] == "round" and event["round"] == 2 and event["peer"] == 3 and fragile.machines:
            for machine in list(fragile.machines)[1:]:
                fragile.kill(machine)

    whole = simulate(tmp_path / "whole")
    with pytest.raises(DecentralError, match=r"(?s)worker \d of the simulator has ended.*--resume"):
        simulate(tmp_path / "halved", workers=3, ray=ray, observe=killing)
    halved = simulate(tmp_path / "halved", workers=2, ray=ray, resume=True)
    history = frozenset({"events.jsonl", "report.html", "counter"})  # they tell of the interruption
    assert digests(whole, without=LAUNCHERS | history) == digests(halved, without=LAUNCHERS | history)
