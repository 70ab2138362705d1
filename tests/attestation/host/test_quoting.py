"""A simulated processor's process: whoever asks is measured, and nothing is measured away again."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from decentral import canonical
from decentral.attestation.attester import RUNTIME, Unattested
from decentral.attestation.host.measuring import CODE, RECIPE, Measurer
from decentral.attestation.host.processes import running
from decentral.attestation.host.quoting import ADDRESS, PREFIX, Quoting, QuotingAttester, forget, serving
from decentral.attestation.registers import EventLog
from decentral.attestation.report import Technology
from decentral.errors import UserError

DATA = bytes(range(64))


class Signs:
    """A platform whose quotes say what they are of."""

    technology = Technology.TDX

    def quote(self, report_data: bytes, image: bytes, log: EventLog) -> bytes:
        return report_data + image + log.replay()[RUNTIME]

    def collateral(self, now: int) -> bytes:
        return str(now).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text("serve: it")
    return tmp_path


@pytest.fixture
def quoting(folder: Path) -> Quoting:
    return Quoting(Signs(), Measurer(folder), lambda: 1_000.5, running)


@pytest.fixture
async def attester(quoting: Quoting, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[object]:
    async with serving(quoting, tmp_path_factory.mktemp("s"), folder):
        yield QuotingAttester(folder)


async def test_a_quote_is_about_the_process_that_asks(attester: QuotingAttester, quoting: Quoting) -> None:
    quoted = await attester.quote(DATA)
    found = quoting.measurer.measure(running(os.getpid()))
    assert quoted.quote == DATA + found.image + quoted.log.replay()[RUNTIME]
    assert [event.name for event in quoted.log.events] == [CODE, RECIPE]
    assert quoted.log == await attester.log()
    assert (quoted.technology, quoted.collateral, quoted.manifest) == (
        Technology.TDX,
        b"1000",
        found.manifest.encoded(),
    )


async def test_what_changes_is_extended_and_changing_it_back_hides_nothing(
    attester: QuotingAttester, folder: Path
) -> None:
    first = await attester.quote(DATA)
    (folder / "recipe.yaml").write_text("serve: another")
    second = await attester.quote(DATA)
    (folder / "recipe.yaml").write_text("serve: it")
    third = await attester.quote(DATA)
    assert [event.name for event in third.log.events] == [CODE, RECIPE, RECIPE, RECIPE]
    assert third.log.events[:3] == second.log.events
    assert len({each.log.replay()[RUNTIME] for each in (first, second, third)}) == 3
    assert third.log.named(RECIPE, RUNTIME) is None


async def test_another_process_has_registers_of_its_own(attester: QuotingAttester, folder: Path) -> None:
    (folder / "recipe.yaml").write_text("serve: another")
    await attester.log()
    (folder / "recipe.yaml").write_text("serve: it")
    assert len((await attester.log()).events) == 3
    program = (
        "import asyncio, sys, pathlib; from decentral.attestation.host.quoting import QuotingAttester; "
        "print(len(asyncio.run(QuotingAttester(pathlib.Path(sys.argv[1])).log()).events))"
    )
    asked = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(folder), stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    said, _ = await asked.communicate()
    assert said.split() == [b"2"]


def test_files_that_change_all_the_time_end_in_an_error(quoting: Quoting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decentral.attestation.registers.MAX_EVENTS", 2)
    process = running(os.getpid())
    quoting.log(process)
    (quoting.measurer.folder / "recipe.yaml").write_text("changed")
    with pytest.raises(UserError, match="change all the time"):
        quoting.log(process)


def test_a_process_is_remembered_as_long_as_it_runs_and_no_more_are_measured_than_there_is_room_for(
    quoting: Quoting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decentral.attestation.host.quoting.MOST_PROCESSES", 2)
    own = running(os.getpid())
    ended = [replace(own, started=started) for started in (1, 2)]
    for process in (*ended, own):
        quoting.log(process)
    assert list(quoting._logs) == [(own.pid, own.started)]
    monkeypatch.setattr("decentral.attestation.host.quoting.is_running", lambda pid, started: True)
    quoting.log(replace(own, started=3))
    with pytest.raises(UserError, match="2 processes are measured already"):
        quoting.log(replace(own, started=4))


async def test_who_runs_another_program_is_refused(
    quoting: Quoting, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    strict = Quoting(quoting.platform, quoting.measurer, quoting.clock)
    async with serving(strict, tmp_path_factory.mktemp("s"), folder):
        with pytest.raises(Unattested, match="no program of decentral"):
            await QuotingAttester(folder).log()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"quote, please",
        b'{"log": true}',  # not as it is written
        b'{"log":false}',
        b'{"log":true,"sign":""}',
        canonical.encode({"sign": canonical.text(DATA[:-1])}),
        canonical.encode({"sign": canonical.text(DATA), "pid": 1}),
    ],
)
async def test_what_is_no_request_is_answered_with_a_problem(
    attester: QuotingAttester, folder: Path, line: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection((folder / ADDRESS).read_text())
    writer.write(line + b"\n")
    assert "problem" in canonical.decode((await reader.readline())[:-1])
    writer.close()
    assert (await attester.log()).events


async def test_who_says_too_much_or_too_little_hears_nothing(
    attester: QuotingAttester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decentral.attestation.host.quoting.DEADLINE", 0.2)
    for said in (b"x" * 4096, b"half a line"):
        reader, writer = await asyncio.open_unix_connection((folder / ADDRESS).read_text())
        writer.write(said)
        assert await reader.read() == b""
        writer.close()


async def test_a_process_that_is_gone_or_talks_nonsense_is_an_error(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(Unattested, match="does not answer"):
        await QuotingAttester(folder).log()
    socket = tmp_path_factory.mktemp("s") / "socket"

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"log":"?"}\n')
        writer.close()

    async with await asyncio.start_unix_server(nonsense, socket):
        (folder / ADDRESS).write_text(str(socket))
        with pytest.raises(Unattested, match="cannot be read"):
            await QuotingAttester(folder).log()


async def test_nobody_but_the_owner_may_ask(attester: QuotingAttester, folder: Path) -> None:
    assert os.stat((folder / ADDRESS).read_text()).st_mode & 0o077 == 0  # noqa: PTH116


async def test_a_socket_that_answers_is_nobody_elses_to_take(attester: QuotingAttester, folder: Path) -> None:
    with pytest.raises(UserError, match="runs already"):
        forget(folder)
    assert await attester.log()


def test_what_one_that_was_killed_has_left_is_removed_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    forget(folder)  # there was none
    place = Path(tempfile.mkdtemp(prefix=PREFIX))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place / "socket"))
    (folder / ADDRESS).write_text(str(place / "socket"))
    forget(folder)
    assert not place.exists()
    mine = tmp_path / f"{PREFIX}mine"
    mine.mkdir()
    (mine / "socket").write_text("years of work")
    (folder / ADDRESS).write_text(str(mine / "socket"))
    forget(folder)
    assert (mine / "socket").exists()
