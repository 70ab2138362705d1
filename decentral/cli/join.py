"""`decentral join`: this machine as one node of a cluster, by the line that `decentral host` has printed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.observing import LogFormatOption, OwnMetricsOption, TraceOption, tell_nodes
from decentral.cli.output import JsonOption, PluginOption, SetOption, note, say_json, say_now

AddressArgument = Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where `decentral host` is.")]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", envvar="DECENTRAL_TOKEN", show_envvar=True, help="Lets this machine in, the first time."),
]
DirOption = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="The node's folder. [default: runs/joined-HOST-PORT]"),
]
AdvertiseOption = Annotated[
    str,
    typer.Option(
        "--advertise",
        metavar="HOST[:PORT]",
        help="Where peers reach this machine; `:PORT` at the address that the host sees. [default: a free port there]",
    ),
]
ListenOption = Annotated[
    str | None,
    typer.Option("--listen", metavar="HOST", help="Where to listen, as 0.0.0.0. [default: as others reach it]"),
]


def join(
    address: AddressArgument,
    token: TokenOption = None,
    directory: DirOption = None,
    advertise: AdvertiseOption = "",
    listen: ListenOption = None,
    overrides: SetOption = None,
    plugins: PluginOption = None,
    metrics: OwnMetricsOption = None,
    trace: TraceOption = None,
    log_format: LogFormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take part, with this machine, in a cluster that `decentral host` brings together.

    Makes a folder with keys of its own, gets a seat, waits for the others, and becomes the node: signals and the exit
    code are the node's then. The same command again goes on where it was, without a token. `--set` changes what every
    machine decides for itself: device, data.root.
    """
    from decentral.errors import UserError
    from decentral.launch.alone import become, command_of
    from decentral.launch.apart import AUTHORITY_PORT, addresses
    from decentral.launch.entering import Wish, enter, invite_again, joined, place_to_listen
    from decentral.run.directory import RUNS
    from decentral.wire.authority import JoinToken

    tell_nodes(trace, log_format)
    where = addresses([address], ["host"], AUTHORITY_PORT, "HOST:PORT")[0]
    path = directory or RUNS / f"joined-{where.replace(':', '-').strip('[]')}"
    member, parsed = joined(path), None if token is None else JoinToken.parse(token)
    if member is None:
        wish = Wish.of(advertise, listen=listen, overrides=tuple(overrides or ()), plugins=tuple(plugins or ()))
        member = asyncio.run(enter(where, parsed, path, wish, note))
    elif overrides or plugins or advertise:
        raise UserError(f"{path}: has joined already; --advertise, --set and --plugin were decided then")
    elif parsed is not None:
        invite_again(path, member, where, parsed)
    if as_json:
        say_json({"node": member.name, "index": member.index, "address": member.address, "dir": str(path)})
        say_now()  # what this process has not written is gone when it becomes another
    become(command_of(path, member, listen or place_to_listen(member.address), False, metrics))
