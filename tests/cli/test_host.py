"""`decentral host`: says the line by which others join, and what it cannot host."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.launch.ending import CANNOT, TOLD
from decentral.wire.authority import JoinToken

COMMAND = [sys.executable, "-P", "-m", "decentral", "host"]


def test_it_says_how_to_join_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    command = [*COMMAND, "dimat-digits", "--set", "peers=2", "--dir", str(tmp_path / "run"), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:2] == ["decentral", "join"] and words[3] == "--token"
            JoinToken.parse(words[4])
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == TOLD
        finally:
            process.kill()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["world"] == "hosts"


def test_what_it_cannot_host_is_said_and_nothing_is_left_behind(tmp_path: Path) -> None:
    for arguments, words in [
        (("dimat-digits", "--set", "attestation=required"), "attestation"),
        (("dimat-digit",), "dimat-digits"),
        (("dimat-digits", "--advertise", "a b"), "--advertise"),
        (("dimat-digits", "--listen", "nowhere"), "--listen nowhere: is not an address of the form host:port"),
    ]:
        done = CliRunner().invoke(app, ["host", *arguments, "--dir", str(tmp_path / "run")])
        assert done.exit_code == CANNOT and words in done.stderr, (arguments, done.output)
        assert not (tmp_path / "run").exists()
