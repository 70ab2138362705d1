"""How fast a model moves between two processes, beside the fastest that gRPC itself can do here.

    python -m benchmarks.model_exchange [--megabytes 68] [--repeats 9] [--json FILE]

The floor is a bare grpc.aio stream of ready-made 1 MiB messages under the same mutual TLS and with the same channel
options, whose receiver throws everything away. Ours encodes a model, digests it, sends it, checks the digest and decodes
it into tensors. The runs alternate. A floor without TLS shows what encryption costs. CPU time is that of both processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import torch
from blake3 import blake3

from decentral.wire.authority import Authority, JoinToken, enrol
from decentral.wire.certificate import Credentials, host_name
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.messages import Model
from decentral.wire.rpc import PEER_OPTIONS
from decentral.wire.tensors import encoded

HOST = "127.0.0.1"
FLOOR = "/floor.Floor/Push"
RATIO_WANTED, MEMORY_WANTED = 0.80, 1.3


def parameters(megabytes: float) -> dict[str, torch.Tensor]:
    """An MLP 64-width-width-10 of about that size in float32."""
    width = round(((64 + 10) ** 2 / 4 + megabytes * 1e6 / 4) ** 0.5 - (64 + 10) / 2)
    shapes = {"0.weight": (width, 64), "0.bias": (width,), "2.weight": (width, width), "2.bias": (width,)}
    shapes |= {"4.weight": (10, width), "4.bias": (10,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


# ---- the receiving process ------------------------------------------------------------------------------------------


async def receive(folder: Path) -> None:
    """Serves both floors and our transport, and answers every line on standard input with its CPU time and memory."""
    identity, credentials = Identity.load(folder / "identity.key"), Credentials.load(folder)

    async def drop(frames: AsyncIterator[bytes], context: Any) -> bytes:
        async for _ in frames:
            pass
        return b""

    async def floor(secure: bool) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=PEER_OPTIONS)
        handlers = {"Push": grpc.stream_unary_rpc_method_handler(drop)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("floor.Floor", handlers),))
        if secure:
            pair = (credentials.key, credentials.certificate)
            port = server.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([pair], credentials.authority, True))
        else:
            port = server.add_insecure_port(f"{HOST}:0")
        await server.start()
        return server, port

    async with GrpcTransport.serve(f"{HOST}:0", identity, credentials) as transport:
        (secure, tls), (insecure, plain) = await floor(True), await floor(False)

        async def read_models() -> None:
            inbox = transport.inbox(Model)
            async for _ in inbox:
                pass

        reading = asyncio.ensure_future(read_models())
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        print(json.dumps({"ours": transport.address, "tls": tls, "plain": plain, "id": identity.id}), flush=True)
        while await lines.readline():
            usage = {"cpu": cpu_seconds(), "peak": resident("VmHWM"), "now": resident("VmRSS")}
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
            print(json.dumps(usage), flush=True)
        reading.cancel()
        await asyncio.gather(secure.stop(None), insecure.stop(None))


# ---- the sending process --------------------------------------------------------------------------------------------


class Receiver:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process, self._in, self._out = process, process.stdin, process.stdout

    async def line(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(await self._out.readline())
        return content

    async def usage(self) -> dict[str, Any]:
        self._in.write(b"\n")
        return await self.line()

    async def end(self) -> None:
        self._in.close()
        await self.process.wait()


async def measure(receiver: Receiver, size: int, exchange: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """MB/s, CPU of both sides in ns per byte, and the receiver's peak above what it held before, by the model's size."""
    before, own, began = await receiver.usage(), cpu_seconds(), time.perf_counter()
    await exchange()
    seconds, sender = time.perf_counter() - began, cpu_seconds() - own
    after = await receiver.usage()
    return {
        "mb_s": size / seconds / 1e6,
        "sender_ns": sender / size * 1e9,
        "receiver_ns": (after["cpu"] - before["cpu"]) / size * 1e9,
        "memory": (after["peak"] - before["now"]) / size,
    }


async def enrolled(authority: Authority, address: str, folder: Path) -> tuple[Identity, Credentials]:
    folder.mkdir(mode=0o700)
    identity = Identity.generate()
    identity.save(folder / "identity.key")
    token = JoinToken.parse(str(authority.token()))
    credentials = await enrol(address, token, identity)
    credentials.save(folder)
    return identity, credentials


async def compare(megabytes: float, repeats: int, folder: Path) -> dict[str, dict[str, float]]:
    """The median of every figure, by kind of exchange."""
    authority = Authority.create(folder / "authority")
    async with authority.serve(f"{HOST}:0") as address:
        identity, credentials = await enrolled(authority, address, folder / "sender")
        await enrolled(authority, address, folder / "receiver")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.model_exchange", "--receiver", str(folder / "receiver"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    receiver = Receiver(process)
    there = await receiver.line()
    tensors = parameters(megabytes)
    model = Model(1, tensors)
    frames = list(encoded(model).frames())
    size = sum(tensor.nbytes for tensor in tensors.values())
    trusted = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate)
    named = [*PEER_OPTIONS, ("grpc.ssl_target_name_override", host_name(there["id"]))]
    figures: dict[str, list[dict[str, float]]] = {"plain": [], "tls": [], "ours": []}
    async with (
        grpc.aio.secure_channel(f"{HOST}:{there['tls']}", trusted, named) as tls,
        grpc.aio.insecure_channel(f"{HOST}:{there['plain']}", PEER_OPTIONS) as plain,
        GrpcTransport.serve(f"{HOST}:0", identity, credentials) as ours,
    ):
        ours.introduce(there["id"], there["ours"])

        async def push_ours() -> None:
            await ours.send(there["id"], Model(1, tensors))  # a new message: nothing of an earlier encoding is left

        async def push_floor(channel: grpc.aio.Channel) -> None:
            await channel.stream_unary(FLOOR, None, None)(iter(frames))

        exchanges = {"plain": lambda: push_floor(plain), "tls": lambda: push_floor(tls), "ours": push_ours}
        for repeat in range(repeats + 1):
            for kind, exchange in exchanges.items():
                figure = await measure(receiver, size, exchange)
                if repeat:  # the first connects and warms up
                    figures[kind].append(figure)
    await receiver.end()
    digesting = []
    for _ in range(3):
        began = time.perf_counter()
        for frame in frames:
            blake3(frame).digest()
        digesting.append((time.perf_counter() - began) / size * 1e9)
    medians = {
        kind: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for kind, runs in figures.items()
    }
    best = {kind: max(run["mb_s"] for run in runs) for kind, runs in figures.items()}
    cpu = {kind: figure["sender_ns"] + figure["receiver_ns"] for kind, figure in medians.items()}
    return {
        **medians,
        "best_mb_s": best,
        "summary": {
            "bytes": float(size),
            "ratio": medians["ours"]["mb_s"] / medians["tls"]["mb_s"],
            "cpu_ratio": cpu["tls"] / cpu["ours"],
            "tls_share": 1 - cpu["plain"] / cpu["tls"],
            "digest_ns": 2 * statistics.median(digesting),
            "digest_share": 2 * statistics.median(digesting) / cpu["ours"],
            "memory": medians["ours"]["memory"],
        },
    }


def show(result: dict[str, dict[str, float]]) -> bool:
    names = {
        "plain": "bare grpc.aio, no TLS",
        "tls": "bare grpc.aio, mutual TLS (floor)",
        "ours": "decentral, mutual TLS",
    }
    summary = result["summary"]
    print(f"one model of {summary['bytes'] / 1e6:.1f} MB between two processes, medians (best)\n")
    print(f"{'':36}{'MB/s':>14}{'CPU ns/byte: sender':>22}{'receiver':>10}{'both':>7}")
    for kind, name in names.items():
        row = result[kind]
        rate = f"{row['mb_s']:.0f} ({result['best_mb_s'][kind]:.0f})"
        both = row["sender_ns"] + row["receiver_ns"]
        print(f"{name:36}{rate:>14}{row['sender_ns']:>22.2f}{row['receiver_ns']:>10.2f}{both:>7.2f}")
    reached = summary["ratio"] >= RATIO_WANTED
    small = summary["memory"] <= MEMORY_WANTED
    print(
        f"\nspeed, share of the floor      {summary['ratio']:.2f}  (wanted: at least {RATIO_WANTED:.2f}) {'ok' * reached}"
    )
    print(f"CPU of the floor, share of ours {summary['cpu_ratio']:.2f}")
    print(f"TLS, share of the floor's CPU   {summary['tls_share']:.2f}")
    print(
        f"digest, share of our CPU        {summary['digest_share']:.2f}  ({summary['digest_ns']:.2f} ns/byte, both sides)"
    )
    print(
        f"receiver's memory, by the model {summary['memory']:.2f}  (wanted: at most {MEMORY_WANTED:.1f}) {'ok' * small}"
    )
    return reached and small


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=68.0, help="size of the model")
    parser.add_argument("--repeats", type=int, default=9, help="measured exchanges of each kind")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--receiver", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receiver is not None:
        asyncio.run(receive(arguments.receiver))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(compare(arguments.megabytes, arguments.repeats, Path(folder)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if show(result) else 1


if __name__ == "__main__":
    sys.exit(main())
