"""From a token to a node's folder: what a joiner makes itself, what it believes, and how it goes on after a break."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from decentral.errors import Malformed, RecipeError, RunDirectoryError, UserError
from decentral.launch.apart import opened
from decentral.launch.entering import JOINING, Wish, enter, joined, place_to_listen
from decentral.launch.hosting import Host
from decentral.run.directory import RunDirectory
from decentral.run.recipe import load_recipe
from decentral.wire.authority import Authority, JoinToken
from decentral.wire.v1 import meeting_pb2 as pb

RECIPE = load_recipe("dimat-digits", ["peers=1", "algorithm=isolated", "rounds=1"])
ANY = Wish(port=0)


class Lying(Host):
    """Tells joiners something else than is so."""

    change: Callable[[pb.Agreed], object] = staticmethod(lambda agreed: None)

    async def _hand(self, talk, index: int) -> None:
        class Changed:
            async def say(_, message: pb.HostSays) -> None:
                self.change(message.agreed)
                await talk.say(message)

        await super()._hand(Changed(), index)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def hosted(path: Path, change: Callable[[pb.Agreed], object] = lambda agreed: None) -> AsyncIterator[tuple]:
    """The address of a host of one seat, and a token."""
    with opened(RECIPE, path) as directory:
        authority = Authority.open(directory.authority)
        host = Lying(directory, authority)
        host.change = change
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def listening(address: str) -> None:
            host.at(address)
            found.set_result(address)

        task = asyncio.create_task(host.run("127.0.0.1:0", listening))
        try:
            yield await found, authority.token()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_joiner_s_folder_is_that_of_one_node_when_all_start(tmp_path):
    said: list[str] = []
    async with hosted(tmp_path / "host") as (address, token):
        assert joined(tmp_path / "own") is None
        member = await enter(address, token, tmp_path / "own", ANY, said.append)
    assert joined(tmp_path / "own") == member and member.name == "peer-0"
    assert "you are peer-0" in said[0]


def recipe_with(**changes: object) -> Callable[[pb.Agreed], object]:
    """The recipe and its hash say something else."""
    told = RECIPE.model_copy(update=changes)

    def change(agreed: pb.Agreed) -> None:
        agreed.recipe, agreed.hash = told.to_yaml().encode(), told.hash

    return change


LIES: tuple[tuple[Callable[[pb.Agreed], object], type[Exception], str], ...] = (
    (lambda agreed: setattr(agreed, "hash", "0" * 64), UserError, "same version"),
    (lambda agreed: setattr(agreed, "epoch", float("nan")), Malformed, "members are not"),
    (lambda agreed: setattr(agreed, "recipe", b"peers: [1"), RecipeError, "recipe"),
    (lambda agreed: setattr(agreed, "recipe", b"algorithm: os.system"), RecipeError, "algorithm"),
    (recipe_with(data=RECIPE.data.model_copy(update={"root": "/home"})), Malformed, "has its data"),
    (recipe_with(training=RECIPE.training.model_copy(update={"start_from": "/home"})), RecipeError, "start_from"),
    (lambda agreed: setattr(agreed, "authority", "/etc/passwd"), UserError, "host"),
    (lambda agreed: setattr(agreed, "trust", b"authority = 1"), UserError, "authority"),
    (lambda agreed: setattr(agreed.members[0], "id", "a" * 52), Malformed, "another cluster"),
    (lambda agreed: setattr(agreed.members[0], "name", "../../peer-0"), Malformed, "another cluster"),
    (lambda agreed: agreed.members.add(name="peer-1"), Malformed, "another cluster"),
    (lambda agreed: agreed.parts.add(name="../../.bashrc", size=1), Malformed, "other files"),
    (lambda agreed: agreed.parts.add(name="stages/network.json", size=1 << 60), Malformed, "other files"),
)


async def test_a_host_that_lies_is_not_believed_and_no_node_comes_of_it(tmp_path):
    lies = iter([change for change, _, _ in LIES])

    def change(agreed: pb.Agreed) -> None:
        next(lies, lambda agreed: None)(agreed)

    async with hosted(tmp_path / "host", change) as (address, token):
        for _, error, words in LIES:
            with pytest.raises(error, match=words):
                await enter(address, token, tmp_path / "own", ANY)
            assert joined(tmp_path / "own") is None
        assert (await enter(address, token, tmp_path / "own", ANY)).name == "peer-0"
    assert not [file for file in tmp_path.rglob("*") if file.name in (".bashrc", "network.json")]


async def test_what_a_machine_decides_for_itself_is_device_and_data_and_nothing_else(tmp_path):
    async with hosted(tmp_path / "host") as (address, token):
        with pytest.raises(UserError, match="rounds: is the same for all"):
            await enter(address, token, tmp_path / "own", Wish(port=0, overrides=("rounds=7",)))
        mine = Wish(port=0, overrides=("device=auto", "data.root=/data"))
        await enter(address, None, tmp_path / "own", mine)
    recipe = RunDirectory.open(tmp_path / "own").recipe
    assert (recipe.device, recipe.data.root, recipe.hash) == ("auto", "/data", RECIPE.hash)


async def test_who_has_no_seat_needs_a_token_and_who_has_one_none(tmp_path, monkeypatch):
    async with hosted(tmp_path / "host") as (address, token):
        with pytest.raises(UserError, match="--token"):
            await enter(address, None, tmp_path / "own", ANY)
        with monkeypatch.context() as broken:
            broken.setattr("decentral.launch.entering._Visit._take", stopped)
            with pytest.raises(asyncio.CancelledError):
                await enter(address, token, tmp_path / "own", ANY)
        assert (await enter(address, None, tmp_path / "own", ANY)).name == "peer-0"


async def stopped(*_: object) -> None:
    raise asyncio.CancelledError


async def test_a_host_that_is_gone_for_a_moment_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr("decentral.launch.entering.PAUSES", (0.02, 0.1))
    said: list[str] = []
    async with hosted(tmp_path / "host") as (address, token):
        with monkeypatch.context() as broken:
            broken.setattr("decentral.launch.entering._Visit._take", breaking([]))
            member = await enter(address, token, tmp_path / "own", ANY, said.append)
    assert member.name == "peer-0" and any("asked again" in words for words in said)


def breaking(times: list[int]):
    from decentral.errors import Unreachable
    from decentral.launch.entering import _Visit

    honest = _Visit._take

    async def take(self, talk, agreed, index) -> None:
        times.append(1)
        if len(times) == 1:
            raise Unreachable("silent")
        await honest(self, talk, agreed, index)

    return take


async def test_a_folder_of_something_else_or_of_another_cluster_is_left_alone(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.txt").write_text("precious")
    token = Authority.create(tmp_path / "authority").token()
    with pytest.raises(RunDirectoryError, match="not empty"):
        await enter("127.0.0.1:1", token, tmp_path / "own", ANY)
    assert [file.name for file in (tmp_path / "own").iterdir()] == ["mine.txt"]


async def test_what_was_not_cleared_away_does_not_stop_a_node(tmp_path):
    async with hosted(tmp_path / "host") as (address, token):
        member = await enter(address, token, tmp_path / "own", ANY)
    (tmp_path / "own" / JOINING).mkdir()
    assert joined(tmp_path / "own") == member and not (tmp_path / "own" / JOINING).exists()


def test_ports_that_are_all_taken_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("decentral.launch.entering.PORTS", 1)

    async def join(wish: Wish) -> None:
        async with hosted(tmp_path / "host") as (address, token):
            await enter(address, token, tmp_path / "own", wish)

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("decentral.launch.entering.PORT", port)
        for wish, words in ((Wish(), f"no port from {port} to {port}"), (Wish(port=port), f"the port {port}")):
            with pytest.raises(UserError, match=words):
                asyncio.run(join(wish))


@pytest.mark.parametrize(
    ("advertise", "host", "port"),
    [
        ("", "", None),
        (":7001", "", 7001),
        ("alpha.example", "alpha.example", None),
        ("alpha.example:443", "alpha.example", 443),
        ("[fd00::1]:7000", "fd00::1", 7000),
        ("[fd00::1]", "fd00::1", None),
    ],
)
def test_where_peers_reach_this_machine_is_said_in_full_or_in_part(advertise, host, port):
    wish = Wish.of(advertise)
    assert (wish.host, wish.port) == (host, port)


@pytest.mark.parametrize("advertise", ["a b", "http://a", "a:70000", ":x", ":70000", "-a"])
def test_what_is_no_address_is_refused(advertise):
    with pytest.raises(UserError, match="--advertise"):
        Wish.of(advertise)


def test_a_node_listens_at_its_address_where_that_is_this_machine_s_and_else_everywhere():
    assert place_to_listen("127.0.0.1:7000") is None
    assert place_to_listen("192.0.2.1:7000") == "0.0.0.0"
    assert place_to_listen("[2001:db8::1]:7000") == "::"
    assert place_to_listen("no-such-host.invalid:7000") == "0.0.0.0"


async def test_a_token_of_another_host_is_told_apart_from_a_wrong_one(tmp_path):
    other = Authority.create(tmp_path / "authority").token()
    async with hosted(tmp_path / "host") as (address, token):
        with pytest.raises(UserError, match="another authority"):
            await enter(address, other, tmp_path / "own", ANY)
        with pytest.raises(UserError, match="unknown or used up"):
            await enter(address, JoinToken(bytes(32), token.authority), tmp_path / "own", ANY)
        assert (await enter(address, token, tmp_path / "own", ANY)).name == "peer-0"
