"""The page in a real browser, of real runs: it shows what happens, to everybody, and asks nobody else for anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from decentral.launch.gateway import listening
from decentral.run.directory import RunDirectory
from decentral.run.journal import Journal
from decentral.run.recipe import Recipe
from tests.dashboard.browser import Opened, chromium, dashboard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DEADLINE = 300.0
SHIFTS = """() => { window.shifted = 0; new PerformanceObserver(list => {
  for (const each of list.getEntries()) if (!each.hadRecentInput) window.shifted += each.value;
}).observe({type: "layout-shift", buffered: true}); }"""
CUT_OFF = """() => [...document.querySelectorAll("main *, header *")].filter(each =>
    each.getBoundingClientRect().right > innerWidth + 0.5 && !each.closest(".scroll, .unseen")
).map(each => each.outerHTML)"""
FOCUSED = """() => {
  const at = document.activeElement, seen = at.type === "radio" ? at.nextElementSibling : at;
  return [at.id || at.className || at.name || at.tagName, getComputedStyle(seen).outlineStyle !== "none"];
}"""
UNNAMED = """() => [...document.querySelectorAll("canvas, input, select, [tabindex='0'], details")].filter(each =>
    !["aria-labelledby", "aria-label"].some(name => each.getAttribute(name)) && !each.labels?.length
    && !each.querySelector("summary")).map(each => each.outerHTML)"""
PHONE: dict[str, Any] = {"width": 360, "height": 780, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def decentral(*arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "decentral", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def going_on(run: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run in the background, whose directory is there."""
    command = [sys.executable, "-P", "-m", "decentral", "run", *arguments, "--out", str(run), "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            ends = time.monotonic() + DEADLINE
            while not (run / "run.json").exists() and time.monotonic() < ends:
                time.sleep(0.05)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


def peer_process(run: Path, name: str) -> int:
    """Of a node that runs: it holds the lock in its folder."""
    for held in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if held.readlink() == run / "nodes" / name / "lock":
                return int(held.parts[2])
        except OSError:  # it has ended, or is another's
            continue
    raise AssertionError(f"{name} does not run")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in the simulator that has ended, in which peers crashed and came back."""
    run = tmp_path_factory.mktemp("simulated") / "run"
    churn = ["simulation.churn.crash_per_minute=60", "simulation.churn.return_after=1"]
    sets = [part for each in ("rounds=20", *churn) for part in ("--set", each)]
    decentral("run", "modest-digits", "--on", "sim", "--out", str(run), *sets)
    return run


# ---- training -----------------------------------------------------------------------------------------------------


def test_a_run_is_watched_while_it_goes_on_and_ends_as_its_summary_says(browser: Any, tmp_path: Path) -> None:
    run = tmp_path / "watched"
    sets = [part for each in ("peers=8", "rounds=40", "sampling.size=4") for part in ("--set", each)]
    with ExitStack() as stack:
        process = stack.enter_context(going_on(run, "modest-digits", *sets, "--restart", "1"))
        url = stack.enter_context(dashboard(run))
        opened = stack.enter_context(Opened(browser, url))
        opened.page.evaluate(SHIFTS)
        opened.wait("document.querySelector('#state').textContent === 'live'")
        opened.wait("document.querySelector('#numbers')?.textContent.includes('of 40')")
        opened.wait("Number(document.querySelectorAll('#numbers dd')[2]?.textContent) >= 6")
        os.kill(peer_process(run, "peer-5"), signal.SIGKILL)
        opened.wait("document.querySelector('#told').textContent.includes('peer-5 rejoined')")
        assert "peer-5 crashed" in opened.text("#told")
        opened.wait("/Sample of round \\d+: peer-/.test(document.querySelector('#topology-words').textContent)")
        opened.wait("Number(document.querySelectorAll('#numbers dd')[2]?.textContent) >= 20")
        assert opened.page.evaluate("window.shifted") < 0.05
        picture = opened.picture("training", tmp_path)
        assert Image.open(picture).width == 1280
        process.wait(DEADLINE)
        opened.wait("document.querySelector('#state').textContent === 'ended'")
        opened.wait("document.querySelectorAll('#numbers dd')[2]?.textContent === '40'")
        summary = json.loads((run / "summary.json").read_bytes())
        assert opened.number("Mean accuracy") == f"{100 * summary['accuracy']['mean']:.1f} %"
        assert summary["crashed"] == ["peer-5"]
        assert opened.complaints == []
        assert [asked for asked in opened.asked if not asked.startswith(url)] == []


def test_a_run_that_ended_is_shown_as_it_ended_in_the_dark_too(browser: Any, simulated: Path, tmp_path: Path) -> None:
    with dashboard(simulated) as url, Opened(browser, url, color_scheme="dark") as opened:
        opened.wait("document.querySelector('#state').textContent === 'ended'")
        assert opened.page.locator("#simulated").is_visible()
        events = [json.loads(line) for line in (simulated / "events.jsonl").read_text().splitlines()]
        crashes = sum(event["event"] == "crashed" for event in events)
        assert f"{crashes} crashes" in opened.text("#rounds-words")
        assert opened.complaints == []
        dark = Image.open(opened.picture("dark", tmp_path)).convert("L")
    assert sum(dark.resize((1, 1)).getdata()) < 60


def test_on_a_phone_nothing_is_cut_off(browser: Any, simulated: Path, tmp_path: Path) -> None:
    with dashboard(simulated) as url, Opened(browser, url, **PHONE) as opened:
        opened.wait("document.querySelector('#state').textContent === 'ended'")
        assert opened.page.evaluate("document.documentElement.scrollWidth") == 360
        assert opened.page.evaluate(CUT_OFF) == []
        opened.picture("phone", tmp_path)


def test_it_is_used_by_keyboard_and_read_as_tables(browser: Any, simulated: Path, tmp_path: Path) -> None:
    with dashboard(simulated) as url, Opened(browser, url) as opened:
        page = opened.page
        opened.wait("document.querySelector('#state').textContent === 'ended'")
        reached: list[str] = []
        while True:
            page.keyboard.press("Tab")
            at, outlined = page.evaluate(FOCUSED)
            if at == "BODY" or len(reached) > 40:
                break
            reached.append(at)
            assert outlined, f"{at} does not show that it has the focus"
            if at == "topology":
                page.keyboard.press("ArrowRight")
                page.keyboard.press("ArrowRight")
                assert opened.text("#chosen-words").startswith("finished · round")
                assert page.locator("#chosen").input_value() == "1"
                page.keyboard.press("Escape")
                assert opened.text("#chosen-words") == ""
        assert reached[0] == "skip"
        assert {"topology", "chosen", "told"} <= set(reached)
        page.locator("#accuracy-card summary").focus()
        page.keyboard.press("Enter")
        opened.wait("document.querySelectorAll('#accuracy-table tbody tr').length >= 3")
        page.locator("#table-details summary").focus()
        page.keyboard.press("Enter")
        opened.wait("document.querySelectorAll('#table tbody tr').length === 20")
        assert "peer-19" in opened.text("#table")
        page.locator("input[name=window]:checked").focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator("input[name=window]:checked").get_attribute("value") == "60"
        assert page.evaluate(UNNAMED) == []
        assert page.locator("[aria-live=polite]").count() >= 3


def test_a_hundred_peers_are_told_apart(browser: Any, tmp_path: Path) -> None:
    run = tmp_path / "hundred"
    values = [
        "algorithm=dpsgd",
        "peers=100",
        "rounds=12",
        "model.hidden=[16]",
        "topology={name: regular, degree: 4}",
        "training.initialisation=common",
        "simulation.latency=0.002",
        "evaluation.every=1",
    ]
    sets = [part for each in values for part in ("--set", each)]
    decentral("run", "dimat-digits", "--on", "sim", "--out", str(run), *sets)
    with dashboard(run) as url, Opened(browser, url) as opened:
        opened.wait("document.querySelectorAll('#numbers dd')[2]?.textContent === '12'")
        assert opened.number("Peers") == "100 of 100"
        assert "regular degree 4: 200 edges" in opened.text("#topology-words")
        opened.page.select_option("#chosen", "42")
        opened.picture("hundred", tmp_path)
        assert opened.complaints == []


# ---- what must not happen -----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    with RunDirectory.create(
        tmp_path / "run", Recipe.model_validate({"name": "some", "peers": 3, "rounds": 9}), "local"
    ) as made:
        return made


def test_what_peers_say_is_text_whatever_it_looks_like(browser: Any, run: RunDirectory) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    with Journal(run.journal_file("peer-0"), 0, lambda: 1.0) as journal:
        journal.record("failed", problem=evil, user=False)
        journal.record("refused", round=1, other=1, reason=evil)
    with dashboard(run.path) as url, Opened(browser, url) as opened:
        opened.wait("document.querySelector('#told').textContent.includes('onerror')")
        assert opened.page.locator("#told img, #told script").count() == 0
        assert opened.complaints == []


def test_a_page_that_lost_its_server_goes_on_when_it_is_back(browser: Any, run: RunDirectory) -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(run.journal_file("launcher"), None, lambda: 1.0))
        journal.record("crashed", other=1, code=-9)
        with dashboard(run.path, port) as url:
            opened = stack.enter_context(Opened(browser, url))
            opened.wait("document.querySelector('#told').textContent.includes('peer-1 crashed')")
        opened.wait("document.querySelector('#state').textContent.startsWith('connection lost')")
        journal.record("rejoined", other=1)
        with dashboard(run.path, port):
            opened.wait("document.querySelector('#told').textContent.includes('peer-1 rejoined')")
            opened.wait("!document.querySelector('#state').textContent.startsWith('connection lost')")
            assert opened.page.locator("#told li").count() == 2


def test_a_grid_appears_when_it_is_drawn(browser: Any, run: RunDirectory) -> None:
    with dashboard(run.path) as url, Opened(browser, url) as opened:
        opened.wait("document.querySelector('#name').textContent === 'some'")
        assert not opened.page.locator("#pictures-card").is_visible()
        (run.path / "images").mkdir()
        Image.new("L", (64, 32), 99).save(run.path / "images" / "grid.png")
        opened.wait("document.querySelector('#pictures img')?.naturalWidth === 64")
        assert "images/grid.png" in opened.text("#pictures")
        assert opened.complaints == []


def test_motion_is_reduced_where_it_is_not_wanted(browser: Any, simulated: Path) -> None:
    with dashboard(simulated) as url, Opened(browser, url, reduced_motion="reduce") as opened:
        opened.wait("document.querySelector('.numbers .bar i') !== null")
        moves = "getComputedStyle(document.querySelector('.numbers .bar i')).transitionDuration"
        assert opened.page.evaluate(moves) in ("0s", "")


# ---- serving ------------------------------------------------------------------------------------------------------


def test_a_replica_that_lies_is_seen_with_what_its_receipts_say(browser: Any, simulated: Path, tmp_path: Path) -> None:
    """Three stages by three nodes each; one of them adds to what it computes."""
    folder = tmp_path / "served"
    trained = ["--set", "peers=2", "--set", "rounds=3", "--on", "sim"]
    decentral("run", "dimat-digits", *trained, "--out", str(tmp_path / "model"))
    sets = [f"model.run={tmp_path / 'model'}", "liars.stage-1-b=wrong-output"]
    decentral("up", "serve-digits", "--dir", str(folder), *(part for each in sets for part in ("--set", each)))
    try:
        (folder / "receipts").mkdir()
        with dashboard(folder) as url, Opened(browser, url) as opened:
            opened.wait("document.querySelectorAll('.replica .is[data-tone=good]').length === 9")
            for number in range(3):
                receipt = folder / "receipts" / f"digit-{number}.json"
                decentral("predict", str(folder), f"digits:{number}", "--receipt", str(receipt))
            opened.wait("document.querySelectorAll('.receipt').length === 3")
            opened.wait("document.querySelector('.replica .why') !== null")
            liar = opened.page.locator(".replica:has-text('stage-1-b')")
            assert "told to lie: wrong-output (SIMULATED)" in liar.inner_text()
            assert "disagreed" in liar.inner_text() or "lied" in liar.inner_text()
            assert opened.page.locator(".replica .why").count() == 1
            assert opened.page.locator(".receipt .badge[data-tone=good]").count() == 3
            assert "stage-1-b" in opened.text(".receipt[open]")
            assert opened.number("At fault") == "1"
            opened.wait("document.querySelector('.replica').textContent.includes('answered')")
            opened.picture("serving", tmp_path)
            assert opened.complaints == []
            (folder / "receipts" / "digit-9.json").write_bytes(
                (folder / "receipts" / "digit-0.json").read_bytes()[:-9] + b"0" * 9
            )
            opened.wait("document.querySelectorAll('.receipt .badge[data-tone=bad]').length === 1")
        with dashboard(folder) as url, Opened(browser, url, **PHONE, color_scheme="dark") as opened:
            opened.wait("document.querySelectorAll('.replica').length === 9")
            assert opened.page.evaluate("document.documentElement.scrollWidth") == 360
            opened.picture("serving-phone", tmp_path)
    finally:
        decentral("down", str(folder))
