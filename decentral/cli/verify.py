"""`decentral verify`: whether a saved answer counts, found out again from its receipt, without a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decentral.cli.evidence_words import evidence_lines, fault_lines
from decentral.cli.output import JsonOption, PluginOption, SimulatedOption, load_plugins, say, say_json, say_table
from decentral.errors import Unproven, UserError

if TYPE_CHECKING:
    from decentral.serving.asking.settling import Settled
    from decentral.trust.anchors import Anchors
    from decentral.trust.examination import Examination
    from decentral.trust.policy import Policy
    from decentral.trust.receipt import Receipt

NOT_VALID = 1
STAGES = "stages"
CANNOT_TELL = (
    "a receipt cannot tell whether others might have been asked, or weighed in another way, whether the client left "
    "out what a peer revealed, or what the time was"
)


def verify(
    receipt: Annotated[Path, typer.Argument(metavar="RECEIPT", help="What `predict --receipt` has kept.")],
    trust: Annotated[
        Path, typer.Option("--trust", metavar="FILE", help="The trust.toml of its cluster, as you got it.")
    ],
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="What you want of an answer, in TOML.")
    ] = None,
    require: Annotated[
        str | None, typer.Option(metavar="KIND,...", help="Evidence that you want: consensus, zk, attestation.")
    ] = None,
    simulated: SimulatedOption = False,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="DIR", help="The cluster's own folder, or its `stages`: to tell who lied."),
    ] = None,
    plugins: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find out again whether an answer counts: for who trusts this file, and by your policy, not by its client's.

    With the model, parts that replicas disagree about are computed again where the receipt holds what they were given.

    Exit code 0: valid; 1: not valid, with every reason; 2: the receipt, the trust file or the policy cannot be used.
    """
    if plugins and model is None:
        raise UserError("--plugin: registers the network of --model DIR, without which nothing is computed again")
    load_plugins(plugins)
    from decentral.trust.anchors import Anchors
    from decentral.trust.policy import Policy

    anchors = Anchors.load(trust)
    wanted = Policy.load(policy) if policy is not None else Policy()
    if require is not None:
        wanted = wanted.requiring(require)
    if simulated:
        wanted = replace(wanted, allow_simulated=True)
    from decentral.trust.receipt import Receipt, check

    read = Receipt.load(receipt)
    settled = None if model is None else _settled(read, anchors, model)
    try:
        found = check(read, anchors, wanted, {} if settled is None else settled.references)
    except Unproven as error:
        raise UserError(f"{receipt}: its proofs cannot be verified here: {error}") from error
    if as_json:
        say_json(_plain(read, anchors, wanted, found, settled))
    else:
        _say(read, anchors, wanted, found, settled)
    if not found.verdict.valid:
        raise typer.Exit(NOT_VALID)


def _settled(receipt: Receipt, anchors: Anchors, folder: Path) -> Settled:
    from decentral.serving.asking.settling import settle

    stages = folder / STAGES
    return settle(receipt.transcript, anchors, stages if stages.is_dir() else folder)


# ---- what is said -------------------------------------------------------------------------------------------------


def _say(receipt: Receipt, anchors: Anchors, policy: Policy, found: Examination, settled: Settled | None) -> None:
    from decentral.trust import telling

    parts = telling.parts(receipt, anchors, found)
    order = receipt.transcript.order
    client = f"client {order.client[:12]}…, {telling.moment(order.time)} as it says"
    if found.verdict.valid:
        least = min(len(part["agree"]) for part in parts)
        simulated = ", in part simulated" if any(each.simulated for each in found.findings) else ""
        say(f"valid: {least} or more replicas agree on every part ({len(parts)}){simulated}; {client}")
    else:
        say(f"NOT VALID; {client}")
        for reason in found.verdict.reasons:
            say(f"  {reason}")
    for line in evidence_lines(found.findings):
        say(line)
    if any(each.simulated for each in found.findings) and not policy.allow_simulated:
        say("what is simulated counts only with --allow-simulated, and if the client allowed it too")
    if parts:
        say()
        say_table(("part", "agree", "who", "asked too"), map(_row, parts))
    for line in fault_lines(telling.faults(anchors, found.faults)):
        say(line)
    if settled is not None:
        say(f"computed again: {', '.join(settled.references) or 'nothing'}")
        for part, why in settled.open.items():
            say(f"not computed again: {part}: {why}")
    say()
    say(CANNOT_TELL)


def _row(part: Mapping[str, Any]) -> tuple[str, ...]:
    agree, others = (", ".join(part[key]) or "-" for key in ("agree", "others"))
    return part["part"], f"{len(part['agree'])} of {len(part['asked'])}", agree, others


def _plain(
    receipt: Receipt, anchors: Anchors, policy: Policy, found: Examination, settled: Settled | None
) -> dict[str, Any]:
    from decentral.trust import packing, telling

    order = receipt.transcript.order
    return {
        "valid": found.verdict.valid,
        "reasons": list(found.verdict.reasons),
        "findings": [packing.finding(each) for each in found.findings],
        "faults": telling.faults(anchors, found.faults),
        "parts": telling.parts(receipt, anchors, found),
        "computed_again": [] if settled is None else list(settled.references),
        "not_computed_again": {} if settled is None else dict(settled.open),
        "task": order.task.hex(),
        "client": order.client,
        "time": order.time,
        "epoch": order.epoch,
        "policy": policy.plain(),
    }
