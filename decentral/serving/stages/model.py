"""A model in stages on disk: written once, read by every node and by a client that computes some of it itself.

    network.json            which network it is, how it was cut, what its inputs and its classes are
    stage-0.safetensors     the parameters and buffers of a stage, under the names that they have in the whole network

A node builds the network and cuts it again, so that no code stands in a file; the digests in `trust.toml` tell whether
it came to the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from decentral.data.datasets import LabelledImages, load_dataset
from decentral.errors import Untraceable, UserError
from decentral.files import replacing, write_atomic
from decentral.models.catalogue import build_model, is_torchvision
from decentral.models.stages import Stage, split
from decentral.registry import load_entry_points
from decentral.training.digest import model_digest

FILE = "network.json"
EXAMPLES = 2
"""Inputs with which a network is traced."""


@dataclass(frozen=True, slots=True)
class Network:
    """What a node has to know to build the network and to cut it, and a client to ask it something.

    `input`: the shape of one input; `cuts` and `single`: as `models.stages.split` takes them; `source`: where the
    parameters come from, in words. `data`: what `load_dataset` is called with, None where there is no dataset. Its
    images are what the network takes once `mean` and `std`, of each channel, are taken out of pixels of 0 to `white`.
    """

    name: str
    options: Mapping[str, Any]
    input: tuple[int, ...]
    classes: int
    cuts: int | tuple[str, ...]
    single: bool
    source: str
    data: Mapping[str, Any] | None = None
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    white: int = 255
    noise: Mapping[str, Any] | None = None

    def build(self) -> nn.Module:
        """With random parameters, which nothing depends on. Names of installed packages' plugins are known.

        Raises UserError.
        """
        load_entry_points()
        try:
            is_torchvision(self.name)
        except UserError as error:  # no code comes with a folder: who asks says which to run
            words = "a network of one's own is registered by --plugin FILE, or in Python by importing its module"
            raise UserError(f"{error}; {words}") from error
        with torch.random.fork_rng(devices=[]):
            return build_model(self.name, self.input, self.classes, **self.options).eval()

    def split(self, model: nn.Module) -> list[Stage]:
        """Raises UserError for cuts that cannot be."""
        try:
            return split(model, self.cuts, torch.zeros(EXAMPLES, *self.input), single=self.single)
        except Untraceable as error:
            raise UserError(f"the model {self.name!r} cannot be cut: {error}") from error

    def dataset(self) -> LabelledImages | None:
        """Raises UserError where it is not found."""
        return None if self.data is None else load_dataset(**self.data)

    @classmethod
    def load(cls, folder: Path) -> Network:
        """Raises UserError."""
        file = folder / FILE
        try:
            found = json.loads(file.read_bytes())
            cuts = found["cuts"]
            lists = {key: tuple(found[key]) for key in ("input", "class_names", "mean", "std")}
            return cls(**{**found, **lists, "cuts": cuts if isinstance(cuts, int) else tuple(cuts)})
        except FileNotFoundError:
            raise UserError(f"{folder}: holds no model in stages (there is no {FILE})") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: damaged ({error})") from error


def digest_of(stage: Stage) -> str:
    """What identifies a stage, in hexadecimal: what it computes and with which numbers."""
    return model_digest(stage.description, stage.state())


def save_stages(folder: Path, network: Network, stages: Sequence[Stage]) -> None:
    """Every file is whole or absent, and `network.json` comes last. Raises OSError."""
    for place, stage in enumerate(stages):
        with replacing(file_of(folder, place)) as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in stage.state().items()}, temporary)
    write_atomic(folder / FILE, json.dumps(asdict(network), indent=2).encode() + b"\n")


def load_stages(folder: Path, places: Collection[int] | None = None) -> dict[int, Stage]:
    """Stages with their parameters, on the CPU, by their place; None: all of them. Raises UserError."""
    network = Network.load(folder)
    stages = network.split(network.build())
    wanted = range(len(stages)) if places is None else places
    loaded = {}
    for place in wanted:
        if not 0 <= place < len(stages):
            raise UserError(f"{folder}: there are the stages 0 to {len(stages) - 1}, and no {place}")
        file = file_of(folder, place)
        try:
            stages[place].load(load_file(file))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{file}: these are not the parameters of stage {place} ({error})") from error
        loaded[place] = stages[place]
    return loaded


def file_of(folder: Path, place: int) -> Path:
    return folder / f"stage-{place}.safetensors"
