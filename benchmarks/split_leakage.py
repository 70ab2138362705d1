"""What the cuts of a network give away, and what it costs to give away less.

    python -m benchmarks.split_leakage [--only cuts noise nopeek] [--json FILE]

    cuts      every cut of a digits MLP and CNN and, with $DECENTRAL_DATA, of a ResNet-20 on CIFAR-10: the distance
              correlation of what crosses with the images; the images that a trained inverter makes of it, beside one
              picture, the mean, for every image; the labels that a probe guesses
    noise     the MLP, with noise within a budget at the client's cut, which is its first or its last
    nopeek    the MLP, split over client and server, trained in one process with NoPeek at several weights

An attacker has images of its own and what crosses for each; all that is counted is of test images. An attacker's
figures are lower bounds: a better one finds more. Writes docs/figures/split-leakage.png. One core, under ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.dimat_curves import saved
from benchmarks.trained import Apprentice, images, learner, pool
from decentral.core.budget import NORMS, Budget
from decentral.files import write_atomic
from decentral.models.catalogue import build_model
from decentral.models.stages import Stage
from decentral.models.stages import split as split_network
from decentral.serving.stages.leakage import measure, passed
from decentral.training.images import normalise
from decentral.training.split import SplitClient, SplitServer, split
from decentral.trust.leakage import Exposure, Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EPSILONS = (2048.0, 512.0, 128.0, 32.0, 8.0)
WEIGHTS = (0.0, 0.3, 1.0, 2.0, 3.0)
ROUNDS = 12
SHOWN = 8
"""Images of each row in the figure."""


@dataclass(frozen=True)
class Study:
    """A trained network, where it is cut, and with how many images and epochs it is attacked."""

    apprentice: Apprentice
    cuts: tuple[str, ...]
    own: int = 1000
    others: int = 300
    epochs: int = 30


DIGITS = Apprentice("mlp", {"hidden": (128, 64, 32)}, "digits", None, epochs=20, batch_size=32, weight_decay=0.0)
MLP = Study(DIGITS, ("2", "4", "6"))
CNN = Study(replace(DIGITS, model="cnn", options={}), ("features.3", "features.7", "classifier.2"))
RESNET = Study(
    Apprentice("resnet20", {"width": 1}, subset=4000, epochs=6),
    ("bn1", "stages.0", "stages.1", "stages.2"),
    own=800,
    others=200,
    epochs=8,
)


@dataclass
class Row:
    """One network as it was attacked; `pictures`: some images, and what was made of them at each part."""

    words: str
    measured: Measurement
    pictures: dict[str, tuple[Tensor, Tensor]]


def stages_of(study: Study) -> list[Stage]:
    """Trained now, unless it was before."""
    network = learner(study.apprentice).model.eval()
    return split_network(network, study.cuts, torch.zeros(2, *images(study.apprentice.dataset).image_shape))


def attacked(words: str, study: Study, stages: Sequence[Stage], **options: Any) -> Row:
    row = Row(words, None, {})  # type: ignore[arg-type]  # measured below

    def see(name: str, real: Tensor, made: Tensor) -> None:
        row.pictures[name] = real[:SHOWN], made[:SHOWN]

    size: dict[str, Any] = {"own": study.own, "others": study.others, "epochs": study.epochs}
    row.measured = measure(stages, images(study.apprentice.dataset), see=see, **size, **options)
    return row


# ---- the three parts ------------------------------------------------------------------------------------------------


def every_cut() -> Iterator[Row]:
    yield attacked("digits MLP", MLP, stages_of(MLP))
    yield attacked("digits CNN", CNN, stages_of(CNN))
    if os.environ.get("DECENTRAL_DATA"):
        yield attacked("CIFAR-10 ResNet-20", RESNET, stages_of(RESNET))


def with_noise() -> Iterator[Row]:
    """The clip is the median norm of the attacker's tensors, so that half of the images are shortened."""
    stages, data = stages_of(MLP), images("digits")
    pixels = torch.from_numpy(data.train_images(np.arange(MLP.own)))
    crossing = {stages[0].inputs[0].name: normalise(pixels, data.mean, data.std)}
    for local, stage in enumerate(stages[:-1], 1):
        crossing = passed(stage, crossing)
        if local not in (1, 3):
            continue
        [sent] = crossing.values()
        where = f"at the client: {local} of 4 stages, {sent[0].numel()} numbers sent"
        only = [f"stage-{local}"]
        yield attacked(f"{where}; no noise", MLP, stages, local=local, only=only)
        for mechanism, norm in NORMS.items():
            clip = float(torch.linalg.vector_norm(sent.flatten(1), norm, dim=1).median())
            for epsilon in EPSILONS:
                budget = Budget(mechanism, epsilon, clip)
                words = f"{where}; {mechanism}, epsilon {epsilon:g}"
                yield attacked(words, MLP, stages, local=local, budget=budget, only=only)


def with_nopeek() -> Iterator[Row]:
    data, share = images("digits"), pool(DIGITS)[0]
    for weight in WEIGHTS:
        ends = []
        for peer in (0, 1):
            torch.manual_seed(0)
            model = build_model("mlp", data.image_shape, data.classes, **DIGITS.options)
            made = split(
                model,
                data,
                share,
                cuts=["2", "6"],
                nopeek=weight,
                peer=peer,
                batch_size=32,
                optimizer="adamw",
                learning_rate=0.003,
                fresh_optimizer=False,
            )
            ends.append(made)
        client, server = ends
        assert isinstance(client, SplitClient)
        assert isinstance(server, SplitServer)
        client.partner = server
        for round in range(1, ROUNDS + 1):
            client.train(round)
        client.model.eval()
        server.model.eval()
        yield attacked(f"NoPeek, weight {weight:g}", MLP, [client.front, server.middle, client.head], only=["stage-1"])


# ---- tables and figure ----------------------------------------------------------------------------------------------

HEAD = f"{'':<12}{'leakage':>9}{'correlation':>12}{'PSNR':>9}{'(mean)':>9}{'SSIM':>8}{'(mean)':>8}{'labels':>9}"


def cells(each: Exposure) -> str:
    return (
        f"{each.leakage:>9.3f}{each.correlation:>12.3f}{each.psnr:>7.1f}dB{each.floor_psnr:>7.1f}dB{each.ssim:>8.3f}{each.floor_ssim:>8.3f}"
        f"{each.labels:>9.3f}"
    )


def sent_of(row: Row) -> Exposure:
    """Of the one part that was attacked, to which the client sends."""
    [sent] = row.measured.exposures
    return sent


def show_cuts(row: Row) -> None:
    print(f"\n{row.words}: right about {row.measured.accuracy:.3f} of {row.measured.others} test images\n{HEAD}")
    for each in row.measured.exposures:
        print(f"{each.part:<12}{cells(each)}", flush=True)


def show_one(row: Row) -> None:
    print(f"{row.words:<74}{row.measured.accuracy:>9.3f}{cells(sent_of(row))}", flush=True)


def draw(found: dict[str, list[Row]], name: str) -> Path:
    """Images above, what is given away against what is answered rightly below."""
    from matplotlib.figure import Figure

    strips = [strip for rows in (found.get("cuts", []),) for row in rows for strip in _of_cuts(row)]
    strips += [_of_one(row) for row in found.get("noise", []) if "1 of 4" in row.words and "laplace" not in row.words]
    strips += [_of_one(row) for row in found.get("nopeek", [])]
    figure = Figure(figsize=(11, 0.52 * len(strips) + 4.4), layout="constrained")
    above, below = cast(Any, figure.subfigures(2, 1, height_ratios=[0.52 * len(strips), 4.2]))
    grid = above.subplots(len(strips), SHOWN + 1, squeeze=False, width_ratios=[4.2, *[1] * SHOWN])
    for axes, (words, pictures) in zip(grid, strips, strict=True):
        for place in axes:
            place.axis("off")
        axes[0].text(1.0, 0.5, words, ha="right", va="center", fontsize=8, transform=axes[0].transAxes)
        for place, picture in zip(axes[1:], pictures, strict=True):
            place.imshow(picture.permute(1, 2, 0).numpy().squeeze(), cmap="gray", vmin=0, vmax=1)
    left, right = below.subplots(1, 2)
    _plot(left, found, lambda each: each.correlation, "distance correlation with the images")
    _plot(right, found, lambda each: each.reconstructed, "share of the images that the inverter makes again")
    left.legend(fontsize=7)
    return saved(figure, name)


def _of_cuts(row: Row) -> Iterator[tuple[str, Tensor]]:
    for number, each in enumerate(row.measured.exposures):
        real, made = row.pictures[each.part]
        if number == 0:
            yield f"{row.words}: images", real
        else:
            yield f"made of what {each.part} is sent: {each.psnr:.1f} dB", made


def _of_one(row: Row) -> tuple[str, Tensor]:
    each = sent_of(row)
    words = row.words.partition("; ")[2] or row.words
    return f"{words}: {each.psnr:.1f} dB, accuracy {row.measured.accuracy:.2f}", row.pictures[each.part][1]


def _plot(axes: Axes, found: dict[str, list[Row]], value: Any, label: str) -> None:
    lines: dict[str, list[Row]] = {"NoPeek, 128 numbers": found.get("nopeek", [])}
    for row in found.get("noise", []):
        where, _, how = row.words.partition("; ")
        numbers = where.partition("stages, ")[2].removesuffix(" sent")
        for mechanism in NORMS if how == "no noise" else [how.partition(",")[0]]:
            lines.setdefault(f"{mechanism} noise, {numbers}", []).append(row)
    for name, rows in lines.items():
        if rows:
            points = [(value(sent_of(row)), row.measured.accuracy) for row in rows]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    axes.axhline(0.1, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel=label, ylabel="answers right", ylim=(0, 1.02))
    axes.grid(alpha=0.3)


PARTS = {"cuts": every_cut, "noise": with_noise, "nopeek": with_nopeek}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*PARTS], default=[*PARTS], help="the parts to measure")
    parser.add_argument("--figure", default="split-leakage", help="its name in docs/figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every number")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began, spent = time.monotonic(), time.process_time()
    found: dict[str, list[Row]] = {}
    for part in arguments.only:
        if part != "cuts":
            print(f"\n{part:<74}{'accuracy':>9}{HEAD[12:]}")
        for row in PARTS[part]():
            found.setdefault(part, []).append(row)
            (show_cuts if part == "cuts" else show_one)(row)
    print(f"\ndrawn: {draw(found, arguments.figure)}")
    print(f"{time.monotonic() - began:.0f} s, {time.process_time() - spent:.0f} s of processor time")
    if arguments.json:
        rows = {part: [{"words": row.words, **asdict(row.measured)} for row in some] for part, some in found.items()}
        write_atomic(arguments.json, json.dumps(rows, indent=1).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
