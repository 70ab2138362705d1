"""How a peer gets its certificate: from the authority, for a join token, or for the invitation in its folder."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from decentral.errors import Malformed, Refusal, Unreachable, UserError
from decentral.files import Vault, write_atomic
from decentral.wire import rpc
from decentral.wire.authority import ANNOUNCE, AUTHORITY_NAME, ENROL, INVITE, MAX_MESSAGE, Authority, JoinToken
from decentral.wire.certificate import (
    TLS,
    Credentials,
    new_key,
    pem_of,
    private_pem,
    public_info,
    request_certificate,
)
from decentral.wire.identity import Identity, read_private
from decentral.wire.issuing import VALIDITY
from decentral.wire.notice import MOST_BYTES, checked_authorities, in_der
from decentral.wire.v1 import authority_pb2 as pb

Show = Callable[[bytes, bytes], Awaitable[bytes]]
"""Evidence of this machine for a nonce and a TLS key (SubjectPublicKeyInfo in DER). Raises Malformed."""
INVITATION = "invitation.json"
RENEW_BEFORE = 24 * 3600.0
"""Seconds before a certificate expires from which a starting node asks for another."""
PATIENCE, PAUSE = 60.0, 0.5
"""Seconds for which a node asks an authority that does not answer, on a busy machine for one, and between attempts."""


def invite(authority: Authority, address: str, folder: Path) -> None:
    """Leaves a join token for one enrolment, and the authority's address, with a node."""
    leave_invitation(folder, address, authority.token())


def leave_invitation(folder: Path, address: str, token: JoinToken) -> None:
    """Leaves a join token that somebody has made, and the authority's address, with a node."""
    invitation = {"authority": address, "token": str(token)}
    write_atomic(folder / INVITATION, json.dumps(invitation).encode(), private=True)


def grant(authority: Authority, identity: Identity) -> Credentials:
    """Credentials from an authority that is at hand: who has its key and the identity's needs no token and no wire."""
    key = new_key()
    request = request_certificate(identity, key, time.time() + VALIDITY.total_seconds())
    certificate = x509.load_der_x509_certificate(authority.issue(request))
    return Credentials(pem_of(certificate), private_pem(key), authority.pem)


async def credentials_for(
    identity: Identity,
    folder: Path,
    show: Show | None = None,
    vault: Vault | None = None,
    *,
    renew: float = 0.0,
) -> Credentials:
    """A node's certificate: the one it has, if it lasts, else a new one for its invitation.

    `show`: evidence of its machine, where the authority asks for that; `vault`: where it keeps the key; `renew`: when
    (Unix seconds) a certificate has to have been made to be worth keeping, if another can be had.

    Raises UserError where it has neither, and TransportError where the authority does not answer or refuses.
    """
    if (folder / TLS if vault is None else vault.place(folder / TLS)).exists():
        credentials = Credentials.load(folder, vault)
        if not (folder / INVITATION).exists():
            if credentials.expires > time.time():
                return credentials
        elif credentials.expires > time.time() + RENEW_BEFORE and credentials.issued >= renew:
            token = JoinToken.parse(json.loads(read_private(folder / INVITATION))["token"])
            if token.authority in in_der(credentials.authority):
                return credentials
    if not (folder / INVITATION).exists():
        raise UserError(f"{folder}: neither a certificate nor an invitation; start this node through its launcher")
    invitation = json.loads(read_private(folder / INVITATION))
    credentials = await _enrol(invitation["authority"], JoinToken.parse(invitation["token"]), identity, show)
    credentials.save(folder, vault)
    (folder / INVITATION).unlink()
    return credentials


async def announced(address: str, authorities: bytes, known: int, *, deadline: float = 30.0) -> bytes:
    """The newest notice of the authority at an address, as it is handed out, if it is newer than `known`; else empty.

    `authorities`: those (PEM) whose address it may be. Raises Unreachable or Refused.
    """
    call: grpc.aio.UnaryUnaryMultiCallable[pb.AnnounceRequest, pb.AnnounceReply]
    async with _channel(address, authorities) as channel:
        call = channel.unary_unary(ANNOUNCE, pb.AnnounceRequest.SerializeToString, pb.AnnounceReply.FromString)
        try:
            reply = await call(pb.AnnounceRequest(sequence=known), timeout=deadline)
        except grpc.aio.AioRpcError as error:
            raise rpc.failure(error, f"the authority at {address}") from error
    return bytes(reply.notice)


def _channel(address: str, authorities: bytes) -> grpc.aio.Channel:
    options = [
        *rpc.CONNECTION_OPTIONS,
        ("grpc.ssl_target_name_override", AUTHORITY_NAME),
        ("grpc.max_receive_message_length", MAX_MESSAGE + MOST_BYTES),
    ]
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(root_certificates=authorities), options=options
    )


async def _enrol(address: str, token: JoinToken, identity: Identity, show: Show | None) -> Credentials:
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            return await enrol(address, token, identity, show=show)
        except Unreachable:
            if time.monotonic() > ends:
                raise
        await asyncio.sleep(PAUSE)


async def enrol(
    address: str, token: JoinToken, identity: Identity, *, show: Show | None = None, deadline: float = 30.0
) -> Credentials:
    """Credentials for an identity, from the authority that the token pins; `show`: evidence, if it asks for any.

    Raises Unreachable or Refused, and Malformed where no evidence can be made.
    """
    grounds = pb.EnrolRequest(token=token.secret)
    return await _ask(address, identity, token.authority_pem, grounds, show=show, deadline=deadline)


async def renew(
    address: str, credentials: Credentials, identity: Identity, *, show: Show | None = None, deadline: float = 30.0
) -> Credentials:
    """Credentials with a new TLS key, granted to the holder of ones that are still valid."""
    current = x509.load_pem_x509_certificate(credentials.certificate)
    grounds = pb.EnrolRequest(certificate=current.public_bytes(serialization.Encoding.DER))
    return await _ask(address, identity, credentials.authority, grounds, show=show, deadline=deadline)


async def _ask(
    address: str,
    identity: Identity,
    authority: bytes,
    request: pb.EnrolRequest,
    *,
    show: Show | None,
    deadline: float,
) -> Credentials:
    key = new_key()
    request.csr = request_certificate(identity, key, time.time() + VALIDITY.total_seconds())
    async with _channel(address, authority) as channel:
        try:
            if show is not None:
                invite = channel.unary_unary(INVITE, pb.InviteRequest.SerializeToString, pb.InviteReply.FromString)
                request.nonce = (await invite(pb.InviteRequest(), timeout=deadline)).nonce
                if request.nonce:
                    request.evidence = await show(request.nonce, public_info(key.public_key()))
            call = channel.unary_unary(ENROL, pb.EnrolRequest.SerializeToString, pb.EnrolReply.FromString)
            reply = await call(request, timeout=deadline)
        except grpc.aio.AioRpcError as error:
            raise rpc.failure(error, f"the authority at {address}") from error
    try:
        certificate = x509.load_der_x509_certificate(reply.certificate)
    except ValueError as error:
        raise Malformed(Refusal.MALFORMED, "the authority's reply is not a certificate") from error
    if reply.authorities:  # whoever is pinned says who else counts
        counting = (x509.load_der_x509_certificate(each) for each in checked_authorities(reply.authorities))
        authority = b"".join(map(pem_of, counting))
    credentials = Credentials(pem_of(certificate), private_pem(key), authority)
    credentials.check(identity.id)
    return credentials
