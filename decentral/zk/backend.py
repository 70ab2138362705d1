"""The only file that imports ezkl: a program that carries out one call of it after another.

    python -P -m decentral.zk.backend < requests > replies

Requests and replies are JSON lines: {"call": name, "arguments": {...}} gives {"result": ...} or {"error": words,
"kind": ...}, with {"wall", "cpu", "peak"}: seconds, seconds and bytes of this process. Whatever ezkl prints goes to
stderr. Nothing here touches the network but `fetch_srs`, and nothing is trusted: ezkl's panics and its refusals end as
errors, and a memory that runs out ends this process alone (`worker` watches it).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ezkl

from decentral.lifetime import die_with_parent

NOWHERE = "http://127.0.0.1:1"
"""The proxy of all calls that have nothing to fetch."""
MULTIOPEN = 128
"""Bytes at the end of a proof that are read after everything that can be missing: the two points of the opening."""
LONGEST = 1 << 24
"""Bytes of a proof that nobody makes."""
INCOMPLETE = "failed to fill whole buffer"
"""What ezkl says of a proof that ends too early ..."""
READ = ("Multi-opening proof was invalid", "The constraint system is not satisfied")
"""... and of one that it has read, and that does not hold."""
REJECTIONS = ("[halo2]", "[pfsys] failed to load the proof")
"""How ezkl's refusals of a proof begin, unlike those of a key or a file."""


def settings(model: str, output: str, arguments: Mapping[str, Any]) -> None:
    """Writes what a circuit of the model will be like. `arguments`: those of ezkl's `PyRunArgs`."""
    given = ezkl.PyRunArgs()
    for name, value in arguments.items():
        setattr(given, name, tuple(value) if isinstance(value, list) else value)
    ezkl.gen_settings(model, output, py_run_args=given)


def calibrate(
    *, data: str, model: str, settings: str, scale: int, rebase: int, margin: float, max_logrows: int | None
) -> None:
    """Narrows settings to what the data need, at these scales."""
    ezkl.calibrate_settings(
        data,
        model,
        settings,
        "resources",
        lookup_safety_margin=margin,
        scales=[scale],
        scale_rebase_multiplier=[rebase],
        max_logrows=max_logrows,
    )


def compile_circuit(model: str, compiled: str, settings: str) -> None:
    ezkl.compile_circuit(model, compiled, settings)


def local_srs(output: str, logrows: int) -> None:
    """Whoever runs this could forge: for tests."""
    ezkl.gen_srs(output, logrows)


def fetch_srs(output: str, logrows: int) -> None:
    """Downloads a file of the ceremony; whoever asks checks its digest."""

    async def fetched() -> None:
        await ezkl.get_srs(logrows=logrows, srs_path=output)

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        if os.environ.get(name) == NOWHERE:
            del os.environ[name]
    asyncio.run(fetched())


def setup(compiled: str, key: str, proving_key: str, srs: str) -> None:
    ezkl.setup(compiled, key, proving_key, srs)


def witness(data: str, compiled: str, output: str, key: str | None = None, srs: str | None = None) -> dict[str, Any]:
    """Runs the circuit's arithmetic. Field elements of inputs and outputs, and commitments where there are."""
    ezkl.gen_witness(data, compiled, output, key, srs)
    with Path(output).open() as file:
        made = json.load(file)
    committed = {
        part: (made.get(f"processed_{part}") or {}).get("polycommit") or [] for part in ("inputs", "params", "outputs")
    }
    return {"inputs": made["inputs"], "outputs": made["outputs"], "committed": committed}


def prove(witness: str, compiled: str, proving_key: str, srs: str) -> dict[str, Any]:
    """Instances, in their one column, and the raw proof: nothing else of what ezkl writes is covered by it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "proof.json"
        ezkl.prove(witness, compiled, proving_key, str(file), srs)
        made = json.loads(file.read_bytes())
    (instances,) = made["instances"]
    return {"instances": instances, "proof": bytes(made["proof"]).hex()}


def verify(instances: list[str], proof: str, settings: str, key: str, srs: str) -> str | None:
    """Why the proof is rejected; None if it holds. Raises RuntimeError where key, settings or SRS cannot be used."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "proof.json"
        file.write_text(json.dumps({"instances": [instances], "proof": list(bytes.fromhex(proof))}))
        return _verify(file, settings, key, srs)


def commit(values: list[str], settings: str, key: str, srs: str) -> list[str]:
    """The commitments to a tensor's field elements, each as it stands in a proof: x and y, in big-endian."""
    points = ezkl.kzg_commit(values, key, settings, srs)
    return ["".join(bytes.fromhex(each)[::-1].hex() for each in (point.x, point.y)) for point in points]


def proof_length(instances: int, settings: str, key: str, srs: str) -> int:
    """How many bytes a proof for this key has, which no prover has a say in.

    A proof of zeros is read to the end of what it lacks: the shortest one of which ezkl does not say that it ends too
    early lacks the opening alone.
    """
    nothing = [["00" * 32] * instances]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "proof.json"

        def incomplete(words: int) -> bool:
            file.write_text(json.dumps({"instances": nothing, "proof": [0] * (words * 32)}))
            said = _verify(file, settings, key, srs) or "that nothing holds"
            if INCOMPLETE in said or any(words in said for words in READ):
                return INCOMPLETE in said
            raise RuntimeError(f"the length of a proof cannot be told: of zeros ezkl says {said}")

        low, high = 0, LONGEST // 32
        most = 1
        while most < high and incomplete(most):
            low, most = most, most * 2
        high = min(most, high)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if incomplete(middle) else (low, middle)
    return high * 32 + MULTIOPEN


def felts(values: Sequence[float], scale: int, kind: str) -> list[str]:
    """Floats as the circuit takes them: rounded to the scale, half away from zero."""
    of = getattr(ezkl.PyInputType, kind)
    return [ezkl.float_to_felt(value, scale, of) for value in values]


def floats(felts: Sequence[str], scale: int) -> list[float]:
    return [ezkl.felt_to_float(felt, scale) for felt in felts]


def contract(key: str, settings: str, srs: str, output: str, abi: str) -> str | None:
    """Writes the verifier in Solidity, and its interface if ezkl finds a compiler; else what it says of that."""

    async def made() -> None:
        await ezkl.create_evm_verifier(key, settings, output, abi, srs)

    try:
        asyncio.run(made())
    except RuntimeError as error:
        if not Path(output).is_file():
            raise
        return str(error)
    return None


def version() -> str:
    return str(ezkl.__version__)


CALLS: Mapping[str, Callable[..., Any]] = {
    call.__name__: call
    for call in (
        settings,
        calibrate,
        compile_circuit,
        local_srs,
        fetch_srs,
        setup,
        witness,
        prove,
        verify,
        commit,
        proof_length,
        felts,
        floats,
        contract,
        version,
    )
}


def _verify(file: Path, settings: str, key: str, srs: str) -> str | None:
    try:
        # The points of the SRS that verification needs come first: ezkl reads no more of it.
        holds = ezkl.verify(str(file), settings, key, srs, True)
    except RuntimeError as error:
        said = str(error).removeprefix("Failed to run verify: ")
        if said.startswith(REJECTIONS):
            return said
        raise
    return None if holds is True else "ezkl says that it does not hold"


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    began, spent = time.monotonic(), _cpu()
    try:
        said: dict[str, Any] = {"result": CALLS[request["call"]](**request["arguments"])}
    except (KeyboardInterrupt, SystemExit):
        raise
    except MemoryError:
        said = {"error": "memory ran out", "kind": "memory"}
    except OSError as error:
        said = {"error": str(error), "kind": "file", "errno": error.errno}
    except BaseException as error:  # noqa: BLE001  a panic in Rust is no Exception
        said = {"error": str(error), "kind": type(error).__name__}
    return {**said, "wall": time.monotonic() - began, "cpu": _cpu() - spent, "peak": _peak()}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    """Linux keeps in `ru_maxrss` what the process was before it became this program."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """`parent memory file [core ...]`: whose child this is; how large it and a file may be; where it runs."""
    parent, memory, file, *cores = map(int, sys.argv[1:])
    die_with_parent(parent)
    for kind, limit in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, file)):
        if limit:
            resource.setrlimit(kind, (limit, limit))
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
