"""A cluster whose nodes run on machines of their own: who they are, where they listen, and what each one is handed.

The folder that `settle` makes is a run directory like any other, with the authority's key and those of all nodes:
whoever makes it lets everybody in, once, and the nodes ask nobody for a certificate when they start. In it `apart/NAME`
is the run directory of one node alone, for its machine: no key of anybody else is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from decentral.algorithms.presence import Member
from decentral.errors import Malformed, RecipeError, RunDirectoryError, UserError
from decentral.files import write_atomic
from decentral.launch.cluster import FILE as CLUSTER
from decentral.launch.cluster import Cluster
from decentral.launch.nodes import pin
from decentral.launch.plan import make_plan
from decentral.launch.prepare import prepare
from decentral.launch.serving import parts_of
from decentral.run.directory import (
    ABOUT,
    RECIPE,
    STAGES,
    AnyDirectory,
    RunDirectory,
    ServingDirectory,
    open_cluster,
    refusing,
)
from decentral.run.journal import NODES
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe
from decentral.trust.anchors import FILE as TRUST
from decentral.wire.addresses import joined_address, split_address
from decentral.wire.authority import Authority
from decentral.wire.certificate import AUTHORITIES, TLS, Credentials
from decentral.wire.enrolment import RENEW_BEFORE, grant
from decentral.wire.identity import IDENTITY, Identity
from decentral.wire.limits import MAX_ADDRESS

PLUGINS = "plugins"
"""The folder of the plugins that nodes load, copied, since their machines have no others."""
APART, WORLD = "apart", "hosts"
"""The folder of those for one machine each; the world of a run whose peers have one each."""
PORT, AUTHORITY_PORT = 7000, 6999
"""Where nodes listen unless something else is said, and where the authority does, if one runs beside them."""
OWN = IDENTITY, TLS, AUTHORITIES
"""In a node's folder: what it needs to speak for itself."""
NAMED = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::([0-9]{1,5}))?")


def addresses(hosts: Sequence[str], nodes: Sequence[str], port: int = PORT, option: str = "--hosts") -> tuple[str, ...]:
    """Where each node listens, from one `host` or `host:port` for each: `[v6]:port` too.

    Nodes of one host that say no port get `port` and those after it; `option` is what said them. Raises UserError.
    """
    if len(hosts) != len(nodes):
        last = f"{nodes[0]} to {nodes[-1]}" if len(nodes) > 1 else nodes[0]
        raise UserError(f"{option}: names {len(hosts)}, and there are {len(nodes)} nodes: {last}")
    found: list[str] = []
    for said in hosts:
        match = NAMED.fullmatch(said)
        if match is None or len(said) > MAX_ADDRESS - 6:
            raise UserError(f"{option}: {said!r} is neither a host nor host:port")
        host = match[1].removeprefix("[").removesuffix("]")
        chosen = port + sum(split_address(taken)[0] == host for taken in found) if match[2] is None else int(match[2])
        if not 0 < chosen < 65536:
            raise UserError(f"{option}: {said}: there is no port {chosen}")
        found.append(joined_address(host, chosen))
    if len(set(found)) < len(found):
        raise UserError(f"{option}: {max(found, key=found.count)} would be the address of two nodes")
    return tuple(found)


def names_of(recipe: Recipe | ServingRecipe) -> tuple[str, ...]:
    """The nodes of a recipe, by index."""
    if isinstance(recipe, ServingRecipe):
        return recipe.node_names
    return tuple(peer.name for peer in make_plan(recipe).peers)


def check_apart(recipe: Recipe | ServingRecipe) -> None:
    """Raises RecipeError where nodes need what no machine but one has."""
    if recipe.attestation.shown:
        problem = "nodes on machines of their own are certified before they start, with no evidence of these machines"
        raise RecipeError(problem, key="attestation")
    if isinstance(recipe, ServingRecipe):
        if recipe.proofs is not None:
            raise RecipeError("the circuits' keys are on this machine, and are not handed to others", key="proofs")
        return
    if recipe.training.start_from is not None:
        problem = "its checkpoints are on this machine, and are not handed to others"
        raise RecipeError(problem, key="training.start_from")
    if recipe.vae is not None:
        raise RecipeError("the autoencoder is on this machine, and is not handed to others", key="vae")


def settle(
    recipe: Recipe | ServingRecipe,
    path: Path,
    listening: Sequence[str],
    *,
    apart: bool = False,
    authority: str = "",
    plugins: Sequence[Path] = (),
    say: Callable[[str], None] = lambda words: None,
) -> AnyDirectory:
    """Makes the folder, or goes on with it; certificates that last less than a day are made anew. Blocking.

    `listening`: an address for each node. With `apart` every node's own folder is made too. `authority`: the address
    of one that runs beside the nodes (`decentral authority`), so that they renew their certificates; empty: none does.
    `plugins`: are copied into the folder, and into those of nodes. Raises RecipeError that names the key alone, and
    UserError.
    """
    check_apart(recipe)
    copies = _copies(plugins)
    with opened(recipe, path, say, plugins) as directory, refusing(path):
        for name, data in copies.items():
            (path / PLUGINS).mkdir(exist_ok=True)
            write_atomic(path / name, data)
        issuer = Authority.open(directory.authority)
        named = enumerate(zip(names_of(recipe), listening, strict=True))
        members = tuple(_member(directory, index, *node) for index, node in named)
        announce(directory, issuer, members, authority, tuple(copies))
        for member in members:
            certify(issuer, directory.node(member.name))
        if apart:
            for member in members:
                hand_over(path, directory.node(member.name), path / APART / member.name)
    return directory


def _copies(plugins: Sequence[Path]) -> dict[str, bytes]:
    """The content of plugins by their names in the run directory. Raises UserError."""
    copies: dict[str, bytes] = {}
    for file in plugins:
        if (name := f"{PLUGINS}/{file.name}") in copies:
            raise UserError(f"--plugin {file}: another one has that name too, and they are copied into one folder")
        with refusing(file):
            copies[name] = file.read_bytes()
    return copies


def announce(
    directory: AnyDirectory,
    issuer: Authority,
    members: tuple[Member, ...],
    authority: str,
    plugins: tuple[str, ...] = (),
) -> None:
    """Writes down who takes part, what clients pin of them, and of a cluster that serves the keys of a client here.

    `authority`: see `settle`; `plugins`: in the folder, none: those that it has. Blocking.
    Raises RunDirectoryError where others were told of other addresses.
    """
    _write_down(directory, members, authority, plugins)
    if isinstance(directory, ServingDirectory):
        pin(directory, issuer, members, parts_of(directory))
        Identity.open(directory.client / IDENTITY)
        certify(issuer, directory.client)
    else:
        pin(directory, issuer, members, ())


def opened(
    recipe: Recipe | ServingRecipe,
    path: Path,
    say: Callable[[str], None] = lambda words: None,
    plugins: Sequence[Path] = (),
) -> AnyDirectory:
    """The folder of nodes on machines of their own, made or gone on with, and held. Blocking. Raises UserError."""
    if isinstance(recipe, ServingRecipe):
        return prepare(recipe, path, plugins=plugins, say=say).hold()
    if not (path / ABOUT).exists():
        return RunDirectory.create(path, recipe, WORLD)
    directory = RunDirectory.resume(path, recipe)
    if directory.world != WORLD:
        directory.close()
        raise RunDirectoryError(f"{path}: is a run of this machine alone ({directory.world}); choose another folder")
    return directory


def _member(directory: AnyDirectory, index: int, name: str, address: str) -> Member:
    return Member(index, name, Identity.open(directory.node(name) / IDENTITY).id, address)


def _write_down(directory: AnyDirectory, members: tuple[Member, ...], authority: str, plugins: tuple[str, ...]) -> None:
    """Who takes part. Raises RunDirectoryError where others were told of other addresses."""
    if not (directory.path / CLUSTER).exists():
        return Cluster(members, time.time(), plugins, authority).save(directory.path)
    known = Cluster.load(directory.path)
    for before, now in zip(known.members, members, strict=True):
        if before != now:
            where = f"{now.name} was to listen at {before.address}, not at {now.address}"
            raise RunDirectoryError(f"{directory.path}: was made for other hosts ({where}); choose another folder")
    return replace(known, authority=authority, plugins=plugins or known.plugins).save(directory.path)


def certify(authority: Authority, folder: Path) -> None:
    """Leaves a certificate with the identity of a folder, unless it has one that lasts, or has been revoked.

    Raises UserError.
    """
    if authority.register.admitted.barred(Identity.load(folder / IDENTITY).id):
        return
    if (folder / TLS).exists() and Credentials.load(folder).expires > time.time() + RENEW_BEFORE:
        return
    grant(authority, Identity.load(folder / IDENTITY)).save(folder)


def hand_over(public: Path, keys: Path, path: Path) -> Member:
    """Makes, or brings up to date, the run directory `path` of the one node whose keys lie in `keys`.

    `public`: a folder with what everybody may know. What the node has written stays, and so does a certificate that it
    got later. Raises UserError where the keys are nobody's, or the folder is of something else.
    """
    with refusing(public):
        source, cluster = open_cluster(public), Cluster.load(public)
        identity = Identity.parse((keys / IDENTITY).read_bytes(), keys / IDENTITY)
        credentials = {name: (keys / name).read_bytes() for name in (TLS, AUTHORITIES)}
        member = whose(cluster, identity, keys)
        content = {name: (public / name).read_bytes() for name in needed(source, member.index)}
    with refusing(path):
        if (path / ABOUT).exists() and (differing := type(source).open(path).recipe.differences(source.recipe)):
            raise RunDirectoryError(f"{path}: is of another recipe; these keys differ: {', '.join(differing)}")
        folder = path / NODES / member.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / IDENTITY).exists() and Identity.load(folder / IDENTITY).id != identity.id:
            raise RunDirectoryError(f"{folder}: holds the keys of another {member.name}; choose another folder")
        for name in (*type(source).folders, *(str(Path(name).parent) for name in content)):
            (path / name).mkdir(parents=True, exist_ok=True)
        identity.save(folder / IDENTITY)
        if not _lasts_longer(folder, credentials):
            for name, data in credentials.items():
                write_atomic(folder / name, data, private=True)
        for name, data in content.items():  # recipe and cluster file last: a folder that has them is whole
            write_atomic(path / name, data)
    return member


def whose(cluster: Cluster, identity: Identity, keys: Path) -> Member:
    """The member that an identity is. Raises UserError."""
    for member in cluster.members:
        if member.id == identity.id:
            return member
    raise UserError(f"{keys / IDENTITY}: is the key of nobody in this cluster")


def needed(cluster: AnyDirectory, index: int) -> list[str]:
    """What everybody may know and this node needs, as names in the run directory, what is read first at the end."""
    stages: Iterable[str] = ()
    if isinstance(cluster, ServingDirectory):
        from decentral.serving.stages.model import FILE as NETWORK
        from decentral.serving.stages.model import file_of

        stages = (f"{STAGES}/{NETWORK}", str(file_of(Path(STAGES), cluster.recipe.nodes[index].stage)))
    plugins = (f"{PLUGINS}/{Path(file).name}" for file in Cluster.load(cluster.path).plugins if _is_copy(file))
    return [*stages, *plugins, TRUST, RECIPE, CLUSTER, ABOUT]


def _is_copy(plugin: str) -> bool:
    """Whether a plugin lies in the run directory, and not anywhere on its machine."""
    return Path(plugin).parent == Path(PLUGINS)


def _lasts_longer(folder: Path, credentials: dict[str, bytes]) -> bool:
    """Whether the node has a certificate of the same authority that outlasts the one it is handed."""
    if not (folder / TLS).exists():
        return False
    own = Credentials.load(folder)
    certificate, begin, key = credentials[TLS].partition(b"-----BEGIN PRIVATE KEY-----")
    handed = Credentials(certificate, begin + key, credentials[AUTHORITIES])
    try:
        return own.authority == handed.authority and own.expires > handed.expires
    except Malformed as error:
        raise UserError(f"{folder}: the certificate that it was handed is damaged ({error.detail})") from error
