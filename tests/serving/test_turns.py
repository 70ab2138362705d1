"""Turns go round the clients that wait; whoever leaves costs nobody a turn."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from decentral.serving.turns import Turns
from decentral.wire.messages import PeerId

MANY, ONE = PeerId("m" * 52), PeerId("o" * 52)


async def log(turns: Turns, client: PeerId, number: int, said: list[tuple[PeerId, int]]) -> None:
    async with turns.of(client):
        await asyncio.sleep(0)
        said.append((client, number))


async def test_one_task_is_not_done_after_all_of_another_clients() -> None:
    turns, said = Turns(), list[tuple[PeerId, int]]()
    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(log(turns, MANY, number, said))
        group.create_task(log(turns, ONE, 0, said))
    assert said.index((ONE, 0)) <= 2
    assert [number for client, number in said if client == MANY] == list(range(50))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.sets(st.integers(0, 29)))
def test_all_that_wait_are_served_once_one_at_a_time_whoever_leaves(clients: list[int], leaving: set[int]) -> None:
    async def run() -> None:
        turns, done, inside = Turns(), list[int](), 0

        async def take(place: int, client: int) -> None:
            nonlocal inside
            async with turns.of(PeerId(str(client))):
                inside += 1
                assert inside == 1
                try:
                    await asyncio.sleep(0)
                    done.append(place)
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(take(*each)) for each in enumerate(clients)]
        await asyncio.sleep(0)
        for place in leaving & set(range(len(clients))):
            tasks[place].cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        stayed = {place for place, task in enumerate(tasks) if not task.cancelled()}
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        assert set(done) == stayed
        async with asyncio.timeout(5), turns.of(ONE):
            assert not turns._waiting

    asyncio.run(run())


async def test_who_is_given_a_turn_and_leaves_at_once_passes_it_on() -> None:
    turns, said = Turns(), list[tuple[PeerId, int]]()
    gate = asyncio.Event()

    async def first() -> None:
        async with turns.of(MANY):
            await gate.wait()

    holding = asyncio.create_task(first())
    await asyncio.sleep(0)
    leaves = asyncio.create_task(log(turns, MANY, 1, said))
    stays = asyncio.create_task(log(turns, ONE, 2, said))
    await asyncio.sleep(0)
    gate.set()
    await holding
    leaves.cancel()  # its turn has come in this very moment
    async with asyncio.timeout(5):
        await asyncio.gather(leaves, stays, return_exceptions=True)
    assert said == [(ONE, 2)]


async def test_what_is_called_off_leaves_nothing_behind_however_long_the_turn_before_it_lasts() -> None:
    turns, said = Turns(), list[tuple[PeerId, int]]()
    async with turns.of(ONE):
        stays = asyncio.create_task(log(turns, MANY, 0, said))
        for number in range(1, 100):
            leaves = asyncio.create_task(log(turns, PeerId("s" * 52) if number % 2 else MANY, number, said))
            await asyncio.sleep(0)
            leaves.cancel()
            await asyncio.gather(leaves, return_exceptions=True)
        assert {client: len(those) for client, those in turns._waiting.items()} == {MANY: 1}
    async with asyncio.timeout(5):
        await stays
    assert said == [(MANY, 0)]


async def test_a_turn_is_not_lost_to_who_leaves_just_before_it_comes() -> None:
    turns, said = Turns(), list[tuple[PeerId, int]]()
    async with turns.of(ONE):
        leaves = asyncio.create_task(log(turns, MANY, 1, said))
        stays = asyncio.create_task(log(turns, ONE, 2, said))
        await asyncio.sleep(0)
        leaves.cancel()  # and the turn is passed on before it has run again
    async with asyncio.timeout(5):
        await asyncio.gather(leaves, stays, return_exceptions=True)
    assert said == [(ONE, 2)]
    assert not turns._waiting
