"""An authority beside nodes on machines of their own: it renews for those whom it knows, and lets nobody else in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from decentral.errors import Refused, RunDirectoryError, UserError
from decentral.launch.apart import settle
from decentral.launch.granting import entrust, grant_at
from decentral.run.directory import AUTHORITY, RunDirectory
from decentral.run.recipe import load_recipe
from decentral.wire.authority import Authority, JoinToken
from decentral.wire.certificate import Credentials
from decentral.wire.enrolment import enrol, renew
from decentral.wire.identity import IDENTITY, Identity


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return made(tmp_path / "run")


def made(path: Path) -> RunDirectory:
    settle(load_recipe("dimat-digits", ["peers=2"]), path, ("127.0.0.2:7000", "127.0.0.3:7000")).close()
    return RunDirectory.open(path)


def node(run: RunDirectory, name: str = "peer-0") -> tuple[Credentials, Identity]:
    return Credentials.load(run.node(name)), Identity.load(run.node(name) / IDENTITY)


@asynccontextmanager
async def granting(path: Path) -> AsyncIterator[str]:
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(grant_at(path, "127.0.0.1:0", found.set_result))
        yield await found
        serving.cancel()


async def test_a_node_that_was_certified_before_it_started_renews(run):
    async with granting(run.path) as address:
        credentials, identity = node(run)
        fresh = await renew(address, credentials, identity, deadline=10.0)
    assert fresh.peer == identity.id and fresh.key != credentials.key and fresh.authority == credentials.authority


async def test_one_of_another_cluster_is_refused(run, tmp_path):
    other = made(tmp_path / "other")
    async with granting(run.path) as address:
        theirs, identity = node(other)
        pinned = Credentials(theirs.certificate, theirs.key, node(run)[0].authority)
        with pytest.raises(Refused):
            await renew(address, pinned, identity, deadline=10.0)


async def test_nobody_gets_in_by_a_token_that_was_not_made(run, tmp_path):
    token = Authority.load(run.authority).token()
    async with granting(run.path) as address:
        with pytest.raises(Refused):
            await enrol(address, JoinToken(bytes(32), token.authority), Identity.generate(), deadline=10.0)
        stranger = Identity.generate()
        assert (await enrol(address, token, stranger, deadline=10.0)).peer == stranger.id


async def test_a_key_that_is_mounted_becomes_its_owner_s_alone_and_tokens_stay(run, tmp_path):
    mounted, path = tmp_path / "mounted", tmp_path / "own"
    mounted.mkdir()
    (mounted / "authority.pem").write_bytes((run.authority / "authority.pem").read_bytes())
    (mounted / "authority.pem").chmod(0o440)
    entrust(mounted, path)
    token = Authority.load(path / AUTHORITY).token()
    entrust(mounted, path)
    Authority.load(path / AUTHORITY).admit(token.secret)
    async with granting(path) as address:
        assert (await renew(address, *node(run), deadline=10.0)).peer == node(run)[1].id


async def test_a_folder_without_a_key_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        await grant_at(tmp_path, "127.0.0.1:0", print)
    with pytest.raises(RunDirectoryError, match=str(tmp_path)):
        entrust(tmp_path / "nothing", tmp_path / "own")
