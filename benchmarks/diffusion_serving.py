"""What it costs that experts are peers: sampling over gRPC beside one process, and the best of K beside one model.

    python -m benchmarks.diffusion_serving [--run DIR] [--num 256] [--steps 20] [--repeat 5] [--json FILE]

Networks are those of recipes/diffusion-digits.yaml with random weights, since only time is measured: four experts, each
a process of its own behind mutual TLS, and the pipeline with the same experts in this process, one torch thread each.
`one core` holds client and peers on a single core, which is what the floor has; `all cores` lets them spread. Images go
through the steps as `generate` has them where peers are on the client's machine: together, with no more peers at work
than there are cores (`in turn`); together, with all peers at work (`together`); or in two halves, as where peers are
elsewhere (`halves`). This process, alone and as the client, keeps what it frees as nodes do (`KEEP_MEMORY`), without
which (`--plain`) it takes longer alone. A ratio is the median of turns, each of them a sampling in one process and one
with the peers right after it, of the same batches. Images must be the same bits. Then the last two plans where every
answer takes longer (`--far`: this alone): the network is simulated, by waiting. Then the best expert of eight (`top-1`,
router included) beside one dense model of an expert's size, by images per expert, in seconds of one core: the least of
several turns, each taken after the other's (`--sparse`: this alone). With `--run DIR`, a finished run of diffusion-
digits, an expert is killed half-way and the images are compared with those of a sampling that lost nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.digit_judge import distance, floor, pixels, recognised
from benchmarks.measure import busy
from decentral.core.gating import Choice, gate
from decentral.launch.background import start_serving, stop
from decentral.launch.changes import DIGEST
from decentral.launch.cluster import LOCK
from decentral.launch.nodes import KEEP_MEMORY
from decentral.launch.serving import EXPERT
from decentral.models.catalogue import build_model
from decentral.models.experts import Router
from decentral.run.directory import RunDirectory, peer_name
from decentral.run.recipe import Recipe, load_recipe
from decentral.serving.access import PIPELINE, access
from decentral.serving.experts.denoising import Answer, Denoising, Evaluation, Plan, Roster, batches, denoise
from decentral.serving.experts.ensemble import RemoteExpert, denoise_remotely, most_together, remote_experts
from decentral.serving.experts.expert import digest_of
from decentral.serving.experts.generation import Wish, generate
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.training.experts import OF_ROUTER, OF_TRAINING

EXPERTS, MANY = 4, 8
SHAPE, CLASSES = (1, 8, 8), 10
REMOTE, SPARSE = 1.15, 1.15
"""At most: sampling through peers to the same in one process; the best of eight experts to one dense model."""
NEAR, TOGETHER, FAR = "in turn", "together", "halves"
"""The plan of `generate` where all experts are on the client's machine, one between, and the one where they are not."""
DISTANCES = (0, 5, 10, 20, 50)
"""Milliseconds by which an answer takes longer."""
FULL = 64
"""Images per expert from which the second holds."""


def network(recipe: Recipe, seed: int, outputs: int | None = None) -> Any:
    """An expert, or with `outputs` a router, as the recipe has them."""
    torch.manual_seed(seed)
    if outputs is None:
        return build_model(recipe.model.name, SHAPE, CLASSES, **recipe.model.options).eval()
    asked = dict(cast(dict[str, Any], recipe.learner.options["router"]))
    options = {key: value for key, value in asked.items() if key not in ("name", *OF_TRAINING, *OF_ROUTER)}
    return build_model(str(asked["name"]), SHAPE, CLASSES, outputs=outputs, **options).eval()


def ensemble(recipe: Recipe, count: int) -> DecentralizedDiffusionPipeline:
    experts = {f"expert_{number}": network(recipe, number) for number in range(count)}
    made: Any = DecentralizedDiffusionPipeline(router=network(recipe, 99, outputs=count), **experts)
    made.set_progress_bar_config(disable=True)
    return cast(DecentralizedDiffusionPipeline, made)


def untrained_run(folder: Path, recipe: Recipe, pipeline: DecentralizedDiffusionPipeline) -> RunDirectory:
    """A run directory as a finished run leaves it, with these experts."""
    with RunDirectory.create(folder, recipe, "local") as run:
        for number, expert in pipeline.experts.items():
            place = run.node(peer_name(number)) / EXPERT
            cast(Any, expert).save_pretrained(place)
            (place / DIGEST).write_text(digest_of(expert))
        pipeline.save_pretrained(folder / PIPELINE)
    return RunDirectory.open(folder)


@contextmanager
def up(run: RunDirectory, cores: set[int]) -> Iterator[None]:
    """The run's peers serve, on these cores, and so does whoever asks them here."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        start_serving(run)
        yield
    finally:
        stop(run)
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is sampled, and how: `size` images go through the steps together, with `at_once` peers at work."""

    pipeline: DecentralizedDiffusionPipeline
    number: int
    steps: int
    experts: str
    size: int
    at_once: int | None = None

    def started(self) -> list[Denoising]:
        sampling = self.pipeline.start(
            num_images=self.number,
            num_inference_steps=self.steps,
            class_labels=[place % CLASSES for place in range(self.number)],
            experts=cast(Choice, self.experts),
            generator=torch.Generator().manual_seed(0),
            micro_batch=self.size,
        )
        return sampling.batches

    def alone(self) -> tuple[torch.Tensor, float]:
        """Latents, and seconds, in this process."""
        began = time.perf_counter()
        return denoise(self.started(), self.pipeline.evaluate), time.perf_counter() - began

    async def over(self, experts: Mapping[int, RemoteExpert]) -> tuple[torch.Tensor, float]:
        """The same, with peers."""
        together = asyncio.Semaphore(self.at_once or sys.maxsize)
        limited = {number: replace(expert, together=together) for number, expert in experts.items()}
        began = time.perf_counter()
        return await denoise_remotely(self.started(), limited), time.perf_counter() - began


def plans(setting: Setting, cores: int) -> dict[str, Setting]:
    most = most_together(SHAPE)
    whole, half = min(setting.number, most), min(math.ceil(setting.number / 2), most)
    return {
        NEAR: replace(setting, size=whole, at_once=cores),
        TOGETHER: replace(setting, size=whole),
        FAR: replace(setting, size=half),
    }


@dataclass(slots=True)
class Turns:
    """Seconds in this process, and with the peers right after it, and if all gave the same bits."""

    floors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    same: bool = True

    def row(self) -> dict[str, Any]:
        """The first turn does not count."""
        floors, seconds = self.floors[1:], self.seconds[1:]
        ratios = sorted(one / floor for one, floor in zip(seconds, floors, strict=True))
        medians = {"floor": statistics.median(floors), "seconds": statistics.median(seconds)}
        return {**medians, "ratio": statistics.median(ratios), "ratios": ratios, "same bits": self.same}


async def in_turn(
    folder: Path, cores: set[int], apart: int, repeat: int, plans: dict[str, Setting]
) -> dict[str, Turns]:
    """Each plan in this process, on the core `apart`, and with the peers, in turn.

    The machine is not equally fast at all times, so that only what was measured side by side can be compared; peers
    that wait take a little of a core, and none of that one where there are two. One plan after the other: oneDNN keeps
    what it made for the last 1,024 shapes, and each plan has others, which made this process slower by a tenth.
    """
    found = {name: Turns() for name in plans}
    async with access(folder) as cluster, remote_experts(cluster) as remote:
        for name, plan in plans.items():
            for _ in range(repeat + 1):
                os.sched_setaffinity(0, {apart})
                expected, floor = plan.alone()
                os.sched_setaffinity(0, cores)
                latents, seconds = await plan.over(remote.experts)
                found[name].floors.append(floor)
                found[name].seconds.append(seconds)
                found[name].same &= bool(torch.equal(latents, expected))
    return found


def over_the_network(recipe: Recipe, number: int, steps: int, repeat: int) -> list[dict[str, Any]]:
    pipeline, rows, everywhere = ensemble(recipe, EXPERTS), [], os.sched_getaffinity(0)
    places = {"one core": {min(everywhere)}, "all cores": everywhere}
    with tempfile.TemporaryDirectory() as folder:
        run = untrained_run(Path(folder) / "run", recipe, pipeline)
        for choice, (place, cores) in itertools.product(("top-1", "full"), places.items()):
            asked = plans(Setting(pipeline, number, steps, choice, number), len(cores))
            with up(run, cores):
                turns = asyncio.run(in_turn(run.path, cores, max(everywhere), repeat, asked))
            rows += [{"experts": choice, "cores": place, "plan": name, **each.row()} for name, each in turns.items()]
    return rows


def show_network(recipe: Recipe, number: int, steps: int, repeat: int) -> list[dict[str, Any]]:
    rows = over_the_network(recipe, number, steps, repeat)
    print(f"\n{'':<28}{'one process s':>14}{'peers s':>10}{'ratio':>8}  least to most  same bits")
    for row in rows:
        name = f"{row['experts']}, {row['cores']}, {row['plan']}"
        spread, same = f"{row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}", row["same bits"]
        print(f"{name:<28}{row['floor']:>14.2f}{row['seconds']:>10.2f}{row['ratio']:>8.2f}  {spread}   {same}")
    print(f"on one core, {NEAR}: at most {REMOTE} wanted")
    return rows


def close(rows: list[dict[str, Any]]) -> bool:
    planned = [row for row in rows if row["cores"] == "one core" and row["plan"] == NEAR]
    return all(row["ratio"] <= REMOTE for row in planned) and all(row["same bits"] for row in rows)


@dataclass(frozen=True, slots=True)
class Distant:
    """An expert as it would be farther away: every answer takes so many seconds longer."""

    expert: RemoteExpert
    seconds: float

    async def evaluate(self, evaluation: Evaluation) -> Answer:
        await asyncio.sleep(self.seconds / 2)
        answer = await self.expert.evaluate(evaluation)
        await asyncio.sleep(self.seconds / 2)
        return answer


async def by_distance(folder: Path, setting: Setting, repeat: int) -> list[dict[str, Any]]:
    """Seconds of two plans in turn, for each distance; the first turn does not count."""
    rows = []
    asked = {name: plan for name, plan in plans(setting, 1).items() if name != NEAR}
    async with access(folder) as cluster, remote_experts(cluster) as remote:
        for distance in DISTANCES:
            experts: Any = {n: Distant(expert, distance / 1000) for n, expert in remote.experts.items()}
            seconds: dict[str, list[float]] = {name: [] for name in asked}
            for _ in range(repeat + 1):
                for name, plan in asked.items():
                    began = time.perf_counter()
                    await denoise_remotely(plan.started(), experts)
                    seconds[name].append(time.perf_counter() - began)
            medians = {name: statistics.median(turns[1:]) for name, turns in seconds.items()}
            rows.append({"experts": setting.experts, "milliseconds": distance, **medians})
    return rows


def show_far(recipe: Recipe, number: int, steps: int, repeat: int) -> list[dict[str, Any]]:
    pipeline, rows = ensemble(recipe, EXPERTS), []
    with tempfile.TemporaryDirectory() as folder:
        run = untrained_run(Path(folder) / "run", recipe, pipeline)
        with up(run, os.sched_getaffinity(0)):
            for choice in ("top-1", "full"):
                rows += asyncio.run(by_distance(run.path, Setting(pipeline, number, steps, choice, number), repeat))
    print(f"\n{'answers later by (simulated)':<28}{TOGETHER + ' s':>14}{FAR + ' s':>12}")
    for row in rows:
        print(f"{row['experts'] + ', ' + str(row['milliseconds']) + ' ms':<28}{row[TOGETHER]:>14.2f}{row[FAR]:>12.2f}")
    return rows


class Even:
    """The router's logits, and so its cost, but every expert gets the same share of the samples."""

    conditional = False

    def __init__(self, router: Router) -> None:
        self._router = router

    def __call__(self, x: torch.Tensor, t: float, labels: torch.Tensor | None) -> torch.Tensor:
        logits = self._router(x, t, labels)
        turn = torch.arange(len(x)) % logits.shape[1]
        return logits.index_put((torch.arange(len(x)), turn), torch.tensor(1e6))


def sparse_beside_dense(recipe: Recipe, steps: int, repeat: int) -> list[dict[str, Any]]:
    many, rows = ensemble(recipe, MANY), []
    for share in (4, 8, 16, 32, FULL, 2 * FULL):
        noise = torch.randn(share * MANY, *SHAPE, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(len(noise)) % CLASSES

        def sample(count: int, route: Even | None, noise: torch.Tensor = noise, labels: torch.Tensor = labels) -> Any:
            plan = Plan(many.scheduler, steps, gate("top-1"), route)
            return denoise(batches(plan, Roster.of(count, range(count)), noise, labels), many.evaluate)

        floor, seconds = least_seconds(
            repeat, partial(sample, 1, None), partial(sample, MANY, Even(Router(many.router)))
        )
        rows.append({"images per expert": share, "floor": floor, "seconds": seconds, "ratio": seconds / floor})
    return rows


def least_seconds(repeat: int, *samples: Callable[[], Any]) -> list[float]:
    """Of this thread's processor time, in turn: what else the machine does matters to all alike, and little."""
    least = [math.inf] * len(samples)
    for _ in range(repeat + 1):
        for place, sample in enumerate(samples):
            began = time.thread_time()
            sample()
            least[place] = min(least[place], time.thread_time() - began)
    return least


def show_sparse(recipe: Recipe, steps: int, repeat: int) -> list[dict[str, Any]]:
    rows = sparse_beside_dense(recipe, steps, repeat)
    print(f"\n{'images per expert':<28}{'dense s':>14}{'top-1 of 8':>12}{'ratio':>8}")
    for row in rows:
        print(f"{row['images per expert']:<28}{row['floor']:>14.2f}{row['seconds']:>12.2f}{row['ratio']:>8.2f}")
    print(f"from {FULL} images per expert on at most {SPARSE} wanted")
    return rows


def lean(rows: list[dict[str, Any]]) -> bool:
    return all(row["ratio"] <= SPARSE for row in rows if row["images per expert"] >= FULL)


def one_is_killed(folder: Path, number: int, steps: int) -> dict[str, Any]:
    """The peers of a finished run; that of expert 1 is killed when half of the steps are done."""
    run, wish = RunDirectory.open(folder), Wish(number, steps, "top-1", 2.0, (), 0)
    killed = False

    def kill(batch: int, step: int) -> None:
        nonlocal killed
        if step >= steps // 2 and not killed:
            killed = True
            os.kill(process_of(run, peer_name(1)), signal.SIGKILL)

    start_serving(run, restarts=0)
    try:
        whole = asyncio.run(generate(folder, wish))
        hurt = asyncio.run(generate(folder, wish, kill))
    finally:
        stop(run)
    pairs = zip(whole.images, hurt.images, strict=True)
    rows = {"nobody lost": whole, "one killed": hurt}
    return {
        "images": number,
        "absent": hurt.absent,
        "share of images that differ": sum(one.tobytes() != other.tobytes() for one, other in pairs) / number,
        "Frechet distance": {"floor": floor()} | {name: distance(pixels(made.images)) for name, made in rows.items()},
        "recognised": {name: recognised(pixels(made.images), made.labels or []) for name, made in rows.items()},
    }


def process_of(run: RunDirectory, name: str) -> int:
    """The process that has the node's lock open, as the kernel knows it."""
    lock = (run.nodes / name / LOCK).resolve()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink() == lock:
                return int(link.parts[2])
    raise ProcessLookupError(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished run of diffusion-digits: kill one there")
    parser.add_argument("--num", type=int, default=256, help="images")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=5, help="turns, each in one process and with peers")
    parser.add_argument("--sparse", action="store_true", help="only the best of eight experts beside one dense model")
    parser.add_argument("--far", action="store_true", help="only both plans, by how long an answer takes")
    parser.add_argument("--plain", action="store_true", help="free memory as glibc does where nobody tells it")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not arguments.plain and not KEEP_MEMORY.items() <= os.environ.items():  # read when a process starts
        os.execve(sys.executable, sys.orig_argv, os.environ | KEEP_MEMORY)
    torch.set_num_threads(1)
    recipe = load_recipe("diffusion-digits")
    num, steps, repeat = arguments.num, arguments.steps, arguments.repeat
    print(f"networks of diffusion-digits; {num} images, {steps} steps; busy cores: {busy():.1f}")
    figures, good = dict[str, Any](), True
    if not arguments.far and not arguments.sparse:
        figures["network"] = rows = show_network(recipe, num, steps, repeat)
        good = close(rows)
    if not arguments.sparse:
        figures["far"] = show_far(recipe, num, steps, min(repeat, 3))
    if not arguments.far:
        figures["sparse"] = rows = show_sparse(recipe, steps, 2 * repeat)
        good = lean(rows) and good
    if arguments.run is not None:
        figures["killed"] = killed = one_is_killed(arguments.run, num, steps)
        print("\n" + "\n".join(f"{name:<28}{value}" for name, value in killed.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
