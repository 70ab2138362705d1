"""The router finds who answers best, finds out when that changes, and has no say in who audits."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.core.lots import draw, weight
from decentral.core.reputation import TESTS, Reputation
from decentral.serving.selection.experience import Experience
from decentral.serving.selection.ledger import FILE, Ledger
from decentral.serving.selection.reputation import Reputations
from decentral.serving.selection.routing import FIRST_PAUSE, LONGEST_PAUSE, Router, worth
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId

PEERS = [Identity.from_seed(name.encode()).id for name in "abcd"]
A, B, C, D = PEERS
KNOWN = Reputation(10.0, 0.0, TESTS)
LIAR = KNOWN.lied()
PART = "stage-1"


class World:
    """A clock and reputations that tests set."""

    def __init__(self, standing: dict[PeerId, Reputation] | None = None) -> None:
        self.time = 0.0
        self.standing = standing if standing is not None else dict.fromkeys(PEERS, KNOWN)

    def now(self) -> float:
        return self.time

    def of(self, peer: PeerId) -> Reputation:
        return self.standing.get(peer, Reputation())

    def router(self, **options: object) -> Router:
        return Router(self, self.now, chance=random.Random(0), **options)  # type: ignore[arg-type]


def ask(router: Router, peer: PeerId, seconds: float | None) -> None:
    router.began(peer)
    router.ended(peer, seconds)


def served(router: Router, latencies: dict[PeerId, float | None], times: int, world: World) -> list[PeerId]:
    """Who was chosen, one request after another."""
    chosen = []
    for _ in range(times):
        peer = router.serves(PART, list(latencies))
        ask(router, peer, latencies[peer])
        world.time += latencies[peer] or 1.0
        chosen.append(peer)
    return chosen


latencies = st.floats(0, 1e6)


@given(st.none() | latencies, latencies.filter(bool), st.floats(0, 1e6))
def test_an_answer_is_worth_something_between_nothing_and_one(
    seconds: float | None, quickest: float, price: float
) -> None:
    found = worth(seconds, quickest, price)
    assert 0 <= found <= 1
    assert found <= worth(seconds, quickest, 0.0)
    assert worth(None if seconds is None else seconds + 1, quickest, price) <= found
    assert worth(None, quickest, price) == 0


def test_the_quickest_is_found_whatever_the_unit() -> None:
    for unit in (1e-3, 1.0, 100.0):
        world = World()
        chosen = served(world.router(), {A: 4 * unit, B: unit, C: 2 * unit, D: 3 * unit}, 120, world)
        assert set(chosen[:8]) == set(PEERS), "everybody is tried"
        assert chosen[40:].count(B) > 0.8 * len(chosen[40:])


def test_one_that_slows_down_is_left_and_taken_again_when_it_is_quick_again() -> None:
    world = World()
    router = world.router(discount=0.97)
    quick = {A: 1.0, B: 0.2, C: 0.5, D: 1.0}
    served(router, quick, 100, world)
    slow = served(router, {**quick, B: 5.0}, 100, world)
    assert slow.count(B) <= 15
    assert slow[30:].count(C) > 50
    again = served(router, quick, 300, world)
    assert again[150:].count(B) > 100


def test_audits_teach_as_much_as_serving_does() -> None:
    world = World()
    router = world.router()
    router.serves(PART, PEERS)
    for _ in range(20):
        for peer, seconds in zip(PEERS, (1.0, 0.9, 0.1, 1.0), strict=True):
            ask(router, peer, seconds)
    assert served(router, dict(zip(PEERS, (1.0, 0.9, 0.1, 1.0), strict=True)), 10, world) == [C] * 10


def test_a_cheaper_one_is_preferred_to_one_as_quick() -> None:
    world = World()
    router = world.router()
    for peer in (A, C, D):
        router.announced(peer, 1.0)
    assert served(router, dict.fromkeys(PEERS, 1.0), 60, world)[20:].count(B) > 30
    with pytest.raises(ValueError, match="price"):
        router.announced(A, float("nan"))


def test_requests_under_way_make_others_more_attractive() -> None:
    world = World()
    router = world.router()
    alone = {A: 1.0, B: 1.3}
    for step in range(200):  # what is asked of one at the same time takes its turn
        peer = (A, B)[step % 2]
        router.serves(PART, [A, B])
        for _ in range(3):
            router.began(peer)
        for waiting in range(3):
            router.ended(peer, alone[peer] * (1 + waiting))
    first = router.serves(PART, [A, B])
    router.began(first)
    router.began(first)
    router.began(first)
    assert router.serves(PART, [A, B]) != first


def test_who_fails_is_left_alone_for_a_pause_that_doubles_and_ends_with_an_answer() -> None:
    world = World()
    router = world.router()

    def asked() -> set[PeerId]:
        found = set()
        for _ in range(30):
            found.add(peer := router.serves(PART, [A, B]))
            ask(router, peer, 1.0)
        return found

    pause = FIRST_PAUSE
    for _ in range(9):
        ask(router, A, None)
        world.time += pause - 0.001
        assert asked() == {B}
        world.time += 0.002
        pause = min(2 * pause, LONGEST_PAUSE)
    ask(router, A, 0.1)
    ask(router, A, None)
    world.time += FIRST_PAUSE + 0.001
    assert router.serves(PART, [A]) == A
    ask(router, B, None)
    assert router.serves(PART, [A, B]) == A


def test_what_fails_together_is_one_failure() -> None:
    world = World()
    router = world.router()
    for _ in range(10):
        router.began(A)
    for _ in range(10):
        router.ended(A, None)
    ask(router, B, None)
    world.time += FIRST_PAUSE / 2
    ask(router, B, 1.0)
    world.time += FIRST_PAUSE / 2
    for _ in range(20):
        ask(router, B, 100.0)
    assert router.serves(PART, [A]) == A
    ask(router, A, 1.0)
    assert router.serves(PART, [A, B]) == A, "the pause was the first and is over"


def test_where_all_are_aside_the_one_whose_pause_ends_first_is_asked() -> None:
    world = World()
    router = world.router()
    for peer in (C, A, B):
        ask(router, peer, None)
        world.time += 1
    assert router.serves(PART, [A, B, C]) == C


def test_strangers_serve_only_where_nobody_known_is_awake_and_liars_after_them() -> None:
    world = World({A: KNOWN, C: LIAR})
    router = world.router()
    for _ in range(50):
        assert router.serves(PART, PEERS) == A
        ask(router, A, 100.0)
    ask(router, A, None)
    without = {router.serves(PART, PEERS)}
    ask(router, B, None)
    without.add(router.serves(PART, PEERS))
    assert without == {B, D} or without <= {B, D}
    ask(router, D, None)
    assert router.serves(PART, PEERS) == C
    fresh = World({})
    assert fresh.router().serves(PART, PEERS) in PEERS


def test_newcomers_are_tested_now_and_then_and_liars_less_often() -> None:
    world = World({A: KNOWN, B: LIAR, C: Reputation()})
    router = world.router(testing=0.25)
    drawn = [router.tests([A, B, C]) for _ in range(2000)]
    assert A not in drawn
    assert 0.1 < drawn.count(C) / 2000 < 0.15, "one in four, and every other of them falls on who has lied"
    assert 0 < drawn.count(B) < drawn.count(C) / 3, "who is tested not every time"
    ask(router, C, None)
    assert C not in [router.tests([C]) for _ in range(100)]
    assert World().router(testing=1.0).tests(PEERS) is None, "nobody is new"
    assert world.router(testing=0.0).tests(PEERS) is None


def test_what_cannot_be_is_refused() -> None:
    router = World().router()
    with pytest.raises(ValueError, match="nobody serves"):
        router.serves(PART, [])
    with pytest.raises(ValueError, match="no request"):
        router.ended(A, 1.0)
    router.began(A)
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="takes"):
            router.ended(A, seconds)
    router.ended(A, 1.0)


@given(
    st.lists(st.tuples(st.sampled_from(PEERS), st.none() | st.floats(0, 100)), max_size=30),
    st.binary(min_size=32, max_size=32),
)
def test_nothing_that_a_router_learns_or_chooses_changes_the_lots(
    history: list[tuple[PeerId, float | None]], nonce: bytes
) -> None:
    """Weights come from reputations, which it reads only; and the others keep their order whoever serves."""
    world = World({A: KNOWN, B: LIAR, C: Reputation(3.0, 1.0, TESTS)})
    before = dict(world.standing)
    weights = {peer: weight(world.of(peer).standing) for peer in PEERS}
    everybody = draw(nonce, PART, weights, len(PEERS))
    router = world.router()
    for peer, seconds in history:
        router.serves(PART, PEERS)
        router.tests(PEERS)
        ask(router, peer, seconds)
    serving = router.serves(PART, PEERS)
    assert world.standing == before
    assert {peer: weight(world.of(peer).standing) for peer in PEERS} == weights
    assert draw(nonce, PART, weights, len(PEERS)) == everybody
    others = {peer: weights[peer] for peer in PEERS if peer != serving}
    assert draw(nonce, PART, others, 3) == [peer for peer in everybody if peer != serving]


def nonces(count: int) -> Iterable[bytes]:
    return (hashlib.sha256(bytes([number])).digest() for number in range(count))


def test_a_favourite_of_the_router_audits_no_more_often_than_others_as_good() -> None:
    world = World()
    served(world.router(), {A: 0.1, B: 5.0, C: 5.0, D: 5.0}, 50, world)
    weights = {peer: weight(world.of(peer).standing) for peer in PEERS}
    drawn = [peer for nonce in nonces(200) for peer in draw(nonce, PART, weights, 2)]
    assert max(abs(drawn.count(peer) - 100) for peer in PEERS) < 35


def test_a_router_goes_on_with_what_earlier_ones_have_learned(tmp_path: Path) -> None:
    world = World()
    with Ledger.open(tmp_path / FILE) as ledger:
        router = world.router(learned=Experience(ledger))
        served(router, {A: 2.0, B: 2.0, C: 0.2, D: 2.0}, 80, world)
        router.save()
        router.save()
    with Ledger.open(tmp_path / FILE) as ledger:
        assert world.router(learned=Experience(ledger)).serves(PART, PEERS) == C
        other = world.router(learned=Experience(ledger))
        served(other, {A: 0.01, B: 2.0, C: 0.2, D: 2.0}, 5, world)
    with Ledger.open(tmp_path / FILE) as ledger:
        assert world.router(learned=Experience(ledger)).serves(PART, PEERS) == C, "the other never saved"


def test_it_reads_the_reputations_that_a_client_keeps(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / FILE) as ledger:
        reputations = Reputations(ledger, lambda: 1e9)
        reputations.record(agreed=[C], passed=[C] * TESTS)
        router = Router(reputations, lambda: 0.0, learned=Experience(ledger))
        assert {router.serves(PART, PEERS) for _ in range(5)} == {C}


def test_a_request_that_is_withdrawn_teaches_nothing_and_puts_nobody_aside():
    router = World().router()
    router.serves(PART, [A, B])
    before = router._track(A)
    router.began(A)
    router.withdrawn(A)
    assert router._awake(A)
    assert router._track(A).seen == before.seen
    with pytest.raises(ValueError, match="no request"):
        router.withdrawn(A)


def test_how_long_one_takes_is_known_once_it_has_answered_and_nothing_where_it_has_only_failed() -> None:
    router = World().router()
    assert router.usual(A) is None
    ask(router, A, None)
    assert router.usual(A) == 0.0
    ask(router, A, 2.0)
    assert router.usual(A) == 2.0
    ask(router, A, None)
    assert router.usual(A) == 2.0, "what did not come took no time"
