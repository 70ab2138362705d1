"""Accuracy against bytes: what each compression of models costs and saves, and what an outer optimiser adds.

    python -m benchmarks.exchange [--seeds 3] [--figure FILE] [--json FILE]

Ten peers with digits shared out by Dirichlet(0.3) train for 16 rounds in the simulator: the recipe modest-digits with
other algorithms and encodings. Bytes are those of models, after encoding, sent by all peers together. Every line stands
beside its algorithm's own line without compression, which nothing has to beat in accuracy, only in bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from decentral.files import write_atomic
from decentral.launch.engine import Options, execute
from decentral.run.journal import read
from decentral.run.recipe import load_recipe

PEERS, ROUNDS, EVERY = 10, 16, 4
ALGORITHMS: Mapping[str, Sequence[str]] = {
    "dpsgd": ("algorithm=dpsgd", "topology={name: regular, degree: 4}"),
    "fedavg": ("algorithm=fedavg",),
    "modest": ("algorithm=modest", "sampling.size=5", "sampling.patience=2.0"),
}
ENCODINGS: Mapping[str, str] = {
    "none": "none",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "top 10 %": "{name: top-k, share: 0.1}",
    "top 1 %": "{name: top-k, share: 0.01}",
}
OUTER = "averaging.outer={name: nesterov, learning_rate: 0.7, momentum: 0.5}"
"""DiLoCo's momentum of 0.9 is for hundreds of steps a round; with 18 steps and sixteen rounds it overshoots."""
AGGREGATING = ("fedavg", "modest")
TICKS = (0.3, 1, 3, 10, 30)
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "exchange.png"


@dataclass(frozen=True)
class Run:
    """One run: accuracies (mean of those who evaluate) and megabytes of models sent until then, by round."""

    algorithm: str
    encoding: str
    seed: int
    rounds: tuple[int, ...]
    accuracy: tuple[float, ...]
    megabytes: tuple[float, ...]


def cases() -> Iterable[tuple[str, str, list[str]]]:
    for algorithm, settings in ALGORITHMS.items():
        for name, encoding in ENCODINGS.items():
            yield algorithm, name, [*settings, f"exchange.compression={encoding}"]
        if algorithm in AGGREGATING:
            yield algorithm, "int8 + outer", [*settings, OUTER, "exchange.compression=int8"]


def run(algorithm: str, name: str, settings: Sequence[str], seed: int, folder: Path) -> Run:
    shape = [f"peers={PEERS}", f"rounds={ROUNDS}", f"evaluation.every={EVERY}", f"checkpoint.every={ROUNDS}"]
    recipe = load_recipe("modest-digits", [*shape, *settings, f"seed={seed}"])
    directory, summary = execute(recipe, "sim", Options(out=folder))
    sent: dict[int, int] = {}
    found: dict[int, list[float]] = defaultdict(list)
    until: dict[int, int] = {}
    for event in read(directory.path / "events.jsonl"):
        if "bytes" in event:
            sent[event["peer"]] = event["bytes"]["model"]
        if event["event"] == "evaluated":
            found[event["round"]].append(event["accuracy"])
            until[event["round"]] = sum(sent.values())
    until[ROUNDS] = summary["bytes"]["model"]
    rounds = tuple(sorted(found))
    accuracy = tuple(statistics.fmean(found[round]) for round in rounds)
    return Run(algorithm, name, seed, rounds, accuracy, tuple(until[round] / 1e6 for round in rounds))


def measure(seeds: int) -> list[Run]:
    with tempfile.TemporaryDirectory() as folder:
        return [
            run(algorithm, name, settings, seed, Path(folder) / f"{number}-{seed}")
            for number, (algorithm, name, settings) in enumerate(cases())
            for seed in range(seeds)
        ]


def groups(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for one in runs:
        found[one.algorithm, one.encoding].append(one)
    return found


def show(runs: Sequence[Run]) -> None:
    found = groups(runs)
    print(f"{'':<10}{'compression':<16}{'accuracy %':>14}{'points':>9}{'MB':>9}{'fewer bytes':>13}")
    for (algorithm, encoding), some in found.items():
        plain = found[algorithm, "none"]
        ends, best = ([100 * one.accuracy[-1] for one in which] for which in (some, plain))
        size, whole = (statistics.fmean(one.megabytes[-1] for one in which) for which in (some, plain))
        spread = f" ± {statistics.stdev(ends):.1f}" if len(ends) > 1 else ""
        lost = statistics.fmean(ends) - statistics.fmean(best)
        cell = f"{statistics.fmean(ends):.1f}{spread}"
        print(f"{algorithm:<10}{encoding:<16}{cell:>14}{lost:>+9.1f}{size:>9.2f}{whole / size:>12.1f}x")


def draw(runs: Sequence[Run], file: Path) -> None:
    """Accuracy over bytes, a panel for each algorithm; bytes on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, len(ALGORITHMS), sharex=True, sharey=True)
    lines: dict[str, Any] = {}
    names = [*ENCODINGS, "int8 + outer"]
    for panel, algorithm in zip(panels, ALGORITHMS, strict=True):
        for (whose, encoding), some in groups(runs).items():
            if whose != algorithm:
                continue
            rounds = sorted(set.intersection(*(set(one.rounds) for one in some)))
            places = [[one.rounds.index(round) for one in some] for round in rounds]
            pairs = [list(zip(some, place, strict=True)) for place in places]
            accuracy = [100 * statistics.fmean(one.accuracy[at] for one, at in pair) for pair in pairs]
            megabytes = [statistics.fmean(one.megabytes[at] for one, at in pair) for pair in pairs]
            style = "--" if "outer" in encoding else "-"
            colour = f"C{names.index(encoding)}"
            [lines[encoding]] = panel.plot(megabytes, accuracy, style, marker="o", markersize=3.5, color=colour)
        panel.set(title=algorithm, xscale="log", xlabel="MB of models sent by all peers")
        panel.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy (%)")
    shown = [name for name in names if name in lines]
    figure.legend([lines[name] for name in shown], shown, loc="outside lower center", ncols=len(shown))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each line, which are averaged")
    parser.add_argument("--figure", type=Path, default=FIGURE, metavar="FILE", help="where to draw the curves")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every run")
    arguments = parser.parse_args()
    began = time.monotonic()
    runs = measure(arguments.seeds)
    show(runs)
    draw(runs, arguments.figure)
    print(f"{arguments.seeds} seeds, {time.monotonic() - began:.0f} s, {time.process_time():.0f} s of processor time")
    if arguments.json:
        write_atomic(arguments.json, json.dumps([asdict(one) for one in runs], indent=1).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
