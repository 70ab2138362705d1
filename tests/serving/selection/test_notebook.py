"""What is learned from answers is written together and beside them; no test of a newcomer keeps anybody waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from decentral.errors import UserError
from decentral.serving.selection import notebook
from decentral.serving.selection.notebook import MOST_TESTS, MOST_WAITING, Notebook
from decentral.serving.selection.reputation import Judged
from decentral.trust.examination import Examination
from decentral.trust.order import Order, Step
from decentral.trust.policy import Policy, Verdict
from decentral.trust.transcript import Exchange, Transcript
from decentral.wire.messages import PeerId

PEER = PeerId("a" * 52)
STEP = Step("stage-0", bytes(32), PEER, {PEER: 1.0})
ORDER = Order(bytes(32), 1, PEER, 0, Policy(), bytes(32), (STEP,))


def answer(valid: bool = True) -> tuple[Examination, Transcript]:
    """That says nothing of anybody."""
    return Examination((), (), Verdict(valid, ()), None, ()), Transcript(ORDER, (Exchange(STEP, bytes(32), (), {}),))


class Books:
    """Stands for reputations and probation: writes down what it is told to, when the gate is open."""

    def __init__(self, error: Exception | None = None) -> None:
        self.written: list[int] = []
        self.learned = self.tests = self.called_off = 0
        self.gate, self.ends = threading.Event(), asyncio.Event()
        self.gate.set()
        self.error = error

    def take(self, judgements: Sequence[Judged]) -> None:
        self.gate.wait(20)
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.written.append(len(judgements))

    def learn(self, transcript: Transcript) -> None:
        self.learned += 1

    async def beside(self, transcript: Transcript, place: int, blamed: Any) -> None:
        self.tests += 1
        try:
            await self.ends.wait()
        except asyncio.CancelledError:
            self.called_off += 1
            raise


def kept(books: Any) -> Notebook:
    return Notebook(books, books)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_what_waits_is_written_in_one_transaction_and_all_of_it_before_the_end() -> None:
    books = Books()
    books.ends.set()
    books.gate.clear()
    made = kept(books)
    made.take(*answer())
    await asyncio.sleep(0.01)
    for _ in range(20):
        made.take(*answer(valid=False))
    books.gate.set()
    await made.close()
    assert books.written == [1, 20]
    assert books.learned == books.tests == 1, "what does not count is no question, and nobody is tested beside it"


async def test_who_asks_waits_only_where_much_waits_to_be_written() -> None:
    books = Books()
    books.ends.set()
    books.gate.clear()
    made = kept(books)
    made.take(*answer())
    await asyncio.sleep(0.01)
    for _ in range(MOST_WAITING):
        await asyncio.wait_for(made.room(), 5)
        made.take(*answer())
    waiting = asyncio.create_task(made.room())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    books.gate.set()
    await asyncio.wait_for(waiting, 20)
    await made.close()
    assert sum(books.written) == MOST_WAITING + 1


async def test_tests_that_nobody_answers_are_few_keep_nobody_waiting_and_are_called_off(monkeypatch) -> None:
    monkeypatch.setattr(notebook, "PARTING", 0.1)
    books = Books()
    made = kept(books)
    for number in range(3 * MOST_WAITING):
        await asyncio.wait_for(made.room(), 20)
        made.take(*answer())
        await until(lambda number=number: sum(books.written) == number + 1)
    await until(lambda: books.tests == MOST_TESTS)
    async with asyncio.timeout(20):
        await made.close()
    assert books.called_off == books.tests == MOST_TESTS


async def test_tests_that_are_under_way_have_a_moment_to_end() -> None:
    books = Books()
    made = kept(books)
    made.take(*answer())
    await until(lambda: books.tests == 1)
    asyncio.get_running_loop().call_later(0.05, books.ends.set)
    await made.close()
    assert books.called_off == 0


async def test_what_cannot_be_written_is_said_at_the_end_and_the_rest_is_written() -> None:
    books = Books(UserError("the ledger cannot grow"))
    books.ends.set()
    made = kept(books)
    made.take(*answer())
    await until(lambda: books.error is None)
    made.take(*answer())
    with pytest.raises(UserError, match="cannot grow"):
        await made.close()
    assert books.written == [1]


async def test_a_mistake_is_said_at_the_end_too() -> None:
    books = Books(KeyError("a mistake"))
    books.ends.set()
    made = kept(books)
    made.take(*answer())
    await until(lambda: books.error is None)
    with pytest.raises(KeyError):
        await made.close()
