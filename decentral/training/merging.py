"""Merging networks that were trained apart: align their hidden units, then average.

DIMAT's merge (arXiv 2404.08079, algorithm 1): θ_i becomes the sum over j of W_ij P_ij(θ_j), where P_ij aligns the units
of j with those of i, which is the reference; BatchNorm's statistics are then estimated anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from decentral.core.averaging import WeightedAverage, check_weights
from decentral.core.matching import activation_matching, weight_matching
from decentral.core.permutation import Permutation, PermutationSpec, apply_permutation, identity_permutation
from decentral.training.activations import correlations
from decentral.training.batchnorm import reestimate_batchnorm

METHODS = ("activation", "weight")

Network = nn.Module | Mapping[str, Tensor]
"""A network, or the state of one of the reference's architecture."""


def match(
    reference: nn.Module,
    other: Network,
    spec: PermutationSpec,
    batches: Iterable[Tensor] | None = None,
    method: str = "activation",
) -> Permutation:
    """The permutation of `other` after which its units play the roles of the reference's. See `align`."""
    return align(reference, [other], spec, batches, method)[0]


def align(
    reference: nn.Module,
    others: Sequence[Network],
    spec: PermutationSpec,
    batches: Iterable[Tensor] | None = None,
    method: str = "activation",
) -> list[Permutation]:
    """For each other network the permutation that aligns it with the reference, independently of one another.

    `activation` compares the units' activations on `batches` (images, [B, ...]); the reference runs once for each.
    `weight` compares the weights alone and needs no batches. Raises ValueError for another method, for networks of
    different structure, and for activation matching without a batch.
    """
    if method not in METHODS:
        raise ValueError(f"unknown matching method {method!r}; there are: {', '.join(METHODS)}")
    states = [_state_like(reference, other) for other in others]
    if not spec.groups:
        return [identity_permutation(spec) for _ in states]
    if method == "activation":
        if batches is None:
            raise ValueError("activation matching needs batches of images")
        scores = correlations(reference, states, spec, batches)
        return [activation_matching(spec, groups) for groups in scores]
    own = {name: parameter.detach() for name, parameter in reference.named_parameters(remove_duplicate=False)}
    return [weight_matching(spec, own, {name: state[name] for name in own}) for state in states]


def merge(
    models: Sequence[nn.Module],
    weights: Sequence[float],
    spec: PermutationSpec,
    batches: Iterable[Tensor] | None = None,
    method: str = "activation",
) -> nn.Module:
    """A new network: the weighted average of the models, each aligned with the first, which is the reference.

    `weights` sum to one. BatchNorm is estimated anew on `batches`, which only weight matching of networks without
    BatchNorm can do without. Raises ValueError as `align` does, and for weights that are not those of a mean.
    """
    if len(models) != len(weights):
        raise ValueError(f"{len(models)} models but {len(weights)} weights")
    merged = copy.deepcopy(models[0])
    merge_into(merged, models[1:], weights, spec, batches, method=method)
    return merged


def merge_into(
    model: nn.Module,
    others: Sequence[Network],
    weights: Sequence[float],
    spec: PermutationSpec,
    batches: Iterable[Tensor] | None = None,
    *,
    method: str = "activation",
) -> list[Permutation]:
    """The same in the memory of `model`, which is the reference; `weights` are its own and then those of the others.

    The models are summed in this order. Returns the permutations that were applied to the others.
    """
    check_weights(weights)
    images = None if batches is None else list(batches)
    states = [_state_like(model, other) for other in others]
    permutations = align(model, states, spec, images, method)
    average = WeightedAverage()
    average.add(model.state_dict(), weights[0])
    for state, permutation, weight in zip(states, permutations, weights[1:], strict=True):
        average.add(apply_permutation(spec, permutation, state), weight)
    _replace(model, average.result())
    reestimate_batchnorm(model, images or ())
    return permutations


def permute(model: nn.Module, spec: PermutationSpec, permutation: Permutation) -> nn.Module:
    """A new network with its hidden units in another order, which computes the same function."""
    permuted = copy.deepcopy(model)
    _replace(permuted, apply_permutation(spec, permutation, model.state_dict()))
    return permuted


def _state_like(reference: nn.Module, other: Network) -> dict[str, Tensor]:
    """The other's state on the reference's device and in its dtypes, for it runs through the reference's code."""
    own = reference.state_dict()
    state = other.state_dict() if isinstance(other, nn.Module) else other
    if odd := own.keys() ^ state.keys():
        raise ValueError(f"networks of different structure: only one of them has {min(odd)}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            shapes = f"{tuple(tensor.shape)} and {tuple(state[name].shape)}"
            raise ValueError(f"networks of different structure: {name} has the shapes {shapes}")
    return {name: state[name].detach().to(tensor.device, tensor.dtype) for name, tensor in own.items()}


def _replace(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(state[name])
