"""`decentral generate`: images from a standing cluster of diffusion experts."""

from __future__ import annotations

import asyncio
import io
import time
from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, ViaOption, note, say, say_json
from decentral.errors import UserError
from decentral.files import write_atomic

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
WIDE = range(4, 17)
"""Classes that a row of the grid shows one of each."""


def generate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a cluster that is up.")],
    num: Annotated[int, typer.Option(min=1, max=10_000, help="How many images.")] = 64,
    out: Annotated[Path, typer.Option(help="The picture to write, all images in a grid.")] = Path("grid.png"),
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps from noise to image.")] = 50,
    experts: Annotated[str, typer.Option(help="Who is asked about a sample: full, top-1, top-2, ...")] = "top-1",
    guidance: Annotated[float, typer.Option(min=1, help="Above 1: classifier-free guidance to the labels.")] = 2.0,
    label: Annotated[
        list[int] | None, typer.Option(help="Of which class. Repeatable, in turn. [default: all]", show_default=False)
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images that go through the steps together. [default: all, or half of them where peers are elsewhere]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and --micro-batch give the same images.")] = 0,
    via: ViaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sample images with experts that are each at its own peer.

    A peer that dies meanwhile is left out from then on, or another one that serves the same expert goes on in its
    place; the result says so.
    """
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}: must end in {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    from diffusers.utils import logging

    from decentral.serving.experts.generation import Wish, grid
    from decentral.serving.experts.generation import generate as sample

    logging.disable_progress_bar()  # of loading, which takes a moment; the steps are told below
    wish = Wish(num, steps, experts, guidance, label or (), seed, micro_batch)
    told = time.monotonic()

    def after_step(batch: int, step: int) -> None:
        nonlocal told
        if not as_json and (time.monotonic() - told > 1 or step == steps) and batch == 0:
            told = time.monotonic()
            note(f"step {step} of {steps}")

    made = asyncio.run(sample(directory, wish, after_step, via))
    picture = io.BytesIO()
    classes = len(set(made.labels or ()))
    grid(made.images, classes if classes in WIDE else None).save(picture, format=FORMATS[out.suffix.lower()])
    write_atomic(out, picture.getvalue())
    if as_json:
        say_json(
            {
                "out": str(out),
                "num": num,
                "steps": steps,
                "experts": experts,
                "seed": seed,
                "micro_batch": made.micro_batch,
                "labels": made.labels,
                "evaluations": {f"expert-{number}": count for number, count in made.evaluations.items()},
                "absent": {f"expert-{number}": why for number, why in made.absent.items()},
                "replaced": {f"expert-{number}": who for number, who in made.replaced.items()},
                "bytes": {"sent": made.sent, "received": made.received},
                "seconds": round(made.seconds, 3),
            }
        )
        return
    say(f"{num} images in {made.seconds:.1f} s: {out}")
    say("evaluated  " + ", ".join(f"expert-{number} {count}" for number, count in made.evaluations.items()))
    for number, why in made.absent.items():
        say(f"left out   expert-{number}: {why}")
    for number, who in made.replaced.items():
        say(f"replaced   expert-{number}: {who}")
