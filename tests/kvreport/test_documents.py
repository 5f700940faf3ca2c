"""The documents' own tables and words, from stats made for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kvreport.cases import cross
from tests.kvreport.rounds import Setting, Shape, World, edited, experiment

from kvpipe.records import Arrival
from kvreport.conclude import conclude
from kvreport.experiments import group
from kvreport.formats import RENDERERS
from kvreport.formats import Setting as Format
from kvreport.inputs import read_inputs
from kvreport.rounds import Round
from kvreport.targets import parse

UNIQUE = Shape(requests=6, contexts=0, uniques=6, sentinels=3)
QUIET = 0.0005
TWO = "腾讯云-跨节点-Qwen2.5-72B"
ONE = "腾讯云-单机-Qwen2.5-72B"
OLD = Path(__file__).parents[1] / "cases/kvreport/old-stats-file/in.json"


def table_rows(rounds: list[Round], language: str = "zh") -> list[list[str]]:
    """Cells of every table line of the Markdown report, as a reader sees them."""
    conclusion = conclude(group(rounds), parse([]), tool_version="test")
    text = RENDERERS["md"](conclusion, Format(language=language))
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


@pytest.fixture(scope="module")
def several() -> list[Round]:
    return [
        *experiment(
            3,
            shape=UNIQUE,
            world=World(miss_s=1.5, hit_s=0.45, noise=QUIET),
            setting=cross(TWO, experiment_id="two"),
        ),
        *experiment(
            3,
            shape=UNIQUE,
            world=World(miss_s=1.5, hit_s=0.4, noise=QUIET),
            setting=Setting(name=ONE, experiment_id="one"),
        ),
    ]


def test_several_scenarios(several: list[Round]) -> None:
    rows = table_rows(several)
    at = rows.index(["测试场景", "Baseline", "Cache Hit", "降低", "状态"])
    assert rows[at + 2 : at + 4] == [
        [f"🌐 {TWO}", "1500 ms", "450 ms", "70.0 %", "✅ 达标"],
        [ONE, "1500 ms", "400 ms", "73.3 %", "✅ 达标"],
    ]
    assert ["测试场景", "Baseline", "Cache Hit", "提升", "状态"] in rows


def test_the_same_in_english_is_a_change_with_its_sign(several: list[Round]) -> None:
    rows = table_rows(several, "en")
    at = rows.index(["Scenario", "Baseline", "Cache Hit", "Change", "Status"])
    assert rows[at + 2] == [f"🌐 {TWO}", "1500 ms", "450 ms", "-70.0 %", "✅ met"]


def test_one_scenario() -> None:
    """Throughput rises by 192 % and TTFT falls by 70 %: under load, not serially."""
    load = Setting(name=ONE, arrival=Arrival(kind="closed", concurrency=5))
    world = World(miss_s=1.5, hit_s=0.45, noise=QUIET)
    rates = {"cold": 1.2, "hit": 3.5, "no_reuse": 1.0}
    rounds = [
        edited(one, request_throughput_rps=rates[one.run.arm] * (1 + 0.0001 * one.run.repeat))
        for one in experiment(
            3, arms=("no_reuse", "cold", "hit"), shape=UNIQUE, world=world, setting=load
        )
        if one.run is not None
    ]
    rows = table_rows(rounds)
    at = rows.index(["指标", "Round 1", "Round 2", "改善", "95 % 区间"])
    shown = {row[0]: row[1:4] for row in rows[at + 2 :] if len(row) == 5}
    assert shown["TTFT"] == ["1500 ms", "450 ms", "-70.0 %"]
    assert shown["吞吐量"] == ["1.20 req/s", "3.50 req/s", "+192 %"]


def test_one_scenario_of_an_old_stats_file() -> None:
    rows = table_rows(read_inputs([str(OLD)]).rounds)
    at = rows.index(["指标", "Round 1", "Round 2", "改善"])
    assert ["TTFT", "1500 ms", "450 ms", "-70.0 %"] in rows[at:]
    assert ["吞吐量", "1.20 req/s", "3.50 req/s", "+192 %"] in rows[at:]


def test_the_words_of_a_cross_node_report(several: list[Round]) -> None:
    """In the summary at its head, and again in the scenario's details."""
    conclusion = conclude(group(several), parse([]), tool_version="test")
    text = RENDERERS["md"](conclusion, Format(language="zh"))
    head, details = text.split("## 详细数据")
    for said in (
        "## 测试结果汇总",
        "### 跨节点测试信息",
        "本次测试包含 1 个跨节点场景",
        "**节点 A（存储缓存）:** http://10.0.0.1:8000/v1",
        "**节点 B（加载缓存）:** http://10.0.0.2:8000/v1",
        "**KV Cache 传输:** ✅ 从节点 A 传输到节点 B",
    ):
        assert said in head
    for said in (
        "**Round 1（Baseline）:** 节点 A - http://10.0.0.1:8000/v1",
        "**Round 2（Cache Hit）:** 节点 B - http://10.0.0.2:8000/v1",
        "**KV Cache 传输:** ✅ 从节点 A 传输到节点 B",
        *("总请求数", "成功请求", "失败请求", "总耗时", "端到端延迟", "缓存命中", "平均", "中位数"),
        *("## 技术分析", "## 结论", "## 部署建议"),
    ):
        assert said in details
    shown = [line for line in text.splitlines() if line.startswith("|") and TWO in line]
    assert shown and all(f"🌐 {TWO}" in line for line in shown)
