"""One expert at the service of clients: tasks of noisy samples become velocities.

What comes is checked against the model before it is computed with. Computing is off the event loop, one task after
another, clients in turn, so that nobody waits for all that another has asked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decentral.core.finite import finite
from decentral.errors import Malformed, Refusal
from decentral.models.experts import classes, config, image_size, velocity
from decentral.serving.parts import Work, check_address, check_batch, within_memory
from decentral.serving.turns import Turns
from decentral.training.digest import described, model_digest
from decentral.wire.conversation import Output, Task
from decentral.wire.sessions import Client


def digest_of(model: nn.Module) -> str:
    """Of a diffusers model, in hexadecimal."""
    kind = {"_class_name": type(model).__name__}  # which diffusers writes into a configuration once it was saved
    return model_digest(described({**config(model), **kind}), model.state_dict())


class ExpertService:
    """Answers tasks for one part; `work` runs the model."""

    def __init__(self, model: nn.Module, part: str, work: Work) -> None:
        self.part, self.digest = part, digest_of(model)
        self._model, self._work, self._turns = model, work, Turns()
        self._shape = (int(config(model)["in_channels"]), *image_size(model))
        self._classes = classes(model)

    async def __call__(self, task: Task, client: Client) -> None:
        """Raises Malformed for a task that is not for this model, or is too much for it."""
        check_address(task, self.part, self.digest)
        x, t, labels = self._inputs(dict(task.tensors))

        def compute() -> Tensor:
            with torch.no_grad(), within_memory():
                return velocity(self._model, x, t, labels)

        async with self._turns.of(client.sender):
            v = await self._work(compute)
        await client.say(Output({"v": v}))

    def _inputs(self, given: dict[str, Tensor]) -> tuple[Tensor, float, Tensor | None]:
        """x float32 (n, c, h, w), t float64 (), and labels int64 (n,) if there are any."""
        x, t, labels = given.pop("x", None), given.pop("t", None), given.pop("labels", None)
        if given or x is None or t is None:
            raise Malformed(Refusal.SCHEMA, "the inputs are x, t and, where there are classes, labels")
        if x.dtype != torch.float32 or x.ndim != 4 or not len(x) or tuple(x.shape[1:]) != self._shape:
            raise Malformed(Refusal.SCHEMA, f"x is {x.dtype} {tuple(x.shape)}, not float32 (n, *{self._shape})")
        check_batch(len(x))
        if t.dtype != torch.float64 or t.ndim or not 0 <= t.item() <= 1:
            raise Malformed(Refusal.SCHEMA, "t is a float64 number in [0, 1]")
        if not finite(x):
            raise Malformed(Refusal.MALFORMED, "x is not finite")
        if labels is not None:
            if not self._classes or labels.dtype != torch.int64 or labels.shape != x.shape[:1]:
                raise Malformed(Refusal.SCHEMA, "labels are int64, one for each sample of a model that knows classes")
            if labels.min() < 0 or labels.max() > self._classes:
                raise Malformed(Refusal.SCHEMA, f"labels are at least 0 and at most {self._classes}, no class")
        return x, float(t.item()), labels
