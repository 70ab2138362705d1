"""`decentral authority`: says where it is, and ends when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from decentral.launch.apart import settle
from decentral.launch.ending import CANNOT, TOLD
from decentral.run.recipe import load_recipe

COMMAND = [sys.executable, "-P", "-m", "decentral", "authority"]


def test_it_says_where_it_is_and_ends_when_it_is_told_to(tmp_path):
    settle(load_recipe("dimat-digits", ["peers=2"]), tmp_path / "run", ("one:7000", "two:7000")).close()
    command = [*COMMAND, str(tmp_path / "run"), "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = "".join(process.stdout.readline() for _ in range(3))
            assert json.loads(said)["authority"].startswith("127.0.0.1:")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == TOLD
        finally:
            process.kill()


def test_an_address_that_is_none_is_told_by_its_option(tmp_path):
    command = [*COMMAND, str(tmp_path), "--listen", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == CANNOT and "--listen nowhere: is not an address" in done.stderr


def test_a_folder_without_an_authority_is_named(tmp_path):
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == CANNOT and str(tmp_path) in done.stderr and "Traceback" not in done.stderr
