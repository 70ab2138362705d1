"""`decentral gateway`: a standing cluster for programs that speak HTTP, until Ctrl-C."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decentral.cli.output import JsonOption, PluginOption, load_plugins, note, say, say_json, say_now
from decentral.errors import UserError

if TYPE_CHECKING:
    from decentral.launch.gateway import Listening


def gateway(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a cluster that is up.")],
    host: Annotated[
        str, typer.Option(help="The address to listen at: 127.0.0.1 is reached from this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8443,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="For TLS, in PEM. [default: made]")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Of the certificate, in PEM.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="SECONDS", help="For an answer; proofs take minutes. [default: 120]", show_default=False
        ),
    ] = None,
    tunnel: Annotated[
        bool, typer.Option("--tunnel", help="Answer nothing: pass clients' sealed connections on to the nodes, unread.")
    ] = False,
    plugins: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer HTTP requests with what the peers of a cluster compute and this client verifies.

    With --tunnel it is no client and needs no key: clients come through it with --via HOST:PORT, verify the nodes
    themselves, and it can read neither what they ask nor what they are answered. Of DIR it needs trust.toml alone.

    Who asks needs the token in DIR/client/gateway.token, and trusts DIR/client/gateway.crt unless --certificate names
    another. /openapi.json describes the interface.
    """
    if tunnel:
        if certificate is not None or key is not None or timeout is not None:
            problem = "TLS ends at the nodes; --certificate, --key and --timeout are for answering"
            raise UserError(f"--tunnel: {problem}")
        if plugins:
            raise UserError("--tunnel: it computes nothing; --plugin is for answering")
        _pass_on(directory, host, port, as_json)
        return
    load_plugins(plugins)
    from decentral.launch.gateway import serve_gateway

    def told(listening: Listening) -> None:
        tell(listening)
        say_now()

    def tell(listening: Listening) -> None:
        shown = listening.certificate
        if as_json:
            say_json(
                {
                    "url": listening.url,
                    "token": str(listening.token),
                    "certificate": None if shown is None else str(shown),
                }
            )
            return
        trusted = "" if shown is None else f"--cacert {shown} "
        say(listening.url)
        note(f'curl {trusted}-H "Authorization: Bearer $(cat {listening.token})" {listening.url}/v1/model')
        note("Ctrl-C ends it")

    try:
        asyncio.run(
            serve_gateway(directory, told, host=host, port=port, certificate=certificate, key=key, timeout=timeout)
        )
    except asyncio.CancelledError:  # SIGTERM
        return


def _pass_on(directory: Path, host: str, port: int, as_json: bool) -> None:
    from decentral.launch.gateway import serve_tunnel

    def told(via: str) -> None:
        if as_json:
            say_json({"via": via})
        else:
            say(via)
            note(f"decentral predict {directory} INPUT --via {via}")
            note("Ctrl-C ends it")
        say_now()

    try:
        asyncio.run(serve_tunnel(directory, told, host=host, port=port))
    except asyncio.CancelledError:  # SIGTERM
        return
