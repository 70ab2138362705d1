"""`decentral run` as a person types it: results on stdout, advice on stderr, errors with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ("--set", "rounds=2", "--set", "peers=2", "--set", "model={name: mlp, hidden: [8]}")


def decentral(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_a_run_says_what_came_of_it_and_where_it_is(tmp_path):
    done = decentral("run", "dimat-digits", *SMALL, "--on", "sim", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout and "runs/dimat-digits-1" in done.stdout
    assert (tmp_path / "runs" / "dimat-digits-1" / "report.html").exists()
    assert "round 2/2" in done.stderr


def test_json_is_the_summary_and_nothing_else(tmp_path):
    done = decentral("run", "dimat-digits", *SMALL, "--on", "sim", "--out", "here", "--json", folder=tmp_path)
    assert json.loads(done.stdout) == json.loads((tmp_path / "here" / "summary.json").read_text())
    assert done.stderr == ""


BAD = [
    (("run", "dimat-digit"), "did you mean 'dimat-digits'"),
    (("run", "dimat-digits", "--on", "simm"), "did you mean 'sim'"),
    (("run", "dimat-digits", "--set", "peers=0"), "peers"),
    (("run", "dimat-digits", "--set", "topology={name: regular, degree: 6}"), "topology"),
    (("run", "dimat-digits", "--set", "rouns=3"), "did you mean 'rounds'"),
    (("run", "dimat-digits", "--plugin", "absent.py"), "absent.py"),
    (("run", "dimat-digits", "--resume"), "--out"),
    (("run", "dimat-digits", "--resume", "--out", "nothing"), "nothing"),
    (("run", "dimat-digits", "--out", "/proc/nowhere"), "/proc/nowhere"),
    (("run", "dimat-digits", "--nonsense"), "--nonsense"),
    (("run", "dimat-digits", "--metrics", "here"), "--metrics here"),
    (("run", "dimat-digits", "--on", "sim", "--trace", "spans.jsonl"), "--trace"),
]


@pytest.mark.parametrize(("arguments", "word"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_what_cannot_be_used_is_named_in_one_paragraph(tmp_path, arguments, word):
    done = decentral(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert word in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in decentral("run", "absent", "--debug", folder=tmp_path).stderr


def test_a_run_is_never_overwritten(tmp_path):
    first = decentral("run", "dimat-digits", *SMALL, "--on", "sim", "--out", "here", folder=tmp_path)
    before = {file: file.read_bytes() for file in (tmp_path / "here").rglob("*") if file.is_file()}
    second = decentral("run", "dimat-digits", *SMALL, "--on", "sim", "--out", "here", folder=tmp_path)
    assert (first.returncode, second.returncode) == (0, 2)
    assert "already holds a run" in second.stderr
    assert before == {file: file.read_bytes() for file in (tmp_path / "here").rglob("*") if file.is_file()}


def test_a_run_is_resumed_with_its_own_recipe_only(tmp_path):
    decentral("run", "dimat-digits", *SMALL, "--on", "sim", "--out", "here", folder=tmp_path)
    other = decentral("run", "dimat-digits", "--on", "sim", "--out", "here", "--resume", folder=tmp_path)
    assert other.returncode == 2 and "rounds" in other.stderr
    world = decentral("run", "dimat-digits", *SMALL, "--out", "here", "--resume", folder=tmp_path)
    assert world.returncode == 2 and "sim" in world.stderr


OWN = """
from torch import nn
from decentral import register_model

@register_model("mine")
def mine(input_shape, classes, width=12):
    channels, height, rows = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Flatten(), nn.Linear(width * height * rows, classes),
    )
"""


@pytest.mark.parametrize("world", ["sim", pytest.param("local", marks=pytest.mark.slow)])
def test_a_persons_own_network_trains_in_every_world(tmp_path, world):
    (tmp_path / "mine.py").write_text(OWN)
    mine = ("--plugin", "mine.py", "--set", "model={name: mine, width: 6}", "--set", "rounds=2", "--set", "peers=2")
    done = decentral("run", "dimat-digits", *mine, "--on", world, "--out", "run", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rounds"] == 2
