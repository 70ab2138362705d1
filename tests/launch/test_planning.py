"""A model is planned as it lies, whatever cuts it has."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from decentral.errors import UserError
from decentral.launch.circuits import read_model
from decentral.launch.planning import FILE, Wish, plan_circuits, whole
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


@pytest.mark.parametrize("wish", [Wish(2.5), Wish(0.3, 6, 8, "polycommit")])
def test_what_circuits_are_planned_by_is_kept(tmp_path, wish):
    assert Wish.load(tmp_path) is None
    wish.save(tmp_path)
    assert Wish.load(tmp_path) == wish


@pytest.mark.parametrize("said", ["", "[]", '{"memory": 1}', "nonsense"])
def test_a_damaged_one_is_named(tmp_path, said):
    (tmp_path / FILE).write_text(said)
    with pytest.raises(UserError, match="damaged"):
        Wish.load(tmp_path)
