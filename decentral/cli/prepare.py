"""`decentral prepare`: the folder from which a recipe's nodes start on machines of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import (
    JsonOption,
    PluginOption,
    RecipeArgument,
    SetOption,
    load_plugins,
    note,
    say,
    say_json,
    say_table,
)

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The run directory to make, or to renew.")]
HostsOption = Annotated[
    str, typer.Option("--hosts", metavar="HOST[:PORT],...", help="Where each node listens, in the order of the nodes.")
]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Of hosts that are named without one.")]
ApartOption = Annotated[
    bool, typer.Option("--apart", help="Make DIR/apart/NODE too: all that one node's machine needs, and no other keys.")
]
AuthorityOption = Annotated[
    str | None,
    typer.Option("--authority", metavar="HOST[:PORT]", help="Where `decentral authority` will run, to renew."),
]


def prepare(
    recipe: RecipeArgument,
    out: OutOption,
    hosts: HostsOption,
    port: PortOption = 7000,
    apart: ApartOption = False,
    authority: AuthorityOption = None,
    overrides: SetOption = None,
    plugins: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the folder from which nodes start on machines of their own.

    The authority, identities, certificates, addresses and plugins are in it. Where a recipe serves a model that has to
    be trained first, it is trained here. `decentral node` starts a node. Certificates last seven days; nodes renew them
    where an authority runs beside them, and else the same command does, again.
    """
    from decentral.launch.apart import AUTHORITY_PORT, addresses, names_of, settle
    from decentral.launch.prepare import is_prepared
    from decentral.run.recipe import read_recipe
    from decentral.run.serving_recipe import any_recipe

    load_plugins(plugins)
    document = read_recipe(recipe)
    resolved = any_recipe(document, overrides or (), prepared=is_prepared(out))
    nodes = names_of(resolved)
    listening = addresses([host.strip() for host in hosts.split(",") if host.strip()], nodes, port)
    granting = "" if authority is None else addresses([authority], ["authority"], AUTHORITY_PORT, "--authority")[0]
    with document.placing():
        settle(resolved, out, listening, apart=apart, authority=granting, plugins=plugins or (), say=note)
    if as_json:
        say_json({"dir": str(out), "nodes": dict(zip(nodes, listening, strict=True))})
        return
    say_table(("node", "address"), zip(nodes, listening, strict=True))
    say(f"start each one: decentral node {out / 'apart' / 'NODE' if apart else f'{out} --index N'}")
