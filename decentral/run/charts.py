"""The pictures of a report, as small pieces of HTML and SVG.

Text is HTML and only lines are SVG, stretched to the width there is, so that words keep their size on a phone. The same
input gives the same bytes: no ids, no dates, no random numbers. Whatever is text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape

COLOURS = 8
"""Peers that can be told apart by colour; where there are more, all look alike and the mean stands out."""

MOST_DOTS = 30
"""Points of a curve up to which each is a dot."""

Edge = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y) in the order of x, in pieces: between two pieces something is missing."""

    label: str
    pieces: Sequence[Sequence[tuple[float, float]]]
    style: str

    @property
    def points(self) -> list[tuple[float, float]]:
        return [point for piece in self.pieces for point in piece]


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line, and what it stands for."""

    x: float
    label: str
    style: str


def peer_style(peer: int, peers: int) -> str:
    """The class that colours what belongs to a peer."""
    return f"p{peer}" if peers <= COLOURS else "many"


def line_chart(curves: Sequence[Curve], x_title: str, marks: Sequence[Mark] = ()) -> str:
    """Curves over common axes, later ones on top."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return '<p class="soft">Nothing was measured.</p>'
    xs, ys = [x for x, _ in points], [y for _, y in points]
    first, last = min(xs), max(xs)
    if first == last:
        first, last = first - 1, last + 1
    ticks = nice_ticks(min(ys), max(ys), 5)
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> str:
        return f"{_number(1000 * (x - first) / (last - first))} {_number(1000 * (high - y) / (high - low))}"

    lines = [f'<path class="grid" {_THIN} d="M{place(first, tick)}L{place(last, tick)}"/>' for tick in ticks]
    lines += [
        f'<path class="mark {mark.style}" {_THIN} d="M{place(mark.x, high)}L{place(mark.x, low)}">'
        f"<title>{escape(mark.label)}</title></path>"
        for mark in marks
        if first <= mark.x <= last
    ]
    dotted = max(len(curve.points) for curve in curves) <= MOST_DOTS
    for curve in curves:
        way = "M".join("L".join(place(x, y) for x, y in piece) for piece in curve.pieces)
        lines.append(f'<path class="curve {curve.style}" {_THIN} d="M{way}"/>')
        lines += [
            f'<path class="dot {curve.style}" {_THIN} d="M{place(x, y)}h0">'
            f"<title>{escape(curve.label)}, {escape(x_title)} {_number(x)}: {y:.4f}</title></path>"
            for x, y in (curve.points if dotted else ())
        ]
    rows = "".join(
        f'<span style="bottom:{_number(100 * (tick - low) / (high - low))}%">{_tick(tick, ticks)}</span>'
        for tick in ticks
    )
    columns = "".join(
        f'<span style="left:{_number(100 * (x - first) / (last - first))}%">{_number(x)}</span>'
        for x in whole_ticks(math.ceil(min(xs)), math.floor(max(xs)), 10)
    )
    return (
        f'<div class="chart"><div class="y">{rows}</div>'
        f'<div class="plot"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{"".join(lines)}</svg></div>'
        f'<div class="x">{columns}</div><div class="title">{escape(x_title)}</div></div>'
    )


_THIN = 'vector-effect="non-scaling-stroke"'


def line_legend(entries: Sequence[tuple[str, str]]) -> str:
    """What lines stand for: (label, style)."""
    items = "".join(
        f'<li><svg viewBox="0 0 18 10"><path class="curve {style}" d="M1 5H17"/></svg>{escape(label)}</li>'
        for label, style in entries
    )
    return f'<ul class="legend">{items}</ul>'


def bar_chart(rows: Sequence[tuple[str, Mapping[str, float], str]]) -> str:
    """One stacked bar per row: (label, length by kind, what stands at its end). A kind is also its colour's class."""
    kinds = list(dict.fromkeys(kind for _, parts, _ in rows for kind, length in parts.items() if length > 0))
    longest = max((math.fsum(parts.values()) for _, parts, _ in rows), default=0.0) or 1.0
    legend = "".join(f'<li><i class="{kind}"></i>{kind}</li>' for kind in kinds)
    bars = []
    for label, parts, value in rows:
        spans = "".join(
            f'<span class="{kind}" style="width:{_number(100 * length / longest)}%" title="{kind}"></span>'
            for kind, length in parts.items()
            if length > 0
        )
        bars.append(
            f'<span>{escape(label)}</span><div class="bar">{spans}</div><span class="value">{escape(value)}</span>'
        )
    return f'<ul class="legend">{legend}</ul><div class="bars">{"".join(bars)}</div>'


def topology_picture(peers: int, edges: Sequence[Edge], gone: frozenset[int]) -> str:
    """Peers on a circle, from the top clockwise; `gone` have a dashed outline."""
    centre, radius = 200.0, 160.0 if peers > 1 else 0.0
    size = max(3.0, min(19.0, 2.2 * radius / max(peers, 1)))
    at = [
        (centre + radius * math.sin(2 * math.pi * i / peers), centre - radius * math.cos(2 * math.pi * i / peers))
        for i in range(peers)
    ]
    ways = "".join(
        f"M{_number(at[i][0])} {_number(at[i][1])}L{_number(at[j][0])} {_number(at[j][1])}" for i, j in edges
    )
    nodes = "".join(_node(peer, peers, at[peer], size, peer in gone) for peer in range(peers))
    return f'<svg class="topology" viewBox="0 0 400 400"><path class="edge" d="{ways}"/>{nodes}</svg>'


def _node(peer: int, peers: int, at: tuple[float, float], size: float, gone: bool) -> str:
    x, y = at
    style = f"{peer_style(peer, peers)} gone" if gone else peer_style(peer, peers)
    place, circle = f'x="{_number(x)}" y="{_number(y)}"', f'cx="{_number(x)}" cy="{_number(y)}" r="{_number(size)}"'
    number = f'<text {place} font-size="{_number(0.85 * size)}">{peer}</text>' if size > 8 else ""
    return f'<circle class="{style}" {circle}><title>peer-{peer}</title></circle>{number}'


def heat_table(rows: Sequence[tuple[str, Sequence[int]]], columns: Sequence[str]) -> str:
    """Counts in cells whose colour is the share of the largest; numbers while there is room for them."""
    largest = max((count for _, counts in rows for count in counts), default=0) or 1
    roomy = len(columns) <= 20
    head = "".join(f'<th scope="col">{escape(column) if roomy else ""}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(
            f'<td style="--share:{_number(0.72 * count / largest)}" title="{count}">{count or "" if roomy else ""}</td>'
            for count in counts
        )
        + "</tr>"
        for label, counts in rows
    )
    return f'<div class="scroll"><table class="heat"><tr><th scope="row"></th>{head}</tr>{body}</table></div>'


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round values, evenly spaced, the first at most `low` and the last at least `high`."""
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [index * step for index in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def whole_ticks(first: int, last: int, about: int) -> list[int]:
    """Whole numbers from `first` to `last`, at most about so many, round ones."""
    step = max(1, math.ceil((last - first) / about))
    power = 10 ** (len(str(step)) - 1)
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step)
    return [number for number in range(first, last + 1) if number % step == 0]


def _tick(value: float, ticks: Sequence[float]) -> str:
    """With as many decimals as the step between two ticks has."""
    step = Decimal(f"{ticks[1] - ticks[0]:.6g}").normalize()
    return f"{value:.{max(0, -int(step.as_tuple().exponent))}f}"


def _number(value: float) -> str:
    """At most two decimals, none that say nothing."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value != int(value) else str(int(value))
