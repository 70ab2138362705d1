"""`decentral gather`: one result of many machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from decentral.launch.apart import settle
from decentral.run.recipe import load_recipe


def gather(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", "gather", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_it_says_what_came_of_it_and_where_it_is(tmp_path):
    settle(load_recipe("dimat-digits", ["peers=2"]), tmp_path / "run", ("one:7000", "two:7000"), apart=True).close()
    done = gather("run", folder=tmp_path)
    assert done.returncode == 0 and "0 rounds, 2 peers" in done.stdout and "report.html" in done.stdout
    assert json.loads(gather("run", "--json", folder=tmp_path).stdout)["peers"] == 2


def test_a_folder_without_a_run_is_named(tmp_path):
    done = gather("nowhere", folder=tmp_path)
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
