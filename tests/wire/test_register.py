"""What an authority rules is in its folder, in one notice that only ever grows in number."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from decentral.errors import Malformed, Refusal, UserError
from decentral.wire import register
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials, issued_by
from decentral.wire.enrolment import grant
from decentral.wire.identity import Identity
from decentral.wire.issuing import VALIDITY
from decentral.wire.messages import PeerId
from decentral.wire.notice import FILE, Ruling, read_notice
from decentral.wire.register import ISSUED, NEXT, VOICE, Register

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")
NOW = int(time.time())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority")


@pytest.fixture
def ruling(authority: Authority) -> Register:
    return authority.register


def test_before_anything_is_ruled_there_is_no_notice_and_everybody_counts(ruling: Register) -> None:
    assert ruling.notice is None and ruling.signed == b"" and not ruling.admitted.barred(ALICE.id)
    assert [issuer.der for issuer in ruling.issuers] == [ruling.voice.der]


def test_every_ruling_is_a_notice_of_a_higher_number_with_all_that_was_ruled_before(ruling: Register) -> None:
    said = [ruling.renew([ALICE.id, BOB.id], NOW), ruling.refuse([BOB.id], NOW), ruling.revoke(ALICE.id, NOW, "stolen")]
    assert [notice.sequence for notice in said] == [1, 2, 3]
    assert said[-1].of(ALICE.id) == Ruling(ALICE.id, NOW, 0, NOW, "stolen")
    assert said[-1].of(BOB.id) == Ruling(BOB.id, NOW, NOW)
    assert read_notice(ruling.signed, ruling.voice.pem) == ruling.notice == said[-1]
    assert (ruling.folder / FILE).stat().st_mode & 0o077 == 0


def test_of_two_revocations_the_earlier_time_holds_and_none_is_taken_back(ruling: Register) -> None:
    ruling.revoke(ALICE.id, NOW, "first")
    assert ruling.revoke(ALICE.id, NOW - 50).of(ALICE.id) == Ruling(ALICE.id, revoked=NOW - 50, reason="first")
    assert ruling.revoke(ALICE.id, NOW + 50).of(ALICE.id).revoked == NOW - 50
    assert ruling.revoke(BOB.id, 0).of(BOB.id).revoked > 0


def test_what_is_ruled_of_certificates_that_have_expired_is_forgotten_and_revocations_are_not(
    ruling: Register,
) -> None:
    long_ago = NOW - 30 * 24 * 3600
    ruling.refuse([ALICE.id], long_ago)
    ruling.revoke(BOB.id, long_ago)
    notice = ruling.refuse([PeerId("a" * 52)], NOW)
    assert {each.peer for each in notice.rulings} == {BOB.id, "a" * 52}


def test_no_more_is_ruled_than_anybody_reads(ruling: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "MOST_RULINGS", 1)
    ruling.revoke(ALICE.id, NOW)
    with pytest.raises(UserError, match="on no more"):
        ruling.revoke(BOB.id, NOW)
    assert ruling.notice is not None and ruling.notice.sequence == 1


def test_a_damaged_notice_is_named_and_nothing_is_granted_beside_it(authority: Authority) -> None:
    authority.register.revoke(ALICE.id, NOW)
    (authority.register.folder / FILE).write_bytes(b"nonsense")
    with pytest.raises(UserError, match=FILE):
        grant(authority, BOB)


def test_who_was_revoked_gets_no_certificate_and_others_do(authority: Authority) -> None:
    assert grant(authority, ALICE).peer == ALICE.id
    authority.register.revoke(ALICE.id, NOW)
    with pytest.raises(Malformed) as refused:
        grant(authority, ALICE)
    assert refused.value.reason is Refusal.REVOKED and grant(authority, BOB).peer == BOB.id


def test_the_newest_certificate_of_everybody_is_written_down(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "MOST_ISSUED", 400)
    for _ in range(5):
        shown, other = grant(authority, ALICE), grant(authority, BOB)
    issued = authority.register.issued()
    for who, credentials in ((ALICE, shown), (BOB, other)):
        assert issued[who.id].serial == f"{x509.load_pem_x509_certificate(credentials.certificate).serial_number:x}"
        assert issued[who.id].issued == credentials.issued
    assert len((authority.register.folder / ISSUED).read_text().splitlines()) < 10
    (authority.register.folder / ISSUED).write_text("{}\n")
    with pytest.raises(UserError, match=f"{ISSUED}:1"):
        authority.register.issued()


# Another authority


def test_one_authority_takes_over_from_another_in_three_notices(
    authority: Authority, certify: Callable[..., Credentials]
) -> None:
    ruling, old = authority.register, authority.register.voice
    before = certify(authority, ALICE)
    named = ruling.name_successor()
    new = ruling.issuers[1]
    assert (named.authorities, ruling.successor) == ((old.der, new.der), "named")
    assert authority.pem == old.pem + new.pem and issued(certify(authority, ALICE), old)

    taken = ruling.take_over(NOW)
    assert (taken.authorities, taken.renew, ruling.successor) == ((new.der, old.der), NOW, "issues")
    assert read_notice(ruling.signed, old.pem) == taken, "who knows the old one alone still reads it"
    assert ruling.voice.der == old.der and issued(certify(authority, ALICE), new)
    authority.renewable(x509_of(before), request(ALICE))

    alone = ruling.drop_predecessor()
    assert (alone.authorities, alone.refuse, ruling.successor) == ((new.der,), NOW, "")
    assert ruling.voice.der == new.der and authority.pem == new.pem and not (ruling.folder / NEXT).exists()
    assert read_notice(ruling.signed, new.pem) == alone
    with pytest.raises(Malformed):
        authority.renewable(x509_of(before), request(ALICE))
    assert ruling.name_successor().sequence == 4


def test_an_authority_takes_over_once(ruling: Register) -> None:
    with pytest.raises(UserError, match="no other authority"):
        ruling.drop_predecessor()
    ruling.name_successor()
    with pytest.raises(UserError, match="already"):
        ruling.name_successor()


def test_whoever_is_interrupted_between_two_files_goes_on_where_it_was(
    ruling: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruling.name_successor()
    ruling.take_over(NOW)
    new = ruling.issuers[0]

    def killed(self: Path, target: Path) -> None:
        if self.name == NEXT:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        real = Path.replace
        patched.setattr(Path, "replace", lambda self, to: killed(self, to) or real(self, to))
        ruling.drop_predecessor()
    assert (ruling.folder / NEXT).exists() and ruling.voice.der == new.der
    notice = ruling.revoke(BOB.id, NOW)
    assert notice.sequence == 4 and not (ruling.folder / NEXT).exists()
    assert Register(ruling.folder).voice.der == new.der and (ruling.folder / VOICE).stat().st_mode & 0o077 == 0


def issued(credentials: Credentials, by: register.Issuer) -> bool:
    return issued_by(x509.load_pem_x509_certificate(credentials.certificate), by.certificate)


def x509_of(credentials: Credentials) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(credentials.certificate).public_bytes(Encoding.DER)


def request(identity: Identity) -> bytes:
    from decentral.wire.certificate import new_key, request_certificate

    return request_certificate(identity, new_key(), time.time() + VALIDITY.total_seconds())


def test_a_stolen_key_is_certified_no_more_once_keys_are_to_be_new(authority: Authority) -> None:
    from decentral.wire.certificate import new_key, request_certificate

    ruling = authority.register
    stolen = request_certificate(ALICE, new_key(), NOW - 1 + VALIDITY.total_seconds())
    first = authority.issue(stolen)
    authority.renewable(first, stolen)
    ruling.renew([ALICE.id], NOW)
    newer = authority.issue(request(ALICE))
    for shown in (first, newer):  # which anybody has seen who has dialled its peer
        authority.renewable(shown, request(ALICE))
        with pytest.raises(Malformed) as refused:
            authority.renewable(shown, stolen)
        assert refused.value.reason is Refusal.EXPIRED
    ruling.refuse([ALICE.id], NOW)
    authority.renewable(newer, request(ALICE))
    with pytest.raises(Malformed, match="is to be replaced"):
        authority.renewable(newer, stolen)


def test_who_reads_while_an_authority_is_replaced_reads_again(
    ruling: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between one file and the next somebody drops the predecessor, as a grant in another process would find it."""
    ruling.name_successor()
    ruling.take_over(NOW)
    new, load, dropped = ruling.issuers[0], register.Issuer.load, []

    def loaded(file: Path) -> register.Issuer:
        found = load(file)
        if file.name == VOICE and not dropped:
            dropped.append(True)
            ruling.drop_predecessor()
        return found

    monkeypatch.setattr(register.Issuer, "load", loaded)
    reader = Register(ruling.folder)
    assert [issuer.der for issuer in reader.issuers] == [new.der] and dropped
    assert reader.notice is not None and reader.notice.sequence == 3
