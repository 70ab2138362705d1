"""The page in headless Chromium, as tests and pictures need it: skipped where there is no browser.

Pictures that the tests take go to the folder that DECENTRAL_FIGURES names (docs/figures: docs/dashboard.md shows
them), else into the test's own folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FIGURES = "DECENTRAL_FIGURES"
DEADLINE = 120_000
"""Milliseconds to wait for what a page has to show."""
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser with a profile of its own."""
    api = pytest.importorskip("playwright.sync_api")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=SWITCHES)
        yield browser
        browser.close()


@contextmanager
def dashboard(run: Path, port: int = 0, more: Sequence[str] = ()) -> Iterator[str]:
    """`decentral dashboard` of a run directory, as a process of its own; its address."""
    command = [sys.executable, "-P", "-m", "decentral", "dashboard", str(run), "--port", str(port), "--json", *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        said = ""
        while "}" not in said:
            line = process.stdout.readline().decode()
            assert line, "the dashboard ended"
            said += line
        yield json.loads(said)["url"]
    finally:
        process.terminate()
        process.wait()


class Opened:
    """A page, and everything that it complained about."""

    def __init__(self, browser: Any, url: str, width: int = 1280, height: int = 900, **options: Any) -> None:
        self.complaints: list[str] = []
        self._context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self._context.new_page()
        self.page.set_default_timeout(DEADLINE)
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *raised: object) -> None:
        self._context.close()

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def wait(self, condition: str) -> None:
        """Until an expression of the page's language is true; asked from outside, as the page's policy forbids eval."""
        ends = time.monotonic() + DEADLINE / 1000
        while not self.page.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < ends, f"never: {condition}"
            self.page.wait_for_timeout(50)

    def number(self, name: str) -> str:
        """What stands under one of the names at the top."""
        return str(self.page.locator(f"#numbers dl:has(dt:text-is('{name}')) dd").first.inner_text())

    def picture(self, name: str, otherwise: Path) -> Path:
        """Of the whole page; canvases that are out of sight are not drawn, so everything is brought into sight."""
        folder = Path(os.environ[FIGURES]) if os.environ.get(FIGURES) else otherwise
        size = dict(self.page.viewport_size)
        self.page.set_viewport_size({**size, "height": self.page.evaluate("document.documentElement.scrollHeight")})
        self.page.evaluate("new Promise(done => setTimeout(done, 400))")
        file = folder / f"dashboard-{name}.png"
        self.page.screenshot(path=file)
        self.page.set_viewport_size(size)
        return file
