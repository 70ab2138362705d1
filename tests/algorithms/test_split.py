"""Split learning over a network: what comes of it is what comes of it in one process, whoever crashed in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from decentral.algorithms.split import Split
from decentral.data.datasets import load_dataset
from decentral.errors import DecentralError, UserError, leading
from decentral.models.catalogue import build_model
from decentral.training.split import CLIENT, SERVER, split
from decentral.wire.messages import Model

ROUNDS = 4
DATA = load_dataset("digits")


def learner(peer: int) -> Any:
    """A part of one small network, with 100 images at the client: seven batches a round."""
    torch.manual_seed(0)
    model = build_model("mlp", DATA.image_shape, DATA.classes, hidden=[12, 10, 8])
    settings: Any = {"batch_size": 16, "optimizer": "adamw", "learning_rate": 0.003, "fresh_optimizer": False}
    return split(model, DATA, np.arange(100), cuts=["2", "6"], peer=peer, evaluation_samples=50, nopeek=0.1, **settings)


def stage_of(world: Any, **options: Any) -> Any:
    stage = world(count=2, algorithm=Split, topology_name="full", rounds=ROUNDS, **options)
    stage.learners = [learner(CLIENT), learner(SERVER)]
    return stage


def result(stage: Any) -> dict[str, Tensor]:
    return {**stage.learners[CLIENT].parameters(), **stage.learners[SERVER].parameters()}


@pytest.fixture(scope="module")
def alone() -> tuple[dict[str, Tensor], list[float]]:
    """The parameters, and the accuracies after each round, of the same in one process."""
    client, server = learner(CLIENT), learner(SERVER)
    client.partner = server
    accuracies = []
    for round in range(1, ROUNDS + 1):
        client.train(round)
        accuracies.append(client.evaluate().accuracy)
    return {**client.parameters(), **server.parameters()}, accuracies


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_two_peers_have_one_another_and_nobody_else():
    assert Split().partners(0, {1, 2}, 3) == {1}
    assert Split().partners(1, set(), 2) == {0}
    assert Split().partners(2, {0, 1}, 3) == frozenset()


def test_it_ends_as_in_one_process(world, alone):
    expected, accuracies = alone
    stage = stage_of(world).play()
    assert same(result(stage), expected)
    client, server = stage.journals[CLIENT], stage.journals[SERVER]
    assert [entry["accuracy"] for entry in client.of("evaluated")] == accuracies
    assert server.of("evaluated") == []
    assert [entry["round"] for entry in server.of("round")] == [1, 2, 3, 4]
    assert [entry["samples"] for entry in client.of("trained")] == [100] * ROUNDS
    assert [entry["samples"] for entry in server.of("trained")] == [100] * ROUNDS
    assert client.of("restored") == server.of("restored") == []


def test_lost_messages_are_said_again(world, alone):
    assert same(result(stage_of(world, loss=0.2).play()), alone[0])


def restarting(index: int, at: float, away: float) -> Callable[[Any], Any]:
    """A peer is killed at some time, and comes back after some seconds from what it had on disk."""

    async def script(stage: Any) -> None:
        await asyncio.sleep(at)
        await stage.crash(index)
        saved = stage.shelves[index].saved
        stage.learners[index] = stage.worker.submit(learner, index).result()  # tracing has the thread to itself
        if saved:
            stage.learners[index].load(saved[max(saved)])
        await asyncio.sleep(away)
        stage.start(index, max(saved, default=0), running=True)

    return script


@pytest.mark.parametrize("away", [0.05, 8.0])
@pytest.mark.parametrize("index", [CLIENT, SERVER])
@pytest.mark.parametrize("at", [0.3, 1.31, 1.77, 2.03, 3.9])
def test_whoever_is_killed_comes_back_and_nothing_has_changed(world, alone, index: int, at: float, away: float):
    stage = stage_of(world).play(restarting(index, at, away))
    assert same(result(stage), alone[0])
    assert stage.peers[CLIENT].finished == stage.peers[SERVER].finished == ROUNDS


def test_both_may_be_killed(world, alone):
    async def script(stage: Any) -> None:
        await restarting(SERVER, 1.5, 0.5)(stage)
        await restarting(CLIENT, 1.5, 0.5)(stage)
        await restarting(SERVER, 0.3, 3.0)(stage)

    assert same(result(stage_of(world).play(script)), alone[0])


def test_a_client_that_missed_the_end_of_a_round_finds_the_server_where_it_was(world, alone):
    """The server's checkpoint is of a later round then: it goes on from the one before."""

    async def script(stage: Any) -> None:
        while SERVER not in stage.shelves or 2 not in stage.shelves[SERVER].saved:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert 2 not in stage.shelves[CLIENT].saved
        await restarting(CLIENT, 0.0, 0.5)(stage)

    async def after_both(stage: Any) -> None:
        await script(stage)
        await restarting(SERVER, 0.1, 0.5)(stage)

    for what in (script, after_both):
        stage = stage_of(world).play(what)
        assert same(result(stage), alone[0])
        assert stage.journals[SERVER].of("restored")


@pytest.mark.parametrize(("index", "says"), [(CLIENT, "the client has been gone"), (SERVER, "peer-1 has not answered")])
def test_whoever_is_left_alone_says_so_after_the_deadline(world, index: int, says: str):
    with pytest.raises((DecentralError, BaseExceptionGroup)) as raised:
        stage_of(world).play(world.killing(index, at=1.5))
    assert says in str(leading(raised.value) if isinstance(raised.value, BaseExceptionGroup) else raised.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: replace(model, tag="forward/first/0"), "invalid literal"),
        (lambda model: replace(model, tag="sideways/0/0"), "not a valid Kind"),
        (lambda model: replace(model, tag="forward/0"), "not enough values"),
        (lambda model: replace(model, round=9, tag="forward/0/0"), "goes on after round 8; kept are"),
        (lambda model: replace(model, tensors={n: t * torch.nan for n, t in model.tensors.items()}), "not finite"),
        (lambda model: replace(model, tensors={}), "tensors"),
    ],
)
def test_a_client_that_talks_nonsense_ends_the_run_and_not_the_servers_model(world, change, says: str):
    stage = stage_of(world)

    async def script(stage: Any) -> None:
        while not stage.journals.get(CLIENT) or not stage.journals[CLIENT].of("round"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        transport, send = stage.sessions[CLIENT].transport, stage.sessions[CLIENT].transport.send

        async def lie(to: Any, message: Any) -> None:
            await send(to, change(message) if isinstance(message, Model) and "forward" in message.tag else message)

        transport.send = lie

    with pytest.raises((DecentralError, BaseExceptionGroup)):
        stage.play(script)
    [rejected] = stage.journals[SERVER].of("rejected")
    assert says in rejected["reason"]
    assert all(bool(tensor.isfinite().all()) for tensor in stage.learners[SERVER].parameters().values())


def test_a_server_that_always_goes_back_is_given_up(world):
    stage = stage_of(world)

    async def script(stage: Any) -> None:
        transport, send = stage.sessions[SERVER].transport, stage.sessions[SERVER].transport.send

        async def lie(to: Any, message: Any) -> None:
            await send(to, replace(message, tag=f"again/{message.tag}", tensors={}))

        transport.send = lie

    async def begun(stage: Any) -> None:
        while len(stage.sessions) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        await script(stage)

    with pytest.raises((DecentralError, BaseExceptionGroup)) as raised:
        stage.play(begun)
    assert "never gets to the end of round" in str(
        leading(raised.value) if isinstance(raised.value, BaseExceptionGroup) else raised.value
    )


def test_another_learner_is_refused(world):
    with pytest.raises((UserError, BaseExceptionGroup)) as raised:
        world(count=2, algorithm=Split, topology_name="full").play()
    assert "needs the learner 'split'" in str(
        leading(raised.value) if isinstance(raised.value, BaseExceptionGroup) else raised.value
    )
