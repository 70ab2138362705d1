"""Who computes for which peer of a simulated run: one thread, or a thread for each worker that waits for its answers.

A peer stays with its thread and its worker, so its work never overlaps itself, and comes in the order in which it was
asked for. Peers share nothing but what they send, and the clock hands results over by virtual time: who computes where
changes no bit of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

import torch

from decentral import cores
from decentral.launch import assembly
from decentral.launch.attackers import as_told
from decentral.launch.pool.processes import processes
from decentral.launch.pool.remote import RemoteLearner, Way, Worker
from decentral.run.recipe import Recipe
from decentral.training.catalogue import LEARNERS, SPLITTING
from decentral.training.learner import Learner

Start = Callable[[int], AbstractContextManager[Sequence[Way]]]
"""Starts so many workers."""


class Pool:
    """For as long as it is entered. With one worker there is none but this process."""

    def __init__(
        self, recipe: Recipe, workers: int = 1, plugins: Sequence[Path] = (), start: Start | None = None
    ) -> None:
        """`workers`: how many; 0: as many as this process may use cores. `start`: where they are not processes here."""
        self._recipe, self._plugins = recipe, plugins
        self._count = count(recipe, workers)
        self._start = start or processes
        self._held = ExitStack()
        self._threads: list[ThreadPoolExecutor] = []
        self._workers: list[Worker] = []

    def __enter__(self) -> Pool:
        with ExitStack() as held:
            self._threads = [
                ThreadPoolExecutor(1, f"work-{number}", torch.set_num_threads, (self._recipe.threads,))
                for number in range(self._count)
            ]
            held.callback(self._stop_threads)
            if self._count > 1:
                self._workers = [Worker(way) for way in held.enter_context(self._start(self._count))]
            opening = [
                thread.submit(worker.open, self._recipe, self._plugins)
                for thread, worker in zip(self._threads, self._workers, strict=False)
            ]
            for opened in opening:
                opened.result()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the workers, whatever they are at; what has not been begun is dropped."""
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
        self._held.close()

    def thread(self, index: int) -> ThreadPoolExecutor:
        """Where the work of peer `index` is done, or waited for."""
        return self._threads[index % len(self._threads)]

    def assemble(self, index: int) -> Future[Learner]:
        """The learner of peer `index`, as soon as it is there. See `assembly.assemble_learner`."""
        return self.thread(index).submit(self._assemble, index)

    def _assemble(self, index: int) -> Learner:
        if not self._workers:
            return assembly.assemble_learner(self._recipe, index)
        return as_told(self._recipe, index, RemoteLearner(self._workers[index % len(self._workers)], index))

    def _stop_threads(self) -> None:
        for thread in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)


def count(recipe: Recipe, asked: int) -> int:
    """Workers that are of use: no more than peers, and one where learners cannot be anywhere else, or do nothing."""
    alone = getattr(LEARNERS.resolve(recipe.learner.name), "without_data", False) or recipe.learner.name in SPLITTING
    wanted = asked or cores.count()
    return 1 if alone else min(wanted, recipe.peers)
