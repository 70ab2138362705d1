"""`decentral render`: files that run a recipe's nodes beyond one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentral.cli.output import JsonOption, PluginOption, RecipeArgument, SetOption, load_plugins, note, say, say_json

ToOption = Annotated[str, typer.Option("--to", metavar="TARGET", help="compose, kubernetes, kuberay or slurm.")]
OutOption = Annotated[
    str, typer.Option("--out", metavar="DIR|-", help="The folder to write to; -: the standard output.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that are there; keys stay as they are.")]
ImageOption = Annotated[str, typer.Option(help="The container image, made by our Dockerfile.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Where nodes listen.")]
MemoryOption = Annotated[str, typer.Option(help="Of each node's container.")]
GpuOption = Annotated[bool, typer.Option("--gpu", help="One NVIDIA GPU for each node, and the recipe on it.")]
ConfidentialOption = Annotated[
    str | None,
    typer.Option("--confidential", metavar="RUNTIMECLASS", help="Of Kubernetes: each pod a confidential VM."),
]
RenewOption = Annotated[
    bool, typer.Option("--renew", help="Run an authority beside the nodes, which renews their certificates.")
]
MetricsOption = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="The port at which each node shows its metrics, in plain HTTP."),
]


def render(
    recipe: RecipeArgument,
    to: ToOption,
    out: OutOption = "-",
    overrides: SetOption = None,
    plugins: PluginOption = None,
    image: ImageOption = "decentral:latest",
    port: PortOption = 7000,
    memory: MemoryOption = "2Gi",
    gpu: GpuOption = False,
    confidential: ConfidentialOption = None,
    renew: RenewOption = False,
    metrics: MetricsOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write files that run a recipe's nodes on several machines.

    compose: a compose file. slurm: a batch script. kubernetes: objects, and with --out DIR another file with the keys
    of all nodes, which are made in DIR/cluster; a model that is to be trained before it is served is trained there.
    kuberay: a Ray cluster of pods and a job on it, for recipes that train.
    """
    from decentral.launch import kubernetes
    from decentral.launch.render import Setting, check_free, on_device, rendered, target_of, write
    from decentral.run.recipe import read_recipe
    from decentral.run.serving_recipe import any_recipe

    load_plugins(plugins)
    target = target_of(to)
    setting = Setting(image, port, memory, gpu, confidential, renew, metrics, tuple(plugins or ()))
    document = read_recipe(recipe)
    resolved = any_recipe(document, overrides or ())
    with document.placing():
        text = rendered(resolved, to, setting)
    keys = target is kubernetes
    if out == "-":
        say(text.rstrip("\n"))
        if keys:
            note(f"the nodes' keys are not among this: --out DIR makes them, and {kubernetes.IDENTITIES}")
        return
    folder, names = Path(out), [target.NAME, *([kubernetes.IDENTITIES] if keys else [])]
    check_free(folder, names, force=force)
    files = {target.NAME: (text, False)}
    if keys:
        with document.placing():
            private = kubernetes.identities(on_device(resolved, setting), folder / kubernetes.FOLDER, setting)
        files = {kubernetes.IDENTITIES: (private, True), **files}
    written = write(folder, files, force=force)
    if as_json:
        say_json({"target": to, "files": [str(file) for file in written]})
    else:
        for file in written:
            say(str(file))
