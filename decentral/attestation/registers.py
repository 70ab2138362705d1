"""Registers that can only be extended, and the log of what they were extended with, as RTMR 0 to 3 of Intel TDX.

register <- SHA-384(register || digest), from zeros on (Intel TDX Module specification, TDG.MR.RTMR.EXTEND). What is
extended with is the digest of an event's name and content together: a log whose events were renamed leads to other
registers.

Registers say in which order each of them was extended, and nothing about the order between two of them: the digest of
the whole log, which is signed along (`binding`), says that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from decentral import canonical
from decentral.attestation.report import REGISTER_BYTES, Flaw, NotGenuine
from decentral.errors import Malformed

REGISTERS = 4
ZERO = bytes(REGISTER_BYTES)
MAX_EVENTS = 1024
MAX_NAME = 100
MAX_LOG = 2**19
"""Bytes of an encoded log."""
_DOMAIN = b"decentral/event/v1"


def extend(register: bytes, digest: bytes) -> bytes:
    """The register's next value. All three have 48 bytes. Raises ValueError for others."""
    if len(register) != REGISTER_BYTES or len(digest) != REGISTER_BYTES:
        raise ValueError("a register, and what extends it, have 48 bytes each")
    return hashlib.sha384(register + digest).digest()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was measured into a register, by name; `digest`: SHA-384 of its content.

    Raises NotGenuine(EVENTS) for a register that there is not, a name that is no short printable ASCII, or another
    length of digest.
    """

    register: int
    name: str
    digest: bytes

    def __post_init__(self) -> None:
        if type(self.register) is not int or not 0 <= self.register < REGISTERS:
            raise NotGenuine(Flaw.EVENTS, f"an event in register {self.register!r}")
        if not 0 < len(self.name) <= MAX_NAME or not self.name.isascii() or not self.name.isprintable():
            raise NotGenuine(Flaw.EVENTS, f"an event called {self.name[:MAX_NAME]!r}")
        if len(self.digest) != REGISTER_BYTES:
            raise NotGenuine(Flaw.EVENTS, f"the event {self.name!r} with a digest of {len(self.digest)} bytes")

    @classmethod
    def of(cls, register: int, name: str, content: bytes) -> Event:
        return cls(register, name, hashlib.sha384(content).digest())

    @property
    def extension(self) -> bytes:
        """48 bytes that its register is extended with: SHA-384 over name and digest."""
        return hashlib.sha384(canonical.joined(_DOMAIN, self.name.encode(), self.digest)).digest()


@dataclass(frozen=True, slots=True)
class EventLog:
    """What was measured since the machine started, first to last. A value: `extended` gives a longer one.

    Raises NotGenuine(EVENTS) for more than 1024 events.
    """

    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        if len(self.events) > MAX_EVENTS:
            raise NotGenuine(Flaw.EVENTS, f"{len(self.events)} events; {MAX_EVENTS} are read")

    def extended(self, event: Event) -> EventLog:
        return EventLog((*self.events, event))

    def replay(self) -> tuple[bytes, ...]:
        """The four registers, 48 bytes each, that these events lead to from zeros."""
        registers = [ZERO] * REGISTERS
        for event in self.events:
            registers[event.register] = extend(registers[event.register], event.extension)
        return tuple(registers)

    def differing(self, registers: Sequence[bytes]) -> tuple[int, ...]:
        """Which of four registers, as they were signed, this log does not lead to.

        All of them, if there are not four: a technology without registers signs no log.
        """
        replayed = self.replay()
        if len(registers) != REGISTERS:
            return tuple(range(REGISTERS))
        return tuple(place for place in range(REGISTERS) if registers[place] != replayed[place])

    def named(self, name: str, register: int) -> Event | None:
        """The one event of that name in that register; None if there is none, or more than one.

        Whoever runs later can extend the same register again under the same name: that is no answer.
        """
        found = [event for event in self.events if (event.name, event.register) == (name, register)]
        return found[0] if len(found) == 1 else None

    def encoded(self) -> bytes:
        return canonical.encode(
            [[event.register, event.name, canonical.text(event.digest)] for event in self.events],
        )

    @property
    def digest(self) -> bytes:
        """SHA-384 of the encoding, 48 bytes: covers the order of all events."""
        return hashlib.sha384(self.encoded()).digest()

    @classmethod
    def parse(cls, data: bytes) -> EventLog:
        """Raises NotGenuine(EVENTS) unless `data` is what `encoded` writes for a log that could be one."""
        if len(data) > MAX_LOG:
            raise NotGenuine(Flaw.EVENTS, f"a log of {len(data)} bytes; {MAX_LOG} are read")
        try:
            content = canonical.decode(data)
            if not isinstance(content, list) or len(content) > MAX_EVENTS:
                raise NotGenuine(Flaw.EVENTS, f"a log is a list of at most {MAX_EVENTS} events")
            return cls(tuple(_event(item) for item in content))
        except Malformed as error:
            raise NotGenuine(Flaw.EVENTS, f"a log that {error.detail}") from None


def _event(item: object) -> Event:
    match item:
        case [int(register), str(name), str(digest)]:
            return Event(register, name, canonical.data(digest, REGISTER_BYTES))
        case _:
            raise NotGenuine(Flaw.EVENTS, "an event is a register, a name and a digest")
