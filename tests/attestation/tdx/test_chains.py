"""Each certificate has its one place, each list its issuer, and both have their time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.tdx.authority import Signer
from decentral.attestation.tdx.chains import Role, Span, certificate, revoked
from tests.attestation.tdx.machines import AUTHORITY, NOW, OTHERS, flipped

ROOT = certificate(AUTHORITY.ca.der, [Role.ROOT], None)
KEY = AUTHORITY.key("one that is tried")


def signing(name: str = Role.SIGNING.value, **options: object) -> Signer:
    return AUTHORITY.ca.issue(KEY, name, serial=5, **options)  # type: ignore[arg-type]


def flaw_of(act: Callable[[], object]) -> Flaw:
    with pytest.raises(NotGenuine) as refused:
        act()
    return refused.value.flaw


def test_a_certificate_in_its_place_is_taken() -> None:
    found = certificate(signing().der, [Role.PROCESSOR, Role.SIGNING], ROOT)
    assert (found.role, found.serial) == (Role.SIGNING, 5)
    assert found.span.begin < NOW < found.span.end


@pytest.mark.parametrize(
    ("der", "flaw"),
    {
        "no certificate": (b"", Flaw.MALFORMED),
        "a byte more": (signing().der + b"\0", Flaw.MALFORMED),
        "another name": (signing(Role.PROCESSOR.value).der, Flaw.CERTIFICATE),
        "not for signing": (signing(signing=False).der, Flaw.CERTIFICATE),
        "a CA": (signing(path=0).der, Flaw.CERTIFICATE),
        "of another issuer": (AUTHORITY.platforms.issue(KEY, Role.SIGNING.value, serial=5).der, Flaw.CERTIFICATE),
        "of another root": (OTHERS.ca.issue(KEY, Role.SIGNING.value, serial=5).der, Flaw.SIGNATURE),
        "another signature": (flipped(signing().der, -1), Flaw.SIGNATURE),
        "another key's curve": (
            AUTHORITY.ca.issue(ec.generate_private_key(ec.SECP384R1()), Role.SIGNING.value, serial=5).der,
            Flaw.CERTIFICATE,
        ),
    }.values(),
)
def test_a_certificate_out_of_its_place_is_refused(der: bytes, flaw: Flaw) -> None:
    assert flaw_of(lambda: certificate(der, [Role.SIGNING], ROOT)) is flaw


def test_a_root_signs_itself_and_may_sign_others() -> None:
    assert ROOT.role is Role.ROOT
    assert flaw_of(lambda: certificate(AUTHORITY.platforms.der, [Role.ROOT], None)) is Flaw.CERTIFICATE
    leaf = AUTHORITY.ca.issue(KEY, Role.PLATFORM.value, serial=5).der
    assert flaw_of(lambda: certificate(leaf, [Role.PLATFORM], ROOT)) is Flaw.CERTIFICATE


SPAN = Span(NOW, NOW + 10)
HONEST = AUTHORITY.ca.revoke([7], SPAN)


@pytest.mark.parametrize(
    ("der", "flaw"),
    {
        "no list": (b"", Flaw.MALFORMED),
        "of another issuer": (AUTHORITY.platforms.revoke([7], SPAN), Flaw.COLLATERAL),
        "of another root": (OTHERS.ca.revoke([7], SPAN), Flaw.SIGNATURE),
        "another signature": (flipped(HONEST, -1), Flaw.SIGNATURE),
    }.values(),
)
def test_a_list_that_the_issuer_has_not_signed_is_refused(der: bytes, flaw: Flaw) -> None:
    assert flaw_of(lambda: revoked(der, ROOT)) is flaw


def test_what_is_on_the_list_is_refused_and_what_is_not_passes() -> None:
    found = revoked(AUTHORITY.ca.revoke([5], SPAN), ROOT)
    found.check([ROOT])
    assert flaw_of(lambda: found.check([ROOT, certificate(signing().der, [Role.SIGNING], ROOT)])) is Flaw.REVOKED


def test_a_span_holds_from_its_first_second_up_to_the_one_after_its_last() -> None:
    SPAN.check(NOW, "it")
    SPAN.check(NOW + 9, "it")
    assert flaw_of(lambda: SPAN.check(NOW - 1, "it")) is Flaw.FUTURE
    assert flaw_of(lambda: SPAN.check(NOW + 10, "it")) is Flaw.EXPIRED
