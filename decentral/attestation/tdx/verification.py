"""What a quote of a trust domain says, once everybody whose word it takes has been found to have signed.

The signatures and the judgement of security versions are dcap-qvl's work, which checks quotes in production. Around it
stands what it leaves open (see `chains`), and what its one kind of error does not tell apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

import dcap_qvl

from decentral.attestation.report import MAKERS, REGISTER_BYTES, Flaw, NotGenuine, Report, Root, Technology
from decentral.attestation.tdx import chains, pem
from decentral.attestation.tdx.chains import Certificate, Role, Span
from decentral.attestation.tdx.collateral import Collateral, Document
from decentral.attestation.tdx.quote import TdxQuote

DEBUG = 1
"""Bit of a guest's attributes."""
_FINDINGS = (
    ("Debug mode", Flaw.DEBUG),
    ("Reserved bits", Flaw.NOT_CANONICAL),
    ("SEPT_VE_DISABLE", Flaw.STATUS),
    ("TCB status is invalid", Flaw.STATUS),
    ("No matching TCB level", Flaw.STATUS),
    ("TDX module TCB level", Flaw.STATUS),
    ("QE ISVSVN", Flaw.STATUS),
    ("signature is invalid", Flaw.SIGNATURE),
    ("Signature is invalid", Flaw.SIGNATURE),
    ("QE report hash mismatch", Flaw.SIGNATURE),
    ("certificate chain", Flaw.CERTIFICATE),
    ("Intel extension", Flaw.CERTIFICATE),
    ("CertRevoked", Flaw.REVOKED),
    ("Expired", Flaw.EXPIRED),
    ("expired", Flaw.EXPIRED),
    ("in the future", Flaw.FUTURE),
    ("Failed to decode quote", Flaw.MALFORMED),
)
"""Parts of what dcap-qvl says, and what that means. Whatever else it says is about the collateral."""


def verify_tdx(quote: bytes, collateral: bytes, roots: Collection[Root], now: int) -> Report:
    """Facts about a guest, from a quote and what its maker publishes, at `now` (seconds since 1970).

    Raises NotGenuine with the first thing that is wrong. dcap-qvl takes no guest in debug mode, and none whose host may
    have it notified of pages that were taken away: these two are refused here, not reported.
    """
    found, published = TdxQuote.parse(quote), Collateral.parse(collateral)
    root = _root(found.chain[-1], roots)
    anchor = chains.certificate(found.chain[-1], (Role.ROOT,), None)
    issuer = chains.certificate(found.chain[1], (Role.PLATFORM, Role.SINGLE), anchor)
    processor = chains.certificate(found.chain[0], (Role.PROCESSOR,), issuer)
    if pem.read(published.pck_crl_issuer_chain) != (issuer.der, anchor.der):
        raise NotGenuine(Flaw.COLLATERAL, "the list of revoked processors is of another issuer")
    # mostly the same chain twice
    above = dict.fromkeys((published.tcb_info_issuer_chain, published.qe_identity_issuer_chain))
    signers = [_signer(chain, anchor) for chain in above]
    by_root, by_issuer = chains.revoked(published.root_ca_crl, anchor), chains.revoked(published.pck_crl, issuer)
    tcb, enclave = Document.read(published.tcb_info), Document.read(published.qe_identity)
    lasting = {f"{one.role.value} {one.serial:x}": one.span for one in (processor, issuer, *signers, anchor)}
    renewed = {
        "the root's list of revoked certificates": by_root.span,
        "the list of revoked processors": by_issuer.span,
        "what is published of the processor": Span(tcb.issued, tcb.expires),
        "what is published of the quoting enclave": Span(enclave.issued, enclave.expires),
    }
    for what, span in (lasting | renewed).items():
        span.check(now, what)
    by_root.check((issuer, *signers, anchor))
    by_issuer.check((processor,))
    claims = _claims(quote, published, root, now)
    if bytes(claims["platform"]["pck"]["pce_id"]).hex() != tcb.content["pceId"].lower():
        raise NotGenuine(Flaw.COLLATERAL, "what is published is about another enclave that certifies keys")
    report = found.report
    return Report(
        technology=Technology.TDX,
        root=root,
        report_data=report.report_data,
        measurement=report.mr_td,
        registers=report.registers,
        configuration=report.mr_config_id,
        signer=bytes(REGISTER_BYTES),
        versions=tuple(report.tee_tcb_svn),
        debug=bool(report.attributes[0] & DEBUG),
        status=claims["tcb"]["status"],
        advisories=tuple(claims["tcb"]["advisory_ids"]),
        issued=min(by_issuer.span.begin, tcb.issued, enclave.issued),
        expires=min(span.end for span in (lasting | renewed).values()),
        serial=f"{processor.serial:x}",
    )


def _root(embedded: bytes, roots: Collection[Root]) -> Root:
    """The one that the quote embeds, if it is pinned."""
    for root in roots:
        makers = root.certificate is None and hashlib.sha256(embedded).hexdigest() in MAKERS[Technology.TDX]
        if root.technology is Technology.TDX and (root.certificate == embedded or makers):
            return root
    raise NotGenuine(Flaw.ROOT, f"leads to {hashlib.sha256(embedded).hexdigest()[:16]}, which is not pinned")


def _signer(chain: str, anchor: Certificate) -> Certificate:
    """Who signs a document: a certificate that the root has issued for that."""
    ders = pem.read(chain)
    if len(ders) != 2:
        raise NotGenuine(Flaw.CERTIFICATE, f"{len(ders)} certificates for a document, where there have to be two")
    if ders[1] != anchor.der:
        raise NotGenuine(Flaw.ROOT, "a document leads to another root than the quote")
    return chains.certificate(ders[0], (Role.SIGNING,), anchor)


def _claims(quote: bytes, published: Collateral, root: Root, now: int) -> dict[str, Any]:
    """What dcap-qvl finds. Raises NotGenuine."""
    verifier = dcap_qvl.QuoteVerifier(root.certificate)
    try:
        claims = verifier.verify_with_policy(quote, published.given(), now, dcap_qvl.QuotePolicy.claims_only(now))
    except ValueError as error:
        said = str(error).removeprefix("Verification failed: ")
        flaw = next((flaw for part, flaw in _FINDINGS if part in said), Flaw.COLLATERAL)
        raise NotGenuine(flaw, said) from None
    found: dict[str, Any] = json.loads(claims.to_json())
    return found
