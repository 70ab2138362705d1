"""Whether costs of circuits are predicted where nobody has fitted them: measured, predicted, and by how much it is off.

    python -m benchmarks.zk_prediction [--memory GIB] [--json FILE]

Twelve circuits: linear layers and convolutions, with ReLU and without, over 2^15 and 2^16 rows. Each is made and proved
once, each step in a process of its own. Two predictions stand beside what was measured. "shipped": the coefficients of
`decentral.zk.cost`, which were fitted to these circuits, their seconds multiplied by one factor, the median over all
circuits, as `zk plan --measure` finds it by one proof. "held out", which is the claim: four groups of three circuits;
coefficients of the same form are fitted to three of the groups, with no coefficient below zero and every circuit
weighing alike, and predict the fourth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from decentral.zk.circuit import Chain
from decentral.zk.cost import GIGABYTE, KEY, MEMORY, PROVE, SETUP, Line, Size
from decentral.zk.proving import prove
from decentral.zk.setup import COMPILED, PROVING_KEY, Options, draft, make
from decentral.zk.setup import KEY as KEY_FILE
from decentral.zk.store import Store
from decentral.zk.stretches import NEVER
from decentral.zk.worker import Limits, once

GROUPS = 4
PARTS = ("column", "rows", "ranged")
UNIT = {part: Line(**{other: float(part == other) for other in PARTS}) for part in PARTS}


@dataclass(frozen=True, slots=True)
class Subject:
    """A network and the shape of its input; `logrows`: of its circuit."""

    name: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    logrows: int = 15
    legs: int = 2


def linear(*sizes: int) -> nn.Module:
    """Layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolution(inputs: int, outputs: int, *, stride: int = 1, relu: bool = True) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    return nn.Sequential(layer, nn.ReLU() if relu else nn.Identity())


SUBJECTS = (
    Subject("linear 300 to 20", lambda: linear(300, 20), (300,)),
    Subject("linear 700 to 48 to 10, ReLU", lambda: linear(700, 48, 10), (700,)),
    Subject("linear 2000 to 30", lambda: linear(2000, 30), (2000,)),
    Subject("conv 3 to 6, 20 x 20, ReLU", lambda: convolution(3, 6), (3, 20, 20)),
    Subject("conv 6 to 10, 16 x 16", lambda: convolution(6, 10, relu=False), (6, 16, 16)),
    Subject("conv 10 to 20, 14 x 14, stride 2, ReLU", lambda: convolution(10, 20, stride=2), (10, 14, 14)),
    Subject("conv 24 to 24, 8 x 8, ReLU", lambda: convolution(24, 24), (24, 8, 8)),
    Subject("conv 12 to 12, 20 x 20, ReLU", lambda: convolution(12, 12), (12, 20, 20)),
    Subject("conv 48 to 40, 7 x 7, ReLU", lambda: convolution(48, 40), (48, 7, 7)),
    Subject("conv 4 to 3, 18 x 18, ReLU", lambda: convolution(4, 3), (4, 18, 18)),
    Subject("conv 3 to 6, 20 x 20, ReLU", lambda: convolution(3, 6), (3, 20, 20), 16),
    Subject("conv 12 to 12, 20 x 20, ReLU", lambda: convolution(12, 12), (12, 20, 20), 16),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """`setup` and `prove`: processor seconds; `memory` of the proof at its peak and `key`: gigabytes."""

    size: Size
    setup: float
    prove: float
    memory: float
    key: float


QUANTITIES = {"setup": SETUP, "prove": PROVE, "memory": MEMORY, "key": KEY}
TIMED = ("setup", "prove")


async def measure(subject: Subject, store: Store, limits: Limits) -> Measured:
    torch.manual_seed(0)
    network, samples = subject.network().eval(), torch.randn(4, *subject.shape)
    options = Options(rebase=NEVER, checked=False, legs=subject.legs, logrows=subject.logrows)
    drafts = await draft([network], [samples], options, limits=limits)
    srs = await store.local_srs(subject.logrows, limits)
    with tempfile.TemporaryDirectory() as scratch:
        made = await make(drafts, srs, Store(Path(scratch) / "store"), limits=limits)
        folder = made[0].folder
        key, proving = Path(scratch) / "key", Path(scratch) / "proving"
        _, setup = await once(
            "setup",
            limits,
            compiled=str(folder / COMPILED),
            key=str(key),
            proving_key=str(proving),
            srs=str(srs.path),
        )
        assert key.read_bytes() == (folder / KEY_FILE).read_bytes(), "the same circuit has the same key"
        proven = await prove(Chain((made[0].circuit,), ((),)), made, srs, [samples[0]], limits=limits)
        (usage,) = proven.usage
        assert usage is not None
        size = Size.of(made[0].circuit.settings)
        bytes_of_key = (folder / PROVING_KEY).stat().st_size
    return Measured(size, setup.cpu, usage.cpu, usage.peak / GIGABYTE, bytes_of_key / GIGABYTE)


def fitted(measured: Sequence[Measured], quantity: str, form: Line) -> Line:
    """A line with the same terms as `form`, whose squared relative errors are least."""
    terms = [part for part in PARTS if getattr(form, part)]
    wanted = np.array([getattr(each, quantity) for each in measured])
    given = np.array([[UNIT[term].at(each.size) for term in terms] for each in measured])
    found, _ = nnls(given / wanted[:, None], np.ones(len(wanted)))
    return replace(Line(0.0, 0.0, 0.0), **dict(zip(terms, map(float, found), strict=True)))


def held_out(measured: Sequence[Measured], quantity: str, form: Line) -> list[float]:
    """Predictions of each circuit by a line that was fitted to the other groups."""
    lines = [
        fitted([each for place, each in enumerate(measured) if place % GROUPS != group], quantity, form)
        for group in range(GROUPS)
    ]
    return [lines[place % GROUPS].at(each.size) for place, each in enumerate(measured)]


def shipped(measured: Sequence[Measured], quantity: str, form: Line) -> list[float]:
    """Predictions by the coefficients of the library, seconds as those of this machine."""
    plain = [form.at(each.size) for each in measured]
    if quantity not in TIMED:
        return plain
    factor = factor_of(measured)
    return [factor * value for value in plain]


def factor_of(measured: Sequence[Measured]) -> float:
    """How many times as long proofs take here as where the coefficients are from."""
    return median(each.prove / PROVE.at(each.size) for each in measured)


def errors(predicted: Sequence[float], measured: Sequence[float]) -> list[float]:
    """Relative, of each."""
    return [found / true - 1 for found, true in zip(predicted, measured, strict=True)]


async def measure_all(memory: float) -> list[Measured]:
    store, limits, every = Store(), Limits(memory=int(memory * 2**30)), list[Measured]()
    print(f"{'circuit':<44}{'2^k':>4}{'rows':>9}{'setup s':>9}{'proof s':>9}{'GB':>7}{'key GB':>8}")
    for subject in SUBJECTS:
        found = await measure(subject, store, limits)
        size = found.size
        print(
            f"{subject.name:<44}{size.logrows:>4}{size.rows:>9}{found.setup:>9.1f}"
            f"{found.prove:>9.1f}{found.memory:>7.2f}{found.key:>8.3f}",
            flush=True,
        )
        every.append(found)
    return every


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=float, default=8, help="GiB that ezkl may have")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    every = asyncio.run(measure_all(given.memory))
    print(f"\nseconds of this machine by those of the coefficients: {factor_of(every):.2f}")
    print(f"{'relative error':<44}{'shipped: median':>17}{'largest':>9}{'held out: median':>18}{'largest':>9}")
    told = {}
    for quantity, form in QUANTITIES.items():
        true = [float(getattr(each, quantity)) for each in every]
        both = {
            "shipped": errors(shipped(every, quantity, form), true),
            "held_out": errors(held_out(every, quantity, form), true),
        }
        figures = [(median(map(abs, each)), max(map(abs, each))) for each in both.values()]
        (middle, most), (held_middle, held_most) = figures
        print(f"{quantity:<44}{middle:>17.1%}{most:>9.1%}{held_middle:>18.1%}{held_most:>9.1%}")
        told[quantity] = {"measured": true, **both}
    if given.json is not None:
        names = [f"{subject.name}, 2^{subject.logrows}" for subject in SUBJECTS]
        given.json.write_text(json.dumps({"circuits": names, **told}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
