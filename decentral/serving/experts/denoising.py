"""Sampling by an ensemble of experts, apart from who evaluates them.

A batch on its way from noise to data says which samples of it which expert should see, and takes velocities back: from
modules of this process, or from peers that answer when they can and may be gone. The plan of sub-batches is fixed by
arguments alone, so that equal seeds give equal images wherever the experts are. Methods of one batch compute (the
router, the sum, the step): call them off an event loop, one at a time; different batches are independent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from decentral.core.finite import finite
from decentral.core.gating import Gate
from decentral.core.routing import combine, group_by_expert, posterior
from decentral.errors import Unreachable


class Route(Protocol):
    """Who should see a sample."""

    @property
    def conditional(self) -> bool:
        """Whether labels have a say."""

    def __call__(self, x: Float[Tensor, "n c h w"], t: float, labels: Int[Tensor, " n"] | None) -> Float[Tensor, "n k"]:
        """Logits over the experts."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one expert is asked in one step: the velocities of `sample` at t, in [0, 1]."""

    expert: int
    rows: Int[Tensor, " r"]
    """Where these samples stand in their batch."""
    sample: Float[Tensor, "r c h w"]
    t: float
    labels: Int[Tensor, " r"] | None


@dataclass(frozen=True, slots=True)
class Gone:
    """Instead of velocities: this expert does not answer, now or later."""

    why: str


Answer = Tensor | Gone


@dataclass(slots=True)
class Roster:
    """Which of the experts are there: common to all batches of one sampling."""

    count: int
    absent: dict[int, str]
    """Why an expert is not there."""
    evaluated: dict[int, int] = field(default_factory=dict)
    """Samples that each expert has seen."""

    @classmethod
    def of(cls, count: int, present: Iterable[int], why: str = "not loaded") -> Roster:
        there = set(present)
        return cls(count, {expert: why for expert in range(count) if expert not in there})

    def lose(self, expert: int, why: str) -> None:
        self.absent.setdefault(expert, why)

    def present(self, device: torch.device) -> Tensor:
        return torch.tensor([expert not in self.absent for expert in range(self.count)], device=device)


@dataclass(frozen=True, slots=True)
class Plan:
    """What all batches of one sampling have in common."""

    scheduler: Any
    """A FlowMatchEulerDiscreteScheduler; every batch has a copy of its own."""
    steps: int
    gate: Gate
    route: Route | None
    """None: the logits of all experts are equal."""
    guidance: float = 1.0
    """Above 1: v(no class) + guidance (v(label) - v(no class)), each of the two routed by itself."""
    null: int = 0
    """The label for no class."""


@dataclass(slots=True)
class _Step:
    """A step that has begun: its samples (with guidance each of them twice), and what is known about them so far."""

    t: float
    x: Float[Tensor, "r c h w"]
    labels: Int[Tensor, " r"] | None
    logits: Float[Tensor, "r k"]
    weights: Float[Tensor, "r k"]
    answered: Bool[Tensor, "r k"]
    parts: list[tuple[int, Int[Tensor, " _"], Float[Tensor, "_ c h w"]]] = field(default_factory=list)

    def missing(self) -> list[Evaluation]:
        return [
            Evaluation(expert, rows, self.x[rows], self.t, None if self.labels is None else self.labels[rows])
            for expert, rows in group_by_expert((self.weights > 0) & ~self.answered)
        ]


class Denoising:
    """One batch of images. Ask for `work`, answer it with `take`, until there is none.

    An expert that is gone in the middle of a step leaves the step as if it had been gone before: weights are made anew
    over those who are there, and only what is missing is asked for.
    """

    def __init__(
        self, plan: Plan, roster: Roster, latents: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"] | None = None
    ) -> None:
        """`latents`: noise, float32. Guidance needs labels: ValueError."""
        if plan.guidance > 1 and labels is None:
            raise ValueError("guidance needs labels")
        self._plan, self._roster, self._labels = plan, roster, labels
        self.latents = latents
        self.step = 0
        """Steps that are done."""
        self._scheduler = copy.deepcopy(plan.scheduler)
        sigmas = torch.linspace(1, 1 / plan.steps, plan.steps, dtype=torch.float64).tolist()
        self._scheduler.set_timesteps(sigmas=sigmas, device=latents.device)
        self._scheduler.set_begin_index(0)
        self._now: _Step | None = None
        self._work: list[Evaluation] = []

    @property
    def timestep(self) -> Tensor:
        """Of the step that comes next, in the scheduler's units."""
        return cast(Tensor, self._scheduler.timesteps[self.step])

    @torch.no_grad()
    def work(self) -> list[Evaluation]:
        """What is to be evaluated now, ordered by expert; nothing when the images are done.

        Raises Unreachable when no expert is left.
        """
        if self._now is None and self.step < self._plan.steps:
            self._now = self._begin()
            self._work = self._now.missing()
        return self._work

    @torch.no_grad()
    def take(self, answers: Sequence[Answer]) -> None:
        """Answers to `work`, in its order: velocities like the samples, or Gone.

        Velocities of another shape, or that are not finite, are as good as none. Raises Unreachable when no expert is
        left, ValueError when nothing was asked.
        """
        if self._now is None:
            raise ValueError("nothing was asked")
        now, gone = self._now, False
        for evaluation, answer in zip(self._work, answers, strict=True):
            expert, rows = evaluation.expert, evaluation.rows
            why = answer.why if isinstance(answer, Gone) else fault(evaluation, answer)
            if isinstance(answer, Tensor) and not why:
                now.parts.append((expert, rows, answer.to(self.latents)))
                now.answered[rows, expert] = True
                self._roster.evaluated[expert] = self._roster.evaluated.get(expert, 0) + len(rows)
            else:
                self._roster.lose(expert, f"step {self.step + 1} of {self._plan.steps}: {why}")
                gone = True
        if gone:
            now.weights = self._weigh(now.logits, now.t)
        self._work = now.missing()
        if not self._work:
            self._advance(now)

    def _begin(self) -> _Step:
        plan, x, labels = self._plan, self.latents, self._labels
        t = float(self._scheduler.sigmas[self.step])
        if plan.guidance > 1 and labels is not None:
            x, labels = torch.cat([x, x]), torch.cat([labels, torch.full_like(labels, plan.null)])
        if plan.route is None:
            logits = x.new_zeros(len(x), self._roster.count)
        elif plan.route.conditional:
            logits = plan.route(x, t, labels)
        else:
            logits = plan.route(self.latents, t, None).repeat(len(x) // len(self.latents), 1)
        return _Step(t, x, labels, logits, self._weigh(logits, t), torch.zeros_like(logits, dtype=torch.bool))

    def _weigh(self, logits: Float[Tensor, "r k"], t: float) -> Float[Tensor, "r k"]:
        present = self._roster.present(logits.device)
        if not present.any():
            reasons = "; ".join(f"expert_{expert}: {why}" for expert, why in sorted(self._roster.absent.items()))
            raise Unreachable(f"no expert is left at step {self.step + 1} of {self._plan.steps}: {reasons}")
        probabilities = posterior(logits, present)
        return self._plan.gate(probabilities, probabilities.new_full((len(probabilities),), t))

    def _advance(self, now: _Step) -> None:
        velocity = combine(now.parts, now.weights)
        if self._plan.guidance > 1:
            conditional, unconditional = velocity.chunk(2)
            velocity = unconditional + self._plan.guidance * (conditional - unconditional)
        self.latents = self._scheduler.step(velocity, self.timestep, self.latents).prev_sample
        self.step += 1
        self._now = None


def fault(evaluation: Evaluation, answer: Tensor) -> str:
    """Why velocities cannot be used; empty if they can."""
    if answer.shape != evaluation.sample.shape:
        return f"answered {tuple(answer.shape)} to {tuple(evaluation.sample.shape)}"
    return "" if finite(answer) else "its velocities are not finite"


def batches(
    plan: Plan,
    roster: Roster,
    latents: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"] | None = None,
    size: int | None = None,
) -> list[Denoising]:
    """All images in batches of `size`, the last one smaller; None: one batch."""
    size = len(latents) if size is None else size
    starts = range(0, len(latents), size)
    return [
        Denoising(plan, roster, latents[s : s + size], None if labels is None else labels[s : s + size]) for s in starts
    ]


def denoise(
    parts: Sequence[Denoising],
    evaluate: Callable[[Evaluation], Answer],
    after_step: Callable[[int, Tensor], None] = lambda step, timestep: None,
) -> Float[Tensor, "n c h w"]:
    """Takes all batches through every step, one after another, with experts that answer at once.

    `after_step(step, timestep)` is called when all of them have done a step.
    """
    while parts[0].work():
        step, timestep = parts[0].step, parts[0].timestep
        for part in parts:
            while part.step == step:
                part.take([evaluate(evaluation) for evaluation in part.work()])
        after_step(step, timestep)
    return torch.cat([part.latents for part in parts])
