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


def test_rounds_of_steps_go_through_whole_epochs_and_end_where_one_long_round_ends() -> None:
    options: dict[str, Any] = {"fresh_optimizer": False, "batch_size": 8, "peer": 1}  # 5 batches an epoch
    long, short = learner(**options, steps=15), learner(**options, steps=3)
    assert (long.train(1).samples, sum(short.train(round).samples for round in range(1, 6))) == (111, 111)
    assert same(long.parameters(), short.parameters())
    resumed = learner(**options, steps=3)
    resumed.load(short.parameters())
    resumed.load_optimizer(short.optimizer_state())
    assert resumed.train(6).steps == short.train(6).steps == 3
    assert same(resumed.parameters(), short.parameters())
    assert long.train(0).steps == 0


def test_more_steps_than_an_epoch_has_go_on_in_the_next() -> None:
    ours = learner(batch_size=8, steps=12)
    assert [ours.train(round).samples for round in (1, 2)] == [2 * 37 + 16, 3 * 8 - 3 + 37 + 4 * 8]


def test_a_drift_is_added_in_equal_parts_after_each_step() -> None:
    """With a vanishing learning rate nothing else moves; what is no parameter of the model does not count."""
    ours = learner(network(batchnorm=True), learning_rate=1e-30)
    before = ours.parameters()
    ours.train(1, {"1.weight": torch.full((8, 16), 0.5), "2.running_mean": torch.full((8,), 99.0)})
    after = ours.parameters()
    torch.testing.assert_close(after["1.weight"], before["1.weight"] + 0.5)
    assert torch.equal(after["5.weight"], before["5.weight"])
    assert after["2.running_mean"].abs().max() < 50
    one, two = learner(steps=1), learner(steps=2)
    one.train(1, drift := {"1.weight": torch.ones(8, 16)})
    two.train(1, drift)
    middle = learner(steps=1)
    middle.train(1)
    torch.testing.assert_close(one.parameters()["1.weight"], middle.parameters()["1.weight"] + 1)
    assert not torch.allclose(two.parameters()["1.weight"], one.parameters()["1.weight"], atol=1e-4)


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


def test_a_proxy_set_is_what_every_peer_matches_on_and_nobody_trains_on() -> None:
    proxy = np.array([0, 1, 45, 46])
    ours, other = (learner(share=share, proxy=proxy, peer=peer) for peer, share in enumerate((SHARE, np.arange(5, 20))))
    images = torch.cat(list(ours.matching_batches()))
    assert torch.equal(images, torch.cat(list(other.matching_batches())))
    assert ours.matching_samples == 4
    expected = (torch.from_numpy(dataset().train_images(proxy)).float() - 8.0) / 4.0
    assert sorted(images.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())
    assert ours.train(1).samples == len(SHARE)


def test_evaluation_on_some_images_takes_as_many_of_each_class() -> None:
    ours, all_images = learner(evaluation_samples=4, seed=3), learner(seed=3)
    assert (ours.evaluate().samples, all_images.evaluate().samples) == (4, 12)
    assert ours.evaluate() == learner(evaluation_samples=4, seed=3, peer=2).evaluate()
    assert learner(evaluation_samples=12).evaluate() == all_images.evaluate()
    with pytest.raises(UserError, match=r"evaluation\.samples: 13 images of 12"):
        learner(evaluation_samples=13).evaluate()


def convolutional() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 2), nn.Flatten(), nn.Linear(4, 2)
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_16_bits_is_close_to_float32_and_keeps_float32_parameters(precision: str) -> None:
    ours, full = learner(convolutional(), precision=precision, epochs=5), learner(convolutional(), epochs=5)
    reports = ours.train(1), full.train(1)
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=0.05)
    assert not same(ours.parameters(), full.parameters())
    assert {tensor.dtype for tensor in ours.parameters().values()} == {torch.float32, torch.int64}
    for name, tensor in full.parameters().items():
        torch.testing.assert_close(ours.parameters()[name], tensor, rtol=0.1, atol=0.05)
    assert all(batch.dtype == torch.float32 for batch in ours.matching_batches())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_channels_last_changes_where_numbers_lie_and_not_what_they_are(optimizer: str) -> None:
    options: dict[str, Any] = {"optimizer": optimizer, "learning_rate": 0.01, "fresh_optimizer": False}
    ours = learner(convolutional(), channels_last=True, **options)
    plain, stopped = learner(convolutional(), **options), learner(convolutional(), channels_last=True, **options)
    for each in (ours, plain, stopped):
        each.train(1)
    resumed = learner(convolutional(), channels_last=True, **options)
    resumed.load(stopped.parameters())
    resumed.load_optimizer({name: tensor.contiguous() for name, tensor in stopped.optimizer_state().items()})
    for each in (ours, plain, resumed):
        each.train(2)
    assert not ours.model.get_parameter("3.weight").is_contiguous()
    assert all(tensor.is_contiguous() for tensor in ours.parameters().values())
    assert same(ours.parameters(), resumed.parameters())
    for name, tensor in plain.parameters().items():
        torch.testing.assert_close(ours.parameters()[name], tensor, rtol=1e-3, atol=1e-4)
    assert ours.evaluate().loss == pytest.approx(plain.evaluate().loss, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_round_on_a_gpu_comes_to_what_it_comes_to_on_the_cpu(precision: str) -> None:
    ours = learner(convolutional(), device="cuda", precision=precision, channels_last=True, fresh_optimizer=False)
    there = learner(convolutional(), device="cpu")
    reports = ours.train(1), there.train(1)
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=0.05)
    assert all(batch.is_cuda for batch in ours.matching_batches())
    assert {tensor.device.type for tensor in ours.parameters().values()} == {"cpu"}
    ours.load_optimizer(ours.optimizer_state())
    ours.train(2)
    assert ours.evaluate().samples == 12


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


def test_training_stops_between_two_batches_when_it_is_told_to() -> None:
    answers = iter([False, False, True])
    ours, whole = learner(batch_size=8), learner(batch_size=8)
    report = ours.train(1, stop=lambda: next(answers))
    assert (report.samples, report.steps) == (16, 2)
    assert whole.train(1, stop=lambda: False).steps == 5
    assert not same(ours.parameters(), whole.parameters())
    ours.load(learner().parameters())
    assert ours.train(1).steps == 5 and same(ours.parameters(), whole.parameters()), "as if it had not been"
