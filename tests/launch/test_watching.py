"""A node keeps to the newest notice, whoever brings it, and to nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from decentral.errors import DecentralError, leading
from decentral.launch import watching
from decentral.launch.watching import Revoked, Watch, known_at_start
from decentral.run.journal import Journal, read
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.enrolment import grant
from decentral.wire.identity import Identity
from decentral.wire.notice import FILE, MOST_BYTES, Admitted, read_notice

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")
NOW = int(time.time())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK", 0.01)
    monkeypatch.setattr(watching, "ASK", 0.05)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority")


class Node:
    """What a watch has to do with, and what it did."""

    def __init__(self, authority: Authority, run: Path, address: Callable[[], str] = lambda: "") -> None:
        self.run, self.folder, self.address = run, run / "nodes" / "alice", address
        self.folder.mkdir(parents=True)
        self.credentials, self.admitted = grant(authority, ALICE), Admitted()
        self.credentials.save(self.folder)
        self.enforced = self.hurried = 0

    def enforce(self) -> None:
        self.enforced += 1

    def hurry(self) -> None:
        self.hurried += 1

    def show(self, credentials: Credentials) -> None:
        self.credentials = credentials
        credentials.save(self.folder)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        with Journal(self.folder / "events.jsonl", 0, time.monotonic) as journal:
            options = {"run": self.run, "folder": self.folder, "authority": self.address, "journal": journal}
            async with Watch(self, self, self.admitted, ALICE.id, **options).running():  # type: ignore[arg-type]
                yield

    @property
    def events(self) -> list[str]:
        return [event["event"] for event in read(self.folder / "events.jsonl")]

    async def sees(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20.0):
            while not true():  # noqa: ASYNC110  a task beside us changes it
                await asyncio.sleep(0.01)


@pytest.fixture
def node(authority: Authority, tmp_path: Path) -> Node:
    return Node(authority, tmp_path / "run")


async def test_what_lies_in_the_folder_for_everybody_is_kept_to_and_kept(authority: Authority, node: Node) -> None:
    async with node.watching():
        await asyncio.sleep(0.05)
        assert node.enforced == 0 and node.events == []
        authority.register.revoke(BOB.id, NOW)
        (node.run / FILE).write_bytes(authority.register.signed)
        await node.sees(lambda: node.enforced == 1)
    assert node.admitted.barred(BOB.id) and node.events == ["noticed"] and node.hurried == 0
    assert (node.folder / FILE).read_bytes() == authority.register.signed
    assert known_at_start(node.run, node.folder).barred(BOB.id)


async def test_what_is_forged_damaged_too_large_or_older_changes_nothing(
    authority: Authority, node: Node, tmp_path: Path
) -> None:
    register = authority.register
    register.renew([BOB.id], NOW)
    older = register.signed
    register.revoke(BOB.id, NOW)
    newer = register.signed
    stranger = Authority.create(tmp_path / "stranger")
    for _ in range(3):
        stranger.register.refuse([BOB.id], NOW)
    async with node.watching():
        (node.run / FILE).write_bytes(newer)
        await node.sees(lambda: node.enforced == 1)
        for number, data in enumerate((stranger.register.signed, newer[:-1], bytes(MOST_BYTES + 9)), 1):
            (node.run / FILE).write_bytes(data)
            await node.sees(lambda number=number: node.events.count("unbelieved") == number)  # type: ignore[misc]
        (node.run / FILE).write_bytes(older)
        await asyncio.sleep(0.1)
    assert node.admitted.barred(BOB.id) and node.admitted.sequence == 2 and node.enforced == 1
    assert (node.folder / FILE).read_bytes() == newer
    assert known_at_start(node.run, node.folder).barred(BOB.id), "after a restart too"


async def test_the_authority_is_asked_where_nobody_lays_a_file_and_may_be_away(
    authority: Authority, tmp_path: Path
) -> None:
    places = ["127.0.0.1:1"]
    node = Node(authority, tmp_path / "run", lambda: places[-1])
    async with authority.serve("127.0.0.1:0") as address, node.watching():
        authority.register.revoke(BOB.id, NOW)
        await asyncio.sleep(0.1)
        places.append(address)
        await node.sees(lambda: node.admitted.barred(BOB.id))


async def test_a_node_that_is_revoked_itself_ends_and_does_not_start_again(authority: Authority, node: Node) -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        async with node.watching():
            authority.register.revoke(ALICE.id, NOW, "stolen")
            (node.run / FILE).write_bytes(authority.register.signed)
            await asyncio.sleep(20.0)
    ended = leading(raised.value)
    assert isinstance(ended, Revoked) and "stolen" in str(ended)
    assert node.events == ["noticed", "revoked"]
    with Journal(node.folder / "again.jsonl", 0, time.monotonic) as journal, pytest.raises(Revoked):
        known = known_at_start(node.run, node.folder).notice
        assert known is not None
        watching.check_own(known, ALICE.id, journal)


async def test_a_node_hurries_for_as_long_as_its_certificate_is_too_old(authority: Authority, node: Node) -> None:
    before = int(node.credentials.issued) + 1
    authority.register.renew([ALICE.id], before)
    (node.run / FILE).write_bytes(authority.register.signed)
    async with node.watching():
        await node.sees(lambda: node.hurried > 2)
        while node.credentials.issued < before:
            await asyncio.sleep(0.1)
            node.credentials = grant(authority, ALICE)
        hurried = node.hurried
        await asyncio.sleep(0.1)
    assert node.hurried <= hurried + 1


async def test_authorities_are_taken_from_a_notice_that_one_of_them_has_signed(
    authority: Authority, node: Node
) -> None:
    register = authority.register
    async with node.watching():
        for change in (register.name_successor, lambda: register.take_over(NOW)):
            change()
            (node.run / FILE).write_bytes(register.signed)
            await node.sees(lambda: node.credentials.authority == authority.pem)
        node.show(grant(authority, ALICE))
        register.drop_predecessor()
        (node.run / FILE).write_bytes(register.signed)
        await node.sees(lambda: node.credentials.authority == register.voice.pem)
    assert read_notice((node.folder / FILE).read_bytes(), register.voice.pem).sequence == 3


async def test_a_node_that_was_left_behind_says_so(authority: Authority, node: Node) -> None:
    register = authority.register
    with pytest.raises(BaseExceptionGroup) as raised:
        async with node.watching():
            register.name_successor()
            (node.run / FILE).write_bytes(register.signed)
            await node.sees(lambda: node.credentials.authority == authority.pem)
            register.take_over(NOW)
            register.drop_predecessor()
            (node.run / FILE).write_bytes(register.signed)
            await asyncio.sleep(20.0)
    ended = leading(raised.value)
    assert isinstance(ended, DecentralError) and "let in again" in str(ended)
