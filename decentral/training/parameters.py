"""Parameters from a file that others have made, on this machine: numbers alone, whatever the file holds.

safetensors can hold nothing else. Of what torch has saved, only tensors in plain containers are read (`weights_only`);
it is for files of the operator's choice, never for what came over the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from decentral.errors import UserError

WRAPPED = "state_dict"
"""The key under which training programs often keep the parameters, beside what else they save."""


def read_parameters(path: Path) -> dict[str, Tensor]:
    """By name, on the CPU. Raises UserError for what is no file of parameters."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0] if str(error) else error!r})") from error
    if isinstance(found, Mapping) and isinstance(found.get(WRAPPED), Mapping):
        found = found[WRAPPED]
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        raise UserError(f"{path}: holds no parameters by name, as `torch.save(model.state_dict(), ...)` writes them")
    return {str(name): tensor for name, tensor in found.items()}


def put_parameters(model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """All of them and no others. Raises UserError that names one that does not fit."""
    try:
        model.load_state_dict(parameters)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(" ".join(lines[1:2]) or lines[0]) from error
