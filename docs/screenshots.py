"""Pictures of HTML reports: `python docs/screenshots.py REPORT.html ...`.

Beside each report, `first-WIDTH-SCHEME.png` is its first screen and `whole-WIDTH-SCHEME.png` all of
it, at 390 and 1,440 px, light and dark. Prints the paths. Needs Chromium (`make browser`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Browser
from tests.browser import browsing, chromium, opened

WIDTHS = (390, 1440)


def pictures(browser: Browser, report: Path) -> Iterator[Path]:
    for width in WIDTHS:
        for dark in (False, True):
            scheme = "dark" if dark else "light"
            with opened(browser, report, width=width, dark=dark) as page:
                for part, whole in (("first", False), ("whole", True)):
                    path = report.parent / f"{part}-{width}-{scheme}.png"
                    page.screenshot(path=path, full_page=whole)
                    yield path


def main() -> None:
    if chromium() is None:
        sys.exit("screenshots.py: no Chromium here; on Debian: apt-get install chromium")
    with browsing() as browser:
        for name in sys.argv[1:]:
            for path in pictures(browser, Path(name)):
                print(path)


if __name__ == "__main__":
    main()
