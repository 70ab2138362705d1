"""What was seen of a peer is what is remembered of it: across restarts, processes, and clocks that are set back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.core.lots import FLOOR, weight
from decentral.core.reputation import CAP, HALF_LIFE, LIE, SILENCE, TESTS, Reputation
from decentral.errors import UserError
from decentral.serving.selection.ledger import FILE, Ledger
from decentral.serving.selection.reputation import FRESH, LIES, PENDING, Reputations, judged
from decentral.serving.selection.reputation import SILENCE as SILENT
from decentral.trust.evidence import Claim, Fault, FaultKind, Question, SignedClaim
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId

PEERS = [Identity.from_seed(name.encode()).id for name in "abcd"]
A, B, C, D = PEERS
QUESTION = Question(bytes(16), "stage-1", bytes(32), bytes(32), bytes(32), 1)
PROOF = (SignedClaim(bytes(32), Claim(QUESTION, bytes(32)), bytes(32), bytes(64)),)


def fault(peer: PeerId, kind: FaultKind, part: str = "stage-1") -> Fault:
    return Fault(peer, part, kind, "a detail", PROOF if kind in (FaultKind.LIED, FaultKind.EQUIVOCATED) else ())


class Time:
    """Of a clock that tests move."""

    def __init__(self, at: float = 1e9) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def reputations(tmp_path: Path, time: Time) -> Reputations:
    return Reputations(Ledger.open(tmp_path / FILE), time)


reputation_values = st.builds(
    Reputation, st.integers(0, int(CAP)).map(float), st.integers(0, int(CAP)).map(float), st.integers(0, TESTS)
)
fault_lists = st.lists(
    st.builds(fault, st.just(A), st.sampled_from(FaultKind), st.sampled_from(["x", "y"])), max_size=5
)


def test_every_kind_of_fault_has_one_consequence() -> None:
    assert sorted(kind.name for kinds in (LIES, SILENT, PENDING) for kind in kinds) == sorted(FaultKind.__members__)


@given(reputation_values, fault_lists, st.integers(0, 3), st.integers(0, 3), st.randoms())
def test_scores_stay_in_bounds_and_the_order_of_faults_does_not_matter(
    before: Reputation, faults: list[Fault], agreed: int, passed: int, order
) -> None:
    after = judged(before, faults, agreed=agreed, passed=passed)
    assert 0 < after.score < 1
    assert 0 <= after.standing < 1
    order.shuffle(faults)
    assert judged(before, faults, agreed=agreed, passed=passed) == after


@given(reputation_values, st.sampled_from(sorted(LIES, key=str)), st.integers(0, 50), st.integers(0, TESTS))
def test_a_lie_forfeits_what_the_same_judgement_has_to_say_for_a_peer(
    before: Reputation, kind: FaultKind, agreed: int, passed: int
) -> None:
    after = judged(before, [fault(A, kind)], agreed=agreed, passed=passed)
    assert after == before.lied()
    assert after.newcomer


@given(reputation_values, st.sampled_from(sorted(LIES, key=str)), st.sampled_from(FaultKind))
def test_one_answer_is_held_against_a_peer_once(before: Reputation, lie: FaultKind, also: FaultKind) -> None:
    assert judged(before, [fault(A, lie), fault(A, also)]) == before.lied()
    elsewhere = fault(A, lie, "stage-2")
    assert judged(before, [fault(A, lie), elsewhere]).bad == min(before.bad + 2 * LIE, CAP)


@given(reputation_values)
def test_silence_is_no_lie_and_disagreeing_is_nothing_yet(before: Reputation) -> None:
    silent = judged(before, [fault(A, FaultKind.UNRESPONSIVE)])
    assert silent.bad == min(before.bad + SILENCE, CAP)
    assert (silent.good, silent.passed) == (before.good, before.passed)
    assert judged(before, [fault(A, FaultKind.DISAGREED)]) == before
    assert judged(before, [fault(A, FaultKind.BUSY)]) == before
    assert judged(before, [fault(A, FaultKind.DISAGREED), fault(A, FaultKind.LIED)]) == before.lied()


def test_a_judgement_reaches_those_whom_it_is_about(reputations: Reputations) -> None:
    faults = [fault(B, FaultKind.UNRESPONSIVE), fault(C, FaultKind.LIED), fault(D, FaultKind.DISAGREED)]
    reputations.record(faults, agreed=[A])
    assert reputations.of(A) == Reputation().answered()
    assert reputations.of(B) == Reputation().silent()
    assert reputations.of(C) == Reputation().lied()
    assert reputations.of(D) == Reputation()
    reputations.record(passed=[A] * TESTS)
    assert not reputations.of(A).newcomer
    assert reputations.weights(PEERS) == {A: weight(reputations.of(A).score), B: FLOOR, C: FLOOR, D: FLOOR}


Record = tuple[PeerId, FaultKind | None]
harmless = [None, FaultKind.UNRESPONSIVE, FaultKind.DISAGREED]


def recorded(records: Sequence[Record]) -> dict[PeerId, Reputation]:
    with TemporaryDirectory() as folder, Ledger.open(Path(folder) / FILE) as ledger:
        reputations = Reputations(ledger, Time())
        for peer, kind in records:
            reputations.record(*(([fault(peer, kind)], []) if kind else ([], [peer])))
        return {peer: reputations.of(peer) for peer in PEERS}


@settings(max_examples=12)
@given(st.lists(st.tuples(st.sampled_from(PEERS), st.sampled_from(harmless)), max_size=8), st.randoms())
def test_the_order_of_judgements_at_one_time_does_not_matter(records: list[Record], order) -> None:
    found = recorded(records)
    order.shuffle(records)
    assert recorded(records) == found


@settings(max_examples=12)
@given(st.permutations([(A, FaultKind.LIED), (A, FaultKind.UNRESPONSIVE), (B, None), (C, FaultKind.INVALID)]))
def test_nor_does_it_if_there_are_lies_among_them(records: list[Record]) -> None:
    found = recorded(records)
    assert found[A] == Reputation(0.0, LIE + SILENCE, 0)
    assert (found[B], found[C]) == (Reputation().answered(), Reputation().lied())


def test_what_is_remembered_survives_the_process_and_fades(tmp_path: Path, time: Time) -> None:
    with Ledger.open(tmp_path / FILE) as ledger:
        before = Reputations(ledger, time)
        before.record([fault(B, FaultKind.LIED)], agreed=[A] * 8, passed=[A] * TESTS)
        now = {peer: before.of(peer) for peer in PEERS}
    with Ledger.open(tmp_path / FILE) as ledger:
        after = Reputations(ledger, time)
        assert {peer: after.of(peer) for peer in PEERS} == now
        time.at += HALF_LIFE
        assert after.of(A).good == pytest.approx(now[A].good / 2)
        assert after.of(A).passed == TESTS
        assert after.of(B).bad == pytest.approx(LIE / 2)
        after.record(agreed=[A])
        assert after.of(A).good == pytest.approx(now[A].good / 2 + 1), "a new answer does not make old ones young"
        time.at += HALF_LIFE
        assert after.of(A).good == pytest.approx(now[A].good / 4 + 0.5)


def test_a_clock_that_is_set_back_gives_nothing_back(reputations: Reputations, time: Time) -> None:
    reputations.record([fault(A, FaultKind.LIED)])
    time.at -= 3600
    assert reputations.of(A).bad == LIE
    reputations.record([fault(A, FaultKind.UNRESPONSIVE)])
    time.at += 3600
    assert reputations.of(A).bad == LIE + SILENCE, "the hour that was lived twice fades once"


def test_what_another_process_has_judged_is_known_soon(tmp_path: Path, time: Time) -> None:
    with Ledger.open(tmp_path / FILE) as one, Ledger.open(tmp_path / FILE) as other:
        here, there = Reputations(one, time), Reputations(other, time)
        assert here.of(A) == Reputation()
        there.record([fault(A, FaultKind.LIED)])
        assert there.of(A) == Reputation().lied(), "at once where it was judged"
        time.at += FRESH
        assert here.of(A).bad == pytest.approx(LIE)


EACH = 15
WRITER = """
import sys
from pathlib import Path
from decentral.serving.selection.ledger import Ledger
from decentral.serving.selection.reputation import Reputations
from decentral.trust.evidence import Fault, FaultKind

file, agreed, silent, times = sys.argv[1:]
with Ledger.open(Path(file)) as ledger:
    reputations = Reputations(ledger, lambda: 1e9)
    print("ready", flush=True)
    sys.stdin.read()
    for _ in range(int(times)):
        reputations.record([Fault(silent, "stage-1", FaultKind.UNRESPONSIVE, "")], agreed=agreed.split())
"""


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / FILE
    commands = [[sys.executable, "-c", WRITER, str(file), f"{A} {peer}", B, str(EACH)] for peer in (C, D)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for command in commands]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    assert [process.communicate(timeout=60)[0] for process in started] == [b"", b""]
    with Ledger.open(file) as ledger:
        found = Reputations(ledger, Time())
        assert found.of(A) == Reputation(2.0 * EACH)
        assert found.of(B) == Reputation(0.0, min(2 * EACH * SILENCE, CAP))
        assert found.of(C) == found.of(D) == Reputation(float(EACH))


def test_a_row_that_no_judgement_makes_is_damage(tmp_path: Path) -> None:
    rows = [(CAP + 1, 0.0, 0, 0.0), (0.0, -1.0, 0, 0.0), ("much", 0.0, 0, 0.0), (0.0, 0.0, TESTS + 1, 0.0)]
    for row in rows:
        with Ledger.open(tmp_path / FILE) as ledger:
            with ledger.writing() as connection:
                connection.execute("INSERT OR REPLACE INTO reputations VALUES (?, ?, ?, ?, ?)", (A, *row))
            for use in (lambda r: r.of(A), lambda r: r.weights([A]), lambda r: r.record(agreed=[A])):
                with pytest.raises(UserError, match=r"is damaged.*nothing was changed"):
                    use(Reputations(ledger))
