"""What a gateway shows and what it demands: a certificate for TLS, and a token without which nobody is answered.

Both are made where there are none, in the folder of the client's keys. The certificate of our own making is nobody's
but itself: who calls the gateway is given `gateway.crt` to trust, by a way that both trust.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.wire.certificate import CLOCK_SKEW, new_key, private_pem, subject
from decentral.wire.identity import read_private

TOKEN, PRIVATE, PUBLIC = "gateway.token", "gateway.pem", "gateway.crt"
FORM = re.compile(r"[A-Za-z0-9_-]{32,256}")
LASTS, RENEWED = timedelta(days=397), timedelta(days=60)
"""A certificate of our own making, and the time before its end in which a gateway that starts makes another."""
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Chain:
    """Files in PEM: a certificate, with what it stands on, and its key. `shown`: what callers trust, if it is ours."""

    certificate: Path
    key: Path
    shown: Path | None = None


def open_token(folder: Path) -> str:
    """The token kept in a folder, made on first use. Raises UserError if it is damaged or other users can read it."""
    file = folder / TOKEN
    if not file.exists():
        write_atomic(file, secrets.token_urlsafe(32).encode() + b"\n", private=True)
    token = read_private(file).decode(errors="replace").strip()
    if not FORM.fullmatch(token):
        raise UserError(f"{file}: is no token (32 letters, digits, - or _, at least); remove it for a new one")
    return token


def admitted(authorization: str, token: str) -> bool:
    """Whether a header carries the token; takes as long for a wrong one as for the right one."""
    kind, _, given = authorization.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def open_chain(folder: Path, host: str, certificate: Path | None = None, key: Path | None = None) -> Chain:
    """The certificate that was given, or one of our own for this host and this machine, made anew when it ends.

    Raises UserError for files that are no certificate with its key.
    """
    if (certificate is None) != (key is None):
        raise UserError("a certificate and its key come together: give both, or neither")
    if certificate is not None and key is not None:
        chain = Chain(certificate, key)
    else:
        if not _serves(folder / PRIVATE, host):
            _make(folder, host)
        chain = Chain(folder / PRIVATE, folder / PRIVATE, folder / PUBLIC)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain.certificate, chain.key, password="")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise UserError(f"{chain.certificate}: is no certificate with the key {chain.key} ({error})") from error
    return chain


def _serves(file: Path, host: str) -> bool:
    """Whether there is a certificate for this host that lasts. Raises UserError where others can read its key."""
    if not file.exists():
        return False
    try:
        found = x509.load_pem_x509_certificate(read_private(file))
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    lasts = found.not_valid_after_utc - datetime.now(UTC) > RENEWED
    return lasts and all(_name(each) in names for each in (*LOCAL, host))


def _make(folder: Path, host: str) -> None:
    key, now = new_key(), datetime.now(UTC)
    names = [_name(each) for each in dict.fromkeys((*LOCAL, host))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject("decentral gateway"))
        .issuer_name(subject("decentral gateway"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LASTS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    write_atomic(folder / PRIVATE, made + private_pem(key), private=True)
    write_atomic(folder / PUBLIC, made)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
