"""Evidence of the machines of a cluster: what is pinned of them before its nodes start, and who makes it for a node.

Hardware is used where the kernel offers it, whatever the recipe would have played. What is to be pinned of hardware is
its owner's to say (`decentral attest measure`); of a simulation it is what the nodes will run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from decentral.attestation.attester import Attester, Unattested
from decentral.attestation.evidence import MOST_COLLATERAL
from decentral.attestation.host.configfs import Configfs, HardwareAttester
from decentral.attestation.host.extending import extended, kept
from decentral.attestation.host.measuring import CODE, Measurement, Measurer
from decentral.attestation.host.processes import running, startable
from decentral.attestation.host.quoting import QuotingAttester
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.manifest import Manifest, differences
from decentral.attestation.report import NotGenuine, Technology
from decentral.files import write_atomic
from decentral.run.attesting import Attesting
from decentral.run.directory import AnyDirectory
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.machines import Machines, Reference
from decentral.wire.authority import Authority

MANIFEST, COLLATERAL, LOG = "manifest.json", "collateral", "log"
"""The measured files of the code, for whoever wants to know which of them are others; what a maker says of its
processor; what hardware was extended with."""


def simulates(attesting: Attesting, configfs: Configfs | None = None) -> bool:
    """Whether nodes show evidence of a processor that is played here."""
    return attesting.shown and not (configfs or Configfs()).here


def pin_machines(directory: AnyDirectory, say: Callable[[str], None], configfs: Configfs | None = None) -> None:
    """Pins what the nodes will show, once; later it is said where they would show something else. Blocking.

    Raises UserError.
    """
    attesting, file = directory.recipe.attestation, directory.path / FILE
    anchors = Anchors.load(file) if file.exists() else Anchors(Authority.open(directory.authority).pem, ())
    if not simulates(attesting, configfs):
        if anchors.machines is None:
            say(f"nothing is pinned of this machine: decentral attest measure {directory.path} prints what it runs")
        return
    simulation = Simulation.open(directory.attestation, attesting.technology, int(time.time()))
    measured = Measurer(directory.path).measure(startable())
    if anchors.machines is None:
        write_atomic(directory.attestation / MANIFEST, measured.manifest.encoded())
        machines = Machines((simulation.root,), (reference(simulation.technology, measured),))
        replace(anchors, machines=machines).save(file)
        say(f"pinned what this machine runs; its processor is simulated ({simulation.technology.value})")
    elif (other := changed(directory, anchors.machines, simulation.technology, measured)) is not None:
        say(
            f"this machine does not run what {file} pins: {other}; clients that ask for evidence will refuse it until "
            f"they pin what it runs now: decentral attest pin {directory.path}"
        )


def reference(technology: Technology, measured: Measurement) -> Reference:
    """Of a machine that runs what was measured, and nothing else."""
    events = {event.name: event.digest.hex() for event in measured.events}
    return Reference(technology, measured.image.hex(), events=events)


def changed(directory: AnyDirectory, machines: Machines, technology: Technology, measured: Measurement) -> str | None:
    """What is not as it is pinned, in words; None if a machine that runs what was measured is one of those."""
    now = reference(technology, measured)
    alike = [each for each in machines.references if each.technology is technology]
    if not alike:
        return f"no machine with {technology.value} is pinned"
    found = [differing(each, now) for each in alike]
    if not (least := min(found, key=len)):
        return None
    files = code_differences(directory, measured.manifest) if CODE in least else ""
    return f"other {', '.join(least)}{f' ({files})' if files else ''}"


def differing(pinned: Reference, now: Reference) -> list[str]:
    """In what a machine is not as it is pinned: the image, and what has been measured since, by name."""
    image = ["image"] if pinned.measurement not in ("", now.measurement) else []
    names = {*pinned.events, *now.events}
    return image + sorted(name for name in names if pinned.events.get(name) != now.events.get(name))


def code_differences(directory: AnyDirectory, found: Manifest) -> str:
    """The files that are not those that were measured when the cluster was made; empty where nobody knows."""
    try:
        before = Manifest.parse((directory.attestation / MANIFEST).read_bytes())
    except (OSError, NotGenuine):
        return ""
    return str(differences(before, found))


def attester_of(directory: AnyDirectory, configfs: Configfs | None = None) -> Attester:
    """Who makes evidence for this process, a node of the cluster. Blocking.

    Of hardware, whose run-time register is extended with what this process runs. Raises Unattested, UserError.
    """
    configfs = configfs or Configfs()
    if not configfs.here:
        return QuotingAttester(directory.path)
    measured = Measurer(directory.path).measure(running(os.getpid()))
    log = extended(configfs, measured.events, directory.attestation / LOG)
    manifest = measured.manifest.encoded()
    return HardwareAttester(configfs, log, collateral=partial(collateral_of, directory), manifest=manifest)


def observer_of(directory: AnyDirectory, configfs: Configfs | None = None) -> Attester:
    """The same for a process that is no node: it extends nothing. Blocking. Raises Unattested, UserError."""
    configfs = configfs or Configfs()
    if not configfs.here:
        return QuotingAttester(directory.path)
    measured = Measurer(directory.path).measure(startable())
    log = kept(configfs, measured.events, directory.attestation / LOG)
    return HardwareAttester(configfs, log, collateral=partial(collateral_of, directory))


def collateral_of(directory: AnyDirectory) -> bytes:
    """What the maker of a real processor says of it, where its owner has put that; else no bytes. Raises Unattested."""
    file = directory.attestation / COLLATERAL
    try:
        data = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise Unattested(f"{file}: cannot be read ({error.strerror or error})") from error
    if len(data) > MOST_COLLATERAL:
        raise Unattested(f"{file}: {len(data)} bytes are more than any collateral has")
    return data
