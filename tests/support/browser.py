"""A real headless Chromium, which notes whatever must not happen on a page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium. Skips the test where there is none, except in CI, where there is."""
    path = next((found for found in map(shutil.which, _NAMES) if found), None)
    if path is None:
        reason = f"needs a Chromium: none of {', '.join(_NAMES)} is on the PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, nor in most containers.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that somebody looks at, and what went on behind it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """What the console said, errors of scripts, dialogs."""
    elsewhere: list[str] = field(default_factory=list)
    """Requests to another server."""


@contextlib.contextmanager
def visit(browser: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """A fresh browser profile at a server's front page."""
    origin = urlsplit(url).netloc
    with contextlib.closing(browser.new_context(**context)) as profile:
        seen = Visit(profile.new_page())
        seen.page.on("console", lambda said: seen.complaints.append(f"{said.type}: {said.text}"))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))

        def dismiss(dialog: Any) -> None:
            seen.complaints.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        seen.page.on("dialog", dismiss)
        profile.on(
            "request",
            lambda request: (
                seen.elsewhere.append(request.url)
                if urlsplit(request.url).netloc not in (origin, "")
                else None
            ),
        )
        seen.page.goto(url)
        yield seen
