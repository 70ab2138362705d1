"""Machines round differently by kernels and by batch shapes, and not by threads; each is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from decentral.core.agreement import distance
from decentral.models.catalogue import build_model
from decentral.models.stages import Stage, split
from decentral.serving.stages.machines import SHAPES, Fleet, Machine, machines, shaped

INPUTS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def stages() -> list[Stage]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10)
    )
    return split(network.eval(), ["2"], INPUTS)


def given(stage: Stage, inputs: Tensor = INPUTS) -> dict[str, Tensor]:
    return {stage.inputs[0].name: inputs}


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """Python's own, which every process that spawns others has from then on, and which ends with it."""
    resource_tracker.ensure_running()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(stages(), [machines()[0], machines()[-1]]) as fleet:
        yield fleet


def test_a_machine_computes_what_this_process_does(fleet: Fleet) -> None:
    first = stages()[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            here = first.run(given(first))
    finally:
        torch.set_num_threads(threads)
    there = fleet.answers(0, [given(first)] * 2, [["whole"] * 2] * 2)
    assert len(there) == 2
    for answers in there:
        assert len(answers) == 2
        assert torch.equal(answers[0][first.outputs[0].name], here[first.outputs[0].name])


def test_other_kernels_round_differently_and_not_much(fleet: Fleet) -> None:
    first = stages()[0]
    answers = fleet.answers(0, [given(first)], [["whole"] * 2])[0]
    apart = [distance(answers[0], other) for other in answers[1:]]
    assert all(gap < 1e-5 for gap in apart)
    if torch.backends.mkldnn.is_available():
        assert max(apart) > 0


def test_the_environment_of_this_process_stays_as_it_was(fleet: Fleet) -> None:
    assert len({machine.name for machine in machines()}) == len(machines())
    assert machines()[0] == Machine("native")
    assert not {name for machine in machines() for name in machine.variables} & os.environ.keys()


@pytest.mark.slow
def test_a_machine_that_cannot_be_is_an_error_and_leaves_no_process() -> None:
    fleet = Fleet(stages(), [Machine("nowhere", device="no such device")])
    with pytest.raises(Exception, match=r"abruptly|broken|terminated"), fleet:
        pass


ORPHANS = """
import time
from tests.serving.stages.test_machines import stages
from decentral.serving.stages.machines import Fleet, machines

if __name__ == "__main__":
    with Fleet(stages(), machines()[:1]):
        print("up", flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_machines_end_with_the_process_that_started_them(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "holder.py"
    script.write_text(ORPHANS)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        tasks = Path(f"/proc/{holder.pid}/task")
        born = [int(pid) for file in tasks.glob("*/children") for pid in file.read_text().split()]
        holder.kill()
    assert born
    until = time.monotonic() + 20
    while any(alive(pid) for pid in born) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in born if alive(pid)]


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended may wait for whoever inherited it."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3, 8, 33])
def test_a_shape_changes_who_is_computed_together_and_nothing_else(shape: str, count: int) -> None:
    first = stages()[0]
    inputs = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
    seen: list[int] = []

    def run(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(len(tensors[first.inputs[0].name]))
        return first.run(tensors)

    with torch.inference_mode():
        found, whole = shaped(run, given(first, inputs), shape), first.run(given(first, inputs))
    assert distance(found, whole) < 1e-5
    name = first.outputs[0].name
    assert found[name].shape == whole[name].shape
    larger = {1: 2, 2: 8, 3: 8, 8: 32, 33: 34}[count]
    assert seen == {"whole": [count], "singly": [1] * count, "padded": [larger]}[shape]


def test_a_shape_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch is shaped"):
        shaped(dict, {"x": INPUTS}, "sideways")


@pytest.mark.parametrize("name, shape", [("mlp", (1, 8, 8)), ("resnet20", (3, 16, 16)), ("cnn", (1, 28, 28))])
@pytest.mark.parametrize("onednn", [True, False])
def test_the_number_of_threads_changes_no_bit(name: str, shape: tuple[int, ...], onednn: bool) -> None:
    torch.manual_seed(0)
    network = build_model(name, shape, 10).eval()
    threads, before = torch.get_num_threads(), torch.backends.mkldnn.enabled
    batches = [torch.randn(size, *shape, generator=torch.Generator().manual_seed(size)) for size in (1, 8)]
    found = []
    try:
        torch.backends.mkldnn.enabled = onednn
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.inference_mode():
                found.append([network(batch) for batch in batches])
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = before
    for more in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], more, strict=True))
