"""Several runs in one page: called by what tells them apart, held against one another at the same accuracy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from decentral.errors import RunDirectoryError, UserError
from decentral.run.comparison import MOST_RUNS, Compared, compare, labels, write_comparison
from decentral.run.course import Point
from decentral.run.directory import RunDirectory
from decentral.run.recipe import Recipe

WriteRun = Callable[..., RunDirectory]


def compared(folder: str = "run", *accuracies: float, world: str = "sim", **values: object) -> Compared:
    recipe = Recipe.model_validate({"peers": 2, **values})
    one = Compared.of(folder, recipe, world, [])
    points = [
        Point(round, accuracy, 10.0 * round, {"model": 1000 * round, "view": 0, "control": 0}, 100 * round)
        for round, accuracy in enumerate(accuracies, start=1)
    ]
    return Compared(folder, recipe, world, points, {"model": 1000}, one.summary)


def rows(html: str, title: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    table = html.partition(f"<h2>{title}</h2>")[2].partition("</table>")[0]
    return [re.findall("<td>(.*?)</td>", row) for row in table.split("<tr>")[2:]]


def test_runs_are_written_into_one_page(tmp_path: Path, write_run: WriteRun) -> None:
    folders = []
    for algorithm in ("dimat", "fedavg", "dpsgd"):
        folders.append(tmp_path / algorithm)
        write_run(folders[-1], Recipe.model_validate({"algorithm": algorithm}), "sim")
    html = write_comparison(folders, tmp_path / "all.html").read_text()
    assert [row[0] for row in rows(html, "At the end")] == ["dimat", "fedavg", "dpsgd"]
    assert "3 runs; their recipes differ in algorithm. Their time is virtual" in html
    assert html.count('class="curve p2"') == 1 + 4, "in the legend and in each figure"
    assert "<script" not in html and "src=" not in html and "href=" not in html
    assert write_comparison(folders, tmp_path / "again.html").read_text() == html


def test_a_run_is_called_by_what_tells_it_apart() -> None:
    def called(*values: dict[str, object]) -> list[str]:
        return labels([compared(f"runs/{place}", **each) for place, each in enumerate(values)])

    assert called({"algorithm": "fedavg"}, {"algorithm": "modest", "rounds": 20}) == ["fedavg", "modest"]
    assert called({"rounds": 5}, {"rounds": 20}) == ["dimat, rounds 5", "dimat, rounds 20"]
    assert called({"seed": 1}, {"seed": 2}) == ["dimat, seed 1", "dimat, seed 2"]
    graph = {"name": "regular", "degree": 4}
    assert called(
        {"algorithm": "dpsgd", "topology": "full"}, {"algorithm": "dpsgd", "topology": graph}, {"algorithm": "fedavg"}
    ) == ["dpsgd, full", "dpsgd, regular degree 4", "fedavg"]
    assert called({"sampling": {"size": None}}, {"sampling": {"size": 2}}) == [
        "dimat, sampling.size null",
        "dimat, sampling.size 2",
    ]


def test_runs_that_recipes_do_not_tell_apart_are_called_by_their_folders() -> None:
    assert labels([compared("runs/a"), compared("runs/b")]) == ["a", "b"]
    assert labels([compared("one/a"), compared("two/a")]) == ["one/a", "two/a"]
    far = {"seed": 3, "batch": 1}
    training = {"batch_size": 7, "learning_rate": 0.5, "epochs": 3, "momentum": 0.1}
    assert labels([compared("runs/a"), compared("runs/b", seed=far["seed"], training=training)]) == ["a", "b"]


def test_all_are_held_against_one_another_where_all_have_been() -> None:
    html = compare([compared("a", 0.2, 0.9, 0.8, seed=1), compared("b", 0.1, 0.5, 0.85, seed=2)])
    assert "at 85.0 % or more" in html
    assert rows(html, "To the same accuracy") == [
        ["dimat, seed 1", "2", "20.0 s", "2.0 kB", "200"],
        ["dimat, seed 2", "3", "30.0 s", "3.0 kB", "300"],
    ]


def test_a_run_that_was_never_evaluated_is_compared_as_far_as_it_went() -> None:
    html = compare([compared("a", 0.2, seed=1), compared("b", seed=2)])
    assert "To the same accuracy" not in html
    assert [row[1] for row in rows(html, "At the end")] == ["–", "–"], "no journal tells of an evaluation"


def test_times_of_different_worlds_are_not_to_be_compared() -> None:
    assert "not to be compared" in compare([compared("a", 0.5, seed=1), compared("b", 0.5, seed=2, world="local")])
    assert "time is virtual" not in compare([compared("a", 0.5, world="local"), compared("b", 0.5, world="local")])


def test_as_many_runs_as_can_be_told_apart_have_lines_of_their_own() -> None:
    html = compare([compared(str(seed), 0.5, 0.6, seed=seed) for seed in range(MOST_RUNS)])
    styles = re.findall(r'<li><svg[^>]*><path class="curve ([^"]*)"', html)
    assert len(set(styles)) == MOST_RUNS


def test_what_cannot_be_compared_is_named(tmp_path: Path, run: RunDirectory) -> None:
    out = tmp_path / "out.html"
    with pytest.raises(RunDirectoryError, match="nowhere"):
        write_comparison([run.path, tmp_path / "nowhere"], out)
    with pytest.raises(UserError, match="named twice"):
        write_comparison([run.path, run.path / ".." / run.path.name], out)
    with pytest.raises(UserError, match=f"more than the {MOST_RUNS}"):
        write_comparison([tmp_path / str(place) for place in range(MOST_RUNS + 1)], out)
    assert not out.exists()


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path, recipe: Recipe, write_run: WriteRun) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        write_run(folder, recipe)
    with pytest.raises(UserError, match=r"page\.html: cannot be written"):
        write_comparison(folders, tmp_path / "missing" / "page.html")


def test_names_are_text_and_never_markup() -> None:
    evil = "<script>alert(1)</script>"
    html = compare([compared("a", 0.5, algorithm=evil), compared("b", 0.5, model={"name": evil})])
    assert "<script" not in html
