"""Running statistics of BatchNorm for weights that were not trained but made.

Averaged networks have other activations than any of the networks they come from, so their running statistics are
estimated anew on data (REPAIR, arXiv 2211.08403; DIMAT, arXiv 2404.08079, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from decentral.models.graphs import evaluating


def tracking_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The layers with running statistics, by name."""
    modules = model.named_modules()
    return {name: m for name, m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None}


@torch.no_grad()
def spread_batchnorm(model: nn.Module, states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> None:
    """Adds to the running variances, which are averages of the states', the variance of the states' means.

    So they are the variances of all the images that the states' statistics come from (law of total variance). The
    weights sum to one; the running means are averages already.
    """
    for name, layer in tracking_layers(model).items():
        assert layer.running_mean is not None and layer.running_var is not None
        for state, weight in zip(states, weights, strict=True):
            layer.running_var.add_((state[f"{name}.running_mean"] - layer.running_mean).square(), alpha=weight)


def reestimate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replaces running mean and variance by their average over the batches; everything else of the model stays.

    Only BatchNorm is in training mode meanwhile; momentum and modes are as before afterwards. Batches of one image
    have no variance and are passed over. Returns the number of batches, which is 0 for a model without running
    statistics: it does not run at all. Raises ValueError when there is such a layer and no batch.
    """
    layers = list(tracking_layers(model).values())
    if not layers:
        return 0
    device = next(model.parameters()).device
    momenta = [layer.momentum for layer in layers]
    count = 0
    with evaluating(model), torch.no_grad():
        try:
            for layer in layers:
                layer.train()
                layer.momentum = None  # torch's word for a cumulative average
            for images in batches:
                if len(images) < 2:
                    continue
                if count == 0:
                    for layer in layers:
                        layer.reset_running_stats()
                model(images.to(device, non_blocking=True))
                count += 1
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
    if count == 0:
        raise ValueError("no batch of two images or more to estimate BatchNorm's statistics on")
    return count
