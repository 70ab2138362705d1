"""The page as a process of its own event loop: it listens, follows its source, and lets go of it when it ends."""

from __future__ import annotations

import asyncio
import sys

import httpx2
import pytest

from decentral.dashboard.server import serve_dashboard
from decentral.errors import UserError
from decentral.launch.gateway import listening
from tests.dashboard.test_hub import Scripted, phase

DEADLINE = 30.0


async def test_what_happens_is_seen_and_the_source_is_closed_at_the_end() -> None:
    source = Scripted()
    source.fresh = [phase(1)]
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_dashboard(source, told.set_result))
    async with asyncio.timeout(DEADLINE), httpx2.AsyncClient() as http:
        url = await told
        async with http.stream("GET", f"{url}events") as events:
            lines = events.aiter_lines()
            while '"events":1' not in await anext(lines):
                pass
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert source.closed


async def test_a_page_ends_with_what_it_follows() -> None:
    """Of whatever error, which is seen; it does not go on showing what was."""

    class Broken(Scripted):
        def facts(self) -> dict[str, object]:
            raise RuntimeError("nobody has thought of this")

    source = Broken()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(BaseExceptionGroup) as raised:
            await serve_dashboard(source, lambda url: None)
    assert raised.group_contains(RuntimeError, match="nobody has thought")
    assert source.closed


async def test_without_what_it_needs_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"uvicorn: pip install 'decentral\[dashboard\]'"):
        await serve_dashboard(Scripted(), lambda url: None)


async def test_a_port_that_is_taken_is_named() -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be taken"):
            await serve_dashboard(Scripted(), lambda url: None, port=port)
