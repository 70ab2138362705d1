"""Nothing of a task can be changed under its name, and who is asked about it can be drawn again."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral import canonical
from decentral.errors import Malformed
from decentral.trust.order import Order, Step
from decentral.trust.policy import Policy
from decentral.wire.identity import Identity

PEERS = [Identity.from_seed(f"peer-{i}".encode()).id for i in range(5)]
STEP = Step("stage-1", b"m" * 32, PEERS[0], dict.fromkeys(PEERS, 0.5))
ORDER = Order(
    b"s" * 32, 7, PEERS[4], 1_700_000_000, Policy(), b"i" * 32,
    (STEP, Step("stage-2", b"M" * 32, PEERS[1], {PEERS[1]: 1.0, PEERS[2]: 0.1})), (("stage-0", b"l" * 32),),
)  # fmt: skip
CHANGES = {
    "seed": b"S" * 32,
    "epoch": 8,
    "client": PEERS[3],
    "time": 1_700_000_001,
    "policy": Policy(tolerance=2e-4),
    "inputs": b"I" * 32,
    "steps": ORDER.steps[::-1],
    "local": (),
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_is_part_of_the_name(field: str) -> None:
    assert replace(ORDER, **{field: CHANGES[field]}).task != ORDER.task


def test_every_field_of_a_step_is_part_of_the_name() -> None:
    others = (
        replace(STEP, part="stage-9"),
        replace(STEP, model=b"M" * 32),
        replace(STEP, server=PEERS[1]),
        replace(STEP, weights={**STEP.weights, PEERS[2]: 0.6}),
        replace(STEP, weights=dict.fromkeys(PEERS[:4], 0.5)),
    )
    names = {replace(ORDER, steps=(step, ORDER.steps[1])).task for step in (STEP, *others)}
    assert len(names) == 1 + len(others)


def test_an_order_is_read_from_what_it_says_and_the_question_says_nothing_of_the_seed() -> None:
    assert Order.of(canonical.decode(canonical.encode(ORDER.plain()))) == ORDER
    question = ORDER.question(STEP, b"i" * 32)
    assert ORDER.seed not in question.encoded()
    assert (question.task, question.epoch, question.model) == (ORDER.task, 7, STEP.model)


@given(st.binary(min_size=32, max_size=32))
def test_the_one_that_serves_is_asked_first_and_the_others_in_an_order_that_the_seed_draws(seed: bytes) -> None:
    order = replace(ORDER, seed=seed)
    line = order.line(STEP)
    assert line[0] == STEP.server
    assert sorted(line) == sorted(PEERS)
    assert line == order.line(replace(STEP, weights=dict(reversed(STEP.weights.items()))))


def test_whoever_serves_auditors_are_drawn_alike() -> None:
    """So that learning who serves well cannot be gamed into knowing who audits."""
    second = Counter(replace(ORDER, seed=number.to_bytes(32, "big")).line(STEP)[1] for number in range(800))
    assert set(second) == set(PEERS[1:])
    assert min(second.values()) > 130, "of 200 expected: five standard deviations"


BROKEN = {
    "seed": ["", "AA==", 1, None],
    "epoch": [-1, 1.0, True, "7", 2**63],
    "client": ["", "nobody", 3],
    "time": [-1, 0.5, None],
    "policy": [{}, {"quorum": 0}, None, [], {**Policy().plain(), "more": 1}],
    "inputs": ["", "aa", "AA" * 32, 5],
    "steps": [None, 1, [{}], [STEP]],
    "local": [None, [["stage-0"]], [["", "00" * 32]]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BROKEN.items() for value in values])
def test_what_is_no_order_is_refused(key: str, value: object) -> None:
    with pytest.raises(Malformed):
        Order.of({**ORDER.plain(), key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("part", ""), ("part", "x" * 65), ("part", "a\n"), ("part", "\x1b[2J"), ("model", "00"),
     ("server", PEERS[0][:-1]), ("weights", {}),
     ("weights", {PEERS[0]: 0.0}), ("weights", {PEERS[0]: 1}), ("weights", {PEERS[0]: 1.5}),
     ("weights", {PEERS[1]: 0.5}), ("weights", {"x": 0.5})],
)  # fmt: skip
def test_a_step_that_cannot_be_is_refused(key: str, value: object) -> None:
    plain = copy.deepcopy(ORDER.plain())
    plain["steps"][0][key] = value
    with pytest.raises(Malformed):
        Order.of(plain)
    with pytest.raises(Malformed):
        Order.of({**ORDER.plain(), "more": 1})
