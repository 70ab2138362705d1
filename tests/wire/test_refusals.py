"""Refusals come back with their reason, and never with more words than anybody wants to read."""

from __future__ import annotations

import pytest

from decentral.errors import Refusal, Refused
from decentral.wire.refusals import DETAIL_CHARACTERS, refused_in, refused_out
from decentral.wire.v1 import messages_pb2 as pb


@pytest.mark.parametrize("reason", list(Refusal))
def test_a_refusal_comes_back_with_its_reason(reason: Refusal) -> None:
    back = refused_in(refused_out(Refused(reason, "why")))
    assert (back.reason, back.detail) == (reason, "why")


def test_details_are_cut_on_both_ways() -> None:
    assert len(refused_out(Refused(Refusal.BUSY, "x" * 1000)).detail) == DETAIL_CHARACTERS
    assert len(refused_in(pb.Refused(reason=pb.REFUSAL_BUSY, detail="x" * 1000)).detail) == DETAIL_CHARACTERS


def test_a_reason_that_nobody_knows_yet_is_unspecified() -> None:
    assert refused_in(pb.Refused(reason=99)).reason is Refusal.UNSPECIFIED  # type: ignore[arg-type]


def test_a_terminal_obeys_nothing_that_a_detail_says():
    assert refused_in(pb.Refused(reason=pb.REFUSAL_BUSY, detail="a\x1b[2Jb\nc é")).detail == "a?[2Jb?c é"
