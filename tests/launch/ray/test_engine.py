"""A run on Ray ends as one in processes does, and goes on where a machine of it dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.launch.engine import Options, execute
from decentral.launch.ray.options import RayOptions
from decentral.run.journal import read
from decentral.run.recipe import load_recipe
from tests.launch.ray.conftest import Emulated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def on(cluster: Emulated, out: Path, **options: object) -> Options:
    return Options(out=out, ray=RayOptions(address=cluster.address), **options)


def parameters(run: Path) -> dict[str, bytes]:
    """Every peer's tensors, without the metadata, in which clocks differ."""
    from safetensors.torch import load_file, save

    return {file.name: save(load_file(file)) for file in sorted((run / "checkpoints").glob("peer-*.safetensors"))}


def test_synchronous_peers_on_three_machines_end_with_the_parameters_of_processes(cluster, tmp_path):
    recipe = load_recipe("dimat-digits", ["rounds=8"])
    local, expected = execute(recipe, "local", Options(out=tmp_path / "local"))
    placed, summary = execute(recipe, "ray", on(cluster, tmp_path / "ray"))
    assert summary["world"] == "ray"
    assert summary["accuracy"] == expected["accuracy"]
    assert summary["bytes"] == expected["bytes"]
    assert parameters(placed.path) == parameters(local.path)
    events = read(placed.path / "nodes" / "launcher" / "events.jsonl")
    assert len({event["machine"] for event in events if event["event"] == "placed"}) == 3
    assert not list((placed.path / "nodes").glob("*/lock")), "no node has run here"
