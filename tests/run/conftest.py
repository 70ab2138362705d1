"""A run that nobody ran: journals as five peers leave them, one of whom crashes and comes back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from decentral.run.directory import RunDirectory
from decentral.run.journal import Journal
from decentral.run.recipe import Recipe

ROUNDS, CRASHING, CRASHED_IN, BACK_IN = 10, 3, 5, 8


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "name": "dimat-digits",
            "rounds": ROUNDS,
            "model": {"name": "mlp", "hidden": [256, 128]},
            "data": {"partition": {"name": "dirichlet", "alpha": 0.1}},
        }
    )


@pytest.fixture(scope="session")
def write_run() -> Callable[[Path, Recipe, str], RunDirectory]:
    """Fills a new run directory with the journals of a whole run of any recipe."""

    def write(path: Path, recipe: Recipe, world: str = "local") -> RunDirectory:
        with RunDirectory.create(path, recipe, world) as run:
            for peer in range(recipe.peers):
                _write_peer(run, recipe, peer)
            _write_launcher(run, recipe)
        return run

    return write


@pytest.fixture
def run(tmp_path: Path, recipe: Recipe, write_run: Callable[[Path, Recipe, str], RunDirectory]) -> RunDirectory:
    return write_run(tmp_path / "run", recipe, "local")


def _crashes(recipe: Recipe, peer: int) -> bool:
    return peer == CRASHING and recipe.rounds >= BACK_IN


def _write_launcher(run: RunDirectory, recipe: Recipe) -> None:
    now = 0.0
    with Journal(run.journal_file("launcher"), None, lambda: now) as journal:
        journal.record("launched", round=0)
        if _crashes(recipe, CRASHING):
            now = 1.2 + CRASHED_IN * 0.9 + 0.3
            journal.record("crashed", other=CRASHING, code=-9)
            now = 1.2 + BACK_IN * 0.9 + 0.1
            journal.record("rejoined", other=CRASHING)


def _write_peer(run: RunDirectory, recipe: Recipe, peer: int) -> None:
    chance = random.Random(1000 * recipe.seed + peer)
    now = 1.0 + 0.05 * peer
    name = f"peer-{peer}"
    sent = {"model": 0, "control": 0, "evidence": 0, "total": 0}
    with Journal(run.journal_file(name), peer, lambda: now) as journal:
        counts = [int(150 * chance.random() ** 6) for _ in range(10)]
        journal.record("data", samples=sum(counts), classes=counts)
        journal.record("started", round=0, resumed=False, rejoined=False)
        for round in range(1, recipe.rounds + 1):
            if _crashes(recipe, peer) and CRASHED_IN <= round < BACK_IN:
                continue
            if _crashes(recipe, peer) and round == BACK_IN:
                now = 1.2 + 0.9 * round
                journal.record("started", round=round - 1, resumed=True, rejoined=True)
            now = max(now, 1.2 + 0.9 * (round - 1))
            journal.record("phase", round=round, phase="train")
            spent = 0.35 + 0.1 * chance.random()
            now += spent
            journal.record("trained", round=round, loss=2.2 * math.exp(-0.4 * round), samples=288, seconds=spent)
            now += 0.08
            journal.record("exchanged", round=round, received=[0], missing=[], seconds=0.05 + 0.03 * chance.random())
            now += 0.2
            journal.record("merged", round=round, weights={"0": 0.5}, moved=0.7, seconds=0.12 + 0.08 * chance.random())
            learnt = 1 - math.exp(-0.55 * round)
            accuracy = round_to(0.92 * learnt - 0.12 * chance.random() * (1.4 - learnt), 357)
            journal.record("evaluated", round=round, accuracy=accuracy, loss=0.3 + 2 * (1 - learnt), seconds=0.03)
            sent = {"model": 412_000 * round, "control": 2_100 * round, "evidence": 0, "total": 414_100 * round}
            journal.record("round", round=round, bytes=sent)
            if peer in (CRASHING - 1, CRASHING + 1) and round == CRASHED_IN and recipe.rounds >= BACK_IN:
                journal.record("lost", round=round, other=CRASHING)
        journal.record("finished", round=recipe.rounds, digest="00" * 32, bytes=sent)


def round_to(share: float, samples: int) -> float:
    return round(share * samples) / samples
