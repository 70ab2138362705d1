"""A peer's state on disk, one file a round, whole or absent.

    checkpoints/peer-0.safetensors                             the newest model, a plain state dict
    checkpoints/peer-0/round-000012.safetensors                the same bytes (a hard link), for the last rounds
    checkpoints/peer-0/round-000012.optimizer.safetensors      beside it, where the optimiser remembers something

Every file carries the BLAKE3 digest of its own bytes, taken with the digest's place filled with zeros. Torch is
imported when tensors are read or written, so that a launcher looks for the newest round that all peers have without it.

A peer that seals (`vault`) has its rounds in files of another name, and a newest model once it has finished.
"""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from decentral.errors import RunDirectoryError, UserError
from decentral.files import Vault, replacing, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

DIGEST = "blake3"
ROUND = "round"
OPTIMIZER, KEPT = "optimizer_state", "kept"
BLANK = "0" * 64
PREFIX = 8
"""Bytes of a safetensors file before its JSON header, which tell the header's length."""
LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the format."""
SEALED = ".sealed"
"""What a vault adds to the name of a file."""
Content = mmap.mmap | bytearray


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of one round. `warnings` name the newer rounds that were passed over because they are damaged."""

    round: int
    state: dict[str, Tensor]
    metadata: dict[str, str]
    optimizer: dict[str, Tensor]
    warnings: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of the peer `name` under `folder`; the `keep` newest rounds stay. `vault`: keeps them sealed."""

    def __init__(self, folder: Path, name: str, keep: int = 2, vault: Vault | None = None) -> None:
        if keep < 1:
            raise ValueError(f"at least one round must be kept, not {keep}")
        self.newest = folder / f"{name}.safetensors"
        self._rounds = folder / name
        self._keep, self._vault = keep, vault

    def rounds(self) -> list[int]:
        """The rounds on disk, oldest first, by their names alone: `sound` tells whether one can be loaded.

        Raises RunDirectoryError where some are plain and this peer seals, or the other way round: nobody goes on from
        what anybody could have written, and nobody begins anew because he cannot read.
        """
        found: list[int] = []
        for path in sorted(self._rounds.glob("round-*.safetensors*")):
            number, _, rest = path.name.removeprefix("round-").partition(".")
            if not number.isdecimal() or rest.removesuffix(SEALED) != "safetensors":
                continue
            if rest.endswith(SEALED) is not (self._vault is not None):
                how = "sealed, and this peer seals nothing" if self._vault is None else "plain, and this peer seals"
                raise RunDirectoryError(f"{path} is {how}: go on as the run began, or remove it")
            found.append(int(number))
        return sorted(found)

    def sound(self, round: int) -> bool:
        """Whether every file of a round is complete and as it was written. Reads them whole."""
        if self._vault is not None:
            optimizer = self._optimizer_file(round)
            files = [self._file(round), *([optimizer] if self._vault.place(optimizer).exists() else [])]
            return all(map(self._vault.sound, files))
        try:
            self._verify(round)
        except RunDirectoryError:
            return False
        return True

    def save(
        self,
        round: int,
        state: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        optimizer: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Writes a round, makes it the newest, and removes what is no longer kept, rounds after this one included.

        The tensors share no memory with one another. Raises RunDirectoryError where the disk is full or not writable;
        what was there before is untouched then.
        """
        noted = {**metadata, ROUND: str(round), **({OPTIMIZER: KEPT} if optimizer else {})}
        try:
            self._rounds.mkdir(parents=True, exist_ok=True)
            if optimizer:
                _write(self._optimizer_file(round), optimizer, {ROUND: str(round)}, self._vault)
            _write(self._file(round), state, noted, self._vault)
            if self._vault is None:
                self._show(round)
            self._prune(round)
        except OSError as error:
            raise RunDirectoryError(f"checkpoint of round {round} not written to {self._rounds}: {error}") from error

    def load(self, round: int | None = None) -> Checkpoint | None:
        """A round's checkpoint; None: the newest that is sound, or nothing where there is no round at all.

        Raises RunDirectoryError where the round asked for is absent or damaged, or where every round is damaged.
        """
        if round is not None:
            return self._read(round)
        problems: list[str] = []
        for candidate in reversed(self.rounds()):
            try:
                found = self._read(candidate)
            except RunDirectoryError as error:
                problems.append(str(error))
                continue
            return Checkpoint(found.round, found.state, found.metadata, found.optimizer, tuple(problems))
        if problems:
            raise RunDirectoryError("; ".join(problems))
        return None

    def show_newest(self) -> None:
        """Makes the newest round on disk, which somebody else has put there, the newest model. Raises OSError."""
        if rounds := self.rounds():
            self._show(rounds[-1])

    def _show(self, round: int) -> None:
        with replacing(self.newest) as temporary:
            _link(self._file(round), temporary)

    def publish(self) -> None:
        """Leaves the newest model plain where rounds are sealed: it is what a run is for, once it has come to its end.

        Elsewhere it is plain already. Raises UserError where it cannot be read, RunDirectoryError where not written.
        """
        if self._vault is None or not (rounds := self.rounds()):
            return
        try:
            write_atomic(self.newest, self._vault.read(self._file(rounds[-1])))
        except OSError as error:
            raise RunDirectoryError(f"{self.newest} not written: {error}") from error

    def trained(self) -> Checkpoint | None:
        """The newest model, for others than this peer; None where there is none.

        Raises RunDirectoryError for damaged ones, and for a peer that seals and has not come to its end.
        """
        if not any(self._rounds.glob(f"round-*{SEALED}")):
            return self.load()
        if not self.newest.exists():
            raise RunDirectoryError(f"{self._rounds}: is sealed, and this peer leaves a model when it has finished")
        metadata = _verified(self.newest, None)
        metadata.pop(OPTIMIZER, None)
        return Checkpoint(int(metadata[ROUND]), _tensors(self.newest), metadata, {})

    def _read(self, round: int) -> Checkpoint:
        metadata, kept = self._verify(round)
        optimizer = _tensors(self._optimizer_file(round), self._vault) if kept else {}
        return Checkpoint(round, _tensors(self._file(round), self._vault), metadata, optimizer)

    def _verify(self, round: int) -> tuple[dict[str, str], bool]:
        """The metadata of a round, and whether an optimiser's state is part of it. Raises RunDirectoryError."""
        metadata = _verified(self._file(round), round, self._vault)
        kept = metadata.pop(OPTIMIZER, None) == KEPT
        if kept:
            _verified(self._optimizer_file(round), round, self._vault)
        return metadata, kept

    def _prune(self, newest: int) -> None:
        """Later rounds belong to a past that was given up when a run went back: nobody may take them for this one's."""
        past = [round for round in self.rounds() if round <= newest]
        for round in {*self.rounds()} - {*past[-self._keep :]}:
            self._place(self._file(round)).unlink()
            self._place(self._optimizer_file(round)).unlink(missing_ok=True)

    def _place(self, path: Path) -> Path:
        return path if self._vault is None else self._vault.place(path)

    def _file(self, round: int) -> Path:
        return self._rounds / f"round-{round:06d}.safetensors"

    def _optimizer_file(self, round: int) -> Path:
        return self._rounds / f"round-{round:06d}.optimizer.safetensors"


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], vault: Vault | None) -> None:
    """Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save, save_file

    ready = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    noted = {**metadata, DIGEST: BLANK}
    try:
        if vault is not None:  # through memory: nothing plain is to reach the disk
            content = bytearray(save(ready, noted))
            _complete(content, path)
            vault.write(path, content)
            return
        with replacing(path) as temporary:
            save_file(ready, temporary, noted)
            with temporary.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
                _complete(mapped, temporary)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _complete(content: Content, path: Path) -> None:
    """Orders what safetensors writes at random, so that the same state always gives the same bytes; digests it."""
    end = PREFIX + _header_length(content)
    header = json.loads(content[PREFIX:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    if len(ordered) > end - PREFIX:
        raise OSError(f"{path}: the header cannot be put in order")
    content[PREFIX:end] = ordered.ljust(end - PREFIX)
    place = _place(content)
    content[place : place + len(BLANK)] = _digest(content, place).encode()


def _tensors(path: Path, vault: Vault | None = None) -> dict[str, Tensor]:
    """Of a verified file. Raises RunDirectoryError."""
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        return load_file(path) if vault is None else load(vault.read(path))
    except (SafetensorError, OSError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error


def _verified(path: Path, round: int | None, vault: Vault | None = None) -> dict[str, str]:
    """The metadata of a file whose digest is right and whose round is this one. Raises RunDirectoryError."""
    try:
        with _opened(path, vault) as content:
            place = _place(content)
            if content[place : place + len(BLANK)].decode() != _digest(content, place):
                raise RunDirectoryError(f"{path} is damaged: its content is not what was written")
            metadata: dict[str, str] = json.loads(content[PREFIX : PREFIX + _header_length(content)])["__metadata__"]
    except FileNotFoundError:
        raise RunDirectoryError(f"{path} does not exist") from None
    except (OSError, ValueError, KeyError) as error:
        raise RunDirectoryError(f"{path} is damaged or truncated: {error}") from error
    del metadata[DIGEST]
    if round is not None and metadata.get(ROUND) != str(round):
        raise RunDirectoryError(f"{path} holds another round than its name says")
    return metadata


@contextmanager
def _opened(path: Path, vault: Vault | None) -> Iterator[Content]:
    """Raises OSError, ValueError, and RunDirectoryError for what a vault does not open."""
    if vault is None:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content
        return
    try:
        read = bytearray(vault.read(path))
    except UserError as error:
        raise RunDirectoryError(str(error)) from error
    yield read


def _header_length(content: Content) -> int:
    """Of the JSON after the first eight bytes. Raises ValueError where the file is shorter."""
    length = int.from_bytes(content[:PREFIX], "little")
    if length > min(LARGEST_HEADER, len(content) - PREFIX):
        raise ValueError(f"a header of {length} bytes in a file of {len(content)}")
    return length


def _place(content: Content) -> int:
    """Where the digest stands. Quotes inside names and values are escaped, so the key alone can match."""
    key = f'"{DIGEST}":"'.encode()
    found = content.find(key, PREFIX, PREFIX + _header_length(content))
    if found < 0:
        raise ValueError("it carries no digest")
    return found + len(key)


def _digest(content: Content, place: int) -> str:
    digest = blake3()
    with memoryview(content) as view, view[:place] as before, view[place + len(BLANK) :] as after:
        digest.update(before)
        digest.update(BLANK.encode())
        digest.update(after)
    return digest.hexdigest()
