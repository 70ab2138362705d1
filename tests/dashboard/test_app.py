"""Who looks at the page sees what there is, under names that cannot be made up, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import httpx2
import pytest

from decentral.dashboard import app as module
from decentral.dashboard.app import FILES, MOST_READERS, STATIC, Page, admits
from decentral.dashboard.hub import Hub
from tests.dashboard.test_hub import Scripted, phase

DEADLINE = 20.0
HOME = "http://127.0.0.1:8050"


def made(source: Scripted | None = None, hosts: tuple[str, ...] = ()) -> tuple[Hub, Any]:
    hub = Hub(source or Scripted())
    return hub, Page(hub, hosts).app()


def calling(app: Any, base: str = HOME) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=base)


class Reader:
    """One connection to /events, as ASGI has it; `take` is when it takes what it was sent."""

    def __init__(self, app: Any, last: str = "") -> None:
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()
        self._takes, self._left = asyncio.Semaphore(0), asyncio.Event()
        headers = [(b"host", b"localhost"), *([(b"last-event-id", last.encode())] if last else [])]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/events",
            "headers": headers,
            "query_string": b"",
            "asgi": {},
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self._sent.put_nowait(message.get("body", b""))
        await self._takes.acquire()

    async def take(self) -> tuple[str, dict[str, Any]]:
        """The next change, and what a browser would say that it has."""
        while True:
            self._takes.release()
            text = (await self._sent.get()).decode()
            if found := re.fullmatch(r"id: (\S+)\ndata: (.*)\n\n", text):
                return found[1], json.loads(found[2])

    @property
    def waiting(self) -> int:
        return self._sent.qsize()

    async def leave(self) -> None:
        self._left.set()
        for _ in range(4):
            self._takes.release()
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


@asynccontextmanager
async def reading(app: Any, last: str = "") -> AsyncIterator[Reader]:
    reader = Reader(app, last)
    try:
        async with asyncio.timeout(DEADLINE):
            yield reader
    finally:
        await reader.leave()


# ---- files --------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page refers to, and what it would run or style by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.to: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.to += [str(given[name]) for name in ("src", "href") if given.get(name)]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


async def test_the_page_refers_to_its_own_files_alone_and_all_of_them_are_there() -> None:
    _, app = made()
    async with calling(app) as http:
        page = await http.get("/")
        links = Links()
        links.feed(page.text)
        assert links.inline == []
        assert [link for link in links.to if ":" in link or link.startswith("/")] == []
        for link in links.to:
            if not link.startswith("#"):
                assert (await http.get(f"/{link}")).status_code == 200
        for name in FILES:
            found = await http.get(f"/static/{name}")
            assert found.headers["content-type"].startswith(FILES[name])
            assert "http://" not in found.text.replace("http://www.w3.org/2000/svg", "")
            for imported in re.findall(r'from "\./([^"]+)"', found.text):
                assert imported in FILES


def test_every_file_that_lies_there_is_served_and_shipped() -> None:
    folder = resources.files("decentral.dashboard").joinpath(STATIC)
    assert {file.name for file in folder.iterdir()} == {*FILES, "index.html"}


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/index.html/", "/static/", "/x"],
)
async def test_there_are_no_other_files(path: str) -> None:
    _, app = made()
    async with calling(app) as http:
        assert (await http.get(path)).status_code == 404


async def test_nothing_can_be_written() -> None:
    _, app = made()
    async with calling(app) as http:
        for path in ("/", "/state", "/events", "/static/main.js", "/pictures/x"):
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                assert (await http.request(method, path)).status_code == 405


# ---- who may ask --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("127.0.0.1:8050", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:8050", True),
        ("192.168.1.7", True),
        ("lab.example:8050", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1:x", False),
        ("", False),
    ],
)
async def test_a_name_that_anybody_could_have_given_this_machine_is_refused(host: str, admitted: bool) -> None:
    assert admits(host, {"lab.example"}) is admitted
    _, app = made(hosts=("lab.example",))
    async with calling(app) as http:
        answer = await http.get("/state", headers={"Host": host})
        assert (answer.status_code == 200) is admitted
        assert ("some" in answer.text) is admitted


async def test_another_sites_page_is_refused_and_everything_says_what_browsers_are_to_hold_to() -> None:
    _, app = made()
    async with calling(app) as http:
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            answer = await http.get("/state", headers={"Sec-Fetch-Site": site})
            assert answer.status_code == status
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in answer.headers


# ---- the state and its changes ------------------------------------------------------------------------------------


async def test_the_state_is_there_for_programs() -> None:
    hub, app = made()
    hub.board.take(phase(1))
    async with calling(app) as http:
        state = (await http.get("/state")).json()
    assert state["cells"]["head"]["recipe"] == "some"
    assert state["peers"]["1"][0] == "train"


async def test_a_reader_is_sent_all_and_then_what_changes() -> None:
    hub, app = made()
    async with reading(app) as reader:
        _, first = await reader.take()
        assert first["whole"]
        assert first["cells"]["head"]["recipe"] == "some"
        hub.board.take(phase(1))
        hub._wake()
        _, then = await reader.take()
        assert not then["whole"]
        assert then["peers"].keys() == {"1"}
        assert then["cells"] == {}


async def test_a_slow_reader_has_the_newest_and_no_queue() -> None:
    hub, app = made()
    async with reading(app) as reader:
        await reader.take()
        for round in range(1, 200):
            hub.board.take(phase(0, round))
            hub._wake()
            await asyncio.sleep(0)
        assert reader.waiting <= 1
        changes = [await reader.take()]
        while changes[-1][1]["revision"] < hub.board.revision:
            changes.append(await reader.take())
        assert len(changes) <= 2
        assert changes[-1][1]["peers"]["0"][1] == 199


async def test_who_comes_again_goes_on_and_who_comes_to_another_board_begins_anew() -> None:
    hub, app = made()
    async with reading(app) as reader:
        last, _ = await reader.take()
    hub.board.take(phase(0))
    async with reading(app, last) as again:
        _, change = await again.take()
        assert not change["whole"]
        assert change["peers"].keys() == {"0"}
    for stale in ("00000000-3", f"{hub.epoch}-99999", "nonsense", f"{hub.epoch}--1"):
        async with reading(app, stale) as other:
            _, change = await other.take()
            assert change["cells"]["head"]["recipe"] == "some"


async def test_a_reader_that_hears_nothing_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.01)
    _, app = made()
    async with reading(app) as reader:
        await reader.take()
        reader._takes.release()
        assert await reader._sent.get() == b": nothing new\n\n"


async def test_only_so_many_pages_are_open_at_once() -> None:
    _, app = made()
    readers = [Reader(app) for _ in range(MOST_READERS)]
    try:
        async with asyncio.timeout(DEADLINE):
            for reader in readers:
                await reader.take()
            async with calling(app) as http:
                assert (await http.get("/events")).status_code == 503
            await readers.pop().leave()
            async with reading(app) as late:
                await late.take()
    finally:
        for reader in readers:
            await reader.leave()


async def test_pictures_are_those_of_the_source() -> None:
    source = Scripted()
    source.kept["abc"] = b"\x89PNG"
    _, app = made(source)
    async with calling(app) as http:
        found = await http.get("/pictures/abc")
        assert (found.content, found.headers["content-type"]) == (b"\x89PNG", "image/png")
        assert (await http.get("/pictures/other")).status_code == 404
