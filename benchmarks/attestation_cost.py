"""What attestation costs: making a quote, verifying it, a session for one machine alone, and its encryption after that.

    python -m benchmarks.attestation_cost [--repeat 200] [--sessions 40] [--turns 40] [--json FILE]

The machines are simulated: the formats, certificates and checks of Intel TDX and AMD SEV-SNP, and their keys in a file.
What the firmware of a real processor takes to sign is not known here. Client, node and quoting process are three
processes on loopback; the client has a core of its own, the others share those that are left.

    quote      the simulated processor alone, beside one bare ECDSA signature; and a node's whole way: it asks for the
               log, has its keys signed by the quoting process over a Unix socket, which measures files and folders of
               the node each time, and puts the evidence together
    verified   a quote with its collateral, beside dcap-qvl alone and beside the bare signatures that AMD's chain has;
               the quote of a real machine where the tests have one; and all that a client does, which binds it to
               connection and challenge, replays the log and judges the machine
    session    from nothing to the first answer: a new connection under mutual TLS, and one sample of the digits; with
               evidence, its verification and keys for that machine beside without, in turns
    sealed     answers of 32 samples in a sealed session beside one under TLS alone, in turns of which every second one
               begins with the other; the ratio in each turn, its median and quartiles. Nothing is committed to or
               signed, so that no other work hides the encryption. Beside it AES-256-GCM over as many bytes, once at
               each end
    receipt    bytes that evidence of machines adds to a receipt
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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.attestation_floor import bare_chain, bare_dcap, encrypted, signed
from benchmarks.attestation_node import EPOCH, MODELS, PART, PLACE, Running, cluster, started
from benchmarks.measure import busy
from benchmarks.serving_cost import enrolled, stay_on
from benchmarks.serving_floor import HOST
from decentral import canonical
from decentral.attestation.evidence import Evidence
from decentral.attestation.host.measuring import Measurer
from decentral.attestation.host.processes import running
from decentral.attestation.host.quoting import QuotingAttester
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.registers import EventLog
from decentral.attestation.report import Root, Technology
from decentral.attestation.session.challenging import Seen, Subject
from decentral.attestation.session.showing import Showing, tls_key
from decentral.attestation.tdx import collateral as tdx
from decentral.attestation.tdx.quote import trimmed
from decentral.attestation.tdx.verification import verify_tdx
from decentral.trust.attested import Attestations, Shown, judge
from decentral.trust.machines import Machines, Reference
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.conversation import Task
from decentral.wire.identity import Identity
from decentral.wire.links import Links
from decentral.wire.sessions import Session, open_session

GOALS = {"quote": 10.0, "verified": 5.0, "session": 50.0, "sealed": 10.0}
"""Milliseconds, and percent for `sealed`."""
PUBLISHED = Path(__file__).resolve().parent.parent / "tests" / "attestation" / "tdx" / "published"
PUBLISHED_AT = 1757894400
"""15 September 2025, when its collateral was valid."""
BATCH, TURN, PATIENCE = 32, 10, 30.0
NODES = (Technology.TDX, Technology.SNP)
"""Each with its own cluster, of the digits; a third serves ResNet-20."""


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster of one node: its folder, its maker of processors, its processes, and what a client pins of it."""

    folder: Path
    simulation: Simulation
    node: Running
    machines: Machines

    @property
    def subject(self) -> Subject:
        return Subject(self.node.said["id"], PART, bytes.fromhex(self.node.said["digest"]), EPOCH)


async def timed(work: Callable[[], Any], repeat: int) -> dict[str, float]:
    """Milliseconds of what may have to be awaited, the first ones not counted.

    Of what is done here and now also what the processor spent, which other programs change less.
    """
    taken, spent, here = [], [], True
    for _ in range(repeat + 3):
        began, own = time.perf_counter(), time.thread_time()
        found = work()
        if isinstance(found, Awaitable):
            here = False
            await found
        taken.append(1e3 * (time.perf_counter() - began))
        spent.append(1e3 * (time.thread_time() - own))
    processor = {"processor": statistics.median(spent[3:])} if here else {}
    return summary(taken[3:]) | processor


def summary(values: Sequence[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return {"least": min(values), "median": statistics.median(values), "low": low, "high": high}


# ---- quotes ---------------------------------------------------------------------------------------------------------


async def quotes(place: Place, shown: Seen, certificate: bytes, repeat: int) -> dict[str, dict[str, float]]:
    simulation, log = place.simulation, shown.evidence.log
    technology, data, image = simulation.technology, shown.bound, place.machines.references[0].measurement
    subject, attester = place.subject, QuotingAttester(place.folder)
    showing = Showing(attester, peer=subject.peer, part=PART, model=subject.model, epoch=EPOCH)
    return {
        "floor": await timed(signed(technology), repeat),
        "processor": await timed(lambda: simulation.quote(data, bytes.fromhex(image), log), repeat),
        "asked for": await timed(lambda: attester.quote(data), repeat),
        "whole": await timed(lambda: showing(os.urandom(32), certificate), repeat),
    }


# ---- verification ---------------------------------------------------------------------------------------------------


async def verifications(place: Place, shown: Seen, repeat: int) -> dict[str, dict[str, float]]:
    evidence, now, root = shown.evidence, int(time.time()), place.simulation.root
    if root.technology is Technology.TDX:
        floor = bare_dcap(evidence.quote, evidence.collateral, root, now)
    else:
        floor = bare_chain(evidence.quote, evidence.collateral)
    return {
        "floor": await timed(floor, repeat),
        "verified": await timed(lambda: shown.verify([root], now), repeat),
        "read": await timed(partial(Evidence.parse, evidence.encoded()), repeat),
    }


async def published(repeat: int) -> dict[str, dict[str, float]]:
    """Of a real machine, if the tests' samples are here."""
    if not PUBLISHED.is_dir():
        return {}
    quote = trimmed(bytes.fromhex((PUBLISHED / "quote.hex").read_text()))
    collateral = tdx.Collateral.imported((PUBLISHED / "collateral.json").read_text()).encode()
    root = Root(Technology.TDX, None, simulated=False)
    return {
        "floor": await timed(bare_dcap(quote, collateral, root, PUBLISHED_AT), repeat),
        "verified": await timed(lambda: verify_tdx(quote, collateral, [root], PUBLISHED_AT), repeat),
    }


# ---- sessions -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(credentials: Credentials, place: Place, *, attested: bool) -> AsyncIterator[Session]:
    """A session over a connection of its own; sealed for the node's machine, if that counts."""
    links, node = Links(credentials), place.node.said["id"]
    links.introduce(node, place.node.said["address"])
    try:
        async with open_session(links, node) as session:
            if attested:
                channel = (await challenged(session, place)).sealed()
                await session.seal(channel.hello, channel, PATIENCE)
            yield session
    finally:
        await links.close()


async def challenged(session: Session, place: Place) -> Seen:
    nonce = os.urandom(32)
    shown = Evidence.parse(await session.challenge(nonce, PATIENCE))
    seen = Seen(place.subject, nonce, tls_key(session.certificate), shown)
    judged = judge(seen, place.machines, int(time.time()))
    assert not judged.complaints, judged.why
    return seen


async def first_answer(credentials: Credentials, place: Place, task: Task, *, attested: bool) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    async with connected(credentials, place, attested=attested) as session:
        await session.ask(task, PATIENCE)
        return 1e3 * (time.perf_counter() - began)


async def sessions(
    credentials: Credentials, places: Mapping[Technology, Place], count: int
) -> dict[str, dict[str, float]]:
    """How long until the first answer, and how much longer with evidence, of neighbours in time."""
    task = asking("digits", places[Technology.TDX], 1)
    tasks = {technology: Task(PART, place.subject.model, task.tensors) for technology, place in places.items()}
    plain: list[float] = []
    more: dict[Technology, list[float]] = {technology: [] for technology in places}
    for turn in range(count + 1):
        for technology, place in places.items():
            without = await first_answer(credentials, place, tasks[technology], attested=False)
            attested = await first_answer(credentials, place, tasks[technology], attested=True)
            if turn:  # the first is to warm up
                plain.append(without)
                more[technology].append(attested - without)
    return {"plain": summary(plain)} | {technology.value: summary(values) for technology, values in more.items()}


def asking(model: str, place: Place, samples: int) -> Task:
    network = MODELS[model]
    stage = network.split(network.build())[PLACE]
    (port,) = stage.inputs
    return Task(PART, place.subject.model, {port.name: torch.rand(samples, *port.shape[1:])})


async def sealed(credentials: Credentials, place: Place, model: str, turns: int) -> dict[str, Any]:
    """Milliseconds of an answer, with and without sealing, and what sealing adds in percent."""
    task, cpu = asking(model, place, BATCH), {False: 0.0, True: 0.0}
    answers: dict[bool, list[float]] = {False: [], True: []}
    ratios = []
    async with AsyncExitStack() as stack:
        kinds = {
            attested: await stack.enter_async_context(connected(credentials, place, attested=attested))
            for attested in (False, True)
        }
        for turn in range(turns + 1):
            medians = {}
            for attested in (False, True) if turn % 2 else (True, False):
                own, other, taken = time.process_time(), await place.node.used(), []
                for _ in range(TURN):
                    began = time.perf_counter()
                    await kinds[attested].ask(task, PATIENCE)
                    taken.append(1e3 * (time.perf_counter() - began))
                medians[attested] = statistics.median(taken)
                if turn:
                    answers[attested] += taken
                    cpu[attested] += time.process_time() - own + await place.node.used() - other
            if turn:
                ratios.append(100 * (medians[True] / medians[False] - 1))
        before = kinds[False].sent, kinds[False].received
        await kinds[False].ask(task, PATIENCE)
        size = kinds[False].sent - before[0], kinds[False].received - before[1]
    floor = await timed(encrypted(size), turns)
    return {
        "plain": summary(answers[False]),
        "sealed": summary(answers[True]),
        "more": summary(ratios),
        "cpu": 100 * (cpu[True] / cpu[False] - 1),
        "floor": 100 * floor["median"] / statistics.median(answers[False]),
        "bytes": sum(size),
    }


# ---- receipts -------------------------------------------------------------------------------------------------------


async def receipts(place: Place, shown: Seen, certificate: bytes) -> dict[str, int]:
    """Bytes: of the evidence as a session carries it, of its parts, and in a receipt for one replica and for three."""
    evidence, attester, subject = shown.evidence, QuotingAttester(place.folder), place.subject
    replicas = {}
    for _ in range(3):
        identity, nonce = Identity.generate(), os.urandom(32)
        showing = Showing(attester, peer=identity.id, part=PART, model=subject.model, epoch=EPOCH)
        offered = Evidence.parse((await showing(nonce, certificate)).evidence)
        replicas[identity.id] = Shown(nonce, tls_key(certificate), offered.short)
    (one, *_) = replicas.items()
    return {
        "shown": len(evidence.encoded()),
        "quote": len(evidence.quote),
        "collateral": len(evidence.collateral),
        "log": len(evidence.log.encoded()),
        "manifest": len(evidence.manifest),
        "one replica": len(canonical.text(Attestations(dict([one])).encoded())),
        "three replicas": len(canonical.text(Attestations(replicas).encoded())),
    }


# ---- all of it ------------------------------------------------------------------------------------------------------


def folder_in(above: Path, name: str) -> Path:
    found = above / name
    found.mkdir(mode=0o700)
    return found


def pinned(folder: Path, simulation: Simulation) -> Machines:
    """What a client pins of nodes that run the code that this process runs."""
    measured = Measurer(folder).measure(running(os.getpid()))
    events = {event.name: event.digest.hex() for event in EventLog(measured.events).events}
    return Machines((simulation.root,), (Reference(simulation.technology, measured.image.hex(), events=events),))


async def measure(root: Path, repeat: int, count: int, turns: int) -> dict[str, Any]:
    result: dict[str, Any] = {"quote": {}, "verified": {}, "sealed": {}, "receipt": {}}
    authority = Authority.create(root / "authority")
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(authority.serve(f"{HOST}:0"))
        client = await enrolled(authority, address, folder_in(root, "client"))

        async def place(technology: Technology, model: str) -> Place:
            folder = folder_in(root, f"{technology.value}-{model}")
            simulation = cluster(folder, technology, model)
            await enrolled(authority, address, folder_in(folder, "node"))
            await stack.enter_async_context(started("processor", folder, 2))
            node = await stack.enter_async_context(started("node", folder, 1))
            return Place(folder, simulation, node, pinned(folder, simulation))

        places = {technology: await place(technology, "digits") for technology in NODES}
        large = await place(Technology.TDX, "ResNet-20")
        stay_on(0)
        for technology, each in places.items():
            name = technology.value
            async with connected(client, each, attested=False) as session:
                shown, certificate = await challenged(session, each), session.certificate
            result["quote"][name] = await quotes(each, shown, certificate, repeat)
            result["verified"][name] = await verifications(each, shown, repeat)
            result["receipt"][name] = await receipts(each, shown, certificate)
        result["verified"]["published"] = await published(repeat)
        result["session"] = await sessions(client, places, count)
        for model, each in {"digits": places[Technology.TDX], "ResNet-20": large}.items():
            result["sealed"][model] = await sealed(client, each, model, turns)
    return result


WORDS = {
    "quote": ("a quote made", {
        "floor": "one bare ECDSA signature: the floor",
        "processor": "the simulated processor",
        "asked for": "... in its process, which measures who asks",
        "whole": "... as evidence: a node's whole way",
    }),
    "verified": ("a quote verified", {
        "floor": "bare dcap-qvl, or bare signatures: the floor",
        "verified": "all of it",
        "read": "beside that: evidence read, with its files",
    }),
}  # fmt: skip
GOAL_OF = {"quote": ("processor", "asked for", "whole"), "verified": ("verified",)}


def line(name: str, found: Mapping[str, float], goal: float | None = None) -> None:
    processor = f"{found['processor']:>11.3f}" if "processor" in found else f"{'':11}"
    told = processor + ("" if goal is None else f"{goal:>6g}  {'met' if found['median'] <= goal else 'missed'}")
    numbers = (f"{found[name]:>9.3f}" for name in ("least", "median", "low", "high"))
    print(f"  {name:47}{''.join(numbers)}{told}".rstrip())


def show(result: Mapping[str, Any]) -> None:
    """Prints all figures beside their goals: a loaded machine misses some, which is no error."""
    print(f"{'ms, or %':49}{'least':>9}{'median':>9}{'quartiles':>18}{'processor':>11}{'goal':>6}")
    for group, (title, names) in WORDS.items():
        for technology, rows in result[group].items():
            print(f"{title}: {technology}")
            for kind, row in rows.items():
                line(names[kind], row, GOALS[group] if kind in GOAL_OF[group] else None)
    print("a session, until its first answer")
    for kind, row in result["session"].items():
        if kind == "plain":
            line("TLS alone: the floor", row)
        else:
            line(f"with evidence, more: {kind}", row, GOALS["session"])
    for model, found in result["sealed"].items():
        print(f"an answer of {BATCH} samples, {found['bytes'] / 1e6:.2f} MB: {model}")
        line("TLS alone: the floor", found["plain"])
        line("sealed", found["sealed"])
        line("more, %", found["more"], GOALS["sealed"])
        print(f"  bare AES-256-GCM over as much: {found['floor']:.1f} %; both processors: {found['cpu']:.1f} % more")
    for technology, sizes in result["receipt"].items():
        print(f"bytes: {technology}")
        print("  " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    print(f"{result['cores']} cores, {result['cores_busy_before']:.1f} of them busy before")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=200, help="measured quotes, and verifications")
    parser.add_argument("--sessions", type=int, default=40, help="pairs of sessions with each technology")
    parser.add_argument("--turns", type=int, default=40, help=f"pairs of turns, of {TURN} answers each")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cores, disturbed = len(os.sched_getaffinity(0)), busy()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(Path(folder), arguments.repeat, arguments.sessions, arguments.turns))
    result |= {"cores": cores, "cores_busy_before": disturbed}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
