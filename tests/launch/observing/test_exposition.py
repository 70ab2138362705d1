"""What is shown is what was folded, in the format that Prometheus reads."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from decentral.launch.observing.exposition import Exposition
from decentral.run.metrics import METRICS, PHASE_SECONDS, Kind, Metrics

SENT = {"model": 7, "control": 2, "evidence": 0, "total": 9}
LOAD = {"sessions": 1, "waiting": 2, "answered": 3, "declined": 4, "called_off": 5, "proofs": 6, "refused": {"BUSY": 7}}


def some_events(peer: int) -> list[dict]:
    told = [
        {"event": "certified", "left": 60.0},
        {"event": "started", "round": 0},
        {"event": "phase", "round": 1, "phase": "train"},
        {"event": "trained", "round": 1, "loss": 0.5, "samples": 80, "seconds": 0.25},
        {"event": "exchanged", "round": 1, "received": [1], "missing": [2], "seconds": 0.01},
        {"event": "refused", "round": 1, "other": 1, "reason": "STALE"},
        {"event": "evaluated", "round": 1, "accuracy": 0.75, "loss": 0.6, "seconds": 0.1},
        {"event": "round", "round": 1, "bytes": SENT},
        {"event": "serving", "part": "stage-0", "digest": "00"},
        {"event": "load", **LOAD},
    ]
    return [{"t": float(number), "peer": peer, **event} for number, event in enumerate(told)]


def parsed(metrics: Metrics) -> dict:
    """Samples by name and labels."""
    families = text_string_to_metric_families(Exposition(metrics).text().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_value_is_shown_once_under_its_name_and_labels():
    metrics = Metrics()
    for peer in range(2):
        metrics.take_all(some_events(peer))
    shown = {key: value for key, value in parsed(metrics).items() if key[0].startswith("decentral_")}
    for metric in METRICS:
        if metric.kind is Kind.HISTOGRAM:
            continue
        for labels, value in metrics.values(metric).items():
            assert shown.pop((metric.name, tuple(sorted(zip(metric.labels, labels, strict=True))))) == value
    assert {name for name, _ in shown} == {f"{PHASE_SECONDS.name}_{what}" for what in ("bucket", "sum", "count")}
    for (node, phase), histogram in metrics.histograms.items():
        labels = (("node", node), ("phase", phase))
        assert shown[f"{PHASE_SECONDS.name}_sum", labels] == pytest.approx(histogram.total)
        assert shown[f"{PHASE_SECONDS.name}_count", labels] == sum(histogram.counts)


def test_it_shows_what_has_come_meanwhile_and_what_the_process_costs():
    metrics = Metrics()
    exposition = Exposition(metrics)
    before = exposition.text()
    metrics.take({"t": 0.0, "peer": 0, "event": "lost", "other": 1})
    assert b"decentral_partners_lost_total" not in before
    assert b'decentral_partners_lost_total{node="peer-0"} 1.0' in exposition.text()
    assert b"process_resident_memory_bytes" in before


def test_a_label_is_escaped():
    metrics = Metrics()
    metrics.take({"t": 0.0, "peer": 0, "event": "rejected", "reason": 'a "quote" \\ and more'})
    ((_, labels),) = [key for key in parsed(metrics) if key[0] == "decentral_rejections_total"]
    assert dict(labels)["reason"] == 'a "quote" \\ and more'
