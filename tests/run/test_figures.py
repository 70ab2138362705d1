"""Figures stay readable: units that fit, a lane for each of few peers, counts by round of many."""

from __future__ import annotations

import re

import pytest

from decentral.run import charts
from decentral.run.course import Point
from decentral.run.figures import (
    MOST_COLUMNS,
    MOST_LANES,
    MOST_LINES,
    MOST_SPANS,
    Way,
    cost_charts,
    readable_bytes,
    rounds_figure,
    rounds_words,
    sent_bars,
)
from decentral.run.timeline import Change, Round, Span, Timeline


def told(peers: int, rounds: int, changes: int = 0) -> Timeline:
    spans = [Span(round % peers, "train", round, round + 0.5, round + 1) for round in range(rounds)]
    spans += [Span(round % peers, "merge", round + 0.5, round + 0.6, round + 1) for round in range(rounds)]
    ends = [Round(round + 1, float(round), round + 1.0, 3, 1) for round in range(rounds)]
    gone = [Change(place % peers, "crashed", float(place)) for place in range(changes)]
    return Timeline(spans, gone, ends, [(0.0, peers), (rounds / 2, peers - 1)], float(rounds))


def boxes(html: str, kind: str) -> int:
    return len(re.findall(f'<rect class="{kind}"', html))


def test_few_peers_have_a_lane_each_with_what_they_did_and_when_they_went():
    html = rounds_figure(5, told(5, 10, changes=2))
    assert (boxes(html, "train"), boxes(html, "merge"), boxes(html, "away")) == (10, 10, 0)
    assert html.count("peer-4</span>") == 1 and html.count('class="mark crashed"') == 2
    assert "peer-3 trains, round 4: 3.00 s to 3.50 s" in html
    assert html.count('class="grid"') == 10 and "A vertical line" in rounds_words(5, told(5, 10))


@pytest.mark.parametrize(
    ("peers", "rounds"), [(MOST_LANES + 1, 50), (1000, 500), (5, MOST_SPANS), (10_000, 10 * MOST_COLUMNS)]
)
def test_many_peers_or_rounds_become_columns_that_are_few(peers: int, rounds: int):
    html = rounds_figure(peers, told(peers, rounds))
    assert 1 < boxes(html, "train") <= min(rounds, MOST_COLUMNS)
    assert "peer-1" not in html
    assert len(html) < 100_000
    assert ("on average" in rounds_words(peers, told(peers, rounds))) == (rounds > MOST_COLUMNS)


def test_columns_tell_how_many_took_part_and_are_as_wide_as_their_rounds_were_long():
    rounds = [Round(1, 0.0, 1.0, 10, 1), Round(2, 1.0, 4.0, 7, 2)]
    html = rounds_figure(MOST_LANES + 1, Timeline([Span(0, "train", 0, 1, 1)], [], rounds, [(0.0, 41)], 4.0))
    widths = re.findall(r'<rect class="train" x="[\d.]+" y="[\d.]+" width="([\d.]+)"', html)
    assert widths == ["250", "750"]
    assert "round 2: 7 participants, 3 s" in html


def test_a_crowd_that_comes_and_goes_does_not_bury_the_curve():
    few, many = (rounds_figure(1000, told(1000, 100, changes)) for changes in (MOST_LINES, MOST_LINES + 1))
    assert few.count('class="mark crashed" vector') == MOST_LINES
    assert many.count('class="mark crashed" vector') == 0


def test_before_anybody_was_drawn_the_figure_says_so():
    assert "Nobody has been drawn" in rounds_figure(3, Timeline())


def way(*points: tuple[float, int, int]) -> Way:
    found = [
        Point(round, round / 10, seconds, {"model": sent, "control": 1}, images)
        for round, (seconds, sent, images) in enumerate(points, start=1)
    ]
    return Way("mine", "mean", found)


@pytest.mark.parametrize(
    ("point", "titles"),
    [
        ((30.0, 5_000, 900), ("time (s)", "sent by all peers (kB)", "training images<")),
        ((3000.0, 50_000_000, 90_000), ("time (min)", "sent by all peers (MB)", "training images (thousands)")),
        ((90_000.0, 10**12, 10**9), ("time (h)", "sent by all peers (GB)", "training images (millions)")),
    ],
)
def test_costs_are_told_in_units_that_fit(point: tuple[float, int, int], titles: tuple[str, ...]):
    found = cost_charts([way((1.0, 1, 1), point)])
    assert all(title in chart for title, chart in zip(titles, found, strict=True))


def test_without_points_nothing_was_measured():
    assert all("Nothing was measured" in chart for chart in cost_charts([way()], "log"))


def test_a_log_scale_leaves_out_what_cost_nothing():
    _, sent, images = cost_charts([way((1.0, -1, 0), (2.0, 10_000, 100), (3.0, 1_000_000, 10_000))], "log")
    for chart in (sent, images):
        assert chart.count('class="dot') == 2 and "NaN" not in chart


@pytest.mark.parametrize("ends", [(1.0, 1.0), (3.0, 9.0), (0.2, 31.0), (1e-3, 1e9)])
def test_ticks_of_a_log_scale_are_round_few_and_within(ends: tuple[float, float]):
    ticks = charts.Axis("bytes", "log").ticks(*ends)
    assert len(ticks) <= 13 and all(ends[0] <= tick <= ends[1] for tick in ticks)
    assert {f"{tick:.0e}"[0] for tick in ticks} <= {"1", "2", "5"}


def test_bars_say_what_was_sent_in_all():
    html = sent_bars([("all peers", {"model": 1_500_000, "view": 20_000, "control": 0})])
    assert "1.5 MB" in html and 'class="view"' in html and 'class="control"' not in html


def test_sizes_are_read_in_powers_of_a_thousand() -> None:
    assert [readable_bytes(size) for size in (0, 999, 1000, 1_500_000, 2e9, 3e12)] == [
        "0 B", "999 B", "1.0 kB", "1.5 MB", "2.0 GB", "3000.0 GB"
    ]  # fmt: skip
