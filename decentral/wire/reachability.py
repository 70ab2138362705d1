"""Whether others can reach a peer where it says: who is asked to let it in dials back, and asks for a signature.

The peer is not certified yet, so it shows a certificate that it signed itself, and its identity signs that very
certificate together with the caller's nonce. Whoever passes the question on to the peer makes it reachable, no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from decentral.errors import Malformed, Refusal, UserError
from decentral.wire.addresses import split_address
from decentral.wire.certificate import new_key, pem_of, private_pem, show, subject
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, verify
from decentral.wire.messages import PeerId

PURPOSE = "reachable"
NONCE_BYTES = 32
ANSWER_BYTES = PUBLIC_KEY_BYTES + SIGNATURE_BYTES
PATIENCE = 10.0
"""Seconds for a connection, its handshake, the question and the answer."""


@contextlib.asynccontextmanager
async def answering(identity: Identity, host: str, port: int) -> AsyncIterator[int]:
    """Answers whoever dials that port, for as long as the body runs; yields the port, which is any if 0 was asked for.

    Raises OSError where it cannot listen.
    """
    context, shown = _own_certificate()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                nonce = await reader.readexactly(NONCE_BYTES)
                writer.write(identity.public_key + identity.sign(PURPOSE, nonce + shown))
                await writer.drain()
        except (OSError, EOFError, TimeoutError):
            return  # whoever it was has not asked
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, port, ssl=context, ssl_handshake_timeout=PATIENCE)
    async with server:
        found: int = server.sockets[0].getsockname()[1]
        yield found


async def reach(address: str, peer: PeerId, patience: float = PATIENCE) -> None:
    """Returns if that peer answers at `host:port`. Raises Malformed(ADDRESS), which says what is there instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the peer's identity signs the certificate that it shows
    nonce = secrets.token_bytes(NONCE_BYTES)
    try:
        host, port = split_address(address)
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                writer.write(nonce)
                answer = await reader.readexactly(ANSWER_BYTES)
            finally:
                writer.transport.abort()
    except TimeoutError as error:
        raise Malformed(Refusal.ADDRESS, f"nothing answers at {address}") from error
    except EOFError as error:
        raise Malformed(Refusal.ADDRESS, f"somebody else answers at {address}") from error
    except ssl.SSLError as error:
        raise Malformed(Refusal.ADDRESS, f"something else answers at {address}") from error
    except ConnectionRefusedError as error:
        raise Malformed(Refusal.ADDRESS, f"nobody listens at {address}") from error
    except socket.gaierror as error:
        raise Malformed(Refusal.ADDRESS, f"{address}: there is no host of that name here") from error
    except (OSError, ValueError, UserError) as error:  # also a host that can be no name
        raise Malformed(Refusal.ADDRESS, f"{address}: cannot be reached ({error})") from error
    key, signature = answer[:PUBLIC_KEY_BYTES], answer[PUBLIC_KEY_BYTES:]
    try:
        found = verify(key, PURPOSE, nonce + _digest(shown), signature)
    except Malformed as error:
        raise Malformed(Refusal.ADDRESS, f"somebody else answers at {address}") from error
    if found != peer:
        raise Malformed(Refusal.ADDRESS, f"another peer answers at {address}")


def _own_certificate() -> tuple[ssl.SSLContext, bytes]:
    """A server's TLS with a new certificate, signed by its own key, and the digest of that."""
    key, now = new_key(), datetime.now(UTC)
    name = subject("decentral joiner")
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
    certificate = builder.sign(key, hashes.SHA256())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    pem = pem_of(certificate)
    show(context, pem, private_pem(key))
    return context, _digest(ssl.PEM_cert_to_DER_cert(pem.decode()))


def _digest(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()
