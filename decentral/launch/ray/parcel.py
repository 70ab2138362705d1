"""What a node is handed when it is about to live on a machine: files for a run directory of its own.

As for nodes on machines of their own (`launch.apart`) it has no key but its own. Unlike them it is handed what it left
when it lived elsewhere: its journal, its checkpoints, and its counter of membership records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from decentral.errors import DecentralError
from decentral.files import write_atomic
from decentral.launch.apart import OWN, needed
from decentral.launch.cluster import COUNTER, Cluster
from decentral.launch.ray.mirror import kept
from decentral.run.directory import RECIPE, RunDirectory
from decentral.run.journal import FILE, NODES
from decentral.run.recipe import Recipe

PLUGINS = "plugins"
"""The folder of plugins."""
MARGIN = 1 << 16
"""Membership records that a node may have signed since it was heard of last: one that moves counts on after them."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Content by name in the run directory, what is read first at the end. `journal`: bytes of the journal in it."""

    name: str
    files: Mapping[str, bytes]
    journal: int


def pack(run: RunDirectory, name: str, index: int, plugins: Sequence[Path], *, moved: bool) -> Parcel:
    """Of a node whose keys lie in the launcher's run directory. `moved`: it lived elsewhere before. Blocking."""
    files = kept(run, name)
    journal, counter = f"{NODES}/{name}/{FILE}", f"{NODES}/{name}/{COUNTER}"
    if moved and counter in files:
        files[counter] = str(int(files[counter]) + MARGIN).encode()
    keys = {f"{NODES}/{name}/{key}": (run.node(name) / key).read_bytes() for key in OWN}
    public = {file: (run.path / file).read_bytes() for file in needed(run, index)}
    brought = {f"{PLUGINS}/{plugin.name}": plugin.read_bytes() for plugin in plugins}
    return Parcel(name, {**files, **keys, **brought, **public}, len(files.get(journal, b"")))


def unpack(parcel: Parcel, path: Path, data: Path | None) -> RunDirectory:
    """Makes a run directory of it. `data`: where this machine has the dataset, if not where the recipe says. Blocking.

    Raises DecentralError for a name that leads out of it.
    """
    for name, content in parcel.files.items():
        file = path / name
        if not file.resolve().is_relative_to(path.resolve()):
            raise DecentralError(f"{name!r} is no name of a file in a run directory")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(file, content, private=True)
    for name in RunDirectory.folders:
        (path / name).mkdir(exist_ok=True)
    meet(path, Cluster.load(path))
    run = RunDirectory.open(path)
    if data is not None:
        write_atomic(path / RECIPE, with_root(run.recipe, data).to_yaml().encode())
    return RunDirectory.open(path)


def meet(path: Path, cluster: Cluster) -> None:
    """Writes down who takes part and where they are now, for this machine: plugins are those that were handed over."""
    replace(cluster, plugins=tuple(str(path / PLUGINS / Path(one).name) for one in cluster.plugins)).save(path)


def with_root(recipe: Recipe, root: Path) -> Recipe:
    """The recipe where its dataset lies elsewhere."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(root)})})
