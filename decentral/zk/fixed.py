"""Fixed-point numbers as circuits compute with them: integers of any size, in tensors, for many inputs at once.

A circuit's field has 254 bits, so a network need not round between its layers: its numbers grow by the bits of the
weights instead. An integer is written in digits of 28 bits, each kept as float64: a product of matrices is computed
digit by digit by the machine's own floating-point routines and is exact, since no sum reaches 2^53.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

BITS = 28
BASE = float(1 << BITS)
EXACT = float(1 << 53)
"""Up to which float64 counts by ones."""

Digits = tuple[Float[Tensor, "..."], ...]


def half_away(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """To the nearest integer, halves away from zero."""
    whole = values.trunc()
    return whole + torch.where((values - whole).abs() >= 0.5, values.sign(), torch.zeros_like(values))


@dataclass(frozen=True, slots=True)
class Fixed:
    """The numbers  (sum over i of digits[i] 2^(28 i)) / 2^scale;  all digits but the last, which has the sign, are in
    [0, 2^28)."""

    digits: Digits
    scale: int

    @classmethod
    def of_real(cls, values: Tensor, scale: int) -> Fixed:
        """Each to the nearest step of 2^-scale, halves away from zero, as ezkl reads inputs and parameters."""
        return cls(carried((half_away(values.double() * 2.0**scale),)), scale)

    @classmethod
    def of_integers(cls, values: Sequence[int], shape: Sequence[int], scale: int) -> Fixed:
        """From Python's integers, such as the field elements of a witness."""
        count = 1 + max((abs(value).bit_length() for value in values), default=0) // BITS
        rows = [[float((value >> (BITS * i)) & ((1 << BITS) - 1)) for value in values] for i in range(count - 1)]
        rows.append([float(value >> (BITS * (count - 1))) for value in values])
        return cls(carried(tuple(torch.tensor(row, dtype=torch.float64).reshape(*shape) for row in rows)), scale)

    @property
    def shape(self) -> torch.Size:
        return self.digits[0].shape

    def integers(self) -> list[int]:
        """In the order of the elements."""
        columns = [digit.flatten().tolist() for digit in self.digits]
        return [
            sum(int(part) << (BITS * place) for place, part in enumerate(parts)) for parts in zip(*columns, strict=True)
        ]

    def real(self) -> Float[Tensor, ...]:
        """In float64, which has 53 bits of each."""
        total = torch.zeros_like(self.digits[0])
        for place, digit in reversed([*enumerate(self.digits)]):
            total += digit * 2.0 ** (BITS * place - self.scale)
        return total

    def bits(self) -> int:
        """The smallest b so that all integers are between -2^b and 2^b, neither included."""
        largest = max((abs(value) for value in (self._extreme(max), self._extreme(min))), default=0)
        return largest.bit_length()

    def _extreme(self, which: Callable[..., Any]) -> int:
        """The largest or the smallest integer: lexicographic, from the last digit down."""
        rows = torch.stack([digit.flatten() for digit in self.digits], 1)
        for place in range(rows.shape[1] - 1, -1, -1):
            column = rows[:, place]
            rows = rows[column == (column.max() if which is max else column.min())]
        return sum(int(part) << (BITS * place) for place, part in enumerate(rows[0].tolist()))

    def moved(self, rearrange: Callable[[Tensor], Tensor]) -> Fixed:
        """What only moves elements, such as a reshape: of every digit."""
        return Fixed(tuple(map(rearrange, self.digits)), self.scale)

    def linear(self, apply: Callable[[Tensor], Tensor], norm: float, bits: int) -> Fixed:
        """By integer weights in float64 at a scale of `bits`: `norm` is the largest sum of absolute weights of an
        output. Raises OverflowError where that is more than can be exact."""
        if norm * BASE >= EXACT:
            raise OverflowError(f"weights of an output add up to {norm:.3g}, and 2^25 is what can be exact")
        return Fixed(carried(tuple(map(apply, self.digits))), self.scale + bits)

    def plus(self, other: Fixed) -> Fixed:
        """At the larger of both scales."""
        scale = max(self.scale, other.scale)
        one, two = self.raised(scale).digits, other.raised(scale).digits
        count = max(len(one), len(two))
        return Fixed(
            carried(tuple(a + b for a, b in zip(_padded(one, count), _padded(two, count), strict=True))), scale
        )

    def raised(self, scale: int) -> Fixed:
        """The same numbers in smaller steps."""
        digits, left = self.digits, scale - self.scale
        if left < 0:
            raise ValueError("numbers in larger steps are other numbers")
        places, left = divmod(left, BITS)
        zero = torch.zeros_like(digits[0])
        for step in (left // 2, left - left // 2):  # at once, a digit and what it carries would exceed 53 bits
            digits = carried(tuple(digit * 2.0**step for digit in digits))
        return Fixed((zero,) * places + digits, scale)

    def rescaled(self, scale: int) -> Fixed:
        """In larger steps: to the nearest one, halves away from zero, as ezkl divides."""
        drop = self.scale - scale
        if drop <= 0:
            return Fixed(self.digits, scale)
        negative = self.digits[-1] < 0
        magnitude = carried(tuple(torch.where(negative, -digit, digit) for digit in self.digits))
        places, bits = divmod(drop - 1, BITS)
        half = torch.full_like(self.digits[0], 2.0**bits)
        zero = torch.zeros_like(half)
        count = max(len(magnitude), places + 1)
        summed = [*_padded(magnitude, count)]
        summed[places] = summed[places] + half
        magnitude = carried(tuple(summed))
        places, bits = divmod(drop, BITS)
        kept = magnitude[places:] or (zero,)
        shifted = tuple(
            (digit / 2.0**bits).floor() + (torch.remainder(above, 2.0**bits) * 2.0 ** (BITS - bits) if bits else 0)
            for digit, above in zip(kept, (*kept[1:], zero), strict=True)
        )
        return Fixed(carried(tuple(torch.where(negative, -digit, digit) for digit in shifted)), scale)

    def relu(self) -> Fixed:
        positive = self.digits[-1] >= 0
        return Fixed(carried(tuple(torch.where(positive, digit, 0.0) for digit in self.digits)), self.scale)

    def larger(self, other: Fixed) -> Fixed:
        """Of each two elements, at one scale."""
        count = max(len(self.digits), len(other.digits))
        one, two = _padded(self.digits, count), _padded(other.digits, count)
        first = torch.zeros_like(one[0], dtype=torch.bool)
        for a, b in zip(one, two, strict=True):  # the last digit decides, and those below where it is equal
            first = (a > b) | ((a == b) & first)
        return Fixed(carried(tuple(torch.where(first, a, b) for a, b in zip(one, two, strict=True))), self.scale)


def joined(parts: Sequence[Fixed], dim: int) -> Fixed:
    """Beside one another, at the largest scale of theirs."""
    scale = max(part.scale for part in parts)
    raised = [part.raised(scale).digits for part in parts]
    count = max(map(len, raised))
    columns = zip(*(_padded(digits, count) for digits in raised), strict=True)
    return Fixed(tuple(torch.cat(column, dim) for column in columns), scale)


def carried(digits: Digits) -> Digits:
    """The same integers with their digits in range; as few as there need be, and as many."""
    found: list[Tensor] = []
    carry = torch.zeros_like(digits[0])
    for digit in digits[:-1]:
        total = digit + carry
        carry = (total / BASE).floor()
        found.append(total - carry * BASE)
    last = digits[-1] + carry
    while bool((last.abs() >= BASE).any()):
        carry = (last / BASE).floor()
        found.append(last - carry * BASE)
        last = carry
    while found and bool(((last == 0) | ((last == -1) & (found[-1] > 0))).all()):
        below = found.pop()
        last = below + last * BASE  # a lone sign joins the digit below it
    return (*found, last)


def _padded(digits: Digits, count: int) -> Digits:
    """With more digits, all but the last in range: the sign moves up."""
    while len(digits) < count:
        sign = (digits[-1] / BASE).floor()
        digits = (*digits[:-1], digits[-1] - sign * BASE, sign)
    return digits
