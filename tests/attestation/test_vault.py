"""A node's sealed files open for what sealed them, and for what the same signer has signed later; for nobody else."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from decentral.attestation.sealing import SALT, GivenKeys, Guest, KeyPolicy, MachineKeys
from decentral.attestation.vault import Closed, SealedVault
from decentral.errors import UserError

ZERO, SIGNER = bytes(48), b"s" * 48
UNSIGNED = Guest(b"m" * 48, (b"r" * 48,), ZERO, 0)
SIGNED = replace(UNSIGNED, signer=SIGNER, version=5)
CONTENT = b"-----BEGIN PRIVATE KEY-----"


def vault(guest: Guest, secret: bytes = b"k" * 32, whose: str = "peer-0") -> SealedVault:
    machine = MachineKeys(secret, guest)

    def ask(policy: KeyPolicy, version: int) -> bytes:
        return machine.key(policy, version, SALT)

    return SealedVault(GivenKeys(guest.version, any(guest.signer), machine.machine(SALT), ask), whose)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity.key"


@pytest.mark.parametrize("guest", [UNSIGNED, SIGNED], ids=["measurement", "signer"])
def test_what_was_written_is_read_and_nothing_of_it_is_on_the_disk(path: Path, guest: Guest) -> None:
    vault(guest).write(path, CONTENT)
    assert vault(guest).read(path) == CONTENT
    (file,) = path.parent.iterdir()
    assert file == Closed().place(path) and CONTENT not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and Closed().sound(path)


REFUSED: dict[str, tuple[Guest, SealedVault, str]] = {
    "another machine": (UNSIGNED, vault(UNSIGNED, b"o" * 32), "another machine"),
    "other code": (UNSIGNED, vault(replace(UNSIGNED, registers=(b"q" * 48,))), "another measurement"),
    "another image": (UNSIGNED, vault(replace(UNSIGNED, measurement=b"n" * 48)), "another measurement"),
    "another node": (UNSIGNED, vault(UNSIGNED, whose="peer-1"), "another purpose"),
    "another signer": (SIGNED, vault(replace(SIGNED, signer=b"t" * 48)), "another signer"),
    "an older version": (SIGNED, vault(replace(SIGNED, version=4)), "a newer version"),
    "what nobody has signed": (SIGNED, vault(UNSIGNED), "another policy"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_may_not_read_is_told_which_file_and_why(path: Path, case: str) -> None:
    writer, reader, why = REFUSED[case]
    vault(writer).write(path, CONTENT)
    before = Closed().place(path).read_bytes()
    with pytest.raises(UserError, match=rf"identity\.key\.sealed: {why}: .*; "):
        reader.read(path)
    assert Closed().place(path).read_bytes() == before and vault(writer).read(path) == CONTENT


def test_a_flipped_byte_anywhere_is_damage_by_the_files_name(path: Path) -> None:
    vault(UNSIGNED).write(path, CONTENT)
    file = Closed().place(path)
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not Closed().sound(path)
        with pytest.raises(UserError, match=r"identity\.key\.sealed: damaged: "):
            vault(UNSIGNED).read(path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SIGNED, replace(SIGNED, version=6, measurement=b"n" * 48, registers=(b"q" * 48,))),
        (UNSIGNED, SIGNED),  # the same code, which somebody has signed since
    ],
    ids=["upgraded", "signed later"],
)
def test_what_a_later_version_has_read_opens_for_it_alone_from_then_on(path: Path, before: Guest, after: Guest) -> None:
    vault(before).write(path, CONTENT)
    assert vault(before).read(path) == CONTENT
    assert vault(after).read(path) == CONTENT
    with pytest.raises(UserError, match=r"identity\.key\.sealed: (a newer version|another policy)"):
        vault(before).read(path)
    assert vault(after).read(path) == CONTENT


def test_other_code_does_not_read_what_is_sealed_to_the_measurement_though_it_is_signed(path: Path) -> None:
    vault(UNSIGNED).write(path, CONTENT)
    with pytest.raises(UserError, match="another measurement"):
        vault(replace(SIGNED, registers=(b"q" * 48,))).read(path)


def test_who_has_no_keys_sees_whether_a_file_is_whole_and_no_more(path: Path) -> None:
    closed = Closed()
    assert not closed.sound(path)
    vault(UNSIGNED).write(path, CONTENT)
    assert closed.sound(path)
    for act in (lambda: closed.read(path), lambda: closed.write(path, b"")):
        do: Callable[[], object] = act
        with pytest.raises(UserError, match=r"identity\.key\.sealed"):
            do()


def test_a_file_that_is_too_large_is_not_written_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decentral.attestation.sealing.MAX_SEALED", 100)
    with pytest.raises(OSError, match=r"identity\.key\.sealed: a sealed file has at most 100 bytes"):
        vault(UNSIGNED).write(path, CONTENT)
    assert list(path.parent.iterdir()) == []


def test_a_file_that_cannot_be_sealed_anew_is_an_error_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault(SIGNED).write(path, CONTENT)

    def full(*of: object, **how: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("decentral.attestation.vault.write_atomic", full)
    with pytest.raises(UserError, match=r"identity\.key\.sealed: cannot be sealed anew \(No space"):
        vault(replace(SIGNED, version=6)).read(path)
    assert vault(SIGNED).read(path) == CONTENT
