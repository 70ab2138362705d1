"""Who is cut off: silence of all, no refusal of any; and how long such a peer waits."""

from __future__ import annotations

import asyncio

import async_solipsism
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.algorithms.silence import Silence
from decentral.errors import Refusal, Refused, Silent, TransportError, Unreachable
from decentral.wire.clock import VirtualClock
from tests.algorithms.conftest import Listing

ENDINGS: dict[str, TransportError | None] = {
    "answered": None,
    "silent": Silent("nobody"),
    "gone": Unreachable("connection refused"),
    "refused": Refused(Refusal.BUSY),
}


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(sorted(ENDINGS))), max_size=20))
def test_the_last_call_to_each_decides_and_one_who_is_there_is_enough(calls):
    silence = Silence(None, None, 30.0)  # type: ignore[arg-type]  # nobody waits here
    for index, ending in calls:
        error = ENDINGS[ending]
        silence.heard(index) if error is None else silence.failed(index, error)
    last = dict(calls)
    for others in ({0}, {0, 1}, {0, 1, 2, 3}):
        assert silence.covers(others) == all(last.get(index) == "silent" for index in others)
    assert not silence.covers(set())


def waiting(until: float, heard: float | None = None) -> tuple[list[float], Listing]:
    """When a peer that is cut off until then gave up, or went on, for each of two times that it waits."""
    clock = VirtualClock(None)  # type: ignore[arg-type]  # nothing is worked on
    journal, ends = Listing(clock), list[float]()
    silence = Silence(clock, journal, 30.0)

    async def cut_off() -> bool:
        await asyncio.sleep(1.0)
        return clock.now() < until

    async def scene() -> None:
        for _ in range(2):
            await silence.outlast(7, cut_off)
            ends.append(clock.now())
            if heard is not None:
                silence.heard(0)

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(scene())
    return ends, journal


def test_a_peer_that_is_cut_off_waits_until_it_is_not():
    ends, journal = waiting(until=10.0)
    assert ends[0] == pytest.approx(10.0, abs=1.01)
    assert journal.of("cut_off")[0]["round"] == 7


def test_it_waits_for_a_while_and_then_not_again_until_it_has_heard_of_somebody():
    ends, journal = waiting(until=1000.0)
    assert ends == pytest.approx([30.0, 30.0], abs=1.01) and len(journal.of("cut_off")) == 1
    ends, journal = waiting(until=1000.0, heard=0.0)
    assert ends == pytest.approx([30.0, 60.0], abs=2.02) and len(journal.of("cut_off")) == 2
