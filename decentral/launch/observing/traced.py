"""Whether this process is traced, as its environment says: nothing of OpenTelemetry is imported where it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.run.experiment import Experiment

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from decentral.launch.observing.tracing import Spans

VARIABLE = "DECENTRAL_TRACE"
"""A file, or the URL of a collector; nodes inherit it from who starts them."""
STANDARD = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Of OpenTelemetry: they turn tracing on as well, and OTEL_SDK_DISABLED=true turns it off."""
PATH = "/v1/traces"
"""Of a collector, where a URL has none."""
PATIENCE = 3.0
"""Seconds for a collector to take a batch: a node that ends waits no longer."""


def target(environment: Mapping[str, str] = os.environ) -> str | None:
    """Where spans go: a file, a URL, or empty for what OpenTelemetry's own variables say. None: nothing is traced."""
    if said := environment.get(VARIABLE):
        return said
    on = any(environment.get(name) for name in STANDARD)
    return "" if on and environment.get("OTEL_SDK_DISABLED", "").lower() != "true" else None


def resolved(said: str) -> str:
    """What `--trace` says, for a node that runs in another folder. Raises UserError."""
    if said.startswith(("http://", "https://")):
        return said
    file = Path(said).expanduser().resolve()
    if not file.parent.is_dir():
        raise UserError(f"--trace {said}: there is no folder {file.parent}")
    return str(file)


@contextmanager
def traced(node: str, recipe: Experiment) -> Iterator[Spans | None]:
    """The spans of the process of a node for as long as the body runs; None where it is not traced.

    Raises UserError for a file that cannot be written, and naming the extra that is not installed.
    """
    to = target()
    if to is None:
        yield None
        return
    try:
        from decentral.launch.observing.tracing import exporting

        exporter = _exporter(to)
    except ImportError as error:
        raise UserError(f"--trace needs {error.name}: pip install 'decentral[tracing]'") from error
    except OSError as error:
        raise UserError(f"--trace {to}: cannot be written ({error.strerror})") from error
    about = {"service.instance.id": node, "decentral.recipe": recipe.name, "decentral.hash": recipe.hash}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        about["service.name"] = node
    with exporting(exporter, about) as spans:
        yield spans


def _exporter(to: str) -> SpanExporter:
    if to and not to.startswith(("http://", "https://")):
        from decentral.launch.observing.tracing import Lines

        return Lines(Path(to))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if not to:
        return OTLPSpanExporter(timeout=PATIENCE)
    return OTLPSpanExporter(to if to.count("/") > 2 else f"{to}{PATH}", timeout=PATIENCE)
