from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from decentral.core.seeds import derive_seed
from decentral.data.datasets import ArrayImages
from decentral.errors import DecentralError, UserError
from decentral.training.catalogue import LEARNERS
from decentral.training.classifier import ClassifierLearner

SHARE = np.arange(3, 40)


def dataset(size: int = 4) -> ArrayImages:
    """Two classes of dark and of bright images."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = generator.integers(0, 9, (60, 1, size, size)).astype(np.uint8) + (8 * labels[:, None, None, None]).astype(
        np.uint8
    )
    return ArrayImages(images[:48], labels[:48], images[48:], labels[48:], ("dark", "bright"), (8.0,), (4.0,))


def network(*, batchnorm: bool = False, dropout: bool = False, pixels: int = 16) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, 8),
        nn.BatchNorm1d(8) if batchnorm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(0.5) if dropout else nn.Identity(),
        nn.Linear(8, 2),
    )


def learner(model: nn.Module | None = None, **options: Any) -> ClassifierLearner:
    return ClassifierLearner(model or network(), dataset(), options.pop("share", SHARE), **options)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_round_is_plain_sgd_over_a_shuffled_epoch() -> None:
    ours = learner(peer=2, seed=5, batch_size=8, learning_rate=0.1)
    report = ours.train(3)
    model, data = network(), dataset()
    images = (torch.from_numpy(data.train_images(SHARE)).float() - 8.0) / 4.0
    labels = torch.from_numpy(data.train_labels[SHARE])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(derive_seed(5, "shuffle", 2, 3, 0)))
    total = 0.0
    for batch in torch.split(order, 8):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimiser.step()
        total += loss.item() * len(batch)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(ours.parameters()[name], tensor)
    assert (report.samples, report.steps) == (37, 5)
    assert report.loss == pytest.approx(total / 37)


def test_training_separates_what_can_be_separated() -> None:
    ours = learner(epochs=20)
    before = ours.evaluate()
    reports = [ours.train(round) for round in (1, 2)]
    after = ours.evaluate()
    assert reports[1].loss < reports[0].loss
    assert after.loss < before.loss
    assert after.accuracy == 1.0
    assert after.samples == 12


def test_a_round_depends_on_the_state_seed_peer_and_round_alone() -> None:
    straight = learner(network(dropout=True), seed=1, peer=4)
    for round in (1, 2, 3):
        straight.train(round)
        middle = straight.parameters() if round == 2 else {}
        restarted = learner(network(dropout=True), seed=1, peer=4)
        torch.rand(round)  # whatever others drew from the global generator
        if middle:
            restarted.load(middle)
            restarted.train(3)
            end = restarted.parameters()
    assert same(straight.parameters(), end)


@pytest.mark.parametrize("changed", [{"seed": 2}, {"peer": 5}])
def test_another_seed_or_peer_trains_otherwise(changed: dict[str, int]) -> None:
    ours, other = learner(seed=1, peer=4), learner(**{"seed": 1, "peer": 4, **changed})
    ours.train(1)
    other.train(1)
    assert not same(ours.parameters(), other.parameters())


def test_round_zero_is_pretraining() -> None:
    ours = learner(epochs=2, pretrain_epochs=3)
    assert ours.train(0).samples == 3 * 37
    assert ours.train(1).samples == 2 * 37
    lazy = learner(epochs=1)
    report = lazy.train(0)
    assert (report.loss, report.samples, report.steps) == (0.0, 0, 0)
    assert same(lazy.parameters(), learner().parameters())


def test_the_order_of_images_can_be_chosen() -> None:
    class Ordered(ClassifierLearner):
        def shuffle_seed(self, round: int, epoch: int) -> int:
            return 10 * round + epoch

    orders = [Ordered(network(), dataset(), SHARE, seed=seed) for seed in (0, 1)]
    for ours in orders:
        ours.train(1)
    assert same(orders[0].parameters(), orders[1].parameters())
    plain = learner()
    plain.train(1)
    assert not same(plain.parameters(), orders[0].parameters())


@pytest.mark.parametrize("images", [33, 1])
def test_a_last_batch_of_one_image_joins_the_one_before(images: int) -> None:
    ours = learner(network(batchnorm=images > 1), share=np.arange(images), batch_size=8)
    report = ours.train(1)
    assert (report.samples, report.steps) == (images, max(images // 8, 1))


def test_parameters_are_copies_and_load_replaces_every_tensor() -> None:
    ours = learner(network(batchnorm=True))
    before = ours.parameters()
    kept = copy.deepcopy(before)
    ours.train(1)
    assert same(before, kept)
    after = ours.parameters()
    assert not same(after, before)
    assert {str(tensor.dtype) for tensor in after.values()} == {"torch.float32", "torch.int64"}
    ours.load(before)
    assert same(ours.parameters(), before)
    before["1.weight"].zero_()
    assert same(ours.parameters(), kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("5.bias"), "'5.bias' is missing"),
        (lambda state: state.update({"6.bias": torch.zeros(2)}), "'6.bias' is not part"),
        (lambda state: state.update({"5.bias": torch.zeros(2, 1)}), r"'5.bias' is \[2, 1\], not \[2\]"),
        (lambda state: state.update({"5.bias": torch.zeros(2, dtype=torch.float64)}), "'5.bias' is torch.float64"),
    ],
)
def test_a_state_of_another_schema_is_refused_and_nothing_is_replaced(change: Any, message: str) -> None:
    ours = learner()
    before = ours.parameters()
    wrong = {name: tensor + 1 for name, tensor in before.items()}
    ours.load(dict(wrong))
    ours.load(before)
    change(wrong)
    with pytest.raises(ValueError, match=message):
        ours.load(wrong)
    assert same(ours.parameters(), before)


def test_a_loss_that_is_not_a_number_names_peer_and_round() -> None:
    ours = learner(peer=3)
    ours.load({name: torch.full_like(tensor, float("inf")) for name, tensor in ours.parameters().items()})
    with pytest.raises(DecentralError, match="peer 3, round 7: the training loss is nan"):
        ours.train(7)


def test_matching_batches_are_the_same_images_of_the_share_at_every_call() -> None:
    ours = learner(matching_samples=10, seed=3)
    first, second = (torch.cat(list(ours.matching_batches())) for _ in range(2))
    assert torch.equal(first, second)
    assert len(first) == 10
    own = (torch.from_numpy(dataset().train_images(SHARE)).float() - 8.0) / 4.0
    assert all(any(torch.equal(image, mine) for mine in own) for image in first)
    ours.train(1)
    assert torch.equal(first, torch.cat(list(ours.matching_batches())))
    assert sum(map(len, learner(matching_samples=512).matching_batches())) == 37


def test_no_matching_batch_is_a_single_image() -> None:
    many = ArrayImages(
        np.zeros((129, 1, 4, 4), np.uint8), np.zeros(129, np.int64), *2 * [np.zeros((0,))], ("a", "b"), (0.0,), (1.0,)
    )
    sizes = [len(batch) for batch in ClassifierLearner(network(), many, np.arange(129)).matching_batches()]
    assert sizes == [65, 64]


def test_a_fresh_optimiser_leaves_nothing_behind() -> None:
    ours = learner()
    ours.train(1)
    assert ours.optimizer_state() == {}
    assert all(parameter.grad is None for parameter in ours.model.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_kept_optimiser_goes_on_where_its_checkpoint_was(optimizer: str) -> None:
    options: dict[str, Any] = {"fresh_optimizer": False, "optimizer": optimizer, "learning_rate": 0.01}
    straight, stopped, fresh = learner(**options), learner(**options), learner(**{**options, "fresh_optimizer": True})
    for ours in (straight, stopped, fresh):
        ours.train(1)
    resumed = learner(**options)
    resumed.load(stopped.parameters())
    resumed.load_optimizer(stopped.optimizer_state())
    for ours in (straight, resumed, fresh):
        ours.train(2)
    assert same(straight.parameters(), resumed.parameters())
    assert not same(straight.parameters(), fresh.parameters())


def test_augmentation_changes_training_reproducibly() -> None:
    def trained(augment: bool) -> dict[str, torch.Tensor]:
        ours = ClassifierLearner(network(pixels=1024), dataset(32), SHARE, augment=augment)
        ours.train(1)
        return ours.parameters()

    assert same(trained(True), trained(True))
    assert not same(trained(True), trained(False))


def test_a_peer_without_images_or_with_an_absent_device_is_refused() -> None:
    with pytest.raises(UserError, match="peer 1 has no training image"):
        learner(share=np.array([], dtype=np.int64), peer=1)
    with pytest.raises(UserError, match="CUDA devices"):
        learner(device=f"cuda:{torch.cuda.device_count()}")
    assert learner(device="auto").device.type in ("cpu", "cuda")


def test_the_catalogue_builds_it_by_name() -> None:
    assert LEARNERS.resolve("classifier") is ClassifierLearner


@pytest.mark.gpu
def test_an_accelerator_trains_to_the_same_parameters() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here, there = learner(batch_size=8), learner(batch_size=8, device="cuda")
    here.train(1)
    there.train(1)
    for name, tensor in there.parameters().items():
        assert tensor.device.type == "cpu"
        torch.testing.assert_close(tensor, here.parameters()[name], rtol=1e-4, atol=1e-5)
    assert there.evaluate().accuracy == here.evaluate().accuracy
