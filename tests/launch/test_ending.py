"""What a node's exit code says, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

NODE = """
import asyncio, sys
from decentral.errors import DecentralError, UserError
from decentral.launch.ending import live

async def node():
    try:
        {body}
    finally:
        print("goodbye", flush=True)

sys.exit(live(node()))
"""


def start(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", NODE.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("await asyncio.sleep(0)", 0, ""),
        ("raise UserError('no such key')", 2, "no such key\n"),
        ("raise DecentralError('it broke')", 1, "it broke\n"),
    ],
)
def test_the_exit_code_says_how_it_ended(body: str, code: int, said: str) -> None:
    node = start(body)
    out, error = node.communicate(timeout=60)
    assert (node.returncode, out, error) == (code, "goodbye\n", said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_is_told_to_end_says_goodbye_first(number: signal.Signals) -> None:
    node = start("print('up', flush=True); await asyncio.sleep(60)")
    assert node.stdout is not None
    assert node.stdout.readline() == "up\n"
    node.send_signal(number)
    out, _ = node.communicate(timeout=60)
    assert (node.returncode, out) == (143, "goodbye\n")
