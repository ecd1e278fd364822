"""The dashboard asks for exactly the metrics that a run sets."""

import json
import re
from pathlib import Path

from actors.telemetry import METRICS

TREE = json.loads((Path(__file__).parents[2] / "cluster" / "manifests" / "grafana.json").read_text())
QUERIES = [target["expr"] for panel in TREE["panels"] for target in panel.get("targets", [])]


def test_every_query_names_a_metric_and_every_metric_is_shown() -> None:
    exported = {f"ray_itercomp_{name}{'_bucket' if spec.kind == 'histogram' else ''}" for name, spec in METRICS.items()}
    asked = {name for query in QUERIES for name in re.findall(r"ray_itercomp_\w+", query)}
    assert asked == exported


def test_queries_group_by_labels_that_the_metrics_have() -> None:
    added = {"le", "SessionName"}
    for query in QUERIES:
        names = [name.removesuffix("_bucket") for name in re.findall(r"ray_itercomp_(\w+)", query)]
        known = set.intersection(*({*METRICS[name].tags} for name in names)) | added
        for labels in re.findall(r"by \(([^)]*)\)", query):
            assert {label.strip() for label in labels.split(",")} <= known, query


def test_counters_are_shown_as_rates_and_gauges_as_they_are() -> None:
    for query in QUERIES:
        for name in re.findall(r"ray_itercomp_(\w+)", query):
            is_gauge = METRICS[name.removesuffix("_bucket")].kind == "gauge"
            assert ("rate(" in query or "increase(" in query) != is_gauge, query


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in TREE["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
