"""What it costs to prove a model in stages: a convolutional network of the digits, cut in two.

    python -m benchmarks.zk_chain [--repeat 3] [--json FILE]

The floor is ezkl itself: the same stages proved by a program of a few lines that calls nothing else, on one core. A
chain's proof is made of both stages side by side, a core each, from the input to proofs that can be sent: witnesses,
processes and checks included. It may take 1.3 times what ezkl takes for the slowest stage, and no more memory than
ezkl; whoever verifies has 0.15 s for the whole. Least of the repetitions, which take turns.

Where other programs keep both cores busy, a proof alone has them run on the core that it leaves free, and proofs side
by side cannot: so bare proofs are made both ways, and processor seconds stand beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from decentral.zk.circuit import Chain
from decentral.zk.proving import prove, witnesses
from decentral.zk.setup import COMPILED, KEY, PROVING_KEY, SETTINGS, Artefacts, Options, setup
from decentral.zk.srs import SRS
from decentral.zk.store import Store
from decentral.zk.verification import verify
from decentral.zk.worker import Limits, worker

SLOWER, VERIFYING = 1.3, 0.15
"""What is allowed: times the slowest stage's bare proof; seconds."""

BARE = """
import json, os, sys, time
os.sched_setaffinity(0, [int(sys.argv[1])])
import ezkl
compiled, key, proving, settings, srs, witness, proof = sys.argv[2:]
began, spent = time.monotonic(), time.process_time()
ezkl.prove(witness, compiled, proving, proof, srs)
proved, spent = time.monotonic() - began, time.process_time() - spent
began = time.monotonic()
assert ezkl.verify(proof, settings, key, srs, False)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"prove": proved, "cpu": spent, "verify": time.monotonic() - began, "peak": peak * 1024}))
"""
"""ezkl and nothing else, on one core."""


def stages() -> list[nn.Module]:
    """Parameters are random: their values change nothing of the cost."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    return [first.eval(), second.eval()]


def bare(stage: Artefacts, srs: SRS, witness: Path, core: int) -> dict[str, float]:
    """One stage by ezkl alone."""
    files = [stage.folder / name for name in (COMPILED, KEY, PROVING_KEY, SETTINGS)]
    proof = witness.with_suffix(".proof")
    command = [sys.executable, "-c", BARE, str(core), *map(str, [*files, srs.path, witness, proof])]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


async def chained(chain: Chain, made: list[Artefacts], srs: SRS, image: torch.Tensor, limits: Limits) -> dict[str, Any]:
    """One proof of the whole, and its verification by somebody who verifies more than one."""
    began = time.monotonic()
    proven = await prove(chain, made, srs, [image], parallel=len(made), limits=limits)
    proved = time.monotonic() - began
    async with worker(limits) as alone:
        taken = []
        for _ in range(3):
            began = time.monotonic()
            found = await verify(alone, chain, srs, proven.proofs, [image])
            taken.append(time.monotonic() - began)
            assert found.passed, found.detail
    usage = [each for each in proven.usage if each is not None]
    return {
        "prove": proved,
        "stages": [each.wall for each in usage],
        "cpu": [each.cpu for each in usage],
        "peak": max(each.peak for each in usage),
        "verify": min(taken[1:]),
        "bytes": len(proven.proofs.encoded()),
    }


async def measured(repeat: int) -> dict[str, Any]:
    store, limits = Store(), Limits(memory=8 * 2**30)
    cores = sorted(os.sched_getaffinity(0))[:2]
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    chain, made, srs = await setup(stages(), [images], store.local_srs, store, Options(), limits=limits)
    own, alone, beside = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        about = await witnesses(chain, made, srs, [images[0]], folder=Path(scratch), limits=limits)
        each = [(stage, srs, one.file, core) for stage, one, core in zip(made, about, cores, strict=True)]
        for _ in range(repeat):
            alone.append([await asyncio.to_thread(bare, *given) for given in each])
            beside.append(await asyncio.gather(*(asyncio.to_thread(bare, *given) for given in each)))
            own.append(await chained(chain, made, srs, images[0], replace(limits, cores=tuple(cores))))
    peak = max(one["peak"] for run in [*alone, *beside] for one in run)
    found = {
        "logrows": chain.logrows,
        "rows": [circuit.settings.rows for circuit in chain.circuits],
        "proving_key_bytes": [(each.folder / PROVING_KEY).stat().st_size for each in made],
        "bare_seconds": _least(alone, "prove"),
        "bare_seconds_side_by_side": _least(beside, "prove"),
        "bare_cpu_seconds": _least([*alone, *beside], "cpu"),
        "bare_verify_seconds": sum(_least(alone, "verify")),
        "bare_peak_bytes": peak,
        "chain_seconds": min(one["prove"] for one in own),
        "stage_seconds": [min(one["stages"][place] for one in own) for place in range(len(made))],
        "stage_cpu_seconds": [min(one["cpu"][place] for one in own) for place in range(len(made))],
        "chain_peak_bytes": max(one["peak"] for one in own),
        "verify_seconds": min(one["verify"] for one in own),
        "proof_bytes": own[0]["bytes"],
        "standing_on": chain.words,
        "repeat": repeat,
    }
    return {
        **found,
        "times_the_slowest": found["chain_seconds"] / max(found["bare_seconds"]),
        "times_the_slowest_side_by_side": found["chain_seconds"] / max(found["bare_seconds_side_by_side"]),
        "times_the_cpu": max(found["stage_cpu_seconds"]) / max(found["bare_cpu_seconds"]),
        "times_the_memory": found["chain_peak_bytes"] / peak,
    }


def _least(runs: Sequence[Sequence[Mapping[str, float]]], what: str) -> list[float]:
    """Of each stage."""
    return [min(run[place][what] for run in runs) for place in range(len(runs[0]))]


def _times(seconds: Sequence[float]) -> str:
    return f"{', '.join(f'{each:.2f}' for each in seconds)} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = asyncio.run(measured(given.repeat))
    print(f"2 stages of 2^{found['logrows']} rows, a core each ({found['standing_on']})")
    print(f"ezkl, each stage alone       {_times(found['bare_seconds'])}, {found['bare_peak_bytes'] / 2**30:.2f} GiB")
    print(f"ezkl, both side by side      {_times(found['bare_seconds_side_by_side'])}")
    print(f"the chain                    {found['chain_seconds']:.2f} s, {found['chain_peak_bytes'] / 2**30:.2f} GiB")
    print(f"  times the slowest alone    {found['times_the_slowest']:.2f} (allowed {SLOWER})")
    print(f"  times it side by side      {found['times_the_slowest_side_by_side']:.2f}")
    print(f"  processor seconds          {found['times_the_cpu']:.2f} times those of ezkl")
    print(f"verification of the chain    {found['verify_seconds']:.3f} s (allowed {VERIFYING})")
    print(f"  ezkl, both stages          {found['bare_verify_seconds']:.3f} s")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(found["times_the_slowest"] > SLOWER or found["verify_seconds"] > VERIFYING)


if __name__ == "__main__":
    sys.exit(main())
