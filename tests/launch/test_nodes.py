"""Nodes as processes: ports that are busy, fork servers that die."""

from __future__ import annotations

import asyncio
import socket

import pytest

from decentral.errors import DecentralError, UserError
from decentral.launch.nodes import ForkServer, preloaded_for, reserve_ports
from decentral.run.recipe import load_recipe


def test_a_busy_port_is_named():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(UserError, match=str(port)):
            reserve_ports(1, port)


async def test_a_fork_server_that_dies_fails_who_waits_for_it(tmp_path):
    async with ForkServer.open(tmp_path / "log.txt") as forks:
        starting = asyncio.create_task(forks.fork([str(tmp_path / "absent.py")], tmp_path / "child.txt"))
        await asyncio.sleep(0.2)
        forks._process.kill()
        with pytest.raises(DecentralError, match="fork server ended"):
            await asyncio.wait_for(starting, 20)
        with pytest.raises(DecentralError, match="fork server ended"):
            await forks.fork([str(tmp_path / "absent.py")], tmp_path / "child.txt")


def test_nodes_of_an_ensemble_need_more_than_others():
    assert preloaded_for(load_recipe("dimat-digits")) == ()
    assert "decentral.launch.publish" in preloaded_for(load_recipe("diffusion-digits"))
