"""What a circuit costs, from numbers that its settings tell at once: rows, and the size of the SRS.

A circuit lies in columns of 2^logrows places. Rows fill one block of columns after another, and a block costs the same
whether it is full or not, and more where numbers are checked to be in a range, as every ReLU needs. Time, memory and
keys are linear in the places of all blocks. The coefficients were fitted to the circuits of
`python -m benchmarks.zk_prediction`, of two inner columns and 3,170 to 451,796 rows over 2^15 or 2^16, which says how
far they carry. Seconds are of the processors of the machine of
docs/zero-knowledge-planning.md, with which another one is compared by one small proof; memory is that of the process
that proves, which is larger than that of the setup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from decentral.errors import UserError
from decentral.zk.arguments import Settings

UNIT = 2.0**15
"""Of places, below."""
RESERVED = 10
"""Places of a column that hold no row."""
GIGABYTE = 1e9


@dataclass(frozen=True, slots=True)
class Line:
    """Of a quantity, for each 2^15 places: of one column, of blocks of rows, and what ranges add to each of these."""

    column: float
    rows: float
    ranged: float

    def at(self, size: Size) -> float:
        column = 2.0**size.logrows
        blocks = math.ceil(size.rows / (column - RESERVED))
        return column / UNIT * (self.column + blocks * (self.rows + self.ranged * size.ranged))


@dataclass(frozen=True, slots=True)
class Size:
    """Of a circuit with two inner columns; `ranged`: whether numbers are checked to be in a range."""

    logrows: int
    rows: int
    ranged: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Size:
        """As its settings say."""
        return cls(settings.logrows, settings.rows, settings.ranged)

    def plus(self, other: Size) -> Size:
        return Size(self.logrows, self.rows + other.rows, self.ranged or other.ranged)


SETUP = Line(1.524, 2.744, 1.149)
PROVE = Line(1.419, 3.523, 2.374)
"""Processor seconds, over all cores."""
MEMORY = Line(0.123, 0.124, 0.103)
KEY = Line(0.044, 0.067, 0.025)
"""Of a proof at its peak, and of the proving key, in gigabytes."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Predicted. Seconds are of processor time, `memory` and `key` are bytes."""

    setup: float
    prove: float
    memory: float
    key: float

    @classmethod
    def of(cls, size: Size, machine: float = 1.0) -> Cost:
        """`machine`: how many times the seconds of the machine that was fitted on."""
        return cls(
            SETUP.at(size) * machine, PROVE.at(size) * machine, MEMORY.at(size) * GIGABYTE, KEY.at(size) * GIGABYTE
        )

    def encoded(self) -> Mapping[str, float]:
        return {
            "setup_seconds": round(self.setup, 1),
            "prove_seconds": round(self.prove, 1),
            "memory_bytes": round(self.memory),
            "key_bytes": round(self.key),
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """Of each circuit: bytes of memory, and processor seconds of its proof. Raises UserError for what is none."""

    memory: float = 8e9
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.memory <= 0 or (self.seconds is not None and self.seconds <= 0):
            raise UserError("a budget is more than nothing")

    def fits(self, cost: Cost) -> bool:
        return cost.memory <= self.memory and (self.seconds is None or cost.prove <= self.seconds)

    def excess(self, cost: Cost) -> str:
        """By how much a circuit is too large, for a person."""
        said = []
        if cost.memory > self.memory:
            over = (cost.memory - self.memory) / GIGABYTE
            said.append(f"{cost.memory / GIGABYTE:.1f} GB of memory, {over:.1f} GB more than the budget")
        if self.seconds is not None and cost.prove > self.seconds:
            said.append(f"{cost.prove:.0f} s of processor time, {cost.prove - self.seconds:.0f} s more than the budget")
        return " and ".join(said)
