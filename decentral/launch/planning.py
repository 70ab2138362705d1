"""A plan of the proofs of a model that lies somewhere: of a run, of parameters, or in stages.

What a folder of circuits was planned by stands in it (`plan.json`): who has the model comes to the same plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.launch.circuits import Model
from decentral.training.parameters import put_parameters
from decentral.zk.arguments import Visibility
from decentral.zk.cost import Budget
from decentral.zk.planner import Plan, plan
from decentral.zk.worker import Limits, worker

FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Wish:
    """What circuits are planned by. `memory`: gigabytes that a proof may take; bits after the point as in `Options`."""

    memory: float
    scale: int = 7
    parameter_scale: int = 7
    parameters: str = Visibility.FIXED.value

    def save(self, folder: Path) -> None:
        """Raises UserError."""
        try:
            write_atomic(folder / FILE, json.dumps(asdict(self), indent=2).encode() + b"\n")
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error

    @classmethod
    def load(cls, folder: Path) -> Wish | None:
        """None where nothing was planned. Raises UserError naming the file for a damaged one."""
        file = folder / FILE
        try:
            said = json.loads(file.read_bytes())
            return cls(float(said["memory"]), int(said["scale"]), int(said["parameter_scale"]), str(said["parameters"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: damaged ({error})") from error

    async def plan(
        self, model: Model, *, limits: Limits | None = None, say: Callable[[str], None] = lambda words: None
    ) -> Plan:
        """See `plan_circuits`. How fast the machine is plays no part, so that everybody comes to the same."""
        return await plan_circuits(
            model,
            Budget(self.memory * 1e9),
            scale=self.scale,
            parameter_scale=self.parameter_scale,
            parameters=Visibility(self.parameters),
            limits=limits,
            say=say,
        )


async def plan_circuits(
    model: Model,
    budget: Budget,
    *,
    scale: int = 7,
    parameter_scale: int = 7,
    parameters: Visibility = Visibility.FIXED,
    machine: float = 1.0,
    limits: Limits | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Plan:
    """See `planner.plan`. Cuts that the model has already are forgotten. Raises UserError, Unproven, Untraceable."""
    async with worker(limits) as alone:
        return await plan(
            whole(model),
            model.samples,
            budget,
            alone,
            scale=scale,
            parameter_scale=parameter_scale,
            parameters=parameters,
            machine=machine,
            say=say,
        )


def whole(model: Model) -> nn.Module:
    """The network that the stages are of, with their parameters."""
    built = model.network.build()
    put_parameters(built, {name: tensor for stage in model.stages for name, tensor in stage.state().items()})
    return built.eval()
