"""A client of a cluster behind HTTP: for programs that speak no gRPC and trust the machine on which this client runs.

Answers come with verdict and receipt, as from `Client.predict`; who calls has to believe the gateway that it has
checked, or to take the receipt and check it. Whatever is wrong is told as a problem (RFC 9457). Every request has a
token, bounds on its size and its time, and no more than `Bounds.under_way` of them are worked on: beyond that a caller
is told to come back (429) before anything of its request is read.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from decentral.errors import TransportError, Unproven, UserError
from decentral.serving.asking.prediction import Prediction, Unverified
from decentral.serving.client import Client
from decentral.serving.gateway.bodies import BASE64, MEDIA, Body, read_body
from decentral.serving.gateway.https import admitted
from decentral.serving.gateway.openapi import document
from decentral.trust import packing, telling
from decentral.trust.policy import Policy
from decentral.trust.receipt import Receipt

if TYPE_CHECKING:
    from decentral.serving.stages.model import Network

PROBLEM = "application/problem+json"
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a gateway takes upon itself. Bytes, seconds, and how many."""

    body: int = 16 << 20
    samples: int = 1024
    under_way: int = 16
    reading: float = 30.0
    """For the body of a request to come."""
    answering: float = 120.0
    """For all of an answer, proofs included."""
    receipts: int = 256
    receipt_bytes: int = 64 << 20
    """Of all receipts that are kept, the newest; they are gone when the gateway ends."""


class Problem(Exception):
    """A request that gets no answer, and why."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers, more

    def response(self) -> Response:
        content = {"title": self.status.phrase, "status": self.status.value, "detail": self.detail, **self.more}
        return JSONResponse(content, self.status.value, self.headers, PROBLEM)


class Receipts:
    """The newest receipts, by their SHA-256 in hexadecimal."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def keep(self, name: str, receipt: bytes) -> None:
        if name not in self._kept:
            self._kept[name] = receipt
            self._bytes += len(receipt)
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest)

    def get(self, name: str) -> bytes | None:
        return self._kept.get(name)


class Gateway:
    """`network`: what is known of the model, to be told and to be checked; `token`: what callers have to show."""

    def __init__(
        self, client: Client, token: str, *, network: Network | None = None, bounds: Bounds | None = None
    ) -> None:
        self._client, self._token, self._network = client, token, network
        self.bounds = bounds or Bounds()
        self._receipts = Receipts(self.bounds.receipts, self.bounds.receipt_bytes)
        self._under_way = 0

    def app(self) -> Starlette:
        """As ASGI servers take it."""
        return Starlette(
            routes=[
                Route("/openapi.json", self._openapi),
                Route("/v1/health", self._health),
                Route("/v1/model", self._guarded(self._model)),
                Route("/v1/predict", self._guarded(self._predict), methods=["POST"]),
                Route("/v1/receipts/{name}", self._guarded(self._receipt)),
            ],
            exception_handlers={HTTPException: _unknown, Exception: _broken},
        )

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        """For callers with the token alone."""

        async def answer(request: Request) -> Response:
            try:
                if not admitted(request.headers.get("authorization", ""), self._token):
                    detail = "a token is needed: Authorization: Bearer ..."
                    raise Problem(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})
                return await endpoint(request)
            except Problem as problem:
                return problem.response()

        return answer

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(document(self.bounds.body))

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _model(self, request: Request) -> Response:
        anchors, network = self._client.anchors, self._network
        parts = [{**asdict(part), "replicas": len(anchors.asked(part.name))} for part in anchors.parts]
        found: dict[str, Any] = {"epoch": anchors.epoch, "parts": parts, "policy": self._client.policy.plain()}
        if network is not None:
            pixels = {"mean": network.mean, "std": network.std, "white": network.white} if network.mean else None
            found |= {"name": network.name, "input": network.input, "classes": network.class_names, "pixels": pixels}
        return JSONResponse(found)

    async def _receipt(self, request: Request) -> Response:
        receipt = self._receipts.get(request.path_params["name"])
        if receipt is None:
            detail = "no receipt of that name is kept: the newest are, until the gateway ends"
            raise Problem(HTTPStatus.NOT_FOUND, detail)
        return Response(receipt, media_type="application/json")

    # ---- predicting -----------------------------------------------------------------------------------------------

    async def _predict(self, request: Request) -> Response:
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media not in MEDIA:
            detail = f"the body must be of one of the types {', '.join(MEDIA)}, not {media!r}"
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
        with self._admitting():
            content = await self._content(request)
            try:
                body = await asyncio.to_thread(read_body, media, content, dict(request.query_params))
                policy = self._policy(body)
            except UserError as error:
                raise Problem(HTTPStatus.BAD_REQUEST, str(error)) from None
            prediction = await self._ask(body, policy)
            receipt = await self._kept(prediction.receipt, body.receipt)
            return await asyncio.to_thread(self._told, prediction, receipt)

    @contextmanager
    def _admitting(self) -> Iterator[None]:
        """One request more, if there is room for it."""
        if self._under_way >= self.bounds.under_way:
            detail = f"{self._under_way} requests are under way, and that is all that is worked on at once"
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": "1"})
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _content(self, request: Request) -> bytes:
        """The body, of which no more is read than is taken."""
        too_large = Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body must have at most {self.bounds.body} bytes")
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.bounds.body:
            raise too_large
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self.bounds.reading):
                async for piece in request.stream():
                    size += len(piece)
                    if size > self.bounds.body:
                        raise too_large
                    pieces.append(piece)
        except TimeoutError:
            detail = f"the body did not come within {self.bounds.reading:g} s"
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, detail) from None
        except ClientDisconnect:
            raise Problem(HTTPStatus.BAD_REQUEST, "the connection ended within the body") from None
        return b"".join(pieces)

    def _check(self, body: Body) -> None:
        """Raises UserError for what the model does not take, as far as that is known here."""
        tensors = body.inputs if isinstance(body.inputs, Mapping) else {"inputs": body.inputs}
        for name, tensor in tensors.items():
            if tensor.ndim and len(tensor) > self.bounds.samples:
                raise UserError(f"{name}: has {len(tensor)} samples; at most {self.bounds.samples} are taken at once")
            wanted = None if self._network is None or len(tensors) > 1 else tuple(self._network.input)
            if wanted is not None and tuple(tensor.shape[1:]) != wanted:
                raise UserError(f"{name}: is of shape {tuple(tensor.shape)}; the model takes (n, *{wanted})")

    def _policy(self, body: Body) -> Policy:
        """The cluster's, with what the request asks for instead. Raises UserError."""

        def refuse(problem: str, key: tuple[str, ...]) -> UserError:
            return UserError(f"policy: {'.'.join(key)}: {problem}")

        return Policy.of({**self._client.policy.plain(), **body.policy}, refuse)

    async def _ask(self, body: Body, policy: Policy) -> Prediction:
        try:
            self._check(body)
            async with asyncio.timeout(self.bounds.answering):
                return await self._client.predict(body.inputs, policy)
        except UserError as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        except Unverified as refused:
            faults = telling.faults(self._client.anchors, refused.faults)
            kept = await self._kept(refused.receipt, body.receipt)
            detail = f"no answer that the policy accepts: {'; '.join(refused.reasons)}"
            raise Problem(HTTPStatus.BAD_GATEWAY, detail, faults=faults, receipt=kept) from None
        except TransportError as error:
            raise Problem(HTTPStatus.BAD_GATEWAY, f"the cluster does not answer ({error})") from None
        except Unproven as error:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"proofs cannot be verified here ({error})") from None
        except TimeoutError:
            within = f"{self.bounds.answering:g} s, which the gateway's --timeout allows"
            detail = f"the cluster did not answer within {within}; proofs may take minutes for each sample"
            raise Problem(HTTPStatus.GATEWAY_TIMEOUT, detail) from None

    # ---- telling --------------------------------------------------------------------------------------------------

    def _told(self, prediction: Prediction, receipt: Mapping[str, Any]) -> Response:
        """Blocking, for as long as it takes to write the numbers."""
        content = {
            "output": prediction.output.tolist(),
            "outputs": {name: tensor.tolist() for name, tensor in prediction.outputs.items()},
            "labels": [label if label >= 0 else None for label in prediction.labels],
            "verdict": {"valid": prediction.verdict.valid, "reasons": list(prediction.verdict.reasons)},
            "findings": [packing.finding(each) for each in prediction.findings],
            "faults": telling.faults(self._client.anchors, prediction.faults),
            "receipt": receipt,
            "cost": asdict(prediction.cost),
        }
        return JSONResponse(content)

    async def _kept(self, receipt: Receipt, way: str) -> dict[str, Any]:
        try:
            data, told = await asyncio.to_thread(_written, receipt, way)
        except UserError as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        self._receipts.keep(told["id"], data)
        return told


def _written(receipt: Receipt, way: str) -> tuple[bytes, dict[str, Any]]:
    """And what the caller is told of it. Blocking: with proofs it has megabytes. Raises UserError."""
    data = receipt.encode()
    told: dict[str, Any] = {"id": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return data, {**told, "base64": base64.b64encode(data).decode()} if way == BASE64 else told


async def _unknown(request: Request, error: Exception) -> Response:
    """Paths and methods that there are not."""
    assert isinstance(error, HTTPException)
    return Problem(HTTPStatus(error.status_code), error.detail, error.headers).response()


async def _broken(request: Request, error: Exception) -> Response:
    """What is the gateway's fault: its log has it, and the caller is told no more."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the gateway could not do its work; see its log").response()
