"""A run of small experts that nobody has trained, as those who serve it find it."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.data.clusters import ASSIGNMENT
from decentral.launch.changes import DIGEST
from decentral.launch.serving import EXPERT
from decentral.run.directory import RunDirectory, peer_name
from decentral.run.recipe import load_recipe
from decentral.serving.access import PIPELINE
from decentral.serving.experts.expert import digest_of
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from tests.launch.experts import EXPERTS, small


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """As a run of two experts and a router leaves it."""
    recipe = load_recipe("diffusion-digits", [f"peers={EXPERTS + 1}"])
    experts = {f"expert_{number}": small(number) for number in range(EXPERTS)}
    with RunDirectory.create(tmp_path / "run", recipe, "local") as made:
        for number in range(EXPERTS):
            folder = made.node(peer_name(number)) / EXPERT
            experts[f"expert_{number}"].save_pretrained(folder)
            (folder / DIGEST).write_text(digest_of(experts[f"expert_{number}"]))
        DecentralizedDiffusionPipeline(router=small(9, EXPERTS), **experts).save_pretrained(made.path / PIPELINE)
        (made.path / PIPELINE / ASSIGNMENT).write_text("{}")
    return RunDirectory.open(tmp_path / "run")
