"""What honest machines differ by, stage by stage, and what is caught at the tolerance that this asks for.

    samples = measure(stages, batches, machines(), others={"older": state})
    parts = calibrated(["stage-0", "stage-1"], samples, stages)      # .tolerance, .honest, .detected["int8"], .gain

One sample is one batch. Its honest distance is the largest between any two machines, the float64 reference among them,
each of which shapes the batch in a way that is drawn; its lying distance is that of the lie to the nearest of them. So
both are the worst of the batch, and the batches are independent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from decentral.core.agreement import distance, distances
from decentral.core.calibration import CONFIDENCE, Curve, Rate, curve, rejected, smallest_tolerance
from decentral.models.cheaper import Answering, lies
from decentral.models.gain import gain
from decentral.models.stages import Stage
from decentral.serving.stages.machines import SHAPES, SIZES, Fleet, Machine

Tensors = Mapping[str, Tensor]
MARGIN = 4.0
"""Tolerance by what was measured, for machines that were not there."""
AT_ONCE = 32
"""Batches that are in memory together."""
GAINS = 32
"""Batches of which gains are measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Distances of one stage: of honest answers, of each machine to the reference, of each lie to the nearest."""

    honest: Float[np.ndarray, " n"]
    machines: Mapping[str, Float[np.ndarray, " n"]]
    lies: Mapping[str, Float[np.ndarray, " m"]]
    inputs: Sequence[Tensors]
    """The first batches that it was given."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A calibrated stage. `limit`: the smallest tolerance that keeps the bound; `tolerance`: with the margin."""

    name: str
    limit: float
    tolerance: float
    honest: Rate
    """Rejected at the tolerance."""
    detected: Mapping[str, Rate]
    gain: float
    """How many times farther apart the last stage's outputs are than this one's."""
    curves: Mapping[str, Curve]


def drawn(data: Tensors, count: int, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """So many batches of samples that are drawn with replacement, each of one of the usual sizes.

    A size is half as probable as the one below it: large batches cost what many small ones do.
    """
    samples = len(next(iter(data.values())))
    shares = 0.5 ** torch.arange(len(SIZES))
    for _ in range(count):
        size = SIZES[int(torch.multinomial(shares, 1, generator=generator))]
        chosen = torch.randint(samples, (size,), generator=generator)
        yield {name: each[chosen] for name, each in data.items()}


def measure(
    stages: Sequence[Stage],
    batches: Iterable[Tensors],
    machines: Sequence[Machine],
    *,
    others: Mapping[str, Tensors] | None = None,
    lied_to: int = 300,
    seed: int = 0,
    measured: Callable[[int], None] = lambda batches: None,
) -> list[Samples]:
    """Of each stage in turn, which all machines give the answer of the first one before it, as a client would.

    `others`: states of other checkpoints of the network, by what they are called; `lied_to`: how many of the batches
    are answered by each lie too; `measured` is told how many batches are done. Raises ValueError for checkpoints that
    do not fit, and unless there is a machine.
    """
    if not machines:
        raise ValueError("there is no machine to compare")
    generator = torch.Generator().manual_seed(seed)
    collected = [
        _Collected(stage, machines, lies(stage, others or {}, generator) if lied_to else {}) for stage in stages
    ]
    waiting = iter(batches)
    with Fleet(stages, machines) as fleet, torch.inference_mode():
        while chunk := list(islice(waiting, AT_ONCE)):
            for number, one in enumerate(collected):
                shapes = [one.shapes(generator) for _ in chunk]
                answers = fleet.answers(number, chunk, shapes)
                for inputs, answer in zip(chunk, answers, strict=True):
                    one.take(inputs, answer, lied_to)
                chunk = [answer[0] for answer in answers]
            measured(len(collected[0]))
    return [one.samples() for one in collected]


def calibrated(
    names: Sequence[str],
    samples: Sequence[Samples],
    stages: Sequence[Stage],
    *,
    false_reject: float = 1e-3,
    confidence: float = CONFIDENCE,
    margin: float = MARGIN,
    seed: int = 0,
) -> list[Calibrated]:
    """The tolerances of parts, and what they do. Raises ValueError for too few samples (`core.calibration`)."""
    generator, found = torch.Generator().manual_seed(seed), []
    for place, (name, one) in enumerate(zip(names, samples, strict=True)):
        limit = smallest_tolerance(one.honest, false_reject, confidence)
        tolerance = margin * max(limit, float(np.finfo(np.float32).eps))
        after = samples[place + 1].inputs if place + 1 < len(samples) else ()
        found.append(
            Calibrated(
                name,
                limit,
                tolerance,
                rejected(one.honest, tolerance),
                {lie: rejected(off, tolerance) for lie, off in one.lies.items()},
                max((gain(stages[place + 1 :], each, tolerance, generator) for each in after), default=1.0),
                {lie: curve(one.honest, off) for lie, off in one.lies.items()},
            )
        )
    return found


class _Collected:
    """What has been measured of a stage so far."""

    def __init__(self, stage: Stage, machines: Sequence[Machine], lying: Mapping[str, Answering]) -> None:
        self._reference = copy.deepcopy(stage).double()
        self._lying = lying
        self._honest: list[float] = []
        self._machines: dict[str, list[float]] = {machine.name: [] for machine in machines}
        self._lies: dict[str, list[float]] = {name: [] for name in lying}
        self._inputs: list[Tensors] = []
        ports = [*stage.inputs, *stage.outputs]
        self._shapes = SHAPES if len({port.shape[:1] for port in ports}) == 1 and ports[0].shape else SHAPES[:1]

    def shapes(self, generator: torch.Generator) -> list[str]:
        """The first machine takes a batch as it comes, since what it answers is passed on."""
        drawn = torch.randint(len(self._shapes), (len(self._machines) - 1,), generator=generator)
        return [SHAPES[0], *(self._shapes[int(place)] for place in drawn)]

    def take(self, inputs: Tensors, answers: Sequence[Tensors], lied_to: int) -> None:
        exact = self._reference.run({n: t.double() if t.is_floating_point() else t for n, t in inputs.items()})
        honest = [*answers, {name: each.to(answers[0][name].dtype) for name, each in exact.items()}]
        apart = distances(honest)
        for found, off in zip(self._machines.values(), apart[-1], strict=False):
            found.append(float(off))
        self._honest.append(float(apart.max()))
        if len(self._inputs) < GAINS:
            self._inputs.append(inputs)
        if len(self._honest) <= lied_to:
            for name, run in self._lying.items():
                lie = run(inputs)
                self._lies[name].append(min(distance(lie, answer) for answer in honest))

    def __len__(self) -> int:
        """Batches so far."""
        return len(self._honest)

    def samples(self) -> Samples:
        return Samples(
            np.array(self._honest),
            {name: np.array(found) for name, found in self._machines.items()},
            {name: np.array(found) for name, found in self._lies.items()},
            self._inputs,
        )
