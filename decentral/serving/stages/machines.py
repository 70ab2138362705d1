"""Machines that differ as honest ones do, on this one: what rounds differently though all compute in float32.

Instruction sets and oneDNN decide which kernels run, and a kernel decides in which order it adds up; so does the shape
of the batch. Libraries read their environment once, so each machine is a process of its own. The number of threads is
no variation: it does not change a bit (tests/serving/stages/test_machines.py). CUDA takes part where there is one, with
TF32 off, since TF32 is another precision.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import pad

from decentral.models.cheaper import Answering
from decentral.models.stages import Stage

Tensors = Mapping[str, Tensor]
SHAPES = ("whole", "singly", "padded")
"""How a machine may shape a batch: as it came, one sample at a time, or filled up with zeros to the next of `SIZES`."""
SIZES = (1, 2, 8, 32)


@dataclass(frozen=True, slots=True)
class Machine:
    """`variables`: of its environment, which say up to which instructions its kernels go."""

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)
    onednn: bool = True
    device: str = "cpu"


def _level(onednn: str, aten: str, mkl: str) -> dict[str, str]:
    """MKL_ENABLE_INSTRUCTIONS says it to MKL on Intel's processors, MKL_CBWR on all."""
    return {
        "ONEDNN_MAX_CPU_ISA": onednn,
        "ATEN_CPU_CAPABILITY": aten,
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2" if mkl == "COMPATIBLE" else mkl,
        "MKL_CBWR": mkl,
    }


LEVELS = {
    "AVX512": {"avx2": _level("AVX2", "avx2", "AVX2"), "sse4": _level("SSE41", "default", "COMPATIBLE")},
    "AVX2": {"sse4": _level("SSE41", "default", "COMPATIBLE")},
}
"""Lower levels of a processor that has these instructions."""


def machines() -> list[Machine]:
    """All that this computer can be; the first is what it is by itself."""
    levels: dict[str, dict[str, str]] = {"native": {}, **LEVELS.get(torch.backends.cpu.get_cpu_capability(), {})}
    found = [Machine(name, variables) for name, variables in levels.items()]
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        found += [Machine(f"{name}, no oneDNN", variables, onednn=False) for name, variables in levels.items()]
    return found + ([Machine("cuda", device="cuda")] if torch.cuda.is_available() else [])


def shaped(run: Answering, tensors: Tensors, shape: str) -> dict[str, Tensor]:
    """The answer to a batch, whose samples are the first axis of every tensor, computed in this shape."""
    count = len(next(iter(tensors.values())))
    match shape:
        case "whole":
            return run(tensors)
        case "singly":
            parts = [run({name: each[i : i + 1] for name, each in tensors.items()}) for i in range(count)]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        case "padded":
            more = next((size for size in SIZES if size > count), count + 1) - count
            filled = {name: pad(each, [0, 0] * (each.ndim - 1) + [0, more]) for name, each in tensors.items()}
            return {name: each[:count] for name, each in run(filled).items()}
        case _:
            raise ValueError(f"a batch is shaped {', '.join(SHAPES)}, not {shape}")


class Fleet:
    """Running machines that hold the same stages; each answers in its own process, all at the same time."""

    def __init__(self, stages: Sequence[Stage], machines: Sequence[Machine]) -> None:
        self.machines = tuple(machines)
        self._stages = list(stages)
        self._pools: list[ProcessPoolExecutor] = []

    def __enter__(self) -> Fleet:
        context = multiprocessing.get_context("spawn")  # a forked process would have read its environment before
        try:
            started = []
            for machine in self.machines:
                pool = ProcessPoolExecutor(1, context, _begin, (self._stages, machine))
                self._pools.append(pool)
                with _environment(machine.variables):
                    started.append(pool.submit(_compute, []))  # starts the process
            for each in started:
                each.result()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def answers(
        self, number: int, batches: Sequence[Tensors], shapes: Sequence[Sequence[str]]
    ) -> list[list[dict[str, Tensor]]]:
        """Of stage `number` to each batch by each machine; `shapes[i][j]`: how machine j shapes batch i."""
        sent = [save({name: each.contiguous() for name, each in batch.items()}) for batch in batches]
        waiting: list[Future[list[bytes]]] = [
            pool.submit(_compute, [(number, data, shape[place]) for data, shape in zip(sent, shapes, strict=True)])
            for place, pool in enumerate(self._pools)
        ]
        come = [[load(data) for data in each.result()] for each in waiting]
        return [[machine[place] for machine in come] for place in range(len(batches))]


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """For processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_HELD: list[Stage] = []
_DEVICE: list[torch.device] = []
"""Of the process that is a machine."""


def _begin(stages: Sequence[Stage], machine: Machine) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = machine.onednn  # type: ignore[assignment]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    _DEVICE[:] = [torch.device(machine.device)]
    _HELD[:] = [stage.to(_DEVICE[0]) for stage in stages]


def _end_with_parent() -> None:
    """One that waits for work would not notice that nobody is there who could give it any."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _compute(work: Sequence[tuple[int, bytes, str]]) -> list[bytes]:
    found = []
    with torch.inference_mode():
        for number, data, shape in work:
            given = {name: each.to(_DEVICE[0]) for name, each in load(data).items()}
            answer = shaped(_HELD[number].run, given, shape)
            found.append(save({name: each.cpu().contiguous() for name, each in answer.items()}))
    return found
