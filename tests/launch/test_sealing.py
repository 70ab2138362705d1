"""What a node of a simulated machine leaves on the disk opens for its like alone, and its run goes on with it."""

from __future__ import annotations

import logging
import os
import signal
import stat
from pathlib import Path

import pytest
from safetensors.torch import load_file

from decentral.attestation.host.configfs import Configfs
from decentral.attestation.sealing import SALT, GivenKeys, Guest, MachineKeys
from decentral.attestation.vault import Closed, SealedVault
from decentral.errors import RunDirectoryError, UserError
from decentral.launch.engine import Options, execute
from decentral.launch.sealing import PUBLIC, closed_vault, identity_of, known_as, vault_for
from decentral.run.directory import RunDirectory
from decentral.run.recipe import load_recipe
from decentral.training.checkpoint import Checkpoints
from decentral.wire.certificate import TLS
from decentral.wire.identity import IDENTITY, Identity
from tests.launch.test_local import Launched, accuracies, checkpoints, overrides, wait_until

MACHINE = MachineKeys(b"k" * 32, Guest(b"m" * 48, (), bytes(48), 0))
ATTESTED = ("peers=2", "rounds=6", "model={name: mlp, hidden: [8]}", "training.fresh_optimizer=false")


def vault(whose: str = "peer-0", machine: MachineKeys = MACHINE) -> SealedVault:
    return SealedVault(GivenKeys(0, False, machine.machine(SALT), lambda *what: machine.key(*what, SALT)), whose)


def secrets_in(folder: Path) -> list[Path]:
    """Files with a private key, or with tensors, that anybody could read."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [each for each in found if b"PRIVATE KEY" in (data := each.read_bytes()) or b'"dtype":"F' in data]


def test_an_identity_is_sealed_at_the_first_start_and_stays_known(tmp_path: Path) -> None:
    made = known_as(tmp_path)
    assert secrets_in(tmp_path) == [tmp_path / IDENTITY]
    (tmp_path / TLS).write_text("-----BEGIN PRIVATE KEY-----")  # of a start before there was sealing
    for _ in range(2):
        assert identity_of(tmp_path, made, vault()).id == made == known_as(tmp_path)
        assert secrets_in(tmp_path) == [] and not (tmp_path / IDENTITY).exists()
    assert stat.S_IMODE(Closed().place(tmp_path / IDENTITY).stat().st_mode) == 0o600


def test_a_start_that_was_cut_off_between_two_files_loses_nothing(tmp_path: Path) -> None:
    made, plain = known_as(tmp_path), tmp_path / IDENTITY
    content = plain.read_bytes()
    (tmp_path / PUBLIC).write_text(made)  # before it was sealed
    assert identity_of(tmp_path, made, vault()).id == made
    plain.write_bytes(content)  # after it was sealed, before the plain file was removed
    assert known_as(tmp_path) == made == identity_of(tmp_path, made, vault()).id
    assert not plain.exists()


def test_an_identity_of_another_machine_node_or_cluster_is_refused_by_the_files_name(tmp_path: Path) -> None:
    made = known_as(tmp_path)
    identity_of(tmp_path, made, vault())
    other = MachineKeys(b"o" * 32, MACHINE.guest)
    for reader, why in ((vault(machine=other), "another machine"), (vault("peer-1"), "another purpose")):
        with pytest.raises(UserError, match=rf"identity\.key\.sealed: {why}"):
            identity_of(tmp_path, made, reader)
    stranger = Identity.from_seed(b"stranger").id
    with pytest.raises(UserError, match=rf"identity\.key\.sealed: is the key of {made}, .* expects {stranger}"):
        identity_of(tmp_path, stranger, vault())
    with pytest.raises(UserError, match=r"identity\.key\.sealed: is sealed, and this node seals nothing"):
        identity_of(tmp_path, made, None)
    for content in (None, "nobody"):
        (tmp_path / PUBLIC).unlink()
        if content is not None:
            (tmp_path / PUBLIC).write_text(content)
        with pytest.raises(UserError, match=r"identity\.pub"):
            known_as(tmp_path)
        (tmp_path / PUBLIC).write_text(made)


def test_where_nobody_attests_nothing_is_sealed(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", load_recipe("dimat-digits"), "local") as directory:
        assert vault_for(directory, "peer-0") is closed_vault(directory.recipe.attestation) is None
        folder = directory.node("peer-0")
        made = known_as(folder)
        assert identity_of(folder, made, None).id == made
        assert [path.name for path in folder.iterdir()] == [IDENTITY]


def test_on_real_hardware_files_stay_plain_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Configfs, "here", property(lambda self: True))
    recipe = load_recipe("dimat-digits", ["attestation=required"])
    with RunDirectory.create(tmp_path / "run", recipe, "local") as directory, caplog.at_level(logging.WARNING):
        assert vault_for(directory, "peer-0") is closed_vault(recipe.attestation) is None
    assert "are not sealed: Intel TDX has no key for that" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_attested_run_keeps_no_secret_plain_and_a_killed_one_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    settings = (*ATTESTED, "attestation=required", "training.epochs=20", "deadlines.probe=0.3")
    run = Launched(tmp_path / "run", *overrides(*settings))
    try:
        run.wait_for("round", peer=0, round=2)
        kept = run.out / "checkpoints"
        assert secrets_in(run.out / "nodes") == secrets_in(kept) == []
        assert list(kept.glob("peer-0/round-*.optimizer.safetensors.sealed"))
    finally:
        run.process.kill()
        run.process.communicate()
    wait_until(lambda: not run.nodes_running())
    assert secrets_in(run.out / "nodes") == secrets_in(kept) == []
    resumed = Launched(tmp_path / "run", "--resume", *overrides(*settings)).end()
    plain = tuple(each for each in settings if not each.startswith("attestation"))
    whole, expected = execute(load_recipe("dimat-digits", plain), "sim", Options(out=tmp_path / "whole"))
    assert accuracies(resumed) == accuracies(expected)
    assert checkpoints(tmp_path / "run") == checkpoints(whole.path)  # a finished run leaves its models to everybody
    assert secrets_in(tmp_path / "run" / "nodes") == []
    shelf = Checkpoints(tmp_path / "run" / "checkpoints", "peer-0")
    trained = shelf.trained()
    assert trained is not None and trained.round == 6
    assert trained.state.keys() == load_file(shelf.newest).keys()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_peer_comes_back_from_what_it_has_sealed(tmp_path: Path) -> None:
    settings = (*ATTESTED, "rounds=16", "attestation=offered", "training.epochs=30", "deadlines.probe=0.3")
    run = Launched(tmp_path / "run", "--restart", "1", *overrides(*settings))
    run.wait_for("round", peer=0, round=1)
    os.kill(run.pid_of(0), signal.SIGKILL)
    started = run.wait_for("started", peer=0, rejoined=True)
    assert started["round"] > 0 and started["resumed"]
    summary = run.end()
    assert summary["crashed"] == summary["rejoined"] == ["peer-0"]
    assert secrets_in(tmp_path / "run" / "nodes") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_damaged_round_is_passed_over_and_a_plain_one_is_not_taken(tmp_path: Path) -> None:
    recipe = load_recipe("dimat-digits", [*ATTESTED, "rounds=3", "attestation=required"])
    directory, _ = execute(recipe, "local", Options(out=tmp_path / "run"))
    newest = directory.checkpoints / "peer-1" / "round-000003.safetensors.sealed"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    _, summary = execute(recipe, "local", Options(out=tmp_path / "run", resume=True))
    assert summary["rounds"] == 3
    os.link(directory.checkpoints / "peer-1.safetensors", newest.with_name("round-000003.safetensors"))
    with pytest.raises(RunDirectoryError, match=r"round-000003\.safetensors is plain, and this peer seals"):
        execute(recipe, "local", Options(out=tmp_path / "run", resume=True))
