"""What is pinned anew is what is installed, beside all that the owner has written of machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from decentral.attestation.host.measuring import Measurement, Measurer
from decentral.attestation.host.processes import startable
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.manifest import Differences, Manifest
from decentral.attestation.report import Root, Technology
from decentral.errors import UserError
from decentral.launch.attesting import MANIFEST, reference
from decentral.launch.pinning import repin, repinning
from decentral.launch.prepare import prepare
from decentral.run.directory import ServingDirectory
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.machines import Machines, Reference
from tests.launch.attested import recipe_in

SNP = Reference(Technology.SNP, "a" * 96)


@pytest.fixture
def cluster(tmp_path: Path) -> ServingDirectory:
    return prepare(recipe_in(tmp_path), tmp_path / "here")


@pytest.fixture
def installed(cluster: ServingDirectory) -> Measurement:
    return Measurer(cluster.path).measure(startable())


def upgraded(installed: Measurement) -> Measurement:
    """One file of the code changed, one came, one went."""
    files = dict(installed.manifest.files) | {"nodes/stage.py": "0" * 64, "decentral/new.py": "1" * 64}
    del files["decentral/errors.py"]
    manifest = Manifest(files)
    events = (replace(installed.events[0], digest=manifest.digest), *installed.events[1:])
    return replace(installed, manifest=manifest, events=events)


def table(cluster: ServingDirectory, measured: Measurement) -> Machines:
    simulation = Simulation.kept(cluster.attestation)
    return Machines((simulation.root,), (reference(simulation.technology, measured),))


def machines(cluster: ServingDirectory) -> Machines:
    found = Anchors.load(cluster.path / FILE).machines
    assert found is not None
    return found


def save(cluster: ServingDirectory, change: Callable[[Machines], Machines | None]) -> None:
    anchors = Anchors.load(cluster.path / FILE)
    assert anchors.machines is not None
    replace(anchors, machines=change(anchors.machines)).save(cluster.path / FILE)


def test_what_is_installed_and_pinned_needs_nothing(cluster: ServingDirectory, installed: Measurement) -> None:
    for keep in (False, True):
        change = repinning(cluster, installed, table(cluster, installed), keep=keep)
        assert not change.needed and change.differing == change.dropped == () and not change.files


def test_an_upgrade_is_told_file_by_file_and_takes_the_old_ones_place(
    cluster: ServingDirectory, installed: Measurement
) -> None:
    (old,), new = machines(cluster).references, upgraded(installed)
    change = repinning(cluster, new, table(cluster, new), keep=False)
    assert change.needed and change.differing == ("code",) and change.dropped == (old,)
    assert change.files == Differences(("nodes/stage.py",), ("decentral/errors.py",), ("decentral/new.py",))
    assert machines(cluster).references == (old,)  # until somebody says yes
    repin(cluster, change, new.manifest)
    assert machines(cluster).references == (reference(Technology.TDX, new),)
    assert Manifest.parse((cluster.attestation / MANIFEST).read_bytes()) == new.manifest
    again = repinning(cluster, new, table(cluster, new), keep=False)
    assert not again.needed and not again.files


def test_both_count_while_nodes_are_upgraded_in_turn_and_one_afterwards(
    cluster: ServingDirectory, installed: Measurement
) -> None:
    old, new = machines(cluster).references, upgraded(installed)
    repin(cluster, repinning(cluster, new, table(cluster, new), keep=True), new.manifest)
    assert machines(cluster).references == (*old, reference(Technology.TDX, new))
    change = repinning(cluster, new, table(cluster, new), keep=False)
    assert change.needed and change.differing == () and change.dropped == old
    repin(cluster, change, new.manifest)
    assert machines(cluster).references == (reference(Technology.TDX, new),)


def test_what_the_owner_has_written_of_machines_stays(cluster: ServingDirectory, installed: Measurement) -> None:
    (old,) = machines(cluster).references
    strict = replace(old, versions=(6, 1), registers=("", "b" * 96))
    other = Root(Technology.SNP, None, False)

    def written(before: Machines) -> Machines:
        return replace(
            before, roots=(*before.roots, other), references=(SNP, strict), minutes=5, days=3, revoked=("1f",)
        )

    save(cluster, written)
    before, new = machines(cluster), upgraded(installed)
    repin(cluster, repinning(cluster, new, table(cluster, new), keep=False), new.manifest)
    after = machines(cluster)
    assert replace(after, references=()) == replace(before, references=())
    now = replace(reference(Technology.TDX, new), versions=(6, 1), registers=("", "b" * 96))
    assert after.references == (SNP, now)


def test_files_are_not_named_by_a_list_of_something_else(cluster: ServingDirectory, installed: Measurement) -> None:
    new = upgraded(installed)
    for content in (Manifest({"nodes/other.py": "2" * 64}).encoded(), b"nothing", None):
        (cluster.attestation / MANIFEST).unlink()
        if content is not None:
            (cluster.attestation / MANIFEST).write_bytes(content)
        change = repinning(cluster, new, table(cluster, new), keep=False)
        assert change.differing == ("code",) and change.files is None
        (cluster.attestation / MANIFEST).touch()


def test_of_real_hardware_the_image_stays_as_it_is_pinned_or_has_to_be_said(
    cluster: ServingDirectory, installed: Measurement
) -> None:
    new = upgraded(installed)
    found = Machines((Root(Technology.TDX, None, False),), (replace(reference(Technology.TDX, new), measurement=""),))
    change = repinning(cluster, new, found, keep=False)
    assert change.measured.measurement == installed.image.hex() and change.differing == ("code",)
    assert change.after.roots == (*machines(cluster).roots, Root(Technology.TDX, None, False))
    save(cluster, lambda before: None)
    with pytest.raises(UserError, match=r"trust\.toml: machines\.references\[0\]\.measurement: .*--from-quote"):
        repinning(cluster, new, found, keep=False)
    first = repinning(cluster, installed, table(cluster, installed), keep=False)
    assert first.needed and first.closest is None and first.after == table(cluster, installed)


def test_nothing_is_written_over_what_was_changed_meanwhile(cluster: ServingDirectory, installed: Measurement) -> None:
    new = upgraded(installed)
    change = repinning(cluster, new, table(cluster, new), keep=False)
    save(cluster, lambda before: replace(before, minutes=7))
    with pytest.raises(UserError, match=r"trust\.toml: machines: was changed meanwhile"):
        repin(cluster, change, new.manifest)
    assert machines(cluster).minutes == 7


def test_a_disk_that_takes_nothing_leaves_what_was_pinned(
    cluster: ServingDirectory, installed: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, before = upgraded(installed), (cluster.path / FILE).read_bytes()
    change = repinning(cluster, new, table(cluster, new), keep=False)

    def full(*of: object, **how: object) -> None:
        raise OSError(28, "No space left on device", str(cluster.path / FILE))

    monkeypatch.setattr("decentral.trust.anchors.write_atomic", full)
    with pytest.raises(UserError, match=r"trust\.toml: cannot be written \(No space"):
        repin(cluster, change, new.manifest)
    assert (cluster.path / FILE).read_bytes() == before
