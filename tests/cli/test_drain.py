"""`decentral drain`: a replica goes and comes back, and of what is asked meanwhile nothing is lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from decentral.cli.main import app
from decentral.launch import background
from decentral.launch.background import start_serving, stop
from decentral.launch.cluster import is_running
from decentral.launch.prepare import prepare
from decentral.models.catalogue import build_model
from decentral.run.directory import ServingDirectory
from decentral.run.journal import read
from decentral.run.serving_recipe import load_any_recipe
from decentral.serving.client import Client
from decentral.trust.evidence import FaultKind

MANY = 64
RECIPE = """\
stages: ["2"]
replicas: 4
policy: {{replicas: 3, quorum: 2, faulty: 1}}
model: {{file: {file}, name: mlp, hidden: [6]}}
data: {{name: digits}}
"""


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten processes start at once, on a machine that may have other things to do."""
    monkeypatch.setattr(background, "STARTING", 300.0)


@pytest.fixture
def run(tmp_path: Path) -> ServingDirectory:
    torch.save(build_model("mlp", (1, 8, 8), 10, hidden=[6]).state_dict(), tmp_path / "model.pth")
    (tmp_path / "small.yaml").write_text(RECIPE.format(file=tmp_path / "model.pth"))
    return prepare(load_any_recipe(tmp_path / "small.yaml"), tmp_path / "run")


def decentral(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["drain", *map(str, arguments)])


def test_what_cannot_be_drained_is_said(run: ServingDirectory) -> None:
    from decentral.launch.cluster import Cluster

    Cluster((), 0.0).save(run.path)
    done = decentral(run.path, "stage-0-a")
    assert done.exit_code == 2 and "no such node serves here" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_64_requests_in_flight_outlive_a_replica_that_drains_and_it_comes_back(run: ServingDirectory) -> None:
    launcher = start_serving(run)
    try:
        assert decentral(run.path, "nobody").exit_code == 2
        said = asyncio.run(_ask_and_drain(run))
        assert said == {"dir": str(run.path), "node": "stage-0-a", "drained": True}
        assert not is_running(run.nodes / "stage-0-a")
        events = [event["event"] for event in read(run.journal_file("stage-0-a"))]
        assert [event for event in events if event != "load"][-2:] == ["draining", "drained"]
        back = decentral(run.path, "stage-0-a", "--undo")
        assert back.exit_code == 0 and is_running(run.nodes / "stage-0-a")
        assert "crashed" not in [event["event"] for event in read(run.journal_file("launcher"))]
    finally:
        stop(run)
        launcher.wait(60)


async def _ask_and_drain(run: ServingDirectory) -> dict[str, object]:
    batch = torch.rand(2, 1, 8, 8)
    async with Client.connect(run.path) as client:
        expected = (await client.predict(batch)).output
        asked = [asyncio.create_task(client.predict(batch)) for _ in range(MANY)]
        await asyncio.sleep(0.2)
        draining = asyncio.create_task(asyncio.to_thread(decentral, run.path, "stage-0-a", "--json"))
        while not draining.done():
            asked.append(asyncio.create_task(client.predict(batch)))
            await asyncio.sleep(0.1)
        predictions = await asyncio.gather(*asked)
    assert all(prediction.verdict.valid and torch.allclose(prediction.output, expected) for prediction in predictions)
    kinds = {fault.kind for prediction in predictions for fault in prediction.faults}
    assert kinds <= {FaultKind.UNRESPONSIVE, FaultKind.BUSY}, "once it is gone it does not answer, and nobody has lied"
    done = draining.result()
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))
