"""Where the files are that are not Python modules of ours: recipes/, nodes/ and cluster/.

In a checkout they stand beside the package; a wheel carries them inside it, under `decentral/_data/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent


def folder(name: Literal["recipes", "nodes", "cluster"]) -> Path:
    """The folder of that name. Raises FileNotFoundError if this installation carries none."""
    installed, checkout = PACKAGE / "_data" / name, PACKAGE.parent / name
    if installed.is_dir():
        return installed
    # Beside an installed package stand other people's packages, and `nodes` may be one of them.
    if (PACKAGE.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    raise FileNotFoundError(f"this installation of decentral carries no {name}/ (looked in {installed} and {checkout})")
