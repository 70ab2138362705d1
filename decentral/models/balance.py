"""Where to cut a network into stages that cost the same.

A stage costs its arithmetic and the tensors that come to it and go from it; the dearest stage decides how much a chain
of stages can answer, so that is what is made least (the chains-on-chains partition; Pınar and Aykanat, JPDC 64, 2004).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from decentral.errors import Untraceable, UserError
from decentral.models.graphs import first_line, place_of

FLOPS = 5e10
"""A second, of a processor's core at matrix products; only ratios of these three matter."""
MEMORY = 1e10
"""Bytes a second that an operator reads and writes."""
CROSSING = 5e8
"""Bytes a second between two nodes, over mutual TLS."""
REPEATS = 3
"""Of a measured operator, of which the fastest counts."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Stands for a tensor among the recorded results of a graph."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Observation:
    """What an operator computed, with tensors replaced by `Shown`, how long that takes, and the size of its tensors."""

    value: Any
    seconds: float
    bytes: int


def observe(whole: fx.GraphModule, inputs: Sequence[Tensor], measured: bool = False) -> dict[fx.Node, Observation]:
    """Every operator on example inputs: `measured` on this machine, or estimated from floating-point operations and
    memory read and written. Raises Untraceable where they cannot be run.
    """
    return _Observer(whole, measured).observe(*(example.clone() for example in inputs))


class _Observer(fx.Interpreter):
    def __init__(self, whole: fx.GraphModule, measured: bool) -> None:
        super().__init__(whole)
        self._measured = measured
        self._seen: dict[fx.Node, Observation] = {}
        self._running: fx.Node | None = None

    def observe(self, *inputs: Tensor) -> dict[fx.Node, Observation]:
        try:
            self.run(*inputs)
        except Exception as error:
            where = place_of(self._running) if self._running else "the network"
            raise Untraceable(f"{where}: cannot be run on the example inputs: {first_line(error)}") from error
        return self._seen

    def run_node(self, n: fx.Node) -> Any:
        self._running = n
        if self._measured and n.op.startswith("call"):
            result, seconds = self._timed(n)
        else:
            with FlopCounterMode(display=False) as counter:
                result = super().run_node(n)
            seconds = counter.get_total_flops() / FLOPS
        value = fx.node.map_aggregate(result, _shown)
        size = bytes_of(value)
        if not self._measured and n.op.startswith("call"):
            seconds += (size + sum(self._seen[source].bytes for source in n.all_input_nodes)) / MEMORY
        self._seen[n] = Observation(value, seconds, size)
        return result

    def _timed(self, node: fx.Node) -> tuple[Any, float]:
        """On copies of what it takes, since it may change that, and then once for its result."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        took = []
        for _ in range(REPEATS):
            copies: Any = fx.node.map_aggregate((args, kwargs), _copied)
            _settle()
            start = time.perf_counter()
            getattr(self, node.op)(node.target, *copies)
            _settle()
            took.append(time.perf_counter() - start)
        return super().run_node(node), min(took)


def balanced(count: int, seconds: Sequence[float], crossing: Sequence[int], possible: Sequence[bool]) -> list[int]:
    """After how many steps each of `count` stages ends, such that the dearest costs least; then the fewest bytes cross.

    `seconds` of every step; `crossing[end]`: bytes over a cut after `end` steps, which is `possible` or not, for `end`
    from 0 to all. Raises UserError if there are not so many stages.
    """
    steps = len(seconds)
    inner = [end for end in range(1, steps) if possible[end]]
    if not 1 <= count <= len(inner) + 1:
        raise UserError(f"{count} stages: this network can be cut into 1 to {len(inner) + 1}")
    ends = np.array([0, *inner, steps])
    before = np.concatenate([[0.0], np.cumsum(seconds)])[ends]
    send = np.array([0.0, *(crossing[end] / CROSSING for end in inner), 0.0])
    # dearest[j], sent[j]: of the best way to end a stage at ends[j], with as many stages as the loop has seen.
    dearest, sent = np.where(ends == 0, 0.0, np.inf), np.zeros(len(ends))
    came: list[np.ndarray] = []
    for _ in range(count):
        after, total, origin = np.full(len(ends), np.inf), np.zeros(len(ends)), np.zeros(len(ends), np.int64)
        for j in range(1, len(ends)):
            cost = np.maximum(dearest[:j], before[j] - before[:j] + send[:j] + send[j])
            best = np.lexsort((sent[:j], cost))[0]
            after[j], total[j], origin[j] = cost[best], sent[best] + send[j], best
        dearest, sent = after, total
        came.append(origin)
    found, at = [], len(ends) - 1
    for origin in reversed(came):
        found.append(int(ends[at]))
        at = int(origin[at])
    return found[::-1]


def bytes_of(value: Any) -> int:
    """Of all tensors in what an operator computed."""
    if isinstance(value, Shown):
        return value.bytes
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return sum(map(bytes_of, parts))


def _shown(part: Any) -> Any:
    return Shown(part.dtype, tuple(part.shape)) if isinstance(part, Tensor) else part


def _copied(part: Any) -> Any:
    return part.clone() if isinstance(part, Tensor) else part


def _settle() -> None:
    """Waits for the accelerator, which computes on while the program goes on."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
