"""What a node's exit code says, in a process of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import pytest

from decentral.launch.ending import first_of

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


DRAINING = """
import asyncio, sys
from decentral.launch.ending import live

async def node(told):
    told.heeded = {serves}
    print("up", flush=True)
    try:
        await told.event.wait()
        print("draining", flush=True)
        await asyncio.sleep({seconds})
        print("drained", flush=True)
    finally:
        try:
            await asyncio.sleep({farewell})
        finally:
            print("goodbye", flush=True)

sys.exit(live(lambda told: node(told)))
"""


@pytest.mark.parametrize(
    ("signals", "seconds", "farewell", "said"),
    [
        (1, 0.1, 0, ["drained\n", "goodbye\n"]),
        (2, 60, 0, ["goodbye\n"]),
        (3, 60, 60, []),
    ],
    ids=["drains", "a second one ends it", "a third one waits for nothing"],
)
def test_a_node_that_drains_is_told_ever_more_urgently(
    signals: int, seconds: float, farewell: float, said: list[str]
) -> None:
    program = DRAINING.format(seconds=seconds, farewell=farewell, serves=True)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "up\n"
        node.send_signal(signal.SIGTERM)
        assert node.stdout.readline() == "draining\n"
        for _ in range(signals - 1):
            node.send_signal(signal.SIGTERM)
            time.sleep(0.2)  # signals of one kind that come at once are one
        assert node.stdout.readlines() == said
    assert node.returncode == 143


def test_a_node_that_does_not_serve_yet_has_nothing_to_drain() -> None:
    program = DRAINING.format(seconds=60, farewell=0, serves=False)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "up\n"
        node.send_signal(signal.SIGTERM)
        assert node.stdout.readlines() == ["goodbye\n"]
    assert node.returncode == 143


@pytest.mark.parametrize("fails", [False, True], ids=["in order", "by an error"])
async def test_a_node_ends_on_the_first_of_several_ways_and_says_if_that_failed(fails: bool) -> None:
    ended = list[str]()

    async def first() -> None:
        if fails:
            raise OSError("the folder is gone")

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("other")

    async with asyncio.timeout(5):
        if fails:
            with pytest.raises(OSError, match="the folder is gone"):
                await first_of(other(), first())
        else:
            await first_of(other(), first())
    assert ended == ["other"]


async def test_who_waits_for_a_way_to_end_may_be_told_to_stop() -> None:
    waiting = asyncio.ensure_future(first_of(asyncio.sleep(60)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
