"""What becomes of the files of a standing cluster of experts when one comes or goes; torch-free, for its launcher.

Whoever adds a node leaves the ensemble as it will be in the node's folder; it takes the place of the old one once the
node serves. Whoever takes one away leaves a mark. The trust file is the launcher's to change, after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from decentral import lock
from decentral.errors import UserError
from decentral.files import replace_folder, write_atomic
from decentral.run.directory import RunDirectory
from decentral.serving.access import PIPELINE

NEXT = "next"
"""In the folder of a node that was added: the ensemble from when it serves on."""
LEFT = "left"
"""The mark in the folder of a node that serves no more."""
ROUTER, DIGEST = "router", "digest"
"""In the ensemble's folder the router's, and there the digest of that model."""
CHANGING = ".changing"
"""The lock, among the nodes' folders, of who adds or takes away."""
LOOK, NODE_LOOK = 0.2, 1.0
"""Seconds between looks at what was added or marked: of the launcher, and of a node, which wakes up from its work."""
LATECOMERS, PARTING = 5.0, 600.0
"""Seconds for which a node that leaves waits for clients who were just told of it, and for all of them at most."""


def adopt(run: RunDirectory, node: str) -> None:
    """The ensemble that waits for this node, if one does, is the cluster's from now on."""
    waiting = run.nodes / node / NEXT
    if waiting.is_dir():
        replace_folder(waiting, run.path / PIPELINE)


def leave(run: RunDirectory, node: str) -> None:
    """Marks a node as one that serves no more; an ensemble that waited for it waits no longer."""
    write_atomic(run.nodes / node / LEFT, b"")
    shutil.rmtree(run.nodes / node / NEXT, ignore_errors=True)


def has_left(run: RunDirectory, node: str) -> bool:
    return (run.nodes / node / LEFT).exists()


def forget(run: RunDirectory, part: str) -> None:
    """Takes an expert that nobody serves any more out of the ensemble, whose router goes on without it."""
    name, ensemble = part.replace("-", "_"), run.path / PIPELINE
    index = ensemble / "model_index.json"
    if not (ensemble / name).is_dir():
        return
    parts = json.loads(index.read_bytes())
    write_atomic(index, json.dumps({**parts, name: [None, None]}, indent=2).encode() + b"\n")
    shutil.rmtree(ensemble / name)


def router_digest(path: Path) -> str:
    """Of the router by which clients of a cluster choose among experts; empty where nobody wrote it down."""
    file = path / PIPELINE / ROUTER / DIGEST
    return file.read_text().strip() if file.is_file() else ""


@contextlib.contextmanager
def changing(run: RunDirectory) -> Iterator[None]:
    """One change of what a cluster serves at a time. Raises UserError while somebody else makes one."""
    held = lock.take(run.nodes / CHANGING)
    if held is None:
        raise UserError(f"{run.path}: somebody else is adding or removing a node; try again when that is done")
    try:
        yield
    finally:
        os.close(held)


async def parted(run: RunDirectory, node: str, sessions: Callable[[], int]) -> None:
    """Returns once the node has left and its clients, of whom `sessions` tells the number, have what they came for."""
    await _until(lambda: has_left(run, node))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PARTING):
            await asyncio.sleep(LATECOMERS)
            await _until(lambda: not sessions())


async def _until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110  another process changes it
        await asyncio.sleep(NODE_LOOK)
