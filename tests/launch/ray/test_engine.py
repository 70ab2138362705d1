"""A run on Ray ends as one in processes does, and goes on where a machine of it dies."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from decentral.errors import UserError
from decentral.launch.engine import Options, execute
from decentral.launch.ray import freight, lodging, placement
from decentral.launch.ray.options import RayOptions
from decentral.run.journal import read
from decentral.run.recipe import load_recipe
from tests.launch.ray.conftest import Emulated, descendants
from tests.launch.test_local import Launched, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PATIENCE = 240.0
"""Seconds for what takes a few on idle processors."""


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


def machines_of(launched: Launched) -> dict[int, str]:
    """Where each peer was placed last."""
    events = read(launched.out / "nodes" / "launcher" / "events.jsonl")
    return {event["other"]: event["machine"] for event in events if event["event"] == "placed"}


def start(cluster: Emulated, out: Path, *overrides: str, recipe: str = "dimat-digits") -> Launched:
    said = [part for override in overrides for part in ("--set", override)]
    return Launched(out, "--on", "ray", "--address", cluster.address, "--json", *said, recipe=recipe)


def ended(launched: Launched, patience: float = PATIENCE) -> dict:
    try:
        said, problem = launched.process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        launched.process.kill()
        raise
    assert launched.process.returncode == 0, problem
    return json.loads(said)


@pytest.mark.timeout(900)
def test_peers_of_a_machine_that_dies_live_elsewhere_and_rejoin(fragile, tmp_path):
    rounds = 300  # the others are still at it when Ray has found another place
    slowly = ("topology=full", "training.epochs=8", "deadlines.probe=0.5")
    launched = start(fragile, tmp_path / "run", f"rounds={rounds}", *slowly)
    launched.wait_for("round", PATIENCE, round=5)
    before = machines_of(launched)
    killed = before[0]
    gone = {peer for peer, machine in before.items() if machine == killed}
    fragile.kill(killed)
    summary = ended(launched, 600.0)
    assert set(summary["crashed"]) == set(summary["rejoined"]) == {f"peer-{peer}" for peer in gone}
    after = machines_of(launched)
    assert killed not in after.values()
    assert {peer for peer in after if after[peer] != before[peer]} == gone
    finished = {event["peer"] for event in read(launched.out / "events.jsonl") if event["event"] == "finished"}
    assert finished == set(range(5))
    started = [event for event in read(launched.out / "events.jsonl") if event["event"] == "started"]
    back = {event["peer"]: event["round"] for event in started if event["rejoined"]}
    assert back.keys() == gone and all(4 <= round < rounds for round in back.values())
    assert summary["rounds"] == rounds and summary["accuracy"]["mean"] > 0.85


def test_sampled_peers_on_three_machines_train_as_well_as_processes(cluster, tmp_path):
    recipe = load_recipe("modest-digits", ["rounds=20", "peers=12"])
    _, expected = execute(recipe, "local", Options(out=tmp_path / "local"))
    _, summary = execute(recipe, "ray", on(cluster, tmp_path / "ray"))
    assert summary["crashed"] == []
    assert summary["accuracy"]["mean"] == pytest.approx(expected["accuracy"]["mean"], abs=0.05)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "down"])
def test_a_run_that_is_interrupted_leaves_nothing_running_and_goes_on(cluster, tmp_path, how):
    launched = start(cluster, tmp_path / "run", "rounds=100000")
    launched.wait_for("round", PATIENCE, round=2)
    nodes = [pid for pid in living(cluster) if "forkserver" in command(pid)]
    assert len(nodes) >= 5
    launched.process.send_signal(how)
    _, problem = launched.process.communicate(timeout=PATIENCE)
    assert launched.process.returncode == 130, problem
    assert "--resume" in problem
    ends = time.monotonic() + 30
    while left := [pid for pid in nodes if "forkserver" in command(pid)]:
        assert time.monotonic() < ends, [command(pid) for pid in left]
        time.sleep(0.2)


def test_a_cluster_that_is_up_on_ray_is_looked_at_and_goes_down(cluster, tmp_path):
    run = tmp_path / "run"
    said = ["--dir", str(run), "--on", "ray", "--address", cluster.address, "--set", "rounds=100000", "--json"]
    up = decentral("up", "dimat-digits", *said)
    assert up.returncode == 0, up.stderr
    assert json.loads(up.stdout)["peers"] == 5
    wait_until(lambda: '"round"' in decentral("status", str(run), "--json").stdout, PATIENCE)
    assert decentral("down", str(run)).returncode == 0
    assert json.loads((run / "summary.json").read_text())["world"] == "ray"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve-digits", "--on", "ray"), "for recipes that train"),
        (("diffusion-digits", "--on", "ray"), "for recipes that train"),
        (("dimat-digits", "--address", "auto"), "are for --on ray"),
        (("dimat-digits", "--on", "ray", "--address", "192.0.2.1:1"), "192.0.2.1:1 cannot be used"),
    ],
)
def test_what_cannot_be_up_on_ray_says_why(tmp_path, arguments, words):
    pytest.importorskip("ray")
    done = decentral("up", *arguments, "--dir", str(tmp_path / "run"))
    assert done.returncode == 2 and words in done.stderr, done.stderr


def decentral(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def living(cluster: Emulated) -> list[int]:
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.machines.values()]
    return [pid for raylet in raylets for pid in descendants(raylet)]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def test_a_run_that_went_on_ends_as_one_that_nobody_interrupted(cluster, tmp_path):
    overrides = ["rounds=8"]
    recipe = load_recipe("dimat-digits", overrides)
    whole, expected = execute(recipe, "local", Options(out=tmp_path / "whole"))
    launched = start(cluster, tmp_path / "run", *overrides)
    launched.wait_for("round", PATIENCE, round=3)
    launched.process.send_signal(signal.SIGINT)
    launched.process.communicate(timeout=PATIENCE)
    resumed, summary = execute(recipe, "ray", on(cluster, tmp_path / "run", resume=True))
    assert summary["accuracy"] == expected["accuracy"]
    assert parameters(resumed.path) == parameters(whole.path)


def test_more_peers_than_there_is_room_for_are_refused_with_what_is_missing(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "PLACING", 2.0)
    for overrides, words in (["threads=5"], "5 peers need 5 CPU each"), (["device=cuda"], "5 peers need 1 GPU each"):
        with pytest.raises(UserError, match=words) as raised:
            execute(load_recipe("dimat-digits", overrides), "ray", on(cluster, tmp_path / overrides[0]))
        assert "on 4 machines" in str(raised.value)


PLUGIN = """
from torch import nn

from decentral.models.catalogue import MODELS


@MODELS.register("mine")
def mine(input_shape, classes, *, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, width), nn.ReLU(), nn.Linear(width, classes))
"""


def test_nodes_are_given_the_plugins_and_the_data_that_only_the_launcher_has(cluster, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(PLUGIN)
    for part, count in (("train", 20), ("val", 5)):
        for shade, name in enumerate(("dark", "light")):
            folder = tmp_path / "data" / "shades" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.randrange(100)
                Image.new("RGB", (8, 8), (90 * shade + number, noise, noise)).save(folder / f"{number}.png")
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path / "data"))  # of the launcher: the machines stand since before
    data = ["data={name: image-folder, options: {folder: shades, size: 8}}", "model={name: mine, width: 6}"]
    said = [part for override in (*data, "peers=3", "rounds=2") for part in ("--set", override)]
    arguments = ["--on", "ray", "--address", cluster.address, "--json", "--plugin", str(tmp_path / "mine.py"), *said]
    recipe = load_recipe("dimat-digits", data[:1])
    unpacked = lodging.shared() / freight.load(recipe, len).digest
    assert not unpacked.exists()
    try:
        summary = ended(Launched(tmp_path / "run", *arguments))
        assert len(list(unpacked.rglob("*.png"))) == 50
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    assert summary["rounds"] == 2 and summary["peers"] == 3 and summary["crashed"] == []


def test_a_peer_that_cannot_use_what_it_is_given_ends_the_run_with_its_words(cluster, tmp_path):
    recipe = load_recipe("dimat-digits", ["data.name=cifar10", f"data.root={tmp_path}", "model=resnet20"])
    with pytest.raises(UserError, match="not found under"):
        execute(recipe, "ray", on(cluster, tmp_path / "run"))
