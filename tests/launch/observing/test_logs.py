"""A node's log: as it was for people; for machines one object a line, the journal among it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from decentral.errors import UserError
from decentral.launch.observing.logs import VARIABLE, check_format, for_machines, log_event, write_logs


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    root, handlers = logging.getLogger(), [*logging.getLogger().handlers]
    level = logging.getLogger("decentral.events").level
    yield
    root.handlers[:] = handlers
    logging.getLogger("decentral.events").setLevel(level)


def written(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_for_people_a_line_is_the_message_and_events_are_not_among_it(capsys, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    write_logs("peer-0")
    logging.getLogger("decentral").warning("a certificate expires in %d s", 60)
    log_event({"t": 1.0, "peer": 0, "event": "round", "round": 3})
    assert capsys.readouterr().err == "a certificate expires in 60 s\n" and not for_machines()


def test_for_machines_each_line_says_when_who_and_what(capsys, monkeypatch):
    monkeypatch.setenv(VARIABLE, "json")
    write_logs("peer-0")
    log_event({"t": 1.5, "peer": 0, "event": "round", "round": 3})
    log_event({"t": 1.5, "peer": 0, "event": "lost", "round": 3, "other": 2})
    log_event({"t": 1.5, "peer": 0, "event": "failed", "problem": "no memory", "user": False})
    logging.getLogger("decentral").error("two\nlines and a %s", "word")
    lines = written(capsys)
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error"]
    assert [line["event"] for line in lines] == ["round", "lost", "failed", "log"]
    assert lines[0]["fields"] == {"t": 1.5, "round": 3}
    assert lines[3]["fields"] == {"message": "two\nlines and a word", "logger": "decentral"}
    assert {line["node"] for line in lines} == {"peer-0"}
    assert all(datetime.fromisoformat(line["time"]).utcoffset() is not None for line in lines)


def test_an_exception_is_a_field_of_its_line(capsys, monkeypatch):
    monkeypatch.setenv(VARIABLE, "json")
    write_logs("peer-0")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("decentral").exception("it broke")
    (line,) = written(capsys)
    assert "ValueError: broken" in line["fields"]["traceback"]


def test_once_it_is_known_which_node_it_is_nothing_is_written_twice(capsys, monkeypatch):
    monkeypatch.setenv(VARIABLE, "json")
    write_logs()
    write_logs("peer-1")
    log_event({"t": 0.0, "peer": 1, "event": "started", "round": 0})
    assert [line["node"] for line in written(capsys)] == ["peer-1"]


def test_a_format_that_there_is_not_is_refused():
    assert check_format("json") == "json"
    with pytest.raises(UserError, match="--log-format xml"):
        check_format("xml")
