"""What a node writes is the launcher's too: every line once, in order, after the files that were there before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.errors import DecentralError
from decentral.launch.ray import mirror
from decentral.launch.ray.mirror import COPYING, Known, News, Teller, kept, look, take
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


def test_there_may_be_news_of_a_node_that_says_something_until_it_is_told(tmp_path):
    there, here = two_runs(tmp_path)
    known, teller = Known(), Teller(there, NAME)
    for file in ("events.jsonl", "log.txt"):
        assert not teller.due(known)
        write(there, f"nodes/{NAME}/{file}", line(1))
        assert teller.due(known)
        all_told(there, here, known)
    assert not teller.due(known)
    assert teller.due(known, ended=True)


def test_lines_are_told_at_once_and_files_when_their_time_has_come(tmp_path):
    there, here = two_runs(tmp_path)
    known, clock = Known(), 1_000_001.0
    teller = Teller(there, NAME, "life", lambda: clock)

    def told(*, ended: bool = False) -> tuple[int, int]:
        """The round that a line told of, and the one that a file did."""
        news = teller.news(known, ended=ended) if teller.due(known, ended=ended) else News()
        take(here, NAME, known, news)
        assert news.empty or news.life == "life"
        models = [data[0] for _, data in news.files.values()]
        return (json.loads(news.journal)["round"] if news.journal else 0), (max(models) if models else 0)

    def round_ends(number: int) -> None:
        write(there, f"checkpoints/{NAME}/round-{number:06d}.safetensors", bytes([number]) * 10)
        with there.journal_file(NAME).open("ab") as journal:
            journal.write(line(number))

    round_ends(1)
    assert told() == (1, 1)  # a first model as soon as there is one
    round_ends(2)
    assert told() == (2, 0)
    clock += COPYING - 1.5
    assert told() == (0, 0)
    clock += 0.5  # a multiple of what lies between
    assert told() == (0, 2)  # though it says nothing new
    assert told() == (0, 0)
    round_ends(3)
    assert told() == (3, 0)
    assert told(ended=True) == (0, 3)
    round_ends(4)
    assert told() == (4, 0)
    clock -= 3600  # somebody has put it right
    assert told() == (0, 4)


def test_machines_look_at_the_same_moments(tmp_path):
    there, _ = two_runs(tmp_path)
    write(there, f"nodes/{NAME}/counter", b"1")
    clock, known = 0.0, Known()
    tellers = [Teller(there, NAME, now=lambda: clock) for _ in range(3)]
    for teller, began in zip(tellers, (0.1, 1.7, 4.9), strict=True):
        clock = 1_000_000 + began
        assert teller.news(known).files
    for after, there_are in ((COPYING - 0.01, False), (COPYING, True)):
        clock = 1_000_000 + after
        assert [bool(teller.news(known).files) for teller in tellers] == [there_are] * 3


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
    known, told, teller = Known(), [], Teller(there, NAME)
    while teller.due(known):
        news = teller.news(known)
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
