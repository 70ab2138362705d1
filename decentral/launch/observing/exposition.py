"""Metrics in Prometheus's text format, by its own client library, with what the process itself costs."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from decentral.run.metrics import METRICS, Kind, Metric, Metrics

MEDIA = CONTENT_TYPE_LATEST


class Exposition(Collector):
    """Shows a fold as it stands whenever it is asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            family = self._family(metric)
            if family.samples:
                yield family

    def _family(self, metric: Metric) -> Family:
        if metric.kind is Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(metric.name, metric.about, labels=metric.labels)
            for labels, found in self._metrics.histograms.items():
                histogram.add_metric(labels, found.cumulative(), found.total)
            return histogram
        make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
        family = make(metric.name, metric.about, labels=metric.labels)
        for labels, value in self._metrics.values(metric).items():
            family.add_metric(labels, value)
        return family
