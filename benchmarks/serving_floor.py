"""Streams of bare grpc.aio that say as many bytes as commit and reveal do: the floor of `serving_cost`.

A message to a replica is answered at once, and one after it too. With the cryptography that evidence cannot do without,
or with no meaning at all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import grpc
import grpc.aio
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from decentral.wire.certificate import Credentials
from decentral.wire.conversation import Commitment, Fetch, Open, Output, Reveal, Task, Terms
from decentral.wire.framing import frames
from decentral.wire.rpc import PEER_OPTIONS

HOST = "127.0.0.1"
SERVICE = "floor.Floor"
METHODS = ("Bytes", "Signed")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of what is said in one answer."""

    task: int
    commitment: int
    open: int
    reveal: int
    output: int


def sizes(elements: int, replicas: int) -> Sizes:
    """Of our frames; the floor's messages have as many."""

    def size(said: Any) -> int:
        return sum(map(len, frames(1, said)))

    digest, tensors = bytes(32), {"x": torch.zeros(1, elements)}
    return Sizes(
        size(Task("stage-1", digest, tensors, Terms(bytes(16), digest, 1))),
        size(Commitment(digest)),
        size(Open(tuple(bytes([number]) * 32 for number in range(replicas)))) + size(Fetch()),
        size(Reveal(digest, digest, digest, bytes(64))),
        size(Output(tensors)),
    )


async def bare_server(credentials: Credentials, said: Sizes) -> tuple[grpc.aio.Server, int]:
    """Answers with as many bytes as we do; a message that begins with 1 wants the output too.

    Its methods are `Bytes`, and `Signed`, where the first bytes of a message are digest, salt, key and signature.
    """
    commitment, reveal, output = bytes(said.commitment), bytes(said.reveal), bytes(said.output)
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()

    async def in_bytes(messages: AsyncIterator[bytes], context: Any) -> None:
        async for message in messages:
            if len(message) == said.task:
                await context.write(commitment)
            else:
                await context.write(reveal + output if message[0] else reveal)

    async def signed(messages: AsyncIterator[bytes], context: Any) -> None:
        digest = salt = b""
        async for message in messages:
            if len(message) == said.task:
                digest, salt = sha256(sha256(message).digest() + sha256(output).digest()).digest(), os.urandom(32)
                await context.write((sha256(digest + salt).digest() + commitment)[: said.commitment])
            else:
                opened = digest + salt + public + key.sign(digest + sha256(message[1:]).digest())
                opened += bytes(said.reveal - len(opened))
                await context.write(opened + output if message[0] else opened)

    server = grpc.aio.server(options=PEER_OPTIONS)
    handlers = dict(zip(METHODS, (in_bytes, signed), strict=True))
    methods = {name: grpc.stream_stream_rpc_method_handler(serve) for name, serve in handlers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    pair = (credentials.key, credentials.certificate)
    port = server.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([pair], credentials.authority, True))
    await server.start()
    return server, port


class Bare:
    """A stream to every replica, and no words."""

    def __init__(self, streams: Sequence[Any], said: Sizes, verifying: bool) -> None:
        self._streams, self._said, self._verifying = streams, said, verifying

    async def __call__(self) -> None:
        task = bytes(self._said.task)

        async def told(stream: Any, message: bytes) -> bytes:
            await stream.write(message)
            answer: bytes = await stream.read()
            return answer

        commitments = await asyncio.gather(*(told(stream, task) for stream in self._streams))
        shown = b"".join(commitment[:32] for commitment in commitments)
        opening = (shown + bytes(self._said.open))[: self._said.open - 1]
        words = (bytes([number == 0]) + opening for number in range(len(self._streams)))
        revealed = await asyncio.gather(*map(told, self._streams, words))
        if not self._verifying:
            return
        sha256(revealed[0][self._said.reveal :]).digest()
        for commitment, opened in zip(commitments, revealed, strict=True):
            digest, salt, public, signature = opened[:32], opened[32:64], opened[64:96], opened[96:160]
            assert sha256(digest + salt).digest() == commitment[:32]
            content = digest + sha256(opening).digest()
            Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
