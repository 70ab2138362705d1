"""A router's head is fitted again for an expert of another run: a posterior over all images, on the same body."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from decentral.core.flow import interpolate
from decentral.data.digits import digits
from decentral.errors import UserError
from decentral.launch.engine import Options, execute
from decentral.launch.guests import add_expert
from decentral.launch.refit import refit
from decentral.launch.shares import holding
from decentral.models.experts import Router, load_denoiser, outputs
from decentral.run.directory import RunDirectory
from decentral.run.recipe import load_recipe
from decentral.serving.access import PIPELINE
from decentral.training.images import normalise
from decentral.training.router import head, with_clusters

TINY = (
    "model={name: unet, channels: [8, 16]}",
    "rounds=1",
    "training.steps=2",
    "evaluation={every: 1, samples: 20}",
    "deadlines={round: 60.0, probe: 0.3, call: 30.0}",
)
ROUTER = "learner={name: diffusion, draws: 1, router: {name: unet, channels: [8, 16], steps: 150}}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, RunDirectory]:
    """Two experts of all digits, and one of another run that has seen zeros and ones alone."""
    place = tmp_path_factory.mktemp("runs")
    ensemble = load_recipe("diffusion-digits", [*TINY, ROUTER, "peers=3", "data.subset=400"])
    alone = ["algorithm=isolated", "peers=5", "data.partition=by-class", "seed=5", "learner.router=null"]
    other = load_recipe("diffusion-digits", [*TINY, *alone])
    return tuple(execute(one, "sim", Options(out=place / name))[0] for one, name in ((ensemble, "a"), (other, "b")))


def test_the_head_alone_changes_and_has_an_output_for_the_newcomer(runs, tmp_path: Path) -> None:
    run, other = runs
    source = other.nodes / "peer-0" / "expert"
    made = load_denoiser(refit(run, source, tmp_path / "router", steps=150))
    before = load_denoiser(run.path / PIPELINE / "router")
    assert (outputs(before), outputs(made)) == (2, 3)
    for name, tensor in before.state_dict().items():
        assert name in head(before) or torch.equal(tensor, made.state_dict()[name])
    assert made.config["_decentral"]["temperature"]["times"], "calibrated for its new outputs"
    data = digits(Path(), True, False)
    pixels = normalise(torch.from_numpy(data.train_images(np.arange(400))), (8.0,), (8.0,))
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((400,), 0.2)
    own = torch.from_numpy(np.isin(data.train_labels[:400], run_classes(other)))

    def told_apart(router: nn.Module) -> float:
        """How much more probable the newcomer is for what it was trained on than for other images."""
        with torch.no_grad():
            newcomer = Router(router)(interpolate(pixels, noise, t), t).softmax(1)[:, 2]
        return float(newcomer[own].mean() - newcomer[~own].mean())

    assert told_apart(made) > 2 * abs(told_apart(with_clusters(before, [0, 1, None]).eval()))


def run_classes(run: RunDirectory) -> list[int]:
    """Of the images that the first peer has trained on."""
    data = digits(Path(), True, False)
    share = holding(run.recipe, data, np.arange(len(data.train_labels)), 0).share
    return sorted(set(data.train_labels[share].tolist()))


def test_what_is_fitted_fits_the_ensemble(runs, tmp_path: Path) -> None:
    run, other = runs
    source = other.nodes / "peer-0" / "expert"
    added = add_expert(run, source, refit(run, source, tmp_path / "router", steps=2))
    assert (added.node, added.name) == ("peer-3", "expert-2")
    with pytest.raises(UserError, match="tells of the images of 2 clusters, and the router knows 3"):
        refit(run, source, tmp_path / "again")


def test_an_expert_whose_images_nobody_knows_is_refused(runs, tmp_path: Path) -> None:
    run, other = runs
    with pytest.raises(UserError, match="so nobody knows its images; name a --router"):
        refit(run, tmp_path, tmp_path / "router")
    given = other.nodes / "peer-7" / "expert"
    with pytest.raises(UserError, match="peer-7 has not trained it there"):
        refit(run, given, tmp_path / "router")
