"""The pictures of a report, as small pieces of HTML and SVG.

Text is HTML and only lines are SVG, stretched to the width there is, so that words keep their size on a phone. The same
input gives the same bytes: no ids, no dates, no random numbers. Whatever is text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from html import escape
from typing import Literal

COLOURS = 8
"""Peers that can be told apart by colour; where there are more, all look alike and the mean stands out."""

MOST_DOTS = 30
"""Points of a curve up to which each is a dot."""

MOST_TICKS = 6
"""Ticks of a log scale; where there would be more, only powers of ten."""

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


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that lasts, in the lane of who does it; a mark lasts for no time."""

    lane: int
    start: float
    end: float
    style: str
    label: str


@dataclass(frozen=True, slots=True)
class Column:
    """Counts by kind of what was there from `start` to `end`. A kind is also its colour's class."""

    start: float
    end: float
    parts: Mapping[str, float]
    label: str


def peer_style(peer: int, peers: int) -> str:
    """The class that colours what belongs to a peer."""
    return f"p{peer}" if peers <= COLOURS else "many"


@dataclass(frozen=True, slots=True)
class Axis:
    """What lies along the bottom: whole numbers such as rounds, any numbers, or any above zero on a log scale."""

    title: str
    scale: Literal["whole", "linear", "log"] = "whole"

    def at(self, x: float) -> float:
        """Where x lies, before it is fitted to the width there is."""
        return math.log10(x) if self.scale == "log" else x

    def ticks(self, low: float, high: float) -> list[float]:
        """Round values from `low` to `high`, both included; not many."""
        match self.scale:
            case "whole":
                return [*map(float, whole_ticks(math.ceil(low), math.floor(high), 10))]
            case "linear":
                return [tick for tick in nice_ticks(low, high, 5) if low <= tick <= high]
            case "log":
                powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
                fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
                inside = [tick for tick in fine if low <= tick <= high]
                return inside if len(inside) <= MOST_TICKS else [10.0**power for power in powers if 10.0**power >= low]


def line_chart(curves: Sequence[Curve], axis: Axis, marks: Sequence[Mark] = ()) -> str:
    """Curves over common axes, later ones on top. On a log scale what is not above zero is left out."""
    if axis.scale == "log":
        curves = [
            replace(curve, pieces=[[(x, y) for x, y in piece if x > 0] for piece in curve.pieces]) for curve in curves
        ]
    points = [point for curve in curves for point in curve.points]
    if not points:
        return '<p class="soft">Nothing was measured.</p>'
    ys = [y for _, y in points]
    across = _Across.over([x for x, _ in points], axis)
    ticks = nice_ticks(min(ys), max(ys), 5)
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> str:
        return f"{_number(across(x))} {_number(1000 * (high - y) / (high - low))}"

    first, last = across.low, across.high
    lines = [f'<path class="grid" {_THIN} d="M{place(first, tick)}L{place(last, tick)}"/>' for tick in ticks]
    lines += [
        f'<path class="mark {mark.style}" {_THIN} d="M{place(mark.x, high)}L{place(mark.x, low)}">'
        f"<title>{escape(mark.label)}</title></path>"
        for mark in marks
        if first <= mark.x <= last
    ]
    dotted = max(len(curve.points) for curve in curves) <= MOST_DOTS
    for curve in curves:
        way = "M".join("L".join(place(x, y) for x, y in piece) for piece in curve.pieces if piece)
        if way:
            lines.append(f'<path class="curve {curve.style}" {_THIN} d="M{way}"/>')
        lines += [
            f'<path class="dot {curve.style}" {_THIN} d="M{place(x, y)}h0">'
            f"<title>{escape(curve.label)}, {escape(axis.title)} {_number(x)}: {y:.4f}</title></path>"
            for x, y in (curve.points if dotted else ())
        ]
    return _framed(lines, _levels(ticks), across)


def column_chart(columns: Sequence[Column], axis: Axis, *, last: float) -> str:
    """Stacked columns as wide as they last, from 0 to `last`."""
    if not columns:
        return '<p class="soft">Nothing was measured.</p>'
    across = _Across.over([0.0, last], axis)
    ticks = nice_ticks(0.0, max(math.fsum(column.parts.values()) for column in columns), 4)
    lines = [f'<path class="grid" {_THIN} d="M0 {_number(y)}H1000"/>' for y in _heights(ticks)]
    for column in columns:
        top, left = 1000.0, across(column.start)
        for kind, count in column.parts.items():
            height = 1000 * count / ticks[-1]
            top -= height
            lines.append(_box(kind, column.label, (left, top), (max(across(column.end) - left, 1.0), height)))
    return _framed(lines, _levels(ticks), across)


def lane_chart(
    lanes: Sequence[str],
    bars: Sequence[Bar],
    axis: Axis,
    *,
    last: float,
    marks: Sequence[Bar] = (),
    lines: Sequence[float] = (),
) -> str:
    """A lane for each name, from 0 to `last`: bars in it, marks on top of them, vertical `lines` behind."""
    across, step = _Across.over([0.0, last], axis), 1000 / len(lanes)
    behind = [f'<path class="grid" {_THIN} d="M{_number(across(x))} 0V1000"/>' for x in lines]
    boxes = []
    for bar in bars:
        left, top = across(bar.start), step * (bar.lane + 0.12)
        boxes.append(_box(bar.style, bar.label, (left, top), (max(across(bar.end) - left, 1.5), step * 0.76)))
    over = [
        f'<path class="mark {mark.style}" {_THIN} '
        f'd="M{_number(across(mark.start))} {_number(step * mark.lane)}v{_number(step)}">'
        f"<title>{escape(mark.label)}</title></path>"
        for mark in marks
    ]
    names = "".join(
        f'<span style="bottom:{_number(100 - (lane + 0.5) * step / 10)}%">{escape(name)}</span>'
        for lane, name in enumerate(lanes)
    )
    return _framed([*behind, *boxes, *over], names, across, len(lanes))


@dataclass(frozen=True, slots=True)
class _Across:
    """Fits what lies along the bottom to 1000 units of width."""

    low: float
    high: float
    axis: Axis
    ticks: Sequence[float]

    @classmethod
    def over(cls, xs: Sequence[float], axis: Axis) -> _Across:
        low, high = min(xs), max(xs)
        ticks = axis.ticks(low, high)
        if low == high:
            low, high = (low / 2, low * 2) if axis.scale == "log" else (low - 1, low + 1)
        return cls(low, high, axis, ticks)

    def __call__(self, x: float) -> float:
        first, last = self.axis.at(self.low), self.axis.at(self.high)
        return 1000 * (self.axis.at(x) - first) / (last - first)


def _box(style: str, label: str, corner: tuple[float, float], size: tuple[float, float]) -> str:
    names, values = ("x", "y", "width", "height"), (*corner, *size)
    place = " ".join(f'{name}="{_number(value)}"' for name, value in zip(names, values, strict=True))
    return f'<rect class="{style}" {place}><title>{escape(label)}</title></rect>'


def _heights(ticks: Sequence[float]) -> list[float]:
    return [1000 * (ticks[-1] - tick) / (ticks[-1] - ticks[0]) for tick in ticks]


def _levels(ticks: Sequence[float]) -> str:
    """What stands beside the plot."""
    places = zip(ticks, _heights(ticks), strict=True)
    return "".join(
        f'<span style="bottom:{_number(100 - height / 10)}%">{_tick(tick, ticks)}</span>' for tick, height in places
    )


def _framed(lines: Sequence[str], beside: str, across: _Across, lanes: int = 0) -> str:
    """A plot with what stands beside and below it; as high as its lanes need, if it has any."""
    columns = "".join(f'<span style="left:{_number(across(x) / 10)}%">{_below(x, across)}</span>' for x in across.ticks)
    shape = f'class="chart lanes" style="--lanes:{lanes}"' if lanes else 'class="chart"'
    return (
        f'<div {shape}><div class="y">{beside}</div>'
        f'<div class="plot"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{"".join(lines)}</svg></div>'
        f'<div class="x">{columns}</div><div class="title">{escape(across.axis.title)}</div></div>'
    )


def _below(x: float, across: _Across) -> str:
    return _tick(x, across.ticks) if across.axis.scale == "linear" and len(across.ticks) > 1 else f"{x:.12g}"


_THIN = 'vector-effect="non-scaling-stroke"'


def line_legend(entries: Sequence[tuple[str, str]]) -> str:
    """What lines stand for: (label, style)."""
    items = "".join(
        f'<li><svg viewBox="0 0 18 10"><path class="curve {style}" d="M1 5H17"/></svg>{escape(label)}</li>'
        for label, style in entries
    )
    return f'<ul class="legend">{items}</ul>'


def area_legend(entries: Sequence[tuple[str, str]]) -> str:
    """What areas stand for: (label, style)."""
    items = "".join(f'<li><i class="{style}"></i>{escape(label)}</li>' for label, style in entries)
    return f'<ul class="legend">{items}</ul>'


def bar_chart(rows: Sequence[tuple[str, Mapping[str, float], str]]) -> str:
    """One stacked bar per row: (label, length by kind, what stands at its end). A kind is also its colour's class."""
    kinds = list(dict.fromkeys(kind for _, parts, _ in rows for kind, length in parts.items() if length > 0))
    longest = max((math.fsum(parts.values()) for _, parts, _ in rows), default=0.0) or 1.0
    legend = area_legend([(kind, kind) for kind in kinds])
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
    return f'{legend}<div class="bars">{"".join(bars)}</div>'


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
