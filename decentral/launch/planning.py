"""A plan of the proofs of a model that lies somewhere: of a run, of parameters, or in stages."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from decentral.launch.circuits import Model
from decentral.training.parameters import put_parameters
from decentral.zk.arguments import Visibility
from decentral.zk.cost import Budget
from decentral.zk.planner import Plan, plan
from decentral.zk.worker import Limits, worker


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
