"""`decentral calibrate` names a wrong option before it measures; it prints what it found, and pins it when told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.serving.stages import tolerances
from decentral.serving.stages.machines import machines
from decentral.trust.anchors import FILE, Anchors
from tests.serving.stages.test_tolerances import cluster


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--false-reject", "0"), "--false-reject"),
        (("--false-reject", "2"), "--false-reject"),
        (("--margin", "0.5"), "--margin"),
        (("--samples", "10"), "2995"),
        (("--checkpoint", "a/x.pt", "--checkpoint", "b/x.pt"), "one name"),
        ((), "trust.toml"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["calibrate", ".", *arguments])
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.slow
def test_what_was_measured_is_printed_and_pinned_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cluster(tmp_path / "dir")
    monkeypatch.setattr(tolerances, "machines", lambda: machines()[:1])
    before = (folder / FILE).read_bytes()
    shown = CliRunner().invoke(app, ["calibrate", str(folder), "--false-reject", "0.1"])
    assert shown.exit_code == 0, shown.output
    for words in ("stage-1", "int8", "29 of 29", "nothing is written"):
        assert words in shown.output
    assert (folder / FILE).read_bytes() == before
    written = CliRunner().invoke(app, ["calibrate", str(folder), "--false-reject", "0.1", "--write", "--json"])
    found = json.loads(written.stdout)
    pinned = Anchors.load(folder / FILE).parts
    assert [part["tolerance"] for part in found["parts"]] == [part.tolerance for part in pinned]
    assert [part["gain"] for part in found["parts"]] == [part.gain for part in pinned]
    assert found["parts"][0]["detected"]["bf16"]["rejected"] == 29
    assert found["written"]
