"""Evidence is tied to one key, peer, question, model, part, epoch and log."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.attestation.binding import report_data
from decentral.attestation.report import REPORT_DATA_BYTES
from decentral.errors import Malformed
from decentral.wire.identity import Identity

HONEST: dict[str, Any] = {
    "tls_key": b"\x30\x59" + bytes(89),
    "hpke_key": bytes(range(32)),
    "voice": bytes(range(3, 35)),
    "peer": Identity.from_seed(b"one").id,
    "nonce": bytes(range(1, 33)),
    "model": bytes(range(2, 34)),
    "part": "stage-1",
    "epoch": 1,
    "events": bytes(48),
}
OTHER: dict[str, Any] = {
    "tls_key": b"\x30\x59" + bytes(90),
    "hpke_key": bytes(32),
    "voice": bytes(32),
    "peer": Identity.from_seed(b"other").id,
    "nonce": bytes(32),
    "model": bytes(32),
    "part": "stage-10",
    "epoch": 2,
    "events": b"\1" + bytes(47),
}
fixed = st.binary(min_size=32, max_size=32)
inputs = st.fixed_dictionaries(
    {
        "tls_key": st.binary(min_size=1, max_size=3),
        "hpke_key": fixed,
        "voice": fixed,
        "peer": st.sampled_from([HONEST["peer"], OTHER["peer"]]),
        "nonce": fixed,
        "model": fixed,
        "part": st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=3),
        "epoch": st.integers(0, 2**63 - 1),
        "events": st.binary(min_size=48, max_size=48),
    }
)


def test_it_fills_what_a_guest_may_have_signed_and_is_the_same_for_the_same() -> None:
    assert len(report_data(**HONEST)) == REPORT_DATA_BYTES
    assert report_data(**HONEST) == report_data(**dict(HONEST))


def test_its_bytes_stay_what_they_are() -> None:
    """A verifier of another release computes the same."""
    assert report_data(**HONEST).hex().startswith("575c8d58bb4c7598a7b13773ebb82f17")


@pytest.mark.parametrize("field", HONEST)
def test_it_is_about_nothing_else(field: str) -> None:
    assert report_data(**(HONEST | {field: OTHER[field]})) != report_data(**HONEST)


@given(inputs, inputs)
def test_distinct_inputs_never_share_it(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (report_data(**one) == report_data(**other)) == (one == other)


def test_a_byte_cannot_move_from_one_field_to_the_next() -> None:
    """Keys of TLS and names of parts have no fixed length: they are what an attacker would stretch."""
    longer = HONEST | {"tls_key": HONEST["tls_key"] + HONEST["hpke_key"][:1], "hpke_key": HONEST["hpke_key"][1:] + b"7"}
    assert report_data(**longer) != report_data(**HONEST)
    assert report_data(**(HONEST | {"nonce": HONEST["model"], "model": HONEST["nonce"]})) != report_data(**HONEST)


LIES: dict[str, dict[str, Any]] = {
    "no TLS key": {"tls_key": b""},
    "a TLS key without end": {"tls_key": bytes(1025)},
    "a short key": {"hpke_key": bytes(31)},
    "a short voice": {"voice": bytes(31)},
    "a short nonce": {"nonce": b""},
    "a long nonce": {"nonce": bytes(33)},
    "a model in hexadecimal": {"model": b"a" * 64},
    "a short digest of events": {"events": bytes(32)},
    "no peer": {"peer": ""},
    "a peer in capitals": {"peer": HONEST["peer"].upper()},
    "a peer and a line": {"peer": HONEST["peer"] + "\n"},
    "no part": {"part": ""},
    "a long part": {"part": "ä" * 33},
    "a part that is no text": {"part": "\ud800"},
    "an epoch below zero": {"epoch": -1},
    "an epoch without end": {"epoch": 2**63},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_fields_of_another_form_are_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        report_data(**(HONEST | lie))
