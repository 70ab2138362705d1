"""`decentral keys` says who has which, rules, and says what is to be carried where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from decentral.cli.main import app
from decentral.launch import keys
from decentral.launch.apart import settle
from decentral.run.recipe import load_recipe
from decentral.trust.anchors import FILE as TRUST
from decentral.trust.anchors import Anchors


@pytest.fixture
def run(tmp_path: Path) -> Path:
    recipe = load_recipe("dimat-digits", ["peers=2"])
    settle(recipe, tmp_path / "run", ("one:7000", "two:7000"), authority="here:6999").close()
    (tmp_path / "run" / "nodes" / "launcher").mkdir()
    return tmp_path / "run"


def decentral(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["keys", *map(str, arguments)])


def test_who_has_which_is_shown_as_a_table_and_as_json(run: Path) -> None:
    told = decentral("show", run).stdout.splitlines()
    assert told[0].split() == ["who", "identity", "certificate", "expires", "in", "state"]
    assert [line.split()[0] for line in told[1:]] == ["peer-0", "peer-1"] and told[1].endswith("ok")
    said = json.loads(decentral("show", run, "--json").stdout)
    assert [each["state"] for each in said["holders"]] == ["ok", "ok"]
    assert all(each["expires"] > each["issued"] and each["serial"] for each in said["holders"])


def test_a_revocation_says_who_hears_of_it_and_is_shown(run: Path) -> None:
    told = decentral("revoke", run, "peer-1", "--reason", "stolen", "--since", "2026-05-01T12:00:00Z")
    assert told.exit_code == 0 and "notice.pb" in told.stdout and "trust.toml" in told.stdout
    assert Anchors.load(run / TRUST).revoked[0].since == 1777636800
    assert "revoked since 2026-05-01 12:00:00 UTC: stolen" in decentral("show", run).stdout
    said = json.loads(decentral("revoke", run, "peer-1", "--json").stdout)
    assert (said["notice"], said["since"], said["reason"]) == (2, 1777636800, "stolen")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("revoke", "peer-9"), "no such node"),
        (("revoke", "peer-1", "--since", "yesterday"), "--since yesterday"),
        (("rotate", "--finish"), "--finish belongs to --authority"),
        (("rotate", "peer-0", "--authority"), "about all nodes"),
        (("rotate", "--authority", "--finish"), "no authority has taken over"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run: Path, arguments: tuple[str, ...], told: str) -> None:
    done = decentral(arguments[0], run, *arguments[1:])
    assert done.exit_code == 2 and told in done.stderr and "Traceback" not in done.stderr


def test_nodes_that_do_not_run_are_said_to_come_later(run: Path) -> None:
    said = json.loads(decentral("rotate", run, "--json").stdout)
    assert (said["renewed"], said["at_start"], said["missing"]) == ([], ["peer-0", "peer-1"], [])
    assert "when they start: peer-0" in decentral("rotate", run, "peer-0").stdout


@pytest.mark.slow
def test_who_is_not_reached_is_named_and_the_exit_code_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "nodes" / "launcher").rmdir()
    monkeypatch.setattr(keys, "AWAY", 0.0)
    done = decentral("rotate", run, "peer-1")
    assert done.exit_code == 1 and "not yet, and with their old ones still: peer-1" in done.stdout


@pytest.mark.slow
def test_another_authority_takes_over_in_two_steps_that_say_what_to_carry(run: Path) -> None:
    first = decentral("rotate", run, "--authority")
    assert first.exit_code == 0 and "--authority --finish" in first.stdout and "trust.toml" in first.stdout
    second = decentral("rotate", run, "--authority", "--finish")
    assert second.exit_code == 0 and "counts no more" in second.stdout
