"""What a call says of its sender's trace is taken if it has exactly the one form, and is nothing otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.wire.tracing import HEADER, UNTRACED, TraceParent

GOOD = f"00-{'a' * 32}-{'b' * 16}-01"


@given(trace=st.integers(1, 2**128 - 1), span=st.integers(1, 2**64 - 1))
def test_a_place_in_a_trace_arrives_as_it_was_sent(trace, span):
    parent = TraceParent(trace, span)
    assert TraceParent.of((("decentral", "1"), *parent.metadata())) == parent


@settings(max_examples=20)
@given(st.text(max_size=80))
def test_any_other_text_is_as_if_there_was_none(said):
    assert TraceParent.of([(HEADER, said)]) is None


@pytest.mark.parametrize(
    "said",
    [
        GOOD.upper(),
        GOOD + "\n",
        GOOD + "-more",
        " " + GOOD,
        GOOD.replace("00-", "01-", 1),
        f"00-{'0' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        GOOD.replace("a", "١", 1),
        GOOD.encode(),
        "0" * 8192,
    ],
    ids=["upper", "newline", "longer", "space", "version", "no trace", "no span", "digits", "bytes", "long"],
)
def test_what_is_nearly_of_the_form_is_not(said):
    assert TraceParent.of([(HEADER, GOOD)]) == TraceParent(int("a" * 32, 16), int("b" * 16, 16))
    assert TraceParent.of([(HEADER, said)]) is None


def test_of_two_neither_is_believed():
    assert TraceParent.of([(HEADER, GOOD), (HEADER, GOOD)]) is None


def test_without_a_tracing_nothing_is_sent_and_nothing_is_read():
    def read():
        raise AssertionError("somebody looked at the metadata")

    with UNTRACED.calling("Push", "peer") as metadata, UNTRACED.called("Push", "peer", read), UNTRACED.doing("answer"):
        assert metadata is None
