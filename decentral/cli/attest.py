"""`decentral attest`: what a machine can show of itself, and what of it to pin."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decentral.cli.attest_pin import pin
from decentral.cli.attest_sign import sign
from decentral.cli.output import JsonOption, RunArgument, note, say, say_json, say_table
from decentral.errors import UserError

if TYPE_CHECKING:
    from decentral.attestation.attester import Attester
    from decentral.attestation.evidence import Evidence
    from decentral.attestation.host.measuring import Measurement
    from decentral.attestation.report import Report, Root
    from decentral.run.directory import AnyDirectory
    from decentral.trust.machines import Complaint, Machines

NOT_AS_PINNED = 1
"""Exit code."""
SIMULATED = "its owner can forge all that it shows"

attest = typer.Typer(
    name="attest",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="What a machine can show of itself, and what of it to pin. Every command has --json.",
)
attest.command()(pin)
attest.command()(sign)


@attest.command()
def measure(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="A cluster, or a run.")] = None,
    quoted: Annotated[
        bool,
        typer.Option("--from-quote", help="On real hardware: trust this machine's own quote for its image as well."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the reference values of this installation and, with DIR, of that cluster.

    They are those of nodes that are started here. Whoever compares them with what nodes show needs them by a way that
    does not lead through those nodes' owner.
    """
    from decentral.attestation.host.configfs import Configfs
    from decentral.attestation.host.measuring import Measurer
    from decentral.attestation.host.processes import startable
    from decentral.run.directory import open_cluster

    cluster = None if directory is None else open_cluster(directory)
    # a folder without a cluster's files has neither recipe, policy nor model
    measured = Measurer(Path(os.devnull) if cluster is None else cluster.path).measure(startable())
    real = Configfs().here
    if quoted and (cluster is None or not real):
        raise UserError("--from-quote: needs DIR, and a machine with confidential hardware")
    machines = None if cluster is None else asyncio.run(pinnable(cluster, measured, quoted))
    register = register_of(measured) if cluster is not None else None
    if as_json:
        say_json(
            {
                "simulated": not real,
                "image": measured.image.hex(),
                "files": len(measured.manifest.files),
                "events": {event.name: event.digest.hex() for event in measured.events},
                "register_3": register,
                "trust": None if machines is None else "\n".join(machines.lines()),
            }
        )
        return
    rows = [("image", measured.image.hex())] if not real else []
    rows += [(event.name, event.digest.hex()) for event in measured.events]
    rows += [("register 3", register)] if register is not None else []
    say_table(("measured", f"{len(measured.manifest.files)} files of code"), rows)
    say(SIMULATION if not real else IMAGE)
    if machines is not None:
        say("")
        for line in machines.lines():
            say(line)


SIMULATION = f"of a simulated machine, since this one has no confidential hardware: {SIMULATED}"
IMAGE = "the image of a real machine is measured by its firmware: take that from who built it (measurement, registers)"


def register_of(measured: Measurement) -> str:
    """What the run-time register comes to, hexadecimal."""
    from decentral.attestation.attester import RUNTIME
    from decentral.attestation.registers import EventLog

    return EventLog(measured.events).replay()[RUNTIME].hex()


async def pinnable(cluster: AnyDirectory, measured: Measurement, quoted: bool) -> Machines | None:
    """What a trust file would pin of machines that run what was measured; None before there is a root to pin.

    `quoted`: with the image as the machine's own quote has it.
    """
    from decentral.attestation.host.configfs import Configfs
    from decentral.attestation.host.simulation import FILE, Simulation
    from decentral.attestation.report import Root
    from decentral.launch.attesting import observer_of, reference
    from decentral.trust.machines import Machines

    if not Configfs().here:
        if not (cluster.attestation / FILE).exists():
            return None
        simulation = Simulation.kept(cluster.attestation)
        return Machines((simulation.root,), (reference(simulation.technology, measured),))
    technology, _, _ = Configfs().report(bytes(64))
    root, found = Root(technology, None, False), replace(reference(technology, measured), measurement="")
    if quoted:
        _, report = await seen(observer_of(cluster), (root,))
        registers = tuple(register.hex() for register in report.registers[:3])
        found = replace(found, measurement=report.measurement.hex(), registers=registers)
    return Machines((root,), (found,))


@attest.command()
def show(directory: RunArgument, as_json: JsonOption = False) -> None:
    """Ask for evidence of this very process, on this machine, and print what it says.

    It comes from the hardware, or from the simulated processor of a cluster that is up, and is verified under the roots
    that DIR/trust.toml pins. Exit code 1 if a client of the cluster would not take this machine for one of its nodes'.
    """
    from decentral.launch.attesting import observer_of, simulates
    from decentral.run.directory import open_cluster
    from decentral.trust.anchors import FILE, Anchors

    cluster = open_cluster(directory)
    if simulates(cluster.recipe.attestation) and not cluster.in_use:
        raise UserError(f"{directory}: is down, and so is its simulated processor")
    machines = Anchors.load(directory / FILE).machines if (directory / FILE).exists() else None
    if machines is None:
        raise UserError(f"{directory / FILE}: pins no machines, so that nothing can be said of this one")
    evidence, report = asyncio.run(seen(observer_of(cluster), machines.roots))
    complaints = machines.complaints(report, evidence.log, int(time.time()))
    if as_json:
        say_json(plain(evidence, report, complaints))
    else:
        say_table(("evidence", "says"), list(rows_of(evidence, report)))
        say("verified; " + ("as it is pinned" if not complaints else "not as it is pinned:"))
        for complaint in complaints:
            say(f"  {complaint}")
    if report.simulated:
        note(f"the processor is simulated: {SIMULATED}")
    if complaints:
        raise typer.Exit(NOT_AS_PINNED)


async def seen(attester: Attester, roots: tuple[Root, ...]) -> tuple[Evidence, Report]:
    """Evidence about this process that nobody has seen before, and what it says. Raises Unattested, NotGenuine."""
    from decentral.attestation.binding import HPKE_KEY_BYTES, VOICE_BYTES
    from decentral.attestation.evidence import Evidence, verify_evidence
    from decentral.attestation.report import REPORT_DATA_BYTES

    fresh = os.urandom(REPORT_DATA_BYTES)
    keys = bytes(HPKE_KEY_BYTES), bytes(VOICE_BYTES)  # nothing will be sealed to it, and it says nothing
    evidence = Evidence.of(await attester.quote(fresh), *keys)
    return evidence, verify_evidence(evidence, fresh, roots, int(time.time()))


def rows_of(evidence: Evidence, report: Report) -> list[tuple[str, str]]:
    root = f"{report.root.fingerprint[:16]}..." if report.root.fingerprint else "the maker's own"
    status = " ".join((report.status, *report.advisories)) or "the maker states none"
    dates = [datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d") for at in (report.issued, report.expires)]
    return [
        ("technology", report.technology.value),
        ("root", f"{root}{', pinned as simulated' if report.simulated else ''}"),
        ("status", status),
        ("maker's word", f"of {dates[0]}, good until {dates[1]}"),
        ("debug", "yes: its host can look into it" if report.debug else "no"),
        ("measurement", report.measurement.hex()),
        *((f"register {place}", register.hex()) for place, register in enumerate(report.registers)),
        *((f"event {event.name}", event.digest.hex()) for event in evidence.log.events),
    ]


def plain(evidence: Evidence, report: Report, complaints: list[Complaint]) -> dict[str, Any]:
    return {
        "technology": report.technology.value,
        "root": report.root.fingerprint,
        "simulated": report.simulated,
        "status": report.status,
        "advisories": list(report.advisories),
        "issued": report.issued,
        "expires": report.expires,
        "debug": report.debug,
        "measurement": report.measurement.hex(),
        "registers": [register.hex() for register in report.registers],
        "events": [[event.register, event.name, event.digest.hex()] for event in evidence.log.events],
        "as_pinned": not complaints,
        "complaints": [str(each) for each in complaints],
    }
