"""A join counts if it is of our run, a record if it is its sender's newest word; each lie is refused by its name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from decentral.algorithms.admission import unfit, unlike_ours
from decentral.errors import Refusal
from decentral.wire.messages import PROTOCOL_VERSION, Join, MembershipRecord, MembershipStatus, PeerId

OWN, OTHER = PeerId("a" * 52), PeerId("b" * 52)
RECORD = MembershipRecord(OWN, b"key", MembershipStatus.JOIN, 7, "127.0.0.1:1", 1, b"signature")
JOIN = Join(RECORD, "recipe", "schema")


def test_who_has_our_recipe_and_model_is_let_in() -> None:
    assert unlike_ours(JOIN, "recipe", "schema") is None


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"protocol_version": PROTOCOL_VERSION + 1}, Refusal.PROTOCOL_VERSION),
        ({"recipe_hash": "another"}, Refusal.RECIPE),
        ({"schema_hash": "another"}, Refusal.SCHEMA),
        ({"record": replace(RECORD, status=MembershipStatus.LEAVE)}, Refusal.MALFORMED),
    ],
)
def test_who_differs_is_told_in_what(changed: dict[str, object], refusal: Refusal) -> None:
    assert unlike_ours(replace(JOIN, **changed), "recipe", "schema") is refusal


def test_a_first_record_the_same_once_more_and_a_newer_one_are_taken() -> None:
    assert unfit(RECORD, OWN, None) is None
    assert unfit(RECORD, OWN, RECORD) is None
    assert unfit(RECORD, OWN, replace(RECORD, counter=6)) is None


def test_a_record_about_somebody_else_is_refused_whatever_is_known() -> None:
    assert unfit(RECORD, OTHER, None) is Refusal.SIGNATURE
    assert unfit(RECORD, OTHER, RECORD) is Refusal.SIGNATURE


@pytest.mark.parametrize("counter", [7, 8])
def test_an_older_record_and_another_with_the_same_number_are_refused(counter: int) -> None:
    known = replace(RECORD, counter=counter, address="127.0.0.1:2")
    assert unfit(RECORD, OWN, known) is Refusal.STALE
