"""A cluster that is looked at from all sides while it runs, as a person would do it: all of them tell the same."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

from decentral.run.journal import read
from decentral.run.metrics import BYTES, KINDS, PHASE_SECONDS, ROUND, Metrics
from tests.launch.rendered import UNTRAINED

PEERS, ROUNDS = 3, 4
SMALL = ("--set", f"rounds={ROUNDS}", "--set", f"peers={PEERS}", "--set", "model={name: mlp, hidden: [8]}")
COMMAND = (sys.executable, "-P", "-m", "decentral")


def free_ports(count: int) -> int:
    """The first of so many in a row that nobody has."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
        try:
            for offset in range(count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except (OSError, OverflowError):
            continue
        return port


def decentral(*arguments: str, folder: Path, code: int = 0) -> str:
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def get(port: int, path: str) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def patiently(port: int, path: str) -> http.client.HTTPConnection:
    """A request to an endpoint that is about to be there."""
    ends = time.monotonic() + 120
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path)
        except ConnectionRefusedError:
            assert time.monotonic() < ends
            time.sleep(0.05)
        else:
            return connection


def parsed(text: bytes) -> dict[tuple[str, ...], float]:
    """By name and then the labels' values, in the order of their names."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_all_that_can_be_seen_of_a_run_tells_what_its_summary_tells(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("tensorboard")
    port = free_ports(PEERS + 1)
    seen = ("--metrics", str(port), "--trace", "spans.jsonl", "--log-format", "json", "--tensorboard", "curves")
    command = [*COMMAND, "run", "dimat-digits", *SMALL, "--out", "run", *seen, "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        connection = patiently(port, "/events")
        stream = connection.getresponse().read()  # until it ends with the run
        connection.close()
        said, problem = running.communicate(timeout=60)
    assert running.returncode == 0, problem
    summary = json.loads(said)

    lines = [line for line in stream.splitlines() if line.startswith(b"data: ")]
    streamed = [json.loads(line[6:]) for line in lines]
    written = read(tmp_path / "run" / "events.jsonl")
    assert sorted(streamed, key=json.dumps) == sorted(written, key=json.dumps)
    metrics = Metrics()
    metrics.take_all(streamed)
    for kind in KINDS:
        sent = sum(count for labels, count in metrics.values(BYTES).items() if labels[1] == kind)
        assert sent == summary["bytes"][kind]
    assert max(metrics.values(ROUND).values()) == summary["rounds"] == ROUNDS

    spans = [json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines()]
    by_id = {span["context"]["span_id"]: span for span in spans}
    crossing = {
        (node_of(by_id[span["parent_id"]]), node_of(span))
        for span in spans
        if span["name"] == "serve Push" and span["parent_id"] in by_id
    }
    assert len(crossing) == PEERS * (PEERS - 1) and all(one != other for one, other in crossing)
    assert sum(span["name"] == "round" for span in spans) == PEERS * ROUNDS

    for index in range(PEERS):
        log = (tmp_path / "run" / "nodes" / f"peer-{index}" / "log.txt").read_text().splitlines()
        told = [json.loads(line) for line in log]
        assert {line["node"] for line in told} == {f"peer-{index}"}
        assert [line["event"] for line in told].count("round") == ROUNDS
    shown = decentral("logs", "run", "peer-0", "--follow", "--json", folder=tmp_path)  # the run is over: to its end
    assert [json.loads(line)["event"] for line in shown.splitlines()].count("round") == ROUNDS

    decentral("report", "run", "--tensorboard", "again", folder=tmp_path)
    for folder in ("mean", *(f"peer-{index}" for index in range(PEERS))):
        assert curve(tmp_path / "curves" / folder) == curve(tmp_path / "again" / folder) != []


def node_of(span: dict[str, Any]) -> str:
    return str(span["resource"]["attributes"]["service.instance.id"])


def curve(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [(each.step, each.value) for each in found.Scalars("accuracy")]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cluster_that_serves_shows_what_it_is_asked_and_what_its_client_thinks_of_it(tmp_path: Path) -> None:
    import torch

    from decentral.models.catalogue import build_model

    torch.save(build_model("mlp", (1, 8, 8), 10, hidden=[6, 5]).state_dict(), tmp_path / "model.pth")
    (tmp_path / "small.yaml").write_text(UNTRAINED.format(file=tmp_path / "model.pth"))
    port = free_ports(4)
    decentral("up", "small.yaml", "--dir", "up", "--metrics", str(port), folder=tmp_path)
    try:
        decentral("predict", "up", "digits:3", folder=tmp_path)
        ends = time.monotonic() + 30
        nodes = [f"stage-{place}-a" for place in range(3)]
        asked = {("decentral_answers_total", node, "answered"): 1.0 for node in nodes}
        while not asked.items() <= (found := parsed(get(port, "/metrics"))).items():
            assert time.monotonic() < ends, found
            time.sleep(0.1)
        assert {key[1] for key in found if key[0] == "decentral_serving"} == {*nodes}
        for node in nodes:
            assert found["decentral_certificate_expiry_timestamp_seconds", node] > time.time()
            assert 0.25 <= found["decentral_reputation", node] < 1  # what a stranger has, or more
            assert found["decentral_phase", node, "serving"] == 1
        about = json.loads(get(port + 2, "/about"))
        assert about["node"] == 1 and about["does"] == "serving"
        own = parsed(get(port + 2, "/metrics"))
        assert {key[1] for key in own if key[0] == "decentral_answers_total"} == {nodes[1]}
        assert not any(key[0] in ("decentral_reputation", PHASE_SECONDS.name) for key in own)
    finally:
        decentral("down", "up", folder=tmp_path)
