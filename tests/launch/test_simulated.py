"""The simulator: same seed, same bytes; and an interrupted run ends as an uninterrupted one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from decentral.algorithms.catalogue import ALGORITHMS
from decentral.launch.engine import Options, execute
from decentral.run.recipe import load_recipe

SMALL = ("rounds=4", "peers=4", "model={name: mlp, hidden: [16]}")


def digests(run: Path, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """Every file of a run directory, `seconds` apart."""
    found = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file() and path.name not in without):
        content = file.read_bytes()
        if file.name == "summary.json":
            summary = json.loads(content)
            del summary["seconds"]
            content = json.dumps(summary).encode()
        found[str(file.relative_to(run))] = hashlib.sha256(content).hexdigest()
    return found


def simulate(out: Path, *overrides: str, **options: object) -> Path:
    recipe = load_recipe("dimat-digits", (*SMALL, *overrides))
    directory, _ = execute(recipe, "sim", Options(out=out, **options))
    return directory.path


@pytest.mark.parametrize("algorithm", ALGORITHMS.names())
def test_the_same_seed_gives_a_bit_identical_run_directory(tmp_path, algorithm):
    first, second = (simulate(tmp_path / name, f"algorithm={algorithm}") for name in ("first", "second"))
    assert digests(first) == digests(second)
    assert len(digests(first)) > 15


def test_another_seed_gives_another_result(tmp_path):
    first, second = (simulate(tmp_path / seed, f"seed={seed}") for seed in ("0", "1"))
    assert digests(first)["checkpoints/peer-0.safetensors"] != digests(second)["checkpoints/peer-0.safetensors"]


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.fresh_optimizer=true",),
        ("training.fresh_optimizer=false",),
        ("algorithm=dpsgd", "training.steps=7", "training.fresh_optimizer=false"),
        ("algorithm=sgp", "topology=star"),
        ("algorithm=gradient-tracking",),
        ("algorithm=gradient-tracking", "training.fresh_optimizer=false"),
    ],
    ids=" ".join,
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, overrides):
    def stopping(event: dict[str, object]) -> None:
        if event["event"] == "trained" and event["round"] == 3 and event["peer"] == 2:
            raise Stop

    whole = simulate(tmp_path / "whole", *overrides)
    with pytest.raises((Stop, BaseExceptionGroup)):
        simulate(tmp_path / "halved", *overrides, observe=stopping)
    assert json.loads((tmp_path / "halved" / "summary.json").read_text())["rounds"] < 4
    halved = simulate(tmp_path / "halved", *overrides, resume=True)
    history = frozenset({"events.jsonl", "report.html", "counter", ".lock"})  # they tell of the interruption
    assert digests(whole, without=history) == digests(halved, without=history)
    assert (halved / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_a_resumed_gossip_ends_with_the_same_parameters(tmp_path):
    """Not with the same control bytes: what peers that do not meet in every round know of one another is asked anew."""

    def stopping(event: dict[str, object]) -> None:
        if event["event"] == "trained" and event["round"] == 3 and event["peer"] == 2:
            raise Stop

    whole = simulate(tmp_path / "whole", "algorithm=gossip")
    with pytest.raises((Stop, BaseExceptionGroup)):
        simulate(tmp_path / "halved", "algorithm=gossip", observe=stopping)
    halved = simulate(tmp_path / "halved", "algorithm=gossip", resume=True)
    for peer in range(4):
        one, other = (load_file(run / "checkpoints" / f"peer-{peer}.safetensors") for run in (whole, halved))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
