"""A small matrix of who is caught: every behaviour, by how many are asked, beside the honest.

`benchmarks.consensus_detection` is the large one, with machines that differ.
"""

from __future__ import annotations

import asyncio
import copy
import warnings
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import async_solipsism
import pytest
import torch
from torch import nn

from decentral.core.agreement import distance
from decentral.core.quorum import Sizes, against_colluders, with_deadlines
from decentral.models.stages import split
from decentral.serving.adversaries.catalogue import BEHAVIOURS, OF_PROOFS
from decentral.serving.adversaries.trials import Asked, Case, Study, Trial
from decentral.serving.stages.machines import SHAPES, shaped
from decentral.trust.consensus import equivocation
from decentral.trust.evidence import FaultKind

T = TypeVar("T")
TOLERANCE = 4e-6
SIZES = [with_deadlines(1), against_colluders(1), with_deadlines(2), against_colluders(2)]
TRIALS = 3
EARNED = {
    "wrong-output": FaultKind.LIED,
    "wrong-model": FaultKind.LIED,
    "lower-precision": FaultKind.LIED,
    "defection": FaultKind.LIED,
    "equivocation": FaultKind.LIED,
    "copied-commitment": FaultKind.BROKE_COMMITMENT,
    "replayed-evidence": FaultKind.INVALID,
    "stale-epoch": FaultKind.INVALID,
    "crash": FaultKind.UNRESPONSIVE,
    "slow": FaultKind.UNRESPONSIVE,
    "withheld-commitment": FaultKind.UNRESPONSIVE,
    "withheld-reveal": FaultKind.UNRESPONSIVE,
    "withheld-tensors": FaultKind.UNRESPONSIVE,
    "drift": None,
}
OPTIONS: dict[str, Mapping[str, Any]] = {
    "drift": {"tolerance": 1.9 * TOLERANCE},
    "defection": {"honest": 1},
}


@cache
def study() -> Study:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 6)).eval()
    stage = split(network, 1, torch.zeros(2, 16))[0]
    exact = copy.deepcopy(stage).double()
    cases = []
    for seed in range(3):
        inputs = {stage.inputs[0].name: torch.randn(4, 16, generator=torch.Generator().manual_seed(seed))}
        with torch.no_grad():
            answers = [shaped(stage.run, inputs, shape) for shape in SHAPES]
            cases.append(Case(inputs, answers, exact.run({name: each.double() for name, each in inputs.items()})))
    return Study(stage, cases, TOLERANCE)


def virtually(trial: Callable[[], Awaitable[T]]) -> T:
    """On a clock that does not wait."""

    async def whole() -> T:
        return await trial()

    with warnings.catch_warnings(), asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        warnings.simplefilter("ignore", async_solipsism.ResolutionWarning)
        return runner.run(whole())


def asked(sizes: Sizes, liars: Mapping[int, str], seed: int, tasks: int = 2, **options: Any) -> list[Asked]:
    async def trial() -> list[Asked]:
        replicas = Trial(study(), sizes, liars, seed, **options)
        return [await replicas.ask(f"client-{number}") for number in range(tasks)]

    return virtually(trial)


def test_the_honest_agree_and_nobody_is_blamed() -> None:
    for sizes in SIZES:
        for one in asked(sizes, {}, 0):
            for found in (one.compares, one.doubts, one.computes):
                assert (found.answered, found.wrong, found.faults) == (True, False, ())
            assert len(one.honest) == sizes.replicas
            assert len({tuple(map(tuple, next(iter(t.values())).tolist())) for t in one.tensors.values()}) >= 1


def test_every_behaviour_is_tried_here() -> None:
    assert set(EARNED) | set(OF_PROOFS) == set(BEHAVIOURS.names())


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", EARNED)
def test_f_liars_change_no_answer_and_are_called_what_they_did(name: str, sizes: Sizes) -> None:
    kinds = set()
    for seed in range(TRIALS):
        liars = {(seed + place) % sizes.replicas: name for place in range(sizes.faulty)}
        for one in asked(sizes, liars, seed, options=OPTIONS.get(name)):
            assert len(one.lying) == sizes.faulty
            for found in (one.compares, one.doubts, one.computes):
                assert found.answered
                assert not found.wrong
                assert not found.named() & one.honest
            kinds |= {fault.kind for fault in one.doubts.faults}
    if name == "withheld-tensors":  # where another has the same bits, nobody needs to ask for them
        assert kinds <= {EARNED[name]}
    else:
        assert kinds == ({EARNED[name]} if EARNED[name] else set())


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_colluders_have_the_vote_once_they_are_a_quorum_and_never_a_proof(sizes: Sizes) -> None:
    for count in range(sizes.quorum - 1, sizes.replicas + 1):
        one = asked(sizes, dict.fromkeys(range(count), "wrong-output"), count, 1, options={"seed": 7})[0]
        captured = count >= sizes.quorum
        assert one.compares.answered == (captured or len(one.honest) >= sizes.quorum)
        assert one.compares.wrong == captured
        assert one.doubts.wrong == (captured and not one.honest), "an honest replica that disagrees is enough"
        assert not one.computes.wrong
        assert not one.proves.answered
        assert one.computes.named() == one.lying
        assert {fault.kind for fault in one.computes.faults} == {FaultKind.LIED}
        if one.honest:
            assert one.doubts.named() == one.lying


def test_two_clients_who_compare_what_was_signed_convict_an_equivocator() -> None:
    first, second = asked(with_deadlines(1), {1: "equivocation"}, 5)
    (node,) = second.lying
    apart = distance(first.tensors[node], second.tensors[node])
    fault = equivocation(first.claims[node], second.claims[node], apart, TOLERANCE)
    assert fault is not None
    assert fault.node == node
    for peer in second.honest:
        apart = distance(first.tensors[peer], second.tensors[peer])
        assert equivocation(first.claims[peer], second.claims[peer], apart, TOLERANCE) is None


def test_identities_that_nobody_draws_have_no_vote() -> None:
    """One owner's newcomers among the known: who is asked is drawn by weight."""
    sizes = with_deadlines(1)
    weights = [1.0] * 6 + [1e-9] * 20
    for seed in range(TRIALS):
        (one,) = asked(sizes, dict.fromkeys(range(6, 26), "wrong-output"), seed, 1, weights=weights)
        assert len(one.honest) == 3
        assert not one.lying
        assert one.compares.answered
        assert not one.compares.wrong
    (taken,) = asked(sizes, dict.fromkeys(range(6, 26), "wrong-output"), 0, 1, weights=weights[::-1][:26])
    assert taken.lying


def test_a_trial_is_the_same_again() -> None:
    liars = {0: "wrong-output", 2: "slow"}
    one, again = (asked(with_deadlines(2), liars, 11, 1)[0] for _ in range(2))
    assert (one.honest, one.lying, one.compares.named()) == (again.honest, again.lying, again.compares.named())
    assert one.honest != asked(with_deadlines(2), liars, 12, 1)[0].honest
