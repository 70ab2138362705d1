"""The page of a run: whole in one file, the same for the same run, harmless whatever the journals say."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.run import charts
from decentral.run.directory import RunDirectory
from decentral.run.journal import Journal, merge
from decentral.run.recipe import Recipe
from decentral.run.report import render, write_report
from decentral.run.summary import write_summary


class Page(HTMLParser):
    """Checks nesting; collects tags, text and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_asks_the_network_for_nothing(run: RunDirectory) -> None:
    page = Page(write_report(run).read_text())
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not {"src", "href", "srcset", "action"} & {name for name, _ in page.attributes}
    assert "url(" not in run.report_file.read_text()
    assert "@import" not in run.report_file.read_text()


def test_the_page_tells_what_the_summary_knows(run: RunDirectory) -> None:
    text = Page(write_report(run).read_text()).text
    for expected in (
        "dimat-digits",
        "Test accuracy",
        "20.7 MB",
        "peer-3 crashed",
        "peer-3 rejoined",
        "spectral gap 0.461",
    ):
        assert expected in text
    assert run.recipe.hash in text


def test_the_page_says_which_images_were_used(tmp_path: Path, write_run: Callable[..., RunDirectory]) -> None:
    def text(name: str, values: dict[str, object]) -> str:
        return Page(write_report(write_run(tmp_path / name, Recipe.model_validate(values))).read_text()).text

    plain = text("plain", {})
    assert "on the common test set, after each round." in plain
    assert "looks at up to 512 images of its own share." in plain
    assert "BatchNorm's statistics are estimated anew on them." in plain
    other = text("other", {"evaluation": {"every": 2, "samples": 1000}, "matching": {"data": "proxy", "samples": 250}})
    assert "on 1,000 class-balanced images of the common test set, after every 2 rounds and the last." in other
    assert "looks at 250 class-balanced images that are the same for all and in nobody's share (proxy)." in other


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"matching": {"statistics": "average"}}, "BatchNorm's statistics are averaged, not estimated on them."),
        ({"algorithm": "dpsgd"}, "BatchNorm's statistics are averaged, not estimated on them."),
        ({"algorithm": "dpsgd", "averaging": {"batchnorm": "reestimate"}}, "are estimated anew on them."),
        ({"matching": {"repair": True}}, "anew on them; units get back their mean and deviation on them (REPAIR)."),
        ({"matching": {"repair": "auto"}}, "deviation on them (REPAIR) where the network has no normalisation."),
    ],
)
def test_the_page_and_the_summary_say_which_statistics_were_used(
    tmp_path: Path, values: dict[str, object], words: str, write_run: Callable[..., RunDirectory]
) -> None:
    recipe = Recipe.model_validate(values)
    run = write_run(tmp_path / "run", recipe)
    assert words in Page(write_report(run).read_text()).text
    told = write_summary(run)["matching"]
    assert told["statistics"] == ("average" if "averaged" in words else "reestimate")
    assert told["repair"] == recipe.matching.repair


def test_the_page_says_who_was_told_to_attack(tmp_path: Path, write_run: Callable[..., RunDirectory]) -> None:
    attack = {"name": "sign-flip", "peers": [1, 3], "scale": 5.0}
    told = write_run(tmp_path / "told", Recipe.model_validate({"peers": 5, "attack": attack}))
    page = Page(render(told.recipe, "sim", merge(told)))
    assert "attack: sign-flip by peers 1, 3 (told to by the recipe)" in page.text
    assert "peer-3 (attacks)" in page.text and "peer-2 (attacks)" not in page.text
    honest = write_run(tmp_path / "honest", Recipe(peers=5))
    assert "attack" not in Page(render(honest.recipe, "sim", merge(honest))).text.replace("attack: null", "")


def test_equal_runs_have_equal_pages(
    tmp_path: Path, recipe: Recipe, write_run: Callable[[Path, Recipe, str], RunDirectory]
) -> None:
    pages = [write_report(write_run(tmp_path / name, recipe, "sim")).read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    "values",
    [
        {"peers": 1, "rounds": 1},
        {"peers": 2, "rounds": 1},
        {"peers": 24, "rounds": 40, "topology": "exponential"},
        {"peers": 4, "rounds": 9, "topology": {"name": "file", "path": "/nowhere"}},
    ],
)
@pytest.mark.parametrize("world", ["local", "sim", "ray"])
def test_any_run_has_a_page(
    tmp_path: Path, values: dict[str, object], world: str, write_run: Callable[[Path, Recipe, str], RunDirectory]
) -> None:
    run = write_run(tmp_path / "run", Recipe.model_validate(values), world)
    assert "Test accuracy" in Page(write_report(run).read_text()).text


def test_a_run_in_which_nothing_happened_has_a_page(tmp_path: Path, recipe: Recipe) -> None:
    with RunDirectory.create(tmp_path / "run", recipe, "local") as run:
        assert "Nothing was measured" in Page(write_report(run).read_text()).text


def test_what_recipes_and_journals_say_is_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&{peer}"
    recipe = Recipe.model_validate(
        {"peers": 2, "algorithm": evil, "model": {"name": evil, evil: evil}, "topology": {"name": "ring", evil: evil}}
    )
    with RunDirectory.create(tmp_path / "run", recipe, evil) as run:
        with Journal(run.journal_file("peer-0"), 0, lambda: 0.0) as journal:
            journal.record("failed", problem=evil, user=True)
            journal.record("lost", round=1, other=1)
        html = write_report(run).read_text()
    page = Page(html)
    assert "<script" not in html
    assert "script" not in page.tags
    assert f"peer-0 failed: {evil}" in page.text


def test_a_curve_has_a_gap_where_its_peer_was_away(run: RunDirectory) -> None:
    html = render(run.recipe, run.world, merge(run))
    ways = re.findall(r'<path class="curve p(\d)" vector-effect="non-scaling-stroke" d="([^"]*)"', html)
    assert {peer: way.count("M") for peer, way in ways[:5]} == {"0": 1, "1": 1, "2": 1, "3": 2, "4": 1}


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(2, 8))
def test_ticks_are_even_and_enclose_the_values(low: float, width: float, about: int) -> None:
    ticks = charts.nice_ticks(low, low + width, about)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= low + width - 1e-6 * step
    assert len(ticks) <= 2 * about + 3


@given(st.integers(0, 1000), st.integers(0, 10_000))
def test_whole_ticks_are_few_and_within(first: int, width: int) -> None:
    ticks = charts.whole_ticks(first, first + width, 10)
    assert len(ticks) <= 12
    assert all(first <= tick <= first + width for tick in ticks)


SAMPLED = {"algorithm": "modest", "peers": 5, "sampling": {"size": 2}}


def test_where_samples_are_drawn_rounds_take_the_place_of_the_topology(
    tmp_path: Path, write_run: Callable[..., RunDirectory]
) -> None:
    run = write_run(tmp_path / "run", Recipe.model_validate(SAMPLED), "sim")
    text = Page(write_report(run).read_text()).text
    assert "Of the aggregate of a round on the common test set" in text
    assert "What each peer was at." in text and "averages and hands out" in text and "peer-3 crashed" in text
    assert "spectral gap" not in text


def test_the_page_says_what_the_accuracy_has_cost(run: RunDirectory) -> None:
    text = Page(write_report(run).read_text()).text
    for expected in ("What it cost", "time (s)", "sent by all peers (MB)", "training images (thousands)", "all peers"):
        assert expected in text


@pytest.mark.parametrize("peers", [5, 1000])
def test_a_page_of_samples_stays_small(tmp_path: Path, peers: int, write_run: Callable[..., RunDirectory]) -> None:
    recipe = Recipe.model_validate({**SAMPLED, "peers": peers, "rounds": 3})
    page = write_report(write_run(tmp_path / "run", recipe, "sim")).read_text()
    assert "Rounds" in Page(page).text
    assert len(page) < 200_000
