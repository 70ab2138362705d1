"""The dashboard and Prometheus's configuration: what they ask for is what there is, and all of it is shown."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from decentral import locate
from decentral.run.metrics import INFO, METRICS, Kind

CLUSTER = locate.folder("cluster")
SCRAPED = {"job", "instance"}
"""Labels that Prometheus itself adds."""
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
NAME = re.compile(r"\b(decentral_\w+|process_\w+)(?:\{([^}]*)\})?")
BY = re.compile(r"\bby \(([^)]*)\)")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found = json.loads((CLUSTER / "grafana" / "decentral.json").read_text())
    assert isinstance(found, dict)
    return found


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Expressions and legends."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]


def labels() -> dict[str, set[str]]:
    """Of every series that Prometheus has of us."""
    found = {name: set(SCRAPED) for name in PROCESS}
    for metric in METRICS:
        own = {*metric.labels, *SCRAPED}
        if metric.kind is Kind.HISTOGRAM:
            found |= {f"{metric.name}_bucket": own | {"le"}, f"{metric.name}_sum": own, f"{metric.name}_count": own}
        else:
            found[metric.name] = own
    return found


def test_every_query_asks_for_what_there_is_by_labels_that_it_has(dashboard):
    known = labels()
    for query, legend in queries(dashboard):
        asked = NAME.findall(query)
        assert asked, query
        for name, selector in asked:
            assert name in known, query
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector)) <= known[name], query
        shared = set.intersection(*(known[name] for name, _ in asked))
        grouped = {label.strip() for found in BY.findall(query) for label in found.split(",")}
        assert grouped <= shared, query
        assert set(re.findall(r"{{(\w+)}}", legend)) <= (grouped or shared), (query, legend)


def test_the_search_for_metrics_sees_one_that_there_is_not():
    assert NAME.findall('rate(decentral_nothing_total{node="x"}[5m])') == [("decentral_nothing_total", 'node="x"')]
    assert "decentral_nothing_total" not in labels()


def test_every_metric_is_shown(dashboard):
    shown = {name for query, _ in queries(dashboard) for name, _ in NAME.findall(query)}
    hidden = [each.name for each in METRICS if not {each.name, f"{each.name}_bucket"} & shown]
    assert hidden == [INFO.name]  # by which jobs are found


def test_every_variable_that_is_used_is_defined(dashboard):
    text = json.dumps(dashboard["panels"]).replace("$__rate_interval", "")
    used = set(re.findall(r"\$\{?(\w+)\}?", text))
    assert used == {variable["name"] for variable in dashboard["templating"]["list"]}


def test_no_panel_lies_over_another_and_all_are_within_the_page(dashboard):
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard["panels"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)
    for (title, one), (other, two) in itertools.combinations(places, 2):
        apart = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        apart |= one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
        assert apart, (title, other)
    assert all(place["x"] + place["w"] <= 24 for _, place in places)


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.kubernetes.yml"])
def test_prometheus_asks_where_we_answer(name):
    text = (CLUSTER / name).read_text()
    (job,) = yaml.safe_load(text)["scrape_configs"]
    assert job["job_name"] == "decentral" and "metrics_path" not in job  # /metrics, as it is by default
    assert "--metrics 9300" in text
    for target in itertools.chain.from_iterable(each["targets"] for each in job.get("static_configs", ())):
        assert target.endswith(":9300")
