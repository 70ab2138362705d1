"""A run of samples goes on whoever crashes and whenever, ends everywhere with one model, and counts who took part."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from decentral.algorithms.modest import MoDeST
from decentral.wire.clock import VirtualClock
from decentral.wire.memory import MemoryNetwork
from decentral.wire.messages import Model, News
from tests.algorithms.conftest import SAMPLING

PEERS, ROUNDS = 7, 4


@pytest.fixture
def crowd(world):
    def build(count=PEERS, **options):
        stage = world(count, MoDeST, **{"rounds": ROUNDS, **options})
        for learner in stage.learners:
            learner.value.zero_()  # aggregate 0 is the same everywhere
        return stage

    return build


def ended(stage, without=()):
    """Every peer but those has the last aggregate, and it is the same."""
    here = [index for index in range(stage.count) if index not in without]
    assert [stage.journals[index].of("finished")[-1]["round"] for index in here] == [stage.rounds] * len(here)
    assert len({stage.learners[index].value.item() for index in here}) == 1
    return stage.learners[here[0]].value.item()


def test_all_end_with_the_same_model_after_as_many_steps_as_rounds(crowd):
    stage = crowd().play()
    assert ended(stage) == ROUNDS
    trained = [len(journal.of("trained")) for journal in stage.journals.values()]
    assert sum(trained) == 3 * ROUNDS, "a sample of three trains in each round"
    averages = [event["round"] for journal in stage.journals.values() for event in journal.of("merged")]
    assert sorted(averages) == list(range(1, ROUNDS + 1))


def test_everybody_takes_part_in_the_long_run(crowd):
    stage = crowd(rounds=40).play()
    trained = [len(journal.of("trained")) for journal in stage.journals.values()]
    assert sum(trained) == 3 * 40
    assert min(trained) >= 8


def test_two_runs_are_the_same_and_another_seed_draws_others(crowd):
    def trained(stage):
        return [[event["round"] for event in journal.of("trained")] for journal in stage.journals.values()]

    first = crowd().play()
    assert trained(first) == trained(crowd().play())
    assert trained(first) != trained(crowd(sampling=replace(first.sampling, seed=1)).play())


@pytest.mark.parametrize("change", [{"aggregators": 2}, {"aggregators": 3, "success": 0.6}, {"size": 1, "floor": 1}])
def test_other_sizes_of_samples_end_too(crowd, change):
    stage = crowd()
    assert ended(crowd(sampling=replace(stage.sampling, **change)).play()) == pytest.approx(ROUNDS)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_peers_than_a_sample_wants_go_on_with_all_there_are(crowd, count):
    assert ended(crowd(count).play()) == ROUNDS


def test_whom_all_have_forgotten_is_handed_the_result_too(crowd):
    stage = crowd()
    forgetful = crowd(rounds=20, sampling=replace(stage.sampling, window=2, size=2)).play()
    assert ended(forgetful) == pytest.approx(20)
    averages = [event["round"] for journal in forgetful.journals.values() for event in journal.of("merged")]
    assert sorted(averages) == list(range(1, 21)), "nobody goes on alone"


def test_a_newer_round_interrupts_training(crowd):
    """Peer 2 has ten times as many images; the others do not wait for it, and tell it to stop."""
    stage = crowd()
    fast = replace(stage.sampling, success=0.6)
    stage = crowd(rounds=20, sampling=fast, samples=lambda index: 1000 if index == 2 else 100).play()
    assert ended(stage) == pytest.approx(20)
    trained, abandoned = stage.journals[2].of("trained"), stage.journals[2].of("abandoned")
    assert abandoned and not trained, "it never comes to the end of its ten seconds"
    assert all(event["seconds"] < 3.0 for event in abandoned)
    assert len(abandoned) > 5, "and so it is there in the next round for which it is drawn"
    assert not any(event["round"] in {done["round"] for done in trained} for event in abandoned)


def test_lost_messages_delay_a_run_and_no_more(crowd):
    assert ended(crowd(loss=0.05, rounds=10).play()) == pytest.approx(10)


def test_all_who_draw_write_down_whom_they_found_and_what_they_saw(crowd):
    stage = crowd().play()
    drawn = [event for journal in stage.journals.values() for event in journal.of("sampled")]
    trained = {(i, event["round"]) for i, journal in stage.journals.items() for event in journal.of("trained")}
    averaged = {(i, event["round"]) for i, journal in stage.journals.items() for event in journal.of("merged")}
    for event in drawn:
        assert (event["candidates"], len(event["participants"]), len(event["view"])) == (PEERS, 3, 8)
        assert event["aggregators"] == event["participants"][:1]
        if event["round"] <= ROUNDS:
            assert {(peer, event["round"]) for peer in event["participants"]} <= trained
        assert (event["aggregators"][0], event["round"] - 1) in averaged
    assert {event["round"] for event in drawn} == set(range(2, ROUNDS + 2))
    assert len(drawn) <= 4 * ROUNDS, "a participant or an aggregator draws once"
    assert len({event["view"] for event in drawn}) == 1, "everybody sees everybody"


def test_what_is_sent_is_written_down_with_its_bytes(crowd):
    stage = crowd().play()
    for index, journal in stage.journals.items():
        sent = journal.of("sent")
        for event in sent:
            assert index not in event["to"] and not event["missed"]
            assert 0 < event["view"] < event["bytes"]["model"]
        counts = [event["bytes"]["total"] for event in sent]
        assert counts == sorted(counts)
    tags = {event["tag"] for journal in stage.journals.values() for event in journal.of("sent")}
    assert tags == {"local", "average"}


class Steps:
    """Counts what peers do: each message that leaves a peer, each piece of work; ends one peer at one of them."""

    def __init__(self, monkeypatch, victims=lambda index, stage: [index], at=None, gracefully=False):
        self.gracefully = gracefully
        self.taken: list[int] = []
        self.ended: list[int] = []
        carry, work = MemoryNetwork.carry, VirtualClock.work
        steps = self

        async def counted_carry(network, sender, *message, **how):
            await steps.step(steps.indices[sender], at, victims)
            return await carry(network, sender, *message, **how)

        async def counted_work(clock, fn, seconds):
            await steps.step(next(i for i, peer in steps.stage.peers.items() if peer.clock is clock), at, victims)
            return await work(clock, fn, seconds)

        monkeypatch.setattr(MemoryNetwork, "carry", counted_carry)
        monkeypatch.setattr(VirtualClock, "work", counted_work)

    def watch(self, stage):
        self.stage, self.indices = stage, {identity.id: i for i, identity in enumerate(stage.identities)}
        return stage

    async def step(self, index, at, victims):
        self.taken.append(index)
        if len(self.taken) - 1 == at:
            self.ended = victims(index, self.stage)
            self.ending = asyncio.ensure_future(self._end())
            await asyncio.sleep(0)

    async def _end(self):
        for index in self.ended:
            task = self.stage.tasks.pop(index)
            if self.gracefully:
                task.cancel()
                await asyncio.wait([task])
            self.stage.network.crash(self.stage.identities[index].id)
            task.cancel()


def undisturbed(crowd):
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        steps.watch(crowd()).play()
    return steps


def total_steps(crowd):
    return len(undisturbed(crowd).taken)


@pytest.mark.slow
def test_a_peer_may_crash_at_any_step(crowd):
    """Every message that anybody sends, and every piece of work, in turn: enumerated, not sampled."""
    for at in range(total_steps(crowd)):
        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(patch, at=at)
            ended(steps.watch(crowd()).play(), without=steps.ended)
            assert len(steps.ended) == 1


def test_a_whole_sample_with_all_its_aggregators_may_die_at_any_moment(crowd):
    def sample(index, stage):
        round = max(peer.crowd.round for peer in stage.peers.values())
        return stage.peers[index].crowd.order(round + 1, 3)

    died = []
    for at in range(0, total_steps(crowd), 5):
        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(patch, victims=sample, at=at)
            ended(steps.watch(crowd()).play(), without=steps.ended)
            died.append(len(steps.ended))
    assert min(died) >= 1 and max(died) >= 3


@pytest.mark.slow
def test_an_aggregator_may_leave_at_any_step_and_no_average_is_lost(crowd):
    """What it has averaged it hands on before it goes, so that nobody averages that round again."""
    plain = undisturbed(crowd)
    aggregators = {index for index, journal in plain.stage.journals.items() if journal.of("merged")}
    left = 0
    for at in (step for step, index in enumerate(plain.taken) if index in aggregators):
        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(patch, at=at, gracefully=True)
            stage = steps.watch(crowd()).play()
            assert ended(stage, without=steps.ended) == ROUNDS
            averages = [event["round"] for journal in stage.journals.values() for event in journal.of("merged")]
            assert sorted(averages) == list(range(1, ROUNDS + 1))
            left += len(steps.ended)
    assert left > 20


def test_all_but_one_may_die(crowd):
    async def script(stage):
        await asyncio.sleep(2.5)
        for index in range(1, PEERS):
            await stage.crash(index)
            del stage.tasks[index]

    ended(crowd().play(script), without=range(1, PEERS))


def test_a_peer_that_is_cut_off_waits_and_ends_with_the_others(crowd):
    """Alone it would be through with all rounds in less time than it is away."""

    async def script(stage):
        await asyncio.sleep(6.5)
        stage.network.partition([stage.identities[2].id])
        before.append(len(stage.journals[2].of("trained")))
        await asyncio.sleep(25.0)
        meanwhile.append(len(stage.journals[2].of("trained")))
        stage.network.heal()

    before, meanwhile = list[int](), list[int]()
    stage = crowd(3, rounds=60, sampling=replace(SAMPLING, size=2)).play(script)
    ended(stage)
    assert meanwhile[0] - before[0] <= 1 and len(stage.journals[2].of("trained")) > meanwhile[0] + 5
    assert stage.journals[2].of("cut_off") and not any(stage.journals[index].of("cut_off") for index in (0, 1))


def test_a_peer_that_comes_back_takes_part_again_and_ends_with_the_others(crowd):
    async def script(stage):
        await asyncio.sleep(6.5)
        await stage.crash(2)
        finished = max(stage.shelves[2].saved, default=0)
        await asyncio.sleep(4.0)
        stage.start(2, finished, running=True)

    stage = crowd(rounds=40).play(script)
    ended(stage)
    back = stage.journals[2].of("trained")
    assert any(event["t"] > 10.5 for event in back), "drawn again"
    assert all(view.view.word(2).counter >= 1 for view in stage.sessions.values())


def test_a_peer_that_comes_back_when_all_have_finished_ends_with_what_it_has(crowd):
    async def script(stage):
        await asyncio.sleep(3.5)
        await stage.crash(2)
        finished = max(stage.shelves[2].saved, default=0)
        del stage.tasks[2]
        await stage.all_end()
        stage.start(2, finished, running=True)

    stage = crowd().play(script)
    ended(stage, without=[2])
    assert stage.journals[2].of("alone") and stage.journals[2].of("finished")[0]["round"] < ROUNDS


def test_peers_that_all_crash_and_all_come_back_find_one_another(crowd):
    async def script(stage):
        await asyncio.sleep(5.5)
        for index in range(PEERS):
            await stage.crash(index)
        for index in range(PEERS):
            await asyncio.sleep(1.0)
            stage.start(index, max(stage.shelves[index].saved, default=0), running=True)

    stage = crowd(rounds=8).play(script)
    ended(stage)
    assert not any(journal.of("alone") for journal in stage.journals.values())


def test_a_peer_that_leaves_is_drawn_no_more(crowd):
    async def script(stage):
        await asyncio.sleep(3.5)
        stage.tasks[4].cancel()
        await asyncio.gather(stage.tasks[4], return_exceptions=True)
        del stage.tasks[4]

    stage = crowd(rounds=25).play(script)
    ended(stage, without=[4])
    known = [not session.view.members()[4] for index, session in stage.sessions.items() if index != 4]
    assert sum(known) >= 5, "word of it has gone around with the models"


def test_who_follows_another_recipe_is_left_out(crowd):
    stage = crowd(rounds=12, hashes=lambda index: "another" if index == 2 else "recipe")
    stage.play(stage.killing(2, at=60.0))
    ended(stage, without=[2])
    assert all(2 not in event["weights"] for i, j in stage.journals.items() if i != 2 for event in j.of("merged"))
    assert any(j.of("rejected")[0]["reason"] == "another recipe" for j in stage.journals.values() if j.of("rejected"))


def test_models_that_are_no_numbers_are_left_out(crowd):
    async def script(stage):
        await asyncio.sleep(1.5)
        lie = Model(3, {"value": torch.tensor([float("nan")], dtype=torch.float64)}, news=News(recipe_hash="recipe"))
        for index in range(1, PEERS):
            await stage.sessions[0].transport.send(stage.identities[index].id, lie)

    stage = crowd().play(script)
    assert ended(stage) == ROUNDS
    assert all(stage.journals[index].of("rejected")[0]["other"] == 0 for index in range(1, PEERS))
