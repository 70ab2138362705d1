"""A part is disputed where two who were asked have revealed different answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from decentral.trust.evidence import Reply
from tests.trust.world import World


@pytest.mark.parametrize(
    ("act", "disputed"),
    [("honest", False), ("lies", True), ("silent", False), ("withholds", False), ("breaks", False), ("copies", False)],
)
def test_what_is_revealed_decides(act: str, disputed: bool) -> None:
    exchanges = World().transcript({("stage-1", 1): act}).exchanges
    assert [each.disputed for each in exchanges] == [False, disputed, False]
    assert all(each.disputed for each in World(rounding=True).transcript({("stage-1", 1): act}).exchanges)


def test_who_was_not_asked_disputes_nothing() -> None:
    first, second, _ = World().transcript().exchanges
    stranger = next(iter(second.replies))
    assert not replace(first, replies={**first.replies, stranger: second.replies[stranger]}).disputed
    assert not replace(first, replies=dict.fromkeys(first.asked, Reply())).disputed
