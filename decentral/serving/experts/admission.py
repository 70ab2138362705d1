"""Which models may stand beside one another in an ensemble, and which folders may be loaded.

Velocities are only added if all of them mean the same: the same kind of network for the same images, the same path
from data to noise. Everything that does not fit is refused with the name of the part and the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from decentral.errors import UserError
from decentral.models.denoisers import TIMESTEPS
from decentral.models.experts import DATA, FLOW, KINDS, classes, config, facts, image_size, outputs

MOST_EXPERTS = 16
EXPERTS = tuple(f"expert_{k}" for k in range(MOST_EXPERTS))

LOADABLE = {
    "router": {kind.__name__ for kind in KINDS},
    "scheduler": {FlowMatchEulerDiscreteScheduler.__name__},
    "vae": {"AutoencoderKL", "AutoencoderTiny", "AutoencoderDC"},
    **{name: {kind.__name__ for kind in KINDS} for name in EXPERTS},
}
"""Classes of diffusers by part; a folder that names any other code is not loaded."""

TRAINING_ONLY = {"dropout"}
"""Options of a constructor that change nothing once a model is trained."""


def check_experts(experts: Mapping[int, nn.Module]) -> None:
    """Raises UserError that names the first expert that cannot be used, or is unlike the one before all others."""
    first: tuple[int, nn.Module] | None = None
    for index, expert in sorted(experts.items()):
        _check_kind(f"expert_{index}", expert)
        if outputs(expert) != config(expert)["in_channels"]:
            raise UserError(
                f"expert_{index} answers {config(expert)['in_channels']} channels with {outputs(expert)}: "
                "a velocity has as many as its image"
            )
        if facts(expert).prediction_type not in (FLOW, DATA):
            raise UserError(
                f"expert_{index} predicts {facts(expert).prediction_type!r}; an expert predicts {FLOW!r}, or {DATA!r}, "
                "which is converted"
            )
        first = first or (index, expert)
        for what, own, others in _differences(expert, first[1]):
            raise UserError(f"expert_{index} does not fit: its {what} is {own}, that of expert_{first[0]} is {others}")


def check_router(router: nn.Module | None, experts: Mapping[int, nn.Module]) -> int:
    """How many experts there are, those that are absent included. Raises UserError that says what does not fit."""
    if router is None:
        if len(experts) != 1:
            raise UserError(f"{len(experts)} experts need a router; only one alone does without")
        return max(experts) + 1
    _check_kind("router", router)
    count = outputs(router)
    if experts and max(experts) >= count:
        raise UserError(f"expert_{max(experts)} is unknown to the router, which tells {count} clusters apart")
    if experts:
        index, expert = min(experts.items())
        pairs = {
            "in_channels": (config(router)["in_channels"], config(expert)["in_channels"]),
            "image size": (image_size(router), image_size(expert)),
            "number of classes": (classes(router) or classes(expert), classes(expert)),
        }
        for what, (own, other) in pairs.items():
            if own != other:
                raise UserError(f"the router does not fit: its {what} is {own}, that of expert_{index} is {other}")
    return count


def check_scheduler(scheduler: object) -> None:
    """Raises UserError unless it takes straight, deterministic steps from noise to data."""
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise UserError(
            f"the scheduler is a {type(scheduler).__name__}: experts of a flow need a FlowMatchEulerDiscreteScheduler"
        )
    for option in ("invert_sigmas", "stochastic_sampling", "use_dynamic_shifting"):
        if scheduler.config[option]:
            raise UserError(f"the scheduler's {option} is on, which the experts' path does not have")


def _check_kind(name: str, model: nn.Module) -> None:
    if not isinstance(model, KINDS):
        names = " or ".join(kind.__name__ for kind in KINDS)
        raise UserError(f"{name} is a {type(model).__name__}, not a {names}")
    if config(model).get("class_embed_type") is not None:
        raise UserError(
            f"{name} has class_embed_type {config(model)['class_embed_type']!r}: labels are embedded by index"
        )
    try:
        known = facts(model)
        image_size(model)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if known.path != "linear":
        raise UserError(f"{name} was trained on the path {known.path!r}, not on the linear one")
    if known.num_train_timesteps != TIMESTEPS:
        raise UserError(f"{name} counts {known.num_train_timesteps} timesteps from data to noise, not {TIMESTEPS}")


def _differences(model: nn.Module, other: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """(what, its value, the other's), the most telling first."""
    pairs = {
        "architecture": (type(model).__name__, type(other).__name__),
        "in_channels": (config(model)["in_channels"], config(other)["in_channels"]),
        "image size": (image_size(model), image_size(other)),
        "number of classes": (classes(model), classes(other)),
    }
    if pairs["architecture"][0] == pairs["architecture"][1]:
        options = [key for key in config(other) if not key.startswith("_") and key not in TRAINING_ONLY]
        given = {"sample_size", "out_channels"}  # said above, whatever way they were written
        pairs |= {
            key: (_plain(config(model).get(key)), _plain(config(other)[key])) for key in options if key not in given
        }
    yield from ((what, own, others) for what, (own, others) in pairs.items() if own != others)


def _plain(value: Any) -> Any:
    """Tuples come back from JSON as lists."""
    return tuple(value) if isinstance(value, list) else value


def check_folder(folder: Path) -> Mapping[str, Any]:
    """The index of a saved pipeline, every part of which is there, known and free of code. Raises UserError."""
    index = folder / "model_index.json"
    try:
        parts: Mapping[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no saved pipeline: it has no model_index.json") from None
    except ValueError as error:
        raise UserError(f"{index} is damaged: {error}") from error
    for name, value in parts.items():
        if not (isinstance(value, list) and len(value) == 2) or value == [None, None]:
            continue
        if name not in LOADABLE:
            most = f"; there are at most {MOST_EXPERTS} experts" if name.startswith("expert_") else ""
            raise UserError(f"{index} names a part that is not known: {name}{most}")
        library, kind = value
        if library != "diffusers" or kind not in LOADABLE[name]:
            known = ", ".join(sorted(LOADABLE[name]))
            raise UserError(f"{name} in {index} is a {library}.{kind}; what is loaded is one of {known} of diffusers")
    return parts


def check_part(folder: Path, name: str) -> None:
    """Raises UserError, naming the part, unless its folder has a configuration and weights."""
    place = folder / name
    if name == "scheduler":
        needed = {"configuration": "scheduler_config.json"}
    else:
        needed = {"configuration": "config.json", "weights": "*.safetensors"}
    if not place.is_dir():
        alone = f"; {name}=None goes on without it" if name in EXPERTS else ""
        raise UserError(f"{name} is missing: there is no folder {place}{alone}")
    for what, pattern in needed.items():
        if not any(place.glob(pattern)):
            raise UserError(f"{name} has no {what}: there is no {pattern} in {place}")
