"""The demo is five real peers four times over, and nine that serve, and it says what they gained and who lied."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_peers_gain_by_training_together_and_by_matching_before_they_average(tmp_path):
    command = [sys.executable, "-P", "-m", "decentral", "demo", "--out", str(tmp_path / "demo"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    demo = json.loads(done.stdout)
    mean = {folder: summary["accuracy"]["mean"] for folder, summary in demo["runs"].items()}
    assert mean["dimat"] >= 0.85 and mean["dimat"] - mean["isolated"] >= 0.30
    assert mean["apart-dimat"] >= 0.90 and mean["apart-dimat"] - mean["apart-average"] >= 0.15
    assert 0.5 < demo["moved"] <= 1.0
    answer = demo["serving"]
    assert answer["label"] == answer["truth"]
    assert [fault[:2] for fault in answer["faults"]] == [["stage-1-b", "lied"]]
    assert answer["valid"]
    for folder, summary in demo["runs"].items():
        assert summary["world"] == "local" and summary["crashed"] == []
        assert (tmp_path / "demo" / folder / "report.html").exists()
