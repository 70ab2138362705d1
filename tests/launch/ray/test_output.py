"""What Ray reports of machines is never part of a command's result."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")
import ray

from decentral.launch.ray.engine import connected
from decentral.launch.ray.options import RayOptions
from decentral.run.recipe import load_recipe


def test_its_words_go_where_progress_goes(monkeypatch, capsys):
    """From its start to its shutdown, in which it says what it still has to say."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: print("started"))
    monkeypatch.setattr(ray, "shutdown", lambda: print("many processes were started"))
    with connected(load_recipe("dimat-digits"), RayOptions()):
        print("meanwhile")
    print("the result")
    out, err = capsys.readouterr()
    assert out == "the result\n"
    assert err == "started\nmeanwhile\nmany processes were started\n"
