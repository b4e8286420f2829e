"""Alert rules and dashboard speak of metrics that exist; promtool runs the rules' own tests."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "chancery.json").read_text())
DOCS = (ROOT / "docs" / "monitoring.md").read_text()
_NAME = re.compile(r"\bchancery_[a-z0-9_]+")


def exported() -> list[re.Pattern[str]]:
    """What the code exports, as patterns: a part of a name may be made at run time."""
    text = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    names = set(re.findall(r'"(chancery_[a-z0-9_{}]+)"', text))
    return [
        re.compile(re.sub(r"\\?\{\w+\\?\}", "[a-z]+", name) + "(_total|_bucket|_sum|_count)?")
        for name in sorted(names)
    ]


def spoken() -> set[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    rules = re.findall(r"expr:(.*?)\n        (?:for|labels):", ALERTS.read_text(), re.DOTALL)
    assert len(rules) == ALERTS.read_text().count("- alert:")
    return set(_NAME.findall(" ".join([*panels, *rules])))


def test_every_metric_of_a_rule_or_a_panel_is_one_that_the_code_exports():
    known = exported()
    assert [] == [name for name in sorted(spoken()) if not any(one.fullmatch(name) for one in known)]


def test_every_alert_and_every_metric_is_explained():
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert [] == [name for name in alerts if f"`{name}`" not in DOCS]
    names = {one.removesuffix("_total").removesuffix("_bucket") for one in spoken()}
    assert [] == sorted(name for name in names if f"`{name}" not in DOCS)


def test_every_alert_has_a_test_of_its_own():
    tests = (ALERTS.parent / "alerts_test.yml").read_text()
    for name in re.findall(r"- alert: (\w+)", ALERTS.read_text()):
        assert f"name: {name} fires" in tests
        assert f"name: {name} is silent" in tests


@pytest.mark.parametrize("words", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_agrees(words):
    done = subprocess.run(["promtool", *words], cwd=ALERTS.parent, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_panels_have_one_place_each():
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(places) == len(set(places))
    assert len(places) == len({panel["id"] for panel in DASHBOARD["panels"]})
