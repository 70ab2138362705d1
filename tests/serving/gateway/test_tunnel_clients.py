"""A client that comes through a gateway that cannot read verifies what it would verify without it, and names it when it
fails."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from decentral.serving.access import CLIENT
from decentral.serving.asking.prediction import Unverified
from decentral.serving.asking.replicas import Patience
from decentral.serving.client import Client
from decentral.serving.gateway.tunnel import CHUNK
from decentral.serving.stages.stage import StageService
from decentral.trust.anchors import FILE
from decentral.trust.evidence import FaultKind, Kind
from decentral.trust.receipt import verify
from decentral.wire.certificate import Credentials
from decentral.wire.sessions import Session
from tests.serving.asking.test_attesting import PINNED, WANTED, Node

X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
DEADLINE = 60.0
QUICK = Patience(opening=5, commit=5, reveal=1)


async def test_an_answer_through_it_is_verified_as_a_direct_one_whatever_the_environment_says_of_proxies(
    cluster: Any, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    passing = gateway(made.folder)
    for via, tunnels in ((None, 0), (passing.via, len(made.anchors.peers))):
        async with Client.connect(made.folder, via=via) as client:
            prediction = await client.predict(X, WANTED)
            assert passing.tunnels.open >= tunnels and (tunnels > 0 or passing.tunnels.open == 0)
        assert torch.equal(prediction.output, made.expected(X))
        assert prediction.faults == ()
        kinds = {(each.kind, each.passed) for each in prediction.findings}
        assert {(Kind.CONSENSUS, True), (Kind.ATTESTATION, True)} <= kinds and all(passed for _, passed in kinds)
        trust = made.folder / FILE
        assert verify(prediction.receipt.encode(), trust, WANTED).valid
        assert not verify(prediction.receipt.encode(), trust, replace(WANTED, allow_simulated=False)).valid


@asynccontextmanager
async def recording(to: str, record: bytearray) -> AsyncIterator[str]:
    """In front of a gateway: sees what that sees."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            record.extend(data)
            writer.write(data)
        writer.close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection(*to.split(":"))
        await asyncio.gather(copy(reader, behind[1]), copy(behind[0], writer), return_exceptions=True)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield "{}:{}".format(*server.sockets[0].getsockname())
    server.close()


async def test_what_passes_through_it_holds_neither_question_nor_answer(
    cluster: Any, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked, passed, heard = await cluster(), bytearray(), bytearray(), bytearray()
    take, run = Session.take, StageService.answer

    def taken(session: Session, data: bytes) -> None:
        heard.extend(data)
        take(session, data)

    def answered(service: StageService, inputs: Any, client: Any) -> Any:
        asked.extend(b"".join(tensor.numpy().tobytes() for tensor in inputs.values()))
        return run(service, inputs, client)

    monkeypatch.setattr(Session, "take", taken)
    monkeypatch.setattr(StageService, "answer", answered)
    async with recording(gateway(made.folder).via, passed) as via, Client.connect(made.folder, via=via) as client:
        prediction = await client.predict(X)
    question, answer = X.numpy().tobytes(), prediction.output.numpy().tobytes()
    assert question in asked and answer in heard  # as they are, where TLS ends
    assert len(passed) > 9 * len(question) / 3
    assert f"CONNECT {made.anchors.peers[0].address} ".encode() in passed  # so what can be read is in the record
    for said in (question, answer):
        assert not any(said[place : place + 8] in passed for place in range(0, len(said) - 7, 4))
    own = Credentials.load(made.folder / CLIENT).certificate
    assert ssl.PEM_cert_to_DER_cert(own.decode())[:200] not in passed  # TLS 1.3: nor who asks


async def test_a_gateway_that_leads_to_somebody_else_is_found_out(cluster: Any) -> None:
    made = await cluster()
    elsewhere = made.anchors.peers[0].address

    async def astray(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        behind = await asyncio.open_connection(*elsewhere.split(":"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pipe(reader, behind[1]), pipe(behind[0], writer), return_exceptions=True)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(astray, "127.0.0.1", 0)
    via = "{}:{}".format(*server.sockets[0].getsockname())
    async with asyncio.timeout(DEADLINE), Client.connect(made.folder, via=via, patience=QUICK) as client:
        with pytest.raises(Unverified) as refused:
            await client.predict(X)
    server.close()
    told = {made.node(peer): why for peer, why in refused.value.problems.items()}
    assert told.keys() == {"stage-0-b", "stage-0-c"}
    assert all(via in why and "certificate" in why for why in told.values())


async def test_a_node_that_is_gone_is_its_own_fault_and_the_others_answer(cluster: Any, gateway: Any) -> None:
    made = await cluster()
    await made.kill("stage-1-b")
    async with Client.connect(made.folder, via=gateway(made.folder).via, patience=QUICK) as client:
        prediction = await client.predict(X)
    assert torch.equal(prediction.output, made.expected(X))
    assert {(made.node(each.node), each.kind) for each in prediction.faults} == {("stage-1-b", FaultKind.UNRESPONSIVE)}
    assert "502" in next(iter(prediction.problems.values()))


async def test_a_client_whose_gateway_dies_names_it(cluster: Any, gateway: Any) -> None:
    asked = asyncio.Event()

    class Waits(StageService):
        async def commit(self, *args: Any) -> None:
            asked.set()
            await asyncio.Event().wait()

    made = await cluster(liars={f"stage-1-{letter}": Waits for letter in "abc"})
    passing = gateway(made.folder)
    async with Client.connect(made.folder, via=passing.via, patience=QUICK) as client:
        asking = asyncio.create_task(client.predict(X))
        await asked.wait()
        await passing.end()
        with pytest.raises(Unverified) as refused:
            await asking
    assert refused.value.problems
    assert all(f"the gateway at {passing.via}" in why for why in refused.value.problems.values())


@pytest.mark.parametrize("bounds", [None, {"tunnels": 0}], ids=["not there", "full"])
async def test_a_gateway_that_leads_nowhere_is_held_against_no_node(
    cluster: Any, gateway: Any, bounds: dict[str, int] | None
) -> None:
    made = await cluster()
    passing = gateway(made.folder, **bounds or {})
    assert (await passing.refusal(b"GET / HTTP/1.1\r\n\r\n"))[0] == 405
    if bounds is None:
        await passing.end()
    async with Client.connect(made.folder, via=passing.via, patience=QUICK) as client:
        before = {peer.id: client.reputations.of(peer.id) for peer in made.anchors.peers}
        with pytest.raises(Unverified) as refused:
            await client.predict(X)
    assert refused.value.faults == ()
    assert len(refused.value.problems) == 3
    assert all(why.startswith(f"the gateway at {passing.via}: ") for why in refused.value.problems.values())
    async with Client.connect(made.folder) as client:
        assert {peer.id: client.reputations.of(peer.id) for peer in made.anchors.peers} == before
        assert (await client.predict(X)).verdict.valid
