"""A gateway as a process: TLS that its callers can check, and a memory that is written down when it is told to end."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from decentral.errors import UserError
from decentral.launch.gateway import Listening, listening, serve_gateway, serve_tunnel
from decentral.serving.access import CLIENT
from decentral.serving.client import Client
from decentral.serving.gateway.https import PUBLIC, TOKEN
from decentral.serving.selection.ledger import FILE, Ledger
from decentral.serving.stages.stage import StageService
from decentral.trust.anchors import FILE as FILE_OF_TRUST
from decentral.trust.anchors import Anchors
from decentral.wire.authority import Authority

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
DEADLINE = 60.0


def caller(folder: Path, url: str, **options: Any) -> httpx2.AsyncClient:
    """Who has been given the certificate and the token."""
    trusted = ssl.create_default_context(cafile=str(folder / CLIENT / PUBLIC))
    headers = {"Authorization": f"Bearer {(folder / CLIENT / TOKEN).read_text().strip()}"}
    return httpx2.AsyncClient(base_url=url, headers=headers, verify=trusted, **options)


async def test_requests_under_way_are_answered_before_it_ends(cluster: Any) -> None:
    asked, going = asyncio.Event(), asyncio.Event()

    class Waits(StageService):
        async def commit(self, *args: Any) -> None:
            asked.set()
            await going.wait()
            await super().commit(*args)

    made = await cluster(liars={f"stage-1-{letter}": Waits for letter in "abc"})
    told: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_gateway(made.folder, told.set_result))
    async with asyncio.timeout(DEADLINE):
        where = await told
        assert where.certificate == made.folder / CLIENT / PUBLIC
        async with httpx2.AsyncClient() as stranger:
            with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await stranger.get(f"{where.url}/v1/health")
        async with caller(made.folder, where.url, timeout=DEADLINE) as http:
            answering = asyncio.create_task(http.post("/v1/predict", json={"inputs": X.tolist()}))
            await asked.wait()
            serving.cancel()
            going.set()
            assert torch.equal(torch.tensor((await answering).json()["output"]), made.expected(X))
        with pytest.raises(asyncio.CancelledError):
            await serving
    with Ledger.open(made.folder / CLIENT / FILE) as ledger, ledger.reading() as connection:
        assert connection.execute("SELECT count(*) FROM tracks").fetchone()[0] >= len(made.anchors.peers)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(where.url.rpartition(":")[2])), timeout=5)


async def test_an_answer_has_the_time_that_it_is_told(cluster: Any) -> None:
    class Waits(StageService):
        async def commit(self, *args: Any) -> None:
            await asyncio.Event().wait()

    made = await cluster(liars={f"stage-1-{letter}": Waits for letter in "abc"})
    told: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_gateway(made.folder, told.set_result, timeout=1.5))
    async with asyncio.timeout(DEADLINE):
        async with caller(made.folder, (await told).url, timeout=DEADLINE) as http:
            late = await http.post("/v1/predict", json={"inputs": X.tolist()})
        assert late.status_code == 504
        assert "within 1.5 s" in late.json()["detail"]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def test_a_port_that_is_taken_or_a_host_that_is_elsewhere_is_named() -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of"), listening("127.0.0.1", port):
            raise AssertionError("two listen at one port")
    for host in ("nowhere.invalid", "203.0.113.9"):
        with pytest.raises(UserError, match=host), listening(host, 0):
            raise AssertionError("it listens where it is not")


async def test_without_what_it_needs_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"uvicorn: pip install 'decentral\[gateway\]'"):
        await serve_gateway(tmp_path, lambda where: None)


async def test_a_tunnel_needs_the_trust_file_alone(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key, no certificate, no model, and not what an HTTP gateway is made of."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    made, elsewhere = await cluster(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(made.folder / FILE_OF_TRUST, elsewhere)
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    passing = asyncio.create_task(serve_tunnel(elsewhere, told.set_result))
    async with asyncio.timeout(DEADLINE), Client.connect(made.folder, via=await told) as client:
        assert torch.equal((await client.predict(X)).output, made.expected(X))
    assert [file.name for file in elsewhere.iterdir()] == [FILE_OF_TRUST]
    passing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await passing
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(told.result().rpartition(":")[2])), timeout=5)


async def test_a_tunnel_that_would_lead_nowhere_does_not_begin(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(UserError, match=r"trust\.toml"):
        await serve_tunnel(tmp_path, lambda via: None)
    Anchors(authority.pem, ()).save(tmp_path / FILE_OF_TRUST)
    with pytest.raises(UserError, match="names no nodes"):
        await serve_tunnel(tmp_path, lambda via: None)


async def test_a_folder_without_a_cluster_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trust\.toml"):
        await serve_gateway(tmp_path, lambda where: None)
