"""Reports of SEV-SNP: what is believed of them, and the first thing that is wrong with those that are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from decentral.attestation.report import Flaw, NotGenuine, Root, Technology
from decentral.attestation.snp.authority import PROCESSOR_SECONDS
from decentral.attestation.snp.chain import Chain
from decentral.attestation.snp.endorsement import (
    BOOT_LOADER,
    HARDWARE,
    MICROCODE,
    PRODUCT,
    RESERVED,
    STRUCTURE,
    Endorsement,
)
from decentral.attestation.snp.platform import SnpPlatform
from decentral.attestation.snp.report import REPORT_BYTES, SnpReport, TcbVersion
from decentral.attestation.snp.verification import pinned, verify_signature, verify_snp
from tests.attestation.snp import published
from tests.attestation.snp.world import DATA, DAY, IMAGE, NOW, P256, SHA384_PSS, World

P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
YEARS_8 = 8 * 365 * DAY


# What is believed


def test_a_simulated_report_is_verified_under_the_simulated_root(world: World) -> None:
    found = world.verified()
    assert (found.report_data, found.measurement, found.registers) == (DATA, IMAGE, ())
    assert (found.technology, found.root, found.simulated) == (Technology.SNP, world.maker.root, True)
    assert (found.versions, found.debug, found.status, found.advisories) == ((4, 0, 24, 219), False, "", ())
    assert found.serial == world.processor.chip.hex()
    assert found.issued == NOW < found.expires


def test_debug_privilege_and_migration_are_facts_and_no_refusals(world: World) -> None:
    assert world.verified(world.processor.report(DATA, IMAGE, debug=True)).debug
    assert world.verified(world.signed(vmpl=3)).privilege == 3
    assert world.verified(world.signed(policy=0b111 << 16)).migratable
    plain = world.verified()
    assert (plain.debug, plain.privilege, plain.migratable) == (False, 0, False)


def test_what_the_host_gave_along_and_whose_image_it_is_are_facts(world: World) -> None:
    identity, author, host = b"i" * 48, b"a" * 48, b"h" * 32
    found = world.verified(world.processor.report(DATA, IMAGE, host_data=host, id_key_digest=identity))
    assert (found.configuration, found.signer) == (host, identity)
    assert world.verified(world.signed(flags=1, id_key_digest=identity, author_key_digest=author)).signer == author
    assert world.verified().signer == bytes(48)


@pytest.mark.parametrize("version", [2, 3, 5])
def test_each_version_of_reports_is_read(world: World, version: int) -> None:
    cpuid = bytes(3) if version == 2 else bytes([0x19, 1, 1])
    vectors = {"launch_mitigations": 3, "mitigations": 7} if version == 5 else {}
    assert world.verified(world.signed(version=version, cpuid=cpuid, **vectors)).measurement == IMAGE


def test_older_firmware_signs_with_another_key_and_is_told_apart_by_its_versions(world: World) -> None:
    found = world.verified(world.older.report(DATA, IMAGE), world.papers_of(world.older))
    assert found.versions == (3, 0, 8, 115)
    assert found.serial == world.verified().serial


def test_firmware_that_is_newer_than_the_key_it_signs_with_is_believed_as_the_key_says(world: World) -> None:
    newer = TcbVersion(9, 0, 25, 220)
    assert world.verified(world.signed(current=newer, committed=newer)).versions == (4, 0, 24, 219)


def test_what_is_valid_is_so_from_its_first_second_to_its_last(world: World) -> None:
    expires = world.verified().expires
    assert world.verified(now=NOW).expires == world.verified(now=expires - 1).expires == expires
    for moment, flaw in ((NOW - 1, Flaw.FUTURE), (expires, Flaw.EXPIRED)):
        with pytest.raises(NotGenuine) as refusal:
            world.verified(now=moment)
        assert refusal.value.flaw is flaw


def test_the_first_end_of_all_parts_is_the_end_of_what_is_believed(world: World) -> None:
    assert world.verified(collateral=world.with_processor(seconds=DAY)).expires == NOW + DAY
    hour = world.with_list(world.maker.revoked(NOW, seconds=3600))
    assert world.verified(collateral=hour).expires == NOW + 3600
    signer = world.maker.with_signer(NOW, seconds=2 * DAY)
    assert world.verified(collateral=world.with_processor(maker=signer)).expires == NOW + 2 * DAY


def test_the_root_that_is_pinned_says_what_is_simulated(world: World) -> None:
    real = Root(Technology.SNP, world.maker.root_certificate, simulated=False)
    foreign = Root(Technology.TDX, world.maker.root_certificate, simulated=True)
    roots = [foreign, Root(Technology.SNP, None, simulated=False), world.stranger.root, real]
    found = verify_snp(world.report, world.collateral.encode(), roots, NOW)
    assert (found.root, found.simulated) == (real, False)


def test_a_list_that_revokes_others_revokes_nobody_here(world: World) -> None:
    others = world.with_list(world.maker.revoked(NOW, [1, 2, world.neighbour.serial]))
    assert world.verified(collateral=others) == world.verified()


def test_the_other_half_of_a_signature_says_nothing_else(world: World) -> None:
    """ECDSA: (r, n - s) is a signature too, and firmware writes either. Nothing may be known by all of its bytes."""
    report = SnpReport.parse(world.report)
    other = replace(report, s=P384_ORDER - report.s).encode()
    assert other != world.report
    assert world.verified(other) == world.verified()


@pytest.mark.parametrize("own", [published.ARK, published.GENOA_ARK], ids=["Milan", "Genoa"])
def test_the_makers_own_roots_are_known_by_their_digests(own: bytes) -> None:
    makers = Root(Technology.SNP, None, simulated=False)
    assert pinned(own, [makers]) == makers
    with pytest.raises(NotGenuine, match="no root that is pinned"):
        pinned(own[:-1], [makers])


# What is not

Lie = Callable[[World], bytes]

REPORTS: dict[str, tuple[Lie, Flaw]] = {
    "a byte too few": (lambda w: w.report[:-1], Flaw.MALFORMED),
    "a byte too many": (lambda w: w.report + b"\0", Flaw.MALFORMED),
    "nothing": (lambda w: b"", Flaw.MALFORMED),
    "another version": (lambda w: w.signed(version=4), Flaw.MALFORMED),
    "another algorithm": (lambda w: w.signed(algorithm=2), Flaw.MALFORMED),
    "asked for by the host": (lambda w: w.signed(vmpl=0xFFFFFFFF), Flaw.MALFORMED),
    "a reserved bit of the policy": (lambda w: w.signed(policy=1 << 17 | 1 << 26), Flaw.NOT_CANONICAL),
    "a policy without the bit that is always set": (lambda w: w.signed(policy=0), Flaw.NOT_CANONICAL),
    "a reserved bit of the platform": (lambda w: w.signed(platform=1 << 6), Flaw.NOT_CANONICAL),
    "a reserved bit of the flags": (lambda w: w.signed(flags=1 << 5), Flaw.NOT_CANONICAL),
    "reserved bytes": (lambda w: w.spoilt(0x4C), Flaw.NOT_CANONICAL),
    "reserved bytes of a version": (lambda w: w.spoilt(0x183), Flaw.NOT_CANONICAL),
    "a model before there were any": (lambda w: w.signed(version=2), Flaw.NOT_CANONICAL),
    "mitigations before there were any": (lambda w: w.signed(mitigations=1), Flaw.NOT_CANONICAL),
    "padding of the signature": (lambda w: w.spoilt(0x2A0 + 48), Flaw.NOT_CANONICAL),
    "bytes behind the signature": (lambda w: w.spoilt(REPORT_BYTES - 1), Flaw.NOT_CANONICAL),
    "another image than was signed": (lambda w: w.spoilt(0x90), Flaw.SIGNATURE),
    "other data than was signed": (lambda w: w.spoilt(0x50), Flaw.SIGNATURE),
    "debugging denied after signing": (
        lambda w: replace(SnpReport.parse(w.processor.report(DATA, IMAGE, debug=True)), policy=0b11 << 16).encode(),
        Flaw.SIGNATURE,
    ),
    "another signature": (lambda w: w.spoilt(0x2A0), Flaw.SIGNATURE),
    "no signature": (lambda w: replace(SnpReport.parse(w.report), r=0, s=0).encode(), Flaw.SIGNATURE),
    "a signature of all ones": (
        lambda w: replace(SnpReport.parse(w.report), r=(1 << 384) - 1, s=(1 << 384) - 1).encode(),
        Flaw.SIGNATURE,
    ),
    "the signature of another report": (
        lambda w: w.report[:0x2A0] + w.signed(guest_svn=1)[0x2A0:],
        Flaw.SIGNATURE,
    ),
    "signed by the neighbour": (lambda w: w.neighbour.sign(SnpReport.parse(w.report)), Flaw.SIGNATURE),
    "signed by older firmware": (lambda w: w.older.sign(SnpReport.parse(w.report)), Flaw.SIGNATURE),
    "signed by nobody, it says": (lambda w: w.signed(flags=7 << 2), Flaw.SIGNATURE),
    "signed with a provider's key, it says": (lambda w: w.signed(flags=1 << 2), Flaw.CERTIFICATE),
    "signed with a key that is not known, it says": (lambda w: w.signed(flags=2 << 2), Flaw.CERTIFICATE),
    "a chip that is hidden": (lambda w: w.signed(flags=2, chip_id=bytes(64)), Flaw.COLLATERAL),
    "of another chip": (lambda w: w.signed(chip_id=w.neighbour.chip), Flaw.COLLATERAL),
    "of newer firmware than is endorsed": (lambda w: w.signed(reported=TcbVersion(4, 0, 25, 219)), Flaw.COLLATERAL),
    "of older firmware than is endorsed": (lambda w: w.signed(reported=TcbVersion(3, 0, 24, 219)), Flaw.COLLATERAL),
    "the neighbour's": (lambda w: w.neighbour.report(DATA, IMAGE), Flaw.COLLATERAL),
    "a real one": (lambda w: published.REPORT, Flaw.COLLATERAL),
}

PKCS1, SHORT_SALT = padding.PKCS1v15(), padding.PSS(padding.MGF1(hashes.SHA256()), 32)

PAPERS: dict[str, tuple[Lie, Flaw]] = {
    "nothing": (lambda w: b"", Flaw.MALFORMED),
    "no collateral": (lambda w: b"{}", Flaw.MALFORMED),
    "spaces": (lambda w: w.collateral.encode().replace(b",", b", "), Flaw.MALFORMED),
    "bytes behind it": (lambda w: w.collateral.encode() + b"\n", Flaw.MALFORMED),
    "too much": (lambda w: w.with_list(bytes(1 << 18)), Flaw.MALFORMED),
    "no certificate": (lambda w: w.with_chain(b"", *w.collateral.chain[1:]), Flaw.MALFORMED),
    "bytes behind a certificate": (
        lambda w: w.with_chain(w.collateral.chain[0] + b"\0", *w.collateral.chain[1:]),
        Flaw.MALFORMED,
    ),
    "no list of revoked certificates": (lambda w: w.with_list(b""), Flaw.MALFORMED),
    "a chain without its root": (lambda w: w.with_chain(*w.collateral.chain[:2]), Flaw.CERTIFICATE),
    "a chain without its middle": (lambda w: w.with_chain(*w.collateral.chain[::2]), Flaw.CERTIFICATE),
    "a chain with a link too many": (
        lambda w: w.with_chain(*w.collateral.chain, w.maker.root_certificate),
        Flaw.CERTIFICATE,
    ),
    "a chain in another order": (
        lambda w: w.with_chain(w.maker.signer_certificate, *w.collateral.chain[::2]),
        Flaw.CERTIFICATE,
    ),
    "a chain from its end": (lambda w: w.with_chain(*w.collateral.chain[::-1]), Flaw.ROOT),
    "the root in the middle": (
        lambda w: w.with_chain(w.collateral.chain[0], *[w.maker.root_certificate] * 2),
        Flaw.CERTIFICATE,
    ),
    "an authority as a processor": (
        lambda w: w.with_chain(w.maker.signer_certificate, *w.collateral.chain[1:]),
        Flaw.CERTIFICATE,
    ),
    "a processor that certifies": (lambda w: w.with_processor(certifies=True), Flaw.CERTIFICATE),
    "a processor certified by the root": (lambda w: w.with_processor(by_root=True), Flaw.CERTIFICATE),
    "a processor as an authority": (
        lambda w: w.with_chain(w.collateral.chain[0], w.collateral.chain[0], w.maker.root_certificate),
        Flaw.CERTIFICATE,
    ),
    "a signing key that may not certify": (
        lambda w: w.with_processor(maker=w.maker.with_signer(NOW, certifies=False)),
        Flaw.CERTIFICATE,
    ),
    "a processor's key on another curve": (lambda w: w.with_processor(key=P256), Flaw.CERTIFICATE),
    "a processor's key of RSA": (lambda w: w.with_processor(key=w.maker.signer_key.public_key()), Flaw.CERTIFICATE),
    "another padding": (lambda w: w.signed_otherwise(PKCS1, hashes.SHA384(), critical=False), Flaw.CERTIFICATE),
    "another digest": (lambda w: w.signed_otherwise(SHORT_SALT, hashes.SHA256(), critical=False), Flaw.CERTIFICATE),
    "a part that is critical": (
        lambda w: w.signed_otherwise(SHA384_PSS, hashes.SHA384(), critical=True),
        Flaw.CERTIFICATE,
    ),
    "a processor of a stranger": (
        lambda w: w.with_chain(w.stranger_processor, *w.collateral.chain[1:]),
        Flaw.SIGNATURE,
    ),
    "a signing key of a stranger": (
        lambda w: w.with_processor(maker=replace(w.stranger, root_certificate=w.maker.root_certificate)),
        Flaw.SIGNATURE,
    ),
    "a stranger's whole chain": (lambda w: w.with_processor(maker=w.stranger), Flaw.ROOT),
    "a real chain": (lambda w: w.with_chain(published.VCEK, published.ASK, published.ARK), Flaw.ROOT),
    "a processor's certificate that has ended": (lambda w: w.with_processor(NOW - DAY, seconds=DAY), Flaw.EXPIRED),
    "a processor's certificate of tomorrow": (lambda w: w.with_processor(NOW + DAY), Flaw.FUTURE),
    "a signing key that has ended": (
        lambda w: w.with_processor(maker=w.maker.with_signer(NOW - DAY, seconds=DAY)),
        Flaw.EXPIRED,
    ),
    "a signing key of tomorrow": (lambda w: w.with_processor(maker=w.maker.with_signer(NOW + DAY)), Flaw.FUTURE),
    "a list that has ended": (lambda w: w.with_list(w.maker.revoked(NOW - DAY, seconds=DAY)), Flaw.EXPIRED),
    "a list of tomorrow": (lambda w: w.with_list(w.maker.revoked(NOW + DAY)), Flaw.FUTURE),
    "a list without an end": (lambda w: w.list_without_end(), Flaw.COLLATERAL),
    "a list of changes alone": (lambda w: w.list_of_changes(), Flaw.COLLATERAL),
    "a list of a stranger": (lambda w: w.with_list(w.stranger.revoked(NOW)), Flaw.SIGNATURE),
    "a list by the signing key": (lambda w: w.with_list(w.maker.revoked(NOW, by_signer=True)), Flaw.SIGNATURE),
    "a list of another product": (
        lambda w: w.with_list(replace(w.maker, product="Genoa").revoked(NOW)),
        Flaw.COLLATERAL,
    ),
    "a revoked processor": (lambda w: w.with_list(w.maker.revoked(NOW, [5, w.processor.serial])), Flaw.REVOKED),
    "a revoked signing key": (lambda w: w.with_list(w.maker.revoked(NOW, [0x10001])), Flaw.REVOKED),
    "a revoked root": (lambda w: w.with_list(w.maker.revoked(NOW, [0x10000])), Flaw.REVOKED),
    "no chip": (lambda w: w.with_extensions({HARDWARE: None}), Flaw.CERTIFICATE),
    "a chip with a shorter name": (lambda w: w.with_extensions({HARDWARE: bytes(32)}), Flaw.CERTIFICATE),
    "no microcode": (lambda w: w.with_extensions({MICROCODE: None}), Flaw.CERTIFICATE),
    "a negative version": (lambda w: w.with_extensions({BOOT_LOADER: b"\x02\x01\x80"}), Flaw.CERTIFICATE),
    "a version in more bytes": (lambda w: w.with_extensions({BOOT_LOADER: b"\x02\x02\x00\x04"}), Flaw.CERTIFICATE),
    "a reserved version": (lambda w: w.with_extensions({RESERVED[0]: b"\x02\x01\x01"}), Flaw.CERTIFICATE),
    "another structure": (lambda w: w.with_extensions({STRUCTURE: b"\x02\x01\x01"}), Flaw.CERTIFICATE),
    "a product that is no text": (lambda w: w.with_extensions({PRODUCT: b"\x16\x09Milan-B0"}), Flaw.CERTIFICATE),
    "a product with other versions": (lambda w: w.with_extensions({PRODUCT: b"\x16\x08Turin-B0"}), Flaw.COLLATERAL),
    "the neighbour's": (lambda w: w.papers_of(w.neighbour), Flaw.COLLATERAL),
    "that of older firmware": (lambda w: w.papers_of(w.older), Flaw.COLLATERAL),
}


@pytest.mark.parametrize("lie", REPORTS)
def test_a_report_is_refused(world: World, lie: str) -> None:
    change, flaw = REPORTS[lie]
    with pytest.raises(NotGenuine) as refusal:
        world.verified(report=change(world))
    assert refusal.value.flaw is flaw, refusal.value


@pytest.mark.parametrize("lie", PAPERS)
def test_collateral_is_refused(world: World, lie: str) -> None:
    change, flaw = PAPERS[lie]
    with pytest.raises(NotGenuine) as refusal:
        world.verified(collateral=change(world))
    assert refusal.value.flaw is flaw, refusal.value


@pytest.mark.parametrize(
    ("root", "flaw"),
    [({"path_length": 0}, Flaw.CERTIFICATE), ({"revokes": False}, Flaw.CERTIFICATE), ({"seconds": 0}, Flaw.EXPIRED)],
    ids=["that may certify nobody who certifies", "that may revoke nobody", "that has ended"],
)
def test_a_root_is_refused_though_it_is_pinned(world: World, root: dict[str, int], flaw: Flaw) -> None:
    maker = world.maker.with_root(NOW, **root)
    with pytest.raises(NotGenuine) as refusal:
        verify_snp(world.report, world.with_processor(maker=maker), [maker.root], NOW)
    assert refusal.value.flaw is flaw


def test_a_chain_leads_nowhere_if_its_root_is_not_pinned_for_this_technology(world: World) -> None:
    own = world.maker.root_certificate
    for roots in ([], [Root(Technology.SNP, None, False)], [Root(Technology.TDX, own, True)], [world.stranger.root]):
        with pytest.raises(NotGenuine) as refusal:
            verify_snp(world.report, world.collateral.encode(), roots, NOW)
        assert refusal.value.flaw is Flaw.ROOT
    with pytest.raises(NotGenuine, match="no root that is pinned"):
        pinned(published.ARK, [world.maker.root, Root(Technology.TDX, None, False)])


# Each bit


def test_every_byte_of_a_report_counts(world: World) -> None:
    chance = random.Random(0)
    for place in range(REPORT_BYTES):
        with pytest.raises(NotGenuine):
            world.verified(world.spoilt(place, 1 << chance.randrange(8)))


@pytest.mark.slow
def test_every_bit_of_a_report_counts(world: World) -> None:
    for place in range(8 * REPORT_BYTES):
        with pytest.raises(NotGenuine):
            world.verified(world.spoilt(place // 8, 1 << place % 8))


def spoilt_collateral(world: World, part: int, place: int) -> bytes:
    """With one bit turned over in a certificate (0 to 2) or in the list (3)."""
    parts = [*world.collateral.chain, world.collateral.revoked]
    data = bytearray(parts[part])
    data[place // 8] ^= 1 << place % 8
    parts[part] = bytes(data)
    return replace(world.collateral, chain=tuple(parts[:3]), revoked=parts[3]).encode()


def bits(world: World, part: int) -> int:
    return 8 * len([*world.collateral.chain, world.collateral.revoked][part])


@pytest.mark.parametrize("part", range(4), ids=["processor", "signer", "root", "list"])
def test_every_part_of_the_collateral_counts(world: World, part: int) -> None:
    ends = [*range(80), *range(bits(world, part) - 4200, bits(world, part) - 4000)]  # where nobody signs what is said
    for place in [*ends, *random.Random(part).sample(range(bits(world, part)), 100)]:
        with pytest.raises(NotGenuine):
            world.verified(collateral=spoilt_collateral(world, part, place))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4), ids=["processor", "signer", "root", "list"])
def test_every_bit_of_the_collateral_counts(world: World, part: int) -> None:
    for place in range(bits(world, part)):
        with pytest.raises(NotGenuine):
            world.verified(collateral=spoilt_collateral(world, part, place))


# Hardware


def test_a_report_of_real_hardware_is_verified_by_the_same_code() -> None:
    """All but the list of revoked certificates, of which none has been published beside it."""
    moment = 1_750_000_000
    report = SnpReport.parse(published.REPORT)
    chain = Chain.read((published.VCEK, published.ASK, published.ARK))
    chain.verify(moment)
    endorsement = Endorsement.read(chain.processor)
    verify_signature(report, chain, endorsement)
    assert (endorsement.product, endorsement.tcb) == ("Milan-B0", TcbVersion(4, 0, 24, 219))
    assert report.measurement.hex().startswith("5feee30d6d7e1a29")
    assert (report.version, report.vmpl, report.debug, report.migratable) == (3, 0, False, False)
    with pytest.raises(NotGenuine, match="not signed this report"):
        verify_signature(replace(report, guest_svn=3), chain, endorsement)
    with pytest.raises(NotGenuine, match="not valid any more"):
        chain.verify(moment + YEARS_8)
    with pytest.raises(NotGenuine, match="valid in"):
        chain.verify(moment - YEARS_8)


def test_processors_differ_and_each_is_itself_for_its_whole_life(world: World) -> None:
    later = NOW + PROCESSOR_SECONDS - DAY
    again = SnpPlatform.from_bytes(world.processor.to_bytes())
    papers = world.with_list(world.maker.revoked(later))
    assert world.verified(again.report(DATA, IMAGE), papers, later).serial == world.verified().serial
    neighbour = world.verified(world.neighbour.report(DATA, IMAGE), world.papers_of(world.neighbour))
    assert neighbour.serial != world.verified().serial
