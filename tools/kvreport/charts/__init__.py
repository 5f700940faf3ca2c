"""Charts of a report: what they show (`summaries`, `requests`), and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from kvreport.charts.chart import Charts
from kvreport.charts.efficiency import efficiency_charts
from kvreport.charts.requests import request_charts
from kvreport.charts.summaries import summary_charts
from kvreport.conclusion import Conclusion
from kvreport.experiments import Experiment
from kvreport.words import Words

EXPLAINED_MOST = 24
"""Scenarios of a report that are explained request by request; of more, those alone that a finding
touches, as long as there are no more of them."""


def charts_of(conclusion: Conclusion, experiments: Sequence[Experiment], words: Words) -> Charts:
    """Every chart of a report, in the order in which they stand in it."""
    numbered = list(enumerate(zip(conclusion.scenarios, experiments, strict=True), 1))
    if len(numbered) > EXPLAINED_MOST:
        doubted = [one for one in numbered if one[1][0].codes("invalid")]
        numbered = doubted if len(doubted) <= EXPLAINED_MOST else []
    return Charts(
        summary=summary_charts(conclusion, words),
        efficiency=efficiency_charts(conclusion, experiments, words),
        scenarios={
            scenario.name: request_charts(experiment, words, number)
            for number, (scenario, experiment) in numbered
        },
    )
