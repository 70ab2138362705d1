"""A worker's side of the pool: the learners of some peers, and what is asked of them. Bytes in, bytes out.

A question is [what, peer's index, arguments]; an answer is {"result": ...} or {"error": kind, "said": words}. Whoever
carries them trusts whoever asks: both are parts of one run.
"""

from __future__ import annotations

import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from decentral.errors import DatasetNotFound, DecentralError, Untraceable, UserError
from decentral.launch import assembly
from decentral.launch.pool.packing import pack, unpack
from decentral.registry import load_entry_points, load_plugin
from decentral.run.recipe import Recipe
from decentral.training.activations import NotFinite
from decentral.training.learner import Evaluation, Learner, TrainingReport
from decentral.training.module_work import ModuleWork, buffers_of, module_work

if TYPE_CHECKING:
    from decentral.training.diffusion import NoisedTraining

OF_LEARNERS = frozenset({"train", "parameters", "view", "load", "evaluate", "optimizer_state", "load_optimizer"})
"""What is asked of the learner itself."""
OF_MODULES = frozenset({"repairs", "merge", "reestimate"})
"""What is asked of its network."""
OF_PUBLISHERS = frozenset({"own", "ensemble"})
"""What is asked of who writes down what it has learned."""
KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (DatasetNotFound, UserError, Untraceable, DecentralError, ValueError, TypeError, RuntimeError)
}
"""Errors that are raised again where the question came from; others are a RuntimeError there."""


class Host:
    """Learners by their peer's index. One thread asks at a time."""

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._learners: dict[int, Learner] = {}
        self._works: dict[int, ModuleWork] = {}

    def answer(self, question: bytes) -> bytes:
        """Never raises: what goes wrong is part of the answer."""
        what, index, arguments = unpack(question)
        try:
            return pack({"result": self._carry_out(what, index, arguments)})
        except Exception as error:  # noqa: BLE001  whoever asked decides what it means
            return pack(_told(error))

    def _carry_out(self, what: str, index: int, arguments: dict[str, Any]) -> object:
        if what == "open":
            self._open(**arguments)
            return None
        if what == "assemble":
            return self._assemble(index)
        if what in OF_PUBLISHERS:
            self._publish(what, self._learners[index], **arguments)
            return None
        whose: object = self._works[index] if what in OF_MODULES else self._learners[index]
        if what not in OF_MODULES | OF_LEARNERS:
            raise ValueError(f"no worker knows what {what!r} is")
        result = getattr(whose, what)(**arguments)
        return asdict(result) if isinstance(result, TrainingReport | Evaluation) else result

    def _open(self, recipe: dict[str, Any], digest: str, plugins: list[str]) -> None:
        """Raises UserError where this machine reads the recipe otherwise."""
        load_entry_points()
        for plugin in plugins:
            load_plugin(plugin)
        self._recipe = Recipe.model_validate(recipe)
        if self._recipe.hash != digest:
            raise UserError("a worker of the simulator has another version of decentral: it reads the recipe otherwise")

    def _assemble(self, index: int) -> dict[str, object]:
        """Anew, if the peer was here before. Returns what others want to know of a learner at all times."""
        assert self._recipe is not None, "opened first"
        self._learners.pop(index, None)
        self._works.pop(index, None)
        self._learners[index] = learner = assembly.own_learner(self._recipe, index)
        if (work := module_work(learner)) is not None:
            self._works[index] = work
        taken = assembly.exchanged_by(learner)
        assignment = getattr(learner, "assignment", None)
        return {
            "samples": learner.samples,
            "classes": learner.class_counts(),
            "taken": [[name, str(held.dtype).removeprefix("torch."), list(held.shape)] for name, held in taken.items()],
            "buffers": sorted(buffers_of(learner)),
            "looked_at": None if work is None else work.samples,
            "published": getattr(learner, "published", False),
            "assignment": None if assignment is None else assignment.digest,
        }

    def _publish(self, what: str, learner: Learner, run: str, node: str, **arguments: Any) -> None:
        from decentral.launch.publish import EnsemblePublisher  # imports diffusers

        if not Path(run).is_dir():
            raise UserError(f"{run}: is not a folder of all machines that train; choose another one with --out")
        publisher = EnsemblePublisher(Path(run), Path(node), cast("NoisedTraining", learner))
        if what == "own":
            publisher.own()
        else:
            publisher.ensemble({int(peer): state for peer, state in arguments["parts"].items()})


def _told(error: Exception) -> dict[str, object]:
    if isinstance(error, NotFinite):
        return {"error": NotFinite.__name__, "said": error.problem, "network": error.network}
    for kind in type(error).__mro__:
        if KINDS.get(kind.__name__) is kind:
            return {"error": kind.__name__, "said": str(error)}
    return {
        "error": RuntimeError.__name__,
        "said": f"in a worker of the pool: {''.join(traceback.format_exception(error))}",
    }


def raised(answer: dict[str, Any]) -> Exception:
    """The error that an answer tells of."""
    if answer["error"] == NotFinite.__name__:
        return NotFinite(answer["said"], answer["network"])
    return KINDS[answer["error"]](answer["said"])
