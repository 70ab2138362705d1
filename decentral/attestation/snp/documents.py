"""Documents in DER that AMD's keys sign, certificates and lists of revoked ones: read strictly, valid for a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import SignatureAlgorithmOID

from decentral.attestation.report import Flaw, NotGenuine

RSA_BITS = 4096
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What documents that nobody should have written make the library raise, when they are read or looked into."""
_SIGNATURE = bytes.fromhex("0382020100")
"""Before the 512 bytes of a signature: BIT STRING, its length, and no bit left unused."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Around whatever looks into a document. Raises NotGenuine(MALFORMED) if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # AMD gives all processors the serial 0
            yield
    except UNREADABLE as error:
        raise NotGenuine(Flaw.MALFORMED, f"{what} cannot be read: {error}") from error


def refuse_another_form(
    what: str, data: bytes, signed: bytes, document: x509.Certificate | x509.CertificateRevocationList
) -> None:
    """`signed`: the part of a document that its signature covers. Raises NotGenuine (CERTIFICATE, NOT_CANONICAL) unless
    it is signed as AMD signs, and has no byte beside that could be another: the algorithm stands twice, once unsigned,
    and a signature may leave bits unused.
    """
    hashed = document.signature_hash_algorithm
    if (
        document.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS
        or hashed is None
        or hashed.name != "sha384"
    ):
        raise NotGenuine(Flaw.CERTIFICATE, f"{what} is not signed with RSA-PSS and SHA-384")
    if len(document.signature) != RSA_BITS // 8:
        raise NotGenuine(Flaw.CERTIFICATE, f"{what} is not signed with a key of {RSA_BITS} bits")
    before, _, after = data.partition(signed)
    algorithm, begins, signature = after.partition(_SIGNATURE)
    if len(before) != 4 or algorithm not in signed or not begins or signature != document.signature:
        raise NotGenuine(Flaw.NOT_CANONICAL, f"{what} says in other bytes what it says, where nobody has signed them")


def refuse_out_of_date(what: str, starts: int, ends: int, now: int) -> None:
    """Raises NotGenuine (FUTURE, EXPIRED) unless starts <= now < ends, in seconds since 1970."""
    if now < starts:
        raise NotGenuine(Flaw.FUTURE, f"{what} is valid in {starts - now} seconds only")
    if now >= ends:
        raise NotGenuine(Flaw.EXPIRED, f"{what} is not valid any more, for {now - ends} seconds")
