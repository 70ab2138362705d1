"""Contracts that verify proofs on an Ethereum chain, one for each stage, as ezkl writes them.

The text needs no compiler. What it is worth there is checked only where somebody names one: ezkl would download one.
"""

from __future__ import annotations

import asyncio
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from decentral.errors import Unproven, UserError
from decentral.zk.circuit import Chain, Circuit
from decentral.zk.srs import SRS
from decentral.zk.worker import Limits, Worker, worker

OPTIMISED = ("--optimize", "--optimize-runs", "1", "--via-ir", "--bin")


async def write_contracts(
    chain: Chain, srs: SRS, folder: Path, solc: Path | None = None, *, limits: Limits | None = None
) -> list[dict[str, Any]]:
    """Writes stage-0.sol and so on. `bytes`: of the deployed code, by `solc`; None without it.

    Raises UserError where the folder cannot be written or the compiler refuses, Unproven.
    """
    limits, written = limits or Limits(), []
    try:
        await asyncio.to_thread(lambda: folder.mkdir(parents=True, exist_ok=True))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    async with worker(limits) as alone:
        for place, circuit in enumerate(chain.circuits):
            file = folder / f"stage-{place}.sol"
            await _write(alone, circuit, srs, file)
            size = None if solc is None else await _compiled(solc, file, limits.seconds)
            written.append({"file": str(file), "bytes": size})
    return written


async def _write(alone: Worker, circuit: Circuit, srs: SRS, file: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="decentral-zk-") as scratch:
        settings, key, abi = (Path(scratch) / name for name in ("settings.json", "verifying.key", "abi.json"))
        settings.write_bytes(circuit.settings.encoded)
        key.write_bytes(circuit.key)
        await alone.call(
            "contract", key=str(key), settings=str(settings), srs=str(srs.path), output=str(file), abi=str(abi)
        )


async def _compiled(solc: Path, file: Path, seconds: float) -> int:
    """Bytes of the largest contract in the file."""
    command = [str(solc), *OPTIMISED, str(file)]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise UserError(f"--solc {solc}: cannot be started ({error.strerror or error})") from error
    try:
        async with asyncio.timeout(seconds):
            printed, said = await process.communicate()
    except TimeoutError:
        raise Unproven(f"{solc} was not done with {file} after {seconds:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise UserError(f"{solc} refuses {file}: {said.decode(errors='replace').strip()[-400:]}")
    lines = printed.decode(errors="replace").splitlines()
    code = [after for line, after in pairwise(lines) if line.strip() == "Binary:"]
    if not code:
        raise UserError(f"{solc}: says nothing that can be read of {file}")
    return max(len(each.strip()) // 2 for each in code)
