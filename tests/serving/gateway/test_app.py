"""What is asked over HTTP is answered as a client answers, with the evidence; who may not ask learns nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from safetensors.torch import save

from decentral.errors import Unproven, Unreachable
from decentral.serving.asking.replicas import Patience
from decentral.serving.client import Client
from decentral.serving.gateway.app import PROBLEM, Bounds, Gateway, Receipts
from decentral.serving.gateway.bodies import JSON, NPY, SAFETENSORS
from decentral.serving.stages.model import Network
from decentral.serving.stages.stage import StageService
from decentral.trust.receipt import Receipt, verify

X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
TOKEN = "t" * 40
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}
QUICK = Patience(opening=5, commit=5, reveal=1)


class Lies(StageService):
    """Adds to what it computes."""

    def answer(self, inputs: Any, client: Any) -> Any:
        return {name: tensor + 1 for name, tensor in super().answer(inputs, client).items()}


def calling(app: Any, **headers: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://gateway", headers=headers)


@asynccontextmanager
async def gateway(
    made: Any, bounds: Bounds | None = None, network: Network | None = None
) -> AsyncIterator[tuple[httpx2.AsyncClient, Client]]:
    """Over the real client of a real cluster; HTTP without a network, which tests/launch/test_gateway has."""
    async with (
        Client.connect(made.folder, patience=QUICK) as client,
        calling(Gateway(client, TOKEN, bounds=bounds, network=network).app(), **ALLOWED) as http,
    ):
        yield http, client


def npy(tensor: torch.Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, tensor.numpy())
    return file.getvalue()


def problem(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    assert found["title"]
    return found


async def test_an_answer_is_the_models_in_every_form_and_its_receipt_is_valid(cluster: Any) -> None:
    made = await cluster()
    async with gateway(made) as (http, _):
        for media, content in (
            (JSON, json.dumps({"inputs": X.tolist()}).encode()),
            (JSON, json.dumps({"inputs": {made.anchors.parts[0].inputs[0]: X.tolist()}}).encode()),
            (NPY, npy(X)),
            (NPY, npy(X.double())),
            (SAFETENSORS, save({"batch": X})),
        ):
            found = await http.post("/v1/predict", content=content, headers={"Content-Type": media})
            assert found.status_code == 200, found.text
            answer = found.json()
            assert torch.equal(torch.tensor(answer["output"]), made.expected(X))
            assert [*answer["outputs"].values()] == [answer["output"]]
            assert answer["labels"] == made.expected(X).argmax(1).tolist()
            assert answer["verdict"] == {"valid": True, "reasons": []}
            assert answer["faults"] == []
            assert answer["cost"]["asked"] == 3 * len(made.anchors.parts)
            assert {each["kind"] for each in answer["findings"]} >= {"model", "link", "fresh", "consensus"}
            kept = await http.get(f"/v1/receipts/{answer['receipt']['id']}")
            assert len(kept.content) == answer["receipt"]["bytes"]
            assert hashlib.sha256(kept.content).hexdigest() == answer["receipt"]["id"]
            assert verify(kept.content, made.folder / "trust.toml").valid


async def test_a_receipt_comes_at_once_where_that_is_wanted(cluster: Any) -> None:
    made = await cluster()
    async with gateway(made) as (http, _):
        said = {"inputs": X.tolist(), "receipt": "base64"}
        for answer in (
            await http.post("/v1/predict", json=said),
            await http.post("/v1/predict?receipt=base64", content=npy(X), headers={"Content-Type": NPY}),
        ):
            receipt = base64.b64decode(answer.json()["receipt"]["base64"])
            assert verify(receipt, made.folder / "trust.toml").valid


async def test_the_policy_of_a_request_is_the_clusters_with_what_it_says_instead(cluster: Any) -> None:
    made = await cluster()
    async with gateway(made) as (http, client):
        alone = {"replicas": 1, "quorum": 1, "faulty": 0}
        answer = await http.post("/v1/predict", json={"inputs": X.tolist(), "policy": alone})
        assert answer.json()["cost"]["asked"] == len(made.anchors.parts)
        content, query = npy(X), {"policy": json.dumps(alone)}
        answer = await http.post("/v1/predict", content=content, params=query, headers={"Content-Type": NPY})
        assert answer.json()["cost"]["asked"] == len(made.anchors.parts)
        answer = await http.post("/v1/predict", json={"inputs": X.tolist(), "policy": {"replicas": 9}})
        assert "9 replicas" in problem(answer, 422)["detail"]
        answer = await http.post("/v1/predict", json={"inputs": X.tolist(), "policy": {"replica": 1}})
        assert "policy: replica: unknown key" in problem(answer, 400)["detail"]
        told = (await http.get("/v1/model")).json()
        assert told["policy"] == client.policy.plain()


async def test_who_has_not_the_token_is_refused_whatever_it_asks(cluster: Any) -> None:
    made = await cluster()
    async with Client.connect(made.folder) as client:
        app = Gateway(client, TOKEN).app()
        for header in (None, "", "Bearer x", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[1:]}"):
            async with calling(app, **({} if header is None else {"Authorization": header})) as http:
                for answer in (
                    await http.post("/v1/predict", json={"inputs": X.tolist()}),
                    await http.get("/v1/model"),
                    await http.get(f"/v1/receipts/{'0' * 64}"),
                ):
                    problem(answer, 401)
                    assert answer.headers["www-authenticate"] == "Bearer"
        assert client.traffic == (0, 0), "no replica was asked anything"


async def test_what_is_served_is_told(cluster: Any) -> None:
    made = await cluster()
    async with gateway(made) as (http, _):
        told = (await http.get("/v1/model")).json()
        assert told["epoch"] == made.anchors.epoch
        for part, anchor in zip(told["parts"], made.anchors.parts, strict=True):
            assert (part["name"], part["digest"], part["replicas"]) == (anchor.name, anchor.digest, 3)
        assert (await http.get("/v1/health")).json() == {"status": "ok"}


async def test_where_no_answer_is_accepted_the_evidence_of_that_comes(cluster: Any) -> None:
    made = await cluster(liars={"stage-1-a": Lies})
    async with gateway(made) as (http, _):
        strict = {"replicas": 3, "quorum": 3, "faulty": 0}
        found = problem(await http.post("/v1/predict", json={"inputs": X.tolist(), "policy": strict}), 502)
        assert "no answer that the policy accepts" in found["detail"]
        receipt = (await http.get(f"/v1/receipts/{found['receipt']['id']}")).content
        assert not verify(receipt, made.folder / "trust.toml").valid


async def test_who_lies_is_named_as_the_trust_file_names_it(cluster: Any) -> None:
    made = await cluster(liars={"stage-1-a": Lies})
    async with gateway(made) as (http, _):
        answer = (await http.post("/v1/predict", json={"inputs": X.tolist()})).json()
        assert torch.equal(torch.tensor(answer["output"]), made.expected(X))
        assert [(each["node"], each["part"], each["kind"]) for each in answer["faults"]] == [
            ("stage-1-a", "stage-1", "disagreed")
        ]


async def test_what_is_not_understood_is_said_so_and_nobody_is_asked(cluster: Any) -> None:
    made = await cluster()
    async with gateway(made, Bounds(body=10_000, samples=4)) as (http, client):
        for content, media, status in (
            (b"{", JSON, 400),
            (b"{}", JSON, 400),
            (json.dumps({"inputs": X.tolist()}).encode(), JSON, 422),  # five samples
            (b"", NPY, 400),
            (npy(X)[:-1], NPY, 400),
            (b"", "text/plain", 415),
            (b"x" * 10_001, JSON, 413),
            (json.dumps({"inputs": []}).encode(), JSON, 422),
        ):
            answer = await http.post("/v1/predict", content=content, headers={"Content-Type": media})
            problem(answer, status)

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000

        answer = await http.post("/v1/predict", content=endless(), headers={"Content-Type": JSON})
        problem(answer, 413)
        problem(await http.get("/v1/predict"), 405)
        problem(await http.get("/v2"), 404)
        problem(await http.get(f"/v1/receipts/{'0' * 64}"), 404)
        assert client.traffic == (0, 0)


async def test_inputs_of_another_shape_are_refused_where_the_models_is_known(cluster: Any) -> None:
    made = await cluster()
    network = Network("mlp", {}, tuple(X.shape[1:]), 10, 2, False, "nowhere", class_names=("zero", "one"))
    async with gateway(made, network=network) as (http, client):
        wrong = await http.post("/v1/predict", json={"inputs": X[:, :, :4].tolist()})
        assert "the model takes (n, *(1, 8, 8))" in problem(wrong, 422)["detail"]
        assert client.traffic == (0, 0)
        assert (await http.post("/v1/predict", json={"inputs": X.tolist()})).status_code == 200
        told = (await http.get("/v1/model")).json()
        assert (told["name"], told["input"], told["classes"]) == ("mlp", [1, 8, 8], ["zero", "one"])


async def test_beyond_what_is_worked_on_at_once_one_is_told_to_come_back(cluster: Any) -> None:
    made = await cluster()
    async with gateway(made, Bounds(under_way=2)) as (http, client):
        going, predict = asyncio.Event(), client.predict

        async def held(*args: Any) -> Any:
            await going.wait()
            return await predict(*args)

        client.predict = held  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(http.post("/v1/predict", json={"inputs": X.tolist()})) for _ in range(4)]
            done, waiting = await asyncio.wait(asked, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 2:
                more, waiting = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            assert (await http.get("/v1/health")).status_code == 200
            going.set()
        for refused in done:
            problem(refused.result(), 429)
            assert refused.result().headers["retry-after"] == "1"
        assert [each.result().status_code for each in waiting] == [200, 200]
        assert (await http.post("/v1/predict", json={"inputs": X.tolist()})).status_code == 200, "there is room again"


async def test_who_does_not_send_or_does_not_answer_in_time_is_told(cluster: Any) -> None:
    made = await cluster()

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async with gateway(made, Bounds(reading=0.05, answering=0.05)) as (http, client):
        answer = await http.post("/v1/predict", content=slow(), headers={"Content-Type": JSON})
        problem(answer, 408)

        async def silent(*args: Any) -> Any:
            await asyncio.Event().wait()

        client.predict = silent  # type: ignore[method-assign]
        late = await http.post("/v1/predict", json={"inputs": X.tolist()})
        assert "within 0.05 s, which the gateway's --timeout allows" in problem(late, 504)["detail"]

        async def gone(*args: Any) -> Any:
            raise Unreachable("nobody")

        client.predict = gone  # type: ignore[method-assign]
        assert "nobody" in problem(await http.post("/v1/predict", json={"inputs": X.tolist()}), 502)["detail"]


async def test_an_answer_may_be_asked_to_be_proved(proved: Any) -> None:
    made = await proved()
    body = {"inputs": [[0.5, -1.0, 0.25, 2.0]], "policy": {"require": ["consensus", "zk"], "allow_simulated": True}}
    async with gateway(made) as (http, client):
        found = await http.post("/v1/predict", json=body)
        assert found.status_code == 200, found.text
        answer = found.json()
        assert sorted(each["part"] for each in answer["findings"] if each["kind"] == "zk") == ["stage-0", "stage-1"]
        expected = made.floats(torch.tensor(body["inputs"]))
        assert torch.allclose(torch.tensor(answer["output"]), expected, atol=0.1)

        async def nowhere(*args: Any) -> Any:
            raise Unproven("there is no ezkl")

        client.predict = nowhere  # type: ignore[method-assign]
        assert "there is no ezkl" in problem(await http.post("/v1/predict", json=body), 503)["detail"]


async def test_a_mistake_of_ours_is_told_to_the_log_alone(cluster: Any) -> None:
    made = await cluster()
    async with gateway(made) as (_, client):

        async def broken(*args: Any) -> Any:
            raise RuntimeError("a secret")

        client.predict = broken  # type: ignore[method-assign]
        transport = httpx2.ASGITransport(Gateway(client, TOKEN).app(), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="https://gateway", headers=ALLOWED) as http:
            found = await http.post("/v1/predict", json={"inputs": X.tolist()})
        assert "secret" not in json.dumps(problem(found, 500))


async def test_a_receipt_is_written_where_it_keeps_nobody_waiting(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With proofs it has megabytes."""
    made, where, encode = await cluster(liars={"stage-1-a": Lies}), list[bool](), Receipt.encode
    strict = {"replicas": 3, "quorum": 3, "faulty": 0}

    def watched(receipt: Receipt) -> bytes:
        where.append(threading.current_thread() is threading.main_thread())
        return encode(receipt)

    monkeypatch.setattr(Receipt, "encode", watched)
    async with gateway(made) as (http, _):
        assert (await http.post("/v1/predict", json={"inputs": X.tolist()})).status_code == 200
        refused = await http.post("/v1/predict", json={"inputs": X.tolist(), "policy": strict})
        assert problem(refused, 502)["receipt"]["bytes"] > 0
    assert where == [False, False]


def kept_as(kept: Receipts, receipt: bytes) -> str:
    name = hashlib.sha256(receipt).hexdigest()
    kept.keep(name, receipt)
    return name


def written(kept: Receipts, sizes: Iterator[int]) -> list[str]:
    return [kept_as(kept, bytes([place]) * size) for place, size in enumerate(sizes)]


def test_only_the_newest_receipts_are_kept() -> None:
    names = written(kept := Receipts(3, 100), iter([10, 10, 10, 10]))
    assert [kept.get(name) is not None for name in names] == [False, True, True, True]
    names = written(kept := Receipts(9, 100), iter([40, 40, 40]))
    assert [kept.get(name) is not None for name in names] == [False, True, True]
    assert kept_as(kept, bytes([2]) * 40) == names[2]
    assert kept.get(names[1]) is not None, "one that is there already takes no room"
    small = Receipts(9, 10)
    assert small.get(kept_as(small, b"x" * 11)) is None
