"""What an authority keeps in its folder beside its tokens: its key, its newest notice, and whom it gave a certificate.

    authority.pem    the certificate and key that speak for it: in TLS, and under notices
    next.pem         while another one takes over: its certificate and key
    notice.pb        the newest notice, signed
    issued.jsonl     a line for each certificate

Several processes may use one folder: the one that grants certificates, and a command that rules.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509

from decentral import lock
from decentral.errors import Malformed, UserError
from decentral.files import write_atomic
from decentral.wire.certificate import CLOCK_SKEW
from decentral.wire.issuing import VALIDITY, Issuer
from decentral.wire.messages import PeerId
from decentral.wire.notice import FILE, MOST_RULINGS, Admitted, Notice, Ruling, read_notice, shown

VOICE, NEXT, ISSUED, LOCK = "authority.pem", "next.pem", "issued.jsonl", ".ruling"
WAITING = 10.0
"""Seconds for another process that rules at the same time."""
MOST_ISSUED = 1 << 20
"""Bytes of the list of certificates, above which what is past is dropped."""


ATTEMPTS, PAUSE = 3, 0.01
"""To read several files that belong together, and seconds between."""


@dataclass(frozen=True, slots=True)
class Issued:
    """The newest certificate of a peer: its serial number, when it was made and ends (Unix seconds), and by whom."""

    peer: PeerId
    serial: str
    issued: int
    expires: int
    by: str


class Register:
    """Of one folder. Everything blocks, and not for long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # ---- keys -----------------------------------------------------------------------------------------------------

    @property
    def issuers(self) -> tuple[Issuer, ...]:
        """Who counts: the one that issues first. Raises UserError."""
        known, notice = self._state()
        by_der = {issuer.der: issuer for issuer in known}
        if notice is None:
            return (known[0],)
        return tuple(by_der[der] for der in notice.authorities if der in by_der)

    def _state(self) -> tuple[list[Issuer], Notice | None]:
        """The keys and the newest notice, which somebody may be about to replace: then they are read again."""
        for attempt in range(ATTEMPTS):
            try:
                known = [Issuer.load(self.folder / name) for name in (VOICE, NEXT) if (self.folder / name).exists()]
                if not known:
                    raise UserError(f"{self.folder / VOICE}: is not there")
                return known, self._read(known)
            except UserError:
                if attempt == ATTEMPTS - 1:
                    raise
            time.sleep(PAUSE)
        raise AssertionError("the last attempt raises")

    @property
    def voice(self) -> Issuer:
        """Who speaks for the authority: the one that was there before, until it counts no more. Raises UserError."""
        own = Issuer.load(self.folder / VOICE)
        return next((issuer for issuer in self.issuers if issuer.der == own.der), self.issuers[0])

    # ---- notices --------------------------------------------------------------------------------------------------

    @property
    def notice(self) -> Notice | None:
        """The newest; None: there was none. Raises UserError if it is damaged."""
        return self._state()[1]

    @property
    def signed(self) -> bytes:
        """The newest, as it is handed out; empty if there was none."""
        file = self.folder / FILE
        return file.read_bytes() if file.exists() else b""

    @property
    def admitted(self) -> Admitted:
        """Who counts now."""
        return Admitted(self.notice)

    def _read(self, known: Collection[Issuer]) -> Notice | None:
        if not (data := self.signed):
            return None
        try:
            return read_notice(data, b"".join(issuer.pem for issuer in known))
        except Malformed as error:
            raise UserError(f"{self.folder / FILE}: is damaged ({error.detail}); restore it from a copy") from error

    def _publish(self, change: Callable[[Notice], Notice], by: Issuer | None = None) -> Notice:
        before, now = self.notice, int(time.time())
        if before is None:
            before = Notice(0, now, tuple(issuer.der for issuer in self.issuers))
        made = change(before)
        made = replace(made, sequence=before.sequence + 1, time=now, rulings=_worth_keeping(made.rulings, now))
        if len(made.rulings) > MOST_RULINGS:
            raise UserError(f"{self.folder}: rules on {MOST_RULINGS} peers already, and on no more")
        write_atomic(self.folder / FILE, made.signed((by or self.voice).key), private=True)
        return made

    @contextmanager
    def _ruling(self) -> Iterator[None]:
        """One at a time. Raises UserError where others do not end."""
        try:
            held = lock.taken_here(self.folder / LOCK, WAITING)
        except TimeoutError as error:
            raise UserError(f"{self.folder}: another command rules here and does not end ({error})") from error
        try:
            if (self.folder / NEXT).exists() and len(self.issuers) == 1 and self.voice.der == self._successor().der:
                (self.folder / NEXT).replace(self.folder / VOICE)  # whoever dropped the predecessor was interrupted
            yield
        finally:
            os.close(held)

    def rule(self, peers: Collection[PeerId], change: Callable[[Ruling], Ruling]) -> Notice:
        """Another notice, in which what holds for these peers is changed. Raises UserError."""

        def changed(notice: Notice) -> Notice:
            known = {ruling.peer: ruling for ruling in notice.rulings}
            for peer in peers:
                known[peer] = change(known.get(peer, Ruling(peer)))
            return replace(notice, rulings=tuple(known[peer] for peer in sorted(known)))

        with self._ruling():
            return self._publish(changed)

    def revoke(self, peer: PeerId, since: int, reason: str = "") -> Notice:
        """Nothing that this identity says from then on (Unix seconds) counts; of two times the earlier holds."""

        def revoked(ruling: Ruling) -> Ruling:
            first = min(ruling.revoked, since) if ruling.revoked else since
            return replace(ruling, revoked=max(first, 1), reason=shown(reason) or ruling.reason)

        return self.rule([peer], revoked)

    def renew(self, peers: Collection[PeerId], before: int) -> Notice:
        """They are to replace certificates made before then."""
        return self.rule(peers, lambda ruling: replace(ruling, renew=max(ruling.renew, before)))

    def refuse(self, peers: Collection[PeerId], before: int) -> Notice:
        """Their certificates made before then count no more."""
        return self.rule(peers, lambda ruling: replace(ruling, refuse=max(ruling.refuse, before)))

    # ---- another authority ----------------------------------------------------------------------------------------

    def name_successor(self) -> Notice:
        """A new key, which counts beside the present one, and issues nothing yet. Raises UserError if there is one."""
        with self._ruling():
            if (self.folder / NEXT).exists():
                raise UserError(f"{self.folder}: another authority is about to take over already")
            before, successor = self.voice, Issuer.new()
            successor.save(self.folder / NEXT)
            return self._publish(lambda notice: replace(notice, authorities=(before.der, successor.der)))

    def take_over(self, now: int) -> Notice:
        """The successor issues from now on, and everybody is to replace what was made before then (Unix seconds)."""
        with self._ruling():
            before, successor = self.voice, self._successor()
            authorities = (successor.der, before.der)
            return self._publish(lambda notice: replace(notice, authorities=authorities, renew=max(notice.renew, now)))

    def drop_predecessor(self) -> Notice:
        """The successor alone counts: nothing else is accepted any more, and its key is gone."""
        with self._ruling():
            successor = self._successor()

            def alone(notice: Notice) -> Notice:
                return replace(notice, authorities=(successor.der,), refuse=max(notice.refuse, notice.renew))

            notice = self._publish(alone, successor)
            (self.folder / NEXT).replace(self.folder / VOICE)
            return notice

    def _successor(self) -> Issuer:
        if not (self.folder / NEXT).exists():
            raise UserError(f"{self.folder}: no other authority is about to take over")
        return Issuer.load(self.folder / NEXT)

    @property
    def successor(self) -> str:
        """How far it is: "", "named" or "issues"."""
        if not (self.folder / NEXT).exists():
            return ""
        return "issues" if self.issuers[0].der == Issuer.load(self.folder / NEXT).der else "named"

    # ---- certificates ---------------------------------------------------------------------------------------------

    def note(self, peer: PeerId, certificate: bytes, by: Issuer) -> None:
        """Writes down that a peer was given this certificate (DER)."""
        made = x509.load_der_x509_certificate(certificate)
        starts, ends = made.not_valid_before_utc + CLOCK_SKEW, made.not_valid_after_utc
        line = [peer, f"{made.serial_number:x}", int(starts.timestamp()), int(ends.timestamp()), short(by.der)]
        file = self.folder / ISSUED
        with self._ruling():
            if file.exists() and file.stat().st_size > MOST_ISSUED:
                kept = [each for each in self.issued().values() if each.expires > time.time()]
                lines = [[each.peer, each.serial, each.issued, each.expires, each.by] for each in kept]
                write_atomic(file, "".join(json.dumps(each) + "\n" for each in lines).encode(), private=True)
            with file.open("a") as opened:
                opened.write(json.dumps(line) + "\n")

    def issued(self) -> dict[PeerId, Issued]:
        """The newest certificate of each peer. Raises UserError if the list is damaged."""
        file = self.folder / ISSUED
        if not file.exists():
            return {}
        found = {}
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                peer, serial, issued, expires, by = json.loads(line)
                found[PeerId(peer)] = Issued(PeerId(peer), str(serial), int(issued), int(expires), str(by))
            except (ValueError, TypeError) as error:
                raise UserError(f"{file}:{number}: is damaged; restore it from a copy, or remove the line") from error
        return found


def short(der: bytes) -> str:
    """Of a certificate: the first 16 digits of its SHA-256."""
    return hashlib.sha256(der).hexdigest()[:16]


def _worth_keeping(rulings: Collection[Ruling], now: int) -> tuple[Ruling, ...]:
    """Those about certificates that have long expired say nothing any more."""
    oldest = now - VALIDITY.total_seconds() - CLOCK_SKEW.total_seconds()
    return tuple(each for each in rulings if each.revoked or max(each.renew, each.refuse) > oldest)
