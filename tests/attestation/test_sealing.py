"""What was sealed opens for whom it was sealed, and says to everybody else why not."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral import canonical
from decentral.attestation import sealing
from decentral.attestation.sealing import (
    GivenKeys,
    Guest,
    KeyPolicy,
    MachineKeys,
    NotUnsealed,
    Obstacle,
    Opened,
    opened,
    seal,
    sealed,
    unseal,
)
from decentral.errors import UserError

ZERO = bytes(48)
GUEST = Guest(b"m" * 48, (ZERO, ZERO, ZERO, b"r" * 48), b"s" * 48, 5)
KEYS = MachineKeys(b"k" * 32, GUEST)
WHAT: dict[str, Any] = {"purpose": "weights", "policy": KeyPolicy.MEASUREMENT}
SIGNED: dict[str, Any] = {"purpose": "weights", "policy": KeyPolicy.SIGNER}
both = pytest.mark.parametrize("what", [WHAT, SIGNED], ids=["measurement", "signer"])
versions = st.integers(0, 2**63 - 1)


def of(**changes: Any) -> MachineKeys:
    """The same machine with another guest."""
    return MachineKeys(KEYS.secret, replace(GUEST, **changes))


def obstacle(call: Callable[[], object]) -> Obstacle:
    with pytest.raises(NotUnsealed) as caught:
        call()
    assert str(caught.value).startswith(f"{caught.value.obstacle.value}: ")
    return caught.value.obstacle


# Honest


@given(st.binary(max_size=100), versions, st.sampled_from([WHAT, SIGNED]))
def test_what_was_sealed_is_opened(content: bytes, counter: int, what: dict[str, Any]) -> None:
    data = sealed(content, KEYS, counter=counter, **what)
    assert opened(data, KEYS, at_least=counter, **what) == Opened(content, counter, 5)


@both
def test_a_file_is_the_owners_alone_and_replaced_whole(tmp_path: Path, what: dict[str, Any]) -> None:
    place = tmp_path / "weights.sealed"
    for counter, content in ((1, b"one"), (2, b"two")):
        seal(place, content, KEYS, counter=counter, **what)
        assert unseal(place, KEYS, at_least=counter, **what).content == content
    assert stat.S_IMODE(place.stat().st_mode) == 0o600 and list(tmp_path.iterdir()) == [place]


def test_an_image_of_the_same_signer_opens_what_was_sealed_to_the_signer() -> None:
    other = of(measurement=b"n" * 48, registers=())
    assert opened(sealed(b"content", KEYS, counter=0, **SIGNED), other, at_least=0, **SIGNED).content == b"content"


def test_an_image_of_another_signer_opens_what_was_sealed_to_its_measurement() -> None:
    data = sealed(b"content", KEYS, counter=0, **WHAT)
    assert opened(data, of(signer=ZERO), at_least=0, **WHAT).content == b"content"


@given(versions, versions, st.sampled_from([WHAT, SIGNED]))
def test_it_opens_at_its_version_and_above_and_never_below(by: int, here: int, what: dict[str, Any]) -> None:
    data = sealed(b"content", of(version=by), counter=0, **what)
    if here >= by:
        assert opened(data, of(version=here), at_least=0, **what) == Opened(b"content", 0, by)
    else:
        found = obstacle(lambda: opened(data, of(version=here), at_least=0, **what))
        assert found is Obstacle.NEWER_VERSION


@given(versions, versions)
def test_an_older_file_than_the_newest_known_is_refused(counter: int, at_least: int) -> None:
    data = sealed(b"content", KEYS, counter=counter, **WHAT)
    if counter >= at_least:
        assert opened(data, KEYS, at_least=at_least, **WHAT).counter == counter
    else:
        assert obstacle(lambda: opened(data, KEYS, at_least=at_least, **WHAT)) is Obstacle.ROLLED_BACK


def test_the_same_content_is_sealed_in_other_bytes_every_time() -> None:
    one, other = (sealed(bytes(64), KEYS, counter=0, **WHAT) for _ in range(2))
    assert one[-112:-32] != other[-112:-32]


# Who else gets which keys


SALT = bytes(range(32))
GUESTS = [
    KEYS,
    MachineKeys(b"l" * 32, GUEST),
    of(measurement=b"n" * 48),
    of(registers=(ZERO, ZERO, b"r" * 48, ZERO)),
    of(registers=(ZERO, ZERO, ZERO)),
    of(signer=b"t" * 48),
    of(debug=True),
]


def test_keys_to_a_measurement_differ_with_all_that_was_measured_but_the_signer() -> None:
    keys = [guest.key(KeyPolicy.MEASUREMENT, 5, SALT) for guest in GUESTS]
    assert keys[5] == keys[0] and len(set(keys)) == len(GUESTS) - 1


def test_keys_to_a_signer_are_those_of_its_images_on_this_machine_without_debugging() -> None:
    keys = [guest.key(KeyPolicy.SIGNER, 5, SALT) for guest in GUESTS]
    assert keys[2] == keys[3] == keys[4] == keys[0] and len(set(keys)) == 4


def test_every_policy_version_and_salt_has_its_own_key_of_32_bytes() -> None:
    keys = {KEYS.key(policy, version, salt) for policy in KeyPolicy for version in (0, 1, 5) for salt in (SALT, ZERO)}
    assert len(keys | {KEYS.machine(SALT), KEYS.machine(ZERO)}) == 14
    assert {len(key) for key in keys} == {32}


@pytest.mark.parametrize("policy", KeyPolicy)
def test_no_guest_gets_the_keys_of_a_version_above_its_own(policy: KeyPolicy) -> None:
    assert KEYS.key(policy, 5, SALT)
    assert obstacle(lambda: KEYS.key(policy, 6, SALT)) is Obstacle.NEWER_VERSION


def test_images_that_nobody_signed_share_no_keys() -> None:
    nobody = of(signer=ZERO)
    assert obstacle(lambda: sealed(b"content", nobody, counter=0, **SIGNED)) is Obstacle.UNSIGNED
    data = sealed(b"content", KEYS, counter=0, **SIGNED)
    assert obstacle(lambda: opened(data, nobody, at_least=0, **SIGNED)) is Obstacle.UNSIGNED


# Lies


WRONG: dict[str, tuple[MachineKeys, dict[str, Any], dict[str, Any], Obstacle]] = {
    "another machine": (MachineKeys(b"l" * 32, GUEST), WHAT, {}, Obstacle.OTHER_MACHINE),
    "another machine, to the signer": (MachineKeys(b"l" * 32, GUEST), SIGNED, {}, Obstacle.OTHER_MACHINE),
    "another image": (of(measurement=b"n" * 48), WHAT, {}, Obstacle.OTHER_MEASUREMENT),
    "after another event": (of(registers=(ZERO, ZERO, ZERO, b"q" * 48)), WHAT, {}, Obstacle.OTHER_MEASUREMENT),
    "without registers": (of(registers=()), WHAT, {}, Obstacle.OTHER_MEASUREMENT),
    "another signer": (of(signer=b"t" * 48), SIGNED, {}, Obstacle.OTHER_SIGNER),
    "debugged": (of(debug=True), WHAT, {}, Obstacle.OTHER_MEASUREMENT),
    "debugged, to the signer": (of(debug=True), SIGNED, {}, Obstacle.OTHER_SIGNER),
    "debugged, and newer": (of(debug=True, version=9), SIGNED, {}, Obstacle.OTHER_SIGNER),
    "an older version": (of(version=4), WHAT, {}, Obstacle.NEWER_VERSION),
    "an older version, to the signer": (of(version=0), SIGNED, {}, Obstacle.NEWER_VERSION),
    "to the signer, wanted to the measurement": (KEYS, SIGNED, WHAT, Obstacle.OTHER_POLICY),
    "to the measurement, wanted to the signer": (KEYS, WHAT, SIGNED, Obstacle.OTHER_POLICY),
    "another of its own files": (KEYS, WHAT, {"purpose": "identity"}, Obstacle.OTHER_PURPOSE),
    "an old file": (KEYS, WHAT, {"at_least": 8}, Obstacle.ROLLED_BACK),
}


@pytest.mark.parametrize(("keys", "what", "wanted", "why"), WRONG.values(), ids=WRONG)
def test_who_may_not_open_it_learns_why(
    tmp_path: Path, keys: MachineKeys, what: dict[str, Any], wanted: dict[str, Any], why: Obstacle
) -> None:
    place = tmp_path / "sealed"
    seal(place, b"content", KEYS, counter=7, **what)
    assert obstacle(lambda: unseal(place, keys, **({"at_least": 7} | what | wanted))) is why
    assert unseal(place, KEYS, at_least=7, **what).content == b"content"


@both
def test_no_byte_of_a_file_can_change_be_missing_or_be_added(what: dict[str, Any]) -> None:
    data, generator = sealed(b"content", KEYS, counter=7, **what), random.Random(5)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << generator.randrange(8)
        for wrong in (bytes(changed), data[:place]):
            found = obstacle(lambda wrong=wrong: opened(wrong, KEYS, at_least=0, **what))  # type: ignore[misc]
            assert found is Obstacle.DAMAGED
    for wrong in (data + b"\0", b"\0" + data, data + data):
        assert obstacle(lambda wrong=wrong: opened(wrong, KEYS, at_least=0, **what)) is Obstacle.DAMAGED  # type: ignore[misc]


def anew(data: bytes, **changes: Any) -> bytes:
    """The file with a header that says something else, as who wants to deceive writes it."""
    length = int.from_bytes(data[8:12], "big")
    content = canonical.decode(data[12 : 12 + length]) | changes
    header = canonical.encode({name: value for name, value in content.items() if value is not None})
    body = data[:8] + len(header).to_bytes(4, "big") + header + data[12 + length : -32]
    return body + hashlib.sha256(body).digest()


DATA = sealed(b"content", KEYS, counter=7, **WHAT)
TEXT = canonical.text(bytes(32))
FORGED: dict[str, tuple[dict[str, Any], Obstacle]] = {
    "a higher counter": ({"counter": 9}, Obstacle.DAMAGED),
    "a lower version": ({"version": 4}, Obstacle.DAMAGED),
    "a higher version": ({"version": 6}, Obstacle.NEWER_VERSION),
    "another machine": ({"machine": TEXT}, Obstacle.OTHER_MACHINE),
    "another owner": ({"owner": TEXT}, Obstacle.OTHER_MEASUREMENT),
    "another salt": ({"salt": TEXT}, Obstacle.OTHER_MACHINE),
    "another policy": ({"policy": "signer"}, Obstacle.OTHER_POLICY),
    "another purpose": ({"purpose": "identity"}, Obstacle.OTHER_PURPOSE),
    "no such policy": ({"policy": "anybody"}, Obstacle.DAMAGED),
    "a truth for a counter": ({"counter": True}, Obstacle.DAMAGED),
    "a counter below zero": ({"counter": -1}, Obstacle.DAMAGED),
    "a version without end": ({"version": 2**63}, Obstacle.DAMAGED),
    "a short salt": ({"salt": canonical.text(bytes(31))}, Obstacle.DAMAGED),
    "no salt": ({"salt": None}, Obstacle.DAMAGED),
    "one field more": ({"more": 1}, Obstacle.DAMAGED),
    "a long header": ({"purpose": "a" * 3000}, Obstacle.DAMAGED),
    "a purpose that moves the cursor": ({"purpose": "\x1b[A"}, Obstacle.DAMAGED),
}


@pytest.mark.parametrize(("changes", "why"), FORGED.values(), ids=FORGED)
def test_a_header_that_was_made_anew_opens_nothing(changes: dict[str, Any], why: Obstacle) -> None:
    assert opened(anew(DATA), KEYS, at_least=7, **WHAT).content == b"content"
    assert obstacle(lambda: opened(anew(DATA, **changes), KEYS, at_least=0, **WHAT)) is why


@pytest.mark.parametrize("asked", [{"policy": KeyPolicy.SIGNER}, {"purpose": "identity"}], ids=["policy", "purpose"])
def test_a_header_that_says_what_the_reader_expects_opens_nothing_either(asked: dict[str, Any]) -> None:
    said = {name: getattr(value, "value", value) for name, value in asked.items()}
    assert obstacle(lambda: opened(anew(DATA, **said), KEYS, at_least=0, **(WHAT | asked))) in {
        Obstacle.DAMAGED,
        Obstacle.OTHER_SIGNER,
    }


def test_a_content_cannot_move_under_the_header_of_another_file() -> None:
    older, newer = (sealed(bytes([counter]) * 7, KEYS, counter=counter, **WHAT) for counter in (1, 2))
    front = newer[: 12 + int.from_bytes(newer[8:12], "big")]
    body = front + older[-32 - 7 - 16 : -32]
    assert obstacle(lambda: opened(body + hashlib.sha256(body).digest(), KEYS, at_least=2, **WHAT)) is Obstacle.DAMAGED


@pytest.mark.parametrize("data", [b"", b"dcsealed", bytes(100), hashlib.sha256(b"").digest()], ids=len)
def test_what_is_no_sealed_file_is_damaged(data: bytes) -> None:
    assert obstacle(lambda: opened(data, KEYS, at_least=0, **WHAT)) is Obstacle.DAMAGED


def test_what_is_no_file_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, pipe, link = tmp_path / "sealed", tmp_path / "pipe", tmp_path / "link"
    seal(place, b"content", KEYS, counter=0, **WHAT)
    os.mkfifo(pipe)
    link.symlink_to(place)
    for wrong in (tmp_path / "nothing", tmp_path, pipe, link):
        with pytest.raises(UserError, match=f"{wrong.name}: cannot be read"):
            unseal(wrong, KEYS, at_least=0, **WHAT)
    with pytest.raises(UserError, match="cannot be written"):
        seal(tmp_path / "no folder" / "sealed", b"content", KEYS, counter=0, **WHAT)
    monkeypatch.setattr(sealing, "MAX_SEALED", 100)
    with pytest.raises(UserError, match="100 are read"):
        unseal(place, KEYS, at_least=0, **WHAT)


def test_what_cannot_be_sealed_is_a_mistake_in_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"purpose": ""}, {"purpose": "ä"}, {"purpose": "a" * 101}, {"counter": -1}, {"counter": 2**63}):
        with pytest.raises(ValueError, match="a purpose is"):
            sealed(b"", KEYS, **({"counter": 0} | WHAT | wrong))
    monkeypatch.setattr(sealing, "MAX_SEALED", 500)
    with pytest.raises(ValueError, match="at most 500"):
        sealed(bytes(400), KEYS, counter=0, **WHAT)


def test_a_guest_and_a_secret_of_another_form_are_refused() -> None:
    for wrong in ({"measurement": b""}, {"signer": bytes(32)}, {"registers": (b"",)}, {"version": -1}):
        with pytest.raises(ValueError, match=r"48 bytes|no security version"):
            replace(GUEST, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 bytes"):
        MachineKeys(b"short", GUEST)


def test_neither_secret_nor_content_is_shown() -> None:
    assert "kkkk" not in repr(KEYS) and "content" not in repr(Opened(b"content", 0, 0))


# Given once


def given_keys(machine: MachineKeys) -> GivenKeys:
    def ask(policy: KeyPolicy, version: int) -> bytes:
        return machine.key(policy, version, sealing.SALT)

    return GivenKeys(machine.version, any(machine.guest.signer), machine.machine(sealing.SALT), ask)


@both
@given(st.integers(0, 20), st.integers(0, 20))
def test_keys_that_are_given_once_open_by_the_same_rules(what: dict[str, Any], wrote: int, reads: int) -> None:
    data = sealed(b"content", given_keys(of(version=wrote)), counter=3, **what)
    reader = given_keys(of(version=reads))
    if reads >= wrote:
        assert opened(data, reader, at_least=3, **what) == Opened(b"content", 3, wrote)
    else:
        assert obstacle(lambda: opened(data, reader, at_least=3, **what)) is Obstacle.NEWER_VERSION


def test_keys_that_are_given_once_tell_apart_what_those_of_the_machine_do() -> None:
    data = sealed(b"content", given_keys(KEYS), counter=0, **WHAT)
    for reader, why in (
        (of(measurement=b"n" * 48), Obstacle.OTHER_MEASUREMENT),
        (MachineKeys(b"o" * 32, GUEST), Obstacle.OTHER_MACHINE),
    ):
        assert obstacle(lambda reader=reader: opened(data, given_keys(reader), at_least=0, **WHAT)) is why  # type: ignore[misc]
    signed = sealed(b"content", given_keys(KEYS), counter=0, **SIGNED)
    assert obstacle(lambda: opened(signed, given_keys(of(signer=ZERO)), at_least=0, **SIGNED)) is Obstacle.UNSIGNED
    assert obstacle(lambda: opened(data, KEYS, at_least=0, **WHAT)) is Obstacle.OTHER_MACHINE  # another derivation


def test_a_machine_is_asked_once_for_each_version() -> None:
    asked: list[tuple[KeyPolicy, int]] = []

    def ask(policy: KeyPolicy, version: int) -> bytes:
        asked.append((policy, version))
        return KEYS.key(policy, version, sealing.SALT)

    keys = GivenKeys(5, True, KEYS.machine(sealing.SALT), ask)
    for counter in range(3):
        opened(sealed(b"content", keys, counter=counter, **WHAT), keys, at_least=counter, **WHAT)
    assert sorted(version for _, version in asked) == [0, 5]
