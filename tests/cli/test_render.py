"""`decentral render`: what is printed, what is written, and what is never overwritten."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SMALL = ("dimat-digits", "--set", "peers=2")


def render(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "decentral", "render", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_it_prints_one_file_and_says_where_the_keys_are(tmp_path):
    done = render(*SMALL, "--to", "kubernetes", folder=tmp_path)
    assert done.returncode == 0 and {one["kind"] for one in yaml.safe_load_all(done.stdout)} >= {"StatefulSet"}
    assert "identities.yaml" in done.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_is_written_stays_unless_it_is_forced(tmp_path):
    assert render(*SMALL, "--to", "compose", "--out", "here", folder=tmp_path).returncode == 0
    before = (tmp_path / "here" / "compose.yaml").read_text()
    again = render(*SMALL, "--to", "compose", "--out", "here", "--port", "7777", folder=tmp_path)
    assert again.returncode == 2 and "compose.yaml already" in again.stderr and "--force" in again.stderr
    assert (tmp_path / "here" / "compose.yaml").read_text() == before
    forced = render(*SMALL, "--to", "compose", "--out", "here", "--port", "7777", "--force", folder=tmp_path)
    assert forced.returncode == 0 and "7777" in (tmp_path / "here" / "compose.yaml").read_text()


@pytest.mark.slow
def test_pods_have_the_same_keys_when_they_are_rendered_again(tmp_path):
    done = render(*SMALL, "--to", "kubernetes", "--out", "here", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    assert [Path(file).name for file in files] == ["identities.yaml", "kubernetes.yaml"]
    secret = tmp_path / "here" / "identities.yaml"
    before = secret.read_text()
    assert secret.stat().st_mode & 0o077 == 0
    assert render(*SMALL, "--to", "kubernetes", "--out", "here", "--force", folder=tmp_path).returncode == 0
    assert secret.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*SMALL, "--to", "nomad"), "--to nomad"),
        ((*SMALL, "--to", "slurm", "--confidential", "kata"), "RuntimeClass"),
        ((*SMALL, "--to", "compose", "--set", "data.root=/data"), "data.root"),
        ((*SMALL, "--to", "slurm", "--set", "attestation=required"), "attestation"),
        (("dimat-digit", "--to", "slurm"), "dimat-digits"),
    ],
)
def test_what_cannot_be_rendered_says_why(tmp_path, arguments, words):
    done = render(*arguments, "--out", "here", folder=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "here").exists()
