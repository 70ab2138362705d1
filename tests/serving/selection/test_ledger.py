"""What is written is there again after the process has ended, whoever else writes; damage is named and left alone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from decentral.errors import UserError
from decentral.serving.selection.ledger import FILE, VERSION, Ledger

ADD = "INSERT INTO reputations VALUES (?, 1.0, 0.0, 0, 0.0)"
COUNT = "SELECT count(*) FROM reputations"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / FILE


def count(ledger: Ledger) -> int:
    with ledger.reading() as connection:
        (found,) = connection.execute(COUNT).fetchone()
    return int(found)


def fill(file: Path, rows: int) -> None:
    with Ledger.open(file) as ledger, ledger.writing() as connection:
        connection.executemany(ADD, [(f"peer-{row}-{'x' * 100}",) for row in range(rows)])


def test_what_was_written_is_there_after_reopening_and_for_its_owner_alone(file: Path) -> None:
    fill(file, 3)
    with Ledger.open(file) as ledger:
        assert count(ledger) == 3
        assert all(path.stat().st_mode & 0o077 == 0 for path in file.parent.iterdir())


def test_a_change_is_whole_or_not_at_all(file: Path) -> None:
    fill(file, 1)
    with Ledger.open(file) as ledger:
        with pytest.raises(RuntimeError, match="half-way"), ledger.writing() as connection:
            connection.execute(ADD, ("another",))
            raise RuntimeError("half-way")
        assert count(ledger) == 1
        with ledger.writing() as connection:
            connection.execute(ADD, ("another",))
        assert count(ledger) == 2


def test_a_process_that_is_killed_while_it_writes_leaves_the_file_as_it_was(file: Path) -> None:
    fill(file, 1)
    script = (
        "import os, signal, sys; from pathlib import Path; from decentral.serving.selection.ledger import Ledger\n"
        "with Ledger.open(Path(sys.argv[1])).writing() as connection:\n"
        f"    connection.execute({ADD!r}, ('another',))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(file)], check=False, timeout=60).returncode == -9
    with Ledger.open(file) as ledger:
        assert count(ledger) == 1


def test_a_mistake_of_ours_is_not_taken_for_damage(file: Path) -> None:
    ledger = Ledger.open(file)
    with pytest.raises(sqlite3.OperationalError, match="no such table"), ledger.reading() as connection:
        connection.execute("SELECT * FROM absent")
    ledger.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"), ledger.reading() as connection:
        connection.execute(COUNT)


def damages(file: Path) -> Iterator[tuple[str, bytes]]:
    whole = file.read_bytes()
    yield "of another kind", b"[[peers]]\n" * 500
    yield "without its head", b"\0" * 100 + whole[100:]
    yield "cut in the middle", whole[: len(whole) // 2]
    yield "with pages of noise", whole[:4096] + bytes(range(256)) * ((len(whole) - 4096) // 256)


def test_a_damaged_file_is_named_and_left_as_it_is(file: Path) -> None:
    fill(file, 400)
    for name, content in damages(file):
        for beside in file.parent.iterdir():
            beside.unlink()
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(UserError, match=r"ledger\.sqlite: is damaged.*move it away"):
            Ledger.open(file)
        assert file.read_bytes() == content, name


def test_a_file_of_another_program_or_version_is_named_and_left_as_it_is(file: Path) -> None:
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    file.chmod(0o600)
    content = file.read_bytes()
    with pytest.raises(UserError, match="another program"):
        Ledger.open(file)
    assert file.read_bytes() == content
    file.unlink()
    fill(file, 1)
    newer = sqlite3.connect(file)
    newer.execute(f"PRAGMA user_version = {VERSION + 1}")
    newer.close()
    with pytest.raises(UserError, match=f"version {VERSION + 1}.*knows version {VERSION}"):
        Ledger.open(file)


def test_a_file_that_others_can_read_is_refused(file: Path) -> None:
    fill(file, 1)
    file.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        Ledger.open(file)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, where a folder should be")
    for place in (tmp_path / "taken" / FILE, tmp_path / "nowhere" / FILE):
        with pytest.raises(UserError, match="cannot be opened for writing"):
            Ledger.open(place)


def test_a_full_disk_is_named_and_what_was_written_before_stays(file: Path) -> None:
    fill(file, 1)
    with Ledger.open(file) as ledger:
        with ledger.writing() as connection:  # SQLite says the same as on a disk without room
            connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(UserError, match=r"cannot grow.*full"), ledger.writing() as connection:
            connection.executemany(ADD, [(f"{'x' * 1000}{row}",) for row in range(1000)])
        assert count(ledger) == 1
        with ledger.writing() as connection:
            connection.execute("PRAGMA max_page_count = 1000000")
        with ledger.writing() as connection:
            connection.execute(ADD, ("another",))
        assert count(ledger) == 2


def test_who_reads_waits_for_no_writer_of_the_same_process_and_sees_what_is_whole(file: Path) -> None:
    found: list[int] = []
    with Ledger.open(file) as ledger:
        with ledger.writing() as connection:
            connection.execute(ADD, ("mine",))
            reading = threading.Thread(target=lambda: found.append(count(ledger)), daemon=True)
            reading.start()
            reading.join(10)
            assert found == [0]
        assert count(ledger) == 1


def test_who_waits_too_long_for_another_writer_is_told(file: Path) -> None:
    with Ledger.open(file) as first, Ledger.open(file, waiting=0.05) as second:
        with first.writing() as connection:
            connection.execute(ADD, ("mine",))
            assert count(second) == 0, "readers wait for nobody"
            with pytest.raises(UserError, match="written by another process"), second.writing():
                raise AssertionError("two write at once")
        with second.writing() as connection:
            connection.execute(ADD, ("theirs",))
        assert count(first) == 2


def test_processes_that_make_the_file_at_the_same_time_make_one(file: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from decentral.serving.selection.ledger import Ledger\n"
        "sys.stdin.read()\n"
        "with Ledger.open(Path(sys.argv[1])) as ledger, ledger.writing() as connection:\n"
        f"    connection.execute({ADD!r}, (sys.argv[2],))\n"
    )
    command = [sys.executable, "-c", script, str(file)]
    started = [subprocess.Popen([*command, str(place)], stdin=subprocess.PIPE) for place in range(4)]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in started] == [0] * 4
    with Ledger.open(file) as ledger:
        assert count(ledger) == 4
