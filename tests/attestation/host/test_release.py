"""A signature names who answers for an image and its code, and for nothing that was changed since."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral import canonical
from decentral.attestation.host.release import FILE, Release
from decentral.errors import UserError
from decentral.wire.identity import Identity

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")
IMAGE, CODE = b"i" * 48, b"c" * 48


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Release.signed(ALICE, IMAGE, CODE, 7).save(tmp_path / FILE)
    return tmp_path / FILE


def test_what_was_signed_is_read_and_covers_that_image_with_that_code(file: Path) -> None:
    release = Release.load(file)
    assert release == Release.signed(ALICE, IMAGE, CODE, 7)
    assert release.covers(IMAGE, CODE) and not release.covers(CODE, IMAGE) and not release.covers(IMAGE, IMAGE)
    assert len(release.signer) == 48
    assert release.signer == Release.signed(ALICE, CODE, IMAGE, 1).signer != Release.signed(BOB, IMAGE, CODE, 7).signer


def test_nobody_has_signed_where_there_is_no_file(tmp_path: Path) -> None:
    assert Release.load(tmp_path / FILE) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 8),
        ("version", True),
        ("version", -1),
        ("image", canonical.text(CODE)),
        ("code", canonical.text(IMAGE)),
        ("public_key", canonical.text(BOB.public_key)),
        ("signature", canonical.text(bytes(64))),
        ("format", "decentral release v2"),
        ("besides", 1),
    ],
)
def test_a_field_that_was_changed_is_refused_by_the_files_name(file: Path, field: str, value: object) -> None:
    file.write_bytes(canonical.encode({**canonical.decode(file.read_bytes()), field: value}))
    with pytest.raises(UserError, match=r"release: is no signed release"):
        Release.load(file)


@pytest.mark.parametrize("content", [b"", b"[]", b"release", b"\xff"])
def test_what_is_no_release_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError, match="is no signed release"):
        Release.load(file)


def test_no_release_has_a_version_below_zero_or_beyond_all_numbers() -> None:
    for version in (-1, 2**63):
        with pytest.raises(ValueError, match="no security version"):
            Release.signed(ALICE, IMAGE, CODE, version)
