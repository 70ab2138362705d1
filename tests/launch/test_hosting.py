"""Who gets a seat, and who keeps it: the host's side of a cluster that comes together from machines of their own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from decentral.errors import RecipeError, RunDirectoryError, UserError
from decentral.launch import hosting
from decentral.launch.apart import opened
from decentral.launch.cluster import Cluster
from decentral.launch.entering import JOINING, Wish, enter, invite_again, joined
from decentral.launch.hosting import SEATS, Host, Hosting
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe, load_recipe
from decentral.trust.anchors import FILE, Anchors
from decentral.wire.authority import Authority, JoinToken
from decentral.wire.certificate import TLS
from decentral.wire.enrolment import credentials_for
from decentral.wire.identity import Identity
from decentral.wire.limits import CHUNK_BYTES
from decentral.wire.register import ISSUED
from decentral.wire.v1 import meeting_pb2 as pb

RECIPE = load_recipe("dimat-digits", ["peers=2", "rounds=2", "model={name: mlp, hidden: [8]}"])
ANY = Wish(port=0)


@contextlib.asynccontextmanager
async def hosted(path: Path, recipe: Recipe = RECIPE, **options) -> AsyncIterator[tuple[Hosting, asyncio.Task[None]]]:
    found: asyncio.Future[Hosting] = asyncio.get_running_loop().create_future()
    work = hosting.hosting(recipe, path, "127.0.0.1:0", listening=found.set_result, **options)
    task = asyncio.create_task(work)
    await asyncio.wait([task, found], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        yield await found, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def joining(at: Hosting, path: Path, token: str | None = None, wish: Wish = ANY, say=lambda words: None):
    return await enter(at.address, JoinToken.parse(token or at.tokens[0]), path, wish, say)


async def refused(at: Hosting, path: Path, token: str | None = None, wish: Wish = ANY) -> str:
    with pytest.raises(UserError) as error:
        await joining(at, path, token, wish)
    return str(error.value)


@pytest.fixture(scope="module")
def met(tmp_path_factory) -> Path:
    """A folder with those of a host and of the two who joined it, `a` and `b`, and what the host said."""
    path, said = tmp_path_factory.mktemp("met"), list[str]()

    async def meet() -> None:
        async with hosted(path / "host", say=said.append) as (at, host):
            async with asyncio.TaskGroup() as tasks:
                for name in "ab":
                    tasks.create_task(joining(at, path / name))
            await asyncio.wait_for(host, 10.0)

    asyncio.run(meet())
    (path / "said").write_text("\n".join(said))
    return path


def test_everybody_gets_a_seat_of_its_own_and_is_told_the_same(met):
    assert sorted(file.name for name in "ab" for file in (met / name / "nodes").iterdir()) == ["peer-0", "peer-1"]
    for name in "ab":
        assert Cluster.load(met / name) == Cluster.load(met / "host")
        assert RunDirectory.open(met / name).recipe.hash == RECIPE.hash and not (met / name / JOINING).exists()
    assert (met / "said").read_text().count("has started") == 2


def test_the_host_never_holds_a_node_s_key(met):
    keys = [file.read_bytes() for name in "ab" for file in (met / name).rglob("*.key")]
    held = [file.read_bytes() for file in (met / "host").rglob("*") if file.is_file()]
    assert len(keys) == 2 and not [key for key in keys if any(key in content for content in held)]
    for name in "ab":
        files = list((met / name / "nodes").rglob("*.*"))
        assert files and all(file.stat().st_mode & 0o077 == 0 for file in files)


def test_what_clients_pin_is_what_the_seats_say(met):
    pinned, members = Anchors.load(met / "host" / FILE), Cluster.load(met / "host").members
    assert [(peer.name, peer.id, peer.address) for peer in pinned.peers] == [(m.name, m.id, m.address) for m in members]
    assert pinned == Anchors.load(met / "a" / FILE)


async def test_a_token_lets_in_as_many_as_there_are_seats(tmp_path):
    async with hosted(tmp_path / "host") as (at, _):
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(joining(at, tmp_path / "a"))
            await until((tmp_path / "a" / JOINING / TLS).exists)
            first.cancel()
        second = asyncio.create_task(joining(at, tmp_path / "b"))
        await until(lambda: len(seats(tmp_path / "host")) == 2)
        assert "used up" in await refused(at, tmp_path / "c")
        more = str(Authority.load(tmp_path / "host" / "authority").token())
        assert "all 2 seats are taken" in await refused(at, tmp_path / "d", more)
        assert (await joining(at, tmp_path / "a", wish=Wish())).name == "peer-0"
        assert (await second).name == "peer-1"


async def test_tokens_for_one_use_each_seat_one_each(tmp_path):
    async with hosted(tmp_path / "host", single_use=True) as (at, _):
        assert len(at.tokens) == 2
        first = asyncio.create_task(joining(at, tmp_path / "a", at.tokens[0]))
        await until(lambda: len(seats(tmp_path / "host")) == 1)
        assert "used up" in await refused(at, tmp_path / "b", at.tokens[0])
        await joining(at, tmp_path / "b", at.tokens[1])
        await first


async def test_a_wrong_or_late_token_takes_no_seat(tmp_path):
    async with hosted(tmp_path / "host", token_seconds=-1.0) as (at, _):
        authority = JoinToken.parse(at.tokens[0]).authority
        assert "expired" in await refused(at, tmp_path / "a")
        assert "unknown" in await refused(at, tmp_path / "b", str(JoinToken(bytes(32), authority)))
        assert not (tmp_path / "host" / SEATS).exists()


async def test_who_cannot_be_reached_where_it_says_uses_nothing_up(tmp_path):
    async with hosted(tmp_path / "host", single_use=True) as (at, _):
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            words = await refused(at, tmp_path / "a", wish=Wish("127.0.0.1", port, listen="127.0.0.5"))
        assert f"127.0.0.1:{port}" in words and "you came from 127.0.0.1" in words and "--advertise" in words
        assert not (tmp_path / "host" / SEATS).exists() and not (tmp_path / "host" / "authority" / ISSUED).exists()
        first = asyncio.create_task(joining(at, tmp_path / "a"))
        await joining(at, tmp_path / "b", at.tokens[1])
        await first


async def test_two_seats_never_have_one_address(tmp_path):
    async with hosted(tmp_path / "host") as (at, _):
        first = asyncio.create_task(joining(at, tmp_path / "a"))
        await until(lambda: len(seats(tmp_path / "host")) == 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        taken = Wish.of(seats(tmp_path / "host")[0]["address"])
        assert "somebody else has a seat" in await refused(at, tmp_path / "b", wish=taken)


async def test_a_host_that_is_started_again_knows_who_had_come(tmp_path):
    async with hosted(tmp_path / "host") as (at, _):
        first = asyncio.create_task(joining(at, tmp_path / "a"))
        await until((tmp_path / "a" / JOINING / TLS).exists)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    async with hosted(tmp_path / "host") as (at, host):
        assert at.left == 1
        returned = asyncio.create_task(enter(at.address, None, tmp_path / "a", Wish()))
        assert (await joining(at, tmp_path / "b")).name == "peer-1"
        assert (await returned).name == "peer-0"
        await host
    async with hosted(tmp_path / "host") as (at, host):
        assert at.tokens == ()
        await asyncio.wait_for(host, 10.0)
    async with hosted(tmp_path / "host", stay=True) as (at, host):
        member, token = joined(tmp_path / "a"), JoinToken.parse(at.tokens[0])
        own = tmp_path / "a" / "nodes" / member.name
        before = (own / TLS).read_bytes()
        (own / TLS).unlink()  # as if it had expired
        invite_again(tmp_path / "a", member, at.address, token)
        fresh = await credentials_for(Identity.load(own / "identity.key"), own)
        assert fresh.peer == member.id and (own / TLS).read_bytes() != before and not host.done()


async def test_who_comes_from_the_host_s_own_machine_has_to_say_where_others_reach_it(tmp_path):
    with opened(RECIPE, tmp_path / "host") as directory:
        host = Host(directory, Authority.open(directory.authority))
        host.at("10.0.0.1:6999")
        with pytest.raises(Exception, match="leads nowhere from other machines"):
            host._whereabouts(":7000", "127.0.0.1")
        assert host._whereabouts(":7000", "10.0.0.2") == "10.0.0.2:7000"
        assert host._whereabouts(":7000", "fd00::2") == "[fd00::2]:7000"
        assert host._whereabouts("one.example:7000", "127.0.0.1") == "one.example:7000"
        for none in ("", "host", ":x", ":70000", "a:b:c"):
            with pytest.raises(Exception, match="no address"):
                host._whereabouts(none, "10.0.0.2")


async def test_seats_that_cannot_be_read_are_named(tmp_path):
    with opened(RECIPE, tmp_path / "host") as directory:
        (tmp_path / "host" / SEATS).write_text("[{}]")
        with pytest.raises(RunDirectoryError, match=SEATS):
            Host(directory, Authority.open(directory.authority))


async def test_what_only_one_machine_has_is_refused_by_its_key(tmp_path):
    recipe = load_recipe("dimat-digits", ["peers=2", "attestation=required"])
    with pytest.raises(RecipeError) as error:
        await hosting.hosting(recipe, tmp_path / "host", "127.0.0.1:0")
    assert error.value.key == "attestation" and not (tmp_path / "host").exists()


async def test_what_the_recipe_says_of_this_machine_s_disk_stays_here(tmp_path):
    rooted = RECIPE.model_copy(update={"data": RECIPE.data.model_copy(update={"root": "/data/here"})})
    there = hosting._anywhere(rooted)
    assert there.data.root is None and there.hash == rooted.hash and hosting._anywhere(RECIPE) is RECIPE


async def test_files_are_handed_over_as_they_were_announced_and_never_as_a_whole(tmp_path, monkeypatch):
    content = {"stages/a": bytes(range(256)) * 4096 * 2 + b"end", "stages/b": b"", "stages/c": b"short"}
    monkeypatch.setattr(hosting, "needed", lambda directory, index: [*content, "trust.toml"])
    said: list[pb.HostSays] = []

    class Listening:
        async def say(self, message: pb.HostSays) -> None:
            said.append(message)

    with opened(RECIPE, tmp_path) as directory:
        (tmp_path / "stages").mkdir()
        for name, data in content.items():
            (tmp_path / name).write_bytes(data)
        (tmp_path / "trust.toml").write_bytes(b"")
        host = Host(directory, Authority.open(directory.authority))
        host._agreed = Cluster((), 0.0)
        monkeypatch.setattr(Path, "read_bytes", only("trust.toml"))
        await host._hand(Listening(), 0)
    first, *pieces = said
    told = [(part.name, part.size, part.sha256) for part in first.agreed.parts]
    assert told == [(name, len(data), hashlib.sha256(data).digest()) for name, data in content.items()]
    assert b"".join(each.piece for each in pieces) == b"".join(content.values())
    assert all(0 < len(each.piece) <= CHUNK_BYTES for each in pieces) and len(pieces) == 4


@pytest.mark.parametrize(
    ("listen", "advertise", "where"),
    [
        ("10.0.0.1:6999", None, "10.0.0.1:6999"),
        ("0.0.0.0:6998", "alpha.example", "alpha.example:6998"),
        ("0.0.0.0:6998", "alpha.example:443", "alpha.example:443"),
        ("[fd00::1]:6999", None, "[fd00::1]:6999"),
    ],
)
def test_joiners_are_told_where_the_host_is(listen, advertise, where):
    assert hosting._advertised(listen, advertise) == where


def test_a_host_that_listens_everywhere_is_no_address_and_another_is_found():
    assert hosting._advertised("0.0.0.0:6999", None).rpartition(":")[0] not in ("0.0.0.0", "")


def only(name: str):
    """To read a file as a whole is for that one alone."""
    whole = Path.read_bytes

    def read(path: Path) -> bytes:
        assert path.name == name
        return whole(path)

    return read


async def until(true, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  what happens is seen on the disk
            await asyncio.sleep(0.01)


def seats(path: Path) -> list[dict[str, object]]:
    return json.loads((path / SEATS).read_text()) if (path / SEATS).exists() else []
