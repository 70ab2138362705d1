"""How fast a model moves between two processes, beside the fastest that gRPC itself can do here.

    python -m benchmarks.model_exchange [--megabytes 68] [--repeats 15] [--json FILE]

The floor is a bare grpc.aio stream of ready-made 1 MiB messages under the same mutual TLS and with the same channel
options, to a receiver that throws them away as they come. Ours encodes a model, digests it, sends it, checks the digest
and decodes it into tensors that stay, in a process whose allocator is set as the launcher sets it for nodes. Further
rows show the floor in such a process too, when its receiver keeps the bytes, and without TLS. All take turns in one
run, sender and receiver on a core of its own each; CPU time is that of both. Measure on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
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

from decentral.launch.nodes import KEEP_MEMORY
from decentral.wire.authority import Authority, JoinToken
from decentral.wire.certificate import Credentials, host_name
from decentral.wire.enrolment import enrol
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.limits import CHUNK_BYTES
from decentral.wire.messages import Model
from decentral.wire.rpc import PEER_OPTIONS

HOST = "127.0.0.1"
SERVICE = "floor.Floor"
RATIO_WANTED, MEMORY_WANTED = 0.80, 1.3
NAMES = {
    "plain": "bare grpc.aio without TLS",
    "floor": "bare grpc.aio, mutual TLS: the floor",
    "kept": "the floor, and the receiver keeps the bytes",
    "tuned": "the floor with the allocator of our nodes",
    "ours": "decentral, mutual TLS",
}


def parameters(megabytes: float) -> dict[str, torch.Tensor]:
    """An MLP 64-width-width-10 of about that size in float32."""
    width = round((37.0**2 + megabytes * 1e6 / 4) ** 0.5 - 37.0)
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


def usage_since_last() -> dict[str, float]:
    """This process's CPU time, its memory, and the peak of that since the last call."""
    usage = {"cpu": cpu_seconds(), "peak": resident("VmHWM"), "now": resident("VmRSS")}
    Path("/proc/self/clear_refs").write_text("5")
    return usage


def stay_on(core: int) -> None:
    """Keeps this process on one core, its own: left alone, the scheduler now and then puts both on the same."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


# ---- the receiving process ------------------------------------------------------------------------------------------


async def drop(frames: AsyncIterator[bytes], context: Any) -> bytes:
    async for _ in frames:
        pass
    return b""


async def keep(frames: AsyncIterator[bytes], context: Any) -> bytes:
    held = [frame async for frame in frames]
    return str(len(held)).encode()


async def bare_server(credentials: Credentials | None) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(options=PEER_OPTIONS)
    methods = {name: grpc.stream_unary_rpc_method_handler(serve) for name, serve in (("Drop", drop), ("Keep", keep))}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    if credentials is None:
        port = server.add_insecure_port(f"{HOST}:0")
    else:
        pair = (credentials.key, credentials.certificate)
        port = server.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([pair], credentials.authority, True))
    await server.start()
    return server, port


async def receive(folder: Path) -> None:
    """Serves the floors and our transport, and answers every line on standard input with what was used since."""
    identity, credentials = Identity.load(folder / "identity.key"), Credentials.load(folder)
    async with GrpcTransport.serve(f"{HOST}:0", identity, credentials) as transport:
        (secure, tls), (insecure, plain) = await bare_server(credentials), await bare_server(None)

        async def read_models() -> None:
            async for envelope in transport.inbox(Model):
                del envelope

        reading = asyncio.ensure_future(read_models())
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        print(json.dumps({"ours": transport.address, "tls": tls, "plain": plain, "id": identity.id}), flush=True)
        while await lines.readline():
            print(json.dumps(usage_since_last()), flush=True)
        reading.cancel()
        await asyncio.gather(secure.stop(None), insecure.stop(None))


# ---- the sending process --------------------------------------------------------------------------------------------


class Receiver:
    """Another process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process, self._in, self._out = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, folder: Path, environment: dict[str, str]) -> Receiver:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.model_exchange", "--receiver", str(folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
        )
        return cls(process)

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
    """MB/s, CPU of both sides in ns per byte, and the receiver's peak above what it held before, in models."""
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
    identity = Identity.generate()
    identity.save(folder / "identity.key")
    credentials = await enrol(address, JoinToken.parse(str(authority.token())), identity)
    credentials.save(folder)
    return identity, credentials


async def exchange_all(megabytes: float, repeats: int, folders: list[Path]) -> dict[str, list[dict[str, float]]]:
    """The figures of every exchange, by its kind."""
    authority = Authority.create(folders[0])
    async with authority.serve(f"{HOST}:0") as address:
        identity, credentials = await enrolled(authority, address, folders[1])
        await enrolled(authority, address, folders[2])
    bare, node = await Receiver.start(folders[2], {}), await Receiver.start(folders[2], KEEP_MEMORY)
    stay_on(0)
    at_bare, at_node = await bare.line(), await node.line()
    tensors = parameters(megabytes)
    data = b"".join(tensor.numpy().tobytes() for tensor in tensors.values())
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    trusted = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate)
    named = [*PEER_OPTIONS, ("grpc.ssl_target_name_override", host_name(at_node["id"]))]
    figures: dict[str, list[dict[str, float]]] = {kind: [] for kind in NAMES}
    async with (
        grpc.aio.secure_channel(f"{HOST}:{at_bare['tls']}", trusted, named) as tls,
        grpc.aio.secure_channel(f"{HOST}:{at_node['tls']}", trusted, named) as tuned,
        grpc.aio.insecure_channel(f"{HOST}:{at_bare['plain']}", PEER_OPTIONS) as plain,
        GrpcTransport.serve(f"{HOST}:0", identity, credentials) as ours,
    ):
        ours.introduce(at_node["id"], at_node["ours"])

        async def push_ours() -> None:
            await ours.send(at_node["id"], Model(1, tensors))  # new: nothing of an earlier encoding is left

        async def push_bare(channel: grpc.aio.Channel, method: str) -> None:
            await channel.stream_unary(f"/{SERVICE}/{method}", None, None)(iter(chunks))

        exchanges: dict[str, tuple[Receiver, Callable[[], Awaitable[None]]]] = {
            "ours": (node, push_ours),  # first, so that its memory is measured in a fresh process
            "plain": (bare, lambda: push_bare(plain, "Drop")),
            "floor": (bare, lambda: push_bare(tls, "Drop")),
            "kept": (bare, lambda: push_bare(tls, "Keep")),
            "tuned": (node, lambda: push_bare(tuned, "Drop")),
        }
        await ours.send(at_node["id"], Model(0, {"a": torch.ones(1)}))  # connects
        for _ in range(repeats + 1):
            for kind, (receiver, exchange) in exchanges.items():
                figures[kind].append(await measure(receiver, len(data), exchange))
    await asyncio.gather(bare.end(), node.end())
    return figures


def digest_ns(size: int) -> float:
    """Nanoseconds per byte to digest a model once: the best of five, on its own."""
    chunk, runs = bytes(CHUNK_BYTES), []
    for _ in range(5):
        hasher, began = blake3(), time.perf_counter()
        for _ in range(size // CHUNK_BYTES):
            hasher.update(chunk)
        runs.append((time.perf_counter() - began) / (size // CHUNK_BYTES * CHUNK_BYTES) * 1e9)
    return min(runs)


def summarise(figures: dict[str, list[dict[str, float]]], size: int) -> dict[str, Any]:
    """Medians and bests over all runs but the first, which connects; the memory is the worst of all."""
    kinds = {
        kind: {name: statistics.median(run[name] for run in runs[1:]) for name in runs[0]}
        | {"best_mb_s": max(run["mb_s"] for run in runs[1:]), "memory": max(run["memory"] for run in runs)}
        for kind, runs in figures.items()
    }
    cpu = {kind: figure["sender_ns"] + figure["receiver_ns"] for kind, figure in kinds.items()}
    digest = 2 * digest_ns(size)
    return {
        "bytes": size,
        "exchanges": kinds,
        "ratio": kinds["ours"]["mb_s"] / kinds["floor"]["mb_s"],
        "ratio_kept": kinds["ours"]["mb_s"] / kinds["kept"]["mb_s"],
        "ratio_tuned": kinds["ours"]["mb_s"] / kinds["tuned"]["mb_s"],
        "ratio_cpu": cpu["floor"] / cpu["ours"],
        "tls_share": 1 - cpu["plain"] / cpu["floor"],
        "digest_ns": digest,
        "digest_share": digest / cpu["ours"],
        "memory": kinds["ours"]["memory"],
    }


def show(result: dict[str, Any]) -> bool:
    """Prints a summary, and says whether it reached what is wanted."""
    print(f"a model of {result['bytes'] / 1e6:.1f} MB between two processes: median (best)\n")
    print(f"{'':46}{'MB/s':>13}{'CPU, ns a byte: sender':>25}{'receiver':>10}{'both':>7}")
    for kind, name in NAMES.items():
        row = result["exchanges"][kind]
        rate = f"{row['mb_s']:.0f} ({row['best_mb_s']:.0f})"
        both = row["sender_ns"] + row["receiver_ns"]
        print(f"{name:46}{rate:>13}{row['sender_ns']:>25.2f}{row['receiver_ns']:>10.2f}{both:>7.2f}")
    fast, small = result["ratio"] >= RATIO_WANTED, result["memory"] <= MEMORY_WANTED
    lines = {
        "our speed by the floor's": f"{result['ratio']:.2f}   wanted: at least {RATIO_WANTED:.2f}: {fast}",
        "... by the floor's that keeps the bytes": f"{result['ratio_kept']:.2f}",
        "... by the floor's with our allocator": f"{result['ratio_tuned']:.2f}",
        "the floor's CPU by ours": f"{result['ratio_cpu']:.2f}",
        "TLS, share of the floor's CPU": f"{result['tls_share']:.2f}",
        "digest, share of our CPU": f"{result['digest_share']:.2f}   {result['digest_ns']:.2f} ns a byte, both sides",
        "the receiver's memory, in models": f"{result['memory']:.2f}   wanted: at most {MEMORY_WANTED}: {small}",
    }
    print()
    for name, value in lines.items():
        print(f"{name:46}{value}")
    return bool(fast and small)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=68.0, help="size of the model")
    parser.add_argument("--repeats", type=int, default=15, help="measured exchanges of each kind")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--receiver", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receiver is not None:
        stay_on(1)
        asyncio.run(receive(arguments.receiver))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / name for name in ("authority", "sender", "receiver")]
        for path in folders:
            path.mkdir(mode=0o700)
        figures = asyncio.run(exchange_all(arguments.megabytes, arguments.repeats, folders))
    size = sum(tensor.nbytes for tensor in parameters(arguments.megabytes).values())
    result = summarise(figures, size)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if show(result) else 1


if __name__ == "__main__":
    sys.exit(main())
