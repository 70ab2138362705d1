"""What the parts of a network learn of digits that clients ask about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from decentral.core.budget import Budget
from decentral.core.leakage import peak_signal_to_noise
from decentral.data.datasets import LabelledImages, load_dataset
from decentral.models.stages import Stage, split
from decentral.serving.stages.leakage import correlation, measure
from decentral.training.digest import model_digest


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    """A network whose second part is sent all there is, and whose third sees three numbers of each image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide, narrow, last = nn.Linear(64, 64), nn.Linear(64, 3), nn.Linear(3, 10)
    torch.nn.init.orthogonal_(wide.weight, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Flatten(), wide, narrow, last)
    return split(network, ["1", "2"], torch.zeros(1, 1, 8, 8))


def test_a_narrow_cut_gives_away_less_than_a_wide_one(stages: list[Stage], data: LabelledImages) -> None:
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    found = measure(
        stages, data, own=400, others=150, epochs=10, see=lambda name, images, made: seen.update({name: (images, made)})
    )
    inputs, wide, narrow = found.exposures
    assert inputs.correlation == pytest.approx(1.0, abs=1e-4)
    assert wide.correlation == pytest.approx(1.0, abs=1e-3)  # rotated
    assert narrow.correlation < 0.9
    assert narrow.psnr < wide.psnr - 3
    assert narrow.ssim < wide.ssim
    assert narrow.labels < wide.labels
    assert wide.psnr > wide.floor_psnr + 3
    assert (found.own, found.others, found.noise) == (400, 150, "")
    for each in found.exposures:
        images, made = seen[each.part]
        assert images.shape == made.shape == (150, 1, 8, 8)
        assert float(peak_signal_to_noise(images, made).mean()) == pytest.approx(each.psnr)
    digests = {f"stage-{index}": model_digest(stage.description, stage.state()) for index, stage in enumerate(stages)}
    assert found.digests == digests


def test_noise_at_the_clients_cut_shows_in_all_that_comes_after(stages: list[Stage], data: LabelledImages) -> None:
    budget = Budget("gaussian", 1.0, 5.0)
    plain, noisy = (measure(stages, data, local=1, budget=each, own=60, others=60, epochs=1) for each in (None, budget))
    assert noisy.exposures[0] == plain.exposures[0]
    assert noisy.noise == str(budget)
    for before, after in zip(plain.exposures[1:], noisy.exposures[1:], strict=True):
        assert after.correlation < before.correlation - 0.2


def test_the_most_telling_of_several_tensors_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(60, 1, 4, 4, generator=generator)
    noise = 1000 * torch.randn(60, 40, generator=generator)  # which all together hide the small one
    both = {"noise": noise, "images": images * 1e-3}
    assert correlation(images, {"noise": noise}) < 0.5
    assert correlation(images, both) == pytest.approx(1.0, abs=1e-6)


def test_the_same_seed_measures_the_same(stages: list[Stage], data: LabelledImages) -> None:
    budget = Budget("laplace", 20.0, 5.0)
    first, again, other = (
        measure(stages, data, local=1, budget=budget, own=60, others=40, epochs=1, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_studies_may_attack_some_of_the_parts(stages: list[Stage], data: LabelledImages) -> None:
    options: dict[str, int] = {"own": 60, "others": 40, "epochs": 1}
    [some] = measure(stages, data, only=["stage-2"], **options).exposures
    assert some == measure(stages, data, **options).exposures[2]
