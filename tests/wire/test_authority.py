"""Who gets a certificate, for how long, and what even the authority cannot do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from decentral.errors import Malformed, Refusal, Refused, Unreachable, UserError
from decentral.wire import rpc
from decentral.wire.authority import AUTHORITY_NAME, ENROL, MAX_MESSAGE, Authority, JoinToken, _Nonces
from decentral.wire.certificate import (
    BINDING_OID,
    Credentials,
    bind,
    host_name,
    new_key,
    peer_id_of,
    private_pem,
    request_certificate,
    subject,
)
from decentral.wire.enrolment import enrol, renew
from decentral.wire.identity import Identity
from decentral.wire.v1 import authority_pb2 as pb

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")


def pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


def later(seconds: float) -> float:
    return time.time() + seconds


def test_an_authority_is_private_and_comes_back(folder: Path) -> None:
    made = Authority.create(folder / "authority")
    assert (folder / "authority").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (folder / "authority").iterdir()} == {0o600}
    assert Authority.load(folder / "authority").pem == made.pem
    with pytest.raises(UserError, match="already"):
        Authority.create(folder / "authority")


def test_a_missing_readable_or_damaged_authority_is_not_used(folder: Path) -> None:
    with pytest.raises(UserError):
        Authority.load(folder / "authority")
    first, second = Authority.create(folder / "authority"), Authority.create(folder / "other")
    key = folder / "authority" / "authority.pem"
    whole = key.read_bytes()
    key.chmod(0o644)
    with pytest.raises(UserError, match="other users"):
        Authority.load(folder / "authority")
    key.chmod(0o600)
    for damaged in (b"", whole[:300], second.pem + whole[len(first.pem) :]):
        key.write_bytes(damaged)
        with pytest.raises(UserError):
            Authority.load(folder / "authority")


async def test_a_joiner_with_a_token_gets_credentials_that_last(folder: Path) -> None:
    authority = Authority.create(folder / "authority")
    async with authority.serve("127.0.0.1:0") as address:
        token = JoinToken.parse(str(authority.token()))
        credentials = await enrol(address, token, ALICE)
    assert credentials.peer == peer_id_of(credentials.certificate) == ALICE.id
    assert later(6 * 86400) < credentials.expires < later(8 * 86400)
    credentials.save(folder)
    assert Credentials.load(folder) == credentials
    assert {(folder / name).stat().st_mode & 0o777 for name in ("tls.pem", "authority.pem")} == {0o600}
    (folder / "tls.pem").write_bytes(credentials.certificate + private_pem(new_key()))
    with pytest.raises(UserError, match="enrol this peer again"):
        Credentials.load(folder)


async def test_a_wrong_used_or_expired_token_gets_nothing(folder: Path) -> None:
    authority = Authority.create(folder / "authority")
    async with authority.serve("127.0.0.1:0") as address:
        token, expired = authority.token(uses=2), authority.token(valid_seconds=-1.0)
        wrong = JoinToken(bytes(32), token.authority)
        assert (await enrol(address, token, ALICE)).peer == ALICE.id
        assert (await enrol(address, token, BOB)).peer == BOB.id
        for lie, reason in ((token, Refusal.TOKEN), (wrong, Refusal.TOKEN), (expired, Refusal.EXPIRED)):
            with pytest.raises(Refused) as refused:
                await enrol(address, lie, ALICE)
            assert refused.value.reason is reason


async def test_tokens_outlive_the_process_and_are_stored_as_digests(folder: Path) -> None:
    token = Authority.create(folder / "authority").token()
    stored = (folder / "authority" / "tokens.json").read_text()
    assert token.secret.hex() not in stored
    assert json.loads(stored)[0]["digest"] == hashlib.sha256(token.secret).hexdigest()
    async with Authority.load(folder / "authority").serve("127.0.0.1:0") as address:
        assert (await enrol(address, token, ALICE)).peer == ALICE.id


@pytest.mark.parametrize("text", ["", "token", "ä", "A" * 600])
def test_a_damaged_token_is_the_users_error(text: str) -> None:
    with pytest.raises(UserError, match="join token"):
        JoinToken.parse(text)


async def test_a_joiner_trusts_the_pinned_authority_only(folder: Path, foreign_authority: Authority) -> None:
    authority = Authority.create(folder / "authority")
    async with authority.serve("127.0.0.1:0") as address:
        pinned_elsewhere = JoinToken(authority.token().secret, foreign_authority.token().authority)
        with pytest.raises(Unreachable):
            await enrol(address, pinned_elsewhere, ALICE)
    with pytest.raises(Unreachable):
        await enrol(address, authority.token(), ALICE)  # it has gone


async def test_a_renewal_needs_the_same_identitys_valid_certificate(
    folder: Path, foreign_authority: Authority, certify: Callable[..., Credentials]
) -> None:
    authority = Authority.create(folder / "authority")
    current, past = certify(authority, ALICE), certify(authority, ALICE, timedelta(seconds=-1))
    foreign = certify(foreign_authority, ALICE)
    async with authority.serve("127.0.0.1:0") as address:
        renewed = await renew(address, current, ALICE)
        assert renewed.peer == ALICE.id
        assert renewed.key != current.key
        not_ours = Credentials(foreign.certificate, foreign.key, authority.pem)
        lies = [(current, BOB, Refusal.SIGNATURE), (past, ALICE, Refusal.EXPIRED), (not_ours, ALICE, Refusal.SIGNATURE)]
        for credentials, identity, reason in lies:
            with pytest.raises(Refused) as refused:
                await renew(address, credentials, identity)
            assert refused.value.reason is reason


def request_with(identity: Identity, *, bound: Any, signed: Any, expires: float = 3600.0) -> bytes:
    """A request signed by one TLS key, whose binding is of perhaps another."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(identity.id))
    builder = builder.add_extension(bind(identity, bound.public_key(), later(expires)), critical=False)
    return builder.sign(signed, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_a_request_is_granted_for_its_own_key_only(authority: Authority) -> None:
    key = new_key()
    honest = request_with(ALICE, bound=key, signed=key)
    assert peer_id_of(pem(authority.issue(honest))) == ALICE.id
    unbound = x509.CertificateSigningRequestBuilder().subject_name(subject(ALICE.id)).sign(key, hashes.SHA256())
    position = honest.index(ALICE.public_key)
    lies = {
        request_with(ALICE, bound=new_key(), signed=key): Refusal.SIGNATURE,
        unbound.public_bytes(serialization.Encoding.DER): Refusal.SIGNATURE,
        honest[:position] + BOB.public_key + honest[position + 32 :]: Refusal.SIGNATURE,
        request_with(ALICE, bound=key, signed=key, expires=-10.0): Refusal.EXPIRED,
        honest[:-1]: Refusal.MALFORMED,
        b"": Refusal.MALFORMED,
    }
    for csr, reason in lies.items():
        with pytest.raises(Malformed) as malformed:
            authority.issue(csr)
        assert malformed.value.reason is reason


def test_a_certificate_never_outlives_the_identitys_binding(authority: Authority) -> None:
    certificate = pem(authority.issue(request_certificate(ALICE, new_key(), later(60.0)), timedelta(days=7)))
    assert peer_id_of(certificate) == ALICE.id
    for moment in (later(90.0), later(-3600.0)):
        with pytest.raises(Malformed) as malformed:
            peer_id_of(certificate, moment)
        assert malformed.value.reason is Refusal.EXPIRED


def test_the_authority_cannot_speak_for_a_peer(authority: Authority) -> None:
    """It can sign any certificate, but the binding inside has to be the identity's own."""
    key = new_key()
    honest = bind(ALICE, key.public_key(), later(3600.0))
    forged = x509.UnrecognizedExtension(BINDING_OID, honest.value[:-64] + bytes(64))
    bobs = bind(BOB, key.public_key(), later(3600.0))

    def signed(name: str, *extensions: x509.ExtensionType, tls_key: Any = key) -> bytes:
        return pem(
            authority.register.voice.leaf(name, host_name(name), tls_key.public_key(), timedelta(days=1), *extensions)
        )

    assert peer_id_of(signed(ALICE.id, honest)) == ALICE.id
    for certificate in (
        signed(ALICE.id, forged),
        signed(ALICE.id),
        signed(ALICE.id, bobs),
        signed(BOB.id, honest),
        signed(ALICE.id, honest, tls_key=new_key()),
        authority.pem,
        b"",
        b"-----BEGIN CERTIFICATE-----\n",
    ):
        with pytest.raises(Malformed) as malformed:
            peer_id_of(certificate)
        assert malformed.value.reason is Refusal.SIGNATURE


class Machines:
    """An authority's judge of evidence that says for which nonce and key it was made, and by which machine."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, str]] = []

    async def vouch(self, nonce: bytes, key: bytes, peer: str, evidence: bytes) -> None:
        if evidence != b"counts" + nonce + key:
            raise Malformed(Refusal.SIGNATURE, "its machine does not count")
        self.seen.append((nonce, peer))


async def shown(nonce: bytes, key: bytes) -> bytes:
    return b"counts" + nonce + key


async def test_an_authority_that_asks_for_evidence_certifies_the_key_that_it_was_made_for(folder: Path) -> None:
    authority, machines = Authority.create(folder / "authority"), Machines()
    async with authority.serve("127.0.0.1:0", vouch=machines.vouch) as address:
        credentials = await enrol(address, authority.token(), ALICE, show=shown)
        renewed = await renew(address, credentials, ALICE, show=shown)
    assert peer_id_of(renewed.certificate) == ALICE.id
    (first, one), (second, other) = machines.seen
    assert first != second
    assert one == other == ALICE.id


async def test_without_evidence_that_counts_nothing_is_granted_or_used_up(folder: Path) -> None:
    authority = Authority.create(folder / "authority")
    token = authority.token()

    async def another(nonce: bytes, key: bytes) -> bytes:
        return b"counts" + nonce + key[:-1] + b"?"

    async def none(nonce: bytes, key: bytes) -> bytes:
        return b""

    async with authority.serve("127.0.0.1:0", vouch=Machines().vouch) as address:
        for show, reason in ((None, Refusal.STALE), (another, Refusal.SIGNATURE), (none, Refusal.SIGNATURE)):
            with pytest.raises(Refused) as refused:
                await enrol(address, token, ALICE, show=show)
            assert refused.value.reason is reason
        credentials = await enrol(address, token, ALICE, show=shown)
        with pytest.raises(Refused):
            await renew(address, credentials, ALICE)


async def test_a_nonce_counts_once_and_for_a_minute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.create(folder / "authority")
    kept: list[bytes] = []

    async def again(nonce: bytes, key: bytes) -> bytes:
        kept.append(nonce)
        return await shown(nonce, key)

    async with authority.serve("127.0.0.1:0", vouch=Machines().vouch) as address:
        await enrol(address, authority.token(), ALICE, show=again)
        csr = request_certificate(ALICE, new_key(), later(60.0))
        request = pb.EnrolRequest(csr=csr, token=authority.token().secret, nonce=kept[0], evidence=b"counts")
        assert await raw(address, authority, request) is Refusal.STALE
        monkeypatch.setattr("decentral.wire.authority.NONCE_SECONDS", -1.0)
        with pytest.raises(Refused) as refused:
            await enrol(address, authority.token(), ALICE, show=again)
        assert refused.value.reason is Refusal.STALE


def test_whoever_asks_for_nonces_without_end_takes_none_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decentral.wire.authority.NONCES", 2)
    nonces = _Nonces()
    first, *_ = given = [nonces.give() for _ in range(100)]
    assert len(set(given)) == 100
    nonces.take(first)
    with pytest.raises(Malformed):
        nonces.take(first)
    for nonce in given[1:]:
        nonces.take(nonce)
    assert len(nonces._taken) == 2


def test_a_nonce_of_nobody_or_of_another_authority_does_not_count() -> None:
    nonces = _Nonces()
    other = bytearray(nonces.give())
    other[0] ^= 1  # would last longer
    for nonce in (b"", bytes(32), bytes(other), _Nonces().give()):
        with pytest.raises(Malformed) as refused:
            nonces.take(nonce)
        assert refused.value.reason is Refusal.STALE


async def test_who_has_evidence_brings_none_where_nobody_asks_for_it(folder: Path) -> None:
    authority = Authority.create(folder / "authority")

    async def show(nonce: bytes, key: bytes) -> bytes:
        raise AssertionError

    async with authority.serve("127.0.0.1:0") as address:
        assert (await enrol(address, authority.token(), ALICE, show=show)).certificate


async def raw(address: str, authority: Authority, request: pb.EnrolRequest) -> Refusal:
    options = [("grpc.ssl_target_name_override", AUTHORITY_NAME)]
    pinned = grpc.ssl_channel_credentials(root_certificates=authority.pem)
    async with grpc.aio.secure_channel(address, pinned, options=options) as channel:
        call = channel.unary_unary(ENROL, pb.EnrolRequest.SerializeToString, pb.EnrolReply.FromString)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request, timeout=20.0)
    failure = rpc.failure(refused.value, "the authority")
    assert isinstance(failure, Refused)
    return failure.reason


async def test_enrolment_survives_what_is_no_request(folder: Path) -> None:
    authority = Authority.create(folder / "authority")
    csr = request_certificate(ALICE, new_key(), later(3600.0))
    token = authority.token()
    async with authority.serve("127.0.0.1:0") as address:
        pinned = grpc.ssl_channel_credentials(authority.pem)
        options = [("grpc.ssl_target_name_override", AUTHORITY_NAME)]
        async with grpc.aio.secure_channel(address, pinned, options) as channel:
            ask = channel.unary_unary(ENROL, None, None)
            for data in (
                b"",
                b"\xff" * 100,
                pb.EnrolRequest(token=token.secret).SerializeToString(),
                pb.EnrolRequest(csr=csr).SerializeToString(),
                pb.EnrolRequest(csr=csr, certificate=csr).SerializeToString(),
                pb.EnrolRequest(csr=csr + bytes(5000), token=token.secret).SerializeToString(),
                pb.EnrolRequest(token=bytes(MAX_MESSAGE)).SerializeToString(),
            ):
                with pytest.raises(grpc.aio.AioRpcError):
                    await ask(data, timeout=20.0)
        assert (await enrol(address, token, ALICE)).peer == ALICE.id  # the token was not used up by any of them


async def test_nothing_is_written_down_for_who_gets_nothing(folder: Path) -> None:
    authority = Authority.create(folder / "authority")
    token, before = authority.token(), {path.name for path in (folder / "authority").iterdir()}
    csr = request_certificate(ALICE, new_key(), later(3600.0))
    async with authority.serve("127.0.0.1:0") as address:
        assert await raw(address, authority, pb.EnrolRequest(csr=csr, token=bytes(32))) is Refusal.TOKEN
        assert await raw(address, authority, pb.EnrolRequest(csr=csr, certificate=csr)) is Refusal.SIGNATURE
        assert await raw(address, authority, pb.EnrolRequest(csr=csr)) is Refusal.TOKEN
        assert {path.name for path in (folder / "authority").iterdir()} == before
        await enrol(address, token, ALICE)
    assert list(authority.register.issued()) == [ALICE.id]


async def test_a_busy_port_is_the_users_error(folder: Path) -> None:
    authority = Authority.create(folder / "authority")
    async with authority.serve("127.0.0.1:0") as address:
        with pytest.raises(UserError, match="busy"):
            async with authority.serve(address):
                pytest.fail("two servers share a port")
    with pytest.raises(UserError, match="host:port"):
        async with authority.serve("nonsense"):
            pytest.fail("there is no such address")


async def test_a_late_authority_is_unreachable_at_the_deadline(authority: Authority) -> None:
    server = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    with pytest.raises(Unreachable):
        await enrol(f"{host}:{port}", authority.token(), ALICE, deadline=0.2)
    server.close()
