"""Who joins a cluster on a machine of its own: from an address and a token to a run directory with one node.

The keys are made here, and stay. Until the cluster starts they lie in `joining` beside what the host has told; the run
directory of the node is made of both, as if it had been copied here. Whatever interrupts this, the same command goes
on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from decentral.algorithms.presence import Member
from decentral.errors import Malformed, Refusal, Refused, Unreachable, UserError
from decentral.files import replacing, write_atomic
from decentral.launch.alone import member_of
from decentral.launch.apart import PORT, WORLD, addresses, check_apart, hand_over, names_of, needed, whose
from decentral.launch.cluster import Cluster
from decentral.registry import load_entry_points, load_plugin
from decentral.run.directory import (
    ABOUT,
    RECIPE,
    STAGES,
    AnyDirectory,
    RunDirectory,
    ServingDirectory,
    check_empty,
    refusing,
)
from decentral.run.journal import NODES
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe, any_recipe
from decentral.run.source import read_file
from decentral.trust.anchors import FILE as TRUST
from decentral.trust.anchors import Anchors
from decentral.wire.addresses import joined_address, split_address
from decentral.wire.authority import JoinToken
from decentral.wire.certificate import TLS, Credentials, new_key, pem_of, private_pem, request_certificate
from decentral.wire.enrolment import leave_invitation
from decentral.wire.identity import IDENTITY, Identity
from decentral.wire.issuing import VALIDITY
from decentral.wire.limits import CHUNK_BYTES
from decentral.wire.meeting import MAX_VERSION, SILENCE, Talk, look_at, meeting
from decentral.wire.messages import PROTOCOL_VERSION, PeerId
from decentral.wire.reachability import PATIENCE, answering
from decentral.wire.v1 import meeting_pb2 as pb

JOINING, TOLD, KNOWN = "joining", "told", "port"
"""In the node's run directory until it starts, and in there what the host has said, and where others will call."""
EVERYWHERE, EVERYWHERE_6 = "0.0.0.0", "::"  # noqa: S104  its peers show certificates, wherever they come from
PORTS = 100
"""How many are tried, from the usual one on, where none is asked for."""
PAUSES = (1.0, 15.0)
"""Seconds between attempts to come back to a host that is gone: at first, and at most."""
WORDS = {
    Refusal.TOKEN: "the token is wrong, or its uses are used up: ask the host for another one",
    Refusal.EXPIRED: "the token has expired: ask the host for another one",
    Refusal.FULL: "this cluster has no room for you",
    Refusal.CLOCK: "set the clocks right, on this machine or on the host's, and join again",
    Refusal.PROTOCOL_VERSION: "install the same version of decentral on both machines",
    Refusal.NOT_A_MEMBER: "it is another cluster, or its folder is new; join with its token, in a new folder",
    Refusal.STALE: "say with --advertise where others reach this machine, or join in a new folder",
    Refusal.ADDRESS: (
        "peers cannot reach this machine there. Behind NAT forward the port to it and say --advertise HOST:PORT as "
        "seen from outside; behind a firewall open the port; else join from a machine that can be reached"
    ),
}
"""What a person can do about a refusal."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a machine wants to take part.

    `host`: where others reach it; empty: where it comes from. `port`: there; None: one of the usual ones that is free.
    `listen`: the host at which it listens, where others reach it in another way; None: as they do.
    """

    host: str = ""
    port: int | None = None
    listen: str | None = None
    overrides: tuple[str, ...] = ()
    """Of what is no part of a recipe's hash."""
    plugins: tuple[Path, ...] = ()

    @classmethod
    def of(cls, advertise: str, **others: Any) -> Wish:
        """`host`, `host:port` or `:port`. Raises UserError."""
        if advertise.startswith(":"):
            return cls(port=split_address(f"here{advertise}", "--advertise")[1], **others)
        if not advertise:
            return cls(**others)
        host, port = split_address(addresses([advertise], ["this machine"], PORT, "--advertise")[0])
        return cls(host, port if advertise.endswith(f":{port}") else None, **others)


def joined(path: Path) -> Member | None:
    """The node of a folder whose cluster has started; None: it has not. Raises UserError."""
    if not (path / ABOUT).exists():
        return None
    with refusing(path):
        shutil.rmtree(path / JOINING, ignore_errors=True)  # what was not cleared away before the node started
    return member_of(path, None)


def invite_again(path: Path, member: Member, address: str, token: JoinToken) -> None:
    """Leaves the token with a node that has started before: it is used if its certificate has expired, or is about to.

    Raises UserError.
    """
    with refusing(path):
        leave_invitation(path / NODES / member.name, address, token)


def place_to_listen(address: str) -> str | None:
    """The host at whose port a node listens that others reach at `address`; None: at that very address."""
    host, _ = split_address(address)
    with contextlib.suppress(OSError):
        family, kind, protocol, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
            return None
    return EVERYWHERE_6 if ":" in host else EVERYWHERE


async def enter(
    address: str, token: JoinToken | None, path: Path, wish: Wish, say: Callable[[str], None] = lambda words: None
) -> Member:
    """Joins the host at `host:port`, and returns the node whose folder `path` then is, when all start.

    `token` is not needed where this folder has got its seat already. Raises UserError where something is wrong that a
    person can change, and DecentralError where the host breaks the protocol.
    """
    keys = path / JOINING
    with refusing(path):
        if not keys.exists():
            check_empty(path)
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = Identity.open(keys / IDENTITY)
    credentials = Credentials.load(keys) if (keys / TLS).exists() else None
    if credentials is not None and credentials.expires < time.time():
        credentials = None
    if token is not None:
        authority = token.authority_pem
    elif credentials is not None:
        authority = credentials.authority
    else:
        raise UserError(f"{path}: has no seat in this cluster yet: --token lets it in")
    if credentials is not None and credentials.authority != authority:
        raise UserError(f"{path}: has a seat in another cluster; choose another folder with --dir")
    await look_at(address, authority)
    async with contextlib.AsyncExitStack() as held:
        if credentials is not None and not wish.port and (keys / KNOWN).exists():
            wish = replace(wish, port=int((keys / KNOWN).read_text()))  # others may have been told of it
        wish = replace(wish, port=await _listen(held, identity, wish))
        await _Visit(address, authority, identity, path, wish, say, token, credentials).until_it_starts()
    with refusing(path):
        member = hand_over(keys / TOLD, keys, path)
        shutil.rmtree(keys, ignore_errors=True)
    return member


async def _listen(held: contextlib.AsyncExitStack, identity: Identity, wish: Wish) -> int:
    """Answers the host that dials back, as long as it is held; returns the port. Raises UserError."""
    host = wish.host and (place_to_listen(joined_address(wish.host, 0)) or wish.host)
    at = wish.listen or host or EVERYWHERE
    problem: OSError | None = None
    for port in range(PORT, PORT + PORTS) if wish.port is None else (wish.port,):
        try:
            return await held.enter_async_context(answering(identity, at, port))
        except OSError as error:
            problem = error
    what = f"no port from {PORT} to {PORT + PORTS - 1}" if wish.port is None else f"the port {wish.port}"
    why = problem.strerror if problem else ""
    raise UserError(f"{what} of {at} can be taken ({why}); choose another with --advertise :PORT")


@dataclass(slots=True)
class _Visit:
    """One joiner at its host, however often it has to come back."""

    address: str
    authority: bytes
    identity: Identity
    path: Path
    wish: Wish
    say: Callable[[str], None]
    token: JoinToken | None
    credentials: Credentials | None
    started: bool = False
    news: str = ""

    @property
    def keys(self) -> Path:
        return self.path / JOINING

    async def until_it_starts(self) -> None:
        pause, most = PAUSES
        while True:
            try:
                return await self._once()
            except Refused as refused:
                detail = refused.detail or refused.reason.name.lower()
                raise UserError(
                    f"{self.address}: {detail}; {WORDS.get(refused.reason, 'ask who runs the host')}"
                ) from None
            except Unreachable as problem:
                if self.started:
                    return None
                if self.credentials is None:
                    raise
                self._tell(f"the host is gone, and is asked again ({problem})")
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, most)

    async def _once(self) -> None:
        key, now = new_key(), time.time()
        csr = request_certificate(self.identity, key, now + VALIDITY.total_seconds())
        said, port = version("decentral")[:MAX_VERSION], self.wish.port or 0
        where = joined_address(self.wish.host, port) if self.wish.host else f":{port}"
        knock = pb.Knock(protocol=PROTOCOL_VERSION, version=said, csr=csr, address=where, time=now)
        if self.credentials is not None:
            current = x509.load_pem_x509_certificate(self.credentials.certificate)
            knock.certificate = current.public_bytes(serialization.Encoding.DER)
        elif self.token is not None:
            knock.token = self.token.secret
        async with meeting(self.address, self.authority) as talk:
            await talk.say(pb.JoinerSays(knock=knock))
            seat = (await _hear(talk, "seat", deadline=PATIENCE + SILENCE)).seat
            self._keep(seat, private_pem(key))
            agreed = (await self._wait(talk, "agreed")).agreed
            await self._take(talk, agreed, seat.index)
            await talk.say(pb.JoinerSays(ready=pb.Ready()))
            await self._wait(talk, "start")
            self.started = True

    def _keep(self, seat: pb.Seat, key: bytes) -> None:
        """What the host has certified. Raises Malformed."""
        try:
            certificate = x509.load_der_x509_certificate(seat.certificate)
        except ValueError as error:
            raise Malformed(Refusal.MALFORMED, "the host's reply is not a certificate") from error
        granted = Credentials(pem_of(certificate), key, self.authority)
        granted.check(self.identity.id)
        with refusing(self.path):
            write_atomic(self.keys / KNOWN, str(self.wish.port).encode())
            granted.save(self.keys)
        self.credentials = granted
        name, address = (each if each.isprintable() else "?" for each in (seat.name, seat.address))
        self._tell(f"you are {name}, and the host reaches you at {address}")

    async def _wait(self, talk: Talk, kind: str) -> pb.HostSays:
        """What ends the waiting; tells on the way how far the others are."""
        while True:
            message = await _hear(talk, "waiting", kind, deadline=SILENCE)
            if message.WhichOneof("said") == kind:
                return message
            told = message.waiting
            self._tell(
                f"{told.ready} of {told.seats} are ready" if told.ready else f"{told.here} of {told.seats} are here"
            )

    def _tell(self, words: str) -> None:
        if words != self.news:
            self.news = words
            self.say(words)

    async def _take(self, talk: Talk, agreed: pb.Agreed, index: int) -> None:
        """Writes down what the host tells, as the run directory of everybody. Raises Malformed and UserError."""
        told = self.keys / TOLD
        with refusing(self.path):
            shutil.rmtree(told, ignore_errors=True)
            recipe = self._recipe(agreed)
            with _folder_of(recipe, told) as directory:
                cluster = self._cluster(agreed, recipe, directory)
                if whose(cluster, self.identity, self.keys).index != index:
                    raise Malformed(Refusal.MALFORMED, "the host gave this machine another seat than it says")
                stages = [name for name in needed(directory, index) if name.startswith(f"{STAGES}/")]
                if [part.name for part in agreed.parts] != stages:
                    raise Malformed(Refusal.MALFORMED, "the host hands over other files than this node needs")
                free = shutil.disk_usage(told).free
                if sum(part.size for part in agreed.parts) * 2 > free:  # they are copied once, into their place
                    raise UserError(
                        f"{self.path}: the disk has no room for this node's part of the model ({free} bytes)"
                    )
                for part in agreed.parts:
                    await self._receive(talk, part, told / part.name)

    def _recipe(self, agreed: pb.Agreed) -> Recipe | ServingRecipe:
        """The host's, with what this machine may say of itself. Raises UserError."""
        file = self.keys / RECIPE
        write_atomic(file, agreed.recipe)
        load_entry_points()
        for plugin in self.wish.plugins:
            load_plugin(plugin)
        theirs = any_recipe(read_file(file), prepared=True)
        if theirs.hash != agreed.hash:
            raise UserError(
                f"{self.address}: this decentral ({version('decentral')}) reads the host's recipe as another one; "
                "install the same version on both machines"
            )
        if theirs.data is not None and theirs.data.root is not None:
            raise Malformed(Refusal.MALFORMED, "the host's recipe says where this machine has its data")
        check_apart(theirs)  # nor names other files of this machine
        if not self.wish.overrides:
            return theirs
        ours = any_recipe(read_file(file), self.wish.overrides, prepared=True)
        if differing := theirs.differences(ours):
            raise UserError(
                f"--set {differing[0]}: is the same for all peers; only {', '.join(ours.not_hashed)} are yours"
            )
        return ours

    def _cluster(self, agreed: pb.Agreed, recipe: Recipe | ServingRecipe, directory: AnyDirectory) -> Cluster:
        """Who takes part, written down with what clients pin. Raises Malformed and UserError."""
        write_atomic(directory.path / TRUST, agreed.trust)
        anchors = Anchors.load(directory.path / TRUST)
        pinned = [(peer.name, peer.id, peer.address) for peer in anchors.peers]
        members = [(member.name, member.id, member.address) for member in agreed.members]
        if anchors.authority != self.authority or pinned != members:
            raise Malformed(Refusal.MALFORMED, "the trust file is of another cluster")
        if tuple(name for name, _, _ in members) != names_of(recipe) or not math.isfinite(agreed.epoch):
            raise Malformed(Refusal.MALFORMED, "the members are not those of the recipe")
        if agreed.authority:
            addresses([agreed.authority], ["authority"], option="the host's authority")
        told = tuple(Member(index, name, PeerId(who), where) for index, (name, who, where) in enumerate(members))
        plugins = tuple(str(plugin.resolve()) for plugin in self.wish.plugins)
        cluster = Cluster(told, agreed.epoch, plugins, agreed.authority)
        cluster.save(directory.path)
        return cluster

    async def _receive(self, talk: Talk, part: pb.Part, file: Path) -> None:
        """One file, in pieces. Raises Malformed unless it is as it was announced."""
        digest, left = hashlib.sha256(), part.size
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, temporary.open("wb") as written:
            while left:
                piece = (await _hear(talk, "piece", deadline=SILENCE)).piece
                if not 0 < len(piece) <= min(left, CHUNK_BYTES):
                    raise Malformed(Refusal.TOO_LARGE, f"{part.name}: pieces of another size than was announced")
                left -= len(piece)
                digest.update(piece)
                written.write(piece)
        if digest.digest() != part.sha256:
            raise Malformed(Refusal.DIGEST, f"{part.name}: is not what was announced")


async def _hear(talk: Talk, *kinds: str, deadline: float) -> pb.HostSays:
    """Raises Unreachable where the host has ended the stream too."""
    message: pb.HostSays | None = await talk.hear(*kinds, deadline=deadline)
    if message is None:
        raise Unreachable("it has ended the conversation")
    return message


def _folder_of(recipe: Recipe | ServingRecipe, path: Path) -> AnyDirectory:
    if isinstance(recipe, ServingRecipe):
        return ServingDirectory.create(path, recipe, WORLD)
    return RunDirectory.create(path, recipe, WORLD)
