"""A learner that is somewhere else, as algorithms see it: asked, and answered, over whatever leads there."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from decentral.launch.pool.host import raised
from decentral.launch.pool.packing import pack, unpack
from decentral.run.recipe import Recipe
from decentral.training.learner import Evaluation, State, Stop, TrainingReport, never


class Way(Protocol):
    """To one worker: a question there, the answer back. Blocking."""

    def ask(self, question: bytes) -> bytes:
        """Raises DecentralError where the worker has ended."""
        ...

    def prepared(self, recipe: Recipe, plugins: Sequence[Path]) -> tuple[Recipe, Sequence[str]]:
        """Brings what the worker needs to where it is; the recipe and the plugins' files as it has them there."""
        ...


class Worker:
    """One worker, whoever asks: a thread waits until those before it have been answered."""

    def __init__(self, way: Way) -> None:
        self._way, self._turn = way, threading.Lock()

    def ask(self, what: str, index: int = 0, **arguments: object) -> Any:
        """Raises what the worker raised."""
        question = pack([what, index, arguments])
        with self._turn:
            reply = self._way.ask(question)
        answer = unpack(reply)
        if "error" in answer:
            raise raised(answer)
        return answer["result"]

    def open(self, recipe: Recipe, plugins: Sequence[Path] = ()) -> None:
        """Before anything else is asked. Raises UserError where the worker cannot use what it is given."""
        there, files = self._way.prepared(recipe, plugins)
        self.ask("open", recipe=there.model_dump(mode="json"), digest=recipe.hash, plugins=files)


class RemoteLearner:
    """The learner of one peer at a worker; what never changes of it is known here."""

    def __init__(self, worker: Worker, index: int) -> None:
        """Has the worker assemble it, anew if there was one. Blocking. Raises UserError as `assemble_learner` does."""
        self._worker, self._index = worker, index
        facts = worker.ask("assemble", index)
        self.samples: int = facts["samples"]
        self.published: bool = facts["published"]
        self.buffers: frozenset[str] = frozenset(facts["buffers"])
        self.assignment = None if facts["assignment"] is None else Named(facts["assignment"])
        looked_at: int | None = facts["looked_at"]
        self.module_work = None if looked_at is None else RemoteModuleWork(worker, index, looked_at)
        self._classes: list[int] = facts["classes"]
        self._taken: list[tuple[str, str, list[int]]] = facts["taken"]

    def exchanged(self) -> State:
        """What models look like that this peer takes; their values are nobody's."""
        return {name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, dtype, shape in self._taken}

    def class_counts(self) -> list[int]:
        return self._classes

    def train(self, round: int, drift: State | None = None, stop: Stop = never) -> TrainingReport:
        """`stop` is asked once, before the round: in the simulator, who gives training up waits for its end anyway."""
        if stop():
            return TrainingReport(loss=0.0, samples=0, steps=0)
        return TrainingReport(**self._ask("train", round=round, drift=drift))

    def parameters(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._ask("parameters")
        return state

    def view(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._ask("view")
        return state

    def load(self, parameters: State) -> None:
        """Raises ValueError naming the first tensor whose name, shape or dtype differs."""
        self._ask("load", parameters=parameters)

    def evaluate(self) -> Evaluation:
        return Evaluation(**self._ask("evaluate"))

    def optimizer_state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._ask("optimizer_state")
        return state

    def load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError where the state belongs to another model or optimiser."""
        self._ask("load_optimizer", state=state)

    def publisher(self, run: Path, node: Path) -> RemotePublisher:
        """Who writes down what this learner has learned, in the folders of a run and of its peer."""
        return RemotePublisher(self._worker, self._index, run.resolve(), node.resolve())

    def _ask(self, what: str, **arguments: object) -> Any:
        return self._worker.ask(what, self._index, **arguments)


class RemoteModuleWork:
    """See `training.module_work`."""

    def __init__(self, worker: Worker, index: int, samples: int) -> None:
        self._worker, self._index, self.samples = worker, index, samples

    def repairs(self, repair: bool | Literal["auto"]) -> bool:
        return bool(self._worker.ask("repairs", self._index, repair=repair))

    def merge(
        self,
        others: Sequence[State],
        weights: Sequence[float],
        *,
        method: str,
        statistics: str,
        repair: bool | Literal["auto"],
    ) -> float | None:
        arguments = {"others": others, "weights": weights, "method": method, "statistics": statistics, "repair": repair}
        moved: float | None = self._worker.ask("merge", self._index, **arguments)
        return moved

    def reestimate(self) -> None:
        self._worker.ask("reestimate", self._index)


class RemotePublisher:
    """See `algorithms.base.Publisher`. The worker writes: it needs the run's folder."""

    def __init__(self, worker: Worker, index: int, run: Path, node: Path) -> None:
        self._worker, self._index = worker, index
        self._folders = {"run": str(run), "node": str(node)}

    def own(self) -> None:
        self._worker.ask("own", self._index, **self._folders)

    def ensemble(self, parts: Mapping[int, State]) -> None:
        named = {str(peer): state for peer, state in parts.items()}
        self._worker.ask("ensemble", self._index, **self._folders, parts=named)


class Named:
    """Who has which images, by its digest alone."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
