"""Files that run a recipe's nodes beyond one machine: for container engines, Kubernetes and batch systems.

They are made from the plan that the local launcher goes by, and start the same programs: `decentral prepare` makes the
folder with everybody's keys, `decentral node` becomes a node. Documents are plain dictionaries, written by PyYAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from decentral import locate
from decentral.errors import RecipeError, UserError
from decentral.files import write_atomic
from decentral.launch.apart import AUTHORITY_PORT, PORT, check_apart, names_of
from decentral.registry import nearest
from decentral.run.directory import refusing
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe

TARGETS = {
    "compose": "decentral.launch.compose",
    "kuberay": "decentral.launch.kuberay",
    "kubernetes": "decentral.launch.kubernetes",
    "slurm": "decentral.launch.slurm",
}
"""Modules with a `NAME` of the file that they make, and `rendered(recipe, setting)`, its content."""
IMAGE = "decentral:latest"
USER = 10001
"""Whose the processes are in the image of our Dockerfile."""
HEALTH = ("python", "-P", "-m", "decentral.launch.health", "/runs", "--at", "127.0.0.1")
"""The probe of a node in a container. Built-in gRPC probes show no certificate, and peers answer nobody without one."""
MEMORY = re.compile(r"[1-9][0-9]{0,5}[MG]i")
PLUGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.py")
"""What objects of Kubernetes can name."""
EMBEDDED = "digits"
"""The dataset that needs no files."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where nodes run, as far as a recipe does not say.

    `confidential`: a RuntimeClass of virtual machines; `renew`: an authority runs beside the nodes; `metrics`: the port
    at which each node shows them, None: nowhere; `plugins`: what nodes load, told to containers with all else.
    """

    image: str = IMAGE
    port: int = PORT
    memory: str = "2Gi"
    gpu: bool = False
    confidential: str | None = None
    renew: bool = False
    metrics: int | None = None
    plugins: tuple[Path, ...] = ()


def target_of(name: str) -> Any:
    """The module that renders for a target. Raises UserError."""
    if name not in TARGETS:
        raise UserError(f"--to {name}: {nearest(name, TARGETS)}")
    return import_module(TARGETS[name])


def rendered(recipe: Recipe | ServingRecipe, name: str, setting: Setting) -> str:
    """The content of the file that a target starts from. Raises RecipeError that names the key alone, and UserError."""
    target = target_of(name)
    check_apart(recipe)
    if not MEMORY.fullmatch(setting.memory):
        raise UserError(f"--memory {setting.memory}: must be like 512Mi or 2Gi")
    if setting.confidential is not None and name != "kubernetes":
        raise UserError(f"--confidential names a RuntimeClass of Kubernetes; --to {name} has none")
    if setting.renew and name == "kuberay":
        raise UserError("--renew: the launcher of a run on Ray renews its peers' certificates already")
    if setting.renew and name == "slurm":
        raise UserError(
            "--renew is for nodes that stand for longer than seven days; a job has its certificates for these"
        )
    if setting.metrics is not None and name == "slurm":
        raise UserError("--metrics is for nodes in containers; in a job, --metrics of `decentral node` does the same")
    if setting.metrics in (setting.port, AUTHORITY_PORT):
        raise UserError(f"--metrics {setting.metrics}: is where gRPC is served; choose another")
    if setting.port == AUTHORITY_PORT:
        raise UserError(f"--port {setting.port} is where an authority listens; choose another")
    text: str = target.rendered(on_device(recipe, setting), setting)
    return text


def plugin_texts(setting: Setting) -> dict[str, str]:
    """The content of plugins by their names in one folder. Raises UserError."""
    texts: dict[str, str] = {}
    for file in setting.plugins:
        if file.name in texts or not PLUGIN.fullmatch(file.name):
            raise UserError(f"--plugin {file}: must have a name of letters, digits, -, _ and . that no other one has")
        with refusing(file):
            texts[file.name] = file.read_text(encoding="utf-8")
    return texts


def on_device(recipe: Recipe | ServingRecipe, setting: Setting) -> Recipe | ServingRecipe:
    """With a GPU for each node, the recipe on it: the device is no part of what peers agree on."""
    if not setting.gpu or recipe.device != "cpu":
        return recipe
    return recipe.model_copy(update={"device": "cuda"})


def check_in_image(recipe: Recipe | ServingRecipe) -> None:
    """Raises RecipeError where a container would need files of this machine, or an address outside."""
    data = recipe.data
    if data is not None and data.root is not None:
        raise RecipeError("containers find datasets in the volume at /data; leave it out", key="data.root")
    if data is not None and data.download:
        raise RecipeError("peers in containers reach one another alone; fill the volume before", key="data.download")


def check_trained_there(recipe: Recipe | ServingRecipe) -> None:
    """Raises RecipeError where the model that is served would come from files of this machine."""
    if not isinstance(recipe, ServingRecipe):
        return
    for key, said in (("model.run", recipe.model.run), ("model.file", recipe.model.file)):
        if said is not None:
            raise RecipeError("is of this machine, and in no container; have it trained, by model.recipe", key=key)
    if not (locate.folder("recipes") / f"{recipe.model.recipe}.yaml").is_file():
        raise RecipeError(
            "containers have the recipes that `decentral recipes` lists, and no others", key="model.recipe"
        )


def metrics_arguments(setting: Setting) -> list[str]:
    """Of `decentral node`, in a container: who may ask is for the network around it to say."""
    return [] if setting.metrics is None else ["--metrics", f"0.0.0.0:{setting.metrics}"]


def needs_data(recipe: Recipe | ServingRecipe) -> bool:
    """Whether nodes read a dataset from files."""
    return isinstance(recipe, Recipe) and recipe.data.name != EMBEDDED


def label_of(recipe: Recipe | ServingRecipe) -> str:
    """The recipe's name as DNS has labels, with room for what is added to it."""
    label = re.sub(r"[^a-z0-9]+", "-", recipe.name.lower()).strip("-")[:40].rstrip("-")
    return label if label[:1].isalpha() else f"run-{label}".rstrip("-")


def reached_at(recipe: Recipe | ServingRecipe, host: Callable[[int, str], str]) -> tuple[str, ...]:
    """A host for each node, by its index and name."""
    return tuple(host(index, name) for index, name in enumerate(names_of(recipe)))


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def documents(comment: Sequence[str], *contents: Mapping[str, Any]) -> str:
    """YAML below a comment, in the order of the mappings."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment)
    return f"{head}\n{yaml.dump_all(contents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)}"


def write(folder: Path, files: Mapping[str, tuple[str, bool]], *, force: bool = False) -> list[Path]:
    """Writes files by name, each whole or not at all, `private` ones (the second value) for their owner alone.

    Raises UserError where one is there and `force` is not given; what was written before something failed is gone then.
    """
    check_free(folder, list(files), force=force)
    written: list[Path] = []
    with refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, (text, private) in files.items():
                fresh = not (folder / name).exists()
                write_atomic(folder / name, text.encode(), private=private)
                if fresh:
                    written.append(folder / name)
        except BaseException:
            for file in written:
                file.unlink(missing_ok=True)
            raise
    return [folder / name for name in files]


def check_free(folder: Path, names: Sequence[str], *, force: bool) -> None:
    """Raises UserError where something would be overwritten, or the folder is none."""
    with refusing(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder}: is a file, not a folder")
        there = [name for name in names if (folder / name).exists()]
    if there and not force:
        raise UserError(f"--out {folder}: has {', '.join(there)} already; choose another folder, or add --force")
