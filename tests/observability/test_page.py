"""What the page, the alerts and the dashboard say is so."""

from __future__ import annotations

import ast
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.observability.page import PAGE, written

import holdfast
from holdfast.metrics.table import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = PAGE.parent / "prometheus-rules.yml"
RULES_TEST = Path(__file__).parent / "prometheus-rules.test.yml"
DASHBOARD: dict[str, Any] = json.loads((PAGE.parent / "grafana-dashboard.json").read_text())

NAMES = {metric.name: metric for metric in METRICS}


def expressions() -> Iterator[str]:
    """Every expression of the dashboard."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def check_names(text: str) -> set[str]:
    """Assert that *text* names metrics, labels and values that are there; return the metrics."""
    named: set[str] = set()
    for name, matchers in re.findall(r"\b(holdfast_\w+)(?:\{([^}]*)\})?", text):
        base = name if name in NAMES else re.sub(r"_(bucket|count|sum)$", "", name)
        assert base in NAMES, name
        named.add(base)
        metric = NAMES[base]
        for label, told in re.findall(r'(\w+)\s*(?:=~|!=|=)\s*"([^"]*)"', matchers):
            if label not in {"job", "instance", "le"}:
                place = metric.labels.index(label)
                assert set(told.split("|")) <= {each[place] for each in metric.values}, (name, told)
    return named


def test_the_table_is_that_of_the_code() -> None:
    text = PAGE.read_text()
    assert written(text) == text, "python -m tests.observability.page"


def test_the_alerts_name_what_there_is() -> None:
    assert len(check_names(RULES.read_text())) >= 12


def test_the_dashboard_names_what_there_is_and_shows_all_of_it() -> None:
    named = set().union(*map(check_names, expressions()))
    assert named == set(NAMES)


def test_no_two_panels_lie_on_each_other() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_every_alert_has_a_test() -> None:
    tested = set(re.findall(r"alertname: (\w+)\n +exp_alerts:", RULES_TEST.read_text()))
    assert tested == set(re.findall(r"alert: (\w+)", RULES.read_text()))


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (prometheus)")
def test_the_alerts_fire_when_they_should() -> None:
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(RULES_TEST)]):
        run_promtool(command)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (prometheus)")
def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
        if not expression.startswith("label_values")
    ]
    file = tmp_path / "panels.yml"
    # JSON is YAML.
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    run_promtool(["check", "rules", str(file)])


def run_promtool(arguments: list[str]) -> None:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_fields_of_log_lines_are_those_of_the_page() -> None:
    found: set[str] = set()
    for path in Path(holdfast.__file__).parent.rglob("*.py"):
        text = path.read_text()
        for function in ast.walk(ast.parse(text)) if "extra=" in text else ():
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and any(
                isinstance(node, ast.keyword) and node.arg == "extra" for node in ast.walk(function)
            ):
                for node in ast.walk(function):
                    if isinstance(node, ast.Dict):
                        keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                        found |= {str(key) for key in keys}
    table = PAGE.read_text().partition("| when | level | fields |")[2].partition("\n\n")[0]
    fields = [line.split("|")[3] for line in table.splitlines() if line.count("|") > 3]
    # What is in brackets is a value, or where else it is found.
    plain = re.sub(r"\([^)]*\)", "", " ".join(fields))
    assert set(re.findall(r"`(\w+)`", plain)) == found


def test_the_formatter_of_the_page_writes_the_fields() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [each for each in blocks if "class JSONFormatter" in each]
    scope: dict[str, Any] = {}
    exec(block.partition("\n\nhandler =")[0], scope)
    record: dict[str, Any] = {
        "name": "holdfast.link",
        "levelname": "WARNING",
        "msg": "Redis is %s",
        "args": ("away",),
        "redis_reason": "refused",
        "odd": object,
    }
    try:
        raise LookupError("why")
    except LookupError:
        record["exc_info"] = sys.exc_info()
    line = json.loads(scope["JSONFormatter"]().format(logging.makeLogRecord(record)))
    assert line["message"] == "Redis is away"
    assert line["redis_reason"] == "refused"
    assert "LookupError: why" in line["error"]
    assert set(line) == {"at", "level", "logger", "message", "redis_reason", "odd", "error"}
