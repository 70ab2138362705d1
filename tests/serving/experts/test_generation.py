"""Grids show every image once, large enough to be seen; what cannot be asked is refused before anybody is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decentral.errors import Unreachable, UserError
from decentral.launch.gateway import serve_tunnel
from decentral.serving.access import PIPELINE
from decentral.serving.experts.ensemble import AT_ONCE, most_together
from decentral.serving.experts.generation import GAP, TILE, Wish, generate, grid
from decentral.serving.parts import MOST_BYTES, MOST_SAMPLES
from decentral.wire.conversation import Task
from decentral.wire.sessions import Client
from tests.serving.experts.test_ensemble import COUNT, honest, served


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


@pytest.mark.parametrize("guidance", [1.0, 2.0])
async def test_experts_are_sent_no_more_at_once_than_they_take(
    tmp_path: Path, pipeline: Any, monkeypatch: pytest.MonkeyPatch, guidance: float
) -> None:
    """More images go there in more batches, which are those of one process with that `micro_batch`."""
    most, together = 4, 4 if guidance == 1 else 2
    monkeypatch.setattr("decentral.serving.experts.ensemble.MOST_SAMPLES", most)
    monkeypatch.setattr("decentral.cores.count", lambda: 100)
    pipeline.save_pretrained(tmp_path / PIPELINE)
    sizes, at_once, running = list[int](), 0, dict[str, int]()

    def watched(service: Any) -> Any:
        async def serve(task: Task, client: Client) -> None:
            nonlocal at_once
            sizes.append(len(task.tensors["x"]))
            running[task.part] = running.get(task.part, 0) + 1
            at_once = max(at_once, *running.values())
            await service(task, client)
            running[task.part] -= 1

        return serve

    services = [(watched(service), digest) for service, digest in honest(pipeline)[:COUNT]]
    wish = Wish(9, 2, "full", guidance, (), 0)
    async with asyncio.timeout(60), served(tmp_path, services):
        made = await generate(tmp_path, wish)
        assert max(sizes) == most and at_once <= AT_ONCE
        given = await generate(tmp_path, replace(wish, micro_batch=together))
        with pytest.raises(UserError, match=f"a micro-batch of {together + 1} images .* which is {together}"):
            await generate(tmp_path, replace(wish, micro_batch=together + 1))
    assert [image.tobytes() for image in made.images] == [image.tobytes() for image in given.images]


@pytest.mark.parametrize("near", [True, False])
async def test_images_go_together_where_experts_are_near_and_in_halves_where_they_are_not(
    tmp_path: Path, pipeline: Any, monkeypatch: pytest.MonkeyPatch, near: bool
) -> None:
    monkeypatch.setattr("decentral.serving.experts.generation.is_loopback", lambda host: near and host == "127.0.0.1")
    pipeline.save_pretrained(tmp_path / PIPELINE)
    monkeypatch.setattr("decentral.cores.count", lambda: 1)
    batches, wish, working, most = set[int](), Wish(5, 2, "full", 1.0, (), 0), set[str](), 0

    def watched(service: Any) -> Any:
        async def serve(task: Task, client: Client) -> None:
            nonlocal most
            working.add(task.part)
            most = max(most, len(working))
            await asyncio.sleep(0.05)
            await service(task, client)
            working.discard(task.part)

        return serve

    services = [(watched(service), digest) for service, digest in honest(pipeline)[:COUNT]]
    async with asyncio.timeout(60), served(tmp_path, services):
        made = await generate(tmp_path, wish, lambda batch, step: batches.add(batch))
        given = await generate(tmp_path, replace(wish, micro_batch=made.micro_batch))
        whole = await generate(tmp_path, replace(wish, micro_batch=500))
    assert (made.micro_batch, batches, most > 1) == ((5, {0}, False) if near else (3, {0, 1}, True))
    assert whole.micro_batch == wish.number
    assert [image.tobytes() for image in made.images] == [image.tobytes() for image in given.images]


def test_how_many_samples_go_together_depends_on_their_size() -> None:
    assert most_together((1, 8, 8)) == MOST_SAMPLES
    large = 3, 256, 256
    assert (most_together(large) * (4 * 3 * 256 * 256 + 8)) + 8 <= MOST_BYTES
    assert most_together(large) == 85


async def test_images_that_come_through_a_gateway_are_those_that_come_directly(tmp_path: Path, pipeline: Any) -> None:
    pipeline.save_pretrained(tmp_path / PIPELINE)
    wish, told = Wish(4, 3, "top-1", 2.0, (), 0, micro_batch=4), asyncio.get_running_loop().create_future()
    async with asyncio.timeout(60), served(tmp_path, honest(pipeline)):
        passing = asyncio.create_task(serve_tunnel(tmp_path, told.set_result))
        via = await told
        direct, through = await generate(tmp_path, wish), await generate(tmp_path, wish, via=via)
        halves = await generate(tmp_path, replace(wish, micro_batch=None), via=via)
        passing.cancel()
        await asyncio.gather(passing, return_exceptions=True)
        assert [image.tobytes() for image in through.images] == [image.tobytes() for image in direct.images]
        assert halves.micro_batch == 2, "where peers are behind a gateway nobody knows"
        with pytest.raises(Unreachable, match=f"no expert answers.*the gateway at {via}"):
            await generate(tmp_path, wish, via=via)
