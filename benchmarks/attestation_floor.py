"""What no evidence of a machine can do without, with nothing of ours around it: the floors of `attestation_cost`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decentral.attestation.report import Root, Technology
from decentral.attestation.snp import collateral as snp
from decentral.attestation.snp.report import SnpReport
from decentral.attestation.tdx import collateral as tdx

PIECE = 1 << 20
"""Bytes that the wire has in one message."""
SIGNATURES: dict[Technology, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    Technology.TDX: (ec.SECP256R1(), hashes.SHA256()),
    Technology.SNP: (ec.SECP384R1(), hashes.SHA384()),
}


def signed(technology: Technology) -> Callable[[], object]:
    """A signature as processors of that kind make it."""
    curve, algorithm = SIGNATURES[technology]
    key, data = ec.generate_private_key(curve), os.urandom(640)
    return lambda: key.sign(data, ec.ECDSA(algorithm))


def bare_dcap(quote: bytes, collateral: bytes, root: Root, now: int) -> Callable[[], object]:
    given, policy = tdx.Collateral.parse(collateral).given(), dcap_qvl.QuotePolicy.claims_only(now)
    return lambda: dcap_qvl.QuoteVerifier(root.certificate).verify_with_policy(quote, given, now, policy)


def bare_chain(report: bytes, collateral: bytes) -> Callable[[], object]:
    """The signatures that AMD's chain has: three certificates, a list, and the report."""
    papers, found = snp.Collateral.parse(collateral), SnpReport.parse(report)
    own, signer, root = map(x509.load_der_x509_certificate, papers.chain)
    revoked, key = x509.load_der_x509_crl(papers.revoked), own.public_key()
    signature = encode_dss_signature(found.r, found.s)
    above = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(above, RSAPublicKey)

    def work() -> None:
        own.verify_directly_issued_by(signer)
        signer.verify_directly_issued_by(root)
        root.verify_directly_issued_by(root)
        assert revoked.is_signature_valid(above)
        key.verify(signature, found.signed, ec.ECDSA(hashes.SHA384()))

    return work


def encrypted(sizes: Collection[int]) -> Callable[[], object]:
    """AES-256-GCM over so many bytes in pieces as the wire has them: sealed, and opened again."""
    cipher, nonce = AESGCM(AESGCM.generate_key(256)), bytes(12)
    pieces = [bytes(min(PIECE, size - done)) for size in sizes for done in range(0, size, PIECE)]

    def work() -> None:
        for piece in pieces:
            cipher.decrypt(nonce, cipher.encrypt(nonce, piece, None), None)

    return work
