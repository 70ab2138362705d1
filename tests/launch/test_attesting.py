"""What is pinned of a cluster's machines is what its nodes will run, once; what differs later is said by name."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from decentral.attestation.attester import Unattested
from decentral.attestation.host.configfs import REPORTS, Configfs, HardwareAttester
from decentral.attestation.host.measuring import Measurer
from decentral.attestation.host.processes import startable
from decentral.attestation.host.quoting import QuotingAttester
from decentral.attestation.host.simulation import FILE as PROCESSOR
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.manifest import Manifest, differences, own_manifest
from decentral.attestation.report import Technology
from decentral.errors import RecipeError
from decentral.launch.attesting import (
    COLLATERAL,
    MANIFEST,
    attester_of,
    changed,
    collateral_of,
    observer_of,
    pin_machines,
    reference,
    simulates,
)
from decentral.launch.prepare import prepare
from decentral.run.attesting import Attesting
from decentral.run.directory import ServingDirectory
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.evidence import Kind
from decentral.trust.machines import Machines
from decentral.trust.policy import FILE as POLICY
from decentral.trust.policy import Policy
from tests.launch.attested import recipe_in


@pytest.fixture
def cluster(tmp_path: Path) -> ServingDirectory:
    return prepare(recipe_in(tmp_path), tmp_path / "here")


def machines_of(cluster: ServingDirectory) -> Machines:
    machines = Anchors.load(cluster.path / FILE).machines
    assert machines is not None
    return machines


def test_a_simulated_machine_is_pinned_with_what_its_nodes_will_run(cluster: ServingDirectory) -> None:
    machines, simulation = machines_of(cluster), Simulation.kept(cluster.attestation)
    assert machines.roots == (simulation.root,) and machines.roots[0].simulated
    (pinned,) = machines.references
    assert pinned == reference(Technology.TDX, Measurer(cluster.path).measure(startable()))
    assert list(pinned.events) == ["code", "recipe", "policy", "model"]
    assert Kind.ATTESTATION in Policy.load(cluster.path / POLICY).require


def test_its_keys_are_its_owners_and_the_measured_files_can_be_compared(cluster: ServingDirectory) -> None:
    assert stat.S_IMODE(cluster.attestation.stat().st_mode) == 0o700
    assert stat.S_IMODE((cluster.attestation / PROCESSOR).stat().st_mode) == 0o600
    assert not differences(Manifest.parse((cluster.attestation / MANIFEST).read_bytes()), own_manifest())


def test_what_is_pinned_stays_and_what_differs_is_said(cluster: ServingDirectory) -> None:
    said: list[str] = []
    before = (cluster.path / FILE).read_bytes()
    pin_machines(cluster, said.append)
    assert said == [] and (cluster.path / FILE).read_bytes() == before
    (cluster.path / POLICY).write_text("replicas = 1\n")
    pin_machines(cluster, said.append)
    assert (cluster.path / FILE).read_bytes() == before
    assert "other policy" in said[0] and "decentral attest pin" in said[0]


def test_other_code_is_named_by_its_files(cluster: ServingDirectory) -> None:
    measured = Measurer(cluster.path).measure(startable())
    edited = Manifest({**measured.manifest.files, "nodes/stage.py": "0" * 64})
    events = (replace(measured.events[0], digest=edited.digest), *measured.events[1:])
    now = replace(measured, manifest=edited, events=events)
    words = changed(cluster, machines_of(cluster), Technology.TDX, now)
    assert words == "other code (changed: nodes/stage.py)"
    (cluster.attestation / MANIFEST).unlink()
    assert changed(cluster, machines_of(cluster), Technology.TDX, now) == "other code"
    assert changed(cluster, machines_of(cluster), Technology.TDX, measured) is None
    other = replace(measured, image=bytes(48))
    assert changed(cluster, machines_of(cluster), Technology.TDX, other) == "other image"
    assert changed(cluster, machines_of(cluster), Technology.SNP, measured) == "no machine with sev-snp is pinned"


def test_nothing_is_made_where_nobody_asks_for_it(tmp_path: Path) -> None:
    cluster = prepare(recipe_in(tmp_path, "none"), tmp_path / "here")
    assert Anchors.load(cluster.path / FILE).machines is None
    assert not (cluster.path / "attestation").exists()


def test_a_folder_goes_on_as_it_was_made(cluster: ServingDirectory) -> None:
    for other in (Attesting(mode="none"), Attesting(mode="required", simulate="sev-snp")):
        with pytest.raises(RecipeError, match="made with another") as refused:
            prepare(cluster.recipe.model_copy(update={"attestation": other}), cluster.path)
        assert refused.value.key == "attestation"
    prepare(cluster.recipe, cluster.path)


@pytest.mark.slow
def test_sev_snp_can_be_played_too(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, "{mode: offered, simulate: sev-snp}")
    cluster = prepare(recipe, tmp_path / "here")
    machines = machines_of(cluster)
    assert machines.roots[0].technology is machines.references[0].technology is Technology.SNP
    assert Kind.ATTESTATION not in Policy.load(cluster.path / POLICY).require


@pytest.fixture
def hardware(tmp_path: Path) -> Configfs:
    (tmp_path / "sys" / REPORTS).mkdir(parents=True)
    return Configfs(tmp_path / "sys")


def test_hardware_is_used_where_it_is_and_its_owner_pins_it(tmp_path: Path, hardware: Configfs) -> None:
    said: list[str] = []
    cluster = prepare(recipe_in(tmp_path, "none"), tmp_path / "here")
    cluster.change(cluster.recipe.model_copy(update={"attestation": Attesting(mode="required")}))
    assert simulates(cluster.recipe.attestation, Configfs(tmp_path)) and not simulates(Attesting(mode="none"))
    assert not simulates(cluster.recipe.attestation, hardware)
    pin_machines(cluster, said.append, hardware)
    assert "decentral attest measure" in said[0]
    assert Anchors.load(cluster.path / FILE).machines is None
    assert not (cluster.attestation / PROCESSOR).exists()


async def test_a_node_of_hardware_extends_its_machine_once_and_others_only_look(
    cluster: ServingDirectory, hardware: Configfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = bytearray(48)

    def extend(self: Configfs, events, log):
        for event in events:
            log = log.extended(event)
        register[:] = log.replay()[3]
        return log

    monkeypatch.setattr(Configfs, "register", lambda self: bytes(register))
    monkeypatch.setattr(Configfs, "extend", extend)
    looking = observer_of(cluster, hardware)
    assert (await looking.log()).events == () and not any(register)
    (cluster.attestation / COLLATERAL).write_bytes(b"tcb")
    attester = attester_of(cluster, hardware)
    assert isinstance(attester, HardwareAttester)
    log = await attester.log()
    assert [event.name for event in log.events] == ["code", "recipe", "policy", "model"]
    assert await attester_of(cluster, hardware).log() == await observer_of(cluster, hardware).log() == log


def test_a_node_without_hardware_asks_the_quoting_process(cluster: ServingDirectory, tmp_path: Path) -> None:
    assert isinstance(attester_of(cluster, Configfs(tmp_path)), QuotingAttester)
    assert isinstance(observer_of(cluster, Configfs(tmp_path)), QuotingAttester)


def test_collateral_is_what_lies_there(cluster: ServingDirectory) -> None:
    assert collateral_of(cluster) == b""
    (cluster.attestation / COLLATERAL).write_bytes(bytes(1 << 20))
    with pytest.raises(Unattested, match="more than any collateral has"):
        collateral_of(cluster)
    (cluster.attestation / COLLATERAL).unlink()
    (cluster.attestation / COLLATERAL).mkdir()
    with pytest.raises(Unattested, match="cannot be read"):
        collateral_of(cluster)
