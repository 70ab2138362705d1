"""What a trust file pins of machines, after what is installed here has changed: what differs, and the table anew.

Whoever re-pins looks at what has changed and says yes; nothing here asks or decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from decentral.attestation.host.measuring import CODE, Measurement
from decentral.attestation.manifest import Differences, Manifest, differences
from decentral.attestation.report import NotGenuine
from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.launch.attesting import MANIFEST, differing
from decentral.run.directory import AnyDirectory
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.machines import Machines, Reference


@dataclass(frozen=True)
class Repinning:
    """`before`, `after`: the table; `closest`: the pinned machine that is most like the measured one, if any is.

    `differing`: in what those two differ; `files`: of the code, None where nobody has kept what was pinned.
    """

    before: Machines | None
    after: Machines
    closest: Reference | None
    measured: Reference
    differing: tuple[str, ...]
    files: Differences | None

    @property
    def needed(self) -> bool:
        return self.before != self.after

    @property
    def dropped(self) -> tuple[Reference, ...]:
        """Machines that will not count any more."""
        before = () if self.before is None else self.before.references
        return tuple(each for each in before if each not in self.after.references)


def repinning(directory: AnyDirectory, measured: Measurement, found: Machines, *, keep: bool) -> Repinning:
    """Nothing is written. `found`: a table for the measured machine alone; `keep`: what is pinned goes on to count.

    What the owner has written about machines stays: settings, the lowest versions, a signer; and the image, where it is
    not measured here. Blocking. Raises UserError that names file and key.
    """
    before, (now,) = Anchors.load(directory.path / FILE).machines, found.references
    references = () if before is None else before.references
    alike = [each for each in references if each.technology is now.technology]
    closest = min(alike, key=lambda each: len(differing(each, now)), default=None)
    if closest is not None:
        now = replace(now, versions=closest.versions, signer=closest.signer)
        if not now.registers:
            now = replace(now, registers=closest.registers)
        if not now.measurement:
            now = replace(now, measurement=closest.measurement)
    if not now.measurement and not now.signer:
        problem = "machines.references[0].measurement: the image of a real machine is not measured here"
        raise UserError(f"{directory.path / FILE}: {problem}: --from-quote takes this machine's word for it")
    others = tuple(each for each in references if (each.technology is not now.technology or keep) and each != now)
    if before is None:
        after = replace(found, references=(now,))
    else:
        roots = before.roots + tuple(root for root in found.roots if root not in before.roots)
        after = replace(before, roots=roots, references=(*others, now))
    if before is not None and _contents(before) == _contents(after):
        after = before
    unlike = () if closest is None else tuple(differing(closest, now))
    return Repinning(before, after, closest, now, unlike, _files(directory, closest, measured))


def repin(directory: AnyDirectory, change: Repinning, manifest: Manifest) -> None:
    """Writes the table, and the files of the code for the next comparison. Blocking. Raises UserError."""
    file = directory.path / FILE
    anchors = Anchors.load(file)
    if anchors.machines != change.before:
        raise UserError(f"{file}: machines: was changed meanwhile; look at it again")
    try:
        replace(anchors, machines=change.after).save(file)
        write_atomic(directory.attestation / MANIFEST, manifest.encoded())
    except OSError as error:
        raise UserError(f"{error.filename or file}: cannot be written ({error.strerror or error})") from error


def _files(directory: AnyDirectory, closest: Reference | None, measured: Measurement) -> Differences | None:
    """By the list that was kept when that machine was pinned; None where it is of another one, or not there."""
    pinned = "" if closest is None else closest.events.get(CODE, "")
    if pinned == measured.manifest.digest.hex():
        return Differences((), (), ())
    try:
        before = Manifest.parse((directory.attestation / MANIFEST).read_bytes())
    except (OSError, NotGenuine):
        return None
    return differences(before, measured.manifest) if before.digest.hex() == pinned else None


def _contents(machines: Machines) -> list[str]:
    """Roots and references, in whatever order they stand."""
    return sorted([repr(each.plain()) for each in machines.references] + [repr(root) for root in machines.roots])
