"""DIMAT on real networks: neighbours in another basis are brought home before they are averaged."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from decentral.algorithms.dimat import DIMAT
from decentral.algorithms.dpsgd import DPSGD
from decentral.core.permutation import random_permutation
from decentral.errors import UserError, leading
from decentral.launch.engine import Options, execute
from decentral.models.catalogue import build_model
from decentral.models.tracing import permutation_spec
from decentral.run.recipe import load_recipe
from decentral.training.learner import Evaluation, TrainingReport
from decentral.training.merging import permute


class Frozen:
    """A learner that never trains: its model is a given network in an order of units of its own."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model, self.images = model, images
        self.samples = self.matching_samples = len(images)

    def train(self, round: int, drift: Mapping[str, Tensor] | None = None, stop: object = None) -> TrainingReport:
        return TrainingReport(loss=0.0, samples=0, steps=0)

    def parameters(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def view(self) -> dict[str, Tensor]:
        return self.parameters()

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(dict(parameters))

    def evaluate(self) -> Evaluation:
        return Evaluation(loss=0.0, accuracy=0.0, samples=1)

    def optimizer_state(self) -> dict[str, Tensor]:
        return {}

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        assert not state

    def class_counts(self) -> list[int]:
        return [self.samples]

    def matching_batches(self) -> list[Tensor]:
        return [self.images]


def shuffled_copies(count: int) -> tuple[nn.Module, list[nn.Module], Tensor]:
    torch.manual_seed(3)
    model = build_model("mlp", (1, 8, 8), 10, hidden=[24, 16]).eval()
    images = torch.randn(64, 1, 8, 8)
    spec = permutation_spec(model, images)
    generator = torch.Generator().manual_seed(5)
    copies = [permute(model, spec, random_permutation(spec, generator)) for _ in range(count - 1)]
    return model, [copy.deepcopy(model), *copies], images


@pytest.fixture
def frozen_world(world):
    def play(algorithm):
        model, copies, images = shuffled_copies(4)
        stage = world(4, algorithm, topology_name="full", rounds=1)
        stage.learners = [Frozen(network, images) for network in copies]
        return model, images, stage.play()

    return play


def test_merging_copies_in_another_order_changes_no_peer_and_moves_most_units(frozen_world):
    model, images, played = frozen_world(DIMAT)
    for learner in played.learners:
        assert torch.allclose(learner.model(images), model(images), atol=1e-4)
    merged = [journal.of("merged")[0] for journal in played.journals.values()]
    assert all(event["moved"] > 0.5 for event in merged)
    assert all(sum(event["weights"].values()) == pytest.approx(1.0) for event in merged)


def test_averaging_the_same_copies_without_alignment_destroys_the_function(frozen_world):
    model, images, played = frozen_world(DPSGD)
    assert not torch.allclose(played.learners[0].model(images), model(images), atol=0.1)


def test_a_neighbour_with_which_nothing_can_be_computed_is_left_out(world):
    """Its numbers are finite, its activations are not: as if its model had not come."""
    model, [own, other, broken], images = shuffled_copies(3)
    with torch.no_grad():
        broken[1].weight.fill_(1e38)
        broken[1].bias.zero_()
    stage = world(3, DIMAT, topology_name="full", rounds=1)
    stage.learners = [Frozen(network, images) for network in (own, other, broken)]
    stage.learners[2].matching_batches = lambda: [0 * images]  # it can still compute with its own model there
    stage.play()
    for journal in (stage.journals[0], stage.journals[1]):
        assert journal.of("merged")[0]["weights"].keys() == {0, 1}
    assert torch.allclose(own(images), model(images), atol=1e-4)


def test_a_peer_without_neighbours_keeps_its_model(world):
    model, [own, *_], images = shuffled_copies(1)
    stage = world(1, DIMAT, rounds=1)
    stage.learners = [Frozen(own, images)]
    stage.play()
    assert torch.equal(own(images), model(images))
    assert stage.journals[0].of("merged")[0]["moved"] is None


def merging(statistics="reestimate", repair=False):
    """DIMAT as the recipe's `matching` has it."""

    class Told(DIMAT):
        async def run(self, peer):
            peer.matching_statistics, peer.matching_repair = statistics, repair
            await super().run(peer)

    return Told


def normalised(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.normal_(model[2].running_mean)
    return model


def bare(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


def merged_pair(world, algorithm, make):
    """Two peers with other networks and other images, after a round."""
    stage = world(2, algorithm, topology_name="full", rounds=1)
    stage.learners = [Frozen(make(seed), torch.randn(64, 1, 8, 8) + seed) for seed in (1, 2)]
    return stage.play().learners


def test_batchnorms_statistics_are_those_of_the_images_or_of_all_whom_a_merge_joins(world):
    means = [normalised(seed)[2].running_mean for seed in (1, 2)]
    pairs = (merged_pair(world, merging(statistics), normalised) for statistics in ("reestimate", "average"))
    for anew, averaged in zip(*pairs, strict=True):
        assert torch.equal(anew.model[1].weight, averaged.model[1].weight)
        inputs = anew.model[1](anew.images.flatten(1))
        assert torch.allclose(anew.model[2].running_mean, inputs.mean(0), atol=1e-5)
        # In whichever order the units were matched.
        assert torch.allclose(averaged.model[2].running_mean.sum(), sum(means).sum() / 2, atol=1e-5)
        assert not torch.allclose(anew.model[2].running_mean, averaged.model[2].running_mean, atol=1e-2)


def test_repair_gives_units_their_deviation_back_where_there_is_no_batchnorm(world):
    def deviations(repair):
        learners = merged_pair(world, merging(repair=repair), bare)
        return torch.stack([learner.model[1](learner.images.flatten(1)).std(0) for learner in learners])

    plain = deviations(False)
    for repair in (True, "auto"):
        assert deviations(repair).mean() > 1.1 * plain.mean()


def test_repair_leaves_batchnorm_alone_or_says_so_before_anything_is_merged(world):
    plain, auto = (merged_pair(world, merging(repair=repair), normalised) for repair in (False, "auto"))
    for one, other in zip(plain, auto, strict=True):
        for name, tensor in one.model.state_dict().items():
            assert torch.equal(tensor, other.model.state_dict()[name])
    with pytest.raises(BaseExceptionGroup) as raised:
        merged_pair(world, merging(repair=True), normalised)
    error = leading(raised.value)
    assert isinstance(error, UserError)
    assert str(error).startswith("matching.repair: repair is for networks without BatchNorm")


@pytest.mark.parametrize("algorithm", [DIMAT, DPSGD])
def test_a_learner_without_a_torch_module_is_named_before_anything_is_trained(world, algorithm):
    stage = world(3, algorithm, rounds=1, batchnorm="average" if algorithm is DIMAT else "reestimate")
    with pytest.raises(BaseExceptionGroup) as raised:
        stage.play()
    error = leading(raised.value)
    assert isinstance(error, UserError)
    assert "CountingLearner" in str(error)
    assert not any(learner.trained for learner in stage.learners)


def test_averaging_can_estimate_batchnorm_anew_and_changes_nothing_else(world):
    """Two networks whose units disagree: the mean's own statistics, on the peer's own images, not the means of two."""

    def played(batchnorm):
        stage = world(2, DPSGD, topology_name="full", rounds=1, batchnorm=batchnorm)
        stage.learners = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
            stage.learners.append(Frozen(model, torch.randn(64, 1, 8, 8) + seed))
        return stage.play().learners

    for plain, anew in zip(played("average"), played("reestimate"), strict=True):
        inputs = anew.model[1](anew.images.flatten(1))
        assert torch.equal(plain.model[1].weight, anew.model[1].weight)
        assert torch.allclose(anew.model[2].running_mean, inputs.mean(0), atol=1e-5)
        assert torch.allclose(anew.model[2].running_var, inputs.var(0), rtol=1e-4)
        assert not torch.allclose(plain.model[2].running_mean, anew.model[2].running_mean, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_simulated_peers_share_one_device(tmp_path: Path) -> None:
    """Five peers on one GPU, in half precision: they merge there, and learn about what they learn on the CPU."""
    settings = ["rounds=3", "topology=full", "matching.samples=128", "model={name: cnn, channels: [8, 16], hidden: 32}"]
    accuracies = {}
    for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()  # by what ran here earlier
        recipe = load_recipe("dimat-digits", [*settings, f"device={device}", f"training.precision={precision}"])
        _, summary = execute(recipe, "sim", Options(out=tmp_path / f"{device}-{precision}"))
        assert summary["peers"] == 5
        assert None not in summary["accuracy"]["per_peer"]
        assert (torch.cuda.max_memory_allocated() > before) == (device == "cuda")
        accuracies[device, precision] = summary["accuracy"]["mean"]
    assert accuracies["cuda", "float32"] == pytest.approx(accuracies["cpu", "float32"], abs=0.1)
    assert accuracies["cuda", "bfloat16"] == pytest.approx(accuracies["cpu", "float32"], abs=0.15)
