"""What the protocol costs beyond computing: an answer of three replicas that commit and reveal, by gRPC's own cost.

    python -m benchmarks.serving_cost [--answers 600] [--elements 1024] [--json FILE]

Three replicas are processes of their own. The floor is bare grpc.aio on streams that are held open under the same
mutual TLS and with the same channel options: a message to each replica, one back from each, one more to each and one
more back, every one of as many bytes as what we say there. It has no meaning, but the cryptography that evidence cannot
do without: a replica hashes input and output with SHA-256, and what it commits to, and signs once with Ed25519; the
client verifies what all have signed and committed to, and hashes the output. Another row shows it without that.

Ours checks and computes too (a layer of next to nothing), and fetches the output of one. The last row is a whole
client, which beside that draws who is asked, keeps what it learns of them on disk, and signs a receipt. All take turns,
a few answers each, in one run; the layer's own time is taken off, once, since replicas compute at the same time where
they have cores. CPU time is that of the client and of all replicas. Measure on a quiet machine with a core for each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import torch
from torch import Tensor, nn

from benchmarks.measure import busy
from benchmarks.serving_floor import HOST, METHODS, SERVICE, Bare, bare_server, sizes
from decentral.core.quorum import with_deadlines
from decentral.models.stages import Stage, split
from decentral.serving.client import Client
from decentral.serving.parts import served_by
from decentral.serving.stages.stage import StageService
from decentral.training.digest import model_digest
from decentral.trust.anchors import FILE, Anchor, Anchors, Part
from decentral.trust.consensus import judge
from decentral.trust.evidence import Question, Reply, tensors_digest, together
from decentral.wire.authority import Authority, JoinToken
from decentral.wire.certificate import Credentials, host_name
from decentral.wire.clock import WallClock
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Reveal, Task, Terms
from decentral.wire.enrolment import enrol
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.links import Links
from decentral.wire.rpc import PEER_OPTIONS
from decentral.wire.sessions import Conversation, Session, open_session

REPLICAS, PART, EPOCH = 3, "stage-1", 1
RATIO_WANTED = 1.5
TURN = 10
"""Answers in a row of one kind."""
OURS = ("wire", "judged", "client")
"""Kinds in which the layer computes."""
NAMES = {
    "bytes": "bare grpc.aio, mutual TLS, as many bytes",
    "floor": "... that are hashed, signed and verified: the floor",
    "wire": "commit and reveal over our sessions",
    "judged": "... and the client judges what was said",
    "client": "... and orders, remembers and signs: Client.predict",
}


def tiny(elements: int) -> tuple[Stage, str]:
    """A stage that scales one sample of so many numbers, and its digest."""
    torch.manual_seed(0)
    (stage,) = split(nn.Sequential(nn.BatchNorm1d(elements)), 1, torch.rand(1, elements))
    return stage, model_digest(stage.description, stage.state())


def stay_on(core: int) -> None:
    """The client has a core of its own; replicas share those that are left."""
    cores = sorted(os.sched_getaffinity(0))
    place = 0 if not core or len(cores) == 1 else 1 + (core - 1) % (len(cores) - 1)
    os.sched_setaffinity(0, {cores[place]})


# ---- a replica's process --------------------------------------------------------------------------------------------


async def replica(folder: Path, elements: int) -> None:
    """Serves the floor and ours until standard input ends; a line on it is answered with the seconds used so far."""
    identity, credentials, clock = Identity.load(folder / "identity.key"), Credentials.load(folder), WallClock()
    stage, digest = tiny(elements)
    computing: list[float] = []

    class Timed(StageService):
        def answer(self, inputs: Any, client: Any) -> dict[str, Tensor]:
            began = time.perf_counter()
            outputs = super().answer(inputs, client)
            computing.append(time.perf_counter() - began)
            return outputs

    service = Timed(stage, PART, digest, identity, served_by(clock), epoch=EPOCH)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with GrpcTransport.serve(f"{HOST}:0", identity, credentials, serve=service) as transport:
        server, port = await bare_server(credentials, sizes(elements, REPLICAS))
        print(json.dumps({"id": identity.id, "ours": transport.address, "floor": f"{HOST}:{port}"}), flush=True)
        while await lines.readline():
            layer = statistics.median(computing) if computing else 0.0
            print(json.dumps({"cpu": time.process_time(), "layer": layer}), flush=True)
        await server.stop(None)
    clock.close()


class Replica:
    """A replica as the client's process has it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._in, self._out = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, number: int, folder: Path, elements: int) -> Replica:
        command = ["-m", "benchmarks.serving_cost", "--replica", str(folder), "--core", str(1 + number)]
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, *command, "--elements", str(elements)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )

    async def line(self) -> Any:
        return json.loads(await self._out.readline())

    async def used(self) -> dict[str, float]:
        """Seconds of its processor so far, and those of the layer in an answer."""
        self._in.write(b"\n")
        seconds: dict[str, float] = await self.line()
        return seconds

    async def end(self) -> None:
        self._in.close()
        await self._process.wait()


# ---- the client's process -------------------------------------------------------------------------------------------


class Ours:
    """Commit and reveal over sessions; what was said is judged if that is wanted."""

    def __init__(self, sessions: Sequence[Session], stage: Stage, digest: str, judging: bool) -> None:
        (port,) = stage.inputs
        self._name, self._shape = port.name, port.shape
        self._sessions, self._model, self._judging = sessions, bytes.fromhex(digest), judging

    async def __call__(self) -> None:
        inputs = {self._name: torch.rand(self._shape)}
        terms = Terms(os.urandom(16), os.urandom(32), EPOCH)
        task = Task(PART, self._model, inputs, terms)
        question = Question(terms.task, PART, self._model, tensors_digest(inputs), terms.nonce, EPOCH)
        async with AsyncExitStack() as stack:
            talks = [await stack.enter_async_context(session.converse()) for session in self._sessions]
            commitments = await asyncio.gather(*(self._committed(talk, task) for talk in talks))
            shown = Open(tuple(sorted(commitments)))
            revealed = (
                self._revealed(talk, commitment, shown, question, talk is talks[0])
                for talk, commitment in zip(talks, commitments, strict=True)
            )
            replies = await asyncio.gather(*revealed)
        if self._judging:
            named = {session.to: reply for session, reply in zip(self._sessions, replies, strict=True)}
            judgement = judge(question, list(named), named, with_deadlines(1), 1e-5)
            assert judgement.answer is not None
            assert not judgement.faults

    async def _committed(self, talk: Conversation, task: Task) -> bytes:
        await talk.say(task)
        heard = await talk.hear()
        assert isinstance(heard, Commitment)
        return heard.digest

    async def _revealed(
        self, talk: Conversation, commitment: bytes, shown: Open, question: Question, serves: bool
    ) -> Reply:
        """Its signature is verified while others still sign."""
        await talk.say(shown)
        if serves:
            await talk.say(Fetch())
        reveal = await talk.hear()
        assert isinstance(reveal, Reveal)
        output = await talk.hear() if serves else None
        assert output is None or isinstance(output, Output)
        reply = Reply(commitment, reveal, None if output is None else output.tensors)
        if self._judging:
            reply.signed(question, together(shown.commitments))
        return reply


async def whole(client: Client, shape: Sequence[int]) -> None:
    """All that a client does for an answer of a model in one part."""
    assert not (await client.predict(torch.rand(*shape))).faults


def trust(folder: Path, authority: Authority, places: Sequence[Mapping[str, Any]], stage: Stage, digest: str) -> None:
    """The file that a client believes, where `folder` has its keys in `client`."""
    peers = (Anchor(f"{PART}-{n}", place["id"], place["ours"], PART, digest) for n, place in enumerate(places))
    part = Part(PART, digest, "peers", 1e-5, 2.0, tuple(port.name for port in stage.inputs))
    Anchors(authority.pem, tuple(peers), EPOCH, (part,)).save(folder / FILE)


async def enrolled(authority: Authority, address: str, folder: Path) -> Credentials:
    identity = Identity.generate()
    identity.save(folder / "identity.key")
    credentials = await enrol(address, JoinToken.parse(str(authority.token())), identity)
    credentials.save(folder)
    return credentials


@dataclass(slots=True)
class Used:
    """Seconds: of every answer of a kind, and of the processors for all of them."""

    answers: list[float] = field(default_factory=list)
    client: float = 0.0
    replicas: float = 0.0


async def take_turns(
    kinds: Mapping[str, Callable[[], Awaitable[None]]], replicas: Sequence[Replica], answers: int
) -> tuple[dict[str, Used], float]:
    """What every kind uses, and the layer in one answer. The first turn is to warm up."""

    async def there() -> tuple[float, float]:
        used = await asyncio.gather(*(replica.used() for replica in replicas))
        return sum(each["cpu"] for each in used), statistics.median(each["layer"] for each in used)

    used = {kind: Used() for kind in kinds}
    (before, layer), turns = await there(), 1 + -(-answers // TURN)
    for turn in range(turns):
        for kind, answer in kinds.items():
            own, seconds = time.process_time(), []
            for _ in range(TURN):
                began = time.perf_counter()
                await answer()
                seconds.append(time.perf_counter() - began)
            own, (after, layer) = time.process_time() - own, await there()
            if turn:
                used[kind].answers += seconds
                used[kind].client += own
                used[kind].replicas += after - before
            before = after
    return used, layer


async def measure(answers: int, elements: int, folders: Sequence[Path]) -> dict[str, Any]:
    """Milliseconds of an answer by its kind."""
    authority = Authority.create(folders[0])
    async with authority.serve(f"{HOST}:0") as address:
        credentials = await enrolled(authority, address, folders[1])
        for folder in folders[2:]:
            await enrolled(authority, address, folder)
    replicas = [await Replica.start(number, folder, elements) for number, folder in enumerate(folders[2:])]
    stay_on(0)
    places = [await replica.line() for replica in replicas]
    stage, digest = tiny(elements)
    trusted = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate)
    links = Links(credentials)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(links.close)
        streams: dict[str, list[Any]] = {method: [] for method in METHODS}
        sessions = []
        for place in places:
            options = [*PEER_OPTIONS, ("grpc.ssl_target_name_override", host_name(place["id"]))]
            channel = await stack.enter_async_context(grpc.aio.secure_channel(place["floor"], trusted, options))
            for method, those in streams.items():
                those.append(channel.stream_stream(f"/{SERVICE}/{method}", None, None)(None))
                stack.callback(those[-1].cancel)
            links.introduce(place["id"], place["ours"])
            sessions.append(await stack.enter_async_context(open_session(links, place["id"])))
        trust(folders[1].parent, authority, places, stage, digest)
        client = await stack.enter_async_context(Client.connect(folders[1].parent))
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "bytes": Bare(streams["Bytes"], sizes(elements, REPLICAS), verifying=False),
            "floor": Bare(streams["Signed"], sizes(elements, REPLICAS), verifying=True),
            "wire": Ours(sessions, stage, digest, judging=False),
            "judged": Ours(sessions, stage, digest, judging=True),
            "client": partial(whole, client, stage.inputs[0].shape),
        }
        used, layer = await take_turns(kinds, replicas, answers)
    await asyncio.gather(*(replica.end() for replica in replicas))
    return {kind: milliseconds(each, layer if kind in OURS else 0.0) for kind, each in used.items()}


def milliseconds(used: Used, layer: float) -> dict[str, float]:
    ordered, count = sorted(used.answers), len(used.answers)
    return {
        "median": 1e3 * (statistics.median(ordered) - layer),
        "p99": 1e3 * (ordered[int(0.99 * (count - 1))] - layer),
        "layer": 1e3 * layer,
        "client": 1e3 * used.client / count,
        "replicas": 1e3 * (used.replicas / count - REPLICAS * layer),
    }


def show(result: dict[str, Any]) -> None:
    """Prints a summary, and whether it reached what is wanted: a loaded machine misses it, which is no error."""
    print(f"an answer of {REPLICAS} replicas, {result['elements']} numbers in and out, in ms without the layer's own\n")
    print(f"{'':54}{'median':>8}{'p99':>8}{'CPU: client':>14}{'replicas':>10}")
    rows = result["answers"]
    for kind, name in NAMES.items():
        row = rows[kind]
        print(f"{name:54}{row['median']:>8.2f}{row['p99']:>8.2f}{row['client']:>14.2f}{row['replicas']:>10.2f}")
    print(f"\nthe layer itself: {rows['judged']['layer']:.3f} ms")
    print(f"\n{'by the floor':54}{'median':>8}{'CPU':>8}")
    for kind, name in NAMES.items():
        print(f"{name:54}{result['ratios'][kind]:>8.2f}{result['cpu_ratios'][kind]:>8.2f}")
    print(f"\nwanted, of what is judged: at most {RATIO_WANTED}: {result['ratios']['judged'] <= RATIO_WANTED}")


def ratios(rows: Mapping[str, Mapping[str, float]], *columns: str) -> dict[str, float]:
    """Of every kind to the floor."""
    sums = {kind: sum(row[column] for column in columns) for kind, row in rows.items()}
    return {kind: value / sums["floor"] for kind, value in sums.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=600, help="measured answers of each kind")
    parser.add_argument("--elements", type=int, default=1024, help="numbers of a sample, in and out")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--replica", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.replica is not None:
        stay_on(arguments.core)
        asyncio.run(replica(arguments.replica, arguments.elements))
        return 0
    cores, disturbed = len(os.sched_getaffinity(0)), busy()
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / name for name in ("authority", "client", *(f"replica-{n}" for n in range(REPLICAS)))]
        for path in folders:
            path.mkdir(mode=0o700)
        rows = asyncio.run(measure(arguments.answers, arguments.elements, folders))
    result = {
        "elements": arguments.elements,
        "answers": rows,
        "ratios": ratios(rows, "median"),
        "cpu_ratios": ratios(rows, "client", "replicas"),
        "cores": cores,
        "cores_busy_before": disturbed,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
