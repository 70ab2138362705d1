"""Fashion-MNIST: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine
learning algorithms", 2017; in the IDX format of MNIST: a magic number, the sizes as big-endian 32-bit integers, then
bytes.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from decentral.data.archives import Archive, Fetch
from decentral.data.datasets import ArrayImages, Pixels
from decentral.errors import UserError

FOLDER = "FashionMNIST/raw"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def _fetch() -> Fetch:
    from torchvision.datasets import FashionMNIST

    return lambda root: FashionMNIST(root, download=True)


FASHION_MNIST = Archive(
    name="fashion-mnist",
    md5={
        f"{FOLDER}/train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        f"{FOLDER}/train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        f"{FOLDER}/t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        f"{FOLDER}/t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    fetch=_fetch,
)


def fashion_mnist(root: Path, verify: bool, download: bool) -> ArrayImages:
    """60,000 training and 10,000 test images of 28x28 in 10 classes, from the archives in `root/FashionMNIST/raw/`."""
    folder = FASHION_MNIST.open(root, verify, download) / FOLDER
    return ArrayImages(
        images=read_idx(folder / "train-images-idx3-ubyte.gz", 3)[:, None],
        labels=read_idx(folder / "train-labels-idx1-ubyte.gz", 1).astype(np.int64),
        held_out_images=read_idx(folder / "t10k-images-idx3-ubyte.gz", 3)[:, None],
        held_out_labels=read_idx(folder / "t10k-labels-idx1-ubyte.gz", 1).astype(np.int64),
        class_names=CLASSES,
        mean=(72.94,),
        std=(90.02,),
    )


def read_idx(file: Path, dimensions: int) -> Pixels:
    """An IDX file of bytes, compressed. Raises UserError where it is damaged or of another type or dimension."""
    try:
        with gzip.open(file) as opened:
            content = opened.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    header = 4 * (1 + dimensions)
    magic, *sizes = struct.unpack_from(f">{1 + dimensions}I", content.ljust(header, b"\0"))
    if magic != 0x0800 + dimensions or len(content) != header + math.prod(sizes):
        raise UserError(f"{file} is not an IDX file of bytes in {dimensions} dimensions, or it is truncated")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(sizes)
