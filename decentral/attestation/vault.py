"""A node's private files, sealed to what runs it: to its signer where it has one, else to its measurement."""

from __future__ import annotations

from pathlib import Path

from decentral.attestation.sealing import (
    MAX_SEALED,
    GivenKeys,
    KeyPolicy,
    NotUnsealed,
    Obstacle,
    Opened,
    sealed,
    unseal,
    whole,
)
from decentral.errors import UserError
from decentral.files import open_plain, write_atomic

SUFFIX = ".sealed"
ADVICE = {
    Obstacle.OTHER_MACHINE: "it opens where it was sealed, and nowhere else",
    Obstacle.OTHER_MEASUREMENT: "decentral attest pin shows what is installed now that was not; go back, or let "
    "one signer sign both before an upgrade (decentral attest sign)",
    Obstacle.OTHER_SIGNER: "go back to what that signer has signed",
    Obstacle.OTHER_POLICY: "it was sealed to a signer, and nobody has signed what is installed here now (decentral "
    "attest sign)",
    Obstacle.OTHER_PURPOSE: "put back the file that belongs there",
    Obstacle.NEWER_VERSION: "an older version does not read what a newer one wrote: install that again",
    Obstacle.DAMAGED: "put back a copy of it",
}


class Closed:
    """The view of who has no keys, a launcher for one: it sees which files there are, and whether they are whole."""

    def place(self, path: Path) -> Path:
        return path.with_name(path.name + SUFFIX)

    def sound(self, path: Path) -> bool:
        """By the digest at the end, which tells damage and no lies."""
        try:
            with open_plain(self.place(path)) as file:
                data = file.read(MAX_SEALED + 1)
        except OSError:
            return False
        return whole(data)

    def read(self, path: Path) -> bytes:
        raise UserError(f"{self.place(path)}: is sealed, and opens for its node alone")

    def write(self, path: Path, data: bytes | bytearray) -> None:
        raise UserError(f"{self.place(path)}: is its node's alone to seal")


class SealedVault(Closed):
    """`whose`: the node's name, so that no file passes for another's."""

    def __init__(self, keys: GivenKeys, whose: str) -> None:
        self._keys, self._whose = keys, whose
        self._policy = KeyPolicy.SIGNER if keys.signed else KeyPolicy.MEASUREMENT

    def read(self, path: Path) -> bytes:
        """What this version can read and an older one can too is sealed anew, so that this holds no longer."""
        try:
            found, policy = self._opened(path)
        except NotUnsealed as refused:
            advice = ADVICE.get(refused.obstacle)
            raise UserError(f"{self.place(path)}: {refused}{f'; {advice}' if advice else ''}") from refused
        if policy is not self._policy or found.version < self._keys.version:
            try:
                self.write(path, found.content)
            except OSError as error:
                raise UserError(f"{self.place(path)}: cannot be sealed anew ({error.strerror or error})") from error
        return found.content

    def _opened(self, path: Path) -> tuple[Opened, KeyPolicy]:
        """Where a signer came later: also what is sealed to the measurement, which nobody else could have written."""
        file, purpose = self.place(path), self._purpose(path)
        try:
            return unseal(file, self._keys, policy=self._policy, purpose=purpose, at_least=0), self._policy
        except NotUnsealed as refused:
            if refused.obstacle is not Obstacle.OTHER_POLICY or self._policy is KeyPolicy.MEASUREMENT:
                raise
        policy = KeyPolicy.MEASUREMENT
        return unseal(file, self._keys, policy=policy, purpose=purpose, at_least=0), policy

    def write(self, path: Path, data: bytes | bytearray) -> None:
        """Raises OSError, also for more than a sealed file holds."""
        try:
            content = sealed(data, self._keys, policy=self._policy, purpose=self._purpose(path), counter=0)
        except ValueError as error:
            raise OSError(f"{self.place(path)}: {error}") from error
        write_atomic(self.place(path), content, private=True)

    def _purpose(self, path: Path) -> str:
        return f"{path.name} of {self._whose}"
