"""Width, escaping, wrapping: the same words on a terminal, in a log, and in Markdown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kvreport.rounds import NODE_B, Setting, experiment, finding, make

from kvpipe.records import Arrival
from kvreport import markdown, text
from kvreport.conclude import conclude
from kvreport.conclusion import Conclusion
from kvreport.display import clean, pad, parts, width, wrap
from kvreport.document import Document, Heading, Paragraph, Table
from kvreport.experiments import group
from kvreport.figures import change, ms, percent
from kvreport.formats import RENDERERS, as_markdown, as_text
from kvreport.formats import Setting as Format
from kvreport.rounds import Round
from kvreport.targets import parse

HOSTILE = "a|b\n# c <script>alert(1)</script> [x](javascript:y) `z` *w* _v_ ~~u~~ \x1b[31m\u202e"
CHINESE = "腾讯云-跨节点-Qwen2.5-72B"


def concluded(rounds: list[Round]) -> Conclusion:
    return conclude(group(rounds), parse([]), tool_version="test")


def several() -> list[Round]:
    """Scenarios of every kind, with hostile names."""
    return [
        *experiment(3, arms=("cold", "hit", "no_reuse")),
        *experiment(1, setting=Setting(name=HOSTILE, experiment_id="e2", simulated=True)),
        *experiment(
            1,
            arms=("no_reuse", "cold", "hit"),
            setting=Setting(name=CHINESE, experiment_id="e3", tier="remote", node_b=NODE_B),
        ),
        *experiment(
            1,
            setting=Setting(
                name="load", experiment_id="e4", arrival=Arrival(kind="closed", concurrency=5)
            ),
            findings=[finding("lost"), finding("contaminated", "invalid", "cold was not | cold")],
        ),
        make("cold", setting=Setting(name="alone", experiment_id="e5")),
    ]


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.885, "885 ms"), (0.0601, "60.1 ms"), (0.00835, "8.35 ms"), (22.5, "22500 ms"), (None, "-")],
)
def test_times_are_milliseconds(value: float | None, shown: str) -> None:
    assert ms(value).replace("\u00a0", " ") == shown


def test_changes_have_signs_and_zero_has_none() -> None:
    values = {0.3: "-70.0 %", 2.917: "+192 %", 1.0: "0.0 %", 0.99999: "0.0 %", 1.004: "+0.4 %"}
    assert {value: change(value).replace("\u00a0", " ") for value in values} == values
    assert percent(0.9999).replace("\u00a0", " ") == "100 %"


# --- width ---------------------------------------------------------------------------------------


def test_wide_characters_take_two_cells() -> None:
    assert [width(one) for one in ("ab", "节点", "🌐", "✅", "é", "e\u0301")] == [2, 4, 2, 2, 1, 1]
    assert width(pad("节点", 6)) == width(pad("节点", 6, "right")) == 6


@given(st.text(), st.integers(4, 40))
def test_wrapping_fits_and_keeps_every_character(value: str, cells: int) -> None:
    value = clean(value)
    for soft in (False, True):
        lines = wrap(value, cells, soft=soft)
        assert all(width(line) <= cells for line in lines)
        assert "".join(lines).replace(" ", "") == value.replace(" ", "")


@given(st.text())
def test_cleaned_text_is_one_harmless_line(value: str) -> None:
    shown = clean(value)
    assert all(unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp") for char in shown)
    assert clean(shown) == shown


def test_figures_are_not_torn_from_their_signs() -> None:
    assert parts("-83.6") == ["-83.6"]
    assert parts("long_context-x") == ["long_", "context-", "x"]
    assert parts("节点A") == ["节", "点", "A"]


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_no_line_is_wider_than_asked(columns: int) -> None:
    shown = as_text(concluded(several()), Format(columns=columns))
    wide = [line for line in shown.splitlines() if width(line) > columns]
    assert not wide
    assert "\u00a0" not in shown and "\x1b" not in shown
    assert not [line for line in shown.splitlines() if line != line.rstrip()]


def test_columns_of_a_table_are_aligned_under_wide_names() -> None:
    table = Table(
        caption="t",
        columns=["Name", "Value"],
        align=["left", "right"],
        rows=[["🌐 节点", "1 ms"], ["plain", "1000 ms"]],
    )
    _, head, rule, *rows = text.render(Document(blocks=[table])).rstrip("\n").split("\n")
    assert {width(line) for line in (head, rule, *rows)} == {16}


def test_colour_is_bold_headings_and_nothing_else() -> None:
    document = Document(blocks=[Heading(1, "Title"), Paragraph("text")])
    assert text.render(document, colour=True).count("\x1b[") == 2
    assert "\x1b" not in text.render(document)


# --- markdown ------------------------------------------------------------------------------------


def test_hostile_names_stay_text_in_markdown() -> None:
    shown = as_markdown(concluded(several()), Format())
    assert "<script" not in shown and "\x1b" not in shown and "\u202e" not in shown
    assert "&lt;script&gt;" in shown
    heads = [line for line in shown.splitlines() if line.startswith("#")]
    assert "# c" not in heads
    tables = [line for line in shown.splitlines() if line.startswith("|")]
    counts = {line.replace("\\|", "").count("|") for line in tables}
    assert counts <= {5, 6, 7, 8, 9}


def test_every_row_of_a_markdown_table_has_its_columns() -> None:
    lines = as_markdown(concluded(several()), Format()).splitlines()
    found = 0
    for number, line in enumerate(lines):
        if line.startswith(("| :", "| -")):
            columns = line.count("|")
            rows = number + 1
            while rows < len(lines) and lines[rows].startswith("|"):
                assert lines[rows].replace("\\|", "").count("|") == columns
                rows += 1
            assert lines[number - 1].replace("\\|", "").count("|") == columns
            found += 1
    assert found > 10


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("long_context_high_reuse", "long_context_high_reuse"),
        ("_a_ *b*", "\\_a\\_ \\*b\\*"),
        ("a | b", "a \\| b"),
        ("a & <b>", "a &amp; &lt;b&gt;"),
        ("~ [x](y)", "\\~ \\[x\\](y)"),
    ],
)
def test_escaping(raw: str, shown: str) -> None:
    assert markdown.escape(raw) == shown


def test_a_line_does_not_become_a_list() -> None:
    assert markdown.escape_line("- a") == "\\- a"
    assert markdown.escape_line("1. a") == "1\\. a"
    assert markdown.escape_line("1.5 ms") == "1.5 ms"


# --- every format --------------------------------------------------------------------------------


def test_the_word_stands_beside_every_reduction_of_a_contaminated_round() -> None:
    """No line with a percentage of it goes without."""
    cold, hit = experiment(1)
    bad = [make("cold", findings=[finding("contaminated", "invalid", "it was warm")]), hit]
    assert cold.stats.cold_proof == "proven"
    effect = concluded(bad).scenarios[0].effects["ttft"]
    reduction = percent(1 - effect.ratio).replace("\u00a0", " ")
    lines = as_text(concluded(bad), Format(columns=300)).splitlines()
    with_it = [line for line in lines if reduction in line]
    assert with_it and all("CONTAMINATED" in line for line in with_it)


def test_simulated_stands_in_the_title_and_beside_every_table() -> None:
    rounds = experiment(3, setting=Setting(simulated=True), arms=("cold", "hit", "no_reuse"))
    lines = as_markdown(concluded(rounds), Format()).splitlines()
    assert lines[0].startswith("# SIMULATED")
    captions = [line for line in lines if line.startswith("**")]
    assert len(captions) >= 7 and all("(SIMULATED)" in line for line in captions)


def test_what_is_partly_simulated_says_which() -> None:
    real = experiment(1, setting=Setting(name="real", experiment_id="e9"))
    rounds = [*experiment(1, setting=Setting(simulated=True)), *real]
    lines = as_markdown(concluded(rounds), Format()).splitlines()
    assert lines[0].startswith("# PARTLY SIMULATED")
    rows = [line for line in lines if line.startswith("| long_context_high_reuse")]
    assert rows and all("(SIMULATED)" in line for line in rows)


def test_every_format_is_set_for_every_kind_of_scenario() -> None:
    made = concluded(several())
    for render in RENDERERS.values():
        assert len(render(made, Format())) > 1000
