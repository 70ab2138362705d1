"""The HTTP gateway in front of a standing cluster, as a client of it.

    python nodes/gateway.py --dir CLUSTER --port 8443

It needs the files of a client (`trust.toml`, `client/`, and `stages/` if there are any), makes a token and a
certificate in `client/` where there are none, and answers until it is told to end. With --tunnel it answers nothing
and passes clients' own connections on to the nodes, of which it reads nothing; then it needs `trust.toml` alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from decentral.launch.ending import live
from decentral.launch.gateway import Listening, serve_gateway, serve_tunnel


def told(listening: Listening) -> None:
    said(listening.url)


def said(where: str) -> None:
    print(where, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="the directory of a cluster that is up")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument("--port", type=int, default=8443, help="0: any that is free")
    parser.add_argument("--certificate", type=Path, help="for TLS, in PEM, with --key; otherwise one is made")
    parser.add_argument("--key", type=Path, help="of the certificate, in PEM")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for an answer; proofs take minutes")
    parser.add_argument("--tunnel", action="store_true", help="pass connections on, unread, instead of answering")
    given = parser.parse_args()
    if given.tunnel:
        if given.certificate is not None or given.key is not None or given.timeout is not None:
            parser.error("--tunnel: TLS ends at the nodes; --certificate, --key and --timeout are for answering")
        return live(serve_tunnel(given.dir, said, host=given.host, port=given.port))
    if given.timeout is not None and not given.timeout >= 1:
        parser.error("--timeout: an answer takes a second at least")
    serving = serve_gateway(
        given.dir,
        told,
        host=given.host,
        port=given.port,
        certificate=given.certificate,
        key=given.key,
        timeout=given.timeout,
    )
    return live(serving)


if __name__ == "__main__":
    sys.exit(main())
