"""A node gets its certificate with its invitation, once, and keeps it."""

from __future__ import annotations

import asyncio

import pytest

from decentral.errors import Refused, Unreachable, UserError
from decentral.wire import enrolment
from decentral.wire.authority import Authority
from decentral.wire.enrolment import INVITATION, credentials_for, invite
from decentral.wire.identity import Identity


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority.create(tmp_path / "authority")


@pytest.fixture
def node(tmp_path):
    folder = tmp_path / "node"
    folder.mkdir()
    return folder


async def test_an_invited_node_is_let_in_and_needs_no_authority_afterwards(authority, node):
    identity = Identity.generate()
    async with authority.serve("127.0.0.1:0") as address:
        invite(authority, address, node)
        first = await credentials_for(identity, node)
    first.check(identity.id)
    assert not (node / INVITATION).exists()
    assert await credentials_for(identity, node) == first


async def test_an_invitation_is_good_for_one_node(authority, node):
    async with authority.serve("127.0.0.1:0") as address:
        invite(authority, address, node)
        invitation = (node / INVITATION).read_bytes()
        await credentials_for(Identity.generate(), node)
        (node / "tls.pem").unlink()
        (node / INVITATION).touch(mode=0o600)
        (node / INVITATION).write_bytes(invitation)
        with pytest.raises(Refused, match="token"):
            await credentials_for(Identity.generate(), node)


async def test_without_certificate_and_invitation_the_node_says_what_to_do(node):
    with pytest.raises(UserError, match="launcher"):
        await credentials_for(Identity.generate(), node)


async def test_an_authority_that_is_slow_to_come_up_is_waited_for(authority, node, monkeypatch):
    monkeypatch.setattr(enrolment, "PAUSE", 0.05)
    async with authority.serve("127.0.0.1:0") as address:
        invite(authority, address, node)
    identity = Identity.generate()
    asking = asyncio.ensure_future(credentials_for(identity, node))
    await asyncio.sleep(0.2)
    assert not asking.done()
    async with authority.serve(address):
        (await asking).check(identity.id)


async def test_an_authority_that_never_answers_is_not_waited_for_for_ever(authority, node, monkeypatch):
    monkeypatch.setattr(enrolment, "PATIENCE", 0.0)
    async with authority.serve("127.0.0.1:0") as address:
        invite(authority, address, node)
    with pytest.raises(Unreachable):
        await credentials_for(Identity.generate(), node)
    assert (node / INVITATION).exists(), "it can be tried again"
