"""The command line: starts at once, keeps results apart from talk, and blames no one with a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from decentral.cli import main
from decentral.cli.main import COMMANDS, app
from decentral.errors import DecentralError, RecipeError, Unreachable, Untraceable
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe

runner = CliRunner()


def imported_by(root: Path, *arguments: str) -> set[str]:
    program = (
        "import sys; from decentral.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit: print('imported', *sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, cwd=root
    )
    return set(ended.stdout.rpartition("imported ")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(root: Path, arguments: list[str]) -> None:
    imported = imported_by(root, *arguments)
    assert "decentral.cli.main" in imported
    assert not {"torch", "numpy", "networkx", "yaml", "grpc", "rich"} & imported


@pytest.mark.parametrize("arguments", [["recipes"], ["show", "dimat-digits"]])
def test_looking_at_recipes_does_not_import_torch(root: Path, arguments: list[str]) -> None:
    assert not {"torch", "grpc", "matplotlib"} & imported_by(root, *arguments)


def test_help_lists_every_command() -> None:
    listed = runner.invoke(app, ["--help"])
    assert listed.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in listed.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    shown = runner.invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert "--json" in shown.stdout


def test_an_unknown_command_offers_the_nearest() -> None:
    refused = runner.invoke(app, ["reprot"])
    assert refused.exit_code == 2
    assert "did you mean 'report'?" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["show", "dimat-digts"], "did you mean 'dimat-digits'?"),
        (["show", "dimat-digits", "--set", "peers=0"], "--set peers=0: peers: must be at least 1, not 0"),
        (["show", "dimat-digits", "--plugin", "nowhere.py"], "no such file"),
        (["report", "/nowhere/at/all"], "holds no run"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(arguments: list[str], problem: str) -> None:
    refused = runner.invoke(app, arguments)
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert problem in refused.stderr


@pytest.mark.parametrize("arguments", [["--debug", "show", "nothing"], ["show", "nothing", "--debug"]])
def test_debug_shows_where_it_came_from_wherever_it_stands(arguments: list[str]) -> None:
    refused = runner.invoke(app, arguments)
    assert isinstance(refused.exception, RecipeError)


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (RecipeError("bad"), 2, "error: bad\n"),
        (Untraceable("cannot read module"), 2, "error: cannot read module\n"),
        (Unreachable("peer-1"), 1, "error: peer-1\n"),
        (DecentralError("no peer finished"), 1, "error: no peer finished\n"),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [RecipeError("deep")])]), 2, "error: deep\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_a_command_raises_becomes_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, told: str
) -> None:
    def recipes() -> None:
        raise raised

    monkeypatch.setattr("decentral.cli.recipes.recipes", recipes)
    ended = runner.invoke(app, ["recipes"])
    assert (ended.exit_code, ended.stderr) == (code, told)


@pytest.mark.parametrize("raised", [ZeroDivisionError("ours"), ExceptionGroup("tasks", [ZeroDivisionError("ours")])])
def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    def recipes() -> None:
        raise raised

    monkeypatch.setattr("decentral.cli.recipes.recipes", recipes)
    assert runner.invoke(app, ["recipes"]).exception is raised


def test_recipes_are_listed_with_what_they_are_about() -> None:
    table = runner.invoke(app, ["recipes"])
    assert "dimat-digits" in table.stdout
    listed = json.loads(runner.invoke(app, ["recipes", "--json"]).stdout)
    assert {"dimat-digits", "dimat-digits-apart", "dimat-cifar10"} <= {recipe["name"] for recipe in listed}
    assert all(recipe["about"] for recipe in listed)


def test_what_show_prints_is_the_recipe_again(tmp_path: Path) -> None:
    shown = runner.invoke(app, ["show", "dimat-digits", "--set", "peers=7", "--set", "seed=3"])
    file = tmp_path / "again.yaml"
    file.write_text(shown.stdout)
    again = runner.invoke(app, ["show", str(file)])
    assert again.stdout == shown.stdout
    assert "peers: 7" in shown.stdout
    as_json = json.loads(runner.invoke(app, ["show", str(file), "--json"]).stdout)
    assert shown.stdout.startswith(f"# hash: {as_json['hash']}\n")
    assert Recipe.model_validate(as_json["recipe"]).hash == as_json["hash"]


def test_a_report_is_written_where_its_run_is(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", Recipe(), "local").close()
    written = runner.invoke(app, ["report", str(tmp_path / "run")])
    assert written.stdout == f"{tmp_path / 'run' / 'report.html'}\n"
    assert (tmp_path / "run" / "report.html").is_file()
    assert json.loads(runner.invoke(app, ["report", str(tmp_path / "run"), "--json"]).stdout)["report"]


def test_the_doctor_says_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path / "not" / "yet"))
    found = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert found["cores"] >= 1
    assert found["torch"]
    assert found["data_root"] == str(tmp_path / "not" / "yet")
    assert found["data_root_writable"]
    assert "digits" in found["datasets"]
    assert "cifar10" not in found["datasets"]
    assert found["attestation"] in ("tdx", "sev-snp", "simulator", "none") and found["attestation_by"]
    assert "confidential_gpu" in found
    table = runner.invoke(app, ["doctor"]).stdout
    assert "data root" in table
    assert "digits" in table


def test_the_version_is_the_installed_one() -> None:
    import importlib.metadata

    assert runner.invoke(app, ["--version"]).stdout.strip() == importlib.metadata.version("decentral")


def test_commands_are_found_by_their_names_only() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, main.Commands)
    assert group.get_command(None, "output") is None
