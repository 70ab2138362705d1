"""Circuits and proofs that are made once: the smallest that there are, real all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from decentral.zk.circuit import Chain
from decentral.zk.proving import Proven, prove
from decentral.zk.setup import Artefacts, Options, setup
from decentral.zk.srs import SRS
from decentral.zk.store import Store
from decentral.zk.worker import Limits, Worker, worker

SMALL = Limits(memory=2 * 2**30, seconds=100)
TINY = Options(base=16, legs=8)
"""Range checks in small digits: circuits of 2^8 rows, and proofs in a third of a second."""


class First(nn.Module):
    """Gives two tensors: what crosses the cut, and a residual over it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.more = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.linear(x) + 1)
        return hidden, self.more(hidden)


class Second(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, hidden: Tensor, more: Tensor) -> Tensor:
        found: Tensor = self.linear(hidden + more)
        return found


@dataclass
class Made:
    """A chain of two stages with its proofs about `inputs[0]` and `inputs[1]`."""

    stages: list[nn.Module]
    inputs: Tensor
    store: Store
    chain: Chain
    artefacts: list[Artefacts]
    srs: SRS
    proven: Proven
    another: Proven

    @property
    def outputs(self) -> list[Tensor]:
        return [torch.tensor(each, dtype=torch.float64) for each in self.proven.outputs]


def stages(seed: int = 3) -> list[nn.Module]:
    torch.manual_seed(seed)
    return [First().eval(), Second().eval()]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("zk") / "store")


@pytest.fixture(scope="session")
def made(store: Store) -> Made:
    """Two stages, committed in between."""
    network = stages()
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(5))

    async def everything() -> Made:
        chain, artefacts, srs = await setup(network, [inputs], store.local_srs, store, TINY, limits=SMALL)
        proven = await prove(chain, artefacts, srs, [inputs[0]], limits=SMALL)
        another = await prove(chain, artefacts, srs, [inputs[1]], limits=SMALL)
        assert proven.outputs != another.outputs, "what is about one input could pass as about the other"
        return Made(network, inputs, store, chain, artefacts, srs, proven, another)

    return asyncio.run(everything())


@pytest.fixture
async def prover() -> AsyncIterator[Worker]:
    async with worker(SMALL) as alone:
        yield alone
