"""Trained denoisers as experts and routers of an ensemble, and what is written into their configurations.

Facts that diffusers' constructors do not know stand under one private key of a model's `config.json`, which plain
`from_pretrained` and `save_pretrained` carry along. Time is t in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from diffusers.utils import is_accelerate_available
from jaxtyping import Float, Int
from torch import Tensor, nn

from decentral.core.flow import velocity_of_data
from decentral.core.routing import temperature_at
from decentral.errors import UserError
from decentral.models.denoisers import TIMESTEPS, ask, ask_router, keep_labels, null_label

KINDS = (UNet2DModel, DiTTransformer2DModel)
"""What experts and routers may be."""

ALIGNED = 64
"""Bytes: what torch allocates begins at a multiple."""
FACTS = "_decentral"
FLOW, DATA = "flow_prediction", "sample"
"""Predictions that are understood, in diffusers' words: ε - x_0, and x_0, which is converted exactly."""


@dataclass(frozen=True, slots=True)
class Facts:
    """How a model was trained; the defaults are what a model without any is taken for."""

    prediction_type: str = FLOW
    path: str = "linear"
    num_train_timesteps: int = TIMESTEPS
    temperature: Mapping[str, Sequence[float]] | None = None
    """Of a router: `times`, ascending in [0, 1], and the `values` that its logits are divided by there."""

    def __post_init__(self) -> None:
        """Raises UserError for a temperature that cannot be."""
        if self.temperature is not None:
            try:
                temperature_at(0.0, **self.temperature)
            except (ValueError, TypeError) as error:
                raise UserError(f"the temperature {dict(self.temperature)} cannot be: {error}") from error

    def temperature_at(self, t: float) -> float:
        return 1.0 if self.temperature is None else temperature_at(t, **self.temperature)


def facts(model: nn.Module) -> Facts:
    """What stands in the configuration. Raises UserError for facts that cannot be, or are not known."""
    try:
        return Facts(**config(model).get(FACTS, {}))
    except TypeError as error:
        raise UserError(f"{FACTS} in the configuration of a {type(model).__name__}: {error}") from error


def note(model: nn.Module, **known: Any) -> None:
    """Writes facts beside those that are there: `note(router, temperature={"times": [0, 1], "values": [1, 1.5]})`."""
    written = {**config(model).get(FACTS, {}), **known}
    Facts(**written)
    cast(Any, model).register_to_config(**{FACTS: written})


def config(model: nn.Module) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], cast(Any, model).config)


def classes(model: nn.Module) -> int:
    """Classes that a model tells apart; 0 for one that takes no labels, or has but one class."""
    null = null_label(model)
    return 0 if null is None or null < 2 else null


def outputs(model: nn.Module) -> int:
    """Channels that come out."""
    given = config(model)["out_channels"]
    return int(config(model)["in_channels"] if given is None else given)


def image_size(model: nn.Module) -> tuple[int, int]:
    """Height and width. Raises UserError for a model that was made without."""
    size = config(model)["sample_size"]
    if size is None:
        raise UserError(f"a {type(model).__name__} without sample_size does not say how large its images are")
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def velocity(
    expert: nn.Module,
    x: Float[Tensor, "n c h w"],
    t: float | Float[Tensor, " n"],
    labels: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """The flow at (x, t) that an expert has learned, in x's dtype whatever it computes in; no labels: of any class.

    Converted if the expert predicts x_0. Raises UserError for other predictions.
    """
    times, kind = _times(x, t), facts(expert).prediction_type
    answer = ask(expert, x.to(_dtype(expert)), times, labels).to(x.dtype)
    if kind == FLOW:
        return answer
    if kind == DATA:
        return velocity_of_data(x, answer, times.to(x.dtype))
    raise UserError(f"an expert that predicts {kind!r} has no part in a flow")


@dataclass(frozen=True, slots=True)
class Router:
    """A model with K output channels, their means over the image being the logits of the K clusters."""

    model: nn.Module

    @property
    def conditional(self) -> bool:
        """Whether the label has a say."""
        return classes(self.model) > 0

    def __call__(
        self, x: Float[Tensor, "n c h w"], t: float | Float[Tensor, " n"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n k"]:
        """Logits over the temperature at t; labels that the model does not know of are left out."""
        times, known = _times(x, t), labels if self.conditional else None
        logits = ask_router(self.model, x.to(_dtype(self.model)), times, known)
        if isinstance(t, float):
            return logits / facts(self.model).temperature_at(t)
        own = [facts(self.model).temperature_at(time) for time in times.tolist()]
        return logits / logits.new_tensor(own)[:, None]


def _times(x: Float[Tensor, "n c h w"], t: float | Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def load_denoiser(folder: Path) -> nn.Module:
    """An expert or a router from its folder of diffusers, in evaluation mode. Raises UserError naming the folder."""
    known = {kind.__name__: kind for kind in KINDS}
    try:
        kind = known[json.loads((folder / "config.json").read_bytes())["_class_name"]]
        model = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=is_accelerate_available()
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: holds no expert and no router ({error})") from error
    keep_labels(model)
    return own_memory(cast(nn.Module, model.eval()))


def own_memory(model: nn.Module) -> nn.Module:
    """Takes each parameter that lies askew, as a file's do that is mapped, to memory as torch aligns it.

    BLAS sums in another order at other addresses (a single sample times a matrix), and the same expert would give other
    last bits in another process.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % ALIGNED:
            tensor.data = tensor.data.clone()
    return model
