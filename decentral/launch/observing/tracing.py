"""OpenTelemetry's traces of one node: a round is a trace, its phases and calls are spans, those of who is called below.

What a node does is told by its journal, and so are its rounds and phases; calls come from the transport. Spans go to a
collector (OTLP over HTTP), or to a file, a JSON object a line, which all nodes of a machine may share.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time_ns
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from decentral.run.journal import Event
from decentral.run.metrics import ENDS
from decentral.wire.messages import PeerId
from decentral.wire.tracing import Metadata, Said, TraceParent

OPEN = 8
"""Rounds that a node may be at, at once: where samples are drawn, one trains for a round while it averages another."""
NOTED = ("lost", "returned", "refused", "rejected", "alone", "cut_off", "unrenewed", "expired", "unbelieved", "failed")
"""Events that are noted in the round in which they happen."""
TOLD = ("loss", "accuracy", "samples", "round", "reason", "other", "problem", "left")
"""Fields of events that are told of spans."""


class Spans:
    """The tracing of one node (see `Tracing`), and an observer of its journal."""

    def __init__(self, tracer: Tracer, now: Callable[[], int] = time_ns) -> None:
        """`now`: Unix time in nanoseconds."""
        self._tracer, self._now = tracer, now
        self._rounds: dict[int, Span] = {}
        self._phases: dict[tuple[int, str], Span] = {}
        """What is under way; the latest comes last."""

    # ---- what the journal tells --------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        match event["event"]:
            case "phase":
                self._begin(event["round"], event["phase"], self._now())
            case "round":
                self._end_round(event["round"])
            case "finished" | "interrupted" | "failed":
                self._note(event)
                self.end()
            case what if what in ENDS:
                self._end_phase(event["round"], ENDS[what], event)
            case what if what in NOTED:
                self._note(event)

    def _begin(self, round: int, phase: str, start: int) -> Span:
        if (stale := self._phases.pop((round, phase), None)) is not None:
            stale.end()
        above = trace.set_span_in_context(self._round(round, start), Context())
        span = self._tracer.start_span(phase, above, start_time=start, attributes={"decentral.round": round})
        self._phases[round, phase] = span
        return span

    def _round(self, round: int, start: int) -> Span:
        if round not in self._rounds:
            if len(self._rounds) == OPEN:
                self._end_round(next(iter(self._rounds)))
            named = {"decentral.round": round}
            self._rounds[round] = self._tracer.start_span("round", Context(), start_time=start, attributes=named)
        return self._rounds[round]

    def _end_phase(self, round: int, phase: str, event: Event) -> None:
        """Of one that nobody has said began, the event tells for how long it went on."""
        span = self._phases.pop((round, phase), None)
        if span is None:
            span = self._begin(round, phase, self._now() - int(event["seconds"] * 1e9))
            del self._phases[round, phase]
        span.set_attributes(_told(event))
        span.end()

    def _end_round(self, round: int) -> None:
        for key in [key for key in self._phases if key[0] == round]:
            self._phases.pop(key).end()
        if (span := self._rounds.pop(round, None)) is not None:
            span.end()

    def _note(self, event: Event) -> None:
        if (span := self._current) is not None:
            span.add_event(event["event"], _told(event))
            if event["event"] == "failed":
                span.set_status(Status(StatusCode.ERROR, event["problem"]))

    def end(self) -> None:
        """Ends all that is under way."""
        for round in [*self._rounds]:
            self._end_round(round)

    @property
    def _current(self) -> Span | None:
        under_way = [*self._phases.values()] or [*self._rounds.values()]
        return under_way[-1] if under_way else None

    # ---- what the transport tells ------------------------------------------------------------------------------------

    @contextmanager
    def calling(self, method: str, to: PeerId) -> Iterator[Metadata | None]:
        with self._within(f"call {method}", self._above(), SpanKind.CLIENT, {"decentral.peer": to}) as span:
            context = span.get_span_context()
            parent = TraceParent(context.trace_id, context.span_id)
            yield parent.metadata() if context.is_valid and context.trace_flags.sampled else None

    @contextmanager
    def called(self, method: str, sender: PeerId, metadata: Callable[[], Said]) -> Iterator[None]:
        parent, above = TraceParent.of(metadata()), Context()
        if parent is not None:  # that it is recorded here is for us to say, and not for who calls
            far = SpanContext(parent.trace, parent.span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
            above = trace.set_span_in_context(NonRecordingSpan(far), above)
        with self._within(f"serve {method}", above, SpanKind.SERVER, {"decentral.peer": sender}):
            yield

    @contextmanager
    def doing(self, what: str, **about: str) -> Iterator[None]:
        named = {f"decentral.{key}": value for key, value in about.items()}
        with self._within(what, self._above(), SpanKind.INTERNAL, named):
            yield

    def _above(self) -> Context | None:
        """What this task does, or else what the node does; None: the former."""
        if trace.get_current_span().get_span_context().is_valid:
            return None
        return Context() if (span := self._current) is None else trace.set_span_in_context(span, Context())

    @contextmanager
    def _within(self, name: str, above: Context | None, kind: SpanKind, about: dict[str, Any]) -> Iterator[Span]:
        with self._tracer.start_as_current_span(name, above, kind=kind, attributes=about) as span:
            yield span


def _told(event: Event) -> dict[str, Any]:
    return {f"decentral.{key}": event[key] for key in TOLD if event.get(key) is not None}


class Lines(SpanExporter):
    """Appends spans to a file; each batch is one write, so that several processes may append to it."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            os.write(self._descriptor, b"".join(span.to_json(indent=None).encode() + b"\n" for span in spans))
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        os.close(self._descriptor)


@contextmanager
def exporting(exporter: SpanExporter, about: dict[str, str]) -> Iterator[Spans]:
    """A node's spans, exported while the body runs and at its end. `about`: of the node, beside what the environment
    says (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, ...)."""
    resource = Resource.create({"service.namespace": "decentral", **about})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    spans = Spans(provider.get_tracer("decentral"))
    try:
        yield spans
    finally:
        spans.end()
        provider.shutdown()
