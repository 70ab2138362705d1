"""How to prove a model on this machine: which stretches of it become circuits, and what each will cost.

Nothing is computed before the plan is known: ezkl tells a circuit's rows in a second, and costs are linear in them
(`cost`). Layers are joined while their circuit fits the budget; a layer that is too large by itself is cut into parts
of its output channels, each a circuit of its own over the same committed input. Numbers are never rescaled between
layers: that takes three times the rows of a ReLU, and two rows for each 14 bits more are what letting them grow takes.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from decentral.errors import Unproven, UserError
from decentral.zk.arguments import MOST_BITS, Arguments, Visibility, unambiguous
from decentral.zk.circuit import Wire
from decentral.zk.cost import GIGABYTE, Budget, Cost, Size
from decentral.zk.emulator import quantised
from decentral.zk.export import export
from decentral.zk.setup import Options, settings_of
from decentral.zk.stretches import NEVER, Port, Stretches
from decentral.zk.worker import Worker

BASE_BITS = 14
"""Of the tables that numbers are checked against, digit by digit: 2^15 rows are the fewest that hold them."""
LOGROWS = (15, 16, 17)
SPARE_BITS = 2
"""How many more than the samples need a number may have: an input that exceeds them has no proof."""
LEG_ROWS = 2
"""That another digit takes, for each number that is checked, with two inner columns."""
SAMPLES = 16
SHARES = (1.0, 0.95, 0.9, 0.8)
"""Of the budget, that layers may take: a circuit is a little more than its layers, as ezkl says once it is built."""
Say = Callable[[str], None]


def digits_for(bits: int) -> int:
    """How many a number of so many bits has, with some to spare; two at least."""
    return max(2, -(-(bits + SPARE_BITS) // BASE_BITS))


@dataclass(frozen=True, slots=True)
class Planned:
    """A circuit: `layers` for a person, `channels` where it is a part of a layer."""

    layers: str
    channels: slice | None
    network: nn.Module
    wires: tuple[Wire, ...]
    options: Options
    size: Size
    cost: Cost

    @property
    def name(self) -> str:
        if self.channels is None:
            return self.layers
        first, last = self.channels.start, self.channels.stop - 1
        return f"{self.layers} [{f'channel {first}' if first == last else f'channels {first}-{last}'}]"

    def encoded(self) -> dict[str, Any]:
        return {
            "layers": self.name,
            "takes": [list(wire) for wire in self.wires],
            "logrows": self.size.logrows,
            "rows": self.size.rows,
            "digits": self.options.legs,
            **self.cost.encoded(),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What `setup` and `prove` are given: `stages`, `options` and `wires`; and what it will cost.

    `whole`: the model as one circuit, for comparison. `machine`: how many times the seconds of the one fitted on.
    """

    circuits: tuple[Planned, ...]
    whole: Cost
    budget: Budget
    machine: float

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        return tuple(each.network for each in self.circuits)

    @property
    def options(self) -> tuple[Options, ...]:
        return tuple(each.options for each in self.circuits)

    @property
    def wires(self) -> tuple[tuple[Wire, ...], ...]:
        return tuple(each.wires for each in self.circuits)

    @property
    def prove(self) -> float:
        """Processor seconds of all proofs together."""
        return sum(each.cost.prove for each in self.circuits)

    @property
    def memory(self) -> float:
        """Bytes, of one proof after the other."""
        return max(each.cost.memory for each in self.circuits)

    def words(self) -> str:
        """One line: whether one circuit would do, by how much it would not, and what is proposed."""
        if len(self.circuits) == 1:
            return "one circuit fits the budget"
        kind = "circuits" if all(each.channels is None for each in self.circuits) else "circuits, with layers in parts"
        if self.budget.fits(self.whole):
            return f"one circuit would fit the budget; {len(self.circuits)} {kind} take less time"
        cuts = "; ".join(each.name for each in self.circuits[:-1])
        return f"one circuit would take {self.budget.excess(self.whole)}: {len(self.circuits)} {kind}, ending {cuts}"

    def encoded(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "circuits": [each.encoded() for each in self.circuits],
            "prove_seconds": round(self.prove, 1),
            "memory_bytes": round(self.memory),
            "key_bytes": round(sum(each.cost.key for each in self.circuits)),
            "whole": self.whole.encoded(),
            "machine": self.machine,
            "words": self.words(),
        }

    def table(self) -> list[tuple[str, ...]]:
        """A row for each circuit, under `HEADINGS`."""
        return [
            (
                str(place),
                each.name,
                f"{each.size.rows:,}",
                f"2^{each.size.logrows}",
                str(each.options.legs),
                f"{each.cost.key / GIGABYTE:.2f} GB",
                f"{each.cost.memory / GIGABYTE:.1f} GB",
                f"{each.cost.setup:.0f} s",
                f"{each.cost.prove:.0f} s",
            )
            for place, each in enumerate(self.circuits)
        ]


HEADINGS = ("circuit", "layers", "rows", "SRS", "digits", "key", "memory", "setup", "proof")


@dataclass(frozen=True, slots=True)
class _Choice:
    """A stretch, in so many parts, and what the parts cost together."""

    start: int
    end: int
    parts: int
    seconds: float


async def plan(
    model: nn.Module,
    samples: Tensor,
    budget: Budget,
    alone: Worker,
    *,
    scale: int = 7,
    parameter_scale: int = 7,
    parameters: Visibility = Visibility.FIXED,
    machine: float = 1.0,
    say: Say = lambda words: None,
) -> Plan:
    """The circuits of a model that takes one tensor; `samples`: [n, ...] of its inputs, as it takes them.

    Raises UserError where a layer does not fit even one channel at a time, or takes what cannot cross; Unproven that
    names the layer for what has no circuit here.
    """
    given = quantised(samples[:SAMPLES], scale)
    stretches = await asyncio.to_thread(Stretches, model, given, parameter_scale)
    options = Options(parameters, scale, parameter_scale, NEVER)
    planner = _Planner(stretches, budget, alone, options=options, machine=machine, say=say)
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        return await planner.plan(Path(scratch))


class _Planner:
    def __init__(
        self, stretches: Stretches, budget: Budget, alone: Worker, *, options: Options, machine: float, say: Say
    ) -> None:
        self._stretches, self._budget, self._alone, self._machine, self._say = stretches, budget, alone, machine, say
        self._options = replace(options, checked=False)
        self._sizes: list[Size] = []
        self._parts: dict[tuple[int, int], Size] = {}
        self._fitted: set[tuple[int, int]] = set()

    async def plan(self, scratch: Path) -> Plan:
        layers = len(self._stretches)
        for place in range(layers):
            self._check_digits(place)
            self._say(f"layer {place + 1} of {layers}: {self._stretches.name(place, place + 1)}")
            self._sizes.append(await self._size(scratch, place, None))
        whole = Cost.of(self._joined(LOGROWS[0], 0, layers), self._machine)
        asked = self._budget
        for share in SHARES:
            self._budget = Budget(asked.memory * share, None if asked.seconds is None else asked.seconds * share)
            found = [chosen for logrows in LOGROWS if (chosen := await self._cheapest(scratch, logrows)) is not None]
            if not found:
                raise self._too_large()
            choices, logrows = min(found, key=lambda one: sum(choice.seconds for choice in one[0]))
            planned = replace(await self._planned(scratch, choices, logrows, whole), budget=asked)
            if all(asked.fits(each.cost) for each in planned.circuits):
                return planned
        raise UserError("no plan keeps to this budget: what is raised to cross the cuts takes more than it leaves")

    # ---- what a stretch costs ---------------------------------------------------------------------------------------

    def _joined(self, logrows: int, start: int, end: int) -> Size:
        """Of a stretch: the sum of its layers, with as many digits as its largest number needs."""
        size = Size(logrows, 0)
        for own in self._sizes[start:end]:
            size = size.plus(own)
        more = self._legs(start, end) - 2
        return size.plus(Size(logrows, LEG_ROWS * more * self._stretches.activations(start, end)))

    def _legs(self, start: int, end: int) -> int:
        return digits_for(self._stretches.bits(start, end))

    def _check_digits(self, place: int) -> None:
        """Raises UserError where numbers, which nothing rescales here, have grown too large."""
        if not unambiguous(1 << BASE_BITS, self._legs(place, place + 1)):
            raise UserError(
                f"{self._stretches.name(place, place + 1)}: numbers have grown to "
                f"{self._stretches.bits(place, place + 1)} bits here, and a circuit's have {MOST_BITS - SPARE_BITS} at "
                "most: plan with fewer bits (--scale, --parameter-scale); `decentral zk setup` alone rescales after "
                "each layer"
            )

    async def _size(self, scratch: Path, place: int, channels: slice | None) -> Size:
        """Of one layer, or of some of its channels, with two digits."""
        takes, gives = self._stretches.needs(place, place + 1), (self._stretches.last(place + 1),)
        network = self._stretches.network((place, place + 1), takes, gives, {}, channels)
        examples = [self._stretches.example(port.node) for port in takes]
        try:
            return await self._measured(scratch, network, examples, takes, replace(self._options, legs=2))
        except Unproven as error:
            raise Unproven(f"{self._stretches.name(place, place + 1)}: {error}") from error

    async def _measured(
        self,
        scratch: Path,
        network: nn.Module,
        examples: Sequence[Tensor],
        takes: Sequence[Port],
        options: Options,
        *,
        output: Visibility = Visibility.COMMITTED,
    ) -> Size:
        """What ezkl says of a circuit."""
        model = scratch / "network.onnx"
        await asyncio.to_thread(export, network, examples, model)
        arguments = Arguments(
            input=Visibility.COMMITTED if takes else Visibility.PUBLIC,
            output=output,
            parameters=options.parameters,
            input_scale=takes[0].scale if takes else options.scale,
            parameter_scale=options.parameter_scale,
            rebase=options.rebase,
            logrows=options.logrows or LOGROWS[0],
            base=options.base,
            legs=options.legs,
            checked=options.checked,
        )
        return Size.of(await settings_of(self._alone, model, arguments))

    # ---- where to cut -----------------------------------------------------------------------------------------------

    async def _cheapest(self, scratch: Path, logrows: int) -> tuple[list[_Choice], int] | None:
        """The stretches of least time that all fit, of all ways to cut; None where there is none."""
        best: list[tuple[float, list[_Choice]] | None] = [(0.0, [])]
        for end in range(1, len(self._stretches) + 1):
            ways: list[tuple[float, list[_Choice]]] = []
            for start in range(end):
                before = best[start]
                if before is None or self._stretches.takes(start, end) is None:
                    continue
                choice = await self._fitting(scratch, logrows, start, end)
                if choice is not None:
                    ways.append((before[0] + choice.seconds, [*before[1], choice]))
            best.append(min(ways, key=lambda way: way[0]) if ways else None)
        return None if best[-1] is None else (best[-1][1], logrows)

    async def _fitting(self, scratch: Path, logrows: int, start: int, end: int) -> _Choice | None:
        """A stretch in as few parts as fit the budget."""
        found = await self._divided(scratch, logrows, start, end)
        if found is not None:
            self._fitted.add((start, end))
        return found

    async def _divided(self, scratch: Path, logrows: int, start: int, end: int) -> _Choice | None:
        cost = Cost.of(self._joined(logrows, start, end), self._machine)
        if self._budget.fits(cost):
            return _Choice(start, end, 1, cost.prove)
        channels = self._stretches.channels(start, end)
        for parts in [*(1 << power for power in range(1, (channels - 1).bit_length())), channels][: channels - 1]:
            size = await self._part(scratch, logrows, start, -(-channels // parts))
            cost = Cost.of(size, self._machine)
            if self._budget.fits(cost):
                return _Choice(start, end, parts, parts * cost.prove)
        return None

    async def _part(self, scratch: Path, logrows: int, place: int, width: int) -> Size:
        """Of so many channels of a layer."""
        if (place, width) not in self._parts:
            self._parts[place, width] = await self._size(scratch, place, slice(0, width))
        own = self._parts[place, width]
        share = width / self._stretches.channels(place, place + 1)
        more = (self._legs(place, place + 1) - 2) * self._stretches.activations(place, place + 1)
        return Size(logrows, own.rows + round(LEG_ROWS * more * share), own.ranged)

    def _too_large(self) -> UserError:
        """Names what does not fit, however it is cut: the smallest stretch of layers between two possible cuts."""
        for start in range(len(self._stretches)):
            ends = [
                end
                for end in range(start + 1, len(self._stretches) + 1)
                if self._stretches.takes(start, end) is not None
            ]
            if not ends or (start, ends[0]) in self._fitted:
                continue
            own = self._parts.get((start, 1)) if ends[0] == start + 1 else None
            size = replace(own or self._joined(LOGROWS[0], start, ends[0]), logrows=LOGROWS[0])
            cost = Cost.of(size, self._machine)
            if not self._budget.fits(cost):
                how = "even one channel at a time" if own else "which cannot be cut"
                return UserError(
                    f"{self._stretches.name(start, ends[0])}, {how}, would take {self._budget.excess(cost)}"
                )
        return UserError("no way to cut this model fits the budget: tensors of different scales would cross every cut")

    # ---- circuits ---------------------------------------------------------------------------------------------------

    async def _planned(self, scratch: Path, choices: Sequence[_Choice], logrows: int, whole: Cost) -> Plan:
        stretches = self._stretches
        wanted = [port for choice in choices for port in stretches.takes(choice.start, choice.end) or ()]
        made: dict[Port, list[tuple[Wire, slice | None]]] = {}
        circuits: list[Planned] = []
        for choice in choices:
            start, end = choice.start, choice.end
            takes, gives = stretches.takes(start, end) or (), stretches.made(start, end, wanted)
            pieces = {port.node: len(made[port]) for port in takes}
            taken = [(port, *piece) for port in takes for piece in made[port]]
            examples = [stretches.example(port.node, part) for port, _, part in taken] or [stretches.example()]
            options = replace(self._options, legs=self._legs(start, end), logrows=logrows)
            output = Visibility.PUBLIC if end == len(stretches) else Visibility.COMMITTED
            first, parts = len(circuits), _cut(stretches.channels(start, end), choice.parts)
            for channels in parts:
                network = stretches.network((start, end), takes, gives, pieces, channels)
                size = await self._measured(scratch, network, examples, takes, options, output=output)
                circuits.append(
                    Planned(
                        layers=stretches.name(start, end),
                        channels=channels,
                        network=network,
                        wires=tuple(wire for _, wire, _ in taken),
                        options=options,
                        size=size,
                        cost=Cost.of(size, self._machine),
                    )
                )
            for number, port in enumerate(gives):
                made[port] = [
                    ((first + place, number), stretches.portion(start, port.node, channels))
                    for place, channels in enumerate(parts)
                ]
        return Plan(tuple(circuits), whole, self._budget, self._machine)


def _cut(channels: int, parts: int) -> list[slice | None]:
    """So many channels in parts of one width, the last of which may be narrower."""
    if parts == 1:
        return [None]
    width = -(-channels // parts)
    return [slice(at, min(at + width, channels)) for at in range(0, channels, width)]
