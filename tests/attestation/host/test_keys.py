"""Keys that a process is given follow from what was measured of it, and nobody is given another's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from decentral.attestation.attester import Unattested
from decentral.attestation.host.keys import quoted_keys
from decentral.attestation.host.measuring import Measurer
from decentral.attestation.host.processes import running
from decentral.attestation.host.quoting import ADDRESS, Quoting, serving
from decentral.attestation.host.release import Release
from decentral.attestation.sealing import SALT, GivenKeys, KeyPolicy
from decentral.attestation.vault import SealedVault
from decentral.errors import UserError
from decentral.wire.identity import Identity
from tests.attestation.world import NOW, TDX
from tests.launch.attested import copied

SIGNER = Identity.from_seed(b"signer")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("recipe.yaml", "policy.toml"):
        (tmp_path / name).write_text("one")
    return tmp_path


@pytest.fixture
async def quoting(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Quoting]:
    made = Quoting(TDX, Measurer(folder), lambda: NOW, running, TDX.sealing)
    async with serving(made, tmp_path_factory.mktemp("s"), folder):
        yield made


async def given(folder: Path) -> GivenKeys:
    return await asyncio.to_thread(quoted_keys, folder)


async def key(folder: Path, policy: KeyPolicy = KeyPolicy.MEASUREMENT, version: int = 0) -> bytes:
    keys = await given(folder)
    return await asyncio.to_thread(keys.ask, policy, version)


async def read(folder: Path) -> bytes:
    vault = SealedVault(await given(folder), "peer-0")
    return await asyncio.to_thread(vault.read, folder / "key")


def release(quoting: Quoting, version: int) -> Release:
    found = quoting.measurer.measure(running(os.getpid()))
    return Release.signed(SIGNER, found.image, found.events[0].digest, version)


async def test_what_is_given_is_what_the_machine_has_for_who_asks(quoting: Quoting, folder: Path) -> None:
    keys, machine = await given(folder), quoting.keys(running(os.getpid()))
    assert (keys.version, keys.signed, keys.tag) == (0, False, machine.machine(SALT))
    assert await key(folder) == machine.key(KeyPolicy.MEASUREMENT, 0, SALT) != keys.tag


async def test_keys_follow_from_the_recipe_and_not_from_what_the_owner_may_change(
    quoting: Quoting, folder: Path
) -> None:
    before = await key(folder)
    (folder / "policy.toml").write_text("another")
    assert await key(folder) == before
    (folder / "recipe.yaml").write_text("another")
    changed = await key(folder)
    (folder / "recipe.yaml").write_text("one")
    assert await key(folder) not in (before, changed)  # it has not been hidden


async def test_who_has_its_keys_seals_on_when_the_machine_is_gone(folder: Path, tmp_path: Path) -> None:
    made = Quoting(TDX, Measurer(folder), lambda: NOW, running, TDX.sealing)
    (tmp_path / "s").mkdir()
    async with serving(made, tmp_path / "s", folder):
        vault = SealedVault(await given(folder), "peer-0")
    vault.write(folder / "key", b"content")
    assert vault.read(folder / "key") == b"content"
    with pytest.raises(Unattested, match="does not answer"):
        await given(folder)


async def test_a_process_with_other_code_is_given_other_keys(quoting: Quoting, folder: Path, tmp_path: Path) -> None:
    SealedVault(await given(folder), "peer-0").write(folder / "key", b"content")
    copy = copied(tmp_path / "copy")
    program = (
        "import sys, pathlib; from decentral.attestation.host.keys import quoted_keys; "
        "from decentral.attestation.vault import SealedVault; folder = pathlib.Path(sys.argv[1]); "
        "print(SealedVault(quoted_keys(folder), 'peer-0').read(folder / 'key'))"
    )

    async def reads() -> str:
        asked = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", program, str(folder), cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asked.communicate()
        return said.decode()

    assert await reads() == "b'content'\n"  # the same code elsewhere
    with (copy / "decentral" / "errors.py").open("a") as module:
        module.write("\n# edited\n")
    assert "key.sealed: another measurement" in await reads()


async def test_a_signed_upgrade_reads_on_and_a_roll_back_does_not(quoting: Quoting, folder: Path) -> None:
    first, second = release(quoting, 1), release(quoting, 2)
    quoting.release = lambda: first
    keys = await given(folder)
    assert keys.signed and keys.version == 1
    SealedVault(keys, "peer-0").write(folder / "key", b"content")
    quoting.release = lambda: second
    assert await read(folder) == b"content"
    quoting.release = lambda: first
    with pytest.raises(UserError, match=r"key\.sealed: a newer version: sealed under version 2; 1 runs here"):
        await read(folder)


async def test_a_machine_gives_no_key_of_a_later_version_and_none_of_a_signer_to_who_is_not_signed(
    quoting: Quoting, folder: Path
) -> None:
    with pytest.raises(Unattested, match="a newer version: sealed under version 1; 0 runs here"):
        await key(folder, version=1)
    with pytest.raises(Unattested, match="unsigned"):
        await key(folder, KeyPolicy.SIGNER)


async def test_a_signature_of_other_code_signs_nothing_here(quoting: Quoting, folder: Path) -> None:
    found = release(quoting, 3)
    quoting.release = lambda: Release.signed(SIGNER, found.image, b"x" * 48, 3)
    assert not (await given(folder)).signed
    quoting.release = lambda: Release.signed(SIGNER, b"x" * 48, found.code, 3)
    assert not (await given(folder)).signed


async def test_a_machine_without_a_secret_and_a_socket_of_another_program_are_errors(
    quoting: Quoting, folder: Path
) -> None:
    quoting.secret = b""
    with pytest.raises(Unattested, match="no secret to seal with"):
        await given(folder)
    (folder / ADDRESS).write_text(str(folder / "nothing"))
    with pytest.raises(Unattested, match="does not answer"):
        await given(folder)
