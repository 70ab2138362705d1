"""What arrived waits for its reader, within bounds."""

from __future__ import annotations

import asyncio

import pytest

from decentral.errors import Malformed, Refusal
from decentral.wire.identity import Identity
from decentral.wire.mailbox import Mailbox, Question
from decentral.wire.messages import Membership, Message, PeerId, Ping, Pong
from decentral.wire.transport import Envelope

ALICE, BOB = Identity.from_seed(b"alice").id, Identity.from_seed(b"bob").id


def envelope(message: Message, sender: PeerId = ALICE) -> Envelope:
    return Envelope(sender, message, lambda answer: None, lambda reason: None)


async def test_a_cancelled_reader_loses_nothing() -> None:
    mailbox = Mailbox(pending=8)
    inbox = mailbox.inbox(Ping)
    waiting = asyncio.ensure_future(anext(inbox))
    await asyncio.sleep(0)
    waiting.cancel()
    mailbox.deliver(envelope(Ping(1)))
    assert (await anext(inbox)).message == Ping(1)


async def test_an_inbox_that_loses_one_of_its_kinds_goes_on_with_the_others() -> None:
    mailbox = Mailbox(pending=8)
    former = mailbox.inbox(Ping, Membership)
    latter = mailbox.inbox(Ping)
    mailbox.deliver(envelope(Ping(1)))
    mailbox.deliver(envelope(Membership(())))
    assert (await anext(former)).message == Membership(())
    assert (await anext(latter)).message == Ping(1)


async def test_what_waits_is_bounded_for_each_sender_and_kind() -> None:
    mailbox = Mailbox(pending=2)
    for number in range(2):
        mailbox.deliver(envelope(Ping(number)))
    with pytest.raises(Malformed) as malformed:
        mailbox.deliver(envelope(Ping(2)))
    assert malformed.value.reason is Refusal.BUSY
    mailbox.deliver(envelope(Ping(0), BOB))
    mailbox.deliver(envelope(Membership(())))
    inbox = mailbox.inbox(Ping)
    assert [(await anext(inbox)).sender for _ in range(3)] == [ALICE, ALICE, BOB]
    for number in range(2):
        mailbox.deliver(envelope(Ping(number)))


async def test_a_closed_mailbox_ends_its_readers_and_takes_no_more() -> None:
    mailbox = Mailbox(pending=2)
    inbox = mailbox.inbox(Ping)
    mailbox.deliver(envelope(Ping(0)))
    mailbox.close()
    assert [entry async for entry in inbox] == []
    with pytest.raises(Malformed):
        mailbox.deliver(envelope(Ping(1)))


async def test_the_first_word_on_a_question_holds() -> None:
    question = Question()
    settled = []
    question.on_settled(lambda: settled.append(True))
    question.settle(Pong(1))
    question.settle(Refusal.STALE)
    question.abandon()
    assert await question.outcome() == Pong(1)
    await asyncio.sleep(0)
    assert settled == [True]
