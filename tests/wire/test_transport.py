"""The contract of `Transport`: each law holds for gRPC with mutual TLS and for the simulator's network."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from decentral.errors import Refusal, Refused, Unreachable
from decentral.wire.codec import message_size
from decentral.wire.elements import schema_hash
from decentral.wire.identity import Identity
from decentral.wire.limits import CHUNK_BYTES, Limits
from decentral.wire.messages import (
    Join,
    Leave,
    Membership,
    MembershipStatus,
    Message,
    Model,
    Ping,
    Pong,
    Traffic,
    Welcome,
)

RECORD = Identity.from_seed(b"somebody").record(MembershipStatus.JOIN, 3, "127.0.0.1:7000", 5)
LEAVING = Identity.from_seed(b"somebody").record(MembershipStatus.LEAVE, 4, "127.0.0.1:7000", 9)
DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8,
]  # fmt: skip


async def first(transport: Any, *kinds: type[Message]) -> Any:
    """The next envelope, or None if the inbox ends."""
    async with asyncio.timeout(20):
        return await anext(transport.inbox(*kinds), None)


async def test_a_message_comes_with_the_sender_that_the_connection_authenticated(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    await alice.send(bob.id, Ping(7))
    envelope = await first(bob, Ping)
    assert envelope.sender == alice.id
    assert envelope.message == Ping(7)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Ping(2), Pong(3)),
        (Join(RECORD, "recipe", "schema"), Welcome(4, (RECORD, LEAVING))),
        (Membership((RECORD,)), Membership((LEAVING, RECORD))),
        (Leave(LEAVING), Pong(1)),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_a_request_returns_the_answer_of_the_reader(world: Any, question: Message, answer: Message) -> None:
    alice, bob = await world.join(), await world.join()
    asking = asyncio.ensure_future(alice.request(bob.id, question, 20.0))
    envelope = await first(bob, type(question))
    assert envelope.message == question
    envelope.answer(answer)
    envelope.answer(Pong(99))  # too late: an answer is given once
    envelope.refuse(Refusal.STALE)
    assert await asking == answer


@pytest.mark.parametrize("reason", list(Refusal))
async def test_a_refusal_reaches_the_one_who_asked_with_its_reason(world: Any, reason: Refusal) -> None:
    alice, bob = await world.join(), await world.join()
    asking = asyncio.ensure_future(alice.request(bob.id, Ping(0), 20.0))
    (await first(bob, Ping)).refuse(reason)
    with pytest.raises(Refused) as refused:
        await asking
    assert refused.value.reason is reason


async def test_a_request_without_an_answer_is_unreachable_at_its_deadline(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    with pytest.raises(Unreachable):
        await alice.request(bob.id, Ping(0), 0.1)
    assert (await first(bob, Ping)).message == Ping(0)


async def test_what_comes_before_its_reader_is_kept_in_the_order_of_arrival(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    sent: list[Message] = [Ping(0), Leave(LEAVING), Ping(1), Membership(()), Ping(2)]
    for message in sent:
        await alice.send(bob.id, message)
    inbox = bob.inbox(Ping, Leave, Membership)
    assert [(await anext(inbox)).message for _ in sent] == sent


async def test_a_reader_sees_only_its_kinds(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    await alice.send(bob.id, Ping(0))
    await alice.send(bob.id, Leave(LEAVING))
    assert (await first(bob, Leave)).message == Leave(LEAVING)
    assert (await first(bob, Ping)).message == Ping(0)


async def test_a_later_reader_takes_over_and_the_former_ends(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    former = asyncio.ensure_future(first(bob, Ping))
    await asyncio.sleep(0)
    latter = bob.inbox(Ping)
    await alice.send(bob.id, Ping(5))
    assert (await anext(latter)).message == Ping(5)
    assert await former is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
async def test_tensors_of_every_type_arrive_bit_by_bit(world: Any, dtype: torch.dtype) -> None:
    alice, bob = await world.join(), await world.join()
    numbers = torch.randint(-100, 100, (33, 5), generator=torch.Generator().manual_seed(1))
    tensors = {"weight": (numbers / 7 if dtype.is_floating_point else numbers).to(dtype)}
    tensors |= {"scalar": tensors["weight"][3, 2], "empty": tensors["weight"][:0], "turned": tensors["weight"].t()}
    if dtype.is_floating_point:
        tensors["odd"] = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0], dtype=dtype)
    await alice.send(bob.id, Model(3, tensors, samples=12, tag="average"))
    model = (await first(bob, Model)).message
    assert (model.round, model.samples, model.tag) == (3, 12, "average")
    assert model.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        came = model.tensors[name]
        assert (came.dtype, came.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(came.contiguous().view(-1).view(torch.uint8), tensor.contiguous().view(-1).view(torch.uint8))


@pytest.mark.parametrize("elements", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 17])
async def test_a_model_of_any_size_arrives_and_is_counted_after_encoding(world: Any, elements: int) -> None:
    alice, bob = await world.join(), await world.join()
    model = Model(1, {"a": torch.randint(0, 256, (elements,)).to(torch.uint8), "b": torch.ones(3)})
    await alice.send(bob.id, model)
    came = (await first(bob, Model)).message
    assert torch.equal(came.tensors["a"], model.tensors["a"])
    assert alice.traffic.sent[Traffic.MODEL] == message_size(model) >= elements
    assert alice.traffic.sent[Traffic.CONTROL] == 0


async def test_letters_are_counted_where_they_are_sent(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    asking = asyncio.ensure_future(alice.request(bob.id, Membership((RECORD,)), 20.0))
    (await first(bob, Membership)).answer(Membership((RECORD, LEAVING)))
    await asking
    assert alice.traffic.sent[Traffic.CONTROL] == message_size(Membership((RECORD,)))
    assert bob.traffic.sent[Traffic.CONTROL] > alice.traffic.sent[Traffic.CONTROL] > 0


async def test_later_changes_of_the_sender_do_not_reach_the_receiver(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    weight = torch.zeros(1000)
    await alice.send(bob.id, Model(1, {"weight": weight}))
    weight.fill_(1.0)
    came = (await first(bob, Model)).message.tensors["weight"]
    assert not came.any()
    came.fill_(2.0)  # it is the receiver's own
    assert weight.eq(1.0).all()


async def test_one_model_goes_to_several_peers_at_once(world: Any) -> None:
    alice, *others = [await world.join() for _ in range(4)]
    model = Model(1, {"weight": torch.randn(2_000_000)})
    async with asyncio.TaskGroup() as tasks:
        for other in others:
            tasks.create_task(alice.send(other.id, model))
    for other in others:
        assert torch.equal((await first(other, Model)).message.tensors["weight"], model.tensors["weight"])
    assert alice.traffic.sent[Traffic.MODEL] == 3 * message_size(model)


async def test_a_stranger_may_only_ask_to_join(world: Any) -> None:
    admitted: set[str] = set()
    stranger, bob = await world.join(), await world.join(members=admitted.__contains__)
    everything: list[Message] = [Ping(0), Membership(()), Leave(LEAVING), Model(0, {"a": torch.ones(1)})]
    for message in everything:
        with pytest.raises(Refused) as refused:
            await stranger.send(bob.id, message)
        assert refused.value.reason is Refusal.NOT_A_MEMBER
    await stranger.send(bob.id, Join(RECORD, "recipe", "schema"))
    admitted.add(stranger.id)
    for message in everything:
        await stranger.send(bob.id, message)


async def test_a_sender_fills_its_own_place_and_nobody_elses(world: Any) -> None:
    alice, carol, bob = await world.join(), await world.join(), await world.join(limits=Limits(pending=3))
    for number in range(3):
        await alice.send(bob.id, Ping(number))
    with pytest.raises(Refused) as refused:
        await alice.send(bob.id, Ping(3))
    assert refused.value.reason is Refusal.BUSY
    await carol.send(bob.id, Ping(4))
    await alice.send(bob.id, Leave(LEAVING))
    assert (await first(bob, Ping)).message == Ping(0)
    await alice.send(bob.id, Ping(5))  # one was read, so there is room for one


async def test_a_model_of_another_schema_is_refused_and_the_right_one_taken(world: Any) -> None:
    right, wrong = {"a": torch.ones(2, 3), "b": torch.ones(4)}, {"a": torch.ones(3, 2), "b": torch.ones(4)}
    alice, bob = await world.join(), await world.join(limits=Limits(schema=schema_hash(right)))
    for tensors in (
        wrong,
        {"a": right["a"]},
        {**right, "c": torch.ones(1)},
        {"a": right["a"].double(), "b": right["b"]},
    ):
        with pytest.raises(Refused) as refused:
            await alice.send(bob.id, Model(1, tensors))
        assert refused.value.reason is Refusal.SCHEMA
    await alice.send(bob.id, Model(1, dict(reversed(right.items()))))


async def test_a_model_beyond_a_limit_is_refused_and_one_at_the_limit_taken(world: Any) -> None:
    limits = Limits(model_bytes=3 * CHUNK_BYTES, tensors=2, name_length=4, rank=2)
    alice, bob = await world.join(), await world.join(limits=limits)
    at_the_limit = {"four": torch.zeros(3 * CHUNK_BYTES // 4, 1), "b": torch.zeros(0)}
    await alice.send(bob.id, Model(1, at_the_limit))
    beyond = [
        {"a": torch.zeros(3 * CHUNK_BYTES // 4 + 1)},
        {"a": torch.zeros(1), "b": torch.zeros(1), "c": torch.zeros(1)},
        {"fives": torch.zeros(1)},
        {"a": torch.zeros(1, 1, 1)},
        {"a": torch.zeros(40 * CHUNK_BYTES, dtype=torch.uint8)},  # refused at its header, while most is not yet sent
    ]
    for tensors in beyond:
        with pytest.raises(Refused) as refused:
            await alice.send(bob.id, Model(1, tensors))
        assert refused.value.reason is Refusal.TOO_LARGE


async def test_who_was_never_introduced_is_unreachable(world: Any) -> None:
    alice = await world.join()
    with pytest.raises(Unreachable):
        await alice.send(Identity.from_seed(b"nobody").id, Ping(0))


async def test_who_is_gone_is_unreachable_long_before_the_deadline(world: Any) -> None:
    alice, bob = await world.join(call_deadline=3600.0), await world.join()
    await alice.send(bob.id, Ping(0))
    await world.leave(bob)
    async with asyncio.timeout(20):
        with pytest.raises(Unreachable):
            await alice.send(bob.id, Ping(1))
        with pytest.raises(Unreachable):
            await alice.request(bob.id, Ping(1), 3600.0)
        with pytest.raises(Unreachable):
            await alice.send(bob.id, Model(1, {"a": torch.zeros(5_000_000)}))


async def test_who_comes_back_is_reachable_again(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    await alice.send(bob.id, Ping(0))
    await world.leave(bob)
    with pytest.raises(Unreachable):
        await alice.send(bob.id, Ping(1))
    returned = await world.rejoin(bob)
    assert returned.id == bob.id
    await alice.send(bob.id, Ping(2))
    await returned.send(alice.id, Ping(3))
    assert (await first(returned, Ping)).message == Ping(2)  # what waited before the crash is gone


async def test_closing_ends_readers_and_the_requests_of_others(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    reading = asyncio.ensure_future(first(bob, Model))
    asking = asyncio.ensure_future(alice.request(bob.id, Ping(0), 3600.0))
    assert (await first(bob, Ping)).message == Ping(0)
    await bob.close()
    assert await reading is None
    async with asyncio.timeout(20):
        with pytest.raises(Unreachable):
            await asking
    await bob.close()  # closing twice is closing once


async def test_what_is_no_letter_cannot_be_sent_as_one(world: Any) -> None:
    alice, bob = await world.join(), await world.join()
    for message in (Pong(0), Welcome(0)):
        with pytest.raises(TypeError):
            await alice.send(bob.id, message)
    with pytest.raises(TypeError):
        await alice.request(bob.id, Model(0, {}), 1.0)
    with pytest.raises(TypeError):
        await alice.send(bob.id, Model(0, {"a": torch.zeros(1, dtype=torch.complex64)}))
