"""The whole report as a document: the answer first, the evidence below."""

from __future__ import annotations

from collections.abc import Iterable

from kvreport import phrasing
from kvreport.analysis import ending
from kvreport.answer import answer
from kvreport.capacity_chapter import capacity_chapter
from kvreport.charts.chart import Chart, Charts
from kvreport.conclusion import Conclusion
from kvreport.contrast import contrast
from kvreport.details import details
from kvreport.document import Block, Document, Figure, Heading
from kvreport.efficiency_chapter import efficiency_chapter
from kvreport.efficiency_cost_chapter import cost_chapter
from kvreport.modes_chapter import modes_chapter
from kvreport.outcomes import outcomes_chapter
from kvreport.prediction_chapter import prediction_chapter
from kvreport.summary import summary
from kvreport.words import Words


def document_of(
    conclusion: Conclusion, words: Words, charts: Charts | None = None, pictures: str = ""
) -> Document:
    """`charts` are drawn in, or shown as files below `pictures` if that is a path."""
    charts = charts or Charts()
    own = {name: _figures(found, pictures) for name, found in charts.scenarios.items()}
    blocks: list[Block] = [Heading(1, phrasing.report_title(conclusion, words))]
    for name, chapter in (
        ("answer", answer(conclusion, words)),
        ("outcomes", outcomes_chapter(conclusion.outcomes, words)),
        ("capacity", capacity_chapter(conclusion.capacities, words)),
        ("summary", [*summary(conclusion, words), *_figures(charts.summary, pictures)]),
        (
            "efficiency",
            [
                *efficiency_chapter(conclusion.efficiency, words),
                *_figures(charts.efficiency, pictures),
            ],
        ),
        ("prediction", prediction_chapter(conclusion.predictions, words)),
        ("cost", cost_chapter(conclusion, words)),
        ("modes", modes_chapter(conclusion, words)),
        ("", contrast(conclusion, words)),
        ("details", details(conclusion, words, own)),
        ("", ending(conclusion, words) if conclusion.scenarios or conclusion.capacities else []),
    ):
        if chapter:
            blocks += [Heading(2, words.say(name)), *chapter] if name else chapter
    return Document(blocks=blocks)


def _figures(charts: Iterable[Chart], pictures: str) -> list[Block]:
    return [Figure(one, f"{pictures}/{one.name}.png" if pictures else "") for one in charts]
