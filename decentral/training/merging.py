"""Merging networks that were trained apart: align their hidden units, then average.

DIMAT's merge (arXiv 2404.08079, algorithm 1): θ_i becomes the sum over j of W_ij P_ij(θ_j), where P_ij aligns the units
of j with those of i, which is the reference; BatchNorm's statistics are then estimated anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from decentral.core.averaging import WeightedAverage, check_weights
from decentral.core.matching import Likeness, activation_matching, agreement, combined_matching, weight_matching
from decentral.core.permutation import Permutation, PermutationSpec, apply_permutation, identity_permutation
from decentral.models.graphs import saved_state
from decentral.training.activations import NotFinite, compare
from decentral.training.batchnorm import reestimate_batchnorm, spread_batchnorm, tracking_layers
from decentral.training.repair import applies, layer_moments, mix, repairable_layers, rescale

METHODS = ("activation", "weight", "both")

STATISTICS = ("reestimate", "average")

Repair = bool | Literal["auto"]

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
    `weight` compares the weights alone and needs no batches; `both` starts from the activations and looks at weights
    too. Raises ValueError for another method, for networks of different structure and where images are needed and there
    are none, NotFinite for parameters or activations that are not finite.
    """
    return _align(reference, _states_like(reference, others), spec, batches, method)


def _align(
    reference: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    spec: PermutationSpec,
    batches: Iterable[Tensor] | None,
    method: str,
) -> list[Permutation]:
    if method not in METHODS:
        raise ValueError(f"unknown matching method {method!r}; there are: {', '.join(METHODS)}")
    apply_permutation(spec, identity_permutation(spec), saved_state(reference))  # a specification of this network?
    if not spec.groups or not states:
        return [identity_permutation(spec) for _ in states]
    own = {name: parameter.detach() for name, parameter in reference.named_parameters(remove_duplicate=False)}
    if method == "weight":
        return [weight_matching(spec, own, {name: state[name] for name in own}) for state in states]
    if batches is None:
        raise ValueError(f"the matching method {method!r} needs batches of images")
    found = compare(reference, states, spec, _images(batches))
    pairs = [({name: state[name] for name in own}, likeness) for state, likeness in zip(states, found, strict=True)]
    if method == "activation":
        return [_by_activations(spec, own, state, likeness) for state, likeness in pairs]
    return [combined_matching(spec, own, state, likeness) for state, likeness in pairs]


def _by_activations(
    spec: PermutationSpec, own: Mapping[str, Tensor], state: Mapping[str, Tensor], likeness: Likeness
) -> Permutation:
    """What the activations say, unless the weights are closer as they stand: then the two share a basis already.

    Peers that hold few classes each have other activations on images of all long before they have other weights.
    """
    found, staying = activation_matching(spec, likeness), identity_permutation(spec)
    if found.is_identity or agreement(spec, own, state, found) > agreement(spec, own, state, staying):
        return found
    return staying


def merge(
    models: Sequence[nn.Module],
    weights: Sequence[float],
    spec: PermutationSpec,
    batches: Iterable[Tensor] | None = None,
    method: str = "activation",
    *,
    statistics: str = "reestimate",
    repair: Repair = False,
) -> nn.Module:
    """A new network: the weighted average of the models, each aligned with the first, which is the reference.

    See `merge_into`.
    """
    if not models:
        raise ValueError("no model to merge")
    if len(models) != len(weights):
        raise ValueError(f"{len(models)} models but {len(weights)} weights")
    merged = copy.deepcopy(models[0])
    merge_into(merged, models[1:], weights, spec, batches, method=method, statistics=statistics, repair=repair)
    return merged


def merge_into(
    model: nn.Module,
    others: Sequence[Network],
    weights: Sequence[float],
    spec: PermutationSpec,
    batches: Iterable[Tensor] | None = None,
    *,
    method: str = "activation",
    statistics: str = "reestimate",
    repair: Repair = False,
) -> list[Permutation]:
    """The same in the memory of `model`, which is the reference; `weights` are its own and then those of the others.

    The models are summed in this order; the weights sum to one. What is not a tensor (`get_extra_state`) stays the
    reference's. `statistics` of BatchNorm: `reestimate` on `batches`, or `average` those of the aligned networks, which
    needs no images and sees all that the others trained on. `repair` gives the average's hidden units the mean and
    deviation that they have in the networks (`training.repair`); `auto`: in networks without any normalisation, if
    there are batches. Returns the permutations that were applied to the others. Raises ValueError as `align` does, for
    weights that are not those of a mean, and where images are needed and there are none; the model is as it was then.
    """
    check_weights(weights)
    if len(others) + 1 != len(weights):
        raise ValueError(f"{len(others) + 1} models but {len(weights)} weights")
    if statistics not in STATISTICS:
        raise ValueError(f"unknown statistics {statistics!r}; there are: {', '.join(STATISTICS)}")
    images = None if batches is None else list(_images(batches))
    tracking = tracking_layers(model)
    if tracking and statistics == "reestimate" and not any(len(batch) > 1 for batch in images or ()):
        raise ValueError(f"no batch of two images or more to estimate the statistics of {next(iter(tracking))} on")
    repaired = _repaired_layers(model, spec, images, repair) if others else []
    states = _states_like(model, others)
    permutations = _align(model, states, spec, images, method)
    average, kept, moments = WeightedAverage(), [], []
    for state, permutation, weight in zip(
        (saved_state(model), *states), (identity_permutation(spec), *permutations), weights, strict=True
    ):
        aligned = apply_permutation(spec, permutation, state)
        average.add(aligned, weight)
        if statistics == "average":
            kept.append({f"{name}.running_mean": aligned[f"{name}.running_mean"].clone() for name in tracking})
        if repaired and images:
            moments.append(layer_moments(model, repaired, images, aligned))
    _replace(model, average.result())
    if statistics == "average":
        spread_batchnorm(model, kept, weights)
    else:
        reestimate_batchnorm(model, images or ())
    if repaired and images:
        rescale(model, mix(moments, weights), images)
    return permutations


def permute(model: nn.Module, spec: PermutationSpec, permutation: Permutation) -> nn.Module:
    """A new network with its hidden units in another order, which computes the same function."""
    permuted = copy.deepcopy(model)
    _replace(permuted, apply_permutation(spec, permutation, saved_state(model)))
    return permuted


def _states_like(reference: nn.Module, others: Sequence[Network]) -> list[dict[str, Tensor]]:
    """The others' states on the reference's device and in its dtypes, for they run through the reference's code."""
    own = saved_state(reference)
    extra = reference.state_dict().keys() - own.keys()
    _check_finite(own, None)
    states = []
    for number, other in enumerate(others):
        state = saved_state(other) if isinstance(other, nn.Module) else other
        if odd := own.keys() ^ (state.keys() - extra):
            raise ValueError(f"networks of different structure: only one of them has {min(odd)}")
        for name, tensor in own.items():
            if is_lazy(state[name]):
                raise ValueError(f"{name} of network {number} of the others is not built yet: run a batch through it")
            if tensor.shape != state[name].shape:
                shapes = f"{tuple(tensor.shape)} and {tuple(state[name].shape)}"
                raise ValueError(f"networks of different structure: {name} has the shapes {shapes}")
        states.append({name: state[name].detach().to(tensor.device, tensor.dtype) for name, tensor in own.items()})
        _check_finite(states[-1], number)
        for one, another in _tied(own):
            if not torch.equal(states[-1][one], states[-1][another]):
                raise ValueError(f"{one} and {another} are one tensor, and two in network {number} of the others")
    return states


def _tied(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Names of one tensor, each with the first of them."""
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in state.items():
        memory = tensor.data_ptr(), tensor.shape, tensor.stride()
        if tensor.numel() and (known := first.setdefault(memory, name)) != name:
            yield known, name


def _images(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Raises TypeError for one batch by itself, and for images together with their labels."""
    if isinstance(batches, Tensor):
        raise TypeError("batches is a single tensor: give a list of batches of images")
    for batch in batches:
        if not isinstance(batch, Tensor):
            raise TypeError(f"a batch is one tensor of images and not a {type(batch).__name__}: leave the labels out")
        yield batch


def _check_finite(state: Mapping[str, Tensor], network: int | None) -> None:
    finite = {name: tensor.isfinite().all() for name, tensor in state.items()}
    if finite and not torch.stack(list(finite.values())).all():  # read once: each look would wait for the device
        name = next(name for name, whole in finite.items() if not whole)
        raise NotFinite(f"has a value in {name} that is not finite", network)


def _repaired_layers(
    model: nn.Module, spec: PermutationSpec, images: Sequence[Tensor] | None, repair: Repair
) -> list[str]:
    if not applies(model, repair):
        return []
    if not any(len(batch) for batch in images or ()):
        if repair == "auto":
            return []
        raise ValueError("repair needs batches of images")
    return repairable_layers(model, spec)


def _replace(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in saved_state(model).items():
            tensor.copy_(state[name])
