"""What a circuit costs, from numbers that its settings tell at once: rows, products and the size of the SRS.

All of it is linear: each circuit pays for 2^logrows once (tables, commitments), for its rows, and for the cells in
which Freivalds' check of its products of matrices lies. The coefficients were fitted to six circuits of two inner
columns, of 5,642 to 356,352 rows over 2^15 or 2^16, and meet each of them within 11 %. They are processor seconds on
the machine of docs/zero-knowledge-planning.md, with which another one is compared by one small proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from decentral.errors import UserError
from decentral.zk.arguments import Settings

ROWS, CELLS = 2.0**15, 2.0**16
"""The units of rows and cells below."""
GIGABYTE = 1e9


@dataclass(frozen=True, slots=True)
class Line:
    """Of a quantity: constant, and for each 2^15 of the SRS, 2^15 rows, 2^16 cells of products."""

    constant: float
    size: float
    rows: float
    products: float

    def at(self, size: Size) -> float:
        srs = 2.0**size.logrows / ROWS
        return self.constant + self.size * srs + self.rows * size.rows / ROWS + self.products * size.products / CELLS


@dataclass(frozen=True, slots=True)
class Size:
    """Of a circuit with two inner columns."""

    logrows: int
    rows: int
    products: int

    @classmethod
    def of(cls, settings: Settings) -> Size:
        """As its settings say."""
        return cls(settings.logrows, settings.rows, settings.products)

    def plus(self, other: Size) -> Size:
        return Size(self.logrows, self.rows + other.rows, self.products + other.products)


SETUP = Line(0.0, 3.75, 3.39, 17.8)
PROVE = Line(0.0, 4.72, 5.5, 14.1)
"""Processor seconds, over all cores."""
MEMORY = Line(0.6, 0.17, 0.223, 0.767)
KEY = Line(0.0, 0.0954, 0.091, 0.4855)
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
