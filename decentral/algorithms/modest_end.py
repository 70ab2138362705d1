"""How a peer of MoDeST goes and takes nothing with it: the last aggregate to all, or what it alone holds to a few.

Here the paper's protocol (arXiv 2302.13837) has no end, and nobody in it says goodbye.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from decentral.algorithms.crowd import Crowd
from decentral.wire.messages import Model

AGGREGATE, HEIR = "average", "heir"
"""Tags of an average, and of the last one where its receiver is to hand it out if the sender cannot."""
HEIRS = 2
"""Peers that stay until whoever hands the last aggregate out is gone, and then look whether all have it."""
ABREAST = 8
"""Peers to whom the last aggregate is handed at the same time."""
FAREWELL = 3.0
"""Seconds at most to hand on what nobody else has; a process that is told to end has five."""
STANDING = 20
"""Patiences that an heir stands by: who answers for ever and hands nothing out keeps nobody from the end."""
GLANCES = 4
"""So many times in the time that a ping may take, an heir looks whether it is needed."""

Send = Callable[[int, Model], Coroutine[Any, Any, bool]]
"""Sends a model to a peer; whether it was taken."""


async def hand_out(crowd: Crowd, send: Send, model: Model, took_part: Iterable[int]) -> None:
    """The last aggregate to all members, and for `patience` after that to those who are away, if they come back.

    Handing it to thousands over one link may take longer than that, and who came back meanwhile has still to be asked.
    First come the heirs, and those who would otherwise go on: who took part in it, and whom they would turn to next.
    """
    twice, members = 2 * crowd.sampling.size, set(crowd.members()) - {crowd.index}
    next_ones = [peer for peer in crowd.order(model.round + 1, twice) if peer in members]
    urgent = [*next_ones[:HEIRS], *sorted(took_part), *crowd.order(model.round, twice), *next_ones]
    heirs = dict.fromkeys(next_ones[:HEIRS], replace(model, tag=HEIR))
    loop = asyncio.get_running_loop()
    ends: float | None = None
    missing = [peer for peer in dict.fromkeys((*urgent, *sorted(members))) if peer in members]
    while missing:
        missing = await _hand(send, {peer: heirs.get(peer, model) for peer in missing})
        ends = loop.time() + crowd.sampling.patience if ends is None else ends
        if missing and loop.time() >= ends:
            break
        await asyncio.sleep(crowd.sampling.ping if missing else 0.0)


async def stand_by(crowd: Crowd, send: Send, model: Model, maker: int) -> None:
    """Waits until `maker`, who hands the last aggregate out, is gone; who is there and has not got it then gets it."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + STANDING * crowd.sampling.patience
    while loop.time() < ends:
        if (await crowd.ask([maker], model.round))[maker] is None:
            break
        await asyncio.sleep(crowd.sampling.ping / GLANCES)
    others = [peer for peer in crowd.members() if peer not in (crowd.index, maker)]
    answers = await crowd.ask(others, model.round)
    behind = [peer for peer, pong in answers.items() if pong is not None and pong.round < model.round]
    await _hand(send, dict.fromkeys(behind, model))


async def reached(crowd: Crowd) -> tuple[int, Model] | None:
    """A model, and by whom it was sent to one who came back and looked for others in vain: they may have gone since."""
    try:
        async with asyncio.timeout(crowd.sampling.ping):
            envelope = await anext(crowd.transport.inbox(Model))
    except (TimeoutError, StopAsyncIteration):
        return None
    sender = crowd.index_of(envelope.sender)
    return None if sender is None or not isinstance(envelope.message, Model) else (sender, envelope.message)


async def _hand(send: Send, models: Mapping[int, Model]) -> list[int]:
    """To each its model, a few at a time; returns who did not take it."""
    turns = asyncio.Semaphore(ABREAST)

    async def hand(to: int, model: Model) -> bool:
        async with turns:
            return await send(to, model)

    async with asyncio.TaskGroup() as tasks:
        handed = {peer: tasks.create_task(hand(peer, model)) for peer, model in models.items()}
    return [peer for peer, task in handed.items() if not task.result()]


async def hand_on(crowd: Crowd, send: Send, round: int, aggregate: Mapping[str, Tensor], *, last: bool) -> None:
    """An aggregate that we alone hold, as we leave: to those who train on it next, the `last` one to an heir."""
    crowd.leaving = True
    try:
        async with asyncio.timeout(FAREWELL):
            sample = await crowd.draw(round + 1)
            model = Model(round, aggregate, tag=HEIR if last else AGGREGATE, news=crowd.news(sample.synced, round))
            if last:
                for peer in sample.peers:
                    if await send(peer, model):
                        break
            else:
                await _hand(send, dict.fromkeys(sample.peers, model))
    except TimeoutError:
        return  # those who took part in it will miss it, and begin the round again
