"""A cluster's certificate authority: it decides who gets in, and can do no more than that.

It signs a TLS key for an identity that shows a join token (or its still valid certificate). The identity's own binding
travels inside, so the authority cannot speak for a peer. Its key never leaves its folder. It may ask for evidence of
the machine, made for a nonce of its own and for the very key that it is to certify; who judges that is told to `serve`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf.message import DecodeError

from decentral.errors import Malformed, Refusal, UserError
from decentral.files import write_atomic
from decentral.wire import rpc
from decentral.wire.certificate import (
    BINDING_OID,
    Bound,
    host_name,
    issued_by,
    new_key,
    pem_of,
    private_pem,
    public_info,
    read_binding,
)
from decentral.wire.identity import read_private
from decentral.wire.issuing import VALIDITY, Issuer
from decentral.wire.messages import PeerId
from decentral.wire.notice import Ruling
from decentral.wire.register import VOICE, Register
from decentral.wire.v1 import authority_pb2 as pb

AUTHORITY_NAME = "authority.decentral"
SECRET_BYTES = 32
TOKENS = "tokens.json"
"""The file of join tokens, in its folder."""
MAX_DOCUMENT = 4096
MAX_EVIDENCE = 1 << 20
MAX_MESSAGE = 3 * MAX_DOCUMENT + MAX_EVIDENCE
NONCE_BYTES = 32
NONCES, NONCE_SECONDS = 10_000, 60.0
"""How many that were used are remembered, and for how long each may be used."""
SERVICE = "decentral.wire.v1.Authority"
ENROL, INVITE, ANNOUNCE = f"/{SERVICE}/Enrol", f"/{SERVICE}/Invite", f"/{SERVICE}/Announce"
Vouch = Callable[[bytes, bytes, PeerId, bytes], Awaitable[None]]
"""Judges evidence: of a nonce, a TLS key (SubjectPublicKeyInfo in DER), a peer, and what it has shown. Raises Malformed
where its machine does not count."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What an operator hands to a joiner: a secret, and the authority's certificate (DER) so that it can be pinned."""

    secret: bytes
    authority: bytes

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(self.secret + self.authority).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Raises UserError."""
        try:
            content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            x509.load_der_x509_certificate(content[SECRET_BYTES:])
        except (binascii.Error, ValueError) as error:
            raise UserError("the join token is damaged; copy all of it, or ask for another") from error
        return cls(content[:SECRET_BYTES], content[SECRET_BYTES:])

    @property
    def authority_pem(self) -> bytes:
        return pem_of(x509.load_der_x509_certificate(self.authority))


class Authority:
    """The authority whose key and tokens are kept in a folder of mode 0700."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.register = Register(folder)
        """Its keys, and what it has ruled: read anew whenever they are needed, because a command may change them."""

    @classmethod
    def create(cls, folder: Path) -> Authority:
        """A new authority, valid for ten years. Raises UserError if the folder holds one already."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        if (folder / VOICE).exists():
            raise UserError(f"{folder}: there is an authority already; `decentral keys rotate --authority` replaces it")
        write_atomic(folder / TOKENS, b"[]", private=True)
        Issuer.new().save(folder / VOICE)
        return cls(folder)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Raises UserError if there is none, if it is damaged, or if other users may read it."""
        authority = cls(folder)
        assert authority.register.voice
        return authority

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """The authority kept in a folder, made there on first use."""
        return cls.load(folder) if (folder / VOICE).exists() else cls.create(folder)

    @property
    def pem(self) -> bytes:
        """The certificate that peers trust; while another authority takes over, those of both."""
        return b"".join(issuer.pem for issuer in self.register.issuers)

    def token(self, *, uses: int = 1, valid_seconds: float = 3600.0) -> JoinToken:
        """A new token that lets `uses` peers in until it expires. Only its digest is stored."""
        secret = secrets.token_bytes(SECRET_BYTES)
        now = time.time()
        tokens = [token for token in self._tokens() if token["expires"] > now and token["uses"] > 0]
        tokens.append({"digest": hashlib.sha256(secret).hexdigest(), "expires": now + valid_seconds, "uses": uses})
        self._store(tokens)
        return JoinToken(secret, self.register.voice.der)

    def admit(self, secret: bytes, *, uses: int = 1) -> None:
        """Takes one use of a token; `uses` 0: only looks at it. Raises Malformed(TOKEN) or Malformed(EXPIRED)."""
        digest = hashlib.sha256(secret).hexdigest()
        tokens = self._tokens()
        known = [token for token in tokens if hmac.compare_digest(token["digest"], digest)]
        if not known or known[0]["uses"] < 1:
            raise Malformed(Refusal.TOKEN, "the join token is unknown or used up")
        if known[0]["expires"] <= time.time():
            raise Malformed(Refusal.EXPIRED, "the join token has expired")
        if uses:
            known[0]["uses"] -= uses
            self._store(tokens)

    def issue(self, csr: bytes, validity: timedelta = VALIDITY) -> bytes:
        """The certificate (DER) for a request (DER): no longer than `validity`, nor than the identity allows.

        It is written down as granted: whether the requester may have one is for `admit` or `renewable` to say before,
        unless its identity has been revoked. Raises Malformed.
        """
        request, key, bound = self._checked(csr)
        until = min(validity, timedelta(seconds=bound.expires - time.time()))
        binding = request.extensions.get_extension_for_oid(BINDING_OID).value
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        issuer = self.register.issuers[0]
        certificate = issuer.leaf(bound.peer, host_name(bound.peer), key, until, usage, binding)
        self.register.note(bound.peer, certificate, issuer)
        return certificate

    def requester(self, csr: bytes) -> PeerId:
        """Who makes a request (DER) that could be granted, which says nothing of whether it will. Raises Malformed."""
        return self._checked(csr)[2].peer

    def _checked(self, csr: bytes) -> tuple[x509.CertificateSigningRequest, ec.EllipticCurvePublicKey, Bound]:
        request = _parsed(csr)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not request.is_signature_valid:
            raise Malformed(Refusal.SIGNATURE, "the request is not signed with its P-256 key")
        bound = read_binding(request)
        if bound.expires <= time.time():
            raise Malformed(Refusal.EXPIRED, "the identity's binding of the key has expired")
        if self.register.admitted.barred(bound.peer):
            raise Malformed(Refusal.REVOKED, "this identity has been revoked")
        return request, key, bound

    def renewable(self, certificate: bytes, csr: bytes) -> None:
        """Raises Malformed unless a valid certificate (DER) of ours speaks for the identity that makes the request.

        Certificates are seen by everybody, and who has stolen a TLS key has its identity's binding too: once keys are
        to be replaced, a request counts whose key the identity has bound since, which peers do for `VALIDITY`.
        """
        try:
            current = x509.load_der_x509_certificate(certificate)
        except ValueError as error:
            raise Malformed(Refusal.SIGNATURE, "not a certificate") from error
        if not any(issued_by(current, issuer.certificate) for issuer in self.register.issuers):
            raise Malformed(Refusal.SIGNATURE, "not a certificate of this authority")
        admitted, bound = self.register.admitted, read_binding(_parsed(csr))
        if admitted.peer_of(pem_of(current)) != bound.peer:
            raise Malformed(Refusal.SIGNATURE, "a certificate of another peer")
        ruling = Ruling(bound.peer) if admitted.notice is None else admitted.notice.of(bound.peer)
        if bound.expires - VALIDITY.total_seconds() < max(ruling.renew, ruling.refuse):
            raise Malformed(Refusal.EXPIRED, "a key that is to be replaced, or that a clock which is behind has dated")

    @asynccontextmanager
    async def serve(
        self,
        address: str,
        *,
        validity: timedelta = VALIDITY,
        vouch: Vouch | None = None,
        beside: Sequence[grpc.GenericRpcHandler[Any, Any]] = (),
        calls: int = 64,
    ) -> AsyncIterator[str]:
        """Serves its calls, and yields the address with the port it got. Raises UserError if the port is busy.

        `validity` is that of the certificates which it grants; `vouch`: none is granted without evidence that it takes.
        `beside`: what else is served at that port; `calls` are served at once, of all callers together.
        """
        nonces = _Nonces()
        server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", MAX_MESSAGE)], maximum_concurrent_rpcs=calls
        )

        async def answer(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            try:
                request = _request(data)
                if vouch is not None:
                    nonces.take(request.nonce)
                    await vouch(request.nonce, _key(request.csr), _requester(request.csr), request.evidence)
                certificate = self._grant(request, validity)
            except Malformed as error:
                await rpc.refuse(context, error.reason, error.detail)
            authorities = [issuer.der for issuer in self.register.issuers]
            return pb.EnrolReply(certificate=certificate, authorities=authorities).SerializeToString()

        async def invite(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            return pb.InviteReply(nonce=nonces.give() if vouch is not None else b"").SerializeToString()

        async def announce(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            try:
                known = pb.AnnounceRequest.FromString(data).sequence
            except DecodeError:
                await rpc.refuse(context, Refusal.MALFORMED, "not an AnnounceRequest")
            news = self.register.admitted.sequence > known
            return pb.AnnounceReply(notice=self.register.signed if news else b"").SerializeToString()

        unary = grpc.unary_unary_rpc_method_handler
        methods = {"Enrol": unary(answer), "Invite": unary(invite), "Announce": unary(announce)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods), *beside))
        bound = await rpc.take_port(server, address, self._shown())
        await server.start()
        try:
            yield bound
        finally:
            await server.stop(grace=1.0)

    def _grant(self, request: pb.EnrolRequest, validity: timedelta) -> bytes:
        self.requester(request.csr)  # first, so that a request that cannot be granted uses nothing up
        if request.WhichOneof("grounds") == "certificate":
            self.renewable(request.certificate, request.csr)
        else:
            self.admit(request.token)
        return self.issue(request.csr, validity)  # last, because it is written down

    def _shown(self) -> grpc.ServerCredentials:
        """What its server shows in TLS: made by whoever is its voice, and anew by the next one."""

        def configuration(voice: Issuer) -> grpc.ServerCertificateConfiguration:
            key, usage = new_key(), x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            made = voice.leaf(AUTHORITY_NAME, AUTHORITY_NAME, key.public_key(), timedelta(days=365), usage)
            chain = pem_of(x509.load_der_x509_certificate(made))
            return grpc.ssl_server_certificate_configuration([(private_pem(key), chain)])

        speaking = self.register.voice

        def replacement() -> grpc.ServerCertificateConfiguration | None:
            nonlocal speaking
            if speaking.der == (now := self.register.voice).der:
                return None
            speaking = now
            return configuration(now)

        return grpc.dynamic_ssl_server_credentials(
            configuration(speaking),
            replacement,  # type: ignore[arg-type]  # the stubs forget that None is "no change"
            require_client_authentication=False,
        )

    def _tokens(self) -> list[dict[str, Any]]:
        tokens: list[dict[str, Any]] = json.loads(read_private(self._folder / TOKENS))
        return tokens

    def _store(self, tokens: list[dict[str, Any]]) -> None:
        write_atomic(self._folder / TOKENS, json.dumps(tokens, indent=1).encode(), private=True)


class _Nonces:
    """Each is given once and taken once, in time.

    Nothing is kept of those that are given, which anybody may ask for: a nonce has the end of its time in it, and a
    code that nobody else can make. Of those that were taken the oldest are forgotten where they are too many; one that
    is taken again then speaks for the same key of the same peer as before.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(SECRET_BYTES)
        self._taken: dict[bytes, None] = {}

    def give(self) -> bytes:
        """32 bytes: the second in which it ends (8), 8 at random, and the code over both (16)."""
        front = int(time.monotonic() + NONCE_SECONDS).to_bytes(8, "big", signed=True) + secrets.token_bytes(8)
        return front + self._code(front)

    def take(self, nonce: bytes) -> None:
        """Raises Malformed."""
        front, code = nonce[:16], nonce[16:]
        own = hmac.compare_digest(code, self._code(front))
        if not own or nonce in self._taken or int.from_bytes(front[:8], "big", signed=True) < time.monotonic():
            raise Malformed(Refusal.STALE, "this authority asks for evidence of the machine, for a nonce of its own")
        self._taken[nonce] = None
        if len(self._taken) > NONCES:
            del self._taken[next(iter(self._taken))]

    def _code(self, front: bytes) -> bytes:
        return hmac.digest(self._key, front, "sha256")[: NONCE_BYTES - 16]


def _request(data: bytes) -> pb.EnrolRequest:
    """Raises Malformed."""
    try:
        request = pb.EnrolRequest.FromString(data)
    except DecodeError as error:
        raise Malformed(Refusal.MALFORMED, "not an EnrolRequest") from error
    if len(request.csr) > MAX_DOCUMENT or len(request.certificate) > MAX_DOCUMENT:
        raise Malformed(Refusal.TOO_LARGE, f"a document of more than {MAX_DOCUMENT} bytes")
    if len(request.evidence) > MAX_EVIDENCE:
        raise Malformed(Refusal.TOO_LARGE, f"evidence of more than {MAX_EVIDENCE} bytes")
    return request


def _parsed(csr: bytes) -> x509.CertificateSigningRequest:
    """A request whose key and signature are of kinds that can be read. Raises Malformed."""
    try:
        request = x509.load_der_x509_csr(csr)
        request.public_key()
        request.is_signature_valid  # noqa: B018  what it is, is for others to ask
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Malformed(Refusal.MALFORMED, "not a certificate request") from error
    return request


def _key(csr: bytes) -> bytes:
    """The TLS key that is to be certified. Raises Malformed."""
    return public_info(_parsed(csr).public_key())


def _requester(csr: bytes) -> PeerId:
    """Raises Malformed."""
    return read_binding(_parsed(csr)).peer
