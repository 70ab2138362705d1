"""A simulated processor: everything follows from its secret, and its keys from its firmware."""

from __future__ import annotations

from dataclasses import replace

import pytest

from decentral import canonical
from decentral.attestation.snp.platform import SnpPlatform
from decentral.attestation.snp.report import REPORT_BYTES, SnpReport, TcbVersion
from decentral.errors import Malformed
from tests.attestation.snp.world import DATA, IMAGE, NOW, World


def test_one_secret_is_one_processor(world: World) -> None:
    again = SnpPlatform.certified(world.maker, world.processor.secret, NOW)
    assert again.report(DATA, IMAGE) == world.processor.report(DATA, IMAGE)
    assert (again.chip, again.serial) == (world.processor.chip, world.processor.serial)
    assert len(again.chip) == 64
    assert len(again.report(DATA, IMAGE)) == REPORT_BYTES


def test_a_processor_is_the_same_after_it_was_kept_as_bytes(world: World) -> None:
    for processor in (world.processor, world.older):
        kept = SnpPlatform.from_bytes(processor.to_bytes())
        assert kept == processor
        assert kept.report(DATA, IMAGE) == processor.report(DATA, IMAGE)


def test_what_is_damaged_is_refused(world: World) -> None:
    whole = canonical.decode(world.processor.to_bytes())
    for changed in (
        [],
        {**whole, "format": "another"},
        {**whole, "more": 1},
        {**whole, "product": "Turin"},
        {**whole, "product": []},
        {**whole, "chain": whole["chain"][1:]},
        {**whole, "chain": None},
        {**whole, "secret": canonical.text(bytes(31))},
        {**whole, "firmware": canonical.text(bytes([4, 0, 1, 0, 0, 0, 24, 219]))},
    ):
        with pytest.raises(Malformed):
            SnpPlatform.from_bytes(canonical.encode(changed))
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        SnpPlatform.certified(world.maker, bytes(31), NOW)


def test_another_secret_is_another_processor(world: World) -> None:
    ours, theirs = world.processor, world.neighbour
    assert (ours.chip, ours.serial) != (theirs.chip, theirs.serial)
    assert ours.key.private_numbers() != theirs.key.private_numbers()


def test_each_firmware_has_a_key_of_its_own(world: World) -> None:
    firmwares = [TcbVersion(4, 0, 24, 219), TcbVersion(4, 0, 24, 220), TcbVersion(0, 4, 24, 219)]
    keys = {replace(world.processor, firmware=one).key.private_numbers().private_value for one in firmwares}
    assert len(keys) == len(firmwares)


def test_its_secret_is_not_shown(world: World) -> None:
    assert "processor" not in repr(world.processor).replace("SnpPlatform", "")


def test_a_report_says_what_the_guest_asked_for(world: World) -> None:
    host, identity = b"h" * 32, b"i" * 48
    data = world.processor.report(DATA, IMAGE, host_data=host, id_key_digest=identity, guest_svn=9, debug=True)
    found = SnpReport.parse(data)
    assert (found.report_data, found.measurement, found.host_data) == (DATA, IMAGE, host)
    assert (found.id_key_digest, found.guest_svn, found.debug) == (identity, 9, True)
    assert SnpReport.parse(world.report).debug is False


def test_signing_changes_nothing_but_the_signature(world: World) -> None:
    report = replace(SnpReport.parse(world.report), guest_svn=3, r=0, s=0)
    assert replace(SnpReport.parse(world.processor.sign(report)), r=0, s=0) == report
