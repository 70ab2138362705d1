"""A part is disputed where two who were asked have revealed different answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from decentral.trust.evidence import Reply, tensors_digest
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


def test_what_a_part_was_given_is_found_where_it_is_here() -> None:
    said = World().transcript({("stage-1", 0): "breaks"})
    for place, exchange in enumerate(said.exchanges):
        found = said.given(place)
        assert found is not None
        assert tensors_digest(found) == exchange.inputs
    assert replace(said, inputs=None).given(0) is None
    first, second, third = said.exchanges
    silent = replace(second, replies=dict.fromkeys(second.asked, Reply()))
    assert replace(said, exchanges=(first, silent, third)).given(2) is None
    misled = replace(second, replies=dict.fromkeys(second.asked, second.replies[second.asked[0]]))
    assert replace(said, exchanges=(first, misled, third)).given(2) is None, "what was sent is not what was revealed"
