"""What a machine has signed along with what it is: 64 bytes that tie its evidence to a key, a question and a task.

Without the TLS key, evidence of a genuine machine could be shown by another that relays to it; without the nonce it
could be shown again later; without the peer, model, part and epoch it could be shown for another purpose; without the
HPKE key, whoever ends TLS in front of the machine would read what it is asked (RFC 9334, section 10; RA-TLS: Knauth et
al., arXiv 1801.05863); without a voice, a key that signs answers and is in no file, answers that were given elsewhere
could be laid beside it. The guest computes these bytes, and the verifier computes them again from what it knows itself:
nothing is read back out of them.
"""

from __future__ import annotations

import hashlib

from decentral import canonical
from decentral.attestation.report import REGISTER_BYTES
from decentral.errors import Malformed, Refusal
from decentral.wire.conversation import DIGEST_BYTES, NONCE_BYTES
from decentral.wire.identity import PEER_ID
from decentral.wire.limits import MAX_NUMBER
from decentral.wire.messages import PeerId

HPKE_KEY_BYTES = VOICE_BYTES = 32
MAX_TLS_KEY = 1024
MAX_PART = 64
VOUCHED = "answer of a machine"
"""Purpose of the signatures that a machine makes with its voice."""
_DOMAIN = b"decentral/report data/v1"


def report_data(
    *,
    tls_key: bytes,
    hpke_key: bytes,
    voice: bytes,
    peer: PeerId,
    nonce: bytes,
    model: bytes,
    part: str,
    epoch: int,
    events: bytes,
) -> bytes:
    """64 bytes, SHA-512 over all of it, each field after its length.

    `tls_key`: the public key of the certificate that the peer shows in TLS (SubjectPublicKeyInfo in DER, 1024 bytes at
    most); `hpke_key`: X25519, raw, 32 bytes; `voice`: Ed25519, raw, 32 bytes, see `VOUCHED`; `nonce`: the
    verifier's, 32 bytes, new for each piece of evidence; `model`: digest of the part that it serves, 32 bytes; `part`:
    its name, printable, 64 bytes at most; `epoch`: how often the cluster's models have been replaced; `events`: digest
    of the log of events, 48 bytes. Raises Malformed for fields of another form.
    """
    lengths = (
        (hpke_key, HPKE_KEY_BYTES, "key for HPKE"),
        (voice, VOICE_BYTES, "voice"),
        (nonce, NONCE_BYTES, "nonce"),
        (model, DIGEST_BYTES, "digest of a model"),
        (events, REGISTER_BYTES, "digest of events"),
    )
    for value, length, name in lengths:
        if len(value) != length:
            raise Malformed(Refusal.MALFORMED, f"a {name} of {len(value)} bytes in place of {length}")
    if not 0 < len(tls_key) <= MAX_TLS_KEY:
        raise Malformed(Refusal.MALFORMED, f"a public key of {len(tls_key)} bytes")
    if not PEER_ID.match(peer):
        raise Malformed(Refusal.MALFORMED, f"{peer[:60]!r} is no peer")
    # What is not printable may be no text at all (half of a surrogate pair), and has no bytes then.
    if not part.isprintable() or not 0 < len(part.encode()) <= MAX_PART or not 0 <= epoch < MAX_NUMBER:
        raise Malformed(Refusal.MALFORMED, "no part of a model, or no epoch")
    fields = (tls_key, hpke_key, voice, peer.encode(), nonce, model, part.encode(), epoch.to_bytes(8, "big"), events)
    return hashlib.sha512(canonical.joined(_DOMAIN, *fields)).digest()
