"""What algorithms do with a learner's network as a torch module, done where the network is.

That may be another process, so an algorithm asks for the work and never holds the module itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol, cast

from torch import nn

from decentral.core.permutation import PermutationSpec
from decentral.training.learner import Learner, ModuleLearner, State


class ModuleWork(Protocol):
    """Work on the network of one learner. Blocking: call it through `Clock.work`."""

    samples: int
    """Images that one look at the peer's own takes: what matching and re-estimation cost."""

    def repairs(self, repair: bool | Literal["auto"]) -> bool:
        """Whether a merge would repair this network. Raises ValueError where it is asked to and cannot."""
        ...

    def merge(
        self,
        others: Sequence[State],
        weights: Sequence[float],
        *,
        method: str,
        statistics: str,
        repair: bool | Literal["auto"],
    ) -> float | None:
        """Replaces the model by its merge with others, aligned on the peer's images; `weights` begin with its own.

        Returns the mean share of units that the matching moved; None where there is no other. Raises ValueError, and
        NotFinite, as `merge_into` does.
        """
        ...

    def reestimate(self) -> None:
        """BatchNorm's statistics, anew on the peer's images."""
        ...


def module_work(learner: Learner) -> ModuleWork | None:
    """What can be done with a learner's network; None where it has no torch module, or no images to look at."""
    elsewhere: ModuleWork | None = getattr(learner, "module_work", None)
    if elsewhere is not None:
        return elsewhere
    if not isinstance(getattr(learner, "model", None), nn.Module) or not hasattr(learner, "matching_batches"):
        return None
    return LocalModuleWork(cast(ModuleLearner, learner))


def buffers_of(learner: Learner) -> frozenset[str]:
    """Names in a learner's state that no optimiser changes; none where the learner has no torch module."""
    elsewhere: frozenset[str] | None = getattr(learner, "buffers", None)
    if elsewhere is not None:
        return elsewhere
    model = getattr(learner, "model", None)
    return frozenset(name for name, _ in model.named_buffers()) if isinstance(model, nn.Module) else frozenset()


class LocalModuleWork:
    """On a network in this process. What tracing it tells is found once."""

    def __init__(self, learner: ModuleLearner) -> None:
        self._learner = learner
        self._spec: PermutationSpec | None = None
        self.samples = learner.matching_samples

    def repairs(self, repair: bool | Literal["auto"]) -> bool:
        from decentral.training.repair import applies  # here and below: these import torch.fx, which costs a moment

        return applies(self._learner.model, repair)

    def merge(
        self,
        others: Sequence[State],
        weights: Sequence[float],
        *,
        method: str,
        statistics: str,
        repair: bool | Literal["auto"],
    ) -> float | None:
        from decentral.models.tracing import permutation_spec
        from decentral.training.merging import merge_into

        if not others:
            return None
        model, batches = self._learner.model, list(self._learner.matching_batches())
        if self._spec is None:
            self._spec = permutation_spec(model, batches[0][:2])
        permutations = merge_into(
            model, others, weights, self._spec, batches, method=method, statistics=statistics, repair=repair
        )
        return math.fsum(permutation.share_moved for permutation in permutations) / len(permutations)

    def reestimate(self) -> None:
        from decentral.training.batchnorm import reestimate_batchnorm

        reestimate_batchnorm(self._learner.model, self._learner.matching_batches())
