"""`decentral prepare`: a folder for machines of their own, told by its addresses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def prepare(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", "prepare", "dimat-digits", "--set", "peers=2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_every_node_is_told_where_it_listens(tmp_path):
    done = prepare("--out", "run", "--hosts", "one, two:7005", "--port", "7001", "--apart", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nodes"] == {"peer-0": "one:7001", "peer-1": "two:7005"}
    assert sorted(one.name for one in (tmp_path / "run" / "apart").iterdir()) == ["peer-0", "peer-1"]
    again = prepare("--out", "run", "--hosts", "one:7001,two:7005", folder=tmp_path)
    assert again.returncode == 0 and "decentral node run --index N" in again.stdout


@pytest.mark.parametrize("hosts", ["one", "one,two,three", "one,t wo", ""])
def test_hosts_that_do_not_fit_the_recipe_leave_nothing_behind(tmp_path, hosts):
    done = prepare("--out", "run", "--hosts", hosts, folder=tmp_path)
    assert done.returncode == 2 and "--hosts" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    done = prepare("--out", "run", "--hosts", "one,two", folder=tmp_path)
    assert done.returncode == 2 and "not empty" in done.stderr
    assert [one.name for one in (tmp_path / "run").iterdir()] == ["mine.txt"]
