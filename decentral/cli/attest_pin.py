"""`decentral attest pin`: after an upgrade, what is installed now counts, once a person has seen what has changed."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decentral.cli.output import JsonOption, RunArgument, note, say, say_json, say_table
from decentral.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from decentral.launch.pinning import Repinning
    from decentral.trust.machines import Reference

NOT_WRITTEN = 1
"""Exit code: what is installed is not what is pinned, and nobody has said yes."""
SHOWN = 16
"""Digits of a digest."""


def pin(
    directory: RunArgument,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="What is pinned counts beside it, while nodes are upgraded in turn."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Write it without asking.")] = False,
    quoted: Annotated[
        bool,
        typer.Option("--from-quote", help="On real hardware: trust this machine's own quote for its image as well."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Pin in DIR/trust.toml what is installed here now, in place of what was.

    It shows first what has changed, file by file where that is known, and asks. Exit code 1 if something has and
    nobody said yes: without a terminal, and with --json, only --yes does.
    """
    from decentral.attestation.host.measuring import Measurer
    from decentral.attestation.host.processes import startable
    from decentral.cli.attest import pinnable
    from decentral.launch.pinning import repin, repinning
    from decentral.run.directory import open_cluster
    from decentral.trust.anchors import FILE

    cluster = open_cluster(directory)
    if not cluster.recipe.attestation.shown:
        raise UserError(f"{cluster.recipe_file}: attestation: none, so that its nodes show nothing to pin")
    measured = Measurer(cluster.path).measure(startable())
    found = asyncio.run(pinnable(cluster, measured, quoted))
    if found is None:
        raise UserError(f"{cluster.attestation}: there is no simulated processor yet; the first start pins by itself")
    change, file = repinning(cluster, measured, found, keep=keep), directory / FILE
    if not as_json:
        tell(change, file)
    written = change.needed and (yes or (not as_json and is_terminal() and agreed(file)))
    if written:
        repin(cluster, change, measured.manifest)
    if as_json:
        say_json(plain(change, file, written))
    elif written:
        say(f"written; give {file} to the clients{', and start the nodes again' if cluster.in_use else ''}")
    if change.needed and not written:
        note("nothing is written: --yes writes it")
        raise typer.Exit(NOT_WRITTEN)


def is_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def agreed(file: Path) -> bool:
    return typer.confirm(f"pin this in {file}?", err=True)


def tell(change: Repinning, file: Path) -> None:
    if not change.needed:
        say(f"{file} pins what is installed here, and no other machine of its kind")
        return
    if change.differing and change.closest is not None:
        before, now = change.closest, change.measured
        rows = [(name, digest(before, name), digest(now, name)) for name in change.differing]
        say_table(("what", "pinned", "installed"), rows)
    if change.files is None:
        say("which files of the code are others is not known: nobody has kept those that were pinned")
    else:
        for kind, names in kinds(change).items():
            for name in names:
                say(f"{kind}  {name}")
    for each in change.dropped:
        say(f"will not count any more: a machine with {described(each)}")
    say(f"will count: a machine with {described(change.measured)}")


def kinds(change: Repinning) -> dict[str, list[str]]:
    """Files of the code, by what became of them; empty where nobody knows."""
    files = change.files
    if files is None:
        return {}
    return {"changed": list(files.changed), "added": list(files.added), "removed": list(files.missing)}


def digest(reference: Reference, name: str) -> str:
    found = reference.measurement if name == "image" else reference.events.get(name, "")
    return f"{found[:SHOWN]}..." if found else "nothing"


def described(reference: Reference) -> str:
    from decentral.attestation.host.measuring import CODE

    parts = [reference.technology.value, f"image {digest(reference, 'image')}", f"code {digest(reference, CODE)}"]
    return ", ".join(parts)


def plain(change: Repinning, file: Path, written: bool) -> dict[str, Any]:
    return {
        "trust": str(file),
        "as_pinned": not change.needed,
        "written": written,
        "differing": list(change.differing),
        "files": None if change.files is None else kinds(change),
        "pinned": change.measured.plain(),
        "dropped": [each.plain() for each in change.dropped],
    }
