"""`decentral calibrate`: how far apart honest machines are, and what is caught beyond it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decentral.cli.output import JsonOption, PluginOption, load_plugins, note, say, say_json, say_table
from decentral.errors import UserError

if TYPE_CHECKING:
    from decentral.core.calibration import Rate
    from decentral.serving.stages.tolerances import Calibration

NOTED = 10.0
"""Seconds between two notes of progress."""


def calibrate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A cluster that serves a model in stages.")],
    false_reject: Annotated[
        float, typer.Option(help="Honest answers that may be rejected, at most, with a confidence of 95 %.")
    ] = 1e-3,
    margin: Annotated[float, typer.Option(min=1, help="Tolerance by what was measured, for machines unseen.")] = 4.0,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Batches to measure. [default: as many as needed]", show_default=False)
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Other parameters of the model, which are to be told apart. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the batches and of what is drawn.")] = 0,
    write: Annotated[bool, typer.Option("--write", help="Pin tolerances and gains in DIR/trust.toml.")] = False,
    plugins: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how far apart honest machines are, stage by stage, and what is caught.

    Instruction sets, oneDNN, batch shapes, and CUDA where there is one: each rounds differently. The tolerance of a
    stage accepts them all; shown is how often it catches cheaper models.
    """
    if not 0 < false_reject < 1:
        raise UserError(f"--false-reject {false_reject:g}: must be between 0 and 1")
    load_plugins(plugins)
    from decentral.serving.stages.tolerances import Wanted
    from decentral.serving.stages.tolerances import calibrate as measure

    told = time.monotonic()
    wanted = Wanted(false_reject, margin, samples, seed)

    def measured(batches: int) -> None:
        nonlocal told
        if time.monotonic() - told > NOTED:
            told = time.monotonic()
            note(f"{batches} of {wanted.count()} batches")

    found = measure(directory, wanted, others=_named(checkpoint or []), measured=measured)
    if write:
        found.pin(directory)
    if as_json:
        say_json(_plain(found, write))
        return
    _say(found)
    say(f"written into {directory / 'trust.toml'}" if write else "nothing is written: --write pins these numbers")


def _named(files: list[Path]) -> dict[str, Path]:
    named = {file.stem: file for file in files}
    if len(named) < len(files):
        raise UserError("--checkpoint: two files have one name")
    return named


def _say(found: Calibration) -> None:
    say(f"{found.of}; machines: {'; '.join(machine.name for machine in found.machines)}")
    say("")
    worst = [max(float(off.max()) for off in samples.machines.values()) for samples in found.samples]
    say_table(
        ("part", "to float64", "limit", "tolerance", "gain", "honest rejected", "at most"),
        [
            (
                part.name,
                f"{off:.1e}",
                f"{part.limit:.2e}",
                f"{part.tolerance:.2e}",
                f"{part.gain:.1f}",
                f"{part.honest.events} of {part.honest.trials}",
                f"{part.honest.upper():.5f}",
            )
            for part, off in zip(found.parts, worst, strict=True)
        ],
    )
    say(f"the model's outputs may be off by {found.drift:.2e}: classes nearer to one another are undecided")
    say("")
    lies = sorted({lie for part in found.parts for lie in part.detected})
    say_table(
        ("caught, of answers", *(part.name for part in found.parts)),
        [(lie, *(_rate(part.detected.get(lie)) for part in found.parts)) for lie in lies],
    )
    say("")


def _rate(rate: Rate | None) -> str:
    """A lie that would be the truth there, as of a stage without weights, is none."""
    return "-" if rate is None else f"{rate.events} of {rate.trials} (>= {rate.lower():.3f})"


def _plain(found: Calibration, written: bool) -> dict[str, Any]:
    return {
        "inputs": found.of,
        "machines": [machine.name for machine in found.machines],
        "written": written,
        "drift": found.drift,
        "parts": [
            {
                "name": part.name,
                "limit": part.limit,
                "tolerance": part.tolerance,
                "gain": part.gain,
                "honest": _told(part.honest),
                "detected": {lie: _told(rate) for lie, rate in part.detected.items()},
            }
            for part in found.parts
        ],
    }


def _told(rate: Rate) -> dict[str, float]:
    return {"rejected": rate.events, "samples": rate.trials, "lower": rate.lower(), "upper": rate.upper()}
