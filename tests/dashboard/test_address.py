"""Nodes at addresses are a source: believed about themselves alone, heard again after silence, and never a flood."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from decentral.dashboard.address import AddressSource, is_address
from decentral.dashboard.board import Board
from decentral.errors import UserError
from decentral.launch.answering import answering
from decentral.launch.gateway import listening
from decentral.run.recipe import Recipe

DEADLINE = 20.0
RECIPE = Recipe.model_validate({"name": "far", "peers": 2, "rounds": 3})


class Endpoint:
    """What a node answers, over real HTTP."""

    def __init__(self, index: int | None, **changed: Any) -> None:
        recipe = RECIPE.model_dump(mode="json")
        self.about = {"does": "training", "world": "hosts", "hash": RECIPE.hash, "recipe": recipe, "node": index}
        self.about |= changed
        self.lines: list[Any] = []
        self.asked: list[str] = []

    async def _about(self, request: Request) -> JSONResponse:
        return JSONResponse(self.about)

    async def _events(self, request: Request) -> StreamingResponse:
        """Those that are there, and then the end: who listens has to come again for more."""
        last = request.headers.get("last-event-id", "0")
        self.asked.append(last)

        async def told() -> Any:
            yield "retry: 1000\n\n"
            for number, line in list(enumerate(self.lines, start=1))[int(last) :]:
                yield f"id: {number}\ndata: {line if isinstance(line, str) else json.dumps(line)}\n\n"

        return StreamingResponse(told(), media_type="text/event-stream")

    @contextmanager
    def listening(self) -> Iterator[str]:
        app = Starlette(routes=[Route("/about", self._about), Route("/events", self._events)])
        loop = asyncio.new_event_loop()
        with listening("127.0.0.1", 0) as taken:
            task = loop.create_task(answering(app, taken, ending=1))

            def run() -> None:
                loop.run_until_complete(asyncio.gather(task, return_exceptions=True))

            thread = threading.Thread(target=run)
            thread.start()
            try:
                yield f"127.0.0.1:{taken.getsockname()[1]}"
            finally:
                loop.call_soon_threadsafe(task.cancel)
                thread.join()
                loop.close()


def event(peer: int | None, round: int, **fields: Any) -> dict[str, Any]:
    return {"t": 1.0, "peer": peer, "event": "phase", "round": round, "phase": "train", **fields}


def heard(source: AddressSource, count: int) -> list[Any]:
    found: list[Any] = []
    ends = time.monotonic() + DEADLINE
    while len(found) < count and time.monotonic() < ends:
        found += source.poll()
        time.sleep(0.01)
    return found


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decentral.dashboard.address.AGAIN", 0.02)


def test_what_several_nodes_say_comes_together() -> None:
    nodes = [Endpoint(0), Endpoint(1)]
    for index, node in enumerate(nodes):
        node.lines = [event(index, 1), event(index, 2)]
    with nodes[0].listening() as one, nodes[1].listening() as other:
        source = AddressSource([one, f"http://{other}/"])
        found = heard(source, 4)
        assert sorted((each["peer"], each["round"]) for each in found) == [(0, 1), (0, 2), (1, 1), (1, 2)]
        assert source.about().head["recipe"] == "far"
        assert source.about().peers == 2
        nodes[1].lines.append(event(1, 3))
        assert heard(source, 1) == [event(1, 3)]
        assert nodes[1].asked[0] == "0"
        assert "2" in nodes[1].asked
        source.close()


def test_a_node_is_believed_about_itself_alone_and_a_launcher_about_all() -> None:
    said = [event(1, 1), event(0, 1), {**event(None, 1), "event": "crashed", "other": 0}, "no event", "[" * 5000]
    for index, believed in ((1, 1), (None, 3)):
        node = Endpoint(index)
        node.lines = said
        with node.listening() as address:
            source = AddressSource([address])
            found = heard(source, 5)
            source.close()
        assert len([each for each in found if each is not None]) == believed


def test_one_that_is_gone_is_named() -> None:
    node = Endpoint(0)
    with node.listening() as address:
        source = AddressSource([address])
        assert source.picture("any") is None
    ends = time.monotonic() + DEADLINE
    while "does not answer" not in source.facts()["problem/addresses"] and time.monotonic() < ends:
        time.sleep(0.01)
    assert source.facts()["problem/addresses"].startswith(f"{address}: does not answer")
    assert not source.facts()["running"]
    source.close()
    with pytest.raises(UserError, match=f"{address}: does not answer"):
        AddressSource([address])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"hash": "0" * 64}, "another hash"),
        ({"hash": 3}, "not the endpoint"),
        ({"node": "first"}, "not the endpoint"),
        ({"recipe": {"peers": "many"}}, "peers"),
        ({"recipe": []}, "not the endpoint"),
    ],
)
def test_what_it_says_of_itself_is_checked(changed: dict[str, Any], problem: str) -> None:
    with Endpoint(0, **changed).listening() as address, pytest.raises(UserError, match=problem):
        AddressSource([address])


def test_nodes_of_other_recipes_are_not_mixed() -> None:
    other = Recipe.model_validate({"name": "far", "peers": 3})
    changed = {"hash": other.hash, "recipe": other.model_dump(mode="json")}
    with (
        Endpoint(0).listening() as one,
        Endpoint(1, **changed).listening() as two,
        pytest.raises(UserError, match=f"{two}: is of another recipe"),
    ):
        AddressSource([one, two])


@pytest.mark.slow
def test_a_real_run_is_followed_from_its_launchers_address_to_its_end(tmp_path: Path) -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    sets = [part for each in ("peers=2", "rounds=3", "model.hidden=[16]") for part in ("--set", each)]
    more = ["--out", str(tmp_path / "run"), "--metrics", str(port), "--json"]
    command = [sys.executable, "-P", "-m", "decentral", "run", "dimat-digits", *sets, *more]
    source: AddressSource | None = None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        board = Board(2)
        while process.poll() is None or (source is not None and board.since(0)["now"]["ended"] < 3):
            try:
                source = source or AddressSource([f"127.0.0.1:{port}"])
            except UserError:  # not yet
                time.sleep(0.05)
                continue
            board.take_all(source.poll())
            time.sleep(0.02)
    assert source is not None
    assert source.about().head["recipe"] == "dimat-digits"
    source.close()
    told = board.since(0)
    assert told["now"]["unsound"] == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_bytes())
    assert told["now"]["accuracy"] == pytest.approx(summary["accuracy"]["mean"], abs=1e-4)
    assert sum(told["now"]["sent"].values()) == summary["bytes"]["total"]


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("10.0.0.7:9100", True),
        ("http://node-3:9100/", True),
        ("[::1]:9100", True),
        ("runs/some-1", False),
        ("a:b", False),
    ],
)
def test_addresses_are_told_from_folders(said: str, address: bool) -> None:
    assert is_address(said) is address
