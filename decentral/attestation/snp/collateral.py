"""What comes beside a report: the certificates from the processor's to AMD's root, and AMD's list of revoked ones."""

from __future__ import annotations

from dataclasses import dataclass

from decentral import canonical
from decentral.attestation.report import Flaw, NotGenuine
from decentral.errors import Malformed

MOST_BYTES = 1 << 18
FORMAT = "decentral SEV-SNP collateral v1"


@dataclass(frozen=True, slots=True)
class Collateral:
    """`chain`: certificates (DER) of the processor (VCEK), of AMD's signing key (ASK), of AMD's root (ARK), in this
    order. `revoked`: the list of revoked certificates (DER) that the root has signed.
    """

    chain: tuple[bytes, ...]
    revoked: bytes

    @classmethod
    def parse(cls, data: bytes) -> Collateral:
        """Raises NotGenuine(MALFORMED) unless `data` is exactly what `encode` gives, and of bounded size."""
        if len(data) > MOST_BYTES:
            raise NotGenuine(Flaw.MALFORMED, f"collateral of {len(data)} bytes, more than {MOST_BYTES}")
        try:
            found = canonical.decode(data)
            if (
                not isinstance(found, dict)
                or found.keys() != {"chain", "format", "revoked"}
                or found["format"] != FORMAT
            ):
                raise NotGenuine(Flaw.MALFORMED, f"no {FORMAT}")
            if not isinstance(found["chain"], list):
                raise NotGenuine(Flaw.MALFORMED, "collateral without a chain of certificates")
            return cls(tuple(map(canonical.data, found["chain"])), canonical.data(found["revoked"]))
        except Malformed as error:
            raise NotGenuine(Flaw.MALFORMED, f"collateral that {error.detail}") from error

    def encode(self) -> bytes:
        chain = [canonical.text(certificate) for certificate in self.chain]
        return canonical.encode({"chain": chain, "format": FORMAT, "revoked": canonical.text(self.revoked)})
