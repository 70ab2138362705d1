"""The life of a node: what it finds when it starts, how it listens, and what its journal says of its end.

The programs in `nodes/` differ in what they do in between.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from decentral.algorithms.presence import Member
from decentral.errors import DecentralError, Refusal, Refused, UserError, leading
from decentral.files import Vault
from decentral.launch.cluster import Cluster, node_lock
from decentral.launch.joining import show_for
from decentral.launch.observing.endpoint import exposed
from decentral.launch.observing.load import noting_load
from decentral.launch.observing.logs import for_machines, log_event, write_logs
from decentral.launch.observing.traced import traced
from decentral.launch.renewal import Renewal
from decentral.launch.sealing import identity_of, vault_for
from decentral.launch.watching import Watch, check_own, known_at_start
from decentral.registry import load_entry_points, load_plugin
from decentral.run.directory import RunDirectory, ServingDirectory
from decentral.run.journal import Event, Journal, Observer
from decentral.wire.addresses import joined_address, split_address
from decentral.wire.certificate import Credentials
from decentral.wire.clock import WallClock
from decentral.wire.enrolment import Show, credentials_for
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.limits import Limits
from decentral.wire.messages import PeerId
from decentral.wire.notice import Admitted
from decentral.wire.sealed import Attest
from decentral.wire.sessions import Serve
from decentral.wire.tracing import UNTRACED, Tracing

D = TypeVar("D", RunDirectory, ServingDirectory)


@dataclass(frozen=True, slots=True)
class Node(Generic[D]):
    """What a node has in hand: its folder, who it is, and who else takes part."""

    directory: D
    cluster: Cluster
    member: Member
    folder: Path
    clock: WallClock
    journal: Journal
    identity: Identity
    credentials: Credentials
    show: Show | None
    """Evidence of this machine for an authority that asks for it."""
    vault: Vault | None
    """Keeps its private files sealed; None: they are kept as they are."""
    admitted: Admitted
    """Who counts, by what it has read of the authority's notices."""
    listen: str | None = None
    """The host at whose port it listens instead of at its address, which is how others see it."""
    tracing: Tracing = UNTRACED

    @property
    def bound(self) -> str:
        """Where it listens: `host:port`."""
        host, port = split_address(self.member.address)
        return joined_address(self.listen or host, port)

    @asynccontextmanager
    async def listening(
        self,
        limits: Limits,
        *,
        members: Callable[[PeerId], bool] = lambda peer: True,
        serve: Serve | None = None,
        attest: Attest | None = None,
    ) -> AsyncIterator[GrpcTransport]:
        """Listens at the node's port, renews its certificate in time, and keeps to what the authority rules.

        See `GrpcTransport.serve`.
        """

        def authority() -> str:
            return Cluster.load(self.directory.path).authority

        async with (
            GrpcTransport.serve(
                self.bound,
                self.identity,
                self.credentials,
                limits=limits,
                members=members,
                call_deadline=self.directory.recipe.deadlines.call,
                serve=serve,
                attest=attest,
                tracing=self.tracing,
                admitted=self.admitted,
            ) as transport,
            noting_load(transport.tally, self.journal),
            Renewal(
                transport,
                self.identity,
                self.credentials,
                folder=self.folder,
                authority=authority,
                journal=self.journal,
                show=self.show,
                vault=self.vault,
            ).running() as renewal,
            Watch(
                transport,
                renewal,
                self.admitted,
                self.identity.id,
                run=self.directory.path,
                folder=self.folder,
                authority=authority,
                journal=self.journal,
            ).running(),
        ):
            yield transport


@asynccontextmanager
async def entered(
    path: Path, index: int, kind: type[D], listen: str | None = None, metrics: str | None = None
) -> AsyncIterator[Node[D]]:
    """Node `index` of a directory of that kind, which nobody else is meanwhile; its journal tells what ends it.

    `listen`: see `Node`; `metrics`: where its endpoint answers, if it has one (`exposed`). Raises UserError for what it
    cannot use.
    """
    directory, cluster = kind.open(path), Cluster.load(path)
    if not 0 <= index < len(cluster.members):
        raise UserError(f"--index {index}: this run has the nodes 0 to {len(cluster.members) - 1}")
    load_entry_points()
    for plugin in cluster.plugins:
        load_plugin(path / plugin)
    member = cluster.members[index]
    folder = directory.node(member.name)
    clock = WallClock(elapsed=time.time() - cluster.epoch)
    observers: list[Observer] = [log_event] if for_machines() else []
    write_logs(member.name)

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    with node_lock(folder), Journal(directory.journal_file(member.name), index, clock.now, observe) as journal:
        try:
            vault = await asyncio.to_thread(vault_for, directory, member.name)
            identity = await asyncio.to_thread(identity_of, folder, member.id, vault)
            show = await asyncio.to_thread(show_for, directory, identity.id)
            admitted = await asyncio.to_thread(known_at_start, directory.path, folder)
            if admitted.notice is not None:
                check_own(admitted.notice, identity.id, journal)
            renew = 0.0 if admitted.notice is None else admitted.notice.of(identity.id).renew
            credentials = await credentials_for(identity, folder, show, vault, renew=renew)
            with exposed(directory, metrics, index), traced(member.name, directory.recipe) as spans:
                if spans is not None:
                    observers.append(spans)
                having = identity, credentials, show, vault, admitted
                own = Node(directory, cluster, member, folder, clock, journal, *having)
                yield replace(own, listen=listen, tracing=spans or UNTRACED)
        except (DecentralError, BaseExceptionGroup) as raised:
            problem = leading(raised) if isinstance(raised, BaseExceptionGroup) else raised
            if isinstance(problem, Refused) and problem.reason is Refusal.REVOKED:
                journal.record("revoked", reason=problem.detail)
            journal.record("failed", problem=str(problem or raised), user=isinstance(problem, UserError))
            raise problem or raised from None
        finally:
            clock.close()


def node_arguments(description: str) -> argparse.ArgumentParser:
    """What every program of `nodes/` is started with."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="the run directory")
    parser.add_argument("--index", type=int, required=True, help="which node to be")
    parser.add_argument("--listen", metavar="HOST", help="the host to listen at, where its address does not tell")
    parser.add_argument("--metrics", metavar="[HOST:]PORT", help="where to show metrics and events, in plain HTTP")
    return parser
