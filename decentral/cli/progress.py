"""Live progress of a run: a table on a terminal, plain lines elsewhere; and how figures are written for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from decentral.run.directory import peer_name
from decentral.run.figures import readable_bytes
from decentral.run.journal import Event
from decentral.run.recipe import Recipe
from decentral.run.samples import Samples, turn_words
from decentral.run.standing import Standings
from decentral.run.summary import attack_words

QUIET = 2.0
"""Seconds between plain lines: a log is read afterwards."""
CHANGES = ("crashed", "rejoined", "left", "joined")
"""Lists of peers in a summary."""
SHOWN = 24
"""Peers in the table, and in a list: more do not fit on a screen."""


class Progress:
    """Told of every event of a run; shows phase, round, loss, accuracy and bytes of each peer."""

    def __init__(self, recipe: Recipe, *, hidden: bool = False, console: Console | None = None) -> None:
        self._recipe = recipe
        self._console = console or Console(file=sys.stderr, quiet=hidden)
        self._standings = Standings(recipe.peers, aside=recipe.aside)
        self._samples = Samples()
        self._began: tuple[float, int] | None = None  # when the first peer started, and after which round
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=8, transient=True)
        self._lively = self._console.is_terminal and not hidden
        self._printed_at = 0.0

    def __enter__(self) -> Self:
        if (attack := attack_words(self._recipe)) is not None:
            self._say(f"attack: {attack}")
        if self._lively:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lively:
            self._live.stop()
        elif self._standings.ended:
            self._line()

    def __call__(self, event: Event) -> None:
        self._standings.take(event)
        if self._recipe.draws:
            self._samples.take(event)
        match event["event"]:
            case "started" if self._began is None:
                self._began = time.monotonic(), event["round"]
            case "crashed" | "rejoined" | "left" | "joined":
                self._say(f"{peer_name(event['other'])} {event['event']}")
            case "lost" | "returned" if self._recipe.peers <= SHOWN:
                self._say(f"{peer_name(event['peer'])}: {peer_name(event['other'])} {event['event']}")
            case "round" if not self._lively and time.monotonic() - self._printed_at >= QUIET:
                self._line()

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def _line(self) -> None:
        self._printed_at, ended = time.monotonic(), self._standings.ended
        if not ended:
            return
        accuracy, left = self._standings.accuracy, self._left()
        loss = self._standings.loss if self._recipe.router is not None else None  # experts have no accuracy
        self._say(
            f"round {ended}/{self._recipe.rounds}, {len(self._standings.present)}/{self._recipe.peers} peers, "
            + (f"mean accuracy {accuracy:.4f}, " if accuracy is not None else "")
            + (f"mean loss {loss:.4f}, " if loss is not None else "")
            + f"{readable_bytes(self._standings.sent)} sent"
            + (f", {left}" if left else "")
        )

    def _left(self) -> str:
        """How long the rest will take if its rounds take as long as those so far; nothing where that is unknown."""
        if self._began is None:
            return ""
        since, first = self._began
        ended = self._standings.ended
        done, rest = ended - first, self._recipe.rounds - ended
        return f"about {readable_seconds((time.monotonic() - since) * rest / done)} left" if done > 0 < rest else ""

    def _table(self) -> Table:
        table = standings_table(self._standings, self._recipe.rounds)
        turn = self._samples.turn if self._recipe.draws else None
        lines = [] if turn is None else turn_words(turn, self._recipe.rounds)
        table.caption = "\n".join([*lines, *filter(None, [self._left()])]) or None
        return table


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


def readable_seconds(seconds: float) -> str:
    """`40 s`, `3 min`, `2.5 h`: as exact as a guess is."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def readable_number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def result_lines(summary: dict[str, Any]) -> list[str]:
    """What a person wants to know of a finished run."""
    accuracy, seconds, sent = summary["accuracy"], summary["seconds"], summary["bytes"]
    lines = []
    if accuracy["mean"] is not None:
        lines.append(f"accuracy   {accuracy['mean']:.4f} mean ({accuracy['min']:.4f} to {accuracy['max']:.4f})")
    if (router := summary.get("router")) is not None:
        if summary["loss"] is not None:
            lines.append(f"loss       {summary['loss']:.4f} mean of the experts, each on test images of its cluster")
        if router["accuracy"] is not None:
            lines.append(f"router     {router['accuracy']:.4f} of noisy test images sent to their cluster")
    if (attack := summary.get("attack")) is not None:
        lines = [f"{line}, of the honest peers" for line in lines]
        lines.append(f"attack     {attack['words']}")
        if attack["accuracy"] is not None:
            lines.append(f"attackers  {attack['accuracy']:.4f} mean accuracy of their own models")
    lines.append(f"sent       {readable_bytes(sent['total'])} ({readable_bytes(sent['model'])} of it models)")
    lines.append(f"took       {summary['rounds']} rounds, {summary['peers']} peers, {seconds['wall']:.1f} s")
    if summary["virtual_seconds"] is not None:
        lines[-1] = lines[-1].replace(f"{seconds['wall']:.1f} s", f"{summary['virtual_seconds']:.1f} simulated seconds")
    return lines + [f"{what:<10} {_some(summary[what])}" for what in CHANGES if summary.get(what)]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
