"""A node on a simulated machine, in this process, and a client that challenges it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from decentral.attestation.attester import RUNTIME, Quoted
from decentral.attestation.host.simulation import Simulation, TdxMaker
from decentral.attestation.registers import Event, EventLog

NOW = 1_790_000_000
NONCE = bytes(range(32))
MODEL = hashlib.sha256(b"model").digest()
IMAGE = hashlib.sha384(b"image").digest()
LOG = EventLog((Event.of(RUNTIME, "code", b"files"), Event.of(RUNTIME, "recipe", b"yaml")))
TDX = Simulation(TdxMaker(b"a" * 32, b"p" * 32))
STRANGER = Simulation(TdxMaker(b"b" * 32, b"p" * 32))
"""Of another maker."""


@dataclass
class Machine:
    """An attester that has measured what it is told."""

    simulation: Simulation = TDX
    image: bytes = IMAGE
    measured: EventLog = LOG
    growing: int = 0
    """How often something is measured while a quote is made."""
    now: int = NOW

    async def log(self) -> EventLog:
        return self.measured

    async def quote(self, report_data: bytes) -> Quoted:
        if self.growing:
            self.growing -= 1
            self.measured = self.measured.extended(Event.of(RUNTIME, "code", b"others"))
        quote = self.simulation.quote(report_data, self.image, self.measured)
        technology, collateral = self.simulation.technology, self.simulation.collateral(self.now)
        return Quoted(technology, quote, self.measured, collateral, b"manifest")
