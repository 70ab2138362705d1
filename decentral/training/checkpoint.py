"""A peer's state on disk, one file a round, whole or absent.

    checkpoints/peer-0.safetensors                             the newest model, a plain state dict
    checkpoints/peer-0/round-000012.safetensors                the same bytes (a hard link), for the last rounds
    checkpoints/peer-0/round-000012.optimizer.safetensors      beside it, where the optimiser remembers something

Every file carries the BLAKE3 digest of its own bytes, taken with the digest's place filled with zeros. Torch is
imported when tensors are read or written, so that a launcher looks for the newest round that all peers have without it.
"""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from decentral.errors import RunDirectoryError
from decentral.files import replacing

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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of one round. `warnings` name the newer rounds that were passed over because they are damaged."""

    round: int
    state: dict[str, Tensor]
    metadata: dict[str, str]
    optimizer: dict[str, Tensor]
    warnings: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of the peer `name` under `folder`; the `keep` newest rounds stay."""

    def __init__(self, folder: Path, name: str, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"at least one round must be kept, not {keep}")
        self.newest = folder / f"{name}.safetensors"
        self._rounds = folder / name
        self._keep = keep

    def rounds(self) -> list[int]:
        """The rounds on disk, oldest first, by their names alone: `sound` tells whether one can be loaded."""
        names = [path.name for path in self._rounds.glob("round-*.safetensors")]
        numbers = [name.removeprefix("round-").removesuffix(".safetensors") for name in names]
        return sorted(int(number) for number in numbers if number.isdecimal())

    def sound(self, round: int) -> bool:
        """Whether every file of a round is complete and as it was written. Reads them whole."""
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
                _write(self._optimizer_file(round), optimizer, {ROUND: str(round)})
            _write(self._file(round), state, noted)
            with replacing(self.newest) as temporary:
                _link(self._file(round), temporary)
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

    def _read(self, round: int) -> Checkpoint:
        metadata, kept = self._verify(round)
        optimizer = _tensors(self._optimizer_file(round)) if kept else {}
        return Checkpoint(round, _tensors(self._file(round)), metadata, optimizer)

    def _verify(self, round: int) -> tuple[dict[str, str], bool]:
        """The metadata of a round, and whether an optimiser's state is part of it. Raises RunDirectoryError."""
        metadata = _verified(self._file(round), round)
        kept = metadata.pop(OPTIMIZER, None) == KEPT
        if kept:
            _verified(self._optimizer_file(round), round)
        return metadata, kept

    def _prune(self, newest: int) -> None:
        """Later rounds belong to a past that was given up when a run went back: nobody may take them for this one's."""
        past = [round for round in self.rounds() if round <= newest]
        for round in {*self.rounds()} - {*past[-self._keep :]}:
            self._file(round).unlink()
            self._optimizer_file(round).unlink(missing_ok=True)

    def _file(self, round: int) -> Path:
        return self._rounds / f"round-{round:06d}.safetensors"

    def _optimizer_file(self, round: int) -> Path:
        return self._rounds / f"round-{round:06d}.optimizer.safetensors"


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(ready, temporary, {**metadata, DIGEST: BLANK})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        _order_metadata(temporary)
        with temporary.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            place = _place(content)
            digest = _digest(content, place)
            file.seek(place)
            file.write(digest.encode())


def _order_metadata(path: Path) -> None:
    """safetensors writes metadata in random order; sorted, the same state always gives the same bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(PREFIX), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) > length:
            raise OSError(f"{path}: the header cannot be put in order")
        file.seek(PREFIX)
        file.write(ordered.ljust(length))


def _tensors(path: Path) -> dict[str, Tensor]:
    """Of a verified file. Raises RunDirectoryError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error


def _verified(path: Path, round: int) -> dict[str, str]:
    """The metadata of a file whose digest is right and whose round is this one. Raises RunDirectoryError."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            place = _place(content)
            if content[place : place + len(BLANK)].decode() != _digest(content, place):
                raise RunDirectoryError(f"{path} is damaged: its content is not what was written")
            metadata: dict[str, str] = json.loads(content[PREFIX : PREFIX + _header_length(content)])["__metadata__"]
    except FileNotFoundError:
        raise RunDirectoryError(f"{path} does not exist") from None
    except (OSError, ValueError, KeyError) as error:
        raise RunDirectoryError(f"{path} is damaged or truncated: {error}") from error
    del metadata[DIGEST]
    if metadata.get(ROUND) != str(round):
        raise RunDirectoryError(f"{path} holds another round than its name says")
    return metadata


def _header_length(content: mmap.mmap) -> int:
    """Of the JSON after the first eight bytes. Raises ValueError where the file is shorter."""
    length = int.from_bytes(content[:PREFIX], "little")
    if length > min(LARGEST_HEADER, len(content) - PREFIX):
        raise ValueError(f"a header of {length} bytes in a file of {len(content)}")
    return length


def _place(content: mmap.mmap) -> int:
    """Where the digest stands. Quotes inside names and values are escaped, so the key alone can match."""
    key = f'"{DIGEST}":"'.encode()
    found = content.find(key, PREFIX, PREFIX + _header_length(content))
    if found < 0:
        raise ValueError("it carries no digest")
    return found + len(key)


def _digest(content: mmap.mmap, place: int) -> str:
    digest = blake3()
    with memoryview(content) as view, view[:place] as before, view[place + len(BLANK) :] as after:
        digest.update(before)
        digest.update(BLANK.encode())
        digest.update(after)
    return digest.hexdigest()
