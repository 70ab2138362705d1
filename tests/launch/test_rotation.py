"""Keys of real processes are replaced and revoked while they train and serve: nothing is lost, nobody else notices."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from decentral.errors import Refusal, Refused, TransportError
from decentral.launch import background
from decentral.launch.background import LocalCluster, start_serving, stop
from decentral.launch.cluster import Cluster, is_running
from decentral.launch.keys import Keys
from decentral.launch.prepare import prepare
from decentral.models.catalogue import build_model
from decentral.run.directory import open_cluster
from decentral.run.journal import read
from decentral.run.serving_recipe import load_any_recipe
from decentral.serving.client import Client
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.policy import Policy
from decentral.trust.receipt import verify
from decentral.wire import rpc
from decentral.wire.certificate import Credentials
from decentral.wire.links import Links

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = ("peers=4", "rounds=100000", "model={name: mlp, hidden: [8]}", "deadlines={round: 60, probe: 2, call: 30}")
STAGES = """\
stages: ["2"]
replicas: 4
policy: {{replicas: 3, quorum: 2, faulty: 1}}
model: {{file: {file}, name: mlp, hidden: [6]}}
data: {{name: digits}}
"""
BAD = {"lost", "crashed", "failed", "refused", "expired", "revoked", "unbelieved", "left"}


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten processes start at once, on a machine that may have other things to do."""
    monkeypatch.setattr(background, "STARTING", 300.0)


class Journals:
    """Of a run that goes on."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def events(self, name: str) -> list[dict[str, object]]:
        return [dict(event) for event in read(self.run / "nodes" / name / "events.jsonl")]

    def rounds(self, name: str) -> int:
        return max((int(str(event["round"])) for event in self.events(name) if event["event"] == "round"), default=0)

    def said(self, *names: str) -> Counter[object]:
        return Counter(event["event"] for name in names for event in self.events(name))

    def go_on(self, *names: str, rounds: int = 3) -> None:
        """Returns once each has finished some more."""
        goals = {name: self.rounds(name) + rounds for name in names}
        until(lambda: all(self.rounds(name) >= goal for name, goal in goals.items()))


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.1)


async def answer(run: Path, to: str, shown: Credentials) -> str:
    """Of a node to a health check that shows this certificate: its size, or why there is none."""
    member = next(member for member in Cluster.load(run).members if member.name == to)
    links = Links(shown)
    links.introduce(member.id, member.address)
    try:
        called = await links.call(member.id, lambda channel, _: _check(channel), 20.0)
    except Refused as refused:
        return refused.reason.name
    except TransportError as error:
        return str(error)
    finally:
        await links.close()
    return str(called)


async def _check(channel: object) -> str:
    reply = await channel.unary_unary(f"/{rpc.HEALTH}/Check", None, None)(b"")  # type: ignore[attr-defined]
    return f"{len(reply)} bytes"


def test_a_training_run_gets_new_keys_another_authority_and_one_peer_less(tmp_path: Path) -> None:
    run, names = tmp_path / "run", ("peer-0", "peer-1", "peer-2", "peer-3")
    with LocalCluster("dimat-digits", overrides=SMALL, directory=run, restarts=2) as cluster:
        journals, ring = Journals(run), Keys(open_cluster(cluster.directory))
        before = {name: Credentials.load(run / "nodes" / name) for name in names}
        journals.go_on(*names)

        assert set(ring.rotate([], print).renewed) >= set(names)
        journals.go_on(*names)
        now = {name: Credentials.load(run / "nodes" / name) for name in names}
        assert all(now[name].certificate != before[name].certificate for name in names)
        until(
            lambda: asyncio.run(answer(run, "peer-1", before["peer-0"])) == Refusal.EXPIRED.name
        )  # it looks now and then
        assert asyncio.run(answer(run, "peer-1", now["peer-0"])) == "2 bytes"
        assert not BAD & journals.said(*names).keys()

        assert set(ring.succeed(print).renewed) >= set(names)
        ring.finish()
        journals.go_on(*names)
        until(lambda: Credentials.load(run / "nodes" / "peer-2").authority == Anchors.load(run / FILE).authority)
        until(lambda: "bytes" not in asyncio.run(answer(run, "peer-1", now["peer-0"])))
        assert not BAD & journals.said(*names).keys()

        stolen = Credentials.load(run / "nodes" / "peer-3")
        ring.revoke(ring.identity("peer-3"), "stolen")
        until(lambda: not is_running(run / "nodes" / "peer-3"))
        journals.go_on("peer-0", "peer-1", "peer-2")
        for name in ("peer-0", "peer-1", "peer-2"):  # each looks for a notice once a second
            until(lambda name=name: asyncio.run(answer(run, name, stolen)) == Refusal.REVOKED.name, 30.0)
        assert journals.said("peer-3")["revoked"] == 1 and journals.said("peer-3")["started"] == 1
        assert journals.said("launcher")["crashed"] == 1, "and nobody starts it again"
        assert not (BAD - {"lost", "refused", "left"}) & journals.said("peer-0", "peer-1", "peer-2").keys()


def test_a_cluster_answers_on_while_its_keys_change_and_one_replica_is_revoked(tmp_path: Path) -> None:
    torch.save(build_model("mlp", (1, 8, 8), 10, hidden=[6]).state_dict(), tmp_path / "model.pth")
    (tmp_path / "small.yaml").write_text(STAGES.format(file=tmp_path / "model.pth"))
    run = prepare(load_any_recipe(tmp_path / "small.yaml"), tmp_path / "run")
    launcher = start_serving(run)
    try:
        ring = Keys(run)
        revoked = asyncio.run(_asked_throughout(run.path, ring))
    finally:
        stop(run)
        launcher.wait(60)
    launcher = start_serving(run)  # without whom was revoked
    stop(run)
    launcher.wait(60)
    assert not is_running(run.path / "nodes" / revoked)


async def _asked_throughout(run: Path, ring: Keys) -> str:
    policy, batch = Policy(replicas=3, quorum=2, faulty=1), torch.rand(2, 1, 8, 8)
    predictions = []
    ended = asyncio.Event()

    async with Client.connect(run, policy=policy) as client:

        async def ask() -> None:
            while not ended.is_set():
                predictions.append(await client.predict(batch))

        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(ask()) for _ in range(2)]
            try:
                assert (await asyncio.to_thread(ring.rotate, [], print)).missing == ()
                assert (await asyncio.to_thread(ring.succeed, print)).missing == ()
                await asyncio.to_thread(ring.finish)
                before = len(predictions)
                while len(predictions) < before + 4:  # noqa: ASYNC110  tasks beside us ask
                    await asyncio.sleep(0.1)
                assert all(prediction.verdict.valid for prediction in predictions)
                problems = {problem for prediction in predictions for problem in prediction.problems.values()}
                assert all("late" in problem or "silent" in problem for problem in problems), problems
                early, gone = predictions[-1], Anchors.load(run / FILE).replicas("stage-0")[0]
                await asyncio.sleep(1.1)  # a receipt's time is in seconds
                await asyncio.to_thread(ring.revoke, gone.id, "stolen")
                await asyncio.sleep(3.0)
                before = len(predictions)
                while len(predictions) < before + 4:  # noqa: ASYNC110  tasks beside us ask
                    await asyncio.sleep(0.1)
            finally:
                ended.set()
        assert all(task.done() for task in asking)
    anchors = Anchors.load(run / FILE)
    assert verify(early.receipt, anchors).valid, "what was answered before still counts"
    async with Client.connect(run, policy=policy) as client:
        later = [await client.predict(batch) for _ in range(4)]
    for prediction in later:
        assert verify(prediction.receipt, anchors).valid
        assert all(gone.id not in exchange.asked for exchange in prediction.receipt.transcript.exchanges)
    return gone.name
