"""The verifier of SEV-SNP reports: the same for hardware and for a simulation, which differ in their root alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from decentral.attestation.report import MAKERS, Flaw, NotGenuine, Report, Root, Technology
from decentral.attestation.snp.chain import Chain
from decentral.attestation.snp.collateral import Collateral
from decentral.attestation.snp.endorsement import Endorsement
from decentral.attestation.snp.report import SnpReport
from decentral.attestation.snp.revocations import Revocations

VCEK, NOBODY = 0, 7
"""Who signs a report, by its flags."""


def verify_snp(report: bytes, collateral: bytes, roots: Collection[Root], now: int) -> Report:
    """What a processor says of a guest, by a report of its firmware and the collateral of that processor.

    `report`: 1184 bytes. `collateral`: what `Collateral.encode` writes. `roots`: those that the verifier has pinned;
    roots of other technologies are passed over. `now`: seconds since 1970. `status` is empty, since AMD says nothing of
    a processor's state: `versions` are there to be judged. Raises NotGenuine with the first thing that is wrong.
    """
    found = SnpReport.parse(report)
    papers = Collateral.parse(collateral)
    chain = Chain.read(papers.chain)
    root = pinned(papers.chain[-1], roots)
    chain.verify(now)
    revocations = Revocations.read(papers.revoked)
    revocations.verify(chain, now)
    endorsement = Endorsement.read(chain.processor)
    verify_signature(found, chain, endorsement)
    return Report(
        technology=Technology.SNP,
        root=root,
        report_data=found.report_data,
        measurement=found.measurement,
        registers=(),
        configuration=found.host_data,
        signer=found.author_key_digest if found.author_key else found.id_key_digest,
        versions=found.reported.parts,
        debug=found.debug,
        status="",
        advisories=(),
        issued=revocations.issued,
        expires=min(revocations.ends, chain.ends),
        serial=endorsement.chip.hex(),
        privilege=found.vmpl,
        migratable=found.migratable,
    )


def pinned(certificate: bytes, roots: Collection[Root]) -> Root:
    """Which of the roots a certificate (DER) is. Raises NotGenuine(ROOT)."""
    own = hashlib.sha256(certificate).hexdigest() in MAKERS[Technology.SNP]
    for root in roots:
        if root.technology is Technology.SNP and (
            root.certificate == certificate or (root.certificate is None and own)
        ):
            return root
    raise NotGenuine(Flaw.ROOT, "the chain of certificates leads to no root that is pinned here")


def verify_signature(report: SnpReport, chain: Chain, endorsement: Endorsement) -> None:
    """Raises NotGenuine (SIGNATURE, CERTIFICATE, COLLATERAL) unless the chain's processor, with the firmware that it is
    endorsed with, has signed the report.
    """
    if report.signing_key == NOBODY:
        raise NotGenuine(Flaw.SIGNATURE, "the report says that nobody has signed it")
    if report.signing_key != VCEK:
        raise NotGenuine(Flaw.CERTIFICATE, "the report is not signed with a processor's own key (VCEK)")
    if report.masked or report.chip_id != endorsement.chip:
        raise NotGenuine(
            Flaw.COLLATERAL, "the report is of another processor than the certificate, or hides of which one"
        )
    if report.reported != endorsement.tcb:
        parts = f"{report.reported.parts}, the certificate {endorsement.tcb.parts}"
        raise NotGenuine(Flaw.COLLATERAL, f"the report has firmware of versions {parts}")
    signature = encode_dss_signature(report.r, report.s)
    try:
        chain.key.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise NotGenuine(Flaw.SIGNATURE, "the processor has not signed this report") from None
