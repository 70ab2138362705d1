"""`decentral leakage`: what each part of a model in stages would learn of its clients' inputs."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decentral.cli.output import (
    JsonOption,
    PluginOption,
    SetOption,
    load_plugins,
    note,
    say,
    say_json,
    say_table,
)
from decentral.errors import UserError

if TYPE_CHECKING:
    from decentral.run.directory import ServingDirectory
    from decentral.trust.leakage import Exposure, Measurement

TargetArgument = Annotated[
    str, typer.Argument(metavar="DIR|RECIPE", help="A folder of `up`, or a recipe that serves a model in stages.")
]
DirOption = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="Where a recipe's model is made ready, to be kept; else it is not."),
]


def leakage(
    target: TargetArgument,
    directory: DirOption = None,
    overrides: SetOption = None,
    plugins: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what each cut of a model in stages gives away of its inputs.

    An attacker who has images of its own is trained to make the inputs again, and to guess their labels. Of a folder
    the result is kept in DIR/leakage.json, by which `up` tells whether its policy is met.
    """
    from decentral.launch.leakage import measure_cluster

    load_plugins(plugins or ())
    if not Path(target).is_dir():
        kept: Any = nullcontext(directory) if directory is not None else tempfile.TemporaryDirectory()
        with kept as folder:
            cluster = prepared(target, Path(folder) / "model" if directory is None else directory, overrides, plugins)
            measured = measure_cluster(cluster)
            file = None if directory is None else measured.save(cluster.path)
            show(measured, cluster, file, as_json)
        return
    if overrides or directory is not None:
        raise UserError(f"{target}: is a folder, whose recipe stays as it is: --set and --dir are for recipes")
    from decentral.run.directory import ServingDirectory

    cluster = ServingDirectory.open(Path(target))
    note("training attackers at every cut")
    measured = measure_cluster(cluster)
    show(measured, cluster, measured.save(cluster.path), as_json)


def prepared(target: str, folder: Path, overrides: list[str] | None, plugins: list[Path] | None) -> ServingDirectory:
    """A recipe's model, made ready in a folder. Raises UserError for a recipe that trains."""
    from decentral.cli.up import training
    from decentral.launch.prepare import prepare
    from decentral.run.recipe import Recipe, read_recipe
    from decentral.run.serving_recipe import any_recipe

    document = read_recipe(target)
    recipe = any_recipe(document, overrides or ())
    if isinstance(recipe, Recipe):
        raise UserError(f"{target}: trains a model, and cuts none: `leakage` is for recipes with stages")
    with document.placing():
        return prepare(recipe, folder, plugins=plugins or (), train=training(hidden=True), say=note, bounded=False)


def show(measured: Measurement, cluster: ServingDirectory, file: Path | None, as_json: bool) -> None:
    """The parts of a client stand in the table too: what they are sent leaves nobody's machine."""
    policy, local = cluster.recipe.default_policy(), cluster.recipe.local
    if as_json:
        at = ["client" if place < local else "peers" for place in range(len(measured.exposures))]
        exposures = [{**asdict(each), "leakage": each.leakage} for each in measured.exposures]
        say_json(
            {
                **asdict(measured),
                "exposures": exposures,
                "at": at,
                "policy": policy.leakage,
                "file": None if file is None else str(file),
            }
        )
        return
    say_table(COLUMNS, [row(each, place < local) for place, each in enumerate(measured.exposures)])
    say(f"a picture of the mean, which needs no tensors: {worth(measured.exposures[0])}")
    noise = f"; the client adds {measured.noise}" if measured.noise else ""
    say(f"{measured.own} images of the attacker, {measured.others} of others{noise}")
    say(f"answers right: {measured.accuracy:.3f}")
    if policy.leakage is not None:
        say(f"the policy allows a leakage of {policy.leakage}")
    if file is not None:
        say(f"written to {file}")


COLUMNS = ("part", "computed by", "leakage", "correlation", "made again", "psnr", "ssim", "labels")


def row(each: Exposure, own: bool) -> tuple[str, ...]:
    told = f"{each.leakage:.3f}", f"{each.correlation:.3f}", f"{each.reconstructed:.3f}"
    numbers = *told, f"{each.psnr:.1f} dB", f"{each.ssim:.3f}", f"{each.labels:.3f}"
    return (each.part, "the client" if own else "peers", *numbers)


def worth(each: Exposure) -> str:
    return f"{each.floor_psnr:.1f} dB, ssim {each.floor_ssim:.3f}"
