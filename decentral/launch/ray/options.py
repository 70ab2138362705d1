"""What a person says of the Ray cluster to run on, checked before Ray is imported."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentral.errors import RecipeError, UserError
from decentral.run.recipe import Recipe
from decentral.run.source import read_file
from decentral.wire.addresses import split_address

AUTO, CLIENT = "auto", "ray://"
"""The cluster that this machine is part of; the addresses of Ray's client, from outside."""


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where to run. `address`: auto, or host:port of a cluster's head; None: $RAY_ADDRESS, or this machine alone.

    `gpus`: for each peer of a recipe whose device is a GPU; `runtime_env`: a YAML file for Ray.
    """

    address: str | None = None
    gpus: float | None = None
    runtime_env: Path | None = None

    @property
    def said(self) -> bool:
        """Whether a person has said any of it."""
        return self != RayOptions()

    def check(self, recipe: Recipe) -> None:
        """Raises UserError for what cannot be used, Ray itself if it is not installed."""
        from decentral.launch.apart import check_apart  # which runs recipes itself

        check_apart(recipe)
        if recipe.data.partition.options.get("file") is not None:
            problem = "the file is on this machine, and is not handed to others"
            raise RecipeError(problem, key="data.partition.file")
        if not installed():
            raise UserError("--on ray: Ray is not installed; pip install 'decentral[ray]'")
        if self.address is not None and self.address.startswith(CLIENT):
            raise UserError(
                f"--address {self.address}: the launcher is a peer's way to the cluster's authority and has to run on "
                "one of its machines: submit it there with `ray job submit`, and say --address auto"
            )
        if self.address not in (None, AUTO):
            split_address(self.address, "--address")
        if self.gpus is not None:
            if not uses_gpu(recipe):
                raise UserError(f"--gpus-per-peer: the recipe's device is {recipe.device}")
            if not 0 < self.gpus <= 64:
                raise UserError(f"--gpus-per-peer: must be above 0 and at most 64, not {self.gpus:g}")
        self.environment()

    def environment(self) -> dict[str, Any]:
        """The content of the runtime environment's file. Raises UserError."""
        if self.runtime_env is None:
            return {}
        return dict(read_file(self.runtime_env).values)

    def arguments(self) -> list[str]:
        """Of the command line, for a launcher in the background."""
        said = {"--address": self.address, "--gpus-per-peer": self.gpus, "--runtime-env": self.runtime_env}
        return ["--on", "ray", *(part for name, it in said.items() if it is not None for part in (name, str(it)))]

    def demand(self, recipe: Recipe) -> dict[str, float]:
        """What each peer asks of the machine that it is placed on, in Ray's words."""
        needed = {"CPU": float(recipe.threads)}
        return {**needed, "GPU": self.gpus or 1.0} if uses_gpu(recipe) else needed


def installed() -> bool:
    """Whether Ray is there, without importing it."""
    return importlib.util.find_spec("ray") is not None


def uses_gpu(recipe: Recipe) -> bool:
    """Whether a peer asks for one: with `auto` it takes what it is shown, and Ray shows what was asked for alone."""
    return recipe.device.startswith("cuda")
