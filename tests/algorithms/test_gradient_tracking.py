"""Peers whose losses pull apart reach the minimum of the sum, whatever the number of their local steps."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch import Tensor

from decentral.algorithms.dpsgd import DPSGD
from decentral.algorithms.gradient_tracking import GradientTracking
from decentral.training.learner import TrainingReport

CURVATURE, MINIMUM = [1.0, 4.0, 0.5, 2.0, 3.0], [0.0, 10.0, -6.0, 4.0, 1.0]
OPTIMUM = sum(a * b for a, b in zip(CURVATURE, MINIMUM, strict=True)) / sum(CURVATURE)


ROUNDS = 120


@pytest.fixture
def tugging(world):
    """Peer i minimises a_i (x - b_i)^2 / 2 by plain gradient steps."""

    def play(algorithm, script=None, *, steps=8, **options):
        stage = world(5, algorithm, **{"rounds": ROUNDS, **options})
        for index, learner in enumerate(stage.learners):
            pulled(learner, CURVATURE[index], MINIMUM[index], steps)
        return stage.play(script)

    return play


def pulled(learner, curvature: float, minimum: float, steps: int) -> None:
    def train(round: int, drift: Mapping[str, Tensor] | None = None, stop: object = None) -> TrainingReport:
        for _ in range(steps):
            learner.value = learner.value - 0.16 / steps * curvature * (learner.value - minimum)
            learner.value = learner.value + (drift or {}).get("value", 0.0) / steps
        return TrainingReport(loss=0.0, samples=1, steps=steps)

    learner.train = train


@pytest.mark.parametrize("steps", [1, 8, 25])
@pytest.mark.parametrize("name", ["ring", "star", "full"])
def test_the_minimum_of_the_sum_is_reached_with_any_number_of_local_steps(tugging, steps, name):
    played = tugging(GradientTracking, steps=steps, topology_name=name)
    assert played.values == pytest.approx([OPTIMUM] * 5, abs=1e-4)


def test_averaging_alone_stops_elsewhere_and_apart(tugging):
    played = tugging(DPSGD)
    assert max(played.values) - min(played.values) > 0.5
    assert max(abs(value - OPTIMUM) for value in played.values) > 0.3


def test_corrections_sum_to_zero(tugging):
    played = tugging(GradientTracking, rounds=7)
    assert sum(float(peer.memory["value"]) for peer in played.peers.values()) == pytest.approx(0.0, abs=1e-9)
    assert max(abs(float(peer.memory["value"])) for peer in played.peers.values()) > 0.1


def test_without_anything_to_learn_it_is_averaging(world):
    played = world(5, GradientTracking, rounds=120, step=0.0).play()
    assert played.values == pytest.approx([2.0] * 5, abs=1e-6)


def test_the_others_agree_when_a_peer_takes_its_correction_with_it(world, tugging):
    played = tugging(GradientTracking, world.killing(2, 30.5))
    left = [played.values[index] for index in (0, 1, 3, 4)]
    assert [played.journals[index].of("finished")[0]["round"] for index in (0, 1, 3, 4)] == [ROUNDS] * 4
    assert max(left) - min(left) < 1e-4
    assert abs(left[0] - OPTIMUM) < 1.5


def test_a_peer_that_returns_with_its_memory_lets_all_reach_the_minimum(world, tugging):
    played = tugging(GradientTracking, world.killing(2, 30.5, 3.0))
    assert played.values == pytest.approx([OPTIMUM] * 5, abs=0.3)


def test_lost_messages_delay_a_run_and_change_nothing_else(tugging):
    clean, lossy = (tugging(GradientTracking, rounds=20, loss=loss) for loss in (0.0, 0.05))
    assert clean.values == lossy.values


def test_one_peer_alone_trains_alone(world):
    assert world(1, GradientTracking, rounds=3).play().values == [3.0]
