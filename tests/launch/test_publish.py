"""A run of experts leaves folders that plain diffusers loads: the same in both worlds, and after a crash."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from decentral.data.clusters import Assignment
from decentral.errors import UserError
from decentral.launch.engine import Options, execute
from decentral.launch.serving import parts_of
from decentral.models.experts import load_denoiser
from decentral.run.directory import RunDirectory
from decentral.run.recipe import load_recipe
from decentral.serving.experts.expert import digest_of
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.training.checkpoint import Checkpoints

TINY = (
    "model={name: unet, channels: [8, 16]}",
    "learner={name: diffusion, draws: 1, router: {name: unet, channels: [8, 16]}}",
    "peers=3",
    "rounds=2",
    "training.steps=2",
    "data.subset=200",
    "evaluation={every: 2, samples: 20}",
    "deadlines={round: 60.0, probe: 0.3, call: 30.0}",
)
MODELS = ("pipeline", "nodes/peer-0/expert", "nodes/peer-1/expert", "nodes/peer-2/router")


def run(world: str, out: Path, *settings: str, **options) -> tuple[RunDirectory, dict]:
    recipe = load_recipe("diffusion-digits", [*TINY, *settings])
    return execute(recipe, world, Options(out=out, **options))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> tuple[RunDirectory, dict]:
    return run("sim", tmp_path_factory.mktemp("sim") / "run")


def files(folder: Path) -> list[str]:
    return sorted(
        str(file.relative_to(folder)) for part in MODELS for file in (folder / part).rglob("*") if file.is_file()
    )


def test_the_pipeline_samples_and_every_part_is_of_use_alone(simulated):
    path = simulated[0].path
    pipeline = DecentralizedDiffusionPipeline.from_pretrained(path / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    assert sorted(pipeline.experts) == [0, 1]
    images = pipeline(2, 2, experts="top-1", class_labels=[3, 4], output_type="pt").images
    assert images.shape == (2, 1, 8, 8) and images.isfinite().all()
    alone = UNet2DModel.from_pretrained(path / "pipeline", subfolder="expert_1")
    served = load_denoiser(path / "nodes" / "peer-1" / "expert")
    kept = Checkpoints(path / "checkpoints", "peer-1").load()
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, served.state_dict()[name]) and torch.equal(tensor, kept.state[name])


def test_what_is_served_has_the_digest_that_clients_pin(simulated):
    parts = parts_of(simulated[0])
    assert [part.name for part in parts] == ["expert-0", "expert-1"]
    for part in parts:
        assert part.digest == digest_of(load_denoiser(simulated[0].nodes / part.node / "expert"))


def test_the_assignment_is_beside_the_pipeline(simulated):
    found = Assignment.load(simulated[0].path / "pipeline" / "assignment.json")
    assert sum(map(len, found.shares)) == 200


def test_experts_have_losses_and_the_router_stands_apart(simulated):
    summary = simulated[1]
    assert summary["accuracy"]["mean"] is None and summary["loss"] > 0
    assert 0 <= summary["router"]["accuracy"] <= 1 and summary["router"]["loss"] > 0
    sent = [json.loads(line) for line in (simulated[0].path / "events.jsonl").read_text().splitlines()]
    last = {event["peer"]: event["bytes"]["model"] for event in sent if event["event"] == "finished"}
    expert = load_denoiser(simulated[0].nodes / "peer-0" / "expert")
    size = sum(tensor.nbytes for tensor in expert.state_dict().values())
    assert last[2] == 0 and all(size < last[peer] < 1.05 * size for peer in (0, 1))


@pytest.mark.slow
def test_processes_leave_the_same_bytes_as_the_simulator(simulated, tmp_path):
    local, _ = run("local", tmp_path / "run")
    names = files(simulated[0].path)
    assert files(local.path) == names and len(names) > 12
    same, different, odd = filecmp.cmpfiles(simulated[0].path, local.path, names, shallow=False)
    assert not different and not odd and len(same) == len(names)


@pytest.mark.parametrize(("peer", "at"), [(0, 0.1), (2, 0.1), (2, 0.135)])
def test_who_is_killed_goes_on_from_its_checkpoint_to_the_same_end(simulated, tmp_path, peer: int, at: float):
    changes = tmp_path / "changes.csv"
    changes.write_text(f"seconds,peer,event\n{at},{peer},crash\n{at + 2},{peer},return\n")
    crashed, summary = run("sim", tmp_path / "run", f"simulation.churn={{path: {changes}}}")
    assert summary["crashed"] == summary["rejoined"] == [f"peer-{peer}"]
    names = files(simulated[0].path)
    assert filecmp.cmpfiles(simulated[0].path, crashed.path, names, shallow=False)[1:] == ([], [])


@pytest.mark.slow
def test_a_routers_process_that_is_killed_is_started_again_and_gets_every_expert(simulated, tmp_path):
    killed: list[int] = []

    def kill(event) -> None:
        if event["peer"] == 2 and event["event"] == "trained" and not killed:
            lock = tmp_path / "run" / "nodes" / "peer-2" / "lock"
            for link in Path("/proc").glob("[0-9]*/fd/*"):
                with contextlib.suppress(OSError):
                    if not killed and link.readlink() == lock:
                        killed.append(int(link.parts[2]))
                        os.kill(killed[0], signal.SIGKILL)

    local, summary = run("local", tmp_path / "run", restarts=1, observe=kill)
    assert killed and summary["crashed"] == summary["rejoined"] == ["peer-2"]
    names = files(simulated[0].path)
    assert filecmp.cmpfiles(simulated[0].path, local.path, names, shallow=False)[1:] == ([], [])


def test_a_run_that_was_interrupted_is_resumed_to_the_same_end(simulated, tmp_path):
    def interrupt(event) -> None:
        if event["event"] == "round" and (event["peer"], event["round"]) == (1, 1):
            raise RuntimeError("pulled the plug")

    with pytest.raises(ExceptionGroup):
        run("sim", tmp_path / "run", observe=interrupt)
    resumed, _ = run("sim", tmp_path / "run", resume=True)
    names = files(simulated[0].path)
    assert filecmp.cmpfiles(simulated[0].path, resumed.path, names, shallow=False)[1:] == ([], [])


def test_a_student_of_teachers_that_saw_other_images_is_refused(simulated, tmp_path):
    teacher = f"learner.teacher={simulated[0].path / 'pipeline'}"  # of a subset
    recipe = load_recipe("diffusion-digits-student", [TINY[0], teacher, "rounds=1", "training.steps=2"])
    with pytest.raises(UserError, match="other images"):
        execute(recipe, "sim", Options(out=tmp_path / "refused"))


def test_one_network_alone_is_left_behind_too(tmp_path):
    settings = ["algorithm=isolated", "peers=1", "data.partition=iid", "rounds=1", "learner.router=null"]
    alone = run("sim", tmp_path / "run", *settings)[0]
    served = load_denoiser(alone.node("peer-0") / "expert")
    assert (alone.node("peer-0") / "expert" / "digest").read_text().strip() == digest_of(served)
