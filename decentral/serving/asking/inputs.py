"""What a person asks a model about, as the model takes it.

digits:7  cifar10:0-31         test images of a dataset, by number
photo.png  scan.jpg            an image, which is made as large as the model's
batch.npy                      one input or several: whole numbers of 8 bits are pixels, floats are taken as they are
batch.safetensors              the same, one tensor
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decentral.data.datasets import DATASETS, LabelledImages, load_dataset
from decentral.errors import UserError
from decentral.training.images import normalise

if TYPE_CHECKING:
    from decentral.serving.stages.model import Network

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
NUMBERED = re.compile(r"([A-Za-z0-9_-]+):([0-9]{1,9})(?:-([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Asked:
    """One input: what the person called it, and its class where the dataset tells."""

    name: str
    truth: int | None = None


def read_inputs(words: Sequence[str], network: Network) -> tuple[Tensor, tuple[Asked, ...]]:
    """A batch (n, *network.input) as the network sees it, and what is in it. Raises UserError that names the input."""
    batches, asked = [], list[Asked]()
    for word in words:
        batch, those = _read(word, network)
        if tuple(batch.shape[1:]) != tuple(network.input):
            shape, wanted = tuple(batch.shape[1:]), tuple(network.input)
            raise UserError(f"{word}: is of shape {shape}, and the model takes {wanted}")
        batches.append(batch)
        asked += those
    return torch.cat(batches), tuple(asked)


def _read(word: str, network: Network) -> tuple[Tensor, list[Asked]]:
    path = Path(word).expanduser()
    if (numbered := NUMBERED.fullmatch(word)) is not None and not path.exists():
        return _numbered(word, numbered, network)
    if not path.is_file():
        raise UserError(f"{word}: no such file; an input is a picture, .npy, .safetensors, or dataset:number")
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return _picture(path, network), [Asked(word)]
    if suffix == ".npy":
        batch = _array(path, network)
    elif suffix == ".safetensors":
        batch = _tensor(path)
    else:
        raise UserError(f"{word}: must end in {', '.join((*PICTURES, '.npy', '.safetensors'))}")
    if batch.ndim == len(network.input):
        return batch.unsqueeze(0), [Asked(word)]
    return batch, [Asked(f"{word}[{place}]") for place in range(len(batch))]


def _numbered(word: str, found: re.Match[str], network: Network) -> tuple[Tensor, list[Asked]]:
    name, first, last = found[1], int(found[2]), int(found[3] or found[2])
    own = network.data is not None and network.data.get("name") == name
    DATASETS.check(name)
    images = network.dataset() if own else load_dataset(name)
    assert images is not None
    labels = images.test_labels
    if not first <= last < len(labels):
        raise UserError(f"{word}: {name} has the test images 0 to {len(labels) - 1}")
    pixels = np.ascontiguousarray(images.test_images()[first : last + 1])
    asked = [Asked(f"{name}:{number}", int(labels[number])) for number in range(first, last + 1)]
    return _seen(pixels, images), asked


def _seen(pixels: NDArray[np.uint8], images: LabelledImages | Network) -> Tensor:
    if len(images.mean) != pixels.shape[1]:
        raise UserError(f"pixels of {pixels.shape[1]} channels, and the model was told of {len(images.mean)}")
    return normalise(torch.from_numpy(pixels), images.mean, images.std)


def _picture(path: Path, network: Network) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    if not network.mean or len(network.input) != 3:
        raise UserError(f"{path}: nobody says how the model sees pictures; give it .npy or .safetensors")
    channels, height, width = network.input
    try:
        with Image.open(path) as opened:
            picture = opened.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(f"{path}: is no picture that can be read ({error})") from error
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.float32).reshape(height, width, -1).transpose(2, 0, 1)
    return _seen(np.rint(pixels * (network.white / 255)).astype(np.uint8)[None], network)


def _array(path: Path, network: Network) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no array that can be read ({error})") from error
    if array.dtype == np.uint8 and network.mean:
        whole = array if array.ndim == len(network.input) + 1 else array[None]
        return _seen(np.ascontiguousarray(whole), network)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{path}: holds {array.dtype}; floats, or pixels as uint8, are wanted")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _tensor(path: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is no safetensors file that can be read ({error})") from error
    if len(tensors) != 1:
        raise UserError(f"{path}: holds {len(tensors)} tensors ({', '.join(sorted(tensors))}); one is wanted")
    (tensor,) = tensors.values()
    if not tensor.is_floating_point():
        raise UserError(f"{path}: holds {tensor.dtype}; floats are wanted")
    return tensor.float()
