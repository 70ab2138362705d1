"""Circuits that never rescale: cheaper ones, for stages that are cut already.

A number that is rescaled after a layer takes 23 rows, one that is left to grow by 14 bits takes two. So numbers keep
all their bits, and each stage has as many digits as its largest number needs.
`planner` does the same where it may cut as it likes; why nothing is checked at the ends, and when a network's numbers
grow too large for that, is in docs/zero-knowledge-planning.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from decentral.errors import UserError
from decentral.zk.arguments import MOST_BITS, unambiguous
from decentral.zk.emulator import Emulator, Scales, quantised
from decentral.zk.planner import BASE_BITS, SPARE_BITS, digits_for
from decentral.zk.setup import Options
from decentral.zk.stretches import NEVER


def unscaled(options: Options) -> Options:
    """The same, of numbers that are never rescaled: nothing is to be calibrated, digits alone need their rows."""
    logrows = max(options.logrows or 0, BASE_BITS + 1)
    return replace(options, rebase=NEVER, base=1 << BASE_BITS, logrows=logrows, checked=False)


def digits_of(
    networks: Sequence[nn.Module], samples: Sequence[Tensor], options: Options, names: Sequence[str]
) -> list[Options]:
    """Of each stage, which takes what the one before gives; `samples`: of what the first takes. Blocking.

    Raises UserError that names the stage whose numbers have grown too large, Unproven.
    """
    values = tuple(quantised(sample, options.scale) for sample in samples)
    found = []
    for network, name in zip(networks, names, strict=True):
        emulator = Emulator(network, Scales(options.parameter_scale, options.rebase), inputs=len(values))
        bits = emulator.bits(*values)
        legs = digits_for(bits)
        if not unambiguous(options.base, legs):
            raise UserError(
                f"{name}: numbers have grown to {bits} bits here, and a circuit's have {MOST_BITS - SPARE_BITS} at "
                "most: rescale them, or take fewer bits (scale, parameter_scale)"
            )
        found.append(replace(options, legs=legs))
        values = emulator(*values)
    return found
