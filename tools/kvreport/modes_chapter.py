"""The chapter on PD against non-PD: the documents' three columns, and what may be said of them."""

from __future__ import annotations

from kvreport import figures, phrasing
from kvreport.conclusion import Column, Conclusion, Modes, Scenario
from kvreport.contrast import difference
from kvreport.details import first_run
from kvreport.document import Block, Bullets, Table
from kvreport.effects import Effect
from kvreport.modes import TARGET
from kvreport.words import Words

METRICS = {
    "ttft": ("ttft_s", "ttft_s"),
    "tpot": ("tpot_s", "tpot_s"),
    "e2e": ("e2e_s", "e2e_s"),
    "second_token": ("second_token_s", "second_token_s"),
    "throughput": ("request_throughput_rps", "throughput_rps"),
}
PHASES = ("prefill_s", "transfer_s", "decode_s")
EXPECTED = {
    "671B": {"ttft_s": "15-20, 60-80, 20-25 s", "request_throughput_rps": "0.1-0.2, 0.02-0.05, "
             "0.15-0.20 req/s"},
    "72B": {
        "ttft_s": "3-5, 20-25, 7-9 s",
        "tpot_s": "120-150, 140-160, 120-140 ms",
        "e2e_s": "10-15, 25-30, 10-12 s",
        "request_throughput_rps": "1-2, 0.2-0.3, 0.6-0.8 req/s",
    },
}  # fmt: skip
"""What the documents expect of the three columns, by the model's size; never a result."""


def modes_chapter(conclusion: Conclusion, words: Words) -> list[Block]:
    blocks: list[Block] = []
    by_name = {one.name: one for one in conclusion.scenarios}
    for one in conclusion.modes:
        blocks.append(_table(one, conclusion, words))
        blocks.append(Bullets([*_lines(one, by_name[one.pd], words)]))
    return blocks


def _table(modes: Modes, conclusion: Conclusion, words: Words) -> Table:
    caption = words.say("table_modes", pd=modes.pd, non_pd=modes.non_pd)
    columns = ("metric", "non_pd", "pd_cold", "pd_hit", "hit_by_non_pd", "interval", "verdict")
    return Table(
        caption=phrasing.caption(caption, conclusion, words),
        columns=[words.say(f"col_{column}") for column in columns],
        align=["left", "right", "right", "right", "right", "right", "left"],
        rows=[
            _row(metric, field, modes.columns, modes.effects.get(f"{name}_hit"), words)
            for name, (metric, field) in METRICS.items()
        ]
        + [
            _phase(name, modes.columns, words)
            for name in PHASES
            if any(getattr(one, name) is not None for one in modes.columns)
        ],
    )


def _phase(name: str, columns: list[Column], words: Words) -> list[str]:
    """A phase in the three columns, each estimate with the word."""
    values = []
    for one in columns:
        value = figures.figure(name, getattr(one, name))
        estimate = name in one.estimated
        values.append(words.say("cell_estimate", value=value) if estimate else value)
    return [words.say(f"phase_{name}"), *values, *[words.say("none")] * 3]


def _row(
    metric: str, field: str, columns: list[Column], effect: Effect | None, words: Words
) -> list[str]:
    values = [figures.figure(metric, getattr(one, field)) for one in columns]
    if effect is None:
        return [words.say(f"m_{metric}"), *values, *[words.say("none")] * 3]
    same = effect.verdict.word == "same"
    return [
        words.say(f"m_{metric}"),
        *values,
        words.say("same") if same else figures.change(effect.ratio),
        phrasing.span_of(effect, words) or words.say("none"),
        phrasing.verdict_cell(effect, words),
    ]


def _lines(modes: Modes, scenario: Scenario, words: Words) -> list[str]:
    lines = []
    result = scenario.result(TARGET)
    effect = modes.effects.get("ttft_hit")
    if result is not None:
        ratio = f"{effect.ratio:.2f}" if effect else words.say("none")
        why = f" ({phrasing.reason(result.reason, words)})" if result.reason else ""
        lines.append(
            words.say(
                "modes_target",
                ratio=ratio,
                wish=f"{result.target.asked[0]:g}",
                status=words.say(f"status_{result.status}") + why,
            )
        )
    if modes.refused == "samples":
        lines.append(words.say("contrast_samples", name=modes.pd))
    elif modes.refused:
        what = difference(modes, words)
        lines.append(words.say("modes_refused", pd=modes.pd, non_pd=modes.non_pd, what=what))
    if not modes.refused or modes.flow:
        flow = modes.flow or "unknown"
        lines.append(words.say(f"modes_flow_{flow}", pd=modes.pd, non_pd=modes.non_pd))
    return [*lines, *_expected(scenario, words)]


def _expected(scenario: Scenario, words: Words) -> list[str]:
    """The documents' expectations, for the sizes that they name."""
    run = first_run(scenario)
    model = run.model if run else None
    size = next((one for one in EXPECTED if model and one.lower() in model.lower()), None)
    if size is None:
        return []
    parts = [f"{words.say(f'm_{metric}')} {text}" for metric, text in EXPECTED[size].items()]
    return [words.say("modes_expected", size=size, parts=words.say("semicolon").join(parts))]
