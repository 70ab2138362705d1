"""`decentral join`: real machines' commands, each with an address of this machine's own, from the line of a host."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decentral.cli.main import app
from decentral.wire.authority import Authority
from tests.cli.test_node import until, well
from tests.launch.rendered import untrained

SMALL = ("--set", "peers=2", "--set", "rounds=2", "--set", "model={name: mlp, hidden: [8]}")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "decentral", *arguments]


def told(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=250, check=False)


@contextlib.contextmanager
def running(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def hosted(recipe: str, *options: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A host, and the arguments of `join` that it has printed."""
    listening = ("--dir", "host", "--listen", "127.0.0.1:0")
    with running("host", recipe, *options, *listening, folder=folder) as host:
        assert host.stdout is not None
        yield host, host.stdout.readline().split()[1:]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_command_on_each_machine_trains_together_and_again_it_goes_on(tmp_path):
    with contextlib.ExitStack() as held:
        host, line = held.enter_context(hosted("dimat-digits", *SMALL, folder=tmp_path))
        places = [("a", "127.0.0.2"), ("b", "127.0.0.3")]
        nodes = [
            held.enter_context(running(*line, "--dir", name, "--advertise", at, "--json", folder=tmp_path))
            for name, at in places
        ]
        outputs = [node.communicate(timeout=100) for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0], outputs
        assert host.wait(20) == 0
    said = [json.loads(output[: output.index("}") + 1]) for output, _ in outputs]
    assert sorted(one["node"] for one in said) == ["peer-0", "peer-1"]
    assert {one["dir"]: one["address"].partition(":")[0] for one in said} == {"a": "127.0.0.2", "b": "127.0.0.3"}
    again = told("join", line[1], "--dir", "a", folder=tmp_path)  # the host is gone, and needs not be there
    assert again.returncode == 0, again.stderr
    gathered = told("gather", "host", "a", "b", "--json", folder=tmp_path)
    assert gathered.returncode == 0, gathered.stderr
    summary = json.loads(gathered.stdout)
    assert summary["rounds"] == 2 and summary["world"] == "hosts" and None not in summary["accuracy"]["per_peer"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_in_stages_is_handed_to_who_joins_and_answers_the_host_s_client(tmp_path):
    untrained(tmp_path)
    with contextlib.ExitStack() as held:
        host, line = held.enter_context(hosted("small.yaml", folder=tmp_path))
        folders = [tmp_path / f"node-{number}" for number in range(3)]
        for number, own in enumerate(folders):
            place = ("--dir", str(own), "--advertise", f"127.0.0.{2 + number}")
            held.enter_context(running(*line, *place, folder=tmp_path))
        assert host.wait(100) == 0
        until(lambda: all(map(well, folders)))
        asked = told("predict", "host", "digits:7", "--json", folder=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["verdict"]
    for own in folders:
        assert len(list((own / "stages").glob("*.safetensors"))) == 1


def test_what_does_not_let_this_machine_in_is_said_in_words(tmp_path):
    token, own = str(Authority.create(tmp_path / "authority").token()), ("--dir", str(tmp_path / "own"))
    for arguments, words in [
        (("127.0.0.1:1", "--token", token), "nobody listens there"),
        (("127.0.0.1:1", "--token", token[:40]), "copy all of it"),
        (("127.0.0.1:1",), "--token"),
        (("nowhere in particular",), "neither a host nor host:port"),
        (("127.0.0.1:1", "--token", token, "--advertise", "a b"), "--advertise"),
    ]:
        done = CliRunner().invoke(app, ["join", *arguments, *own])
        assert done.exit_code == 2 and words in done.stderr, (arguments, done.output)
