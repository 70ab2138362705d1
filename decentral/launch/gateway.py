"""A gateway as a process: where it listens, with which certificate, and how it ends.

It is a client of a standing cluster, and no node of it: it may run on any machine that has the files of a client.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from decentral.errors import UserError
from decentral.launch.answering import answering
from decentral.lifetime import end_on_sigterm
from decentral.wire.addresses import joined_address

ENDING = 10
"""Seconds for requests that are under way when it is told to end."""


@dataclass(frozen=True, slots=True)
class Listening:
    """What callers need: where it is, a file with the token, and one with the certificate if that is of our making."""

    url: str
    token: Path
    certificate: Path | None


async def serve_gateway(
    directory: Path,
    told: Callable[[Listening], None],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: Path | None = None,
    key: Path | None = None,
    timeout: float | None = None,
) -> None:
    """Answers HTTP until it is cancelled, or SIGTERM comes; `told` is called once it listens. Port 0: any that is free.

    `timeout`: seconds for an answer; None: `Bounds.answering`.

    Raises UserError for what cannot be used, and TransportError if the cluster is gone.
    """
    try:
        import uvicorn  # noqa: F401  that it is there

        from decentral.serving.gateway.app import Bounds, Gateway
    except ImportError as error:
        raise UserError(f"the gateway needs {error.name}: pip install 'decentral[gateway]'") from error
    from decentral.serving.access import CLIENT
    from decentral.serving.client import STAGES, Client
    from decentral.serving.gateway.https import TOKEN, open_chain, open_token
    from decentral.serving.stages.model import FILE, Network

    end_on_sigterm()
    folder = directory / CLIENT
    async with Client.connect(directory) as client:
        token, chain = open_token(folder), open_chain(folder, host, certificate, key)
        network = Network.load(directory / STAGES) if (directory / STAGES / FILE).exists() else None
        with listening(host, port) as taken:
            bounds = Bounds() if timeout is None else Bounds(answering=timeout)
            app, at = Gateway(client, token, network=network, bounds=bounds).app(), taken.getsockname()
            told(Listening(f"https://{joined_address(host, at[1])}", folder / TOKEN, chain.shown))
            await answering(app, taken, ending=ENDING, ssl_certfile=chain.certificate, ssl_keyfile=chain.key)


async def serve_tunnel(directory: Path, told: Callable[[str], None], *, host: str = "127.0.0.1", port: int = 0) -> None:
    """Passes connections on to the nodes of a cluster until it is cancelled, or SIGTERM comes; `told` hears where.

    Needs the trust file alone. Raises UserError for what cannot be used.
    """
    from decentral.serving.gateway.tunnel import Tunnels
    from decentral.trust.anchors import FILE, Anchors

    end_on_sigterm()
    if not Anchors.load(directory / FILE).peers:
        raise UserError(f"{directory / FILE}: names no nodes to lead to")
    with listening(host, port) as taken:
        told(joined_address(host, taken.getsockname()[1]))
        await Tunnels(directory / FILE).serve(taken)


@contextlib.contextmanager
def listening(host: str, port: int, *, option: str = "--port") -> Iterator[socket.socket]:
    """A socket to which callers can connect. Raises UserError naming what cannot be taken; `option` is what said it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host}: is no address of this machine ({error})") from error
    with taken:
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            taken.listen()
        except (OSError, OverflowError) as error:
            raise UserError(f"port {port} of {host} cannot be taken ({error}); choose another with {option}") from error
        yield taken
