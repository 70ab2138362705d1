"""What Intel publishes, as one file that has one form."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from decentral import canonical
from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.tdx.collateral import LARGEST, Collateral, Document, seconds, time_text
from tests.attestation.tdx.machines import COLLATERAL, DAY, NOW

FILE = COLLATERAL.encode()


def refusal(data: bytes) -> Flaw:
    with pytest.raises(NotGenuine) as refused:
        Collateral.parse(data)
    return refused.value.flaw


def changed(**parts: object) -> bytes:
    return canonical.encode({**json.loads(FILE), **parts})


def test_collateral_is_written_as_it_was_read() -> None:
    assert Collateral.parse(FILE) == COLLATERAL
    assert Collateral.parse(FILE).encode() == FILE


def test_what_other_tools_write_is_taken_in() -> None:
    assert Collateral.imported(COLLATERAL.given().to_json()) == COLLATERAL
    with pytest.raises(NotGenuine, match="no collateral"):
        Collateral.imported("{}")


@pytest.mark.parametrize(
    ("data", "flaw"),
    {
        "nothing": (b"", Flaw.NOT_CANONICAL),
        "spaces": (FILE + b"\n", Flaw.NOT_CANONICAL),
        "a list": (b"[]", Flaw.MALFORMED),
        "another format": (changed(format="v2"), Flaw.MALFORMED),
        "one part more": (changed(extra=""), Flaw.MALFORMED),
        "no text": (changed(tcb_info=1), Flaw.MALFORMED),
        "no bytes": (changed(pck_crl="?"), Flaw.NOT_CANONICAL),
        "one part less": (FILE.replace(b'"pck_crl":', b'"pck_cr2":'), Flaw.MALFORMED),
        "more than is looked at": (bytes(LARGEST + 1), Flaw.MALFORMED),
    }.values(),
)
def test_any_other_file_is_refused(data: bytes, flaw: Flaw) -> None:
    assert refusal(data) is flaw


def test_a_document_says_from_when_to_when_it_is_valid() -> None:
    found = Document.read(COLLATERAL.tcb_info)
    assert (found.kind, found.version, found.issued, found.expires) == ("TDX", 3, NOW, NOW + 30 * DAY)
    assert seconds(time_text(NOW)) == NOW


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "1", '{"id":"TDX","version":3,"issueDate":"now","nextUpdate":"then"}']
)
def test_a_document_that_does_not_is_refused(text: str) -> None:
    with pytest.raises(NotGenuine) as refused:
        Document.read(replace(COLLATERAL, tcb_info=text).tcb_info)
    assert refused.value.flaw is Flaw.COLLATERAL
