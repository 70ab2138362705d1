"""Denoisers are stock models of diffusers that take images, times and labels in one way."""

from __future__ import annotations

import pytest
import torch

from decentral.errors import UserError
from decentral.models.catalogue import DENOISERS, build_model
from decentral.models.denoisers import ask, ask_router, keep_labels, null_label

SMALL = {"unet": {"channels": [8, 16]}, "dit": {"heads": 2, "head": 8, "layers": 2}}
each_kind = pytest.mark.parametrize("kind", sorted(DENOISERS))


def small(kind: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(kind, (1, 8, 8), 10, **SMALL[kind], **options)


@each_kind
def test_an_answer_is_an_image_and_a_router_says_a_number_for_each_cluster(kind: str):
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.0, 0.5, 1.0])
    assert ask(small(kind), x, t, torch.tensor([0, 9, 10])).shape == x.shape
    assert ask_router(small(kind, outputs=4), x, t).shape == (3, 4)


@each_kind
def test_no_label_is_the_one_after_the_last_class(kind: str):
    model, x, t = small(kind).eval(), torch.randn(2, 1, 8, 8), torch.full((2,), 0.5)
    assert null_label(model) == 10
    assert torch.equal(ask(model, x, t), ask(model, x, t, torch.tensor([10, 10])))
    # A fresh DiT answers as if nothing had been said: its last layers start at what they were initialised to.
    assert kind == "dit" or not torch.equal(ask(model, x, t), ask(model, x, t, torch.tensor([3, 3])))


@each_kind
def test_one_that_is_not_conditional_hears_no_label(kind: str):
    model, x, t = small(kind, conditional=False).eval(), torch.randn(2, 1, 8, 8), torch.full((2,), 0.5)
    assert ask(model, x, t).shape == x.shape
    assert null_label(model) == (None if kind == "unet" else 1)


def test_a_transformer_in_training_drops_no_label_by_itself():
    model = small("dit").train()
    dropping = [module.dropout_prob for module in model.modules() if hasattr(module, "token_drop")]
    assert len(dropping) == 2 and dropping == [0.0, 0.0]
    fresh = type(model).from_config(model.config)
    keep_labels(fresh)
    assert all(module.dropout_prob == 0 for module in fresh.modules() if hasattr(module, "token_drop"))


def test_attention_is_on_the_levels_that_were_named():
    plain, attending = small("unet"), small("unet", attention=[1], head=8)
    assert not any("attentions" in name for name in plain.state_dict())
    named = {name.partition(".attentions")[0] for name in attending.state_dict() if ".attentions" in name}
    assert {"down_blocks.1", "up_blocks.0"} <= named and "down_blocks.0" not in named


@pytest.mark.parametrize(
    ("kind", "shape", "options", "problem"),
    [
        ("unet", (1, 8, 9), {}, "images must be square, not 8x9"),
        ("unet", (1, 9, 9), {}, "9x9 images cannot be halved 1 times"),
        ("unet", (1, 8, 8), {"attention": [2]}, "there is no level 2"),
        ("dit", (1, 9, 9), {}, "9x9 images cannot be cut into patches of 2x2"),
    ],
)
def test_images_that_cannot_be_taken_are_named(kind: str, shape, options, problem: str):
    with pytest.raises(UserError, match=problem):
        build_model(kind, shape, 10, **SMALL[kind], **options)
