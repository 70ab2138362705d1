"""Networks that know what noise looks like, built from diffusers, and how they are asked.

Experts and routers are stock models, so that every part loads with plain `from_pretrained`. The label that stands for
none (J. Ho, T. Salimans, "Classifier-free diffusion guidance", arXiv 2207.12598) is the one after the last class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models import DiTTransformer2DModel, UNet2DModel

TIMESTEPS = 1000
"""What diffusers calls t = 1."""
GROUPS = 32
"""Of a group normalisation, at most."""


def unet(
    input_shape: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (32, 64),
    layers: int = 1,
    attention: Sequence[int] = (),
    head: int = 16,
    conditional: bool = True,
    outputs: int | None = None,
) -> UNet2DModel:
    """`UNet2DModel` for square images, with `channels` and `layers` blocks on each level, attention on those named.

    Each level but the last halves the image; level 0 is the whole one. `head`: channels of an attention head.
    `outputs`: channels of the answer; None: those of the image. Raises ValueError for images that it cannot take.
    """
    from diffusers.models import UNet2DModel

    image, side = _square(input_shape)
    halvings = len(channels) - 1
    if side % 2**halvings:
        raise ValueError(f"{side}x{side} images cannot be halved {halvings} times")
    if stray := sorted(set(attention) - set(range(len(channels)))):
        raise ValueError(f"attention: there is no level {stray[0]}; levels are 0 to {halvings}")
    attended = [level in attention for level in range(len(channels))]
    return UNet2DModel(
        sample_size=side,
        in_channels=image,
        out_channels=outputs or image,
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attended),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)),
        add_attention=any(attended),
        attention_head_dim=head,
        norm_num_groups=next(groups for groups in range(GROUPS, 0, -1) if not any(c % groups for c in channels)),
        num_class_embeds=classes + 1 if conditional else None,
    )


def dit(
    input_shape: Sequence[int],
    classes: int,
    *,
    heads: int = 6,
    head: int = 64,
    layers: int = 12,
    patch: int = 2,
    conditional: bool = True,
    outputs: int | None = None,
) -> DiTTransformer2DModel:
    """`DiTTransformer2DModel` for square images, a token for each patch; the defaults are DiT-S/2.

    W. Peebles, S. Xie, "Scalable diffusion models with transformers", arXiv 2212.09748. One that is not `conditional`
    has a class that it is never told. Raises ValueError for images that it cannot take.
    """
    from diffusers.models import DiTTransformer2DModel

    image, side = _square(input_shape)
    if side % patch:
        raise ValueError(f"{side}x{side} images cannot be cut into patches of {patch}x{patch}")
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head,
        in_channels=image,
        out_channels=outputs or image,
        num_layers=layers,
        sample_size=side,
        patch_size=patch,
        num_embeds_ada_norm=classes if conditional else 1,
    )
    keep_labels(model)
    return model


def keep_labels(model: nn.Module) -> None:
    """Stops a DiT in training from dropping labels, which each of its blocks does by itself: that is done outside."""
    for module in model.modules():
        if hasattr(module, "token_drop"):
            setattr(module, "dropout_prob", 0.0)  # noqa: B010  (a module's attributes are tensors to a type checker)


def null_label(model: nn.Module) -> int | None:
    """The label that says nothing; None: the network takes no label at all."""
    config = cast(Mapping[str, Any], model.config)
    if "num_class_embeds" in config:
        return None if config["num_class_embeds"] is None else int(config["num_class_embeds"]) - 1
    return int(config["num_embeds_ada_norm"])


def ask(
    model: nn.Module, xt: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], labels: Int[Tensor, " n"] | None = None
) -> Float[Tensor, "n o h w"]:
    """An expert's velocity (or a router's map) at noise levels t in [0, 1]; no labels: those that say nothing."""
    null = null_label(model)
    if null is None:
        labels = None
    elif labels is None:
        labels = torch.full((len(xt),), null, device=xt.device)
    answer: Tensor = model(xt, timestep=t * TIMESTEPS, class_labels=labels, return_dict=False)[0]
    return answer


def ask_router(
    model: nn.Module, xt: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], labels: Int[Tensor, " n"] | None = None
) -> Float[Tensor, "n k"]:
    """Logits over clusters: the mean over the image of a map with a channel for each."""
    return ask(model, xt, t, labels).float().mean((2, 3))


def _square(input_shape: Sequence[int]) -> tuple[int, int]:
    """Channels and side. Raises ValueError."""
    channels, height, width = input_shape
    if height != width:
        raise ValueError(f"images must be square, not {height}x{width}")
    return channels, height
