"""What it costs to check a receipt: three parts by three replicas each, small tensors.

    python -m benchmarks.receipt_check [--repeat 200] [--json FILE]

Milliseconds from the bytes of the file to the verdict, the least and the median of `--repeat` runs, and the median of
what the processor spent, which other programs on the machine change less. Beside them the floor, what no verifier can
do without: parsing the JSON and verifying ten signatures. "rounding": no two replicas come to the same bits, so that
all tensors stand in the receipt and are compared. "another policy": the verifier's own is stricter than the client's,
and both are found out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from decentral.trust.policy import Policy
from decentral.trust.receipt import Receipt, check
from tests.trust.world import World

REQUIRED = 10.0
"""Milliseconds, for three by three."""
SIGNATURES = 10


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds."""

    least: float
    median: float
    processor: float


def timed(work: Callable[[], object], repeat: int) -> Taken:
    taken, spent = [], []
    for _ in range(repeat):
        began, busy = time.perf_counter(), time.thread_time()
        work()
        taken.append(1000 * (time.perf_counter() - began))
        spent.append(1000 * (time.thread_time() - busy))
    return Taken(min(taken), statistics.median(taken), statistics.median(spent))


def floor(data: bytes) -> Callable[[], object]:
    key = Ed25519PrivateKey.generate()
    signature, public = key.sign(data[:400]), key.public_key()

    def work() -> None:
        json.loads(data)
        for _ in range(SIGNATURES):
            public.verify(signature, data[:400])

    return work


def checked(data: bytes, world: World, policy: Policy) -> object:
    return check(Receipt.decode(data), world.anchors, policy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    own, stricter = Policy(), Policy(tolerance=9e-5)
    cases = {
        "equal bits": (World(), {}, own),
        "rounding": (World(rounding=True), {}, own),
        "rounding, one lies": (World(rounding=True), {("stage-1", 1): "lies"}, own),
        "rounding, another policy": (World(rounding=True), {}, stricter),
    }
    figures: dict[str, dict[str, float]] = {}

    def tell(name: str, data: bytes, work: Callable[[], object]) -> None:
        found = timed(work, arguments.repeat)
        figures[name] = {**asdict(found), "bytes": len(data)}
        print(f"{name:<26}{len(data):>8} B{found.least:>10.2f}{found.median:>10.2f}{found.processor:>12.2f}")

    print(f"{'ms':<36}{'least':>10}{'median':>10}{'processor':>12}")
    for name, (world, acts, policy) in cases.items():
        data = world.receipt(acts).encode()
        assert check(Receipt.decode(data), world.anchors, policy).verdict.valid
        if not figures:
            tell("floor", data, floor(data))
            tell("reading it alone", data, partial(Receipt.decode, data))
        tell(name, data, partial(checked, data, world, policy))
    print(f"required: at most {REQUIRED:g} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
