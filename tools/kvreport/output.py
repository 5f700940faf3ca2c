"""Where a report goes: one format on stdout, or files in a folder with the charts beside them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kvpipe.process import complain
from kvreport.charts import charts_of, fonts
from kvreport.charts.chart import Charts
from kvreport.conclusion import Conclusion
from kvreport.experiments import Experiment
from kvreport.formats import FILES, RENDERERS, Setting
from kvreport.words import Words

PICTURES = "charts"
"""Folder of the PNG files beside the report."""
MANY = 8
"""More charts than this take seconds: a terminal is told how far they are."""


@dataclass(kw_only=True)
class Output:
    """A conclusion on its way out. `experiments` are those that it was made from, in its order."""

    prog: str
    conclusion: Conclusion
    experiments: Sequence[Experiment]
    language: str
    colour: str

    @cached_property
    def charts(self) -> Charts:
        return charts_of(self.conclusion, self.experiments, Words(self.language))

    def to_stdout(self, name: str) -> None:
        sys.stdout.write(self._rendered(name, terminal=sys.stdout.isatty()))

    def to_folder(self, folder: Path, formats: Sequence[str]) -> None:
        """Writes the files of some formats and says their paths on stderr; `png` are the charts."""
        folder.mkdir(parents=True, exist_ok=True)
        pictures = PICTURES if "png" in formats else ""
        for name in formats:
            if name == "png":
                self._draw(folder / PICTURES)
                continue
            path = folder / FILES[name]
            path.write_text(self._rendered(name, pictures=pictures), encoding="utf-8")
            print(path, file=sys.stderr)

    def _rendered(self, name: str, *, terminal: bool = False, pictures: str = "") -> str:
        drawn = name == "html" or bool(pictures)
        setting = Setting(
            language=self.language,
            columns=shutil.get_terminal_size((80, 24)).columns,
            colour=colour_of(self.colour, terminal=terminal),
            charts=self.charts if drawn else Charts(),
            pictures=pictures,
        )
        return RENDERERS[name](self.conclusion, setting)

    def _draw(self, folder: Path) -> None:
        from kvreport.charts.png import png

        charts = [*self.charts]
        if not charts:
            return
        names = [scenario.name for scenario in self.conclusion.scenarios]
        missing = fonts.missing_for([*names, *(chart.title for chart in charts)])
        if missing:
            complain(missing, self.prog)
        folder.mkdir(exist_ok=True)
        waiting = sys.stderr.isatty() and len(charts) > MANY
        for number, chart in enumerate(charts, 1):
            (folder / f"{chart.name}.png").write_bytes(png(chart))
            if waiting:
                shown = f"\r{self.prog}: {number}/{len(charts)} charts"
                print(shown, end="", file=sys.stderr, flush=True)
        if waiting:
            print("\r\x1b[K", end="", file=sys.stderr)
        print(f"{folder}/ ({len(charts)} charts)", file=sys.stderr)


def colour_of(wish: str, *, terminal: bool) -> bool:
    if wish != "auto":
        return wish == "always"
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
