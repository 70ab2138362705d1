"""Whoever makes evidence of the machine that a node runs on: hardware where there is some, a simulation elsewhere.

A node asks for the log of what was measured, ties its keys to it (`binding`) and has that signed. It cannot choose
what was measured. Neither seam nor evidence says whether the machine is simulated: a verifier sees that by the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from decentral.attestation.registers import EventLog
from decentral.attestation.report import Technology
from decentral.errors import DecentralError

RUNTIME = 3
"""The register (RTMR) that is extended with what a node runs; firmware and system have those before it."""


class Unattested(DecentralError):
    """Evidence that could not be made here, and why."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """Signed facts of this machine (`quote`), and what a verifier needs beside them.

    `collateral`: what the maker of the processor says of it, or no bytes where a verifier has to get it elsewhere;
    `manifest`: the files that were measured as the code, or no bytes; the log covers it.
    """

    technology: Technology
    quote: bytes
    log: EventLog
    collateral: bytes
    manifest: bytes


class Attester(Protocol):
    """Raises Unattested."""

    async def log(self) -> EventLog:
        """What has been measured until now."""

    async def quote(self, report_data: bytes) -> Quoted:
        """With these 64 bytes signed along. The log may have grown since."""
