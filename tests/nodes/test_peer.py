"""A node's program works by hand: it explains itself, and names what it cannot use."""

from __future__ import annotations

import subprocess
import sys

from decentral import locate


def peer(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(locate.folder("nodes") / "peer.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_explains_itself():
    done = peer("--help")
    assert done.returncode == 0 and "--index" in done.stdout


def test_a_folder_without_a_run_is_named(tmp_path):
    done = peer("--dir", str(tmp_path), "--index", "0")
    assert done.returncode == 2 and str(tmp_path) in done.stderr and "Traceback" not in done.stderr
