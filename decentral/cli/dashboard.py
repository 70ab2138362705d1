"""`decentral dashboard`: a live page of a run or of a cluster that serves, until Ctrl-C."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, SimulatedOption, note, say, say_json, say_now


def dashboard(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory: running, or finished.")],
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
    """
    from decentral.dashboard.folder import FolderSource
    from decentral.dashboard.server import serve_dashboard

    source = FolderSource(directory, receipts, simulated=simulated)

    def told(url: str) -> None:
        if as_json:
            say_json({"url": url})
        else:
            say(url)
            note("Ctrl-C ends it")
        if not loopback(host):
            note(f"warning: whoever reaches {host} sees it all; it is plain HTTP and asks nobody for a password")
        say_now()
        if show:
            import webbrowser

            webbrowser.open(url)

    try:
        asyncio.run(serve_dashboard(source, told, host=host, port=port))
    except asyncio.CancelledError:  # SIGTERM
        return


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
