"""A plan's circuits compute what the model computes, fit the budget, and are those that ezkl makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from decentral.errors import Unproven, UserError
from decentral.models.catalogue import build_model
from decentral.models.folding import fold_batchnorm
from decentral.zk.cost import Budget
from decentral.zk.emulator import Emulator, Scales, quantised, through
from decentral.zk.planner import HEADINGS, Plan, plan
from decentral.zk.proof import felt, signed
from decentral.zk.setup import draft
from decentral.zk.stretches import NEVER
from decentral.zk.worker import Limits, Worker

ROOMY = Budget()


def network(name: str, *shape: int, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, shape, 10, **options).eval()


def emulators(planned: Plan) -> list[Emulator]:
    return [Emulator(each.network, Scales(7, NEVER), inputs=max(1, len(each.wires))) for each in planned.circuits]


class Residual(nn.Module):
    """A block that a cut may go through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.third, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6 * 196, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.third(torch.relu(self.second(x))) + x)
        found: Tensor = self.head(x.flatten(1))
        return found


@pytest.mark.parametrize("memory", [8e9, 0.6e9, 0.36e9])
@pytest.mark.parametrize("model", ["strided-cnn", "residual"])
async def test_the_circuits_of_every_plan_compute_the_model(prover, model, memory):
    torch.manual_seed(0)
    whole = Residual().eval() if model == "residual" else network("strided-cnn", 1, 32, 32, channels=[8, 16])
    images = torch.randn(6, 1, *((14, 14) if model == "residual" else (32, 32)))
    planned = await plan(whole, images, Budget(memory=memory), prover)
    (found,) = through(emulators(planned), planned.wires, quantised(images, 7))
    (expected,) = Emulator(fold_batchnorm(whole), Scales(7, NEVER))(quantised(images, 7))
    assert (found.scale, found.integers()) == (expected.scale, expected.integers())
    assert planned.memory <= memory
    assert (len(planned.circuits) == 1) == (memory == 8e9)
    assert len(planned.table()[0]) == len(HEADINGS)
    assert json.loads(json.dumps(planned.encoded()))["circuits"][-1]["layers"].endswith(("classifier", "head"))


async def wrong(alone: Worker, folder: Path, planned: Plan, image: Tensor) -> int:
    """Elements of what any circuit gives that ezkl's witness has otherwise. Each is fed what the witnesses gave."""
    drafts = await draft(planned.stages, [image], planned.options, wires=planned.wires, limits=Limits())
    mine: list[tuple[list[int], ...]] = []
    emulated = emulators(planned)
    values = []
    for circuit, taken in zip(emulated, planned.wires, strict=True):
        given = [values[source][output] for source, output in taken] or [quantised(image, 7)]
        values.append(circuit(*given))
        mine.append(tuple(each.integers() for each in values[-1]))
    made: list[list[list[str]]] = []
    different = 0
    for place, (each, taken) in enumerate(zip(drafts, planned.wires, strict=True)):
        assert each.settings.rows == planned.circuits[place].size.rows
        assert each.settings.logrows == planned.circuits[place].size.logrows
        model, settings, compiled = (folder / f"{place}.{kind}" for kind in ("onnx", "json", "ezkl"))
        model.write_bytes(each.model)
        settings.write_bytes(each.settings.encoded)
        await alone.call("compile_circuit", model=str(model), compiled=str(compiled), settings=str(settings))
        given = [made[source][output] for source, output in taken] or [image.flatten().tolist()]
        data = folder / "data.json"
        data.write_text(json.dumps({"input_data": given}))
        got = await alone.call("witness", data=str(data), compiled=str(compiled), output=str(folder / "witness.json"))
        made.append(got["outputs"])
        for ours, theirs in zip(mine[place], got["outputs"], strict=True):
            different += sum(one != signed(felt(other)) for one, other in zip(ours, theirs, strict=True))
    return different


async def test_witnesses_pass_through_the_parts_of_a_plan_as_planned(prover, tmp_path):
    torch.manual_seed(0)
    images = torch.randn(4, 1, 14, 14)
    planned = await plan(Residual().eval(), images, Budget(memory=0.36e9), prover)
    assert any(each.channels is not None for each in planned.circuits)
    assert not await wrong(prover, tmp_path, planned, images[:1])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("memory", [8e9, 3e9])
async def test_resnet8_is_a_chain_that_fits(prover, tmp_path, memory):
    images = torch.randn(8, 3, 32, 32)
    planned = await plan(network("resnet8", 3, 32, 32), images, Budget(memory=memory), prover)
    assert planned.prove < 1800 and planned.memory < memory, "half an hour of a core"
    assert not await wrong(prover, tmp_path, planned, images[:1])


async def test_a_model_that_is_too_large_is_told_by_how_much_and_where_to_cut(prover):
    model, images = network("strided-cnn", 3, 32, 32), torch.randn(2, 3, 32, 32)
    planned = await plan(model, images, Budget(memory=0.7e9), prover)
    assert "more than the budget" in planned.words() and "features.2" in planned.words()
    with pytest.raises(UserError, match=r"would take 0\.\d GB of memory, 0\.\d GB more than the budget"):
        await plan(model, images, Budget(memory=0.2e9), prover)
    with pytest.raises(UserError, match="more than nothing"):
        Budget(memory=0)


async def test_time_is_a_budget_as_well(prover):
    model, images = network("strided-cnn", 3, 32, 32), torch.randn(2, 3, 32, 32)
    planned = await plan(model, images, Budget(seconds=15), prover)
    assert len(planned.circuits) > 1 and all(each.cost.prove <= 15 for each in planned.circuits)


@pytest.mark.parametrize("odd", [nn.GELU(), nn.Softmax(1)])
async def test_an_operator_without_a_circuit_is_named_with_its_layer(prover, odd):
    model = nn.Sequential(nn.Linear(4, 4), odd)
    with pytest.raises(Unproven, match=r"^1: .*not one of the operators"):
        await plan(model, torch.randn(2, 4), ROOMY, prover)


async def test_numbers_that_grow_beyond_what_a_circuit_can_tell_apart_are_refused_by_layer(prover):
    deep = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(4, 4), nn.ReLU())))
    for layer in deep[::2]:
        nn.init.eye_(layer.weight)
    with pytest.raises(UserError, match=r"numbers have grown to 1\d\d bits here"):
        await plan(deep, torch.rand(2, 4), ROOMY, prover)
