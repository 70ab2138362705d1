"""Where there is no room, an error names what is missing."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")
from decentral.launch.ray.placement import missing

CPU = {"CPU": 1.0}


def test_too_few_processors_are_counted_by_machine():
    words = missing({"CPU": 2.0}, 5, [{"CPU": 4.0}, {"CPU": 3.0}], {"CPU": 7.0})
    assert "5 peers need 2 CPU each" in words and "7 on 2 machines" in words and "room for 3 peers" in words


def test_every_kind_that_is_missing_is_named():
    words = missing({"CPU": 1.0, "GPU": 1.0}, 2, [{"CPU": 1.0}], {"CPU": 1.0})
    assert "2 peers need 1 CPU each" in words and "2 peers need 1 GPU each" in words and "has 0 on" in words


def test_what_others_use_is_told_apart_from_what_is_not_there():
    assert "1 of 4 are free" in missing(CPU, 3, [{"CPU": 4.0}], {"CPU": 1.0})


def test_shares_of_a_gpu_add_up():
    words = missing({"GPU": 0.1}, 10, [{"GPU": 1.0}], {"GPU": 1.0})
    assert "there seems to be enough" in words
