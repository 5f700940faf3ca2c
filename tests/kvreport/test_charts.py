"""What charts show, and that they can be drawn, whatever the figures."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kvreport.rounds import Setting, Shape, World, experiment, finding, lines, make
from tests.kvreport.test_setting import concluded, several

from kvreport.charts import charts_of, fonts
from kvreport.charts.chart import Axis, Bars, Chart, Plane, Radar, Timeline
from kvreport.charts.png import png
from kvreport.charts.scale import scale_of
from kvreport.charts.summaries import BARS_MOST
from kvreport.charts.svg import draw
from kvreport.experiments import group
from kvreport.rounds import Round
from kvreport.words import Words

Sh = Callable[..., Any]
DOCUMENTS = [
    "ttft_comparison",
    "throughput_comparison",
    "ttft_reduction_comparison",
    "throughput_increase_comparison",
    "performance_radar",
]
OWN = ["ttft_distribution", "cold_against_hit", "ttft_by_uncached", "hits_against_ideal"]
SMALL = Shape(requests=12, contexts=4, uniques=0, sentinels=3)


def charts(rounds: list[Round], language: str = "en") -> dict[str, Chart]:
    found = charts_of(concluded(rounds), group(rounds), Words(language))
    return {one.name: one for one in found}


def test_the_documents_charts_by_name_and_those_that_explain() -> None:
    found = charts(experiment(3, shape=SMALL))
    assert [*found] == [*DOCUMENTS, *(f"01_{name}" for name in [*OWN, "timeline"])]


def test_a_reduction_stands_with_its_interval_and_target() -> None:
    chart = charts(experiment(3, shape=SMALL))["ttft_reduction_comparison"]
    assert isinstance(chart, Bars) and chart.line and chart.line[0] == 0.6
    whole, hit = (one.bars[0] for one in chart.series)
    for bar in (whole, hit):
        assert bar.value and bar.low and bar.high and bar.low < bar.value < bar.high
    assert hit.value and whole.value and hit.value > whole.value
    assert "4 of 12 requests were cold" in chart.note


def test_a_contaminated_reduction_says_so_and_leaves_the_radar() -> None:
    bad = finding("contaminated", "invalid", "it was warm")
    found = charts([make("cold", shape=SMALL, findings=[bad]), make("hit", shape=SMALL)])
    chart = found["ttft_reduction_comparison"]
    assert isinstance(chart, Bars)
    for series in chart.series:
        assert series.bars[0].doubted and "CONTAMINATED" in series.bars[0].text
    assert "performance_radar" not in found


def test_what_was_simulated_is_stamped_in_every_chart() -> None:
    setting = Setting(simulated=True)
    for chart in charts(experiment(1, shape=SMALL, setting=setting)).values():
        assert chart.simulated and "SIMULATED" in draw(chart)
    for chart in charts(experiment(1, shape=SMALL)).values():
        assert not chart.simulated and "SIMULATED" not in draw(chart)


def test_the_radar_lies_between_zero_and_one() -> None:
    chart = charts(several())["performance_radar"]
    assert isinstance(chart, Radar)
    values = [value for _, row in chart.series for value in row if value is not None]
    assert values and all(0 <= value <= 1 for value in values)


def test_points_are_the_requests() -> None:
    rounds = experiment(1, shape=SMALL)
    found = charts(rounds)
    pairs = found["01_cold_against_hit"]
    assert isinstance(pairs, Plane) and sum(len(one.x) for one in pairs.series) == 12
    cold = rounds[0].stats.samples
    assert cold
    leader = next(one for one in pairs.series if one.label == "leaders")
    assert sorted(leader.x) == sorted(
        (cold.ttft_s[at] or 0) * 1000 for at, kind in enumerate(cold.stratum) if kind == "leader"
    )
    steps = found["01_ttft_distribution"]
    assert isinstance(steps, Plane) and all(one.y[-1] == 1.0 for one in steps.series)
    lanes = found["01_timeline"]
    assert isinstance(lanes, Timeline) and [len(one.rows) for one in lanes.lanes] == [15, 15]


def test_more_points_than_can_be_told_apart_are_thinned_and_said() -> None:
    shape = Shape(requests=4000, contexts=0, uniques=4000, sentinels=3)
    chart = charts(experiment(1, shape=shape))["01_cold_against_hit"]
    assert isinstance(chart, Plane)
    assert len(chart.series[0].x) <= 1500 and "of 4,000 requests drawn" in chart.note


@pytest.mark.parametrize("name", [*DOCUMENTS, *(f"01_{one}" for one in [*OWN, "timeline"])])
def test_each_becomes_a_picture(name: str) -> None:
    chart = charts(experiment(2, shape=SMALL))[name]
    image = png(chart)
    assert image.startswith(b"\x89PNG\r\n")
    wide, high = struct.unpack(">II", image[16:24])
    assert wide == 1080 and high > 200
    assert draw(chart).startswith("<svg") and chart.title in draw(chart)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=8),
    st.booleans(),
)
def test_a_scale_holds_every_value(values: list[float], log: bool) -> None:
    usable = [value for value in values if 1e-9 <= value <= 1e12] if log else values
    scale = scale_of(usable, Axis(label="x", log=log), zero=not log)
    assert scale.low < scale.high
    for value in usable:
        assert 0.0 <= scale.share(value) <= 1.0
        slack = (scale.high - scale.low) / 500  # less than a pixel
        assert scale.low - slack <= value <= scale.high + slack
    assert len(scale.ticks) < 60


def test_missing_fonts_are_named_with_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "installed", lambda: ["DejaVu Sans"])
    said = fonts.missing_for(["plain", "腾讯云"])
    assert said and "腾" in said and "apt-get install fonts-noto-cjk" in said
    assert fonts.missing_for(["plain", "✅"]) is None
    monkeypatch.setattr(fonts, "installed", lambda: ["DejaVu Sans", "WenQuanYi Zen Hei"])
    assert fonts.missing_for(["腾讯云"]) is None


def test_pictures_lie_beside_the_reports_that_show_them(sh: Sh, tmp_path: Path) -> None:
    done = sh("kvreport -o out --lang zh", stdin=lines(experiment(1, shape=SMALL)))
    assert done.status == 0
    drawn = {path.name for path in (tmp_path / "out/charts").iterdir()}
    assert {f"{name}.png" for name in DOCUMENTS} <= drawn
    text = (tmp_path / "out/report.md").read_text("utf-8")
    for name in drawn:
        assert f"(<charts/{name}>)" in text
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert page.count("<svg") == len(drawn)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_of_many_scenarios_the_two_ends_are_drawn(language: str) -> None:
    """In every bar chart: the largest gains, the smallest ones, and how many there are in all."""
    rounds = []
    for number in range(60):
        setting = Setting(name=f"scenario {number:02d}", experiment_id=f"e{number}")
        world = World(hit_s=0.05 + 0.004 * ((number * 7) % 60))
        tainted = [finding("contaminated", "invalid")] if number == 0 else []
        options = {"setting": setting, "world": world, "findings": tainted}
        rounds += experiment(1, seed=number, shape=SMALL, **options)
    found = charts(rounds, language)
    for name in DOCUMENTS[:4]:
        chart = found[name]
        assert isinstance(chart, Bars) and len(chart.categories) == BARS_MOST
        assert "60" in chart.note and str(BARS_MOST) in chart.note and "scenario 00" in chart.note
    chart = found["ttft_reduction_comparison"]
    assert isinstance(chart, Bars)
    drawn = [bar.value for bar in chart.series[1].bars]
    gains = [value for value in drawn if value is not None]
    assert len(gains) == BARS_MOST and gains[0] > 0.9 and gains[-1] < 0.75
    assert not any(bar.doubted for bar in chart.series[1].bars)
    width, height = struct.unpack(">II", png(chart)[16:24])
    assert height < 3 * width


def test_few_scenarios_are_drawn_in_their_order_and_doubted_ones_too() -> None:
    rounds = []
    for number in range(BARS_MOST):
        setting = Setting(name=f"scenario {number:02d}", experiment_id=f"e{number}")
        tainted = [finding("contaminated", "invalid")] if number == 3 else []
        rounds += experiment(1, seed=number, shape=SMALL, setting=setting, findings=tainted)
    chart = charts(rounds)["ttft_reduction_comparison"]
    assert isinstance(chart, Bars)
    assert list(chart.categories) == sorted(chart.categories) and len(chart.categories) == BARS_MOST
    assert [at for at, bar in enumerate(chart.series[1].bars) if bar.doubted] == [3]
