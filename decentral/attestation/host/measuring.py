"""What is measured of a node: the image that runs it, its code, and what it was told to run.

    image   the interpreter, and the distributions that are installed for it, as they record themselves
    code    every file of the package and of nodes/ (`manifest`)
    recipe, policy, model   files of the cluster's folder

Files that have not changed since they were read, as the file system tells (inode, size, times), are not read again.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from decentral import canonical
from decentral.attestation.attester import RUNTIME
from decentral.attestation.host.processes import Running
from decentral.attestation.manifest import BYTECODE, Manifest, measured
from decentral.attestation.registers import Event
from decentral.errors import UserError
from decentral.files import open_plain

CODE, RECIPE, POLICY, MODEL = "code", "recipe", "policy", "model"
FILES = {RECIPE: "recipe.yaml", POLICY: "policy.toml", MODEL: "stages"}
"""Of a cluster's folder; what is not there is not measured."""
PIECE = 1 << 20
_IMAGE, _FOLDER = b"decentral/image/v1", b"decentral/folder/v1"
Seen = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """`image`: 48 bytes; `events`: of the code and of what it runs, in this order; `manifest`: the code's files."""

    image: bytes
    events: tuple[Event, ...]
    manifest: Manifest


@dataclass
class Measurer:
    """Measures processes that run for one cluster; `folder`: the cluster's."""

    folder: Path
    _images: dict[Path, tuple[Seen, bytes]] = field(default_factory=dict)
    _codes: dict[tuple[Path, Path], tuple[Seen, Manifest]] = field(default_factory=dict)
    _files: dict[str, tuple[Seen, Event | None]] = field(default_factory=dict)

    def measure(self, process: Running) -> Measurement:
        """Blocking. Raises UserError for what cannot be measured."""
        manifest = self._code(process.package, process.nodes)
        events = [Event(RUNTIME, CODE, manifest.digest)]
        events += [event for name in FILES if (event := self._given(name)) is not None]
        return Measurement(self._image(process.interpreter), tuple(events), manifest)

    def _code(self, package: Path, nodes: Path) -> Manifest:
        seen = tuple(look([package, nodes]))
        before = self._codes.get((package, nodes))
        if before is None or before[0] != seen:
            self._codes[package, nodes] = before = seen, measured(package, nodes)
        return before[1]

    def _given(self, name: str) -> Event | None:
        path = self.folder / FILES[name]
        seen = tuple(look([path]))
        before = self._files.get(name)
        if before is None or before[0] != seen:
            self._files[name] = before = seen, content_event(name, path) if path.exists() else None
        return before[1]

    def _image(self, interpreter: Path) -> bytes:
        seen = (*look([interpreter]), *_installed())
        before = self._images.get(interpreter)
        if before is None or before[0] != seen:
            self._images[interpreter] = before = seen, image(interpreter)
        return before[1]


def image(interpreter: Path) -> bytes:
    """48 bytes: of an interpreter's file and of all distributions of this environment, by what they record. Blocking.

    A distribution's record has the digest of each of its files; that the files are still those is not looked at here.
    """
    recorded = {
        f"{each.metadata['Name']} {each.version}": hashlib.sha256((each.read_text("RECORD") or "").encode()).hexdigest()
        for each in metadata.distributions(path=_places())
        if each.metadata["Name"] != "decentral"  # whose files are the code
    }
    fields = [name + " " + digest for name, digest in sorted(recorded.items())]
    return hashlib.sha384(canonical.joined(_IMAGE, _digest(interpreter), *(text.encode() for text in fields))).digest()


def content_event(name: str, path: Path) -> Event:
    """Of a file, or of all the files of a folder. Blocking. Raises UserError."""
    if path.is_file():
        return Event(RUNTIME, name, _digest(path, "sha384"))
    files = sorted(each for each in path.rglob("*") if each.is_symlink() or not each.is_dir())
    fields = [part for each in files for part in (str(each.relative_to(path)).encode(), _digest(each))]
    return Event.of(RUNTIME, name, canonical.joined(_FOLDER, *fields))


def _places() -> list[str]:
    """Where distributions are installed. What one has put below its own files, as Ray does, is in its own record."""
    inside = ("site-packages", "dist-packages")
    return [folder for folder in sys.path if not any(above.name in inside for above in Path(folder).parents)]


def _installed() -> Iterator[tuple[str, int, int, int, int]]:
    """What the file system says of where distributions are installed, and of their records."""
    for folder in _places():
        try:
            names = sorted(name for name in os.listdir(folder or ".") if name.endswith(".dist-info"))  # noqa: PTH208
        except OSError:  # what is no folder, a zip file for one
            names = []
        for path in (folder, *(f"{folder}/{name}/RECORD" for name in names)):
            with suppress(OSError):
                yield path, *_said(os.stat(path))  # noqa: PTH116  at every quote, and paths cost more than the looks


def look(paths: Sequence[Path]) -> Iterator[tuple[str, int, int, int, int]]:
    """What the file system says of files and of all below folders: nothing, where there is nothing."""
    for path in paths:
        try:
            yield str(path), *_said(path.stat())
        except OSError:
            continue
        if path.is_dir():
            yield from _below(str(path))


def _below(folder: str) -> Iterator[tuple[str, int, int, int, int]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if folder.endswith(f"/{BYTECODE}") and entry.name.endswith(".pyc"):
                continue  # not measured either
            yield entry.path, *_said(entry.stat(follow_symlinks=False))
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path)


def _said(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: Path, algorithm: str = "sha256") -> bytes:
    """Of an ordinary file. Raises UserError."""
    try:
        with open_plain(path) as file:
            digest = hashlib.new(algorithm)
            while piece := file.read(PIECE):
                digest.update(piece)
            return digest.digest()
    except OSError as error:
        raise UserError(f"{path}: cannot be measured ({error.strerror or error})") from error
