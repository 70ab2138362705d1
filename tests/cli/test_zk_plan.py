"""`decentral zk plan` says what proofs would cost, by how much a budget is too small, and for which machine."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.models.catalogue import build_model
from decentral.zk.machine import FILE

NAMED = ["--set", "model.name=strided-cnn", "--set", "model.channels=[4,8]", "--set", "data.name=digits"]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_file(build_model("strided-cnn", (1, 8, 8), 10, channels=[4, 8]).state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setenv("DECENTRAL_ZK", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()

    def run(*arguments: str):
        return CliRunner().invoke(app, ["zk", "plan", str(tmp_path / "model.safetensors"), *NAMED, *arguments])

    return run


def test_a_person_reads_a_table_and_what_it_is_for(plan, tmp_path):
    done = plan()
    assert done.exit_code == 0, done.stderr
    assert "features.0 .. classifier" in done.stdout and "2^15" in done.stdout
    assert "one circuit fits the budget" in done.stdout and "another machine" in done.stdout
    assert not [*(tmp_path / "store").iterdir()], "nothing is made"


def test_a_machine_that_was_measured_has_its_own_seconds(plan, tmp_path):
    before = json.loads(plan("--json").stdout)
    (tmp_path / "store" / FILE).write_text('{"factor": 2.0, "ezkl": "23.0.5"}')
    after = json.loads(plan("--json").stdout)
    assert (before["measured"], after["measured"]) == (False, True)
    assert after["prove_seconds"] == pytest.approx(2 * before["prove_seconds"], rel=0.1)
    assert after["memory_bytes"] == before["memory_bytes"]


def test_a_budget_that_is_too_small_is_said_with_the_layer(plan):
    done = plan("--memory", "0.1")
    assert done.exit_code == 2 and "features.0" in done.stderr and "more than the budget" in done.stderr
    done = plan("--parameters", "private")
    assert done.exit_code == 2 and "private" in done.stderr
