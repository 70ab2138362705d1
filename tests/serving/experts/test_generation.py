"""Grids show every image once, large enough to be seen; what cannot be asked is refused before anybody is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decentral.errors import UserError
from decentral.serving.experts.generation import GAP, TILE, Wish, generate, grid


@pytest.mark.parametrize("count", [1, 2, 5, 16, 17])
def test_a_grid_shows_every_image_once(count: int) -> None:
    images = [Image.new("L", (8, 8), 10 + place) for place in range(count)]
    sheet = np.asarray(grid(images))
    tiles = {value: int((sheet[..., 0] == value).sum()) for value in np.unique(sheet) if value != 255}
    assert tiles == {10 + place: TILE * TILE for place in range(count)}


def test_images_that_are_large_enough_keep_their_pixels_in_rows_as_long_as_asked() -> None:
    images = [Image.new("RGB", (70, 80), "red")] * 3
    assert grid(images[:1]).size == (70 + 2 * GAP, 80 + 2 * GAP)
    assert grid(images, columns=3).size == (3 * 70 + 4 * GAP, 80 + 2 * GAP)


async def test_a_folder_without_an_ensemble_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ensemble"):
        await generate(tmp_path, Wish(1, 1, "full", 1.0, (), 0))
