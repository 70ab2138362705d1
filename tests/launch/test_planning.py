"""A model is planned as it lies, whatever cuts it has."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from decentral.launch.circuits import read_model
from decentral.launch.planning import plan_circuits, whole
from decentral.models.catalogue import build_model
from decentral.zk.cost import Budget

NAMED = ["model.name=strided-cnn", "model.channels=[4,8]", "data.name=digits"]


async def test_cuts_that_a_model_has_are_forgotten(tmp_path):
    torch.manual_seed(0)
    built = build_model("strided-cnn", (1, 8, 8), 10, channels=[4, 8]).eval()
    save_file(built.state_dict(), tmp_path / "model.safetensors")
    images = torch.randn(3, 1, 8, 8)
    plans = []
    for cuts in (None, "2"):
        model = read_model(str(tmp_path / "model.safetensors"), cuts, NAMED)
        with torch.no_grad():
            assert torch.equal(whole(model)(images), built(images))
        plans.append(await plan_circuits(model, Budget(), machine=2.0))
    assert plans[0].encoded() == plans[1].encoded()
    assert len(plans[0].circuits) == 1 and plans[0].machine == 2.0
