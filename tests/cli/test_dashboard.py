"""`decentral dashboard` says where the page is, shows what there is, and ends with Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from decentral.cli.main import BAD_INPUT, INTERRUPTED, app
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe

DEADLINE = 60.0
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""As a person's shell has it."""


def test_a_folder_that_holds_no_run_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["dashboard", str(tmp_path)])
    assert result.exit_code == BAD_INPUT
    assert f"{tmp_path}: holds no run" in result.output


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        (["runs/some", "127.0.0.1:1"], "runs/some: one directory is shown at once"),
        (["127.0.0.1:1"], "127.0.0.1:1: does not answer"),
        (["127.0.0.1:1", "--receipts", "here"], "--receipts: what they are verified by"),
        (["127.0.0.1:99999"], "is no address"),
    ],
)
def test_what_can_be_neither_read_nor_asked_is_named(what: list[str], problem: str) -> None:
    result = CliRunner().invoke(app, ["dashboard", *what])
    assert result.exit_code == BAD_INPUT
    assert problem in result.output


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
async def test_it_says_where_it_is_and_ends_while_a_page_is_open(tmp_path: Path, ended_by: signal.Signals) -> None:
    RunDirectory.create(tmp_path / "run", Recipe.model_validate({"name": "some", "peers": 2}), "local").close()
    command = [sys.executable, "-m", "decentral", "dashboard", str(tmp_path / "run"), "--port", "0", "--json"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=BUFFERED)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE), httpx2.AsyncClient() as http:
            url = json.loads(await process.stdout.readuntil(b"}\n"))["url"]
            assert (await http.get(f"{url}state")).json()["cells"]["head"]["recipe"] == "some"
            async with http.stream("GET", f"{url}events") as events:
                lines = events.aiter_lines()
                while not (await anext(lines)).startswith("data: "):
                    pass
                process.send_signal(ended_by)
                await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == (INTERRUPTED if ended_by is signal.SIGINT else 0)
