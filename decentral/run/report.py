"""The page of a run: one file that opens from disk, in light and dark, on a phone, and asks the network for nothing.

It is a function of the recipe and the events: two equal runs give equal pages. Everything that comes from either is
escaped before it becomes HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from decentral.errors import UserError
from decentral.run import charts
from decentral.run.course import course, sent_in_all
from decentral.run.directory import RunDirectory, peer_name
from decentral.run.figures import (
    MOST_LINES,
    Way,
    cost_charts,
    readable_bytes,
    rounds_figure,
    rounds_words,
    sent_bars,
)
from decentral.run.journal import Event, merge
from decentral.run.recipe import Recipe
from decentral.run.summary import KINDS, PHASES, attack_words, bytes_by_peer, phase_seconds, summarise
from decentral.run.timeline import timeline

TOLD = {
    "launched": "run launched",
    "resumed": "run resumed after round {round}",
    "interrupted": "run interrupted",
    "crashed": "{other} crashed",
    "rejoined": "{other} rejoined",
    "left": "{other} left",
    "joined": "{other} joined",
    "lost": "{peer} lost {other} in round {round}",
    "returned": "{peer} has {other} back in round {round}",
    "failed": "{peer} failed: {problem}",
}
"""The events that a reader wants to hear of, and how they are told."""

PLACES = {
    "sim": "in the simulator",
    "local": "as local processes",
    "hosts": "on machines of their own",
    "ray": "on Ray",
}
"""Where a run's peers are, by its world."""

MOST_EVENTS = 200
MOST_PEERS = 100
"""Peers that are shown one by one; where there are more, curves are means alone, and the graph is not drawn."""


def write_report(run: RunDirectory) -> Path:
    """Writes report.html from the run's journals as they are; returns its path."""
    page = render(run.recipe, run.world, merge(run))
    run.write(run.report_file, page.encode())
    return run.report_file


def render(recipe: Recipe, world: str, events: Sequence[Event]) -> str:
    """The page, as HTML."""
    summary = summarise(recipe, world, events)
    accuracy = section("Test accuracy", f"{_whose(recipe)} {_test_set(recipe)}.", _curves(recipe, events, "accuracy"))
    loss = section("Test loss", f"{_loss_words(recipe)} {_test_set(recipe)}.", _curves(recipe, events, "loss"))
    if recipe.draws:
        shape = [columns(accuracy, loss), _costs(recipe, events), _rounds(recipe, events)]
    else:
        graph = section("Topology", _topology_words(recipe), _topology(recipe, summary))
        shape = [accuracy, _costs(recipe, events), columns(graph, loss)]
        if recipe.router is not None:
            shape = [columns(loss, accuracy), _costs(recipe, events)]
    sections = [
        *shape,
        columns(
            section("Sent by each peer", "Bytes after encoding, by what they carry.", _bytes(recipe, events)),
            section("Time by phase", _time_words(world), _phases(recipe, events)),
        ),
        _partition(recipe, events),
        _happenings(events),
        f'<section><details><summary>Recipe</summary><pre>{escape(recipe.to_yaml())}</pre></details></section>',
    ]  # fmt: skip
    head = f"<p>{_subtitle(recipe, world)}</p>{_attack(recipe, summary)}"
    content = f"{_headline(recipe, summary)}\n{''.join(section for section in sections if section)}"
    return page(recipe.name, head, content, [_versions(summary), f"recipe hash <code>{recipe.hash[:16]}</code>"])


def page(title: str, head: str, content: str, foot: Sequence[str]) -> str:
    """A whole file. The title is text; the rest is HTML already."""
    style, title = resources.files("decentral.run").joinpath("report.css").read_text(), escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title} · decentral</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1>{head}</header>\n{content}\n"
        f"<footer>{''.join(f'<p>{line}</p>' for line in foot)}</footer>\n</body>\n</html>\n"
    )


def section(title: str, words: str, content: str) -> str:
    """`words`, as HTML, stand between the title and the content."""
    return f"<section><h2>{title}</h2><figure><figcaption>{words}</figcaption>{content}</figure></section>\n"


def columns(*sections: str) -> str:
    """Side by side, where there is room."""
    return f'<div class="columns">{"".join(sections)}</div>\n'


def _rounds(recipe: Recipe, events: Sequence[Event]) -> str:
    told = timeline(recipe.peers, events)
    return section("Rounds", rounds_words(recipe.peers, told), rounds_figure(recipe.peers, told))


def _costs(recipe: Recipe, events: Sequence[Event]) -> str:
    points, sent = course(recipe, events), sent_in_all(events)
    words = "What all peers together sent, by what it carries."
    plots = ""
    if points:
        words = f"Mean test accuracy against time and against what all peers together had spent by then. {words}"
        plots = f'<div class="three">{"".join(cost_charts([Way("mean", "mean", points)]))}</div>'
    return section("What it cost", words, plots + sent_bars([("all peers", sent)]))


def _subtitle(recipe: Recipe, world: str) -> str:
    where = PLACES.get(world, f"on {world}")
    return escape(
        f"{recipe.algorithm} with {recipe.peers} peers {where}, {recipe.model.name} on {recipe.data.name}, "
        f"seed {recipe.seed}"
    )


def _attack(recipe: Recipe, summary: dict[str, Any]) -> str:
    """Who misbehaves, and that they were told to; nothing where all are honest."""
    if (words := attack_words(recipe)) is None:
        return ""
    own = _percent(summary["attack"]["accuracy"])
    return f"<p><strong>attack: {escape(words)}</strong>. Means are over the honest peers; the attackers' is {own}.</p>"


def _headline(recipe: Recipe, summary: dict[str, Any]) -> str:
    accuracy, virtual = summary["accuracy"], summary["virtual_seconds"]
    seconds = summary["seconds"]["wall"] if virtual is None else virtual
    spread = "" if accuracy["mean"] is None else f"{_percent(accuracy['min'])} to {_percent(accuracy['max'])}"
    apart = len(summary["crashed"])
    best = ("Mean accuracy", _percent(accuracy["mean"]), spread)
    if (router := summary.get("router")) is not None:
        loss = "–" if summary["loss"] is None else f"{summary['loss']:.4f}"
        best = ("Experts' mean loss", loss, f"router's accuracy {_percent(router['accuracy'])}")
    figures = [
        best,
        ("Rounds", str(summary["rounds"]), f"of {recipe.rounds}"),
        (
            "Sent",
            readable_bytes(summary["bytes"]["total"]),
            f"{readable_bytes(summary['bytes']['model'])} of it models",
        ),
        ("Time", f"{seconds:.1f} s", "virtual" if virtual is not None else "wall clock"),
        ("Crashes", str(apart), f"{len(summary['rejoined'])} rejoined" if apart else "everybody stayed"),
    ]
    items = "".join(
        f'<dl><dt>{name}</dt><dd>{escape(value)}</dd><dd class="soft">{escape(detail)}</dd></dl>'
        for name, value, detail in figures
    )
    return f'<div class="figures">{items}</div>'


def _curves(recipe: Recipe, events: Sequence[Event], what: str) -> str:
    """One curve for each peer, and their mean over those who were evaluated in a round."""
    measured: dict[int, dict[int, float]] = {peer: {} for peer in range(recipe.peers)}
    for event in events:
        if event["event"] == "evaluated" and event[what] is not None:
            measured[event["peer"]][event["round"]] = event[what]
    rounds = sorted({round for points in measured.values() for round in points})
    curves = [
        charts.Curve(_curve_name(recipe, peer), list(_pieces(points, rounds)), charts.peer_style(peer, recipe.peers))
        for peer, points in measured.items()
        if points
    ]
    many = recipe.peers > MOST_PEERS or recipe.draws  # where there is one model for all
    if len(curves) > 1 or (curves and many):
        means = []
        for round in rounds:
            values = [
                points[round] for peer, points in measured.items() if round in points and peer not in recipe.aside
            ]
            means += [(round, math.fsum(values) / len(values))] if values else []
        curves = [*(() if many else curves), charts.Curve("mean", [means], "mean")]
    marks = _marks(recipe, events)
    legend = dict.fromkeys((curve.label if curve.style != "many" else "each peer", curve.style) for curve in curves)
    legend |= dict.fromkeys((mark.style, f"mark {mark.style}") for mark in marks)
    return charts.line_legend(list(legend)) + charts.line_chart(curves, charts.Axis("round"), marks)


def _curve_name(recipe: Recipe, peer: int) -> str:
    return f"{peer_name(peer)} (attacks)" if peer in recipe.attackers else peer_name(peer)


def _pieces(points: dict[int, float], rounds: Sequence[int]) -> Iterator[list[tuple[float, float]]]:
    """A peer's points, cut where rounds of the others are missing: it was not there."""
    piece: list[tuple[float, float]] = []
    for round in rounds:
        if round in points:
            piece.append((round, points[round]))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _marks(recipe: Recipe, events: Sequence[Event]) -> list[charts.Mark]:
    """Crashes after the last round that a peer had ended, returns before the first that it has.

    Where samples are drawn the timeline shows them; too many would hide the curves.
    """
    ended: dict[int, int] = {}
    marks: list[charts.Mark] = []
    if recipe.draws:
        return marks
    for event in events:
        if event["event"] == "round":
            ended[event["peer"]] = event["round"]
        elif event["event"] == "started" and event["rejoined"]:
            marks.append(charts.Mark(event["round"] + 0.5, f"{peer_name(event['peer'])} rejoined", "rejoined"))
        elif event["event"] == "crashed":
            at = ended.get(event["other"], 0) + 0.5
            marks.append(charts.Mark(at, f"{peer_name(event['other'])} crashed", "crashed"))
    return marks if len(marks) <= MOST_LINES else []


def _topology(recipe: Recipe, summary: dict[str, Any]) -> str:
    if recipe.peers > MOST_PEERS:
        return f'<p class="soft">{recipe.peers:,} peers are too many to draw.</p>'
    graph = graph_of(recipe)
    if graph is None:
        return '<p class="soft">It cannot be drawn here: what it was made from is not there any more.</p>'
    gone = {int(name.removeprefix("peer-")) for name in set(summary["crashed"]) - set(summary["rejoined"])}
    return charts.topology_picture(recipe.peers, sorted(graph.edges), frozenset(gone))


def _topology_words(recipe: Recipe) -> str:
    from decentral.core import topology

    graph = graph_of(recipe)
    name = " ".join([recipe.topology.name, *(f"{key} {value}" for key, value in recipe.topology.options.items())])
    if graph is None:
        return escape(name)
    edges = graph.number_of_edges()
    words = f"{name}: {edges:,} {'edge' if edges == 1 else 'edges'}"
    if recipe.peers <= topology.MEASURED:
        words += f", spectral gap {topology.spectral_gap(topology.metropolis_hastings(graph)):.3f}"
    return escape(f"{words}.")


def graph_of(recipe: Recipe) -> Any:
    """Who exchanges models with whom, as networkx has it; None where what it was made from is gone."""
    from decentral.core import topology

    try:
        return topology.build(recipe.topology.name, recipe.peers, recipe.seed, **recipe.topology.options)
    except UserError:
        return None


def _bytes(recipe: Recipe, events: Sequence[Event]) -> str:
    rows = []
    for peer, sent in enumerate(bytes_by_peer(recipe, events)):
        parts = {kind: float(sent[kind]) for kind in KINDS if kind != "total"}
        rows.append((peer_name(peer), parts, readable_bytes(sent["total"])))
    return charts.bar_chart(rows[:MOST_PEERS]) + _others(recipe)


def _phases(recipe: Recipe, events: Sequence[Event]) -> str:
    rows = []
    for peer, seconds in enumerate(phase_seconds(recipe, events)):
        rows.append((peer_name(peer), seconds, f"{math.fsum(seconds[phase] for phase in PHASES):.1f} s"))
    return charts.bar_chart(rows[:MOST_PEERS]) + _others(recipe)


def _others(recipe: Recipe) -> str:
    """Those who are not shown one by one."""
    left = recipe.peers - MOST_PEERS
    return f'<p class="soft">and {left:,} more</p>' if left > 0 else ""


def _time_words(world: str) -> str:
    return (
        "Virtual seconds of each peer, over all rounds." if world == "sim" else "Seconds of each peer, over all rounds."
    )


def _loss_words(recipe: Recipe) -> str:
    if recipe.router is None:
        return "Mean cross-entropy"
    name = peer_name(recipe.router)
    return f"Mean squared error of the flow, of each expert for its cluster ({name}, the router: mean cross-entropy)"


def _whose(recipe: Recipe) -> str:
    if recipe.router is not None:
        return "Experts have none; of the router: noisy images sent to their cluster,"
    return "Of the aggregate of a round" if recipe.draws else "Of each peer's own model"


def _test_set(recipe: Recipe) -> str:
    samples = recipe.evaluation.samples
    which = "" if samples is None else f"{samples:,} class-balanced images of "
    return f"on {which}the common test set, {_how_often(recipe.evaluation.every)}"


def _how_often(rounds: int) -> str:
    return "after each round" if rounds == 1 else f"after every {rounds} rounds and the last"


def _matching_words(recipe: Recipe) -> str:
    """The images that a merge looks at, and what it makes of statistics."""
    matching = recipe.matching
    if matching.data == "own":
        whose = f"up to {matching.samples:,} images of its own share"
    else:
        whose = f"{matching.samples:,} class-balanced images that are the same for all and in nobody's share (proxy)"
    if recipe.batchnorm == "reestimate":
        statistics = "BatchNorm's statistics are estimated anew on them"
    else:
        statistics = "BatchNorm's statistics are averaged, not estimated on them"
    if recipe.algorithm == "dimat" and recipe.matching.repair:
        where = " where the network has no normalisation" if recipe.matching.repair == "auto" else ""
        statistics += f"; units get back their mean and deviation on them (REPAIR){where}"
    return f"A merge that matches units or re-estimates BatchNorm looks at {whose}. {statistics}."


def _partition(recipe: Recipe, events: Sequence[Event]) -> str:
    """Training images by peer and class, where the journals tell: `data` events with `classes`."""
    held = {event["peer"]: event["classes"] for event in events if event["event"] == "data"}
    if not held:
        return ""
    rows = [(peer_name(peer), counts) for peer, counts in sorted(held.items())][:MOST_PEERS]
    columns = [str(column) for column in range(max(len(counts) for counts in held.values()))]
    words = f"Training images by peer and class. {escape(_matching_words(recipe)) if recipe.router is None else ''}"
    return section("Who holds what", words, charts.heat_table(rows, columns) + _others(recipe))


def _happenings(events: Sequence[Event]) -> str:
    told = list(_told(events))
    shown = told[:MOST_EVENTS]
    if len(shown) < 2:
        return ""
    rows = "".join(f"<tr><td>{at:.2f} s</td><td>{escape(text)}</td></tr>" for at, text in shown)
    more = f'<p class="soft">and {len(told) - len(shown)} more</p>' if len(told) > len(shown) else ""
    return f"<section><h2>What happened</h2><table>{rows}</table>{more}</section>\n"


def _told(events: Sequence[Event]) -> Iterator[tuple[float, str]]:
    for event in events:
        if (words := TOLD.get(event["event"])) is not None:
            names = {key: peer_name(event[key]) for key in ("peer", "other") if event.get(key) is not None}
            facts = {"round": event.get("round", "?"), "problem": event.get("problem", "")}
            yield event["t"], words.format_map({"peer": "launcher", "other": "a peer", **facts, **names})


def _versions(summary: dict[str, Any]) -> str:
    return escape(" · ".join(f"{name} {version}" for name, version in summary["versions"].items()))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
