"""Models that travel packed: what is left out is said later, who is new gets all, what cannot be read is rejected."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from decentral.algorithms.dpsgd import DPSGD
from decentral.algorithms.epidemic import Epidemic
from decentral.algorithms.fedavg import FedAvg
from decentral.algorithms.gossip import Gossip
from decentral.algorithms.modest import MoDeST
from decentral.algorithms.packing import HEARD, LEFT, SAID
from decentral.core.compression import INDEX, LARGEST
from decentral.core.encodings import BFloat16, Encoding, Int8, Plain, TopK
from decentral.core.outer import Nesterov
from decentral.training.learner import Evaluation, TrainingReport
from decentral.wire.identity import Identity
from decentral.wire.memory import MemoryTransport
from decentral.wire.messages import Model

ROWS, COLUMNS = 8, 64
MATRIX = 4 * ROWS * COLUMNS


class Leaning:
    """A matrix and a bias that training draws a part of the way to where the peer's own data are."""

    def __init__(self, index, pull):
        self.samples, self.pull = 100, pull
        draw = torch.Generator().manual_seed(index)
        self.goal = {"w": torch.randn(ROWS, COLUMNS, generator=draw), "b": torch.randn(4, generator=draw)}
        self.state = {name: torch.zeros_like(tensor) for name, tensor in self.goal.items()}
        self.trained = []

    def train(self, round, *_):
        self.trained.append(round)
        self.state = {name: tensor.lerp(self.goal[name], self.pull) for name, tensor in self.state.items()}
        return TrainingReport(loss=0.0, samples=self.samples, steps=1)

    def parameters(self):
        return {name: tensor.clone() for name, tensor in self.state.items()}

    def view(self):
        return self.state

    def load(self, parameters):
        self.state = {name: parameters[name].clone() for name in self.state}

    def evaluate(self):
        return Evaluation(loss=0.0, accuracy=0.5, samples=1)

    def optimizer_state(self):
        return {}

    def load_optimizer(self, state):
        assert not state

    def class_counts(self):
        return [self.samples]


@pytest.fixture
def play(world):
    """Plays a world of leaning peers, all of which write alike, or each as it is told."""

    def played(algorithm, encoding, *, count=4, pull=0.5, apart=False, script=None, **options):
        write = (lambda index: encoding) if isinstance(encoding, Encoding) else encoding
        stage = world(count, algorithm, **{"topology_name": "full", "rounds": 3, "encoding": write, **options})
        stage.learners = [Leaning(index, pull) for index in range(count)]
        for learner in stage.learners if apart else ():
            learner.state = dict(learner.goal)
        return stage.play(script)

    return played


def matrices(stage):
    return torch.stack([learner.state["w"] for learner in stage.learners])


def sent(stage, index, round):
    """Bytes of models that a peer sent in one round."""
    totals = [event["bytes"]["model"] for event in stage.journals[index].of("round")]
    return totals[round - 1] - (totals[round - 2] if round > 1 else 0)


SYNCHRONOUS = [DPSGD, FedAvg, Gossip, Epidemic]


@pytest.mark.parametrize("algorithm", [*SYNCHRONOUS, MoDeST])
@pytest.mark.parametrize(("encoding", "step"), [(BFloat16(), 2**-7), (Int8(), 1 / 127)], ids=["bfloat16", "int8"])
def test_a_rounded_run_stays_near_the_exact_one_and_is_the_same_every_time(play, algorithm, encoding, step):
    exact, rounded, again = (play(algorithm, write) for write in (Plain(), encoding, encoding))
    assert torch.equal(matrices(rounded), matrices(again))
    assert not torch.equal(matrices(rounded), matrices(exact))
    assert torch.allclose(matrices(rounded), matrices(exact), atol=3 * 3.0 * step)  # three rounds of values up to 3


@pytest.mark.parametrize(
    "encoding", [BFloat16(), Int8(), TopK(0.1), TopK(0.1, whole="none")], ids=lambda e: type(e).__name__
)
def test_all_clients_go_on_from_the_average_that_they_read(play, encoding):
    assert len({tuple(matrix.flatten().tolist()) for matrix in matrices(play(FedAvg, encoding))}) == 1


@pytest.mark.parametrize("outer", [None, Nesterov(0.7, 0.5)], ids=["", "outer"])
@pytest.mark.parametrize("encoding", [BFloat16(), Int8(), TopK(0.1)], ids=["bfloat16", "int8", "top-k"])
def test_all_peers_of_samples_end_with_the_same_model(play, encoding, outer):
    ended = play(MoDeST, encoding, count=6, rounds=5, outer=outer)
    assert len({tuple(matrix.flatten().tolist()) for matrix in matrices(ended)}) == 1
    assert not any(journal.of("rejected") or journal.of("refused") for journal in ended.journals.values())


def test_parts_of_models_are_filled_up_from_the_aggregate_that_is_handed_on(play):
    """As FedAvg does with what everybody has: many rounds lead where whole models lead, at about the same time."""
    exact, sparse = (play(MoDeST, write, rounds=40, pull=0.05) for write in (Plain(), TopK(0.2, whole="none")))
    assert (matrices(sparse) - matrices(exact)).abs().mean() < 0.35 * matrices(exact).abs().mean()
    ends = [max(event["t"] for event in played.journals[0].events) for played in (exact, sparse)]
    assert ends[1] == pytest.approx(ends[0], rel=0.1), "nobody has waited for a baton"


@pytest.mark.parametrize("at", [1.02, 1.05, 2.03, 2.06, 3.02, 3.08, 4.1])
def test_parts_of_models_whose_rest_died_are_sent_again_whole(play, at):
    """Whoever holds the newest aggregate dies with it, or on the way."""

    async def script(stage):
        await asyncio.sleep(at)
        stage.dead = max(stage.peers, key=lambda index: stage.peers[index].crowd.round)
        await stage.crash(stage.dead)
        del stage.tasks[stage.dead]

    played = play(MoDeST, TopK(0.1), count=6, rounds=6, script=script)
    here = [index for index in range(6) if index != played.dead]
    assert [played.journals[index].of("finished")[0]["round"] for index in here] == [6] * 5
    assert len({tuple(matrices(played)[index].flatten().tolist()) for index in here}) == 1


def test_bytes_shrink_as_the_encoding_says(play):
    """Beside the tensors a message has a header and a digest, of less than 300 bytes."""
    others = 3
    for encoding, size in ((Plain(), MATRIX), (BFloat16(), MATRIX / 2), (Int8(), MATRIX / 4 + 4 * ROWS)):
        assert sent(play(DPSGD, encoding), 0, 2) == pytest.approx(others * size, abs=others * 300)


def test_all_of_a_model_goes_out_once_and_then_what_changed_most(play):
    played = play(DPSGD, TopK(0.05), rounds=4)
    kept = 4 * round(0.05 * ROWS * COLUMNS + 0.5)
    assert sent(played, 0, 1) == pytest.approx(3 * (MATRIX / 4 + 4 * ROWS), abs=900)
    for later in (2, 3, 4):
        assert sent(played, 0, later) == pytest.approx(3 * kept, abs=900)


def test_neighbours_know_of_one_another_what_all_messages_together_said(play):
    played = play(DPSGD, TopK(0.1), rounds=12)
    memories = [peer.memory for peer in played.peers.values()]
    for index, memory in enumerate(memories):
        others = set(range(4)) - {index}
        assert set(memory) == {f"{SAID}w", *(f"{HEARD}{other}/w" for other in others)}
        assert all(torch.equal(memory[f"{HEARD}{other}/w"], memories[other][f"{SAID}w"]) for other in others)
    assert set(played.shelves[0].memory) == {f"algorithm/{name}" for name in memories[0]}


def test_parts_of_models_keep_the_mean_and_bring_the_peers_together(play):
    """CHOCO-SGD's law: what a peer takes from the difference of two public copies, the other gives."""
    played = play(DPSGD, TopK(0.2, whole="none"), rounds=80, pull=0.0, apart=True)
    goals = torch.stack([learner.goal["w"] for learner in played.learners])
    assert torch.allclose(matrices(played).mean(0), goals.mean(0), atol=1e-4)
    assert matrices(played).std(0).mean() < 0.05 * goals.std(0).mean()


def test_error_feedback_brings_the_average_to_where_all_of_it_leads(play):
    """A tenth of the change is said in a round; without memory nine tenths would be lost each time."""
    exact, sparse = (play(FedAvg, write, rounds=60, pull=0.05) for write in (Plain(), TopK(0.1, whole="none")))
    end, size = matrices(exact)[0], matrices(exact)[0].abs().mean()
    assert (matrices(sparse)[0] - end).abs().mean() < 0.2 * size
    assert set(sparse.peers[1].memory) == {f"{LEFT}w", "held"}
    assert set(sparse.peers[0].memory) == {"held"}, "the aggregator leaves nothing out"


@pytest.mark.parametrize("algorithm", [DPSGD, FedAvg])
def test_who_comes_back_is_sent_a_whole_model(play, world, algorithm):
    """FedAvg's aggregator above all, as it can fill nothing up from a model that is rounds old."""
    played = play(algorithm, TopK(0.05), rounds=12, script=world.killing(0, 3.5, away=4.0))
    assert [journal.of("finished")[-1]["round"] for journal in played.journals.values()] == [12] * 4
    sizes = [sent(played, 1, round) for round in range(1, 13)]
    back = played.journals[1].of("returned")[0]["round"] + 1
    whole = MATRIX / 4 + 4 * ROWS
    assert max(sizes[back - 1 : back + 1]) > whole > 2 * sizes[-1] / 3
    if algorithm is FedAvg:
        assert len({tuple(matrix.flatten().tolist()) for matrix in matrices(played)}) == 1


# ---- lies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lying(monkeypatch):
    """Changes one tensor of each local model that peer 2 sends, where it is there: the lie is told on the wire."""

    def lie(name, change):
        honest = MemoryTransport.send

        async def send(transport, to, message):
            said = isinstance(message, Model) and message.tag == Model.tag and name in message.tensors
            if said and transport.id == Identity.from_seed(bytes([2])).id:
                message = replace(message, tensors={**message.tensors, name: change(message.tensors[name].clone())})
            await honest(transport, to, message)

        monkeypatch.setattr(MemoryTransport, "send", send)

    return lie


def twice(places):
    places[1] = places[0]
    return places


def beyond(places):
    places[-1] = ROWS * COLUMNS
    return places


LIES = {
    "infinite scale": (Int8(), "w" + LARGEST, lambda t: t * float("inf"), "a scale that is not"),
    "negative scale": (Int8(), "w" + LARGEST, lambda t: -1 - t, "a scale that is not"),
    "no number": (BFloat16(), "w", lambda t: t * float("nan"), "not finite"),
    "infinity": (BFloat16(), "b", lambda t: t.fill_(float("inf")), "not finite"),
    "another shape": (BFloat16(), "w", lambda t: t[:-1], "w of another shape"),
    "a place twice": (TopK(0.05), "w" + INDEX, twice, "places that do not ascend"),
    "a place beyond": (TopK(0.05), "w" + INDEX, beyond, "a place out of range"),
}


TOLD = [
    pytest.param(algorithm, lie, id=f"{algorithm.__name__}: {name}")
    for algorithm in (DPSGD, FedAvg, MoDeST)
    for name, lie in LIES.items()
]


@pytest.mark.parametrize(("algorithm", "lie"), TOLD)
def test_a_lie_is_rejected_and_the_others_go_on_without_it(play, lying, algorithm, lie):
    honest, name, change, reason = lie
    lying(name, change)
    played = play(algorithm, honest, count=5, rounds=4)
    rejected = [event for journal in played.journals.values() for event in journal.of("rejected")]
    assert rejected and {event["other"] for event in rejected} == {2}
    assert all(event["reason"].startswith(reason) for event in rejected)
    assert bool(torch.isfinite(matrices(played)).all())
    assert [journal.of("finished")[0]["round"] for journal in played.journals.values()] == [4] * 5


@pytest.mark.parametrize("algorithm", [DPSGD, FedAvg, MoDeST])
@pytest.mark.parametrize("honest", [BFloat16(), Int8()], ids=["bfloat16", "int8"])
def test_nobody_is_rejected_where_nobody_lies(play, algorithm, honest):
    played = play(algorithm, honest, count=5, rounds=4)
    assert not any(journal.of("rejected") or journal.of("refused") for journal in played.journals.values())


def test_peers_that_write_differently_still_understand_one_another(play):
    """Whole and packed, rounded and not: a model says itself how it is to be read."""
    forms = [Plain(), BFloat16(), Int8(), TopK(0.1)]
    played = play(DPSGD, lambda index: forms[index])
    assert not any(journal.of("rejected") for journal in played.journals.values())
    assert all(event["received"] for journal in played.journals.values() for event in journal.of("exchanged"))
