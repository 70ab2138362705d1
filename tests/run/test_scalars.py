"""Curves for TensorBoard say what the events say, and TensorBoard reads them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.run.course import course
from decentral.run.journal import merge
from decentral.run.scalars import MEAN, Scalars, scalars_of
from decentral.run.summary import KINDS, PHASES


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard's own reader has them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.fixture
def written(run: Any, tmp_path: Path) -> Path:
    pytest.importorskip("tensorboard")
    scalars, events = Scalars(tmp_path / "curves"), merge(run)
    for event in events:
        scalars(event)
    scalars.mean(course(run.recipe, events))
    return tmp_path / "curves"


def test_each_node_has_the_curves_that_its_events_tell(run, written):
    events = merge(run)
    for peer in range(run.recipe.peers):
        own = [event for event in events if event["peer"] == peer]
        curves = read(written / f"peer-{peer}")
        assert curves.keys() == {"loss/training", "loss/test", "accuracy"} | {
            *(f"bytes/{kind}" for kind in KINDS),
            *(f"seconds/{phase}" for phase in PHASES),
        }
        told = [(event["round"], event["accuracy"]) for event in own if event["event"] == "evaluated"]
        assert curves["accuracy"] == [(round, pytest.approx(value)) for round, value in told]
        sent = [(event["round"], event["bytes"]["total"]) for event in own if event["event"] == "round"]
        assert curves["bytes/total"] == [(round, pytest.approx(value)) for round, value in sent]


def test_the_mean_is_that_of_the_course(run, written):
    points = course(run.recipe, merge(run))
    assert read(written / MEAN)["accuracy"] == [(point.round, pytest.approx(point.accuracy)) for point in points]


def test_what_is_written_is_there_when_its_round_is_over(tmp_path):
    pytest.importorskip("tensorboard")
    scalars = Scalars(tmp_path)
    told = {"t": 1.0, "peer": 0, "round": 1}
    scalars({**told, "event": "evaluated", "accuracy": 0.5, "loss": None, "seconds": 0.1})
    assert not (tmp_path / "peer-0").exists()
    scalars({**told, "event": "round", "bytes": dict.fromkeys(KINDS, 0)})
    assert read(tmp_path / "peer-0")["accuracy"] == [(1, 0.5)]


def test_a_run_that_goes_on_adds_to_what_is_there(tmp_path):
    pytest.importorskip("tensorboard")
    for began, round in ((1000.0, 1), (2000.0, 2)):
        scalars = Scalars(tmp_path, lambda began=began: began)  # type: ignore[misc]
        scalars({"t": 0.0, "peer": 0, "round": round, "event": "evaluated", "accuracy": 0.5, "loss": 1.0, "seconds": 0})
        scalars.close()
    assert [step for step, _ in read(tmp_path / "peer-0")["accuracy"]] == [1, 2]


@given(value=st.one_of(st.none(), st.floats()))
def test_what_is_no_finite_number_is_no_point(value):
    event = {"t": 0.0, "peer": 0, "event": "trained", "round": 1, "loss": value, "samples": 1, "seconds": 1.0}
    names = [name for name, _ in scalars_of(event)]
    assert ("loss/training" in names) == (value is not None and math.isfinite(value)) and "seconds/train" in names


def test_a_folder_that_is_none_is_named(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--tensorboard"):
        Scalars(tmp_path / "file")
