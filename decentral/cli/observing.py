"""Options of what can be seen of a cluster from outside, which several commands share."""

from __future__ import annotations

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
