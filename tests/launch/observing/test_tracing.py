"""One trace goes from peer to peer, over real gRPC; a node's rounds and phases are spans of the length they took."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from decentral.errors import Malformed, Refusal, Refused
from decentral.launch.observing.tracing import OPEN, Lines, Spans, exporting
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.conversation import Output, Task
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.links import Links
from decentral.wire.messages import Model, Ping, Pong
from decentral.wire.sessions import Client, open_session
from decentral.wire.tracing import UNTRACED, TraceParent


class Recorder:
    """Spans of one node, kept."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.spans = Spans(provider.get_tracer("test"))

    def tell(self, event: str, **fields: Any) -> None:
        self.spans({"t": 0.0, "peer": 0, "event": event, **fields})

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self._kept.get_finished_spans() if span.name == name]
        return found

    @property
    def names(self) -> list[str]:
        return [span.name for span in self._kept.get_finished_spans()]


def below(span: ReadableSpan, above: ReadableSpan) -> bool:
    return (
        span.parent is not None
        and span.parent.span_id == above.context.span_id
        and span.context.trace_id == above.context.trace_id
    )


Pair = Callable[..., Any]


@pytest.fixture
async def peers(authority: Authority, certify: Callable[..., Credentials]) -> Any:
    """Two transports that know one another; each is traced by what it is given."""
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:

        async def start(*tracings: Any) -> list[GrpcTransport]:
            found = []
            for tracing in tracings:
                identity = Identity.generate()
                serving = GrpcTransport.serve("127.0.0.1:0", identity, certify(authority, identity), tracing=tracing)
                found.append(await stack.enter_async_context(serving))
            for one in found:
                for other in found:
                    one.introduce(other.id, other.address)
            return found

        yield start


async def test_a_trace_of_one_peer_goes_on_at_another(peers: Pair):
    ours, theirs = Recorder(), Recorder()
    alice, bob = await peers(ours.spans, theirs.spans)
    ours.tell("phase", round=3, phase="exchange")
    inbox = bob.inbox(Model, Ping)
    await alice.send(bob.id, Model(3, {"weight": torch.ones(600_000)}))
    asking = asyncio.create_task(alice.request(bob.id, Ping(1), 20.0))
    (await anext(inbox)) and (await anext(inbox)).answer(Pong(2))
    await asking
    ours.tell("exchanged", round=3, received=[1], missing=[], seconds=0.1)
    ours.tell("round", round=3)
    for method in ("Push", "Ping"):
        call, served = ours.named(f"call {method}"), theirs.named(f"serve {method}")
        assert below(served, call) and below(call, ours.named("exchange"))
        assert (call.kind, served.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
        assert call.attributes is not None and call.attributes["decentral.peer"] == bob.id
        assert served.attributes is not None and served.attributes["decentral.peer"] == alice.id
    assert below(ours.named("exchange"), ours.named("round"))


async def test_who_is_not_traced_is_no_obstacle_in_either_direction(peers: Pair):
    ours = Recorder()
    alice, bob = await peers(ours.spans, UNTRACED)
    await alice.send(bob.id, Ping(1))
    await bob.send(alice.id, Ping(2))
    assert ours.named("call Ping").parent is None and ours.named("serve Ping").parent is None


async def test_what_is_no_place_in_a_trace_is_ignored_and_the_call_is_served(peers: Pair):
    class Liar(type(UNTRACED)):  # type: ignore[misc]
        def calling(self, method: str, to: str) -> Any:
            from contextlib import nullcontext

            return nullcontext((("traceparent", "00-" + "z" * 32),))

    ours = Recorder()
    alice, bob = await peers(ours.spans, Liar())
    await bob.send(alice.id, Ping(2))
    assert ours.named("serve Ping").parent is None


async def test_a_refusal_is_seen_at_both_ends(peers: Pair):
    ours, theirs = Recorder(), Recorder()
    alice, bob = await peers(ours.spans, theirs.spans)
    asking = asyncio.create_task(alice.request(bob.id, Ping(1), 20.0))
    (await anext(bob.inbox(Ping))).refuse(Refusal.STALE)
    with pytest.raises(Refused):
        await asking
    for span in (ours.named("call Ping"), theirs.named("serve Ping")):
        assert span.status.status_code is StatusCode.ERROR


async def test_what_a_client_asks_is_a_span_within_its_session(
    authority: Authority, certify: Callable[..., Credentials]
):
    async def serve(task: Task, client: Client) -> None:
        if task.part == "wrong":
            raise Malformed(Refusal.MODEL, "another")
        await client.say(Output({"y": torch.zeros(1)}))

    ours, identity = Recorder(), Identity.generate()
    serving = GrpcTransport.serve(
        "127.0.0.1:0", identity, certify(authority, identity), serve=serve, tracing=ours.spans
    )
    async with serving as transport:
        links = Links(certify(authority, Identity.generate()))
        links.introduce(transport.id, transport.address)
        async with open_session(links, transport.id) as session:
            await session.ask(Task("stage-0", bytes(32), {"x": torch.zeros(1)}), 20.0)
        await links.close()
        async with asyncio.timeout(20):
            while "serve Session" not in ours.names:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    answer = ours.named("answer")
    assert below(answer, ours.named("serve Session"))
    assert answer.attributes is not None and answer.attributes["decentral.part"] == "stage-0"


def test_a_phase_that_nobody_began_took_the_time_that_its_end_tells():
    ours = Recorder()
    ours.tell("merged", round=1, weights={}, moved=None, seconds=2.0)
    ours.tell("round", round=1)
    merge, round = ours.named("merge"), ours.named("round")
    assert merge.start_time is not None and merge.end_time is not None
    assert merge.end_time - merge.start_time >= 2e9 and below(merge, round) and round.start_time == merge.start_time


def test_what_goes_wrong_is_noted_where_it_happens():
    ours = Recorder()
    ours.tell("phase", round=1, phase="train")
    ours.tell("lost", round=1, other=2)
    ours.tell("failed", problem="no memory", user=False)
    train = ours.named("train")
    assert [event.name for event in train.events] == ["lost", "failed"]
    assert train.status.status_code is StatusCode.ERROR and train.status.description == "no memory"


MOMENTS = st.one_of(
    st.builds(lambda r: ("phase", {"round": r, "phase": "train"}), st.integers(0, 30)),
    st.builds(lambda r: ("phase", {"round": r, "phase": "merge"}), st.integers(0, 30)),
    st.builds(lambda r: ("trained", {"round": r, "loss": 1.0, "samples": 1, "seconds": 0.5}), st.integers(0, 30)),
    st.builds(lambda r: ("abandoned", {"round": r, "seconds": 0.5}), st.integers(0, 30)),
    st.builds(lambda r: ("round", {"round": r}), st.integers(0, 30)),
)


@settings(max_examples=20)
@given(st.lists(MOMENTS, max_size=60))
def test_whatever_is_told_in_whatever_order_little_stays_open_and_all_of_it_ends(moments):
    ours = Recorder()
    for what, fields in moments:
        ours.tell(what, **fields)
        assert len(ours.spans._rounds) <= OPEN and len(ours.spans._phases) <= 2 * OPEN
    ours.spans.end()
    begun = {span.context.span_id for span in ours._kept.get_finished_spans()}
    for span in ours._kept.get_finished_spans():
        assert span.name == "round" or (span.parent is not None and span.parent.span_id in begun)


def test_a_file_has_a_span_a_line_from_all_who_write_to_it(tmp_path):
    file = tmp_path / "spans.jsonl"
    for name in ("peer-0", "peer-1"):
        with exporting(Lines(file), {"service.name": name}) as spans, spans.calling("Ping", "x") as metadata:  # type: ignore[arg-type]
            assert metadata is not None and TraceParent.of(metadata) is not None
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [span["name"] for span in written] == ["call Ping"] * 2
    assert [span["resource"]["attributes"]["service.name"] for span in written] == ["peer-0", "peer-1"]
