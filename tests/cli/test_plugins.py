"""`--plugin FILE`: whoever builds a network of one's own takes its file, and runs none that nobody has named."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.models.catalogue import MODELS
from tests.cli.test_predict import predict

PLUGIN = """\
from decentral import register_model
from decentral.models.mlp import mlp

register_model("of-mine")(mlp)
"""
OWN = ("dimat-digits", "--set", "peers=2", "--set", "model={name: of-mine, hidden: [8]}")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What it registers in this process is forgotten."""
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    file = tmp_path / "of_mine.py"
    file.write_text(PLUGIN)
    yield file
    sys.modules.pop("decentral_plugin_of_mine", None)


COMMANDS = {
    "predict": ("predict", "absent", "digits:7"),
    "gateway": ("gateway", "absent"),
    "verify": ("verify", "absent", "--trust", "absent", "--model", "absent"),
    "calibrate": ("calibrate", "absent"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_client_knows_what_a_plugin_registers_before_it_looks_at_a_folder(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*COMMANDS[name], "--plugin", str(plugin)])
    assert done.exit_code == 2 and "absent" in done.stderr, done.output
    assert "of-mine" in MODELS.names()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "absent", "--trust", "absent"), "--plugin: registers the network of --model DIR"),
        (("gateway", "absent", "--tunnel"), "--tunnel: it computes nothing; --plugin is for answering"),
    ],
    ids=["verify", "tunnel"],
)
def test_where_nothing_is_computed_a_plugin_is_refused_and_not_run(
    plugin: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = CliRunner().invoke(app, [*arguments, "--plugin", str(plugin)])
    assert done.exit_code == 2 and said in done.stderr
    assert "of-mine" not in MODELS.names()


@pytest.mark.slow
async def test_a_served_network_of_one_s_own_is_asked_with_its_file_and_not_by_what_the_folder_names(
    cluster, plugin: Path
) -> None:
    made = await cluster()
    listed = {"members": [], "epoch": 0.0, "plugins": [str(plugin)], "authority": ""}
    (made.folder / "cluster.json").write_text(json.dumps(listed))
    code, _, err = await predict(made, "digits:7", name="of-mine")
    assert code == 2 and "unknown model 'of-mine'" in err and "--plugin FILE" in err
    code, out, err = await predict(made, "digits:7", "--plugin", str(plugin), name="of-mine")
    assert code == 0, err
    assert "verified: stage-0" in out


def test_who_hosts_or_prepares_a_network_of_one_s_own_names_its_file(plugin: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments])
        assert done.exit_code == 2 and not (tmp_path / "run").exists(), done.output
        return done.stderr

    host = ("host", *OWN, "--dir", str(tmp_path / "run"), "--advertise", "a b")
    prepare = ("prepare", *OWN, "--out", str(tmp_path / "run"), "--hosts", "a b")
    for command, wrong in ((host, "--advertise"), (prepare, "--hosts")):
        assert "unknown model 'of-mine'" in said(*command)
        assert wrong in said(*command, "--plugin", str(plugin))
        MODELS._entries.pop("of-mine")
        del sys.modules["decentral_plugin_of_mine"]


@pytest.mark.parametrize("target", ["compose", "kuberay", "kubernetes", "slurm"])
def test_what_is_rendered_names_the_plugin_to_who_starts_the_nodes(plugin: Path, target: str) -> None:
    done = CliRunner().invoke(app, ["render", *OWN, "--to", target, "--plugin", str(plugin)])
    assert done.exit_code == 0, done.output
    assert "of_mine.py" in done.stdout
