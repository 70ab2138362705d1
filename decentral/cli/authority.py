"""`decentral authority`: the authority of nodes on machines of their own, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, RunArgument, say, say_json, say_now

ListenOption = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen.")]
FromOption = Annotated[
    Path | None, typer.Option("--from", metavar="FOLDER", help="Where its key is mounted; DIR is made of it.")
]


def authority(
    directory: RunArgument,
    listen: ListenOption = "0.0.0.0:6999",
    source: FromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Renew the certificates of nodes on machines of their own, until told to end.

    DIR is a run directory that `prepare --authority` made, of which it needs authority/ alone.
    """
    from decentral.launch.ending import live
    from decentral.launch.granting import entrust, grant_at

    def told(address: str) -> None:
        if as_json:
            say_json({"authority": address})
        else:
            say(f"certificates are renewed at {address}")
        say_now()

    if source is not None:
        entrust(source, directory)
    raise typer.Exit(live(grant_at(directory, listen, told)))
