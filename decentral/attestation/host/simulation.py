"""A maker of processors that is played, with one processor, where there is no hardware: all its keys are in one file.

It differs from hardware in its root of trust: quotes, reports and collateral are of the maker's own formats, and are
checked by the same code. Whoever can read the file can forge all of them, and so can the owner of the machine; what it
shows is how a cluster behaves, not that nobody looks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from decentral import canonical
from decentral.attestation.evidence import host_data
from decentral.attestation.registers import EventLog
from decentral.attestation.report import Root, Technology
from decentral.attestation.sealing import SECRET_BYTES as SEALING_BYTES
from decentral.attestation.snp.authority import SnpAuthority
from decentral.attestation.snp.platform import SnpPlatform
from decentral.attestation.tdx.authority import TdxAuthority
from decentral.attestation.tdx.platform import TdxPlatform
from decentral.errors import Malformed, UserError
from decentral.files import write_atomic
from decentral.wire.identity import read_private

FILE = "simulated-processor"
"""In the folder of a cluster's own secrets."""
FORMAT = "decentral simulated processor v1"
SECRET_BYTES = 32
_SEALING = b"decentral/simulation/sealing/v1"
FRESH = 86400
"""Seconds after which collateral is published anew."""
SKEW = 300
"""Seconds by which clocks may differ: what is published is valid since then."""


class TdxMaker:
    """Of Intel TDX: the maker follows from a secret of 32 bytes."""

    technology = Technology.TDX

    def __init__(self, authority: bytes, processor: bytes) -> None:
        self._authority = TdxAuthority(authority)
        self._platform = TdxPlatform.certified(self._authority, processor)
        self.root, self.sealing = self._authority.root, _sealing(processor)

    @staticmethod
    def create(now: int) -> bytes:
        return os.urandom(SECRET_BYTES)

    def quote(self, report_data: bytes, image: bytes, log: EventLog) -> bytes:
        return self._platform.quote(report_data, image, log.replay())

    def published(self, now: int) -> bytes:
        return self._authority.collateral(now - SKEW).encode()


class SnpMaker:
    """Of AMD SEV-SNP: the maker is all that it has saved. The host gives along what the guest is to run."""

    technology = Technology.SNP

    def __init__(self, authority: bytes, processor: bytes) -> None:
        self._authority = SnpAuthority.from_bytes(authority)
        self._platform = SnpPlatform.certified(self._authority, processor, self._authority.starts)
        self.root, self.sealing = self._authority.root, _sealing(processor)

    @staticmethod
    def create(now: int) -> bytes:
        return SnpAuthority.create(now - SKEW).to_bytes()

    def quote(self, report_data: bytes, image: bytes, log: EventLog) -> bytes:
        return self._platform.report(report_data, image, host_data=host_data(log))

    def published(self, now: int) -> bytes:
        return self._platform.collateral(self._authority.revoked(now - SKEW)).encode()


MAKERS: dict[Technology, type[TdxMaker | SnpMaker]] = {Technology.TDX: TdxMaker, Technology.SNP: SnpMaker}


class Simulation:
    """See above; a `quoting.Platform`."""

    def __init__(self, maker: TdxMaker | SnpMaker) -> None:
        self._maker = maker
        self._published: tuple[int, bytes] | None = None

    @classmethod
    def open(cls, folder: Path, technology: Technology, now: int) -> Self:
        """The one that is kept in a folder, made and saved there on first use. Blocking. Raises UserError."""
        file = folder / FILE
        if not file.exists():
            write_atomic(file, _encoded(technology, MAKERS[technology].create(now)), private=True)
        found = cls(_decoded(file, read_private(file)))
        if found.technology is not technology:
            raise UserError(f"{file}: plays {found.technology.value}, not {technology.value}; serve in another folder")
        return found

    @classmethod
    def kept(cls, folder: Path) -> Self:
        """The one of a folder. Raises UserError if there is none."""
        return cls(_decoded(folder / FILE, read_private(folder / FILE)))

    @property
    def technology(self) -> Technology:
        return self._maker.technology

    @property
    def root(self) -> Root:
        return self._maker.root

    @property
    def sealing(self) -> bytes:
        """The processor's secret from which keys for files follow (`sealing.MachineKeys`); no guest sees it."""
        return self._maker.sealing

    def quote(self, report_data: bytes, image: bytes, log: EventLog) -> bytes:
        """About a machine that was started with that image, and runs what the log says."""
        return self._maker.quote(report_data, image, log)

    def collateral(self, now: int) -> bytes:
        """Published once a day."""
        if self._published is None or not 0 <= now - self._published[0] < FRESH:
            self._published = now, self._maker.published(now)
        return self._published[1]


def _sealing(processor: bytes) -> bytes:
    return HKDF(hashes.SHA256(), SEALING_BYTES, None, _SEALING).derive(processor)


def _encoded(technology: Technology, authority: bytes) -> bytes:
    return canonical.encode(
        {
            "format": FORMAT,
            "technology": technology.value,
            "authority": canonical.text(authority),
            "processor": canonical.text(os.urandom(SECRET_BYTES)),
        }
    )


def _decoded(file: Path, data: bytes) -> TdxMaker | SnpMaker:
    try:
        found = canonical.decode(data)
        if found["format"] != FORMAT:
            raise ValueError("it has another format")
        maker = MAKERS[Technology(found["technology"])]
        return maker(canonical.data(found["authority"]), canonical.data(found["processor"], SECRET_BYTES))
    except (Malformed, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is no simulated processor ({error}); restore it, or remove it for another") from error
