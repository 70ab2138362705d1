"""The recipes that are brought along: they resolve, their headers tell the truth, and those for a GPU start without."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from decentral.run.recipe import Recipe, load_recipe, read_recipe, recipe_files
from decentral.run.serving_recipe import ServingRecipe, any_recipe

FILES = recipe_files()
COMMAND = re.compile(r"^# {3}(decentral (?:run|up) .*)$", re.MULTILINE)
SETTING = re.compile(r"--set (\S+)")

each_recipe = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@pytest.fixture(autouse=True)
def reader(beside_autoencoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has an autoencoder where the recipes look for one."""
    monkeypatch.chdir(beside_autoencoder)


def header(file: Path) -> str:
    return "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))


def commands(file: Path) -> list[list[str]]:
    return [shlex.split(command) for command in COMMAND.findall(header(file))]


def load(name: str, settings: list[str] | None = None) -> Recipe | ServingRecipe:
    """Of either kind. RUN, a run of the reader's, need not be there."""
    return any_recipe(read_recipe(name), settings or [], prepared=True)


def resolve(command: list[str]) -> Recipe | ServingRecipe:
    """The recipe of `decentral run NAME`, or `up NAME`, with its settings; anything else on the line is an error."""
    program, verb, name, *options = command
    pairs = list(zip(options[::2], options[1::2], strict=True))
    recipe = load(name, [value for option, value in pairs if option == "--set"])
    assert (program, verb) == ("decentral", "run" if isinstance(recipe, Recipe) else "up")
    others = [pair for pair in pairs if pair[0] != "--set"]
    assert others in ([], [("--on", "sim")]) if verb == "run" else others == [("--dir", "DIR")]
    return recipe


@each_recipe
def test_every_command_of_a_header_resolves(file: Path) -> None:
    assert commands(file), "no line says how to run it"
    assert commands(file)[0][2] == file.stem
    for command in commands(file):
        assert command[2] == file.stem
        assert re.fullmatch("[0-9a-f]{64}", resolve(command).hash)


@each_recipe
def test_every_setting_that_a_header_speaks_of_can_be_set(file: Path) -> None:
    plain = load(file.stem)
    for setting in SETTING.findall(header(file)):
        changed = load(file.stem, [setting.rstrip(".,;:)")])
        assert changed.model_dump() != plain.model_dump(), f"--set {setting} changes nothing"


@each_recipe
def test_a_header_names_hardware_and_a_measurement_with_its_seed(file: Path) -> None:
    assert re.search(r"^# Hardware: .+\.$", header(file), re.MULTILINE)
    assert re.search(r"^# Measured \(seed \d+\): .+", header(file), re.MULTILINE)
    prose = [line for line in file.read_text().splitlines() if not COMMAND.match(line)]
    assert all(len(line) <= 120 for line in prose)
    assert len(file.read_text().splitlines()) < 60


def test_no_two_recipes_are_one_experiment() -> None:
    hashes = {load(file.stem).hash for file in FILES}
    assert len(hashes) == len(FILES)


@pytest.mark.parametrize("name", ["dimat-cifar10", "dimat-cifar10-by-class", "dimat-cifar10-vgg", "dimat-cifar10-gpu"])
@pytest.mark.parametrize(
    "settings",
    [["peers=10", "topology=full"], ["training.optimizer=sgd"], ["training.optimizer=adamw", "algorithm=dpsgd"]],
)
def test_one_file_serves_many_settings(name: str, settings: list[str]) -> None:
    assert load_recipe(name, settings).hash != load_recipe(name).hash


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, id=file.stem)
        for file in FILES
        for command in commands(file)
        if "rounds=2" in command and "device=cuda" not in command
    ],
)
def test_a_recipe_for_a_gpu_runs_two_rounds_on_a_cpu(command: list[str], data_root: Path, tmp_path: Path) -> None:
    recipe = resolve(command)
    assert isinstance(recipe, Recipe)
    images = 20 if recipe.router is None else 40 * recipe.peers  # no cluster may be tiny
    fewer = ["data.verify=false", f"data.root={data_root}", "evaluation.samples=20", f"data.subset={images}"]
    if recipe.router is not None:
        fewer += ["training.batch_size=4", "data.partition.largest=1.0"]
    settings = [word for setting in fewer for word in ("--set", setting)]
    run = [sys.executable, "-m", *command, *settings, "--out", str(tmp_path / "run")]
    finished = subprocess.run(run, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["rounds"], summary["peers"]) == (2, recipe.peers)
    measured = (
        summary["accuracy"]["per_peer"] if recipe.router is None else [summary["loss"], *summary["router"].values()]
    )
    assert None not in measured
    assert summary["bytes"]["model"] > 0
