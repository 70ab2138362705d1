"""What a quote has to be before its words count: every honest machine passes, every lie has its name."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import NamedTuple

import pytest

from decentral.attestation.report import Flaw, NotGenuine, Report, Root, Technology
from decentral.attestation.tdx import pem
from decentral.attestation.tdx.authority import FAMILY, MONTH, NEWEST, Level, Signer, TdxAuthority
from decentral.attestation.tdx.chains import Role, Span
from decentral.attestation.tdx.collateral import Collateral, time_text
from decentral.attestation.tdx.pck import Pck
from decentral.attestation.tdx.platform import SEPT_VE_DISABLE, TdxPlatform
from decentral.attestation.tdx.quote import TdxQuote
from decentral.attestation.tdx.verification import verify_tdx
from tests.attestation.tdx.machines import (
    AUTHORITY,
    BYTES,
    COLLATERAL,
    DAY,
    IMAGE,
    NOW,
    OTHERS,
    PLATFORM,
    QUOTE,
    REGISTERS,
    REPORT_DATA,
    flipped,
)

EARLY = AUTHORITY.ca.certificate.not_valid_before_utc.timestamp()
KEY = PLATFORM.key
PCK = Pck(bytes(16), bytes(16), FAMILY, NEWEST, 13)


class Try(NamedTuple):
    quote: bytes | TdxQuote = BYTES
    collateral: Collateral = COLLATERAL
    roots: Collection[Root] = (AUTHORITY.root,)
    now: int = NOW

    def verify(self) -> Report:
        quote = self.quote.encode() if isinstance(self.quote, TdxQuote) else self.quote
        return verify_tdx(quote, self.collateral.encode(), self.roots, self.now)


def guest(platform: TdxPlatform = PLATFORM, **options: object) -> bytes:
    return platform.quote(REPORT_DATA, IMAGE, REGISTERS, **options)  # type: ignore[arg-type]


def published(**options: object) -> Collateral:
    return AUTHORITY.collateral(NOW, **options)  # type: ignore[arg-type]


def processor(authority: TdxAuthority = AUTHORITY, secret: bytes = b"p" * 32, **options: object) -> TdxPlatform:
    return TdxPlatform.certified(authority, secret, **options)  # type: ignore[arg-type]


def among(**options: object) -> Try:
    """The honest quote, with something else published."""
    return Try(collateral=published(**options))


def with_parts(**parts: object) -> Try:
    """The honest quote, with parts of what is published replaced."""
    return Try(collateral=replace(COLLATERAL, **parts))  # type: ignore[arg-type]


def certified(signer: Signer) -> TdxPlatform:
    """The same processor with another certificate."""
    return processor(signer=signer)


def test_a_quote_of_a_simulated_processor_says_what_was_signed() -> None:
    report = Try().verify()
    assert report.root == AUTHORITY.root and report.simulated and report.technology is Technology.TDX
    assert (report.report_data, report.measurement, report.registers) == (REPORT_DATA, IMAGE, REGISTERS)
    assert (report.configuration, report.signer, report.debug) == (bytes(48), bytes(48), False)
    assert report.versions == tuple(QUOTE.report.tee_tcb_svn)
    assert (report.status, report.advisories) == ("UpToDate", ())
    assert (report.issued, report.expires) == (NOW, NOW + MONTH)
    assert int(report.serial, 16) == PLATFORM.serial


HONEST: dict[str, tuple[Try, str]] = {
    "on the last second": (Try(now=NOW + MONTH - 1), "UpToDate"),
    "one root of several": (Try(roots=[Root(Technology.TDX, None, False), OTHERS.root, AUTHORITY.root]), "UpToDate"),
    "another one revoked": (Try(collateral=published(revoked=[1], revoked_by_root=[2])), "UpToDate"),
    "old firmware": (Try(guest(processor(components=bytes([5]) + NEWEST[1:]))), "OutOfDate"),
    "old enclave for keys": (Try(guest(processor(pce_version=12))), "OutOfDate"),
    "hardening needed": (Try(collateral=published(levels=[Level(status="SWHardeningNeeded")])), "SWHardeningNeeded"),
    "configuration needed": (
        Try(collateral=published(levels=[Level(status="ConfigurationNeeded")])), "ConfigurationNeeded",
    ),
    "old quoting enclave": (
        Try(collateral=published(qe_identity={"tcbLevels": [
            {"tcb": {"isvsvn": 9}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"},
            {"tcb": {"isvsvn": 1}, "tcbDate": "2023-03-13T00:00:00Z", "tcbStatus": "OutOfDate"},
        ]})), "OutOfDate",
    ),
    "family in small letters": (Try(collateral=published(tcb_info={"fmspc": FAMILY.hex()})), "UpToDate"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_machine_passes_with_what_its_maker_thinks_of_it(name: str) -> None:
    attempt, status = HONEST[name]
    assert attempt.verify().status == status


def test_what_is_known_of_an_old_machine_is_told() -> None:
    report = HONEST["old firmware"][0].verify()
    assert report.advisories == ("SIMULATED-SA-00001",)


def test_the_makers_word_is_as_old_as_the_oldest_part_that_tells_of_processors() -> None:
    """Whoever shows it chooses the parts: levels of before a fault was known, beside a list of today."""
    old = time_text(NOW - 20 * DAY)
    for each in (
        published(tcb_info={"issueDate": old}),
        published(qe_identity={"issueDate": old}),
        published(lists=Span(NOW - 20 * DAY, NOW + DAY)),
    ):
        assert Try(collateral=each).verify().issued == NOW - 20 * DAY


def test_what_the_host_says_of_the_owner_is_nobodys_signature() -> None:
    assert Try(guest(owner=b"o" * 48)).verify().signer == bytes(48)


def test_evidence_expires_with_the_first_of_its_parts() -> None:
    signer = AUTHORITY.processor(KEY, PCK, span=Span(NOW - DAY, NOW + DAY))
    assert Try(guest(certified(signer))).verify().expires == NOW + DAY
    lists = published(lists=Span(NOW - DAY, NOW + 5))
    assert (Try(collateral=lists).verify().issued, Try(collateral=lists).verify().expires) == (NOW - DAY, NOW + 5)


PROCESSOR = AUTHORITY.processor(KEY, PCK)
DOCUMENTS = AUTHORITY.key("another that signs documents")
NEGATIVES: dict[str, tuple[Callable[[], Try], Flaw]] = {
    # the quote
    "nothing": (lambda: Try(b""), Flaw.MALFORMED),
    "a byte after the quote": (lambda: Try(BYTES + b"\0"), Flaw.MALFORMED),
    "another report data": (lambda: Try(changed_report(report_data=bytes(64))), Flaw.SIGNATURE),
    "another image": (lambda: Try(changed_report(mr_td=bytes(48))), Flaw.SIGNATURE),
    "another register": (lambda: Try(changed_report(registers=(*REGISTERS[:3], IMAGE))), Flaw.SIGNATURE),
    "debug taken away": (lambda: Try(changed_report(guest(debug=True))), Flaw.SIGNATURE),
    "another host": (lambda: Try(replace(QUOTE, user_data=bytes(20))), Flaw.SIGNATURE),
    "another signature": (lambda: Try(replace(QUOTE, signature=bytes(64))), Flaw.SIGNATURE),
    "another attestation key": (lambda: Try(replace(QUOTE, attestation_key=STRANGER.attestation_key)), Flaw.SIGNATURE),
    "a whole quote under a stranger's attestation key": (lambda: Try(grafted()), Flaw.SIGNATURE),
    "another quoting enclave's data": (lambda: Try(replace(QUOTE, qe_data=bytes(32))), Flaw.SIGNATURE),
    "another signature of the enclave": (lambda: Try(replace(QUOTE, qe_signature=bytes(64))), Flaw.SIGNATURE),
    "another processor's certificate": (lambda: Try(replace(QUOTE, chain=STRANGER.chain)), Flaw.SIGNATURE),
    # the guest
    "debug": (lambda: Try(guest(debug=True)), Flaw.DEBUG),
    "reserved attribute": (lambda: Try(guest(attributes=SEPT_VE_DISABLE | 2)), Flaw.NOT_CANONICAL),
    "another reserved attribute": (lambda: Try(guest(attributes=SEPT_VE_DISABLE | 1 << 40)), Flaw.NOT_CANONICAL),
    "pages can be taken away": (lambda: Try(guest(attributes=0)), Flaw.STATUS),
    # the chain
    "no root": (lambda: Try(replace(QUOTE, chain=QUOTE.chain[:2])), Flaw.CERTIFICATE),
    "the processor alone": (lambda: Try(replace(QUOTE, chain=QUOTE.chain[:1])), Flaw.CERTIFICATE),
    "issuer first": (lambda: Try(chained(1, 0, 2)), Flaw.CERTIFICATE),
    "the issuer twice": (lambda: Try(chained(1, 1, 2)), Flaw.CERTIFICATE),
    "the root as issuer": (lambda: Try(chained(0, 2, 2)), Flaw.CERTIFICATE),
    "a CA as processor": (lambda: Try(guest(certified(leaf(path=0)))), Flaw.CERTIFICATE),
    "a processor that may not sign": (lambda: Try(guest(certified(leaf(signing=False)))), Flaw.CERTIFICATE),
    "a processor of another name": (lambda: Try(guest(certified(leaf(Role.SIGNING)))), Flaw.CERTIFICATE),
    "a processor that says nothing": (lambda: Try(guest(certified(leaf(extensions=())))), Flaw.CERTIFICATE),
    "a processor that the root issued": (lambda: Try(guest(certified(leaf(above=AUTHORITY.ca)))), Flaw.CERTIFICATE),
    "a processor of another maker": (lambda: Try(guest(certified(leaf(above=OTHERS.platforms)))), Flaw.SIGNATURE),
    "a processor that was certified too long ago": (lambda: Try(lasting(NOW - DAY, NOW)), Flaw.EXPIRED),
    "a processor that will be certified": (lambda: Try(lasting(NOW + 1, NOW + DAY)), Flaw.FUTURE),
    # roots
    "no root pinned": (lambda: Try(roots=()), Flaw.ROOT),
    "another root pinned": (lambda: Try(roots=[OTHERS.root]), Flaw.ROOT),
    "the maker's root alone": (lambda: Try(roots=[Root(Technology.TDX, None, False)]), Flaw.ROOT),
    "the root of another maker": (lambda: Try(roots=[Root(Technology.SNP, AUTHORITY.ca.der, True)]), Flaw.ROOT),
    "a stranger's root in the quote": (lambda: Try(replace(QUOTE, chain=(*QUOTE.chain[:2], OTHERS.ca.der))), Flaw.ROOT),
    "a stranger's quote": (lambda: Try(guest(processor(OTHERS))), Flaw.ROOT),
    "a stranger's collateral": (lambda: Try(collateral=OTHERS.collateral(NOW)), Flaw.COLLATERAL),
    "a stranger's documents": (lambda: Try(collateral=documents_of_others()), Flaw.ROOT),
    # time
    "collateral of the future": (lambda: Try(now=NOW - 1), Flaw.FUTURE),
    "before any certificate": (lambda: Try(now=int(EARLY) - 1), Flaw.FUTURE),
    "collateral too old": (lambda: Try(now=NOW + MONTH), Flaw.EXPIRED),
    "lists of the future": (lambda: among(lists=Span(NOW + 1, NOW + DAY)), Flaw.FUTURE),
    "lists too old": (lambda: among(lists=Span(NOW - DAY, NOW)), Flaw.EXPIRED),
    "levels of the future": (lambda: among(tcb_info={"issueDate": LATER}), Flaw.FUTURE),
    "levels too old": (lambda: among(tcb_info={"nextUpdate": BEFORE}), Flaw.EXPIRED),
    "enclaves of the future": (lambda: among(qe_identity={"issueDate": LATER}), Flaw.FUTURE),
    "enclaves too old": (lambda: among(qe_identity={"nextUpdate": BEFORE}), Flaw.EXPIRED),
    "who signs documents no longer may": (lambda: among(signer=signs(span=Span(5, NOW))), Flaw.EXPIRED),
    # the revoked
    "a revoked processor": (lambda: among(revoked=[PLATFORM.serial]), Flaw.REVOKED),
    "a revoked issuer": (lambda: revoked_by_root(AUTHORITY.platforms), Flaw.REVOKED),
    "who signs documents is revoked": (lambda: revoked_by_root(AUTHORITY.documents), Flaw.REVOKED),
    "a revoked root": (lambda: revoked_by_root(AUTHORITY.ca), Flaw.REVOKED),
    "no list": (lambda: with_parts(pck_crl=b""), Flaw.MALFORMED),
    "the list of the root twice": (lambda: with_parts(pck_crl=COLLATERAL.root_ca_crl), Flaw.COLLATERAL),
    "an unsigned list": (lambda: with_parts(pck_crl=flipped(COLLATERAL.pck_crl, -1)), Flaw.SIGNATURE),
    "an unsigned list of the root": (lambda: with_parts(root_ca_crl=UNSIGNED), Flaw.SIGNATURE),
    "the list of another issuer": (lambda: among(issuers=another_issuer()), Flaw.COLLATERAL),
    # roles
    "documents that a processor signs": (lambda: among(signer=PROCESSOR), Flaw.CERTIFICATE),
    "documents that the issuer signs": (lambda: among(signer=AUTHORITY.platforms), Flaw.CERTIFICATE),
    "documents that any child of the root signs": (lambda: among(signer=signs(name="Any")), Flaw.CERTIFICATE),
    "documents by a key that is not for signing": (lambda: among(signer=signs(signing=False)), Flaw.CERTIFICATE),
    "documents by one that the issuer made": (lambda: among(signer=signs(AUTHORITY.platforms)), Flaw.CERTIFICATE),
    "nobody above the documents": (lambda: with_parts(tcb_info_issuer_chain=""), Flaw.CERTIFICATE),
    "three above the documents": (lambda: with_parts(qe_identity_issuer_chain=THREE), Flaw.CERTIFICATE),
    # documents
    "levels that nobody signed": (lambda: with_parts(tcb_info=FLATTERED), Flaw.SIGNATURE),
    "enclaves that nobody signed": (lambda: with_parts(qe_identity=LENIENT), Flaw.SIGNATURE),
    "one signature for both": (lambda: with_parts(qe_identity_signature=COLLATERAL.tcb_info_signature), Flaw.SIGNATURE),
    "documents that say nothing": (lambda: with_parts(tcb_info="{}"), Flaw.COLLATERAL),
    "documents that are no text": (lambda: with_parts(tcb_info=NO_TEXT), Flaw.COLLATERAL),
    "levels of another family": (lambda: among(tcb_info={"fmspc": "00906ED50000"}), Flaw.COLLATERAL),
    "levels for another enclave": (lambda: among(tcb_info={"pceId": "0001"}), Flaw.COLLATERAL),
    "levels of SGX": (lambda: among(tcb_info={"id": "SGX"}), Flaw.COLLATERAL),
    "levels of an old version": (lambda: among(tcb_info={"version": 2}), Flaw.COLLATERAL),
    "enclaves of SGX": (lambda: among(qe_identity={"id": "QE"}), Flaw.COLLATERAL),
    "another maker of enclaves": (lambda: among(qe_identity={"mrsigner": "00" * 32}), Flaw.COLLATERAL),
    "another enclave": (lambda: among(qe_identity={"isvprodid": 1}), Flaw.COLLATERAL),
    # what the maker thinks of it
    "a revoked level": (lambda: among(levels=[Level(status="Revoked")]), Flaw.STATUS),
    "older than any level": (lambda: Try(guest(processor(pce_version=1))), Flaw.STATUS),
    "a module older than any level": (lambda: Try(guest(module=bytes([4, 1, 4]) + bytes(13))), Flaw.STATUS),
    "an unknown module": (lambda: Try(guest(module=bytes([6, 3, 4]) + bytes(13))), Flaw.STATUS),
    "a word that no maker has": (lambda: among(levels=[Level(status="Splendid")]), Flaw.COLLATERAL),
}  # fmt: skip
STRANGER = TdxQuote.parse(guest(processor(secret=b"s" * 32)))
NO_TEXT = COLLATERAL.tcb_info[:-1] + ',"more":"\ud800"}'
UNSIGNED = flipped(COLLATERAL.root_ca_crl, -1)
THREE = COLLATERAL.qe_identity_issuer_chain + pem.written(QUOTE.chain[2:])
FLATTERED = COLLATERAL.tcb_info.replace("OutOfDate", "UpToDate")
LENIENT = COLLATERAL.qe_identity.replace('"isvsvn":4', '"isvsvn":1')
LATER, BEFORE = time_text(NOW + 1), time_text(NOW)


def changed_report(data: bytes = BYTES, **parts: object) -> TdxQuote:
    found = TdxQuote.parse(data)
    parts = parts or {"attributes": QUOTE.report.attributes}
    return replace(found, report=replace(found.report, **parts))  # type: ignore[arg-type]


def grafted() -> TdxQuote:
    """What another processor signs for a guest, with the certificate of this one."""
    return replace(STRANGER, qe_report=QUOTE.qe_report, qe_signature=QUOTE.qe_signature, chain=QUOTE.chain)


def chained(*places: int) -> TdxQuote:
    return replace(QUOTE, chain=tuple(QUOTE.chain[place] for place in places))


def leaf(role: Role = Role.PROCESSOR, above: Signer = AUTHORITY.platforms, **options: object) -> Signer:
    return above.issue(KEY, role.value, serial=77, **{"extensions": (PCK.extension(),), **options})  # type: ignore[arg-type]


def lasting(begin: int, end: int) -> bytes:
    return guest(certified(AUTHORITY.processor(KEY, PCK, span=Span(begin, end))))


def signs(above: Signer = AUTHORITY.ca, name: str = Role.SIGNING.value, **options: object) -> Signer:
    return above.issue(DOCUMENTS, name, serial=5, **options)  # type: ignore[arg-type]


def another_issuer() -> Signer:
    return AUTHORITY.ca.issue(AUTHORITY.key("another issuer"), Role.PLATFORM.value, serial=9, path=0)


def documents_of_others() -> Collateral:
    others = OTHERS.collateral(NOW)
    names = [name for name in Collateral.__slots__ if name.startswith(("tcb", "qe"))]
    return replace(COLLATERAL, **{name: getattr(others, name) for name in names})


def revoked_by_root(signer: Signer) -> Try:
    return Try(collateral=published(revoked_by_root=[signer.certificate.serial_number]))


@pytest.mark.parametrize("name", NEGATIVES)
def test_what_is_not_as_it_should_be_is_refused_by_its_name(name: str) -> None:
    attempt, flaw = NEGATIVES[name]
    with pytest.raises(NotGenuine) as refused:
        attempt().verify()
    assert refused.value.flaw is flaw, str(refused.value)


WARNED = pytest.mark.filterwarnings("ignore::UserWarning")
"""Of certificates with a bit changed: cryptography warns of odd ones before their signature is looked at."""


def survives(quote: bytes, collateral: bytes) -> bool:
    try:
        verify_tdx(quote, collateral, [AUTHORITY.root], NOW)
    except NotGenuine:
        return False
    return True


@WARNED
def test_no_byte_of_a_quote_can_be_changed() -> None:
    """One bit of each, by a seed."""
    chance, collateral = random.Random(7), COLLATERAL.encode()
    places = range(len(BYTES))
    assert [place for place in places if survives(flipped(BYTES, place, chance.randrange(8)), collateral)] == []


@WARNED
@pytest.mark.slow
def test_no_bit_of_a_quote_can_be_changed() -> None:
    collateral = COLLATERAL.encode()
    places = [(place, bit) for place in range(len(BYTES)) for bit in range(8)]
    assert [(place, bit) for place, bit in places if survives(flipped(BYTES, place, bit), collateral)] == []


@WARNED
@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_no_byte_of_what_is_published_can_be_changed(step: int) -> None:
    chance, collateral = random.Random(8), COLLATERAL.encode()
    places = range(0, len(collateral), step)
    assert [place for place in places if survives(BYTES, flipped(collateral, place, chance.randrange(8)))] == []
