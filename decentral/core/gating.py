"""Which experts a sample asks, by name: all of them, the best few, or a number that depends on the noise.

McAllister et al., arXiv 2501.05450, compare full, top-k and threshold; weights always sum to one again over those who
are asked. Torch-free: a choice is checked before torch is imported. The mathematics stands in `core.routing`.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decentral.errors import UserError
from decentral.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

GATES = Registry(
    "choice of experts",
    {
        "full": "decentral.core.gating:Full",
        "top-k": "decentral.core.gating:TopK",
        "threshold": "decentral.core.gating:Threshold",
        "by-noise": "decentral.core.gating:ByNoise",
    },
)
"""Constructors `(**options) -> Gate`; they raise UserError for an option that is out of its range."""

Choice = str | Mapping[str, Any]
"""`full`, `top-2`, `{threshold: 0.9}`, `{name: by-noise, above: 0.5, wide: full, narrow: top-1}`."""


class Gate(ABC):
    """From what the router believes to weights: zero for experts that are not asked."""

    @abstractmethod
    def __call__(self, probabilities: Tensor, t: Tensor) -> Tensor:
        """Weights (n, K) whose rows sum to one, of probabilities (n, K) whose rows do, at times t (n,) in [0, 1].

        An expert of probability zero is never asked. Of experts that tie, the first is the better.
        """


class Full(Gate):
    """Everybody: the flow of all data. K evaluations a sample."""

    def __call__(self, probabilities: Tensor, t: Tensor) -> Tensor:
        return probabilities


class TopK(Gate):
    """The k most probable. k evaluations a sample."""

    def __init__(self, k: object) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise UserError(f"top-k: k must be an integer of at least 1, not {k!r}")
        self.k = k

    def __call__(self, probabilities: Tensor, t: Tensor) -> Tensor:
        from decentral.core.routing import top_k

        return top_k(probabilities, self.k)


class Threshold(Gate):
    """As few as together have the probability `mass`: top-p, but nothing is drawn."""

    def __init__(self, mass: object) -> None:
        if isinstance(mass, bool) or not isinstance(mass, (int, float)) or not 0 < mass <= 1:
            raise UserError(f"threshold: mass must be greater than 0 and at most 1, not {mass!r}")
        self.mass = float(mass)

    def __call__(self, probabilities: Tensor, t: Tensor) -> Tensor:
        from decentral.core.routing import top_p

        return top_p(probabilities, self.mass)


class ByNoise(Gate):
    """`wide` where t is at least `above`, `narrow` below.

    Noise hides where a sample came from, so that many experts have a say; later one is as good as sure.
    """

    def __init__(self, above: object = 0.5, wide: object = "full", narrow: object = "top-1") -> None:
        if isinstance(above, bool) or not isinstance(above, (int, float)) or not 0 <= above <= 1:
            raise UserError(f"by-noise: above must be between 0 and 1, not {above!r}")
        self.above, self.wide, self.narrow = float(above), gate(wide), gate(narrow)

    def __call__(self, probabilities: Tensor, t: Tensor) -> Tensor:
        noisy = (t >= self.above)[:, None]
        return self.wide(probabilities, t).where(noisy, self.narrow(probabilities, t))


def gate(choice: object) -> Gate:
    """What a person wrote, a `Choice`: a name, `top-K`, `{name: ..., option: ...}`, `{name: its first option's value}`.

    Raises UserError.
    """
    if isinstance(choice, Gate):
        return choice
    if isinstance(choice, str):
        top = re.fullmatch(r"top-(\d+)", choice)
        name, options = ("top-k", {"k": int(top[1])}) if top else (choice, {})
    elif isinstance(choice, Mapping) and "name" in choice:
        name, options = str(choice["name"]), {key: value for key, value in choice.items() if key != "name"}
    elif isinstance(choice, Mapping) and len(choice) == 1:
        [(written, value)] = choice.items()
        name = str(written)
        first = next(iter(inspect.signature(GATES.resolve(name)).parameters), None)
        if first is None:
            raise UserError(f"the choice of experts {name!r} has no options: write it alone")
        options = {first: value}
    else:
        raise UserError(
            f"experts must be a name ({', '.join(GATES.names())}, top-1, top-2, ...), {{threshold: 0.9}}, "
            f"or {{name: ..., option: ...}}, not {choice!r}"
        )
    built: Gate = GATES.construct(name, **options)
    return built
