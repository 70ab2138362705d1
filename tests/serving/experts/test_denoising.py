"""The sampling loop: what it asks of whom, what it does with the answers, and when somebody does not answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from decentral.core.flow import Clustered, FiniteSet
from decentral.core.gating import Choice, gate
from decentral.errors import Unreachable
from decentral.serving.experts.denoising import Answer, Denoising, Evaluation, Gone, Plan, Roster, batches, denoise

STEPS, EXPERTS, SHAPE = 5, 4, (1, 2, 3)


class FixedRoute:
    """Logits that depend on the sample alone, or on the label too."""

    def __init__(self, *, conditional: bool = False) -> None:
        self.conditional = conditional
        self.calls: list[int] = []

    def __call__(self, x: Tensor, t: float, labels: Tensor | None) -> Tensor:
        self.calls.append(len(x))
        logits = x.flatten(1)[:, :EXPERTS] * 3
        if self.conditional and labels is not None:
            logits = logits.roll(1, 1) * (1 + labels[:, None])
        return logits


def plan(choice: Choice = "full", *, route: FixedRoute | None = None, guidance: float = 1.0) -> Plan:
    return Plan(FlowMatchEulerDiscreteScheduler(), STEPS, gate(choice), route or FixedRoute(), guidance, null=7)


def everybody(present: range | set[int] = range(EXPERTS)) -> Roster:
    return Roster.of(EXPERTS, present)


def noise(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def expert(evaluation: Evaluation) -> Tensor:
    """Each expert pulls in a way of its own; labels push."""
    push = 0 if evaluation.labels is None else evaluation.labels.view(-1, 1, 1, 1) / 10
    return torch.sin(evaluation.sample * (1 + evaluation.expert)) + evaluation.t + push


def sample(
    the: Plan, roster: Roster, evaluate: Callable[[Evaluation], Answer] = expert, size: int | None = None
) -> Tensor:
    return denoise(batches(the, roster, noise(), size=size), evaluate)


def by_hand(route: FixedRoute, choice: Choice, present: set[int]) -> Tensor:
    """The sum over all experts, written out."""
    x, chosen = noise(), gate(choice)
    for step in range(STEPS):
        t = 1 - step / STEPS
        logits = route(x, t, None)
        for absent in set(range(EXPERTS)) - present:
            logits[:, absent] = -torch.inf
        weights = chosen(logits.softmax(1), torch.full((len(x),), t))
        velocity = sum(
            weights[:, k].view(-1, 1, 1, 1) * expert(Evaluation(k, torch.arange(len(x)), x, t, None))
            for k in range(EXPERTS)
        )
        x = x - velocity / STEPS
    return x


CHOICES: list[Choice] = ["full", "top-1", "top-2", {"threshold": 0.8}, {"name": "by-noise", "above": 0.5}]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("present", [{0, 1, 2, 3}, {1, 3}, {2}])
def test_a_sampling_is_the_weighted_sum_in_euler_steps(choice: Choice, present: set[int]) -> None:
    torch.testing.assert_close(sample(plan(choice), everybody(present)), by_hand(FixedRoute(), choice, present))


def test_perfect_experts_and_a_perfect_router_bring_noise_to_the_data() -> None:
    # A finite set in closed form: at the end every sample is one of its points.
    points = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    clustered = Clustered(FiniteSet(points), torch.arange(12) % EXPERTS, EXPERTS)

    class Exact:
        conditional = False

        def __call__(self, x: Tensor, t: float, labels: Tensor | None) -> Tensor:
            return clustered.responsibilities(x.flatten(1).double(), t).log()

    def exact(evaluation: Evaluation) -> Tensor:
        x = evaluation.sample.flatten(1).double()
        velocities = clustered.velocities(x, evaluation.t)[:, evaluation.expert]
        return velocities.view(evaluation.sample.shape).float()

    the = Plan(FlowMatchEulerDiscreteScheduler(), 100, gate("full"), Exact())
    found = denoise(batches(the, everybody(), noise(20)), exact).flatten(1).double()
    assert torch.cdist(found, points).amin(1).max() < 1e-3


@pytest.mark.parametrize(("choice", "each"), [("top-1", 1), ("top-2", 2), ("full", EXPERTS)])
def test_a_step_costs_k_evaluations_a_sample_in_at_most_one_batch_an_expert(choice: Choice, each: int) -> None:
    roster, seen = everybody(), []

    def counting(evaluation: Evaluation) -> Tensor:
        seen.append((evaluation.t, evaluation.expert))
        return expert(evaluation)

    sample(plan(choice), roster, counting)
    assert sum(roster.evaluated.values()) == STEPS * 6 * each
    assert len(seen) == len(set(seen)) <= STEPS * EXPERTS


def test_batches_are_independent_and_a_fixed_plan_gives_fixed_bits() -> None:
    together = sample(plan("top-2"), everybody())
    halves = sample(plan("top-2"), everybody(), size=3)
    torch.testing.assert_close(halves, together)
    turns = batches(plan("top-2"), everybody(), noise(), size=3)
    while any(part.work() for part in turns):  # in another order: one waits for the network while the other computes
        for part in reversed(turns):
            if part.work():
                part.take([expert(evaluation) for evaluation in reversed(part.work())][::-1])
    assert torch.equal(torch.cat([part.latents for part in turns]), halves)


def test_work_is_the_same_until_it_is_answered() -> None:
    part = Denoising(plan("top-2"), everybody(), noise())
    assert part.work() is part.work()
    part.take([expert(evaluation) for evaluation in part.work()])
    assert part.step == 1


def test_the_callback_hears_of_every_step() -> None:
    heard: list[tuple[int, float]] = []
    denoise(batches(plan(), everybody(), noise(), size=4), expert, lambda step, t: heard.append((step, t.item())))
    assert heard == [(step, pytest.approx(1000 * (1 - step / STEPS))) for step in range(STEPS)]


# Guidance


@pytest.mark.parametrize("conditional", [False, True])
def test_guidance_leads_away_from_no_class_each_routed_by_itself(conditional: bool) -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    route = FixedRoute(conditional=conditional)
    part = Denoising(plan("top-2", route=route, guidance=3.0), everybody(), noise(), labels)
    part.take([expert(evaluation) for evaluation in part.work()])

    def flow(with_labels: Tensor) -> Tensor:
        alone = Denoising(plan("top-2", route=FixedRoute(conditional=conditional)), everybody(), noise(), with_labels)
        alone.take([expert(evaluation) for evaluation in alone.work()])
        return (noise() - alone.latents) * STEPS

    nothing = flow(torch.full_like(labels, 7))
    expected = noise() - (nothing + 3.0 * (flow(labels) - nothing)) / STEPS
    torch.testing.assert_close(part.latents, expected)
    assert route.calls == [12 if conditional else 6], "a router that knows no labels is asked once"


def test_guidance_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        Denoising(plan(guidance=2.0), everybody(), noise())


# Experts that are gone


def dying(who: int, step: int, why: str = "killed") -> Callable[[Evaluation], Answer]:
    """An ensemble whose expert `who` does not answer from a step on, counted from 0."""
    return lambda e: Gone(why) if e.expert == who and e.t <= 1 - step / STEPS + 1e-6 else expert(e)


@pytest.mark.parametrize("choice", CHOICES)
def test_who_dies_in_the_first_step_might_as_well_never_have_been(choice: Choice) -> None:
    roster = everybody()
    found = sample(plan(choice), roster, dying(1, step=0))
    torch.testing.assert_close(found, sample(plan(choice), everybody({0, 2, 3})))
    assert roster.absent == {1: f"step 1 of {STEPS}: killed"}


@pytest.mark.parametrize("choice", CHOICES)
def test_who_dies_later_is_missed_from_then_on(choice: Choice) -> None:
    roster = everybody()
    found = sample(plan(choice), roster, dying(1, step=3))
    assert found.isfinite().all()
    assert not torch.allclose(found, sample(plan(choice), everybody({0, 2, 3})))
    assert roster.absent == {1: f"step 4 of {STEPS}: killed"}


def test_all_batches_know_who_is_gone() -> None:
    asked: list[Evaluation] = []

    def remembering(evaluation: Evaluation) -> Answer:
        asked.append(evaluation)
        return dying(1, step=2)(evaluation)

    sample(plan("full"), everybody(), remembering, size=3)
    after = [e for e in asked if e.expert == 1 and e.t < 1 - 2 / STEPS + 1e-6]
    assert len(after) == 1, "one batch has found out for both"


def test_samples_that_lose_their_only_expert_go_to_the_next_best_at_once() -> None:
    part = Denoising(plan("top-1"), everybody(), noise())
    first = part.work()
    wanted = {row: e.expert for e in first for row in e.rows.tolist()}
    gone = first[0].expert
    part.take([Gone("killed") if e.expert == gone else expert(e) for e in first])
    second = part.work()
    assert part.step == 0
    assert {row for e in second for row in e.rows.tolist()} == {row for row, k in wanted.items() if k == gone}
    logits = FixedRoute()(noise(), 1.0, None)
    logits[:, gone] = -torch.inf
    assert all(logits[row].argmax() == e.expert for e in second for row in e.rows)
    part.take([expert(e) for e in second])
    assert part.step == 1


def test_several_may_go_one_after_another_as_long_as_one_is_left() -> None:
    roster = everybody()
    found = sample(plan("top-2"), roster, lambda e: expert(e) if e.expert == 2 else Gone("killed"))
    torch.testing.assert_close(found, sample(plan("top-2"), everybody({2})))
    assert set(roster.absent) == {0, 1, 3}


def test_when_nobody_is_left_it_says_who_went_when_and_why() -> None:
    with pytest.raises(Unreachable, match=r"step 3 of 5: expert_0: not loaded; expert_1: step 3 of 5: killed"):
        sample(plan("top-1"), everybody({1}), dying(1, step=2))


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (lambda e: expert(e)[:, :, :1], r"answered \(\d, 1, 1, 3\) to \(\d, 1, 2, 3\)"),
        (lambda e: expert(e)[:0], r"answered \(0, 1, 2, 3\)"),
        (lambda e: expert(e) * torch.nan, "not finite"),
        (lambda e: expert(e) / 0.0, "not finite"),
    ],
)
def test_velocities_that_cannot_be_used_are_as_good_as_none(lie: Callable[[Evaluation], Tensor], why: str) -> None:
    roster = everybody()
    found = sample(plan(), roster, lambda e: lie(e) if e.expert == 3 else expert(e))
    torch.testing.assert_close(found, sample(plan(), everybody({0, 1, 2})))
    assert list(roster.absent) == [3]
    with pytest.raises(Unreachable, match=why):
        sample(plan(), everybody({3}), lie)


def test_an_answer_to_nothing_is_refused() -> None:
    part = Denoising(plan(), everybody(), noise())
    with pytest.raises(ValueError, match="nothing was asked"):
        part.take([noise()])
    part.work()
    with pytest.raises(ValueError, match="zip"):
        part.take([noise()])
