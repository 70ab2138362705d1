"""Which code a node runs: a digest of every file of this package and of the programs in nodes/.

A checkout and a wheel of the same code have the same manifest, because the programs are named `nodes/...` wherever they
lie. No file inside the package's folder is left out, whatever its name: Python imports an extension module or a lone
`.pyc` before, or in place of, the source beside it. Two things are left out. Recipes and cluster/ are what an operator
chooses to run, not what runs it. And bytecode in `__pycache__` is made from the source; but Python trusts what it finds
there, so who may write there runs other code unnoticed: launchers leave that open, `PYTHONPYCACHEPREFIX` closes it.

The interpreter and other people's libraries are not measured here: they belong to the image that a quote measures.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from decentral import canonical, locate
from decentral.attestation.report import Flaw, NotGenuine
from decentral.errors import Malformed, UserError
from decentral.files import open_plain

MAX_FILES = 10_000
MAX_NAME = 400
MAX_MANIFEST = 4 * 2**20
"""Bytes of an encoded manifest."""
BYTECODE = "__pycache__"
_NO_CODE = ("_data/recipes/", "_data/cluster/")
_PLAIN = (".json", ".sbatch", ".yaml", ".yml")
_NODES = "_data/nodes/"
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_PIECE = 2**20


@dataclass(frozen=True)
class Manifest:
    """SHA-256 (hexadecimal) of every file, by its name: `decentral/wire/codec.py`, `nodes/stage.py`."""

    files: Mapping[str, str]

    def __post_init__(self) -> None:
        if len(self.files) > MAX_FILES:
            raise NotGenuine(Flaw.MALFORMED, f"a manifest of {len(self.files)} files; {MAX_FILES} are read")
        for name, digest in self.files.items():
            if not _is_name(name) or not isinstance(digest, str) or not _DIGEST.match(digest):
                raise NotGenuine(Flaw.MALFORMED, f"a manifest with the file {str(name)[:MAX_NAME]!r}")

    def encoded(self) -> bytes:
        return canonical.encode({"files": dict(self.files)})

    @property
    def digest(self) -> bytes:
        """SHA-384 of the encoding, 48 bytes: what a register is extended with."""
        return hashlib.sha384(self.encoded()).digest()

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Raises NotGenuine(MALFORMED), also for the same manifest in other words."""
        if len(data) > MAX_MANIFEST:
            raise NotGenuine(Flaw.MALFORMED, f"a manifest of {len(data)} bytes; {MAX_MANIFEST} are read")
        try:
            content = canonical.decode(data)
        except Malformed as error:
            raise NotGenuine(Flaw.MALFORMED, f"a manifest that {error.detail}") from None
        if not isinstance(content, dict) or set(content) != {"files"} or not isinstance(content["files"], dict):
            raise NotGenuine(Flaw.MALFORMED, "a manifest says which files there are and nothing else")
        return cls(content["files"])


@dataclass(frozen=True, slots=True)
class Differences:
    """Names of files in which two manifests differ, in order."""

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.changed or self.missing or self.added)

    def __str__(self) -> str:
        """`changed: a.py, b.py; added: c.py`; empty if there are none."""
        kinds = (("changed", self.changed), ("missing", self.missing), ("added", self.added))
        return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds if names)


def differences(reference: Manifest, found: Manifest) -> Differences:
    """What was found in place of the reference."""
    both = reference.files.keys() & found.files.keys()
    return Differences(
        tuple(sorted(name for name in both if reference.files[name] != found.files[name])),
        tuple(sorted(reference.files.keys() - both)),
        tuple(sorted(found.files.keys() - both)),
    )


def own_manifest() -> Manifest:
    """Of this installation. Raises UserError if a file cannot be measured, or if there are no programs."""
    try:
        nodes = locate.folder("nodes")
    except FileNotFoundError as error:
        raise UserError(f"its code cannot be measured: {error}") from None
    return measured(locate.PACKAGE, nodes)


def measured(package: Path, nodes: Path) -> Manifest:
    """Of a package's folder, and of the folder of programs inside it or beside it.

    Raises UserError for what is no ordinary file in an ordinary folder: a link can lead to other content after it was
    measured, and a pipe never ends. Also for what cannot be read, and for names that are no text.
    """
    inside = package / _NODES
    found = {f"nodes/{name}": path for name, path in _files(nodes)}
    for name, path in _files(package):
        # Only what a wheel carries there by intent: a module that hides among recipes is found.
        if not name.startswith(_NODES) and not (name.startswith(_NO_CODE) and name.endswith(_PLAIN)):
            found[f"decentral/{name}"] = path
    if inside.is_dir() and not inside.samefile(nodes):
        # Two sets of programs: which of them runs is not for a digest to guess.
        raise UserError(f"{package}: carries programs in {inside}, and others are in {nodes}")
    if len(found) > MAX_FILES:
        raise UserError(f"{package}: {len(found)} files are not the code of this package")
    return Manifest({name: _digest(path) for name, path in sorted(found.items())})


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below, by its name from there. Raises UserError."""
    folders = [("", folder)]
    while folders:
        above, here = folders.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            raise UserError(f"{here}: cannot be measured ({error.strerror})") from error
        for entry in entries:
            name, path = above + entry.name, here / entry.name
            if not _is_name(f"decentral/{name}"):
                raise UserError(f"{str(path)!r}: code that is measured has no such name")
            if entry.is_dir(follow_symlinks=False):
                folders.append((f"{name}/", path))
            elif not (here.name == BYTECODE and name.endswith(".pyc")):
                yield name, path


def _digest(path: Path) -> str:
    """SHA-256 of an ordinary file. Raises UserError."""
    digest = hashlib.sha256()
    try:
        with open_plain(path) as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        problem = "is a link, and what it leads to can change" if path.is_symlink() else error.strerror
        raise UserError(f"{path}: cannot be measured ({problem})") from error
    return digest.hexdigest()


def _is_name(name: object) -> bool:
    """A path below some folder, in printable characters and with `/` between its parts."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable() or "\\" in name:
        return False
    return not any(part in {"", ".", ".."} for part in name.split("/"))
