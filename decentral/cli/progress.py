"""Live progress of a run: a table on a terminal, plain lines elsewhere; and how figures are written for people."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from decentral.run.directory import peer_name
from decentral.run.journal import Event
from decentral.run.recipe import Recipe
from decentral.run.report import readable_bytes
from decentral.run.standing import Standings

QUIET = 2.0
"""Seconds between plain lines: a log is read afterwards."""
SHOWN = 24
"""Peers in the table: more do not fit on a screen."""


class Progress:
    """Told of every event of a run; shows phase, round, loss, accuracy and bytes of each peer."""

    def __init__(self, recipe: Recipe, *, hidden: bool = False, console: Console | None = None) -> None:
        self._recipe = recipe
        self._console = console or Console(file=sys.stderr, quiet=hidden)
        self._standings = Standings(recipe.peers)
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=8, transient=True)
        self._lively = self._console.is_terminal and not hidden
        self._printed, self._printed_at = 0, 0.0

    def __enter__(self) -> Self:
        if self._lively:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lively:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        self._standings.take(event)
        match event["event"]:
            case "crashed" | "rejoined":
                self._say(f"{peer_name(event['other'])} {event['event']}")
            case "lost" | "returned":
                self._say(f"{peer_name(event['peer'])}: {peer_name(event['other'])} {event['event']}")
            case "round" if not self._lively:
                self._line()

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def _line(self) -> None:
        """A plain line, when all have come further and the last one is a while ago."""
        now, round = time.monotonic(), self._standings.round
        if round == self._printed or (now - self._printed_at < QUIET and round < self._recipe.rounds):
            return
        self._printed, self._printed_at = round, now
        accuracy = self._standings.accuracy
        self._say(
            f"round {round}/{self._recipe.rounds}, {len(self._standings.present)}/{self._recipe.peers} peers, "
            + (f"mean accuracy {accuracy:.4f}, " if accuracy is not None else "")
            + f"{readable_bytes(self._standings.sent)} sent"
        )

    def _table(self) -> Table:
        return standings_table(self._standings, self._recipe.rounds)


def standings_table(standings: Standings, rounds: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("peer", "phase"):
        table.add_column(heading, no_wrap=True)
    for heading in ("round", "loss", "accuracy", "sent"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, peer in enumerate(standings.peers[:SHOWN]):
        loss, accuracy = readable_number(peer.loss), readable_number(peer.accuracy)
        table.add_row(peer_name(index), peer.phase, f"{peer.round}/{rounds}", loss, accuracy, readable_bytes(peer.sent))
    if len(standings.peers) > SHOWN:
        table.add_row(f"and {len(standings.peers) - SHOWN} more")
    return table


def readable_number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def result_lines(summary: dict[str, Any]) -> list[str]:
    """What a person wants to know of a finished run."""
    accuracy, seconds, sent = summary["accuracy"], summary["seconds"], summary["bytes"]
    lines = []
    if accuracy["mean"] is not None:
        lines.append(f"accuracy   {accuracy['mean']:.4f} mean ({accuracy['min']:.4f} to {accuracy['max']:.4f})")
    lines.append(f"sent       {readable_bytes(sent['total'])} ({readable_bytes(sent['model'])} of it models)")
    lines.append(f"took       {summary['rounds']} rounds, {summary['peers']} peers, {seconds['wall']:.1f} s")
    if summary["virtual_seconds"] is not None:
        lines[-1] = lines[-1].replace(f"{seconds['wall']:.1f} s", f"{summary['virtual_seconds']:.1f} simulated seconds")
    lines += [f"{what:<10} {', '.join(summary[what])}" for what in ("crashed", "rejoined") if summary[what]]
    return lines
