"""Where results go may be full, or closed by whoever reads: one line, an exit code, never a traceback."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-P", "-m", "decentral"]
SPEAKING = [["recipes"], ["recipes", "--json"], ["show", "dimat-digits"], ["--version"], ["--help"]]


@pytest.mark.parametrize("arguments", SPEAKING, ids=" ".join)
def test_a_full_standard_output_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "error: cannot write: No space left on device\n")


@pytest.mark.parametrize("arguments", SPEAKING, ids=" ".join)
def test_a_closed_pipe_is_no_news(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        ended = subprocess.run([*COMMAND, *arguments], stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.stderr == ""
    assert ended.returncode in (1, 141)  # 1 where the library that prints help ends the process by itself


def limited() -> None:
    """No file grows beyond 64 bytes: for whoever writes it is like a full disk, and needs no disk to be full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))


def test_a_disk_without_room_for_a_run_is_named(tmp_path: Path) -> None:
    arguments = [*COMMAND, "run", "dimat-digits", "--set", "rounds=1", "--on", "sim", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, preexec_fn=limited, env=environment)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert "File too large" in ended.stderr and str(tmp_path / "run") in ended.stderr
