"""Who lets joiners in: the host of a cluster that comes together from machines of their own.

Each joiner that shows a token, and is reached where it says, gets a seat of the plan: its index, its name, and a
certificate for the key that it has made itself. When all seats are taken everybody is told of everybody, and when all
have written that down they start. The host then knows who takes part and what clients pin, and no private key of any
node. Who has a seat keeps it, also if the host is ended and started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from decentral.algorithms.presence import Member
from decentral.errors import Malformed, Refusal, RunDirectoryError, UserError
from decentral.files import write_atomic
from decentral.launch.apart import addresses, announce, check_apart, names_of, needed, opened
from decentral.launch.cluster import Cluster
from decentral.run.directory import STAGES, AnyDirectory, refusing
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe
from decentral.trust.anchors import FILE as TRUST
from decentral.wire.addresses import is_loopback, joined_address, split_address
from decentral.wire.authority import Authority
from decentral.wire.limits import CHUNK_BYTES
from decentral.wire.meeting import FIRST_WORD, HEARTBEAT, SILENCE, Talk, handlers, knocked
from decentral.wire.messages import PeerId
from decentral.wire.reachability import reach
from decentral.wire.v1 import meeting_pb2 as pb

SEATS = "seats.json"
"""In the run directory: who has which seat, for the host alone."""
HANDING = 1800.0
"""Seconds that a joiner gets to take and write down what it is handed, the parameters of its stage among it."""
EVERYWHERE, ELSEWHERE = ("0.0.0.0", "::", "*"), ("192.0.2.1", "2001:db8::1")  # noqa: S104  peers show certificates
"""Hosts that are no address for others; addresses that are nobody's (RFC 5737, RFC 3849)."""
SPARE = 64
"""Calls that are served at once beside those of joiners."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A place in the plan that somebody has taken: who, where it listens, from where it came, by which token (digest).

    `started`: it was told to start, and has said that it heard.
    """

    index: int
    name: str
    id: PeerId
    address: str
    origin: str
    token: str
    started: bool = False


class Host:
    """Takes joiners in until every seat is taken, and lets them start together.

    `told` hears of every seat that is taken or has started. Used in the thread of one event loop. Raises UserError
    where the seats' file is damaged.
    """

    def __init__(
        self,
        directory: AnyDirectory,
        authority: Authority,
        told: Callable[[Seat], None] = lambda seat: None,
    ) -> None:
        self._directory, self._authority, self._told = directory, authority, told
        self._address = ""
        self._names = names_of(directory.recipe)
        self._file = directory.path / SEATS
        self._seats = {seat.id: seat for seat in _read(self._file)}
        self._ready = {seat.id for seat in self._seats.values() if seat.started}
        self._agreed: Cluster | None = None
        self._news = asyncio.Event()

    @property
    def seats(self) -> list[Seat]:
        """Those that are taken, by index."""
        return sorted(self._seats.values(), key=lambda seat: seat.index)

    @property
    def all(self) -> int:
        """Seats that there are."""
        return len(self._names)

    @property
    def left(self) -> int:
        """Seats that nobody has taken."""
        return len(self._names) - len(self._seats)

    def at(self, address: str) -> None:
        """Where joiners reach this host, and nodes find the authority that renews their certificates."""
        self._address = address

    async def run(self, listen: str, listening: Callable[[str], None], *, stay: bool = False) -> None:
        """Serves at `host:port` until everybody has started; with `stay` until it is cancelled.

        `listening` hears where it is. Raises UserError where the port is taken or the folder cannot be written.
        """
        beside, calls = (handlers(self.receive),), len(self._names) + SPARE
        async with self._authority.serve(listen, beside=beside, calls=calls) as bound:
            listening(bound)
            while self.left:
                await self._news.wait()
            self._agreed = await asyncio.to_thread(self._conclude)
            self._tell_all()
            while stay or not all(seat.started for seat in self.seats):
                await self._news.wait()

    async def receive(self, talk: Talk) -> None:
        """One joiner, from its knock until it starts. Raises Malformed for what is refused, and Unreachable."""
        first = await talk.hear("knock", deadline=FIRST_WORD)
        if first is None:
            return
        seat, certificate = await self._admit(knocked(first), talk.origin)
        taken = pb.Seat(certificate=certificate, index=seat.index, name=seat.name, address=seat.address)
        await talk.say(pb.HostSays(seat=taken))
        await self._wait(talk, lambda: self._agreed is not None)
        await self._hand(talk, seat.index)
        if await talk.hear("ready", deadline=HANDING) is None:
            return
        self._ready.add(seat.id)
        self._tell_all()
        await self._wait(talk, lambda: len(self._ready) == len(self._names))
        await talk.say(pb.HostSays(start=pb.Start()))
        if await talk.hear(deadline=SILENCE) is None:
            self._keep(replace(self._seats[seat.id], started=True))

    # ---- seats ----------------------------------------------------------------------------------------------------

    async def _admit(self, knock: pb.Knock, origin: str) -> tuple[Seat, bytes]:
        """A seat for who knocks, and its certificate (DER). Nothing is used up unless it gets one. Raises Malformed."""
        peer = self._authority.requester(knock.csr)
        digest = hashlib.sha256(knock.token).hexdigest()
        known = self._seats.get(peer)
        if knock.WhichOneof("grounds") == "certificate":
            self._authority.renewable(knock.certificate, knock.csr)
            if known is None:
                raise Malformed(Refusal.NOT_A_MEMBER, "this host has given you no seat; come with a token")
        elif known is None or not hmac.compare_digest(known.token, digest):
            self._authority.admit(knock.token, uses=0)
        self._check_free(peer)
        address = self._whereabouts(knock.address, origin)
        try:
            await reach(address, peer)
        except Malformed as error:
            raise Malformed(error.reason, f"{error.detail}; you came from {origin}") from error
        known = self._seats.get(peer)  # again: others have come meanwhile
        self._check_free(peer)
        if any(seat.address == address for seat in self._seats.values() if seat.id != peer):
            raise Malformed(Refusal.STALE, f"somebody else has a seat with the address {address}")
        if known is None:
            index = min(set(range(len(self._names))) - {seat.index for seat in self._seats.values()})
            seat = Seat(index, self._names[index], peer, address, origin, digest)
            self._authority.admit(knock.token)
        elif known.address != address and self._agreed is not None:
            raise Malformed(Refusal.STALE, f"the others were told that you listen at {known.address}")
        else:
            seat = replace(known, address=address, origin=origin)
        certificate = self._authority.issue(knock.csr)  # written down, so only now
        self._keep(seat)
        return seat, certificate

    def _check_free(self, peer: PeerId) -> None:
        if peer not in self._seats and not self.left:
            raise Malformed(Refusal.FULL, f"all {len(self._names)} seats are taken")

    def _whereabouts(self, advertised: str, origin: str) -> str:
        """Where a joiner will be reached: as it says, or at the host that it came from. Raises Malformed."""
        said, _, port = advertised.rpartition(":")
        try:
            host, number = split_address(advertised if said else joined_address(origin, int(port)))
        except (UserError, ValueError) as error:
            raise Malformed(Refusal.ADDRESS, "what you advertised is no address of the form host:port") from error
        if not said and is_loopback(origin) and not is_loopback(split_address(self._address)[0]):
            words = f"you came from {origin}, which leads nowhere from other machines; say --advertise HOST"
            raise Malformed(Refusal.ADDRESS, words)
        return joined_address(host, number)

    def _keep(self, seat: Seat) -> None:
        if self._seats.get(seat.id) == seat:
            return
        self._seats[seat.id] = seat
        content = json.dumps([asdict(each) for each in self.seats], indent=1).encode()
        with refusing(self._directory.path):
            write_atomic(self._file, content, private=True)
        self._told(seat)
        self._tell_all()

    # ---- everybody together ---------------------------------------------------------------------------------------

    def _conclude(self) -> Cluster:
        """Writes down who takes part. Blocking."""
        members = tuple(Member(seat.index, seat.name, seat.id, seat.address) for seat in self.seats)
        with refusing(self._directory.path):
            announce(self._directory, self._authority, members, self._address)
        return Cluster.load(self._directory.path)

    async def _hand(self, talk: Talk, index: int) -> None:
        """Tells a joiner all that it needs."""
        cluster, directory = self._agreed, self._directory
        assert cluster is not None
        files = [name for name in needed(directory, index) if name.startswith(f"{STAGES}/")]
        agreed = pb.Agreed(
            recipe=_anywhere(directory.recipe).to_yaml().encode(),
            hash=directory.recipe.hash,
            members=[pb.Member(name=one.name, id=one.id, address=one.address) for one in cluster.members],
            epoch=cluster.epoch,
            authority=cluster.authority,
            trust=await asyncio.to_thread((directory.path / TRUST).read_bytes),
        )
        for name in files:
            size, sha256 = await asyncio.to_thread(_described, directory.path / name)
            agreed.parts.add(name=name, size=size, sha256=sha256)
        await talk.say(pb.HostSays(agreed=agreed))
        for name in files:  # never more in memory than a piece, however many ask at once
            with (directory.path / name).open("rb") as file:
                while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    await talk.say(pb.HostSays(piece=piece))

    async def _wait(self, talk: Talk, over: Callable[[], bool]) -> None:
        """Until it is over, a joiner hears how far the others are."""
        while not over():
            news = self._news  # what happens from here on wakes us
            told = pb.Waiting(here=len(self._seats), ready=len(self._ready), seats=len(self._names))
            await talk.say(pb.HostSays(waiting=told))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await news.wait()

    def _tell_all(self) -> None:
        """Wakes all who wait for something to happen."""
        self._news.set()
        self._news = asyncio.Event()


def _anywhere(recipe: Recipe | ServingRecipe) -> Recipe | ServingRecipe:
    """Without what it says of this machine's disk, which is no part of its hash."""
    if recipe.data is None or recipe.data.root is None:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": None})})


def _read(file: Path) -> list[Seat]:
    """Raises RunDirectoryError."""
    if not file.exists():
        return []
    try:
        return [Seat(**{**seat, "id": PeerId(seat["id"])}) for seat in json.loads(file.read_bytes())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{file}: not a readable list of seats ({error})") from error


def _described(file: Path) -> tuple[int, bytes]:
    """Bytes of a file, and their SHA-256."""
    with file.open("rb") as opened:
        return file.stat().st_size, hashlib.file_digest(opened, "sha256").digest()


@dataclass(frozen=True, slots=True)
class Hosting:
    """What a person hands on: where the host is, and the tokens that let joiners in to the seats that are left."""

    address: str
    seats: int
    left: int
    tokens: tuple[str, ...]


async def hosting(
    recipe: Recipe | ServingRecipe,
    path: Path,
    listen: str,
    *,
    advertise: str | None = None,
    single_use: bool = False,
    token_seconds: float = 86400.0,
    stay: bool = False,
    plugins: Sequence[Path] = (),
    listening: Callable[[Hosting], None] = lambda hosting: None,
    say: Callable[[str], None] = lambda words: None,
) -> None:
    """Lets a recipe's nodes join at `host:port` until they have started; with `stay` until it is cancelled.

    `advertise`: where joiners reach it; else where it listens, or the address by which this machine leads outside.
    `plugins`: of this machine alone, where a model is trained before it is served. Raises RecipeError that names the
    key alone, and UserError.
    """
    check_apart(recipe)
    where = _advertised(listen, advertise)
    with await asyncio.to_thread(opened, recipe, path, say, plugins) as directory:
        with refusing(path):
            authority = await asyncio.to_thread(Authority.open, directory.authority)

        def told(seat: Seat) -> None:
            if seat.started:
                say(f"{seat.name} has started")
            else:
                say(f"{seat.name}: {seat.address}, from {seat.origin} ({host.left} of {host.all} seats are left)")

        def bound(address: str) -> None:
            at = joined_address(split_address(where)[0], split_address(address)[1]) if where.endswith(":0") else where
            host.at(at)
            count = host.left or (host.all if stay else 0)  # certificates that have expired are made anew by a token
            uses = (1,) * count if single_use else (count,) if count else ()
            tokens = tuple(str(authority.token(uses=count, valid_seconds=token_seconds)) for count in uses)
            listening(Hosting(at, host.all, host.left, tokens))

        host = Host(directory, authority, told)
        await host.run(listen, bound, stay=stay)
    say(f"all have started; {path} is what clients and `decentral gather` need")


def _advertised(listen: str, advertise: str | None) -> str:
    """Raises UserError."""
    host, port = split_address(listen, "--listen")
    if advertise is not None:
        return addresses([advertise], ["host"], port, "--advertise")[0]
    if host not in EVERYWHERE:
        return joined_address(host, port)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect((ELSEWHERE[":" in host], 9))  # sends nothing: it only asks which way would be taken
            return joined_address(way.getsockname()[0], port)
        except OSError:
            return joined_address(socket.gethostname(), port)
