"""An expert learns a flow, shows its average, and goes on from a checkpoint as if nothing had happened."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decentral.core.flow import interpolate
from decentral.data.datasets import load_dataset
from decentral.errors import UserError
from decentral.models.catalogue import build_model
from decentral.models.denoisers import ask
from decentral.training.diffusion import LIVE, DiffusionLearner, held_out_noise

SHARE = np.arange(48)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def learner(digits, share=SHARE, *, conditional: bool = True, **options) -> DiffusionLearner:
    torch.manual_seed(0)
    model = build_model("unet", (1, 8, 8), 10, channels=[8, 16], conditional=conditional)
    settings = {"steps": 3, "batch_size": 16, "optimizer": "adamw", "learning_rate": 2e-3, "fresh_optimizer": False}
    return DiffusionLearner(model, digits, share, **{"draws": 1, "evaluation_samples": 40, **settings, **options})


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("options", [{}, {"conditional": False}, {"times": "logit-normal"}, {"accumulate": 2}])
def test_training_makes_it_better_at_the_flow_of_images_it_has_not_seen(digits, options):
    trained = learner(digits, np.arange(400), steps=30, ema=0.5, **options)
    before = trained.evaluate()
    trained.train(1)
    after = trained.evaluate()
    assert after.loss < 0.8 * before.loss
    assert before.accuracy is None and before.samples == 40


def test_pixels_are_between_minus_one_and_one(digits):
    images = learner(digits)._images[:]
    assert images.min() == -1 and images.max() == 1


def test_what_is_shown_is_the_average_and_what_is_trained_is_not(digits):
    one = learner(digits, ema=0.9)
    one.train(1)
    state, live = one.parameters(), one.model.state_dict()
    assert not same(state, live)
    with one.averaged() as model:
        assert same(dict(model.state_dict()), state) and not model.training
    assert same(dict(one.model.state_dict()), dict(live)) and one.model.training
    none = learner(digits, ema=0.0)
    none.train(1)
    assert same(none.parameters(), dict(none.model.state_dict()))


def test_the_average_follows_its_formula(digits):
    one = learner(digits, ema=0.4, steps=1)
    expected = one.parameters()["conv_out.bias"]
    for update in range(1, 4):
        one.train(update)
        decay = min(0.4, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * one.model.state_dict()["conv_out.bias"]
        torch.testing.assert_close(one.view()["conv_out.bias"], expected)


def test_it_goes_on_from_a_checkpoint_exactly(digits):
    through, stopped, again = learner(digits), learner(digits), learner(digits, seed=0)
    for round in (1, 2, 3):
        through.train(round)
    stopped.train(1)
    again.load(stopped.parameters())
    again.load_optimizer({name: tensor.clone() for name, tensor in stopped.optimizer_state().items()})
    for round in (2, 3):
        again.train(round)
    assert same(again.parameters(), through.parameters())
    assert same(again.optimizer_state(), through.optimizer_state())


def test_without_what_was_kept_it_starts_from_the_average(digits):
    one, warm = learner(digits), learner(digits)
    one.train(1)
    warm.load(one.parameters())
    assert same(dict(warm.model.state_dict()), one.parameters())
    assert not any(name.startswith("first/") for name in warm.optimizer_state())


def test_another_models_state_is_refused(digits):
    one = learner(digits)
    with pytest.raises(ValueError, match="is missing"):
        one.load({})
    with pytest.raises(ValueError, match="is missing"):
        one.load_optimizer({f"{LIVE}conv_out.bias": torch.zeros(1)})


def test_random_choices_depend_on_seed_peer_and_round_alone(digits):
    one, other = learner(digits, peer=2), learner(digits, peer=2)
    one.train(1), one.train(2)
    other.load(one.parameters())
    torch.rand(7)
    assert one.evaluate() == other.evaluate()
    third = learner(digits, peer=3)
    third.train(1)
    assert not same(third.parameters(), learner(digits, peer=2).parameters())


def test_labels_are_left_out_as_often_as_asked(digits):
    one = learner(digits, np.arange(1000), label_dropout=0.3)
    labels = one.drawn_labels(torch.arange(1000))
    assert 0.2 < (labels == 10).double().mean() < 0.4
    assert torch.equal(labels[labels < 10], one._labels[labels < 10])
    assert learner(digits, conditional=False).drawn_labels(torch.arange(5)) is None


def test_times_are_drawn_as_asked(digits):
    torch.manual_seed(0)
    uniform = learner(digits).drawn_times(4000)
    middle = learner(digits, times="logit-normal").drawn_times(4000)
    assert uniform.mean() == pytest.approx(0.5, abs=0.03) and uniform.var() == pytest.approx(1 / 12, abs=0.01)
    assert middle.mean() == pytest.approx(0.5, abs=0.03) and middle.var() < 0.06


def test_peers_see_the_same_noise_on_the_same_test_image(digits):
    everything, some = learner(digits, evaluation_samples=None), learner(digits, test=np.array([7, 300]))
    noise, t = held_out_noise(0, 0, [300], (1, 8, 8))
    assert torch.equal(held_out_noise(0, 0, [7, 300], (1, 8, 8))[0][1:], noise)
    assert not torch.equal(held_out_noise(0, 1, [300], (1, 8, 8))[0], noise)
    seen = next(part for part in everything.held_out() if 300 in part.numbers)
    row = seen.numbers.tolist().index(300)
    assert torch.equal(seen.noise[row], noise[0]) and seen.t[row] == t[0]
    assert sum(len(part.t) for part in some.held_out()) <= 2


def test_the_loss_is_the_mean_squared_error_of_the_velocity(digits):
    one = learner(digits, test=np.array([5]), evaluation_samples=None)
    x0 = torch.from_numpy(digits.test_images()[[5]]).float() / 8 - 1
    noise, t = held_out_noise(0, 0, [5], (1, 8, 8))
    with torch.no_grad():
        answer = ask(one.model.eval(), interpolate(x0, noise, t), t, torch.tensor(digits.test_labels[[5]]))
    assert one.evaluate().loss == pytest.approx((answer - (noise - x0)).square().mean().item(), rel=1e-6)


def test_an_expert_without_a_test_image_has_no_loss(digits):
    assert learner(digits, test=np.array([], np.int64)).evaluate().loss is None


@pytest.mark.parametrize(
    "options", [{"ema": 1.0}, {"label_dropout": -0.1}, {"times": "cosine"}, {"accumulate": 0}, {"draws": 0}]
)
def test_an_option_that_cannot_be_is_named(digits, options):
    with pytest.raises(UserError, match=f"learner.*{next(iter(options))}"):
        learner(digits, **options)
