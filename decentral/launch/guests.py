"""Nodes that are added to a finished run of experts: an expert of another run, or a replica of one that is there.

Each gets a folder after those of the run's own peers, with the model and the name of the part that it serves; the
launcher that is there, or else the next one, serves it like the others. And nodes that are taken away. Everything is
checked before anything is written. Blocking.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

from decentral.data.clusters import ASSIGNMENT
from decentral.errors import UserError
from decentral.files import replacing_folder, write_atomic
from decentral.launch.changes import DIGEST, NEXT, ROUTER, adopt, forget, leave
from decentral.launch.nodes import Part
from decentral.launch.serving import EXPERT, PART, parts_of
from decentral.models.experts import load_denoiser, outputs
from decentral.run.directory import RunDirectory, peer_name
from decentral.serving.access import PIPELINE
from decentral.serving.experts.expert import digest_of
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline

MODEL = ("config.json", "*.safetensors")
"""What is copied of a folder of diffusers."""


def add_replica(run: RunDirectory, expert: int) -> Part:
    """Another node that serves the expert of that number. Raises UserError if there is none."""
    name = f"expert-{expert}"
    first = next((part for part in _served(run) if part.name == name), None)
    if first is None:
        raise UserError(f"{run.path}: nobody serves {name}")
    return _node(run, run.nodes / first.node / EXPERT, name, first.digest)


def add_expert(run: RunDirectory, source: Path, router: Path | None = None, *, standing: bool = False) -> Part:
    """The expert of a folder as the next one of the ensemble, and the router that knows it.

    `router`: the folder of one with an output for each expert, the new one's last; None: that of the run knows it, and
    the expert comes in the place of one that has left. `standing`: a launcher serves the run, and will take the
    ensemble over once the new node serves. Raises UserError for an expert or a router that does not fit, naming the
    difference.
    """
    parts = _served(run)
    expert, digest = _loaded(source)
    if digest in {part.digest for part in parts}:
        raise UserError(f"{source}: is an expert that is served already; a replica is added by --replica-of")
    before = DecentralizedDiffusionPipeline.from_pretrained(run.path / PIPELINE)
    known = 1 if before.router is None else outputs(before.router)
    free = [number for number in range(known) if f"expert-{number}" not in {part.name for part in parts}]
    number = free[0] if router is None and free else known
    knowing = before.router if router is None else load_denoiser(router)
    if knowing is None or outputs(knowing) != max(known, number + 1):
        told = f"{router or run.path / PIPELINE / ROUTER}: tells {outputs(knowing) if knowing else 1} clusters apart"
        wanted = f"with expert-{number} there are {number + 1}"
        raise UserError(f"{told}, and {wanted}: fit its head again (docs/diffusion.md) and name its folder by --router")
    experts = {f"expert_{index}": model for index, model in before.experts.items()} | {f"expert_{number}": expert}
    ensemble = DecentralizedDiffusionPipeline(
        router=cast(Any, knowing), scheduler=before.scheduler, vae=before.vae, **cast(Any, experts)
    )
    node = peer_name(_next(run))
    with replacing_folder(run.node(node) / NEXT) as folder:
        ensemble.save_pretrained(folder)
        (folder / ROUTER / DIGEST).write_text(digest_of(load_denoiser(folder / ROUTER)) + "\n")
        if (assignment := run.path / PIPELINE / ASSIGNMENT).is_file():
            shutil.copyfile(assignment, folder / ASSIGNMENT)
    part = _node(run, source, f"expert-{number}", digest)
    if not standing:
        adopt(run, node)
    return part


def remove(run: RunDirectory, name: str, *, standing: bool = False) -> list[Part]:
    """The nodes that serve the expert `name` (expert-2), or the one node of that name (peer-5), serve no more.

    Numbers of others stay as they are: the router still knows the cluster, whose share goes to those that are there.
    Raises UserError if there is none, or no other expert.
    """
    parts = _served(run)
    going = [part for part in parts if name in (part.name, part.node)]
    if not going:
        raise UserError(f"{run.path}: nobody there serves, or is called, {name}")
    if len(going) == len(parts):
        raise UserError(f"{run.path}: {name} is all that is served; end it: decentral down {run.path}")
    for part in going:
        leave(run, part.node)
    if not standing and all(part.name != going[0].name for part in _served(run)):
        forget(run, going[0].name)
    return going


def _served(run: RunDirectory) -> list[Part]:
    return [part for part in parts_of(run) if part.script]


def _loaded(source: Path) -> tuple[Any, str]:
    model = load_denoiser(source)
    return model, digest_of(model)


def _next(run: RunDirectory) -> int:
    """The index of the node after all others."""
    index = run.recipe.peers
    while (run.nodes / peer_name(index) / PART).exists():
        index += 1
    return index


def _node(run: RunDirectory, source: Path, name: str, digest: str) -> Part:
    """A node after all others. Its part is written last: until then it is none."""
    node = run.node(peer_name(_next(run)))
    with replacing_folder(node / EXPERT) as folder:
        for pattern in MODEL:
            for file in source.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        if _loaded(folder)[1] != digest:
            raise UserError(f"{source}: has changed meanwhile, or is not the model that its digest names")
        (folder / DIGEST).write_text(digest + "\n")
    write_atomic(node / PART, f"{name}\n".encode())
    return Part(node.name, "expert.py", name, digest)
