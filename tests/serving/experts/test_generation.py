"""Grids show every image once, large enough to be seen; what cannot be asked is refused before anybody is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decentral.errors import Unreachable, UserError
from decentral.launch.gateway import serve_tunnel
from decentral.serving.access import PIPELINE
from decentral.serving.experts.generation import GAP, TILE, Wish, generate, grid
from tests.serving.experts.test_ensemble import honest, served


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


async def test_images_that_come_through_a_gateway_are_those_that_come_directly(tmp_path: Path, pipeline: Any) -> None:
    pipeline.save_pretrained(tmp_path / PIPELINE)
    wish, told = Wish(4, 3, "top-1", 2.0, (), 0), asyncio.get_running_loop().create_future()
    async with asyncio.timeout(60), served(tmp_path, honest(pipeline)):
        passing = asyncio.create_task(serve_tunnel(tmp_path, told.set_result))
        via = await told
        direct, through = await generate(tmp_path, wish), await generate(tmp_path, wish, via=via)
        passing.cancel()
        await asyncio.gather(passing, return_exceptions=True)
        assert [image.tobytes() for image in through.images] == [image.tobytes() for image in direct.images]
        with pytest.raises(Unreachable, match=f"no expert answers.*the gateway at {via}"):
            await generate(tmp_path, wish, via=via)
