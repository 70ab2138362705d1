"""Each lie is as near to the truth as its saving allows, and is one; what would be no lie is none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from decentral.core.agreement import distance
from decentral.models.cheaper import NOISE, PRUNED, int8, lies, loaded, narrowed, noisy, pruned
from decentral.models.stages import Stage, split

seeds = st.integers(0, 2**32 - 1)
INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(9))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)).eval()


def stages(seed: int = 0) -> list[Stage]:
    return split(network(seed), ["1", "3"], INPUTS)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@given(seeds, st.floats(1e-3, 1e3))
def test_8_bits_have_255_values_a_channel_and_are_off_by_half_a_step_at_most(seed: int, scale: float) -> None:
    weight = normal(seed, 4, 3, 2) * scale
    found = int8(weight)
    step = weight.flatten(1).abs().amax(1) / 127
    assert ((found - weight).flatten(1).abs().amax(1) <= step * 0.5001).all()
    whole = found.flatten(1) / step[:, None]
    assert torch.allclose(whole, whole.round(), atol=1e-3)
    assert torch.allclose(int8(found), found, rtol=1e-5), "what is of 8 bits stays as it is"
    assert torch.equal(int8(torch.zeros(2, 3)), torch.zeros(2, 3))


@given(seeds, st.floats(0, 0.9))
def test_pruning_takes_the_share_that_is_smallest(seed: int, share: float) -> None:
    weight = normal(seed, 5, 7)
    found = pruned(weight, share)
    gone = found == 0
    assert int(gone.sum()) == int(share * 35)
    assert torch.equal(found[~gone], weight[~gone])
    if gone.any():
        assert weight[gone].abs().max() < weight[~gone].abs().min()


@given(seeds)
def test_noise_is_the_given_share_of_the_size(seed: int) -> None:
    weight = normal(seed, 60, 70) * 5
    off = noisy(weight, generator()) - weight
    assert float(off.std() / weight.square().mean().sqrt()) == pytest.approx(NOISE, rel=0.1)


def test_every_lie_is_near_and_no_answer_of_the_stage() -> None:
    other = network(1).state_dict()
    for stage, inputs in zip(stages()[::2], (INPUTS, normal(3, 5, 8)), strict=True):
        true = stage.run({stage.inputs[0].name: inputs})
        found = lies(stage, {"another seed": other}, generator())
        assert set(found) == {"bf16", "float16", "int8", "pruned", "weight noise", "another seed"}
        for name, run in found.items():
            apart = distance(run({stage.inputs[0].name: inputs}), true)
            assert 1e-5 < apart < (2.1 if name == "another seed" else 0.5), name
        assert torch.equal(
            stage.run({stage.inputs[0].name: inputs})[stage.outputs[0].name], true[stage.outputs[0].name]
        )


def test_a_stage_without_weights_has_no_other_weights_to_lie_with() -> None:
    middle = stages()[1]
    assert set(lies(middle, {"another seed": network(1).state_dict()}, generator())) == {"bf16", "float16"}
    first = stages()[0]
    assert "the same" not in lies(first, {"the same": network(0).state_dict()}, generator())


def test_statistics_of_batches_are_not_touched() -> None:
    first = stages()[0]
    for run in (lies(first, {}, generator())[name] for name in ("int8", "pruned", "weight noise")):
        state = run.__self__.state()
        for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
            assert torch.equal(state[name], first.state()[name])
        assert not torch.equal(state["0.weight"], first.state()["0.weight"])


def test_another_precision_is_handed_over_as_the_promised_type() -> None:
    first = stages()[0]
    found = narrowed(first, torch.bfloat16)({first.inputs[0].name: INPUTS})
    assert [each.dtype for each in found.values()] == [torch.float32]
    assert all(torch.equal(each, each.bfloat16().float()) for each in found.values())
    assert first.state()["0.weight"].dtype == torch.float32


def test_a_state_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is torch\.float32"):
        lies(stages()[0], {"wide": {**network(1).state_dict(), "0.weight": torch.zeros(9, 6)}}, generator())
    with pytest.raises(ValueError, match="lacks"):
        lies(stages()[0], {"of another network": {"weight": torch.zeros(9, 6)}}, generator())
    with pytest.raises(ValueError, match="lacks"):
        loaded(stages()[0], {})


def test_the_share_that_is_pruned_is_a_fifth() -> None:
    assert PRUNED == 0.2
