"""The endpoint over real HTTP: what it shows, who may ask, where a stream goes on, and what is said of a busy port."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

from decentral.errors import UserError
from decentral.launch.observing import endpoint
from decentral.launch.observing.endpoint import At, exposed
from decentral.run.directory import RunDirectory
from decentral.run.recipe import load_recipe

SENT = {"model": 1, "control": 0, "evidence": 0, "total": 1}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    with RunDirectory.create(tmp_path / "run", load_recipe("dimat-digits", ["peers=2"]), "local") as made:
        return made


def write(run: RunDirectory, peer: int, *rounds: int) -> None:
    run.node(f"peer-{peer}")
    with run.journal_file(f"peer-{peer}").open("a") as file:
        for round in rounds:
            event = {"t": float(round), "peer": peer, "event": "round", "round": round, "bytes": SENT}
            file.write(f"{json.dumps(event)}\n")


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def asked(port: int, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        yield connection.getresponse()


def events(answer: http.client.HTTPResponse, count: int) -> list[tuple[int, int, int]]:
    """The next events of a stream: number, peer, round."""
    found: list[tuple[int, int, int]] = []
    while len(found) < count:
        line = answer.readline()
        if line.startswith(b"id: "):
            number, told = int(line[4:]), json.loads(answer.readline()[6:])
            found.append((number, told["peer"], told["round"]))
    return found


def test_metrics_are_of_the_journals_as_they_are_when_somebody_asks(run, port):
    with exposed(run, str(port)):
        write(run, 0, 1, 2)
        write(run, 1, 1)
        with asked(port, "/metrics") as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert 'decentral_rounds_total{node="peer-0"} 2.0' in text and 'decentral_round{node="peer-1"} 1.0' in text
        write(run, 1, 2)
        with asked(port, "/metrics") as answer:
            assert 'decentral_round{node="peer-1"} 2.0' in answer.read().decode()


def test_an_endpoint_that_is_started_again_counts_nothing_twice(run, port):
    write(run, 0, 1, 2)
    for _ in range(2):
        with exposed(run, str(port)), asked(port, "/metrics") as answer:
            assert 'decentral_rounds_total{node="peer-0"} 2.0' in answer.read().decode()


def test_events_come_from_the_beginning_and_go_on_as_they_happen(run, port):
    write(run, 0, 1)
    with exposed(run, str(port)), asked(port, "/events") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert events(answer, 1) == [(1, 0, 1)]
        write(run, 1, 3)
        assert events(answer, 1) == [(2, 1, 3)]


def test_who_comes_back_is_told_what_it_has_missed_and_no_more(run, port):
    write(run, 0, *range(1, 6))
    with exposed(run, str(port), 0), asked(port, "/events", Last_Event_ID="3") as answer:
        assert events(answer, 2) == [(4, 0, 4), (5, 0, 5)]


def test_a_number_that_was_never_given_means_from_the_beginning(run, port):
    write(run, 0, 1, 2)
    with exposed(run, str(port)):
        for last in ("-1", "99", "x" * 100, "9" * 30, "1.5", "²"):
            with asked(port, "/events", Last_Event_ID=last) as answer:
                assert events(answer, 2) == [(1, 0, 1), (2, 0, 2)], last


def test_who_listens_is_told_the_last_event_before_it_ends(run, port):
    with exposed(run, str(port)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        write(run, 0, 7)
    assert events(answer, 1) == [(1, 0, 7)] and answer.read() in (b"", b"\n")
    connection.close()


def test_so_many_listen_at_once_and_one_that_leaves_makes_room(run, port, monkeypatch):
    monkeypatch.setattr(endpoint, "LISTENERS", 2)
    write(run, 0, 1)
    with exposed(run, str(port)), ExitStack() as listening:
        first = listening.enter_context(ExitStack())
        for stack in (first, listening):
            assert events(stack.enter_context(asked(port, "/events")), 1)
        with asked(port, "/events") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        with asked(port, "/metrics") as answer:
            assert answer.status == 200
        first.close()
        for _ in range(100):  # until a write has told the endpoint that nobody reads
            write(run, 0, 2)
            with asked(port, "/events") as answer:
                if answer.status == 200:
                    break
            time.sleep(0.1)
        assert answer.status == 200


def test_it_says_what_it_is_of(run, port):
    with exposed(run, str(port), 1), asked(port, "/about") as answer:
        about = json.loads(answer.read())
    assert about["node"] == 1 and about["hash"] == run.recipe.hash


def test_a_page_from_elsewhere_whose_name_leads_here_is_not_answered(run, port):
    with exposed(run, str(port)):
        for host, status in (("evil.example", 400), ("localhost", 200), ("127.0.0.1:80", 200)):
            with asked(port, "/about", Host=host) as answer:
                assert answer.status == status, host


def test_nothing_can_be_changed(run, port):
    with exposed(run, str(port)):
        for method in ("POST", "PUT", "DELETE"):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                connection.request(method, "/events")
                assert connection.getresponse().status == 405, method


def test_a_damaged_journal_is_named_and_the_endpoint_goes_on(run, port):
    run.node("peer-0")
    run.journal_file("peer-0").write_text("what\n")
    with exposed(run, str(port)):
        with asked(port, "/metrics") as answer:
            assert answer.status == 500 and b"damaged" in answer.read()
        with asked(port, "/about") as answer:
            assert answer.status == 200


def test_a_busy_port_is_named_with_the_option_that_chose_it(run, port):
    with exposed(run, str(port)), pytest.raises(UserError, match=f"port {port} .*--metrics"), exposed(run, str(port)):
        raise AssertionError("two listen at one port")


def test_without_an_option_nothing_listens(run):
    with exposed(run, None):
        assert True


@pytest.mark.parametrize(
    ("said", "host", "port"),
    [("9300", "127.0.0.1", 9300), ("0.0.0.0:9300", "0.0.0.0", 9300), ("[::1]:9300", "::1", 9300)],
)
def test_it_listens_where_it_is_told_and_on_loopback_where_no_host_is_said(said, host, port):
    assert At.parse(said) == At(host, port)


def test_nodes_of_this_machine_have_the_ports_after_the_launcher_s():
    assert [At.parse("0.0.0.0:9300").of_node(index) for index in range(3)] == ["9301", "9302", "9303"]


@pytest.mark.parametrize("said", ["", "x", "0", "65536", ":9300", "host:", "host:0x1", "-1", "٣"])
def test_what_is_no_port_is_refused(said):
    with pytest.raises(UserError, match="--metrics"):
        At.parse(said)
