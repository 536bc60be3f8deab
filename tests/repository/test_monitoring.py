"""docs/monitoring.md and the alerts of examples/prometheus name the metrics that the daemon has."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from amistream.daemon.metrics import Metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "examples" / "prometheus"


class Zeros(SimpleNamespace):
    """Every other attribute is zero."""

    def __getattr__(self, _: str) -> int:
        return 0


def metrics() -> set[str]:
    """The names of all metrics: with a queue, a retry and a success."""
    queue: Any = SimpleNamespace(jobs=list)
    health = SimpleNamespace(jobs=0, results_waiting=0, errors=(), lease_s=1)
    intake: Any = Zeros(counts=Zeros(results=Counter()), health=lambda: health)
    found = set()
    for family in text_string_to_metric_families(Metrics().own_text(queue, intake).decode()):
        found.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return found


def test_the_page_names_every_metric() -> None:
    """Each metric has its line in the tables, and no line is for one that does not exist."""
    listed = re.findall(r"^\| `(amistream_\w+)` \|", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    assert len(listed) == len({*listed})
    assert {*listed} == metrics()


def test_alerts_are_on_metrics_that_exist() -> None:
    """Each alert is on metrics of the daemon, or on those of node_exporter, and has a test."""
    [group] = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    tests = yaml.safe_load((PROMETHEUS / "alerts-test.yaml").read_text())["tests"]
    assert {rule["alert"] for rule in group["rules"]} == {
        case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]
    }
    named = {name for rule in group["rules"] for name in re.findall(r"\b(?:amistream|node)_\w+", rule["expr"])}
    assert named - metrics() == {"node_textfile_mtime_seconds"}
