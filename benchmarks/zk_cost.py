"""What a proof costs: a line for each model, ezkl alone and ours, in the same run.

    python -m benchmarks.zk_cost [NAME ...] [--repeat 1] [--json FILE]

"ezkl" is a program of a few lines that calls nothing else; "ours" is a circuit of the store, in a worker process, from
an input to a proof whose form has been checked. Both prove the same circuit on all cores. Setup is ours: compiled, with
keys, commitments and the length of a proof, and for ezkl its own call. Verification is by a worker that is up.
Processor seconds stand beside, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from decentral.models.catalogue import build_model
from decentral.models.folding import fold_batchnorm
from decentral.zk.arguments import Visibility
from decentral.zk.circuit import Chain
from decentral.zk.proving import prove, witnesses
from decentral.zk.setup import COMPILED, KEY, PROVING_KEY, SETTINGS, Artefacts, Options, draft, make
from decentral.zk.srs import SRS
from decentral.zk.store import Store
from decentral.zk.verification import verify
from decentral.zk.worker import Limits, worker

BARE = """
import json, sys, time
import ezkl
compiled, key, proving, settings, srs, witness, folder = sys.argv[1:]

def timed(call, *given):
    began, spent = time.monotonic(), time.process_time()
    call(*given)
    return time.monotonic() - began, time.process_time() - spent

setup = timed(ezkl.setup, compiled, folder + "/key", folder + "/proving", srs)
open("/proc/self/clear_refs", "w").write("5")
proved = timed(ezkl.prove, witness, compiled, proving, folder + "/proof", srs)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
assert ezkl.verify(folder + "/proof", settings, key, srs, False)
verified = timed(ezkl.verify, folder + "/proof", settings, key, srs, False)
print(json.dumps({"setup": setup, "prove": proved, "verify": verified, "peak": peak * 1024}))
"""
"""ezkl and nothing else; the mark of the most memory is set back between setup and proof."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A network, the shape of its input, and how its circuit is made."""

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    options: Options = field(default_factory=Options)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def digits() -> nn.Module:
    return fold_batchnorm(build_model("strided-cnn", (1, 8, 8), 10, channels=[16, 32]).eval())


def lenet() -> nn.Module:
    """LeNet-5 on 28 x 28, with averages where it has maxima of four."""
    convolutions = [nn.Conv2d(1, 6, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256, 84), nn.ReLU(), nn.Linear(84, 10))


SUBJECTS = {
    "linear-digits": Subject(linear, (1, 8, 8)),
    "cnn-digits": Subject(digits, (1, 8, 8)),
    "cnn-digits-loose": Subject(digits, (1, 8, 8), Options(checked=False, rebase=1000, legs=3)),
    "cnn-digits-polycommit": Subject(digits, (1, 8, 8), Options(parameters=Visibility.COMMITTED)),
    "lenet": Subject(lenet, (1, 28, 28)),
}


def bare(stage: Artefacts, srs: SRS, witness: Path, folder: Path) -> dict[str, Any]:
    files = [stage.folder / name for name in (COMPILED, KEY, PROVING_KEY, SETTINGS)]
    command = [sys.executable, "-c", BARE, *map(str, [*files, srs.path, witness, folder])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def measured(name: str, repeat: int, store: Store) -> dict[str, Any]:
    subject, limits = SUBJECTS[name], Limits(memory=16 * 2**30)
    torch.manual_seed(0)
    network = subject.network().eval()
    samples = torch.rand(4, *subject.shape, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as scratch:
        drafts = await draft([network], [samples], subject.options, limits=limits)
        srs = await store.local_srs(drafts[0].settings.logrows, limits)
        began = time.monotonic()
        made = await make(drafts, srs, Store(Path(scratch) / "store"), limits=limits)
        setup_seconds = time.monotonic() - began
        chain = Chain((made[0].circuit,), ((),))
        (about,) = await witnesses(chain, made, srs, [samples[0]], folder=Path(scratch), limits=limits)
        floors, own, walls = [], [], []
        for _ in range(repeat):
            floors.append(await asyncio.to_thread(bare, made[0], srs, about.file, Path(scratch)))
            began = time.monotonic()
            proven = await prove(chain, made, srs, [samples[0]], limits=limits)
            walls.append(time.monotonic() - began)
            own.append(proven.usage[0])
        async with worker(replace(limits, seconds=60)) as alone:
            taken = []
            for _ in range(4):
                began = time.monotonic()
                found = await verify(alone, chain, srs, proven.proofs, [samples[0]])
                taken.append(time.monotonic() - began)
                assert found.passed, found.detail
        usage = [each for each in own if each is not None]
        return {
            "model": name,
            "logrows": chain.logrows,
            "rows": chain.circuits[0].settings.rows,
            "bare": {
                **{key: min(each[key][0] for each in floors) for key in ("setup", "prove", "verify")},
                "prove_cpu": min(each["prove"][1] for each in floors),
                "peak": max(each["peak"] for each in floors),
            },
            "setup": setup_seconds,
            "prove": min(walls),
            "prove_cpu": min(each.cpu for each in usage),
            "peak": max(each.peak for each in usage),
            "verify": min(taken[1:]),
            "proving_key_bytes": (made[0].folder / PROVING_KEY).stat().st_size,
            "verifying_key_bytes": len(made[0].circuit.key),
            "proof_bytes": len(proven.proofs.encoded()),
            "standing_on": chain.words,
        }


def line(found: dict[str, Any]) -> Sequence[str]:
    floor = found["bare"]
    return (
        found["model"],
        f"2^{found['logrows']}",
        str(found["rows"]),
        f"{floor['setup']:.1f} {found['setup']:.1f}",
        f"{floor['prove']:.1f} {found['prove']:.1f}",
        f"{floor['prove_cpu']:.1f} {found['prove_cpu']:.1f}",
        f"{floor['peak'] / 2**30:.2f} {found['peak'] / 2**30:.2f}",
        f"{floor['verify']:.3f} {found['verify']:.3f}",
        f"{found['proving_key_bytes'] / 1e6:.0f}",
        f"{found['proof_bytes'] / 1e3:.1f}",
    )


COLUMNS = ("model", "of", "rows", "setup s", "prove s", "cpu s", "GiB", "verify s", "key MB", "proof kB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[*SUBJECTS, []], default=[])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    store, every = Store(), []
    print("two figures in a column: ezkl alone, ours")
    print("  ".join(f"{column:<14}" for column in COLUMNS))
    for name in given.name or SUBJECTS:
        every.append(asyncio.run(measured(name, given.repeat, store)))
        print("  ".join(f"{cell:<14}" for cell in line(every[-1])), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(every, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
