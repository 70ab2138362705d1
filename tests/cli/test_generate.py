"""`decentral generate` names a wrong option before it asks anybody; that it works, tests/launch/test_serving shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from decentral.cli.main import app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "grid.gif"), ".png"),
        (("--out", "absent/grid.png"), "absent"),
        (("--num", "0"), "--num"),
        (("--micro-batch", "0"), "--micro-batch"),
        (("--guidance", "0.5"), "--guidance"),
        ((), "no ensemble"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["generate", ".", *arguments])
    assert result.exit_code == 2
    assert said in result.output
