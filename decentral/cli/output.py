"""How commands speak: results on stdout, as JSON when asked for; everything else on stderr.

Here are also the options that several commands share.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A file, or a name that `recipes` lists.")]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Replaces a value of the recipe. Repeatable."),
]
PluginOption = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Python file that registers names. Repeatable.")
]
SimulatedOption = Annotated[
    bool,
    typer.Option(
        "--allow-simulated", help="Take simulated evidence too, as proofs on a local test SRS: its maker can forge."
    ),
]
ViaOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Reach the nodes through a gateway that cannot read: decentral gateway DIR --tunnel."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def say(text: str = "") -> None:
    """A line of a result."""
    sys.stdout.write(f"{text}\n")


def say_now() -> None:
    """Lets a pipe or a file have what was said, where the command then goes on until it is ended."""
    sys.stdout.flush()


def say_json(value: Any) -> None:
    """A result for programs; keys keep their order."""
    say(json.dumps(value, indent=2, allow_nan=False))


def say_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A result in columns as wide as their content, so that it reads the same in a pipe."""
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def drop_output() -> None:
    """Nobody can have the rest of the result: the interpreter's last flush would fail with a traceback."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def note(text: str) -> None:
    """Progress, advice, an error: for the person, never part of the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def load_plugins(files: Iterable[Path] | None) -> None:
    """The operator's own names, before a recipe is read."""
    from decentral.registry import load_entry_points, load_plugin

    load_entry_points()
    for file in files or ():
        load_plugin(file)
