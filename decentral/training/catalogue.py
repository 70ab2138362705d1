"""Learners by name; torch is imported with the learner that is used."""

from __future__ import annotations

from decentral.registry import Registry

LEARNERS = Registry(
    "learner",
    {
        "classifier": "decentral.training.classifier:ClassifierLearner",
        "diffusion": "decentral.training.experts:diffusion",
        "distillation": "decentral.training.distillation:distillation",
        "null": "decentral.training.null:NullLearner",
        "split": "decentral.training.split:split",
    },
)
"""Constructors of a `Learner`; they take the model, the dataset, the peer's share and the training options by name.

One with a true `without_data` takes the peer's index, the seed and its own options alone.
"""

DENOISING = frozenset({"diffusion", "distillation"})
"""Those that train denoisers, and nothing else."""

SPLITTING = frozenset({"split"})
"""Those that hold a part of a network, and train it with whoever holds the rest."""
