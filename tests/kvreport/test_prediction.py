"""A report holds an analysis against the cold rounds that it is of, and against no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import Done
from tests.family import ROOT
from tests.kvreport.rounds import Setting, lines, make, rerun

from kvpipe.jsonl import decode_line
from kvpipe.records import Analysis, Arrival
from kvreport.document import Paragraph
from kvreport.prediction import Prediction, predictions
from kvreport.prediction_chapter import prediction_chapter
from kvreport.rounds import Round
from kvreport.words import Words

Shell = Callable[..., Done]
ANALYSIS = json.loads((ROOT / "schemas/examples/valid/analysis.json").read_text(encoding="utf-8"))


def analysis(**more: Any) -> dict[str, Any]:
    """30 % without a limit, 20 % with 4,096 tokens, both in blocks of 16."""

    def point(name: str | None, tokens: int | None, ratio: float) -> dict[str, Any]:
        return {
            "name": name, "capacity_tokens": tokens, "capacity_bytes": None,
            "hit_tokens": round(1000 * ratio), "hit_ratio": ratio, "mean_request_hit_ratio": ratio,
        }  # fmt: skip

    size = ANALYSIS["sizes"][0] | {
        "block_tokens": 16,
        "ideal": point(None, None, 0.3),
        "curve": [point(None, 2048, 0.1), point(None, 4096, 0.2), point(None, 8192, 0.3)],
        "named": [point("4KiT", 4096, 0.2), point("2KiT", 2048, 0.1)],
    }
    return ANALYSIS | {"scenario": "trace", "plan_sha256": None, "sizes": [size]} | more


def cold(name: str = "trace", *, hit_ratio: float | None = 0.27, **run: Any) -> Round:
    setting = Setting(name=name, scenario="trace", run={})
    return rerun(make("cold", setting=setting, hit_ratio=hit_ratio), requests=60, **run)


def told(sh: Shell, folder: Path, flags: str = "") -> Done:
    stats, foretold = folder / "stats.jsonl", folder / "analysis.json"
    stats.write_text(lines([cold()]), encoding="utf-8")
    foretold.write_text(json.dumps(analysis()), encoding="utf-8")
    return sh(f"kvreport {stats} {foretold} {flags}")


def found(one: Round, **more: Any) -> list[Prediction]:
    record = decode_line(json.dumps(analysis(**more)).encode(), "analysis.json")
    assert isinstance(record, Analysis)
    return predictions([one], [record])


def test_a_cold_round_is_held_against_every_capacity() -> None:
    rows = [(one.capacity, one.predicted, round(one.error, 6)) for one in found(cold())]
    assert rows == [(None, 0.3, -0.03), ("4KiT", 0.2, 0.07), ("2KiT", 0.1, 0.17)]
    assert {one.like_tokens for one in found(cold())} == {8192}
    assert {one.measured for one in found(cold())} == {0.27}


def test_a_round_that_is_named_for_a_capacity_is_of_that_one() -> None:
    rows = found(cold("trace, 2KiT", hit_ratio=0.1))
    assert [(one.capacity, round(one.error, 6)) for one in rows] == [(None, -0.2), ("2KiT", 0)]
    assert rows[0].like_tokens == 2048
    assert [one.capacity for one in found(cold("trace, no limit", hit_ratio=0.3))] == [None]


def test_the_chapter_is_in_every_form_and_language(sh: Shell, tmp_path: Path) -> None:
    done = told(sh, tmp_path)
    assert done.status == 0, "a cold round alone is what a prediction is of"
    assert "Prediction against measurement" in done.out
    (row,) = [line for line in done.out.splitlines() if " 4KiT " in line]
    for cell in ("20.00 %", "27.00 %", "+7.00 pt", "8,192 tokens"):
        assert cell in row
    assert "预测与实测" in told(sh, tmp_path, "--format md --lang zh").out
    assert "4KiT" in told(sh, tmp_path, "--format html").out
    record = json.loads(told(sh, tmp_path, "--format json").out)
    assert [one["capacity"] for one in record["predictions"]] == [None, "4KiT", "2KiT"]


def test_only_rounds_of_the_same_workload_are_compared() -> None:
    plan = "0" * 64
    others = [
        rerun(cold(), requests=61),
        rerun(cold(), scenario="other"),
        rerun(cold(), arm="hit", round_num=2),
        cold(hit_ratio=None),
    ]
    assert [found(other) for other in others] == [[]] * 4
    same = rerun(cold(), plan_sha256=plan, scenario="whatever")
    assert found(same, plan_sha256=plan)
    assert found(cold(), plan_sha256=plan) == []


def test_overlapping_requests_are_told_of() -> None:
    def texts(one: Round) -> list[str]:
        chapter = prediction_chapter(found(one), Words("en"))
        return [block.text for block in chapter if isinstance(block, Paragraph)]

    crowd = cold(arrival=Arrival(kind="closed", concurrency=4))
    assert [text.startswith("Requests overlapped") for text in texts(crowd)] == [False, True]
    assert len(texts(cold())) == 1
    assert prediction_chapter([], Words("en")) == []
