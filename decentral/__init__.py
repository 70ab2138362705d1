"""Secure decentralized training and inference: what people use from Python.

Names are imported when they are first used, so that `import decentral` costs nothing and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decentral.core.mixing import mixing_matrix
    from decentral.core.permutation import Permutation, PermutationSpec, random_permutation
    from decentral.launch.background import LocalCluster
    from decentral.models.stages import split
    from decentral.models.tracing import permutation_spec
    from decentral.serving.asking.prediction import Prediction, Unverified
    from decentral.serving.client import Client
    from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
    from decentral.training.activations import NotFinite, ambiguous_units
    from decentral.training.merging import match, merge, permute
    from decentral.trust.policy import Policy
    from decentral.trust.receipt import verify

__all__ = [
    "Client",
    "DecentralizedDiffusionPipeline",
    "LocalCluster",
    "NotFinite",
    "Permutation",
    "PermutationSpec",
    "Policy",
    "Prediction",
    "Unverified",
    "__version__",
    "ambiguous_units",
    "match",
    "merge",
    "mixing_matrix",
    "permutation_spec",
    "permute",
    "random_permutation",
    "register_algorithm",
    "register_dataset",
    "register_learner",
    "register_model",
    "split",
    "verify",
]

_EXPORTS = {
    "Client": "decentral.serving.client:Client",
    "DecentralizedDiffusionPipeline": "decentral.serving.experts.pipeline:DecentralizedDiffusionPipeline",
    "LocalCluster": "decentral.launch.background:LocalCluster",
    "NotFinite": "decentral.training.activations:NotFinite",
    "Permutation": "decentral.core.permutation:Permutation",
    "PermutationSpec": "decentral.core.permutation:PermutationSpec",
    "Policy": "decentral.trust.policy:Policy",
    "Prediction": "decentral.serving.asking.prediction:Prediction",
    "Unverified": "decentral.serving.asking.prediction:Unverified",
    "ambiguous_units": "decentral.training.activations:ambiguous_units",
    "match": "decentral.training.merging:match",
    "merge": "decentral.training.merging:merge",
    "mixing_matrix": "decentral.core.mixing:mixing_matrix",
    "permutation_spec": "decentral.models.tracing:permutation_spec",
    "permute": "decentral.training.merging:permute",
    "random_permutation": "decentral.core.permutation:random_permutation",
    "register_algorithm": "decentral.algorithms.catalogue:ALGORITHMS.register",
    "register_dataset": "decentral.data.datasets:DATASETS.register",
    "register_learner": "decentral.training.catalogue:LEARNERS.register",
    "register_model": "decentral.models.catalogue:MODELS.register",
    "split": "decentral.models.stages:split",
    "verify": "decentral.trust.receipt:verify",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("decentral")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'decentral' has no attribute {name!r}")
    module, _, path = _EXPORTS[name].partition(":")
    found: Any = importlib.import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    globals()[name] = found
    return found
