"""Metrics are what the events say: totals of a finished run are its summary's, and nothing is counted twice."""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral.run import metrics
from decentral.run.journal import journals, merge, read
from decentral.run.metrics import BUCKETS, METRICS, OTHER, Histogram, Kind, Metrics
from decentral.run.summary import PHASES, summarise

LOAD = {
    "sessions": 2,
    "waiting": 3,
    "answered": 10,
    "declined": 1,
    "called_off": 4,
    "proofs": 2,
    "refused": {"BUSY": 1},
}


def folded(events: Any, **options: Any) -> Metrics:
    fold = Metrics(**options)
    fold.take_all(events)
    return fold


def event(what: str, peer: int | None = 0, **fields: Any) -> dict[str, Any]:
    return {"t": 1.0, "peer": peer, "event": what, **fields}


def total(fold: Metrics, metric: metrics.Metric, *labels: str) -> float:
    """Over all nodes."""
    return math.fsum(value for found, value in fold.values(metric).items() if found[1:] == labels)


def test_the_totals_of_a_finished_run_are_those_of_its_summary(run):
    events = merge(run)
    fold, summary = folded(events), summarise(run.recipe, "local", events)
    for kind in metrics.KINDS:
        assert total(fold, metrics.BYTES, kind, "sent") == summary["bytes"][kind]
    assert max(fold.values(metrics.ROUND).values()) == summary["rounds"]
    for index, accuracy in enumerate(summary["accuracy"]["per_peer"]):
        assert fold.values(metrics.ACCURACY)[f"peer-{index}",] == accuracy
    for phase in PHASES:
        seconds = math.fsum(found.total for (_, of), found in fold.histograms.items() if of == phase)
        assert seconds / summary["peers"] == pytest.approx(summary["seconds"][phase], abs=1e-6)
    for metric, what in ((metrics.CRASHES, "crashed"), (metrics.REJOINS, "rejoined")):
        assert sorted(node for (node,), count in fold.values(metric).items() if count) == summary[what]


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_it_does_not_matter_how_journals_come_together(seed, tmp_path_factory, write_run, recipe):
    """A launcher sees lines as they are written, a reader of the merged file in order of time."""
    if "run" not in SEEN:
        SEEN["run"] = [read(path) for path in journals(write_run(tmp_path_factory.mktemp("m") / "run", recipe).path)]
    chance, waiting, mixed = random.Random(seed), [list(each) for each in SEEN["run"]], []
    while any(waiting):
        mixed.append(chance.choice([each for each in waiting if each]).pop(0))
    assert counters(folded(mixed)) == counters(folded(x for each in SEEN["run"] for x in each))


SEEN: dict[str, Any] = {}


def counters(fold: Metrics) -> dict[str, Any]:
    found: dict[str, Any] = {m.name: fold.values(m) for m in METRICS if m.kind is Kind.COUNTER}
    return {**found, "seconds": {labels: histogram.counts for labels, histogram in fold.histograms.items()}}


@given(st.lists(st.floats(0, 2000)))
def test_a_histogram_holds_what_it_has_seen_and_each_bucket_those_below(values):
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    cumulative = histogram.cumulative()
    assert cumulative[-1] == ("+Inf", len(values))
    for (bound, count), limit in zip(cumulative, BUCKETS, strict=False):
        assert float(bound) == limit and count == sum(value <= limit for value in values)
    assert histogram.total == pytest.approx(sum(values))


def test_a_node_is_at_one_phase_at_a_time():
    fold = folded([event("started", round=0), event("phase", round=1, phase="train"), event("crashed", None, other=0)])
    phases = {phase: value for (node, phase), value in fold.values(metrics.PHASE).items() if node == "peer-0"}
    assert phases == {"started": 0, "train": 0, "crashed": 1}


def test_what_a_server_counted_before_it_was_started_again_is_added_to_what_it_counts_now():
    start = event("certified", left=60.0)
    fold = folded([start, event("load", **LOAD), start])
    assert total(fold, metrics.ANSWERS, "answered") == 10 and fold.values(metrics.QUEUE)["peer-0",] == 0
    fold.take(event("load", **{**LOAD, "answered": 5, "refused": {"STALE": 2}}))
    assert total(fold, metrics.ANSWERS, "answered") == 15
    assert total(fold, metrics.PROOFS) == 4
    assert total(fold, metrics.TURNED_AWAY, "busy") == 1 and total(fold, metrics.TURNED_AWAY, "stale") == 2
    assert fold.values(metrics.SESSIONS)["peer-0",] == 2 and fold.values(metrics.QUEUE)["peer-0",] == 3


def test_a_certificate_ends_when_its_time_from_the_event_on_is_over():
    fold = folded([event("certified", left=60.0)], epoch=lambda: 1000.0)
    assert fold.values(metrics.EXPIRY)["peer-0",] == 1061.0


def test_a_value_that_is_no_number_is_not_shown():
    fold = folded(
        [event("trained", loss=1.0, samples=8, seconds=0.1), event("trained", loss=None, samples=8, seconds=1)]
    )
    assert fold.values(metrics.TRAINING_LOSS) == {} and total(fold, metrics.SAMPLES) == 16


@settings(max_examples=20)
@given(st.lists(st.text(max_size=100), max_size=30))
def test_reasons_that_others_make_up_are_few_and_short(reasons):
    fold = folded(event("rejected", round=1, other=1, reason=reason) for reason in reasons)
    shown = fold.values(metrics.REJECTIONS)
    assert sum(shown.values()) == len(reasons)
    assert len(shown) <= metrics.MOST_REASONS + 1
    assert all(len(reason) <= metrics.MOST_LETTERS and reason.isprintable() for _, reason in shown if reason != OTHER)


def test_nodes_are_called_as_they_are_told_to_be():
    fold = folded([event("serving", 1, part="stage-0", digest="00")], name=lambda index: f"replica-{index}")
    assert fold.values(metrics.SERVING) == {("replica-1", "stage-0"): 1}


def test_what_the_authority_rules_is_shown_as_the_newest_notice_says():
    fold = folded([event("noticed", sequence=1, revoked=["a", "b"]), event("noticed", sequence=2, revoked=["a"])])
    assert fold.values(metrics.NOTICE) == {("peer-0",): 2} and fold.values(metrics.REVOKED) == {("peer-0",): 1}
    fold.take(event("unbelieved", problem="signed by nobody"))
    assert total(fold, metrics.UNBELIEVED) == 1


def test_what_a_client_thinks_replaces_what_it_thought():
    fold = Metrics()
    fold.judge({"a": 0.5, "b": 0.1})
    fold.judge({"b": 0.2})
    assert fold.values(metrics.REPUTATION) == {("b",): 0.2}


def test_names_are_as_prometheus_wants_them():
    for metric in METRICS:
        assert re.fullmatch(r"decentral_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.about.endswith(".")
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_the_page_has_a_row_for_every_metric(root):
    page = (root / "docs" / "observability.md").read_text()
    rows = defaultdict(list)
    for row in re.findall(r"^\| `(decentral_\w+)` \| (.*) \|$", page, re.MULTILINE):
        rows[row[0]].append(row[1])
    assert rows == {name: [f"{kind} | {labels} | {about}"] for name, kind, labels, about in metrics.table()}
