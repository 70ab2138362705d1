"""A simulated processor's program works by hand, and ends with whoever holds its input."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from decentral import locate
from decentral.attestation.host.quoting import ADDRESS
from decentral.launch.ending import CANNOT, TOLD
from decentral.launch.prepare import prepare
from decentral.run.directory import ServingDirectory
from tests.launch.attested import recipe_in

COMMAND = [sys.executable, "-P", str(locate.folder("nodes") / "quoting.py")]


def quoting(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=100, check=False)


def test_it_explains_itself() -> None:
    done = quoting("--help")
    assert done.returncode == 0 and "--dir" in done.stdout and "--attached" in done.stdout


def test_a_folder_without_a_simulated_processor_is_named(tmp_path: Path) -> None:
    ServingDirectory.create(tmp_path / "here", recipe_in(tmp_path), "local").close()
    done = quoting("--dir", str(tmp_path / "here"))
    assert done.returncode == CANNOT and "simulated-processor" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["is told to end", "has lost its owner"])
def test_it_ends_and_leaves_no_socket(tmp_path: Path, how: str) -> None:
    cluster = prepare(recipe_in(tmp_path), tmp_path / "here")
    attached = ["--attached"] if how == "has lost its owner" else []
    command = [*COMMAND, "--dir", str(cluster.path), *attached]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        socket = Path(process.stdout.readline().strip())
        assert socket.is_socket() and (cluster.path / ADDRESS).read_text() == str(socket)
        if attached:
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == (0 if attached else TOLD)
    assert not socket.parent.exists() and not (cluster.path / ADDRESS).exists()
