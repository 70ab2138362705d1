"""Honest machines stay within the tolerance that their differences asked for, lies do not, and every case is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from decentral.core.calibration import Rate
from decentral.models.stages import Stage, split
from decentral.serving.stages.calibration import Calibrated, Samples, calibrated, drawn, measure
from decentral.serving.stages.machines import SIZES, machines

COUNT = 64


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5)).eval()


IMAGES = torch.randn(100, 12, generator=torch.Generator().manual_seed(0))


def stages() -> list[Stage]:
    return split(network(0), ["1"], IMAGES[:2])


@pytest.fixture(scope="module")
def samples() -> list[Samples]:
    batches = drawn({stages()[0].inputs[0].name: IMAGES}, COUNT, torch.Generator().manual_seed(0))
    kinds = [machines()[0], machines()[-1]]
    return measure(stages(), batches, kinds, others={"another seed": network(1).state_dict()}, lied_to=40)


def test_everything_is_measured_of_every_stage(samples: list[Samples]) -> None:
    assert len(samples) == 2
    for found in samples:
        assert len(found.honest) == COUNT
        assert set(found.machines) == {machines()[0].name, machines()[-1].name}
        assert all(len(off) == COUNT for off in found.machines.values())
        assert set(found.lies) == {"bf16", "float16", "int8", "pruned", "weight noise", "another seed"}
        assert all(len(off) == 40 for off in found.lies.values())


def test_the_honest_distance_is_at_least_that_of_every_machine_to_the_reference(samples: list[Samples]) -> None:
    for found in samples:
        for off in found.machines.values():
            assert (off <= found.honest).all()
            assert (off > 0).any(), "float32 rounds"
        assert found.honest.max() < 1e-5


def test_the_next_stage_is_given_what_the_first_machine_answered(samples: list[Samples]) -> None:
    first, second = stages()
    name = first.outputs[0].name
    for inputs, passed in zip(samples[0].inputs[:4], samples[1].inputs[:4], strict=True):
        with torch.inference_mode():
            assert torch.allclose(first.run(inputs)[name], passed[second.inputs[0].name], rtol=1e-5)


def test_a_tolerance_accepts_the_honest_and_finds_the_lies(samples: list[Samples]) -> None:
    parts = calibrated(["stage-0", "stage-1"], samples, stages(), false_reject=0.05)
    assert parts[0].gain > 1
    assert parts[1].gain == 1
    for part, found in zip(parts, samples, strict=True):
        assert found.honest.min() <= part.limit <= found.honest.max()
        assert part.tolerance == pytest.approx(4 * max(part.limit, 1.2e-7), rel=0.01)
        assert part.honest == Rate(0, COUNT)
        assert all(rate == Rate(40, 40) for rate in part.detected.values())
        assert all(curve.detections[curve.false_rejects == 0].max() == 1 for curve in part.curves.values())


def test_a_margin_and_a_wanted_level_move_the_tolerance(samples: list[Samples]) -> None:
    found = samples[0]

    def first(false_reject: float, margin: float) -> Calibrated:
        return calibrated(["stage-0", "stage-1"], samples, stages(), false_reject=false_reject, margin=margin)[0]

    narrow, wide = first(0.5, 1.0), first(0.05, 1.0)
    assert narrow.limit < wide.limit
    assert narrow.honest.events > 0
    assert first(0.05, 1e5).detected["float16"].value < 1
    with pytest.raises(ValueError, match="it takes 2995"):
        calibrated(["stage-0"], [found], stages()[:1])


def test_batches_are_drawn_by_their_seed_in_all_sizes() -> None:
    def sample(seed: int) -> list[Tensor]:
        return [batch["x"] for batch in drawn({"x": IMAGES}, 50, torch.Generator().manual_seed(seed))]

    assert {len(batch) for batch in sample(0)} == set(SIZES)
    assert all(torch.equal(one, other) for one, other in zip(sample(0), sample(0), strict=True))
    assert any(len(one) != len(other) for one, other in zip(sample(0), sample(1), strict=True))
    assert all((batch[:, None] == IMAGES).all(2).any(1).all() for batch in sample(2))


def test_answers_that_are_no_numbers_are_no_calibration() -> None:
    honest = np.full(COUNT, np.inf)
    with pytest.raises(ValueError, match="no numbers"):
        calibrated(["stage-0"], [Samples(honest, {}, {}, [])], stages()[:1], false_reject=0.05)
    with pytest.raises(ValueError, match="no machine"):
        measure(stages(), [], [])
