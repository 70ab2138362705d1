"""`decentral zk plan`: what proofs of a model would cost on this machine, before any is made."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, PluginOption, SetOption, load_plugins, note, say, say_json, say_table


def plan(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What `zk setup` takes; it is cut anew here.")],
    overrides: SetOption = None,
    plugins: PluginOption = None,
    memory: Annotated[float, typer.Option(min=0.1, metavar="GB", help="That the proof of a circuit may take.")] = 8,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, metavar="SECONDS", help="Of processor time that one may take.")
    ] = None,
    parameters: Annotated[str, typer.Option(help="fixed, or polycommit.")] = "fixed",
    scale: Annotated[int, typer.Option(min=1, max=20, help="Bits of the input after the point.")] = 7,
    parameter_scale: Annotated[int, typer.Option(min=1, max=20, help="Bits of parameters after the point.")] = 7,
    measure: Annotated[
        bool, typer.Option("--measure", help="Make a small proof first, to know how fast this machine is.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how a model could be proved within a budget, and what each circuit would cost, before any is made.

    Times are processor seconds over all cores: two idle cores take half of them.
    """
    from decentral.zk.arguments import Visibility

    visibility = Visibility.of_parameters(parameters)
    load_plugins(plugins)
    from decentral.launch.circuits import read_model
    from decentral.launch.planning import plan_circuits
    from decentral.zk.cost import Budget
    from decentral.zk.machine import measure_machine, recorded_machine
    from decentral.zk.planner import HEADINGS
    from decentral.zk.store import Store

    store, budget = Store(), Budget(memory * 1e9, seconds)
    model = read_model(source, None, overrides or (), say=note)
    known = asyncio.run(measure_machine(store, say=note)) if measure else recorded_machine(store)
    found = asyncio.run(
        plan_circuits(
            model,
            budget,
            scale=scale,
            parameter_scale=parameter_scale,
            parameters=visibility,
            machine=known or 1.0,
            say=note,
        )
    )
    if as_json:
        say_json({**found.encoded(), "measured": known is not None})
        return
    say_table(HEADINGS, found.table())
    say(found.words())
    say(f"{found.prove:.0f} s of processor time for all proofs, at most {found.memory / 1e9:.1f} GB at a time")
    if known is None:
        say("seconds are those of another machine: --measure makes a small proof, and records how fast this one is")
