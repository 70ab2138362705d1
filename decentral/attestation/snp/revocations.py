"""The list of certificates that AMD's root has revoked."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.chain import Chain
from decentral.attestation.snp.documents import reading, refuse_another_form, refuse_out_of_date

_LIST = "the list of revoked certificates"


@dataclass(frozen=True, slots=True)
class Revocations:
    """A list by `issuer`. `issued`, `ends`: when it was issued, and when the next one will be, seconds since 1970."""

    document: x509.CertificateRevocationList
    issuer: x509.Name
    serials: frozenset[int]
    issued: int
    ends: int

    @classmethod
    def read(cls, data: bytes) -> Revocations:
        """From DER. Raises NotGenuine: MALFORMED if it cannot be read, COLLATERAL if it is a list of another kind (one
        that never ends, or that has parts which change what it is a list of), CERTIFICATE or NOT_CANONICAL if it is not
        signed or not written as AMD does it.
        """
        with reading(_LIST):
            document = x509.load_der_x509_crl(data)
            refuse_another_form(_LIST, data, document.tbs_certlist_bytes, document)
            entries = list(document)
            parts = [*document.extensions, *(part for entry in entries for part in entry.extensions)]
            ends = document.next_update_utc
            serials = frozenset(entry.serial_number for entry in entries)
            issued = int(document.last_update_utc.timestamp())
            issuer = document.issuer
        critical = [part.oid.dotted_string for part in parts if part.critical]
        if critical:
            raise NotGenuine(Flaw.COLLATERAL, f"{_LIST} is of another kind: it demands to be read with {critical[0]}")
        if ends is None:
            raise NotGenuine(Flaw.COLLATERAL, f"{_LIST} never ends")
        return cls(document, issuer, serials, issued, int(ends.timestamp()))

    def verify(self, chain: Chain, now: int) -> None:
        """Raises NotGenuine (COLLATERAL, SIGNATURE, FUTURE, EXPIRED, REVOKED) unless the chain's root has signed this
        list, it is valid at `now` and names no certificate of the chain.

        AMD publishes one list for all of a product: a serial number counts for every certificate of the chain.
        """
        key = chain.root.public_key()
        if self.issuer != chain.root.subject or not isinstance(key, rsa.RSAPublicKey):
            raise NotGenuine(Flaw.COLLATERAL, f"{_LIST} is that of another root")
        if not self.document.is_signature_valid(key):
            raise NotGenuine(Flaw.SIGNATURE, f"{_LIST} is not signed by the root")
        refuse_out_of_date(_LIST, self.issued, self.ends, now)
        for name, certificate in chain.named:
            if certificate.serial_number in self.serials:
                raise NotGenuine(Flaw.REVOKED, f"{name} has been revoked")
