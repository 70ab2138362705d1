"""The folder of an autoencoder of diffusers, looked at without torch: is it one, is it whole, and which.

D. Kingma, M. Welling, "Auto-encoding variational Bayes" (arXiv 1312.6114), as diffusers keeps it: `AutoencoderKL`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from blake3 import blake3

from decentral.errors import UserError

KIND = "AutoencoderKL"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
SCALING = 0.18215
"""What diffusers takes where a configuration does not say."""
UNKNOWN = ("latents_mean", "latents_std")
"""Statistics of each channel, which nothing here applies."""


def autoencoder_digest(folder: Path) -> str:
    """BLAKE3, in hexadecimal, of the configuration and the parameters: equal ones encode and decode alike.

    Neither where they came from nor the order of the file is part of it. Raises UserError that names the file and what
    is wrong with it; parameters are read from safetensors alone.
    """
    config = _config(folder)
    tensors = _tensors(folder / WEIGHTS)
    hashed = blake3(derive_key_context="decentral 2026 autoencoder v1")

    def take(data: bytes) -> None:
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)

    told = {key: value for key, value in config.items() if not key.startswith("_") and value is not None}
    take(json.dumps(told, sort_keys=True, separators=(",", ":")).encode())
    for name, tensor in sorted(tensors.items()):
        take(f"{name}\0{tensor['dtype']}\0{tensor['shape']}".encode())
        take(tensor["data"])
    return hashed.hexdigest()


def _config(folder: Path) -> Mapping[str, Any]:
    file = folder / CONFIG
    config: Mapping[str, Any]
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; it has to hold an {KIND} of diffusers: {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {KIND} of diffusers: it has no {CONFIG}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != KIND:
        raise UserError(f"{folder} holds {'no model' if kind is None else f'a {kind}'}, not an {KIND} of diffusers")
    scale, shift = config.get("scaling_factor", SCALING), config.get("shift_factor")
    if not _number(scale) or scale <= 0 or not (shift is None or _number(shift)):
        raise UserError(f"{file}: scaling_factor {scale!r} and shift_factor {shift!r} cannot be")
    if strange := [key for key in UNKNOWN if config.get(key) is not None]:
        raise UserError(f"{file}: {strange[0]} are not applied here; an autoencoder with one scaling_factor is needed")
    return config


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _tensors(file: Path) -> dict[str, dict[str, Any]]:
    """By name: their dtype, shape and bytes."""
    try:
        found = dict(safetensors.deserialize(file.read_bytes()))  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        others = sorted(path.name for path in file.parent.glob("*.bin"))
        only = f" ({others[0]} is a pickle, which is never read)" if others else ""
        raise UserError(f"{file.parent} has no parameters: there is no {WEIGHTS}{only}") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not found:
        raise UserError(f"{file} is damaged: it holds no parameters")
    return found
