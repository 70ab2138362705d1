"""`decentral host`: lets peers join from machines of their own, until the cluster starts."""

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
    say_now,
)

DirOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The run directory to make, or to go on with.")]
ListenOption = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen.")]
AdvertiseOption = Annotated[
    str | None,
    typer.Option(
        "--advertise", metavar="HOST[:PORT]", help="Where joiners reach this machine. [default: as --listen says]"
    ),
]
SingleOption = Annotated[bool, typer.Option("--single-use", help="A token for each seat instead of one for all.")]
LifeOption = Annotated[
    float, typer.Option("--token-hours", min=0.01, max=168.0, help="How long tokens let joiners in.")
]
StayOption = Annotated[
    bool, typer.Option("--stay", help="Renew certificates after the start, as `authority` does, until told to end.")
]


def host(
    recipe: RecipeArgument,
    directory: DirOption,
    listen: ListenOption = "0.0.0.0:6999",
    advertise: AdvertiseOption = None,
    single_use: SingleOption = False,
    token_hours: LifeOption = 24.0,
    stay: StayOption = False,
    overrides: SetOption = None,
    plugins: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let peers join from machines of their own, each by one command.

    Prints that command, waits until every seat of the recipe is taken, hands everybody what it needs, and ends when all
    have started. Keys are made where they are used; this machine keeps the authority's alone. Ended and started again,
    it goes on, and who has a seat keeps it. No code is handed over: joiners say --plugin themselves.
    """
    from decentral.launch.ending import live
    from decentral.launch.hosting import Hosting, hosting
    from decentral.launch.prepare import is_prepared
    from decentral.run.recipe import read_recipe
    from decentral.run.serving_recipe import any_recipe

    load_plugins(plugins)
    document = read_recipe(recipe)
    resolved = any_recipe(document, overrides or (), prepared=is_prepared(directory))

    def listening(at: Hosting) -> None:
        if as_json:
            say_json({"address": at.address, "seats": at.seats, "tokens": at.tokens})
        else:
            for token in at.tokens:
                say(f"decentral join {at.address} --token {token}")
        say_now()
        if at.left:
            note(f"on each of {at.left} machines: this command{', each line once' if single_use else ''}")
        elif at.tokens:
            note("all seats are taken; this command, with its --dir, is for a node whose certificate has expired")

    with document.placing():
        work = hosting(
            resolved,
            directory,
            listen,
            advertise=advertise,
            single_use=single_use,
            token_seconds=token_hours * 3600.0,
            stay=stay,
            plugins=tuple(plugins or ()),
            listening=listening,
            say=note,
        )
        code = live(work)
    raise typer.Exit(code)
