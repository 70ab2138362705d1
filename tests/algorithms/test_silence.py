"""Who is cut off: silence of all, no refusal of any; and how long such a peer waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decentral.algorithms.silence import Silence
from decentral.errors import Refusal, Refused, Silent, TransportError, Unreachable
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


class Still:
    """A clock that stands where it is put."""

    time = 0.0

    def now(self) -> float:
        return self.time


def test_it_waits_for_so_long_and_then_not_again_until_it_has_heard_of_anybody():
    clock = Still()
    journal = Listing(clock)  # type: ignore[arg-type]  # of a clock it needs the time alone
    silence = Silence(clock, journal, 30.0)  # type: ignore[arg-type]
    for clock.time, waits in ((5.0, True), (34.9, True), (35.0, False), (100.0, False)):
        assert silence.patient(7) is waits
    assert [(event["t"], event["round"]) for event in journal.of("cut_off")] == [(5.0, 7)]
    silence.failed(0, Silent("nobody"))
    assert not silence.patient(8)
    silence.heard(1)
    assert silence.patient(9) and len(journal.of("cut_off")) == 2
