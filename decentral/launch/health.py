"""Whether a node answers: asked over mutual TLS with the node's own certificate, by whoever watches its process.

    python -P -m decentral.launch.health RUN [--index 2] [--at 127.0.0.1]

Ends with 0 if the node's health service says SERVING, else with 1 and a line that says why not. A container engine runs
this beside the node: the probes that it has built in show no certificate, and our servers talk to nobody without one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2

from decentral.algorithms.presence import Member
from decentral.errors import DecentralError, Unreachable
from decentral.launch.alone import member_of
from decentral.run.directory import open_cluster
from decentral.wire import rpc
from decentral.wire.addresses import joined_address, split_address
from decentral.wire.certificate import Credentials
from decentral.wire.links import Links

DEADLINE = 5.0
"""Seconds, unless something else is said."""


async def check(path: Path, member: Member, host: str | None = None, deadline: float = DEADLINE) -> None:
    """`host`: where to ask instead of at the node's address, at the same port. Raises DecentralError if it is ill."""
    own, port = split_address(member.address)
    links = Links(Credentials.load(open_cluster(path).node(member.name)))
    links.introduce(member.id, joined_address(host or own, port))
    request = health_pb2.HealthCheckRequest().SerializeToString()

    async def ask(channel: grpc.aio.Channel, patience: asyncio.Timeout) -> bytes:
        return bytes(await channel.unary_unary(f"/{rpc.HEALTH}/Check", None, None)(request))

    try:
        reply = health_pb2.HealthCheckResponse.FromString(await links.call(member.id, ask, deadline))
    finally:
        await links.close()
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unreachable(f"{member.name} says that it does not serve")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="the run directory")
    parser.add_argument("--index", type=int, help="which node; the only one whose key is there")
    parser.add_argument("--at", metavar="HOST", help="where to ask, instead of at its address")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="seconds")
    given = parser.parse_args()
    try:
        asyncio.run(check(given.dir, member_of(given.dir, given.index), given.at, given.deadline))
    except DecentralError as error:
        print(error, file=sys.stderr)  # noqa: T201  for the log of whoever asked
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
