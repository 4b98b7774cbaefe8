"""The report on transports is made of its numbers: a page with every table, charts that are XML."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from tests.benchmarks.transports import CONTENDERS, RUNS, Measured, Results, charts, page, ratio
from tests.support.charts import bars


def made_up() -> Results:
    return {
        (name, runs): [Measured(*(100.0 * (place + 1) + runs,) * 5, 0.0 if place else 240.0, 50.0)]
        for place, name in enumerate(CONTENDERS)
        for runs in RUNS
    }


def test_the_page_has_a_row_for_every_contender_and_names_machine_and_versions() -> None:
    text = page(made_up(), 3, "8 cores", "redis-server 7", "2026-01-31")
    for name in CONTENDERS:
        assert text.count(f"| {name} |") == len(Measured._fields) - 1  # two P95s are one table each
    assert "2026-01-31 on 8 cores.\nredis-server 7.\nMedians of 3 rounds" in text
    assert f"{ratio(made_up(), 'publish_us', 1):.2f}" == "1.33"


def test_every_chart_of_the_page_is_made() -> None:
    text = page(made_up(), 1, "m", "v", "d")
    for name, chart in charts(made_up()).items():
        assert f"../images/{name}" in text
        assert ET.fromstring(chart).tag.endswith("svg")


def test_a_bar_that_is_nothing_is_left_out_and_names_are_escaped() -> None:
    chart = bars("a < b", "us", ["1", "10"], {"x & y": [10.0, None], "z": [1.0, 1000.0]})
    root = ET.fromstring(chart)
    titles = [each.text for each in root.iter() if each.tag.endswith("title")]
    assert titles == ["x & y: 10", "z: 1", "z: 1,000"]
