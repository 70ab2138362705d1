"""What is traced, and where to, is said by the environment; what cannot be used is named."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from decentral.errors import UserError
from decentral.launch.observing.traced import STANDARD, VARIABLE, resolved, target, traced
from decentral.run.recipe import load_recipe


@pytest.mark.parametrize(
    ("environment", "to"),
    [
        ({}, None),
        ({VARIABLE: ""}, None),
        ({VARIABLE: "/x/spans.jsonl"}, "/x/spans.jsonl"),
        ({STANDARD[1]: "http://collector:4318"}, ""),
        ({STANDARD[0]: "http://collector:4318/v1/traces", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({STANDARD[0]: "http://collector:4318/v1/traces", VARIABLE: "x"}, "x"),
    ],
)
def test_our_own_word_counts_before_the_standard_one(environment, to):
    assert target(environment) == to


def test_a_file_is_the_same_for_a_node_that_runs_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolved("spans.jsonl") == str(tmp_path / "spans.jsonl")
    assert resolved("http://here:4318") == "http://here:4318"
    with pytest.raises(UserError, match="--trace"):
        resolved("nowhere/spans.jsonl")


def test_a_process_that_is_not_traced_imports_nothing_for_it(monkeypatch):
    for name in (VARIABLE, *STANDARD):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "decentral.launch.observing.tracing", None)  # importing it would fail
    with traced("peer-0", load_recipe("dimat-digits")) as spans:
        assert spans is None


def test_an_extra_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "spans.jsonl"))
    monkeypatch.setitem(sys.modules, "decentral.launch.observing.tracing", None)
    with pytest.raises(UserError, match=r"decentral\[tracing\]"), traced("peer-0", load_recipe("dimat-digits")):
        raise AssertionError("traced without the means")


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    pytest.importorskip("opentelemetry.sdk")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=str(tmp_path)), traced("peer-0", load_recipe("dimat-digits")):
        raise AssertionError("wrote to a folder")


def test_spans_say_which_node_of_which_recipe_they_are_of(tmp_path, monkeypatch):
    pytest.importorskip("opentelemetry.sdk")
    file, recipe = tmp_path / "spans.jsonl", load_recipe("dimat-digits")
    monkeypatch.setenv(VARIABLE, str(file))
    with traced("peer-3", recipe) as spans:
        assert spans is not None
        with spans.doing("answer", part="stage-1"):
            assert file.exists()
    (span,) = [json.loads(line) for line in file.read_text().splitlines()]
    said = span["resource"]["attributes"]
    assert said["service.name"] == said["service.instance.id"] == "peer-3" and said["decentral.hash"] == recipe.hash


def test_a_collector_is_sent_them_in_the_format_of_the_standard(monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    came: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *said: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(VARIABLE, f"http://127.0.0.1:{server.server_port}")
        with traced("peer-0", load_recipe("dimat-digits")) as spans:
            assert spans is not None
            with spans.doing("answer"):
                assert came == []
        server.shutdown()
    ((path, body),) = came
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert path == "/v1/traces" and resource.scope_spans[0].spans[0].name == "answer"
