"""What comes beside a report, in one form and of bounded size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral import canonical
from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.snp.collateral import FORMAT, MOST_BYTES, Collateral


@given(st.lists(st.binary(max_size=50), max_size=4), st.binary(max_size=50))
def test_what_is_written_is_read_again(chain: list[bytes], revoked: bytes) -> None:
    papers = Collateral(tuple(chain), revoked)
    assert Collateral.parse(papers.encode()) == papers


HONEST = {"chain": ["AA==", "AQ==", "Ag=="], "format": FORMAT, "revoked": "Aw=="}


def test_the_form_is_one_that_people_can_look_at() -> None:
    assert Collateral.parse(canonical.encode(HONEST)) == Collateral((b"\0", b"\1", b"\2"), b"\3")


@pytest.mark.parametrize(
    "other",
    [
        [],
        {**HONEST, "more": ""},
        {**HONEST, "format": "another"},
        {**HONEST, "chain": "AA=="},
        {**HONEST, "chain": [1]},
        {**HONEST, "chain": ["AA"]},
        {**HONEST, "revoked": None},
        {name: value for name, value in HONEST.items() if name != "revoked"},
    ],
)
def test_another_form_is_refused(other: object) -> None:
    with pytest.raises(NotGenuine) as refusal:
        Collateral.parse(canonical.encode(other))
    assert refusal.value.flaw is Flaw.MALFORMED


@given(st.binary(max_size=300))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(NotGenuine):
        Collateral.parse(data)


def test_too_much_is_refused_before_it_is_read() -> None:
    fits = Collateral((), bytes(1 << 17)).encode()
    assert len(fits) <= MOST_BYTES
    assert Collateral.parse(fits).revoked == bytes(1 << 17)
    with pytest.raises(NotGenuine, match="more than"):
        Collateral.parse(Collateral((), bytes(1 << 18)).encode())
