"""Images from a standing cluster of experts: the router here, the experts at their peers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from decentral import cores
from decentral.errors import Unreachable, UserError
from decentral.serving.access import PIPELINE, Access, access
from decentral.serving.experts.ensemble import KIND, denoise_remotely, most_together, remote_experts
from decentral.serving.experts.expert import digest_of
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.trust.anchors import FILE
from decentral.wire.addresses import is_loopback, split_address

TILE = 64
"""Pixels that an image of a grid is enlarged to, by a whole factor, if it has fewer."""
GAP = 2
SETTLING, PAUSE = 10.0, 0.2
"""Seconds until the router is the one that the trust file pins, while both are changed, and between looks."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be sampled. `labels`: classes for the images, in turn; none: all that there are.

    Without classes there is no guidance either.
    """

    number: int
    steps: int
    experts: str
    guidance: float
    labels: Sequence[int]
    seed: int
    micro_batch: int | None = None
    """Images that go through the steps together; None: all of them where experts are on this machine, which then has no
    more at work than cores, and half of them elsewhere, so that one half is on its way while the other is computed; no
    more than experts take at once."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Images, and what they took.

    `micro_batch`: images that went through the steps together; `evaluations`: samples by expert; `absent`: why an
    expert had no part, or no more; `replaced`: where another peer that serves the same expert answered, or went on, who
    it was, and instead of whom.
    """

    images: list[Image.Image]
    labels: list[int] | None
    micro_batch: int
    evaluations: dict[int, int]
    absent: dict[int, str]
    replaced: dict[int, str]
    sent: int
    received: int
    seconds: float


async def generate(
    directory: Path,
    wish: Wish,
    after_step: Callable[[int, int], None] = lambda batch, step: None,
    via: str | None = None,
) -> Generated:
    """`via`: the gateway (host:port) through which experts are reached; None: directly.

    Raises UserError for what cannot be asked, and Unreachable when no expert is left.
    """
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        pipeline, cluster = await stack.enter_async_context(_arriving(directory, via))
        near = via is None and _near(cluster)
        at_once = cores.count() if near else None  # more would only push one another out of the caches
        remote = await stack.enter_async_context(remote_experts(cluster, at_once))
        experts, unreachable = remote.experts, remote.absent
        if not experts:
            reasons = "; ".join(f"expert-{number}: {why}" for number, why in sorted(unreachable.items()))
            raise Unreachable(f"{directory}: no expert answers{f' ({reasons})' if reasons else ''}; is the cluster up?")
        classes = list(wish.labels) or list(range(pipeline.config.num_classes))
        labels = [classes[place % len(classes)] for place in range(wish.number)] if classes else None
        guidance = wish.guidance if labels else 1.0
        most = most_together(pipeline.sample_shape) // (2 if guidance > 1 else 1)
        micro_batch = _micro_batch(wish, most, near)
        sampling = pipeline.start(
            num_images=wish.number,
            num_inference_steps=wish.steps,
            class_labels=labels,
            guidance_scale=guidance,
            experts=wish.experts,
            generator=torch.Generator().manual_seed(wish.seed),
            micro_batch=micro_batch,
            present=experts,
        )
        for number, why in unreachable.items():
            sampling.roster.absent[number] = why
        latents = await denoise_remotely(sampling.batches, experts, after_step)
        sent = sum(session.sent for session in remote.sessions)
        received = sum(session.received for session in remote.sessions)
    return Generated(
        images=pipeline.decode(latents),
        labels=labels,
        micro_batch=micro_batch,
        evaluations=dict(sorted(sampling.roster.evaluated.items())),
        absent=dict(sorted(sampling.roster.absent.items())),
        replaced={number: who for number, expert in sorted(experts.items()) if (who := expert.replaced)},
        sent=sent,
        received=received,
        seconds=time.monotonic() - began,
    )


def _near(cluster: Access) -> bool:
    """Whether all experts are on the client's machine: then there is next to no network time to hide."""
    return all(
        is_loopback(split_address(peer.address)[0]) for peers in cluster.serving(KIND).values() for peer in peers
    )


def _micro_batch(wish: Wish, most: int, near: bool) -> int:
    """`most`: images whose samples an expert takes in one task. Raises UserError where more are wished for."""
    if wish.micro_batch is None:
        return min(wish.number if near else math.ceil(wish.number / 2), most)
    wanted = min(wish.micro_batch, wish.number)
    if wanted > most:
        raise UserError(f"a micro-batch of {wanted} images is more than experts take at once, which is {most}")
    return wanted


@asynccontextmanager
async def _arriving(directory: Path, via: str | None) -> AsyncIterator[tuple[DecentralizedDiffusionPipeline, Access]]:
    """The router, and the way to the experts whom it chooses among: both of one epoch.

    They are in two places, which may be changed while they are read; then they are read again. Raises UserError where
    they do not come to belong together.
    """
    folder = directory / PIPELINE
    if not folder.is_dir():
        await asyncio.sleep(PAUSE)  # it may be about to be replaced
        if not folder.is_dir():
            raise UserError(f"{directory}: holds no ensemble of experts (there is no {folder})")
    ends = time.monotonic() + SETTLING
    while True:
        late = time.monotonic() > ends
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(access(directory, via))
            pipeline, problem = _own_part(folder, cluster.anchors.router)
            if pipeline is not None:
                yield pipeline, cluster
                return
        if late or not cluster.anchors.router:
            raise UserError(problem)
        await asyncio.sleep(PAUSE)


def _own_part(folder: Path, router: str) -> tuple[DecentralizedDiffusionPipeline | None, str]:
    """What the client computes itself, or what is wrong with it. `router`: its digest; empty: any."""
    try:
        pipeline = DecentralizedDiffusionPipeline.from_pretrained(folder, experts=())
    except (UserError, OSError) as error:
        return None, str(error)
    if router and (pipeline.router is None or digest_of(pipeline.router) != router):
        return None, f"{folder}: has another router than the one that {folder.parent / FILE} pins"
    return pipeline, ""


def grid(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """All images in one, in rows of so many; None: nearly square."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    factor = max(1, math.ceil(TILE / min(width, height)))
    tile = width * factor, height * factor
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (tile[0] + GAP) + GAP, rows * (tile[1] + GAP) + GAP), "white")
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        enlarged = image.convert("RGB").resize(tile, Image.Resampling.NEAREST)
        sheet.paste(enlarged, (GAP + column * (tile[0] + GAP), GAP + row * (tile[1] + GAP)))
    return sheet
