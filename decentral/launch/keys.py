"""Keys of a cluster, changed out of turn while it stands: new ones for who runs, none any more for who is revoked.

Whoever has the cluster's folder has its authority, and rules; what is ruled lies in the folder for everybody
(`notice.pb`), is announced by the authority, and stands in `trust.toml` for clients. Nodes keep to it by themselves
(`launch.watching`), which takes seconds where they share the folder and up to two minutes where they ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from decentral.attestation.vault import Closed
from decentral.errors import UserError
from decentral.files import write_atomic
from decentral.launch.cluster import FILE as CLUSTER
from decentral.launch.cluster import Cluster, is_running
from decentral.launch.nodes import revoked_by
from decentral.launch.watching import ASK
from decentral.run.directory import AnyDirectory
from decentral.run.journal import NODES
from decentral.trust.anchors import FILE as TRUST
from decentral.trust.anchors import Anchors
from decentral.wire.authority import Authority
from decentral.wire.certificate import AUTHORITIES, TLS, Credentials
from decentral.wire.enrolment import INVITATION, grant
from decentral.wire.identity import IDENTITY, PEER_ID, Identity
from decentral.wire.messages import PeerId
from decentral.wire.notice import FILE, Notice
from decentral.wire.register import VOICE, Issued, short

HERE, AWAY = 60.0, 2 * ASK + 30.0
"""Seconds for which nodes are awaited that share the folder, and those that ask the authority."""
SETTLING, SETTLING_AWAY = 2.0, 40.0
"""Seconds between the last new certificate and the end of the old ones: its node has it in service by then, where one
sees that it has it, and elsewhere has asked again if the answer was lost."""
PAUSE = 0.1
"""Seconds between looks."""
CLIENT = "client"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has an identity in a cluster: a node by its name, or the cluster's client."""

    name: str
    id: PeerId
    folder: Path
    runs: bool
    """Here, and now."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is known of one: its newest certificate (None: nobody knows), and what was ruled."""

    holder: Holder
    issued: Issued | None
    state: str
    """ "ok", "to renew", "replaced", "expired", "revoked", "unknown"."""
    since: int = 0
    """When it was revoked."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rotated:
    """Who has a new certificate, who will get one when it starts, and who should have one and has not."""

    renewed: tuple[str, ...]
    at_start: tuple[str, ...]
    missing: tuple[str, ...]


class Keys:
    """Those of one cluster."""

    def __init__(self, directory: AnyDirectory) -> None:
        self._directory = directory

    @property
    def authority(self) -> Authority:
        """Raises UserError where it is not in this folder."""
        folder = self._directory.authority
        if not (folder / VOICE).exists():
            problem = "its authority is not here: ask on the machine that made this cluster, or that runs the authority"
            raise UserError(f"{self._directory.path}: {problem}")
        return Authority.load(folder)

    # ---- who there is ---------------------------------------------------------------------------------------------

    def holders(self) -> list[Holder]:
        """The nodes by index, and this folder's client if it has keys already."""
        path = self._directory.path
        members = Cluster.load(path).members if (path / CLUSTER).exists() else ()
        folders = [(member, self._directory.nodes / member.name) for member in members]
        found = [Holder(member.name, member.id, folder, is_running(folder)) for member, folder in folders]
        if (path / CLIENT / IDENTITY).exists():
            found.append(Holder(CLIENT, Identity.load(path / CLIENT / IDENTITY).id, path / CLIENT, False))
        return found

    def named(self, names: Sequence[str]) -> list[Holder]:
        """Those; all if none is named. Raises UserError for a name that nobody has."""
        holders = self.holders()
        by_name = {holder.name: holder for holder in holders}
        for name in names:
            if name not in by_name:
                raise UserError(f"{name}: there is no such node; there are {', '.join(by_name) or 'none'}")
        return [by_name[name] for name in dict.fromkeys(names)] if names else holders

    def identity(self, name: str) -> PeerId:
        """Of a node by its name, or of anybody by the id itself. Raises UserError."""
        return PeerId(name) if PEER_ID.match(name) else self.named([name])[0].id

    def show(self) -> list[Shown]:
        """Everybody, and whoever else was revoked."""
        path = self._directory.path
        notice, issued = None, dict[PeerId, Issued]()
        if (self._directory.authority / VOICE).exists():
            notice, issued = self.authority.register.notice, self.authority.register.issued()
        trust = Anchors.load(path / TRUST) if (path / TRUST).exists() else None
        gone = {each.id: each for each in (trust.revoked if trust is not None else ())}
        shown = []
        for holder in self.holders():
            certificate = issued.pop(holder.id, None) or _kept(holder)
            since = gone[holder.id].since if holder.id in gone else 0
            reason = gone[holder.id].reason if holder.id in gone else ""
            shown.append(Shown(holder, certificate, _state(certificate, notice, holder.id, since), since, reason))
        known = {each.holder.id for each in shown}
        for each in gone.values():
            if each.id not in known:
                nobody = Holder("", each.id, path, runs=False)
                shown.append(Shown(nobody, issued.get(each.id), "revoked", each.since, each.reason))
        return shown

    # ---- what is ruled --------------------------------------------------------------------------------------------

    def publish(self) -> Notice | None:
        """Lays the newest notice where nodes and clients find it. Raises UserError."""
        register, path = self.authority.register, self._directory.path
        if (notice := register.notice) is None:
            return None
        write_atomic(path / FILE, register.signed)
        if (path / TRUST).exists():
            anchors = Anchors.load(path / TRUST)
            replace(anchors, authority=self.authority.pem, revoked=revoked_by(notice)).save(path / TRUST)
        return notice

    def revoke(self, peer: PeerId, reason: str = "", since: int | None = None) -> Notice:
        """Nothing that this identity says counts any more; `since`: from when on (Unix seconds), None: from now on."""
        notice = self.authority.register.revoke(peer, int(time.time()) if since is None else since, reason)
        self.publish()
        return notice

    def rotate(self, names: Sequence[str], say: Say) -> Rotated:
        """New TLS keys for these, or for all, after which the old certificates count no more. Raises UserError."""
        holders, register = self._counting(names), self.authority.register
        before = _next_second()
        register.renew([holder.id for holder in holders], before)
        self.publish()
        rotated = self._renewed(holders, before, say)
        done = [holder.id for holder in holders if holder.name in rotated.renewed]
        if done:
            register.refuse(done, before)
            self.publish()
        return rotated

    def succeed(self, say: Say) -> Rotated:
        """Another authority counts beside the present one, and then gives everybody a certificate. Raises UserError.

        Goes on where it was interrupted.
        """
        register, holders = self.authority.register, self._counting(())
        if not register.successor:
            register.name_successor()
            self.publish()
            say("another authority counts beside the present one; everybody is told")
        if register.successor == "named":
            self._await_heard(holders, say)
            register.take_over(_next_second())
            self.publish()
            say("it has taken over; everybody gets a certificate of its")
        notice = register.notice
        assert notice is not None
        return self._renewed(holders, notice.renew, say)

    def finish(self, *, force: bool = False) -> Notice:
        """The former authority counts no more. Raises UserError, also for nodes that would be left behind."""
        register = self.authority.register
        if register.successor != "issues":
            raise UserError(f"{self._directory.path}: no authority has taken over; `--authority` alone begins that")
        present, issued, notice = short(register.issuers[0].der), register.issued(), register.notice
        since = 0 if notice is None else notice.renew

        def has_it(holder: Holder) -> bool:
            return holder.id in issued and issued[holder.id].by == present and _has_it(holder, since)

        ours = self._counting(())
        behind = [each.name for each in ours if not has_it(each) and not _makes_do(self._directory, each)]
        if behind and not force:
            raise UserError(
                f"{', '.join(behind)}: without a certificate of the new authority; --force leaves them behind"
            )
        notice = register.drop_predecessor()
        self.publish()
        for holder in self._counting(()):
            if holder.name == CLIENT:
                self._grant(holder)
        return notice

    # ---- getting there --------------------------------------------------------------------------------------------

    def _counting(self, names: Sequence[str]) -> list[Holder]:
        """Who has not been revoked. Raises UserError where such a one is named."""
        admitted = self.authority.register.admitted
        holders = self.named(names)
        if names and (gone := [holder.name for holder in holders if admitted.barred(holder.id)]):
            raise UserError(f"{', '.join(gone)}: has been revoked, and gets no certificate")
        return [holder for holder in holders if not admitted.barred(holder.id)]

    def _renewed(self, holders: Collection[Holder], before: int, say: Say) -> Rotated:
        """Waits for those who run, gives the client its own, and tells who comes later."""
        for holder in holders:
            if holder.name == CLIENT:
                self._grant(holder)
        at_start = [holder for holder in holders if holder.name != CLIENT and _makes_do(self._directory, holder)]
        awaited = [holder for holder in holders if holder not in at_start]
        if not _all_here(awaited):
            if not Cluster.load(self._directory.path).authority:
                raise UserError(
                    f"{self._directory.path}: its nodes run elsewhere and have no authority to ask: make their folders "
                    "anew with `decentral prepare`, and bring each its own"
                )
            say(f"nodes on other machines ask within {2 * ASK:.0f} s")
        register = self.authority.register

        def lacking() -> list[Holder]:
            issued = register.issued()
            return [
                each
                for each in awaited
                if each.id not in issued or issued[each.id].issued < before or not _has_it(each, before)
            ]

        _wait(lambda: not lacking(), _patience(awaited))
        missing = lacking()
        if len(missing) < len(awaited):
            time.sleep(SETTLING if _all_here(awaited) else SETTLING_AWAY)
        return Rotated(
            tuple(holder.name for holder in awaited if holder not in missing),
            tuple(holder.name for holder in at_start),
            tuple(holder.name for holder in missing),
        )

    def _await_heard(self, holders: Collection[Holder], say: Say) -> None:
        """Returns once all who run know both authorities, as far as one can tell from here. Raises UserError."""
        away = [each for each in holders if each.name != CLIENT and not each.runs]
        if any(not _makes_do(self._directory, each) for each in away):
            say(f"nodes on other machines ask within {2 * ASK:.0f} s")
            time.sleep(2 * ASK)
        pem = self.authority.pem

        def deaf() -> list[str]:
            return [each.name for each in holders if each.runs and (each.folder / AUTHORITIES).read_bytes() != pem]

        _wait(lambda: not deaf(), HERE)
        if deaf():
            raise UserError(
                f"{', '.join(deaf())}: run, and have not read it; look at their logs, and say the same again"
            )

    def _grant(self, holder: Holder) -> None:
        """To the client of this folder, whose key is here; what it was invited with before leads nowhere now."""
        grant(self.authority, Identity.load(holder.folder / IDENTITY)).save(holder.folder)
        (holder.folder / INVITATION).unlink(missing_ok=True)


def _makes_do(directory: AnyDirectory, holder: Holder) -> bool:
    """Whether a node is of this machine and does not run: it gets what it needs when it starts."""
    launched_here = (directory.path / NODES / "launcher").exists()
    elsewhere = directory.world == "ray" and directory.in_use
    return holder.name != CLIENT and not holder.runs and launched_here and not elsewhere


def _patience(awaited: Collection[Holder]) -> float:
    return HERE if _all_here(awaited) else AWAY


def _all_here(holders: Collection[Holder]) -> bool:
    """Whether all of them run on this machine, or are its client."""
    return all(holder.runs or holder.name == CLIENT for holder in holders)


def _has_it(holder: Holder, since: int) -> bool:
    """Whether a node that runs here has written down a certificate since then; of others nobody can tell."""
    files = (holder.folder / TLS, Closed().place(holder.folder / TLS))
    return not holder.runs or any(file.exists() and file.stat().st_mtime >= since for file in files)


def _wait(true: Callable[[], bool], patience: float) -> None:
    """Until it is, or for so many seconds."""
    ends = time.monotonic() + patience
    while not true() and time.monotonic() < ends:
        time.sleep(PAUSE)


def _next_second() -> int:
    """Certificates count in seconds: what is made from then on is new."""
    moment = int(time.time()) + 1
    time.sleep(max(moment - time.time(), 0.0))
    return moment


def _kept(holder: Holder) -> Issued | None:
    """The certificate in a node's folder, where no authority is here to ask and nobody has sealed it."""
    from cryptography import x509

    if not (holder.folder / TLS).exists():
        return None
    shown = Credentials.load(holder.folder)
    serial = f"{x509.load_pem_x509_certificate(shown.certificate).serial_number:x}"
    return Issued(holder.id, serial, int(shown.issued), int(shown.expires), "")


def _state(issued: Issued | None, notice: Notice | None, peer: PeerId, since: int) -> str:
    if since:
        return "revoked"
    if issued is None:
        return "unknown"
    if issued.expires <= time.time():
        return "expired"
    if notice is not None and issued.issued < notice.of(peer).refuse:
        return "replaced"
    return "to renew" if notice is not None and issued.issued < notice.of(peer).renew else "ok"
