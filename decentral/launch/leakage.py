"""What leaks at every cut of a model in stages that lies prepared in a folder."""

from __future__ import annotations

import torch

from decentral.errors import UserError
from decentral.run.directory import ServingDirectory
from decentral.serving.stages.leakage import measure
from decentral.serving.stages.model import Network, load_stages
from decentral.trust.leakage import Measurement


def measure_cluster(cluster: ServingDirectory) -> Measurement:
    """By the recipe's seed, with the stages that its clients compute and the noise that they add; nothing is written.

    Blocking: attackers are trained. Raises UserError where the folder holds no stages, or nobody knows their data.
    """
    recipe = cluster.recipe
    torch.set_num_threads(recipe.threads)
    data = Network.load(cluster.stages).dataset()
    if data is None:
        raise UserError(f"{cluster.path}: data: an attacker learns from images, so the recipe has to name a dataset")
    stages = load_stages(cluster.stages)
    ordered = [stages[place] for place in sorted(stages)]
    return measure(ordered, data, names=recipe.parts, local=recipe.local, budget=recipe.budget(), seed=recipe.seed)
