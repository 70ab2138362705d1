"""What identifies a model: SHA-256 over what it computes and with which numbers.

Peers and clients name models by it, so it depends on nothing else: neither on the file that a model came from, nor on
the library that wrote it, nor on the order of the tensors in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch

from decentral.training.learner import State

DOMAIN = b"decentral model v1\0"
ORIGIN = {"_diffusers_version", "_name_or_path", "_use_default_values"}
"""What diffusers writes into a configuration beside what decides the computation."""


def model_digest(description: str, state: State) -> str:
    """In hexadecimal. `description`: of the computation, in words that are equal for equal ones.

    Every string and tensor goes in after its length, so that no two models have the same bytes hashed.
    """
    hashed = hashlib.sha256(DOMAIN)

    def take(data: bytes | memoryview) -> None:
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)

    take(description.encode())
    for name in sorted(state):
        tensor = state[name].detach().to("cpu").contiguous()
        take(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}".encode())
        take(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return hashed.hexdigest()


def described(config: Mapping[str, object]) -> str:
    """A diffusers model's configuration as its description, without what says where it came from."""
    kept = {key: value for key, value in config.items() if key not in ORIGIN}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))
