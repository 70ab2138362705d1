"""1,797 handwritten digits of 8x8 pixels, part of scikit-learn: E. Alpaydin, C. Kaynak, "Optical recognition of
handwritten digits", UCI Machine Learning Repository, 1998.

The file is read where scikit-learn installed it; importing scikit-learn itself would cost every peer seconds.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from decentral.data.datasets import ArrayImages
from decentral.data.partition import rank_within_class
from decentral.errors import DatasetNotFound

FILE = Path("datasets", "data", "digits.csv.gz")
TEST_EVERY = 5


def digits(root: Path, verify: bool, download: bool) -> ArrayImages:
    """Pixels are 0 to 16 and divided by 16, which floats represent exactly. It needs no root and no download.

    Every fifth image of each class is a test image: 1,442 for training and 355 for testing, the same ever after.
    """
    spec = importlib.util.find_spec("sklearn")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    file = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    if file is None:
        where = ", ".join(map(str, folders)) or "any installed scikit-learn"
        raise DatasetNotFound(f"dataset 'digits': {FILE} not found in {where}; pip install scikit-learn brings it")
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    test = rank_within_class(labels) % TEST_EVERY == TEST_EVERY - 1
    return ArrayImages(
        images=images[~test],
        labels=labels[~test],
        held_out_images=images[test],
        held_out_labels=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
        mean=(0.0,),
        std=(16.0,),
        white=16,
    )
