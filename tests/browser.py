"""A real browser for pages that people open: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Path of an installed Chromium; None without one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


needs_chromium = pytest.mark.skipif(
    chromium() is None,
    reason="NO CHROMIUM: the HTML report was not opened (Debian: apt-get install chromium)",
)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser without a window; nothing is downloaded for it."""
    path = chromium()
    assert path is not None
    with sync_playwright() as playwright:
        # Inside containers Chromium's own sandbox cannot be set up; the pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, path: Path, *, width: int = 1440, dark: bool = False
) -> Iterator[Page]:
    """A page of a local file, as wide as asked."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    try:
        page.goto(path.resolve().as_uri())
        yield page
    finally:
        context.close()
