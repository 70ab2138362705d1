"""Options that several commands of `decentral zk` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from decentral.zk.worker import Limits

SrsOption = Annotated[Path | None, typer.Option("--srs", metavar="FILE", help="The SRS file. [default: the store's]")]
LocalOption = Annotated[
    bool, typer.Option("--local-test-srs", help="Use an SRS that was made here, for tests: its maker can forge.")
]
MemoryOption = Annotated[float, typer.Option(min=0.1, metavar="GIB", help="Memory that ezkl may have at a time.")]
TimeoutOption = Annotated[float, typer.Option(min=1, metavar="SECONDS", help="For each step of ezkl's.")]


def limits_of(memory: float, timeout: float) -> Limits:
    from decentral.zk.worker import Limits

    return Limits(int(memory * 2**30), timeout)
