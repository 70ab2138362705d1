"""Options of what can be seen of a cluster from outside, which several commands share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from decentral.run.journal import Event, Observer
    from decentral.run.scalars import Scalars

MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="[HOST:]PORT",
        help="Show metrics and events of all nodes there, in plain HTTP; each node's own at the ports after it.",
    ),
]
OwnMetricsOption = Annotated[
    str | None,
    typer.Option("--metrics", metavar="[HOST:]PORT", help="Show this node's metrics and events there, in plain HTTP."),
]
TraceOption = Annotated[
    str | None,
    typer.Option("--trace", metavar="FILE|URL", help="OpenTelemetry spans, into a file or to a collector."),
]
LogFormatOption = Annotated[
    str | None, typer.Option("--log-format", metavar="FORMAT", help="Of the nodes' logs: text, or json.")
]
TensorBoardOption = Annotated[
    Path | None, typer.Option("--tensorboard", metavar="FOLDER", help="Write curves there for TensorBoard, meanwhile.")
]


@contextmanager
def curves(folder: Path | None) -> Iterator[Scalars | None]:
    """What writes a run's curves for TensorBoard, if anybody wants them. Raises UserError."""
    if folder is None:
        yield None
        return
    from decentral.run.scalars import Scalars

    scalars = Scalars(folder)
    try:
        yield scalars
    finally:
        scalars.close()


def both(first: Observer, second: Observer | None) -> Observer:
    """Tells events to one after the other."""
    if second is None:
        return first

    def tell(event: Event) -> None:
        first(event)
        second(event)

    return tell


def tell_nodes(trace: str | None, log_format: str | None) -> None:
    """Leaves in the environment what the nodes that this process starts read there. Raises UserError."""
    from decentral.launch.observing import logs, traced

    if trace is not None:
        os.environ[traced.VARIABLE] = traced.resolved(trace)
    if log_format is not None:
        os.environ[logs.VARIABLE] = logs.check_format(log_format)
