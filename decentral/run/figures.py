"""Figures that several pages show: accuracy against what it cost, and the rounds of algorithms that draw samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from decentral.run import charts
from decentral.run.course import Point
from decentral.run.directory import peer_name
from decentral.run.timeline import Span, Timeline

MOST_LANES = 40
"""Peers up to which each has a lane; of more there are counts for each round."""
MOST_SPANS = 4000
"""Pieces of work up to which they are drawn one by one."""
MOST_COLUMNS = 200
MOST_LINES = 80
"""Vertical lines, of rounds or of peers that come and go, up to which they are drawn."""

AT_WORK = {"train": "trains", "exchange": "hands over its model", "merge": "averages and hands out", "away": "away"}


@dataclass(frozen=True, slots=True)
class Way:
    """The points of a run, and how they are drawn."""

    label: str
    style: str
    points: Sequence[Point]


def cost_charts(ways: Sequence[Way], scale: Literal["linear", "log"] = "linear") -> list[str]:
    """Accuracy against time, bytes and training images of all peers; `scale` is that of the last two."""
    last = [way.points[-1] for way in ways if way.points]
    time, seconds = _unit(max((point.seconds for point in last), default=0.0), TIMES)
    size, units = _unit(max((point.total for point in last), default=0), SIZES)
    count, images = _unit(max((point.images for point in last), default=0), COUNTS)
    shown: list[tuple[str, Literal["linear", "log"], Callable[[Point], float]]] = [
        (f"time ({time})", "linear", lambda point: point.seconds / seconds),
        (f"sent by all peers ({size})", scale, lambda point: point.total / units),
        (f"training images{count}", scale, lambda point: point.images / images),
    ]
    return [accuracy_chart(ways, charts.Axis(title, kind), value) for title, kind, value in shown]


def accuracy_chart(ways: Sequence[Way], axis: charts.Axis, value: Callable[[Point], float]) -> str:
    curves = [
        charts.Curve(way.label, [[(value(point), point.accuracy) for point in way.points]], way.style) for way in ways
    ]
    return charts.line_chart(curves, axis)


TIMES = (("s", 1.0), ("min", 60.0), ("h", 3600.0))
SIZES = (("kB", 1e3), ("MB", 1e6), ("GB", 1e9))
COUNTS = (("", 1.0), (" (thousands)", 1e3), (" (millions)", 1e6))


def _unit(largest: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The largest unit of which there are ten or more; else the smallest."""
    return next((unit for unit in reversed(units) if largest >= 10 * unit[1]), units[0])


def rounds_figure(peers: int, told: Timeline) -> str:
    """A lane for each peer; of many peers how many worked on each round, and how many were there."""
    if not told.spans:
        return '<p class="soft">Nobody has been drawn yet.</p>'
    axis = charts.Axis("seconds", "linear")
    marks = _marks(told)
    if peers > MOST_LANES or len(told.spans) > MOST_SPANS:
        working = charts.column_chart(_columns(told), axis, last=told.end)
        steps = [*told.present, (told.end, told.present[-1][1])]
        present = charts.line_chart([charts.Curve("peers", [_stairs(steps)], "mean")], axis, marks)
        legend = charts.area_legend([("participants", "train"), ("aggregators", "merge")])
        return f"{legend}{working}<h3>Peers that were there</h3>{_mark_legend(marks)}{present}"
    order = ["away", "train", "exchange", "merge"]
    spans = sorted(told.spans, key=lambda span: order.index(span.what))
    bars = [charts.Bar(span.peer, span.start, span.end, span.what, _span_words(span)) for span in spans]
    changes = [
        charts.Bar(change.peer, change.at, change.at, change.what, f"{peer_name(change.peer)} {change.what}")
        for change in told.changes
    ]
    ends = [round.end for round in told.rounds] if len(told.rounds) <= MOST_LINES else []
    used = dict.fromkeys(span.what for span in spans)
    legend = charts.area_legend([(words, what) for what, words in AT_WORK.items() if what in used])
    names = [peer_name(peer) for peer in range(peers)]
    return legend + _mark_legend(marks) + charts.lane_chart(names, bars, axis, last=told.end, marks=changes, lines=ends)


def rounds_words(peers: int, told: Timeline) -> str:
    if peers > MOST_LANES or len(told.spans) > MOST_SPANS:
        many = " on average" if len(told.rounds) > MOST_COLUMNS else ""
        return f"Peers that trained and averaged in each round{many}; a column is as wide as its round was long."
    lines = " A vertical line: the aggregate of a round exists." if len(told.rounds) <= MOST_LINES else ""
    return f"What each peer was at.{lines}"


def _columns(told: Timeline) -> list[charts.Column]:
    """A round each, or a few rounds and their means."""
    together = max(1, -(-len(told.rounds) // MOST_COLUMNS))
    columns = []
    for place in range(0, len(told.rounds), together):
        some = told.rounds[place : place + together]
        participants = sum(round.participants for round in some) / len(some)
        aggregators = sum(round.aggregators for round in some) / len(some)
        first, last = some[0], some[-1]
        which = f"round {first.round}" if len(some) == 1 else f"rounds {first.round} to {last.round}"
        words = f"{which}: {participants:.3g} participants, {(last.end - first.start) / len(some):.3g} s"
        columns.append(charts.Column(first.start, last.end, {"train": participants, "merge": aggregators}, words))
    return columns


def _stairs(steps: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """Each level until the next one begins."""
    points: list[tuple[float, float]] = []
    for at, level in steps:
        points += [(at, points[-1][1])] if points else []
        points.append((at, float(level)))
    return points


def _marks(told: Timeline) -> list[charts.Mark]:
    marks = [charts.Mark(change.at, f"{peer_name(change.peer)} {change.what}", change.what) for change in told.changes]
    return marks if len(marks) <= MOST_LINES else []


def _mark_legend(marks: Sequence[charts.Mark]) -> str:
    styles = dict.fromkeys(mark.style for mark in marks)
    return charts.line_legend([(style, f"mark {style}") for style in styles]) if styles else ""


def _span_words(span: Span) -> str:
    round = f", round {span.round}" if span.round else ""
    return f"{peer_name(span.peer)} {AT_WORK[span.what]}{round}: {span.start:.2f} s to {span.end:.2f} s"


def sent_bars(rows: Sequence[tuple[str, Mapping[str, int]]]) -> str:
    """What each of `rows` sent, by what it carried."""
    return charts.bar_chart([(label, sent, readable_bytes(sum(sent.values()))) for label, sent in rows])


def readable_bytes(size: float) -> str:
    """`1.5 MB`: powers of a thousand, as networks are measured."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
