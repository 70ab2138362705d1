"""Options of what can be seen of a cluster from outside, which several commands share."""

from __future__ import annotations

import os
from typing import Annotated

import typer

MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="[HOST:]PORT",
        help="Show metrics and events of all nodes there, in plain HTTP; each node's own at the ports after it.",
    ),
]
TraceOption = Annotated[
    str | None,
    typer.Option("--trace", metavar="FILE|URL", help="OpenTelemetry spans, into a file or to a collector."),
]
LogFormatOption = Annotated[
    str | None, typer.Option("--log-format", metavar="FORMAT", help="Of the nodes' logs: text, or json.")
]


def tell_nodes(trace: str | None, log_format: str | None) -> None:
    """Leaves in the environment what the nodes that this process starts read there. Raises UserError."""
    from decentral.launch.observing import logs, traced

    if trace is not None:
        os.environ[traced.VARIABLE] = traced.resolved(trace)
    if log_format is not None:
        os.environ[logs.VARIABLE] = logs.check_format(log_format)
