"""HTTP is answered until it is told to end, and then what would never end by itself is told as well."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from decentral.launch.answering import answering
from decentral.launch.gateway import listening

DEADLINE = 20.0


async def test_a_stream_without_an_end_ends_when_it_is_told() -> None:
    going = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        await going.wait()
        await send({"type": "http.response.body", "body": b", and the end"})

    with listening("127.0.0.1", 0) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        serving = asyncio.create_task(answering(app, taken, ending=5, end=going.set))
        async with asyncio.timeout(DEADLINE), httpx2.AsyncClient() as http, http.stream("GET", url) as answer:
            pieces = answer.aiter_bytes()
            assert await anext(pieces) == b"so far"
            serving.cancel()
            assert b"".join([piece async for piece in pieces]) == b", and the end"
            with pytest.raises(asyncio.CancelledError):
                await serving
