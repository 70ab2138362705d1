"""Chains of certificates as PEM, in the one form in which OpenSSL writes them: 64 characters a line, one line feed.

PEM leaves much open (line lengths, spaces, text between certificates) that no signature covers. Here nothing is.
"""

from __future__ import annotations

import base64
import binascii

from decentral.attestation.report import Flaw, NotGenuine

BEGIN, END = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"
LINE = 64


def written(chain: tuple[bytes, ...]) -> str:
    """DER certificates, one after the other."""
    texts = (base64.b64encode(certificate).decode() for certificate in chain)
    return "".join(
        BEGIN + "".join(text[start : start + LINE] + "\n" for start in range(0, len(text), LINE)) + END
        for text in texts
    )


def read(text: str) -> tuple[bytes, ...]:
    """The certificates' DER. Raises NotGenuine (not canonical) unless `text` is what `written` gives."""
    parts = text.split(BEGIN)
    try:
        chain = tuple(base64.b64decode(part.removesuffix(END).replace("\n", ""), validate=True) for part in parts[1:])
    except (binascii.Error, ValueError) as error:
        raise NotGenuine(Flaw.NOT_CANONICAL, f"a certificate that is no Base64 ({error})") from None
    if written(chain) != text:
        raise NotGenuine(Flaw.NOT_CANONICAL, "certificates with something between, before or after their own lines")
    return chain
