"""A model in three stages by three real processes each, asked for long: while replicas are killed, and by a crowd.

What the tests demand of it and what the benchmark prints comes from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decentral.errors import DecentralError, Refused
from decentral.launch.background import start_serving, stop
from decentral.launch.cluster import LOCK
from decentral.launch.prepare import prepare
from decentral.models.catalogue import build_model
from decentral.run.directory import ServingDirectory
from decentral.run.serving_recipe import ServingRecipe
from decentral.serving.asking.chain import through
from decentral.serving.asking.prediction import Unverified
from decentral.serving.asking.replicas import Patience
from decentral.serving.client import Client
from decentral.serving.stages.model import load_stages
from decentral.trust.anchors import FILE, Anchors
from decentral.wire.messages import PeerId

SHAPE, CLASSES, HIDDEN = (1, 8, 8), 10, [64, 64]
KILLED = ("stage-0-a", "stage-1-b", "stage-2-c")
UNHURRIED = Patience(opening=60.0, commit=120.0, reveal=60.0)
"""Of the crowd: it is to wait for its turn, and not to take whoever is late for dead."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A cluster that is up, and the process of every node of it."""

    directory: ServingDirectory
    processes: Mapping[str, int]

    @property
    def path(self) -> Path:
        return self.directory.path

    def ids(self, nodes: Sequence[str]) -> set[PeerId]:
        return {peer.id for peer in Anchors.load(self.path / FILE).peers if peer.name in nodes}

    def expected(self, batch: Tensor) -> Tensor:
        """What the model says."""
        stages = [stage for _, stage in sorted(load_stages(self.directory.stages).items())]
        (output,) = through(stages, {stages[0].inputs[0].name: batch}).values()
        return output

    def kill(self, node: str) -> None:
        os.kill(self.processes[node], signal.SIGKILL)

    def memory(self) -> dict[str, int]:
        """Resident bytes of every node."""
        found = {}
        for node, process in self.processes.items():
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            found[node] = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        return found


@contextlib.contextmanager
def standing(folder: Path, replicas: int = 3, **keys: Any) -> Iterator[Standing]:
    """A perceptron that nobody has trained, or the model that `keys` of the recipe say. Blocking."""
    model = untrained(folder, "mlp", SHAPE, hidden=HIDDEN)
    values = {"stages": ["2", "4"], "replicas": replicas, "model": model, "data": {"name": "digits"}, **keys}
    directory = prepare(ServingRecipe.model_validate(values), folder / "cluster")
    launcher = start_serving(directory)
    try:
        yield Standing(directory, _processes(directory))
    finally:
        stop(directory)
        launcher.wait(60)


def untrained(folder: Path, name: str, shape: tuple[int, ...], **options: Any) -> dict[str, Any]:
    """A network of the catalogue as a recipe's source of a model."""
    torch.manual_seed(0)
    file = folder / f"{name}.pth"
    torch.save(build_model(name, shape, CLASSES, **options).state_dict(), file)
    return {"file": str(file), "name": name, "input": list(shape), "classes": CLASSES, **options}


def _processes(directory: ServingDirectory) -> dict[str, int]:
    """Who has the lock of each node open, as the kernel knows it."""
    locks = {directory.nodes / node / LOCK: node for node in directory.recipe.node_names}
    found = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has just ended
            if (node := locks.get(link.readlink())) is not None:
                found[node] = int(link.parts[2])
    return found


def inputs(count: int, samples: int = 1) -> list[Tensor]:
    """No two alike."""
    return list(torch.rand(count, samples, *SHAPE, generator=torch.Generator().manual_seed(1)))


# ---- replicas are killed --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stream:
    """What came of a stream of requests, in its order: the answers, and how many seconds each took."""

    outputs: Sequence[Tensor]
    seconds: Sequence[float]
    noticed: frozenset[PeerId]
    """Replicas that were without an answer at least once."""
    wall: float


async def through_deaths(up: Standing, batches: Sequence[Tensor], ahead: int = 6, *, killing: bool = True) -> Stream:
    """All batches in a row, `ahead` of them under way; a replica of each stage is killed on the way, one by one."""
    outputs, seconds, noticed = list[Tensor](), list[float](), set[PeerId]()
    deaths = {(4 + place) * len(batches) // 10: node for place, node in enumerate(KILLED)}
    began = time.monotonic()
    async with Client.connect(up.path) as client:
        async for prediction in client.stream(batches, ahead=ahead):
            outputs.append(prediction.output)
            seconds.append(prediction.cost.waited)
            noticed |= set(prediction.problems)
            if killing and (node := deaths.get(len(outputs))) is not None:
                up.kill(node)
    return Stream(outputs, seconds, frozenset(noticed), time.monotonic() - began)


# ---- a crowd --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Crowd:
    """What came of what many clients asked at once. `wrong`: answers that are not the model's."""

    sent: int = 0
    answered: int = 0
    wrong: int = 0
    busy: int = 0
    """Times that a replica had too much to do, said so, and was asked again."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests without an answer, by the type of what was raised."""
    seconds: list[float] = field(default_factory=list)
    """Of those who ask one request after another."""
    greedy: list[float] = field(default_factory=list)
    """Of the one that has many under way."""
    memory: list[dict[str, int]] = field(default_factory=list)
    """Resident bytes by node, second by second."""
    wall: float = 0.0

    def growth(self) -> int:
        """Bytes by which the node that grew most did so after the first third, when all sessions were open."""
        settled = self.memory[len(self.memory) // 3 :]
        return max(settled[-1][node] - settled[0][node] for node in settled[0])


async def crowd(up: Standing, clients: int = 64, seconds: float = 60.0, greedy: int = 100) -> Crowd:
    """`clients` ask, one request after another; one of them has `greedy` under way: more than a session may have."""
    known = [(batch, up.expected(batch)) for batch in inputs(32)]
    found = Crowd()

    async def ask(client: Client, turn: int, seconds: list[float]) -> None:
        batch, expected = known[turn % len(known)]
        began = time.monotonic()
        found.sent += 1
        try:
            output = (await client.predict(batch)).output
        except DecentralError as error:
            found.refused[_named(error)] += 1
            return
        found.answered += 1
        found.wrong += not torch.equal(output, expected)
        seconds.append(time.monotonic() - began)

    async def keep_asking(client: Client, first: int, ends: float, seconds: list[float]) -> None:
        turn = first
        while time.monotonic() < ends:
            await ask(client, turn, seconds)
            turn += 1

    async def look() -> None:
        while True:
            found.memory.append(up.memory())
            await asyncio.sleep(1.0)

    async with AsyncExitStack() as stack:
        everybody = [
            await stack.enter_async_context(Client.connect(up.path, patience=UNHURRIED)) for _ in range(clients)
        ]
        looking = asyncio.create_task(look())
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for number, client in enumerate(everybody):
                    many, taken = (1, found.seconds) if number else (greedy, found.greedy)
                    for each in range(many):
                        group.create_task(keep_asking(client, number + each, began + seconds, taken))
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        found.wall = time.monotonic() - began
        found.memory.append(up.memory())
        found.busy = sum(client.busy for client in everybody)
    return found


def _named(error: DecentralError) -> str:
    match error:
        case Refused(reason=reason):
            return f"refused: {reason.value}"
        case Unverified(reasons=reasons):
            return f"unverified: {reasons[0]}"
        case _:
            return type(error).__name__
