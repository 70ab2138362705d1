"""`decentral zk setup`: circuits of a model, in a folder of their own or of the cluster that serves it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decentral.cli.output import JsonOption, PluginOption, SetOption, load_plugins, note
from decentral.cli.zk_options import LocalOption, MemoryOption, SrsOption, TimeoutOption, limits_of
from decentral.cli.zk_words import say_checked, say_circuits, say_pinned
from decentral.errors import UserError

if TYPE_CHECKING:
    from decentral.launch.circuits import Reference
    from decentral.launch.planning import Wish
    from decentral.zk.setup import Options
    from decentral.zk.worker import Limits

NOT_VALID = 1


def setup(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of `up`, of circuits, or of a finished run; a serving recipe; or parameters "
            "(--set model.name=NAME, --set data.name=NAME).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where circuits.json and the stages go. [default: of a folder of `up`, its own, pinned in trust.toml]",
            show_default=False,
        ),
    ] = None,
    stages: Annotated[
        str | None, typer.Option(metavar="N|A,B", help="How many stages, or the modules after which to cut.")
    ] = None,
    overrides: SetOption = None,
    plugins: PluginOption = None,
    parameters: Annotated[
        str, typer.Option(help="fixed: in the key; polycommit: committed to, and one key for every checkpoint.")
    ] = "fixed",
    scale: Annotated[int, typer.Option(min=1, max=20, help="Bits of the input after the point.")] = 7,
    parameter_scale: Annotated[int, typer.Option(min=1, max=20, help="Bits of parameters after the point.")] = 7,
    rescale: Annotated[
        bool,
        typer.Option(
            "--rescale/--no-rescale",
            help="Of a folder of `up`: without, numbers keep all their bits, and circuits are cheaper.",
        ),
    ] = True,
    rebase: Annotated[int, typer.Option(min=1, help="Tensors are rescaled when this far above the input.")] = 1,
    legs: Annotated[int, typer.Option(min=1, help="Digits of the numbers that are checked to be in range.")] = 2,
    base: Annotated[int, typer.Option(min=2, help="Of those digits; less than 2^logrows.")] = 2**14,
    logrows: Annotated[
        int | None, typer.Option(min=1, max=26, help="Logarithm of the rows, at least. [default: what is needed]")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="GB",
            help="Cut it as `zk plan --memory GB` says: into circuits whose proofs take no more, never rescaled.",
        ),
    ] = None,
    srs: SrsOption = None,
    fetch: Annotated[bool, typer.Option("--fetch-srs", help="Download the ceremony's file if it is not here.")] = False,
    local: LocalOption = False,
    memory: MemoryOption = 8,
    timeout: TimeoutOption = 3600,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The identity.key that signs the model's card.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: make the circuits again, and compare them with DIR.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the circuits of a model, their keys, and what its verifiers pin.

    Without --out, of a cluster that serves a model in stages: of the parts that its peers compute; their identities are
    pinned in DIR/trust.toml, and its nodes prove what they answer once they have started again.

    With --check, exit code 1: the model does not come to these circuits.
    """
    from decentral.zk.arguments import Visibility

    visibility = Visibility.of_parameters(parameters)
    load_plugins(plugins)
    from decentral.launch.circuits import Reference
    from decentral.launch.planning import Wish
    from decentral.zk.setup import Options
    from decentral.zk.unscaled import unscaled

    reference, limits = Reference(srs, local, fetch), limits_of(memory, timeout)
    options = Options(visibility, scale, parameter_scale, rebase, base=base, legs=legs, logrows=logrows)
    if not rescale and out is not None:
        raise UserError("--no-rescale: is for the parts that peers serve, in a folder of `up`, without --out")
    wish = None if budget is None else Wish(budget, scale, parameter_scale, visibility.value)
    if wish is not None and (stages is not None or options != Options(visibility, scale, parameter_scale)):
        raise UserError(
            "--budget: a plan finds stages, digits and rows itself: without --stages, --rebase, --legs, ..."
        )
    if out is None:
        if stages is not None or overrides or key is not None or wish is not None:
            raise UserError(
                "--stages, --budget, --set and --key are for circuits in a folder of their own: give --out DIR"
            )
        _cluster(Path(source), reference, options if rescale else unscaled(options), limits, check, as_json)
    elif check:
        _check(source, stages, overrides or (), out, reference, limits, as_json)
    else:
        _make(source, stages, overrides or (), out, reference, wish or options, limits, key, as_json)


def _make(
    source: str,
    stages: str | None,
    overrides: Sequence[str],
    out: Path,
    reference: Reference,
    how: Options | Wish,
    limits: Limits,
    key: Path | None,
    as_json: bool,
) -> None:
    from decentral.launch.circuits import make_circuits, read_model
    from decentral.launch.planning import FILE as PLAN
    from decentral.launch.planning import Wish
    from decentral.zk.store import Store

    began, plan = time.monotonic(), None
    model = read_model(source, stages, overrides, say=note)
    if isinstance(how, Wish):
        plan = asyncio.run(how.plan(model, limits=limits, say=note))
        note(plan.words())
        chain = asyncio.run(make_circuits(model, out, reference, Store(), plan, limits=limits, say=note))
        how.save(out)
    else:
        chain = asyncio.run(make_circuits(model, out, reference, Store(), how, limits=limits, say=note))
        (out / PLAN).unlink(missing_ok=True)  # of circuits that were here before
    signed = None
    if key is not None:
        from decentral.launch.card import sign_card
        from decentral.wire.identity import Identity

        signed = sign_card(out, model, chain, Identity.load(key), note, plan=plan)
    say_circuits(out, chain, signed, time.monotonic() - began, as_json)


def _check(
    source: str,
    stages: str | None,
    overrides: Sequence[str],
    out: Path,
    reference: Reference,
    limits: Limits,
    as_json: bool,
) -> None:
    from decentral.launch.circuits import check_circuits, load_circuits, read_model
    from decentral.launch.planning import Wish
    from decentral.zk.store import Store

    model = read_model(source, stages, overrides, say=note)
    found, wish = reference.pinned(Store(), load_circuits(out)), Wish.load(out)
    plan = None if wish is None else asyncio.run(wish.plan(model, limits=limits, say=note))
    pinned, again = asyncio.run(check_circuits(model, out, found, plan=plan, limits=limits, say=note))
    if not say_checked(out, pinned, again, as_json):
        raise typer.Exit(NOT_VALID)


def _cluster(folder: Path, reference: Reference, options: Options, limits: Limits, check: bool, as_json: bool) -> None:
    """The circuits of a standing cluster."""
    from decentral.launch.circuits import load_circuits
    from decentral.launch.proofs import check as check_cluster
    from decentral.launch.proofs import set_up
    from decentral.run.directory import CIRCUITS, ServingDirectory
    from decentral.trust.anchors import FILE
    from decentral.zk.store import Store

    cluster, store, began = ServingDirectory.open(folder), Store(), time.monotonic()
    if not (folder / FILE).exists():
        raise UserError(f"{folder}: its stages are not there yet: decentral up {cluster.recipe_file} --dir {folder}")
    if check:
        found = reference.pinned(store, load_circuits(folder / CIRCUITS))
        pinned, again = asyncio.run(check_cluster(folder, found, limits=limits, say=note))
        if not say_checked(folder / CIRCUITS, pinned, again, as_json):
            raise typer.Exit(NOT_VALID)
        return
    chain = asyncio.run(set_up(folder, reference, store, options, limits=limits, say=note))
    say_pinned(cluster, chain, time.monotonic() - began, as_json)
