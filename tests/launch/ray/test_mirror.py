"""What a node writes is the launcher's too: every line once, in order, after the files that were there before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.errors import DecentralError
from decentral.launch.ray import mirror
from decentral.launch.ray.mirror import Known, News, has_grown, kept, look, take
from decentral.run.directory import RunDirectory
from decentral.run.journal import read
from decentral.run.recipe import load_recipe

NAME = "peer-0"


def two_runs(folder: Path) -> tuple[RunDirectory, RunDirectory]:
    """The node's own, and the launcher's."""
    recipe = load_recipe("dimat-digits")
    runs = [RunDirectory.create(folder / name, recipe, "ray") for name in ("there", "here")]
    for run in runs:
        run.close()
        run.node(NAME)
    return runs[0], runs[1]


def line(number: int) -> bytes:
    return json.dumps({"t": number, "peer": 0, "event": "round", "round": number}).encode() + b"\n"


def write(run: RunDirectory, file: str, data: bytes) -> None:
    path = run.path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def all_told(there: RunDirectory, here: RunDirectory, known: Known) -> None:
    while not (news := look(there, NAME, known)).empty:
        take(here, NAME, known, news)


def test_what_was_told_is_there_and_what_was_pruned_is_not(tmp_path):
    there, here = two_runs(tmp_path)
    known = Known()
    for number in range(1, 5):
        write(there, f"checkpoints/{NAME}/round-{number:06d}.safetensors", bytes([number]) * 10)
        (there.path / f"checkpoints/{NAME}/round-{number - 2:06d}.safetensors").unlink(missing_ok=True)
        write(there, f"nodes/{NAME}/counter", str(number).encode())
        with there.journal_file(NAME).open("ab") as journal:
            journal.write(line(number))
        with there.log_file(NAME).open("ab") as log:
            log.write(b"said\n")
        all_told(there, here, known)
    assert here.journal_file(NAME).read_bytes() == there.journal_file(NAME).read_bytes()
    assert here.log_file(NAME).read_bytes() == b"said\n" * 4
    shelf = here.path / "checkpoints" / NAME
    assert sorted(path.name for path in shelf.iterdir()) == [f"round-00000{n}.safetensors" for n in (3, 4)]
    assert (here.path / f"checkpoints/{NAME}.safetensors").read_bytes() == bytes([4]) * 10
    assert (here.path / f"nodes/{NAME}/counter").read_bytes() == b"4"
    assert look(there, NAME, known).empty


def test_a_node_that_says_something_has_grown_until_it_is_told(tmp_path):
    there, here = two_runs(tmp_path)
    known = Known()
    for file in ("events.jsonl", "log.txt"):
        assert not has_grown(there, NAME, known)
        write(there, f"nodes/{NAME}/{file}", line(1))
        assert has_grown(there, NAME, known)
        all_told(there, here, known)
    assert not has_grown(there, NAME, known)


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(1, 400), max_size=20))
def test_a_line_is_told_once_and_whole_however_it_was_written(tmp_path_factory, cuts):
    there, here = two_runs(tmp_path_factory.mktemp("runs"))
    known, content, at = Known(), b"".join(map(line, range(8))), 0
    for cut in [*cuts, len(content)]:
        with there.journal_file(NAME).open("ab") as journal:
            journal.write(content[at : at + cut])
        at += cut
        all_told(there, here, known)
    assert [event["round"] for event in read(here.journal_file(NAME))] == list(range(8))


def test_a_journals_line_is_told_after_the_files_that_were_there_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "LARGEST", 15)
    there, here = two_runs(tmp_path)
    for number in range(3):
        write(there, f"checkpoints/{NAME}/round-{number:06d}.safetensors", bytes(10))
    write(there, f"nodes/{NAME}/events.jsonl", line(2))
    known, told = Known(), []
    while not (news := look(there, NAME, known)).empty:
        told.append((len(news.files), bool(news.journal)))
        take(here, NAME, known, news)
    assert told == [(1, False), (1, False), (1, True)]


def test_keys_and_half_written_files_stay_where_they_are(tmp_path):
    there, _ = two_runs(tmp_path)
    for file in ("identity.key", "tls.pem", "authority.pem", "lock", "invitation.json", ".counter.tmp"):
        write(there, f"nodes/{NAME}/{file}", b"private")
    write(there, "nodes/peer-1/counter", b"another's")
    (there.path / f"nodes/{NAME}/link").symlink_to(there.path / f"nodes/{NAME}/identity.key")
    assert look(there, NAME, Known()).empty
    assert kept(there, NAME) == {}


def test_what_is_kept_is_what_a_node_that_goes_on_needs(tmp_path):
    there, _ = two_runs(tmp_path)
    files = {
        f"checkpoints/{NAME}/round-000001.safetensors": b"model",
        f"nodes/{NAME}/counter": b"7",
        f"nodes/{NAME}/expert/config.json": b"{}",
        f"nodes/{NAME}/events.jsonl": line(1),
    }
    for file, data in {**files, f"nodes/{NAME}/log.txt": b"said", "pipeline/model_index.json": b"{}"}.items():
        write(there, file, data)
    assert kept(there, NAME) == files


@pytest.mark.parametrize(
    "file",
    [
        "recipe.yaml",
        "nodes/peer-1/counter",
        "nodes/peer-0/identity.key",
        "nodes/peer-0/events.jsonl",
        "nodes/peer-0/../peer-1/counter",
        "checkpoints/peer-1/round-000001.safetensors",
        "checkpoints/peer-0",
        "/tmp/anywhere",
        "pipeline/.hidden",
        "",
    ],
)
def test_a_machine_writes_the_files_of_its_node_and_no_others(tmp_path, file):
    _, here = two_runs(tmp_path)
    before = sorted(here.path.rglob("*"))
    for news in (News(files={file: ((1, 1), b"x")}), News(gone=(file,))):
        with pytest.raises(DecentralError, match="not its own"):
            take(here, NAME, Known(), news)
    assert sorted(here.path.rglob("*")) == before
