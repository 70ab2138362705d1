"""`decentral gateway` says where it is and how to call it, and ends with Ctrl-C; what it cannot use it names."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from typer.testing import CliRunner

from decentral.cli.main import INTERRUPTED, app
from decentral.serving.client import Client

DEADLINE = 60.0
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""As a person's shell has it."""
X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.slow
async def test_it_says_how_to_call_it_and_ends_with_ctrl_c(cluster: Any) -> None:
    made = await cluster()
    command = [sys.executable, "-m", "decentral", "gateway", str(made.folder), "--port", "0"]
    pipe = asyncio.subprocess.PIPE
    for more in ([], ["--json"]):
        process = await asyncio.create_subprocess_exec(*command, *more, stdout=pipe, stderr=pipe, env=BUFFERED)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(DEADLINE):
                if more:
                    said = json.loads(await process.stdout.readuntil(b"}\n"))
                    url = said["url"]
                    assert said["token"] == str(made.folder / "client" / "gateway.token")
                    assert said["certificate"] == str(made.folder / "client" / "gateway.crt")
                else:
                    url = (await process.stdout.readline()).decode().strip()
                token = (made.folder / "client" / "gateway.token").read_text().strip()
                async with httpx2.AsyncClient(verify=False) as http:
                    told = await http.get(f"{url}/v1/model", headers={"Authorization": f"Bearer {token}"})
                assert told.json()["epoch"] == 1
                process.send_signal(signal.SIGINT)
                _, error = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == INTERRUPTED
        assert (b"curl --cacert" in error) is not bool(more)


@pytest.mark.slow
async def test_a_tunnel_says_where_it_is_and_how_to_come_through_it(cluster: Any) -> None:
    made = await cluster()
    command = [sys.executable, "-m", "decentral", "gateway", str(made.folder), "--tunnel", "--port", "0"]
    pipe = asyncio.subprocess.PIPE
    for more in ([], ["--json"]):
        process = await asyncio.create_subprocess_exec(*command, *more, stdout=pipe, stderr=pipe, env=BUFFERED)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(DEADLINE):
                if more:
                    via = json.loads(await process.stdout.readuntil(b"}\n"))["via"]
                else:
                    via = (await process.stdout.readline()).decode().strip()
                async with Client.connect(made.folder, via=via) as client:
                    assert torch.equal((await client.predict(X)).output, made.expected(X))
                process.send_signal(signal.SIGINT)
                _, error = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == INTERRUPTED
        assert (f"--via {via}".encode() in error) is not bool(more)


def test_what_it_cannot_use_is_named(tmp_path: Path) -> None:
    for arguments, why in (
        ([str(tmp_path)], "trust.toml"),
        ([str(tmp_path), "--port", "70000"], "65535"),
        ([str(tmp_path), "--tunnel"], "trust.toml"),
        ([str(tmp_path), "--tunnel", "--key", "key.pem"], "--certificate, --key and --timeout"),
        ([str(tmp_path), "--tunnel", "--timeout", "600"], "--certificate, --key and --timeout"),
        ([str(tmp_path), "--timeout", "0"], "--timeout"),
    ):
        result = CliRunner().invoke(app, ["gateway", *arguments])
        assert result.exit_code == 2
        assert why in result.output
