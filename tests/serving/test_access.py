"""A client gets in by the invitation that was left for it, once, and believes who the trust file names."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from decentral import lock
from decentral.errors import TransportError, UserError
from decentral.serving import access as access_module
from decentral.serving.access import CLIENT, LOCK, Access, access
from decentral.trust.anchors import FILE, Anchor, Anchors, Revoked
from decentral.wire import rpc
from decentral.wire.authority import Authority
from decentral.wire.enrolment import invite
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity


def anchor(name: str, part: str) -> Anchor:
    return Anchor(name, Identity.from_seed(name.encode()).id, "127.0.0.1:1", part)


async def test_one_invitation_makes_a_client_that_comes_back_without_another(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "authority")
    Anchors(authority.pem, (anchor("a", "expert-0"),)).save(tmp_path / FILE)
    with pytest.raises(UserError, match="neither a certificate nor an invitation"):
        async with access(tmp_path):
            raise AssertionError("somebody got in without being asked")
    async with authority.serve("127.0.0.1:0") as address:
        invite(authority, address, tmp_path / CLIENT)
        async with access(tmp_path) as cluster:
            assert [peer.name for peer in cluster.anchors.peers] == ["a"]
    async with access(tmp_path):  # the authority is gone, and not needed
        assert (tmp_path / CLIENT).stat().st_mode & 0o077 == 0


async def test_a_certificate_of_another_authority_is_no_way_in(tmp_path: Path) -> None:
    ours, theirs = Authority.create(tmp_path / "ours"), Authority.create(tmp_path / "theirs")
    Anchors(ours.pem, ()).save(tmp_path / FILE)
    (tmp_path / CLIENT).mkdir(mode=0o700)
    async with theirs.serve("127.0.0.1:0") as address:
        invite(theirs, address, tmp_path / CLIENT)
        with pytest.raises(UserError, match="another authority"):
            async with access(tmp_path):
                raise AssertionError("a foreign certificate was taken")


async def test_where_there_is_no_cluster_the_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=FILE):
        async with access(tmp_path / "nothing"):
            raise AssertionError("nothing was opened")


def test_parts_are_found_by_kind_and_number() -> None:
    parts = {"a": "expert-0", "b": "expert-10", "c": "stage-1", "d": "", "e": "expert-0"}
    peers = tuple(anchor(name, part) for name, part in parts.items())
    cluster = Access(None, None, Anchors(b"", peers))  # type: ignore[arg-type]
    found = {number: [peer.name for peer in replicas] for number, replicas in cluster.serving("expert").items()}
    assert found == {0: ["a", "e"], 10: ["b"]}


async def test_of_several_that_come_at_once_one_uses_up_the_invitation_and_all_get_in(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "authority")
    Anchors(authority.pem, ()).save(tmp_path / FILE)
    (tmp_path / CLIENT).mkdir(mode=0o700)

    async def enter() -> str:
        async with access(tmp_path) as cluster:
            return cluster.identity.id

    async with authority.serve("127.0.0.1:0") as address:
        invite(authority, address, tmp_path / CLIENT)
        found = await asyncio.gather(*(enter() for _ in range(4)))
    assert len(set(found)) == 1, "all are the same client"


async def test_a_folder_that_cannot_be_the_clients_own_is_named(tmp_path: Path) -> None:
    Anchors(Authority.create(tmp_path / "authority").pem, ()).save(tmp_path / FILE)
    (tmp_path / CLIENT).write_text("a file")
    with pytest.raises(UserError, match=f"{CLIENT}: is this client's own folder, and cannot be written"):
        async with access(tmp_path):
            raise AssertionError("keys were kept in a file")


async def test_keys_that_another_process_is_at_are_waited_for_until_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decentral.serving.access.WAITING", 0.05)
    Anchors(Authority.create(tmp_path / "authority").pem, ()).save(tmp_path / FILE)
    (tmp_path / CLIENT).mkdir(mode=0o700)
    held = lock.take(tmp_path / CLIENT / LOCK)
    assert held is not None
    with pytest.raises(UserError, match=f"{CLIENT}: another process has been at this client's keys for 0.05 s"):
        async with access(tmp_path):
            raise AssertionError("two are at the keys")
    os.close(held)


@pytest.mark.parametrize("error", [OSError("the disk does not answer"), RuntimeError("a mistake of ours")], ids=repr)
async def test_a_client_that_cannot_follow_the_trust_file_says_so_and_goes_on_trying(
    tmp_path: Path,
    authority: Authority,
    certify: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    failing, stamps = True, access_module._stamps

    def looked(*files: Path) -> list[tuple[int, int]]:
        if failing:
            raise error
        return stamps(*files)

    monkeypatch.setattr(access_module, "LOOK", 0.01)
    monkeypatch.setattr(access_module, "_stamps", looked)
    one = anchor("a", "expert-0")
    pinned = Anchors(authority.pem, (one,))
    pinned.save(tmp_path / FILE)
    (tmp_path / CLIENT).mkdir(mode=0o700)
    certify(authority, Identity.open(tmp_path / CLIENT / "identity.key")).save(tmp_path / CLIENT)
    async with asyncio.timeout(20), access(tmp_path) as cluster:
        replace(pinned, revoked=(Revoked(one.id, 1),)).save(tmp_path / FILE)
        while not caplog.records:  # noqa: ASYNC110  it fails in a task of its own
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        (said,) = [record.getMessage() for record in caplog.records]
        assert str(tmp_path / FILE) in said and str(error) in said
        failing = False
        while True:
            with pytest.raises(TransportError) as refused:
                await cluster.links.call(one.id, unheard, 0.05)
            if "revoked" in str(refused.value):
                break


async def unheard(channel: Any, patience: Any) -> None:
    """A call that nobody takes."""
    await channel.unary_unary(f"/{rpc.HEALTH}/Check", None, None)(b"")


async def test_a_client_that_is_connected_keeps_to_what_the_trust_file_becomes(
    tmp_path: Path, authority: Authority, certify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decentral.serving.access.LOOK", 0.01)

    async def heard(cluster: Access, peer: Anchor) -> str:
        async def ping(channel: Any, patience: Any) -> str:
            return str(await channel.unary_unary(f"/{rpc.HEALTH}/Check", None, None)(b""))

        try:
            return await cluster.links.call(peer.id, ping, 10.0)
        except TransportError as error:
            return str(error)

    async with AsyncExitStack() as stack:
        peers = []
        for name in ("a", "b"):
            identity = Identity.from_seed(name.encode())
            serving = GrpcTransport.serve("127.0.0.1:0", identity, certify(authority, identity))
            address = (await stack.enter_async_context(serving)).address
            peers.append(Anchor(name, identity.id, address, f"expert-{len(peers)}"))
        pinned = Anchors(authority.pem, tuple(peers))
        pinned.save(tmp_path / FILE)
        (tmp_path / CLIENT).mkdir(mode=0o700)
        own = Identity.open(tmp_path / CLIENT / "identity.key")
        certify(authority, own).save(tmp_path / CLIENT)
        cluster = await stack.enter_async_context(access(tmp_path))
        assert ["revoked" in await heard(cluster, peer) for peer in peers] == [False, False]
        (tmp_path / FILE).write_text("half a file")
        await asyncio.sleep(0.05)
        replace(pinned, revoked=(Revoked(peers[0].id, 1),)).save(tmp_path / FILE)
        async with asyncio.timeout(20.0):
            while "revoked" not in await heard(cluster, peers[0]):  # noqa: ASYNC110  a file changes it
                await asyncio.sleep(0.02)
        assert "revoked" not in await heard(cluster, peers[1])
        async with access(tmp_path) as later:
            assert list(later.serving("expert")) == [1]
