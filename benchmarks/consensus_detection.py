"""Who is caught: every way in which a replica may lie, by how many are asked and how many of them lie.

    python -m benchmarks.consensus_detection [--trials 200] [--json FILE]

The perceptron of the digits in three stages. Each trial is a task about one stage, through all that serves and asks in
a deployment but the network: commitments, signatures, policy, verdict (`serving.adversaries.trials`). Honest replicas
compute as the machines do that this one can be; the tolerance is calibrated on other batches. An answer is wrong if it
is farther than the tolerance from float64. Two clients look at each trial: one compares, the other holds the model too
and computes a part again where not all agree.

Goals, exit code 1 if one is missed: no wrong answer is accepted and no honest replica is blamed as long as the liars
are no quorum, whoever holds the model accepts none as long as one honest replica is asked, and there is an answer
whenever the honest are a quorum. Then the odds that the lots draw a quorum of colluders, counted and in closed form.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import itertools
import json
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import async_solipsism
import torch

from benchmarks.consensus_calibration import SUBJECTS
from benchmarks.consensus_capture import DRAWS, SIZES, Odds, odds, show_odds
from benchmarks.trained import images, learner
from decentral.core.agreement import distance
from decentral.core.calibration import Rate
from decentral.core.lots import FLOOR
from decentral.core.quorum import Sizes
from decentral.core.reputation import Reputation
from decentral.files import write_atomic
from decentral.models.stages import split
from decentral.serving.adversaries.trials import Asked, Case, Outcome, Study, Trial
from decentral.serving.stages.calibration import calibrated, drawn, measure
from decentral.serving.stages.machines import SHAPES, Fleet, machines
from decentral.training.images import normalise
from decentral.trust.consensus import equivocation
from decentral.trust.evidence import FaultKind

ALONE = {
    "wrong-output": 1,
    "wrong-model": 1,
    "lower-precision": 1,
    "copied-commitment": 2,
    "withheld-commitment": 1,
    "withheld-reveal": 1,
    "withheld-tensors": 1,
    "equivocation": 2,
    "drift": 1,
    "drift-together": 1,
    "defection": 2,
    "replayed-evidence": 2,
    "stale-epoch": 1,
    "crash": 1,
    "slow": 1,
}
"""Behaviours, told to f of the replicas, and after how many tasks they show. Together: all in one direction."""
EDGE = 0.95
"""Of the tolerance, which is how far the drifting are from what they compute."""
CASES = 24
"""Batches of a stage."""
KNOWN, SYBILS = 3, 3
"""Honest replicas of good repute, and newcomers of one owner, for each that is asked, where identities cost nothing."""


CLIENTS = ("compares", "doubts", "computes")


@dataclass(slots=True)
class Cell:
    """Counts of one behaviour and size: of tasks in which the liars were no quorum, and of those in which they were.

    Events go by the client that looks (see `serving.adversaries.trials.Asked`) and by what happened to it.
    """

    tasks: int = 0
    captured: int = 0
    alone: int = 0
    """Of the captured, those in which nobody honest was asked."""
    free: Counter[tuple[str, str]] = field(default_factory=Counter)
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    """Goals that were missed, and how often."""
    liars: int = 0
    named: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def take(self, asked: Asked, sizes: Sizes) -> None:
        captured = len(asked.lying) >= sizes.quorum
        self.tasks += 1
        self.captured += captured
        self.alone += captured and not asked.honest
        for client in (*CLIENTS, "proves"):
            found: Outcome = getattr(asked, client)
            events = {
                "answered": found.answered,
                "wrong": found.wrong,
                "blamed": bool(found.named() & asked.honest),
                "missing": len(asked.honest) >= sizes.quorum and not found.answered and client != "proves",
            }
            (self.taken if captured else self.free).update((client, event) for event, here in events.items() if here)
            safe = not captured or client in ("computes", "proves") or (client == "doubts" and bool(asked.honest))
            if safe:
                goals = ["wrong", "missing"] if captured and client == "proves" else ["wrong", "blamed", "missing"]
                self.broken.update(f"{event}, for a client that {client}" for event in goals if events[event])

    def name(self, asked: Asked, more: Sequence[str]) -> None:
        """Counts whom the one who computes where there is doubt names, and for what."""
        self.liars += len(asked.lying)
        self.named += len(asked.doubts.named() & asked.lying)
        self.kinds.update({fault.kind.value for fault in asked.doubts.faults if fault.node in asked.lying} | set(more))


# ---- what is asked ------------------------------------------------------------------------------------------------


def studies(samples: int) -> list[Study]:
    """Every stage with honest answers of real machines and a tolerance that was calibrated on other batches."""
    subject = SUBJECTS["digits"]
    whole = learner(subject.now)
    data = images(subject.now.dataset)
    test = normalise(torch.tensor(data.test_images()), data.mean, data.std)
    stages = split(whole.model, subject.cuts, test[:2])
    name = stages[0].inputs[0].name
    found = measure(stages, drawn({name: test}, samples, generator(0)), machines(), lied_to=0)
    parts = calibrated([f"stage-{i}" for i in range(len(stages))], found, stages, false_reject=5 / samples)
    made = []
    batches: list[Mapping[str, torch.Tensor]] = list(drawn({name: test}, CASES, generator(1)))
    with Fleet(stages, machines()) as fleet, torch.inference_mode():
        for place, stage in enumerate(stages):
            shapes = [
                [SHAPES[(i + j) % len(SHAPES)] if j else SHAPES[0] for j in range(len(machines()))]
                for i in range(CASES)
            ]
            answers = fleet.answers(place, batches, shapes)
            exact = copy.deepcopy(stage).double()
            references = [exact.run({key: each.double() for key, each in batch.items()}) for batch in batches]
            cases = [Case(*each) for each in zip(batches, answers, references, strict=True)]
            made.append(Study(stage, cases, parts[place].tolerance))
            batches = [answer[0] for answer in answers]
    return made


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- trials -------------------------------------------------------------------------------------------------------


async def alone(made: Sequence[Study], sizes: Sizes, name: str, trials: int) -> Cell:
    """f replicas, each by itself, who misbehave so."""
    cell = Cell()
    for seed in range(trials):
        study = made[seed % len(made)]
        special: dict[str, dict[str, Any]] = {
            "drift": {"tolerance": 2 * EDGE * study.tolerance},
            "drift-together": {"tolerance": 2 * EDGE * study.tolerance, "seed": 7},
            "defection": {"honest": 1},
        }
        places = random.Random(seed).sample(range(sizes.replicas), sizes.faulty)
        trial = Trial(
            study, sizes, dict.fromkeys(places, name.removesuffix("-together")), seed, options=special.get(name)
        )
        rounds = [await trial.ask(f"client-{number}") for number in range(ALONE[name])]
        for asked in rounds:
            cell.take(asked, sizes)
        cell.name(rounds[-1], [FaultKind.EQUIVOCATED.value] if two_answers(rounds, study) else [])
    return cell


def two_answers(rounds: Sequence[Asked], study: Study) -> bool:
    """Whether two clients who show each other what was signed convict every liar."""
    if len(rounds) < 2:
        return False
    found = []
    for node in rounds[-1].lying:
        one, other = rounds[0].claims.get(node), rounds[-1].claims.get(node)
        if one is None or other is None:
            return False
        sent = rounds[0].tensors.get(node), rounds[-1].tensors.get(node)
        apart = distance(sent[0], sent[1]) if sent[0] is not None and sent[1] is not None else None
        found.append(equivocation(one, other, apart, study.tolerance) is not None)
    return all(found)


async def together(made: Sequence[Study], sizes: Sizes, count: int, trials: int) -> Cell:
    """So many who tell the same lie."""
    cell = Cell()
    for seed in range(trials):
        places = random.Random(seed).sample(range(sizes.replicas), count)
        trial = Trial(made[seed % len(made)], sizes, dict.fromkeys(places, "wrong-output"), seed, options={"seed": 7})
        asked = await trial.ask()
        cell.take(asked, sizes)
        cell.name(asked, [])
    return cell


async def sybils(made: Sequence[Study], sizes: Sizes, trials: int) -> Cell:
    """One owner's newcomers among replicas of good repute, and the lots decide who is asked."""
    cell = Cell()
    known = Reputation(good=40.0, passed=3).standing
    weights = [FLOOR + (1 - FLOOR) * known] * (KNOWN * sizes.replicas) + [FLOOR] * (SYBILS * sizes.replicas)
    places = range(KNOWN * sizes.replicas, len(weights))
    for seed in range(trials):
        trial = Trial(
            made[seed % len(made)],
            sizes,
            dict.fromkeys(places, "wrong-output"),
            seed,
            weights=weights,
            options={"seed": 7},
        )
        asked = await trial.ask()
        cell.take(asked, sizes)
        cell.name(asked, [])
    return cell


# ---- what is shown ------------------------------------------------------------------------------------------------


def show_alone(cells: Mapping[tuple[str, str], Cell]) -> None:
    print("\nf replicas misbehave, each by itself: right answers of tasks, and liars who are named in the last one")
    print(f"{'behaviour':<22}" + "".join(f"{size:>22}" for size in SIZES) + "   named for")
    for name in ALONE:
        row = [cells[name, size] for size in SIZES]
        texts = [f"{right(cell)}/{cell.tasks}, {cell.named / cell.liars:.0%}" for cell in row]
        kinds = sorted(set().union(*(cell.kinds for cell in row)))
        print(f"{name:<22}" + "".join(f"{text:>22}" for text in texts) + f"   {', '.join(kinds) or 'nothing'}")


def right(cell: Cell) -> int:
    """Tasks in which both the one who compares and the one who doubts had a right answer, at least."""
    wrong = max(cell.free[client, "wrong"] for client in CLIENTS)
    return min(cell.free[client, "answered"] for client in CLIENTS) - wrong


def show_together(cells: Mapping[tuple[str, str], Cell]) -> None:
    print("\nColluders with one lie: tasks in which a wrong answer is accepted, by what the client does")
    head = ("compares", "doubts", "computes", "wants proofs")
    print(
        f"{'':<16}{'liars':<22}{'tasks':>7}{'quorum':>8}" + "".join(f"{text:>14}" for text in head) + "   honest blamed"
    )
    for (name, size), cell in cells.items():
        if name in ALONE:
            continue
        wrong = [cell.free[client, "wrong"] + cell.taken[client, "wrong"] for client in (*CLIENTS, "proves")]
        blamed = [cell.free[client, "blamed"] + cell.taken[client, "blamed"] for client in CLIENTS]
        print(
            f"{size:<16}{name:<22}{cell.tasks:>7}{cell.captured:>8}"
            + "".join(f"{number:>14}" for number in wrong)
            + f"   {blamed[0]} / {blamed[1]} / {blamed[2]}"
        )


async def matrix(made: Sequence[Study], trials: int) -> dict[tuple[str, str], Cell]:
    cells: dict[tuple[str, str], Cell] = {}
    for name, (label, sizes) in itertools.product(ALONE, SIZES.items()):
        cells[name, label] = await alone(made, sizes, name, trials)
    for label, sizes in SIZES.items():
        for count, words in (
            (sizes.quorum - 1, "below the quorum"),
            (sizes.quorum, "at the quorum"),
            (sizes.quorum + 1, "above the quorum"),
            (sizes.replicas, "everybody"),
        ):
            cells[words, label] = await together(made, sizes, min(count, sizes.replicas), trials)
        cells["sybils", label] = await sybils(made, sizes, trials)
    return cells


def run(trials: int, samples: int) -> tuple[dict[tuple[str, str], Cell], list[float]]:
    made = studies(samples)
    with warnings.catch_warnings(), asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        warnings.simplefilter("ignore", async_solipsism.ResolutionWarning)
        return runner.run(matrix(made, trials)), [study.tolerance for study in made]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="of each behaviour and size")
    parser.add_argument("--samples", type=int, default=500, help="batches that the tolerance is calibrated on")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    cells, tolerances = run(options.trials, options.samples)
    show_alone(cells)
    show_together(cells)
    found = list(odds(options.draws))
    show_odds(found)
    free = Rate(0, sum(cell.tasks - cell.captured for cell in cells.values()))
    broken = [
        f"{name}, {size}: {goal} ({n})" for (name, size), cell in cells.items() for goal, n in cell.broken.items()
    ]
    broken += [f"lots: {one.sizes} of {one.population}" for one in found if not one.fits]
    print(
        f"\n{free.trials} tasks without a quorum of liars: "
        + (
            "MISSED"
            if broken
            else "no wrong answer, nobody "
            f"honest blamed, an answer wherever the honest are a quorum; each at most {free.upper():.1e} (95 %)"
        )
    )
    print(f"tolerances {', '.join(f'{each:.2e}' for each in tolerances)}; {time.monotonic() - began:.0f} s")
    print("\n".join(f"MISSED: {goal}" for goal in broken) or "all goals met")
    if options.json:
        write_atomic(options.json, json.dumps(record(cells, found, tolerances), indent=1).encode())
    return 1 if broken else 0


def record(cells: Mapping[tuple[str, str], Cell], found: Sequence[Odds], tolerances: Sequence[float]) -> dict[str, Any]:
    def plain(cell: Cell) -> dict[str, Any]:
        counts = {
            key: {f"{client} {event}": n for (client, event), n in getattr(cell, key).items()}
            for key in ("free", "taken")
        }
        rest = {key: getattr(cell, key) for key in ("tasks", "captured", "alone", "liars", "named", "kinds", "broken")}
        return {**rest, **counts}

    matrix: dict[str, dict[str, Any]] = {}
    for (name, size), cell in cells.items():
        matrix.setdefault(name, {})[size] = plain(cell)
    return {"tolerances": tolerances, "matrix": matrix, "odds": [asdict(one) for one in found]}


if __name__ == "__main__":
    sys.exit(main())
