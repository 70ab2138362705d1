"""The program answers whoever has its token and its certificate, and ends when it is told to."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from decentral import locate
from decentral.launch.ending import CANNOT, TOLD
from decentral.serving.access import CLIENT
from decentral.serving.client import Client
from decentral.serving.gateway.https import PUBLIC, TOKEN

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
DEADLINE = 60.0


def trusted(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / CLIENT / PUBLIC))


def allowed(folder: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {(folder / CLIENT / TOKEN).read_text().strip()}"}


@pytest.mark.slow
async def test_a_program_of_nodes_answers_over_tls_and_ends_in_order_when_it_is_told_to(cluster: Any) -> None:
    made = await cluster()
    script = locate.folder("nodes") / "gateway.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), "--dir", str(made.folder), "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            url = (await process.stdout.readline()).decode().strip()
            async with httpx2.AsyncClient(verify=trusted(made.folder), headers=allowed(made.folder)) as http:
                answer = await http.post(f"{url}/v1/predict", json={"inputs": X.tolist()})
                assert torch.equal(torch.tensor(answer.json()["output"]), made.expected(X))
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == TOLD
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.slow
async def test_it_passes_connections_on_and_ends_when_it_is_told_to(cluster: Any) -> None:
    made, script = await cluster(), locate.folder("nodes") / "gateway.py"
    arguments = ["--dir", str(made.folder), "--port", "0", "--tunnel"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            via = (await process.stdout.readline()).decode().strip()
            async with Client.connect(made.folder, via=via) as client:
                assert torch.equal((await client.predict(X)).output, made.expected(X))
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == TOLD
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "why"),
    [([], b"trust.toml"), (["--timeout", "nan"], b"--timeout"), (["--tunnel", "--timeout", "600"], b"--timeout")],
    ids=["no cluster", "no time", "a tunnel with a time"],
)
async def test_what_it_cannot_use_ends_it_with_the_reason(tmp_path: Path, arguments: list[str], why: bytes) -> None:
    script = locate.folder("nodes") / "gateway.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), "--dir", str(tmp_path), *arguments, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE):
        _, error = await process.communicate()
    assert process.returncode == CANNOT
    assert why in error
