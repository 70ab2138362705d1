"""`decentral dashboard`: a live page of a run or of a cluster that serves, until Ctrl-C."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decentral.cli.output import JsonOption, SimulatedOption, note, say, say_json, say_now
from decentral.errors import UserError
from decentral.wire.addresses import is_loopback

if TYPE_CHECKING:
    from decentral.dashboard.source import Source


def dashboard(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|ADDRESS...", help="A run directory, running or finished; or where nodes say what they do."
        ),
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen at: 127.0.0.1 is reached from this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8050,
    receipts: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="What `predict --receipt` has kept. [default: DIR/receipts]")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
    simulated: SimulatedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show who is there, what everybody is at, accuracy, bytes and rounds, as they come.

    Of a model that is served: its stages and their replicas, what the client of this machine thinks of each, and the
    newest receipts, verified here, with every reason why one does not count. Nothing can be changed from the page.

    Of nodes on other machines give the addresses that their --metrics has opened, HOST:PORT each: a node is believed
    about itself alone.
    """
    from decentral.dashboard.server import serve_dashboard

    source = _source(what, receipts, simulated)

    def told(url: str) -> None:
        if as_json:
            say_json({"url": url})
        else:
            say(url)
            note("Ctrl-C ends it")
        if not is_loopback(host):
            note(f"warning: whoever reaches {host} sees it all; it is plain HTTP and asks nobody for a password")
        say_now()
        if show:
            import webbrowser

            webbrowser.open(url)

    try:
        asyncio.run(serve_dashboard(source, told, host=host, port=port))
    except asyncio.CancelledError:  # SIGTERM
        return


def _source(what: list[str], receipts: Path | None, simulated: bool) -> Source:
    """A folder, or addresses. Raises UserError where it is neither, or both."""
    from decentral.dashboard.address import AddressSource, is_address
    from decentral.dashboard.folder import FolderSource

    if len(what) == 1 and (Path(what[0]).exists() or not is_address(what[0])):
        return FolderSource(Path(what[0]), receipts, simulated=simulated)
    if folders := [each for each in what if not is_address(each)]:
        raise UserError(f"{folders[0]}: one directory is shown at once, or one cluster by the addresses of its nodes")
    if receipts is not None:
        raise UserError("--receipts: what they are verified by lies in the directory of the cluster; give that")
    return AddressSource(what)
