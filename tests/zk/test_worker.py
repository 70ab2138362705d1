"""What ezkl does wrong ends in its own process, as an error of ours that says what to do."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Unproven
from decentral.zk.arguments import VERSION
from decentral.zk.proof import MODULUS, felt, felt_text, signed
from decentral.zk.worker import DiskFull, Limits, Worker, once, worker
from tests.zk.conftest import SMALL, Made


async def test_the_tested_version_is_installed(prover: Worker) -> None:
    assert await prover.call("version") == VERSION


async def test_what_ezkl_refuses_is_an_error_and_the_worker_goes_on(prover: Worker, tmp_path: Path) -> None:
    with pytest.raises(Unproven, match="at 'compile_circuit'"):
        await prover.call("compile_circuit", model=str(tmp_path / "a"), compiled=str(tmp_path / "b"), settings="c")
    assert await prover.call("version") == VERSION


async def test_a_call_that_takes_too_long_ends_its_process_and_says_what_to_do(tmp_path: Path) -> None:
    async with worker(SMALL) as alone:
        with pytest.raises(Unproven, match="smaller stages"):
            await alone.call("local_srs", deadline=0.2, output=str(tmp_path / "srs"), logrows=20)
        with pytest.raises(Unproven, match="ended"):
            await alone.call("version")


async def test_memory_that_runs_out_ends_its_process_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unproven, match=r"0\.1 GiB .* smaller stages"):
        await once("local_srs", Limits(memory=100 * 2**20, seconds=100), output=str(tmp_path / "srs"), logrows=20)


async def test_a_call_that_is_cancelled_ends_its_process(tmp_path: Path) -> None:
    async with worker(SMALL) as alone:
        task = asyncio.create_task(alone.call("local_srs", output=str(tmp_path / "srs"), logrows=20))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(Unproven, match="ended"):
            await alone.call("version")


@pytest.mark.parametrize("after", [0.0, 0.001, 0.02, 0.2], ids=["at once", "as it starts", "as it runs", "later"])
async def test_however_often_it_is_cancelled_no_process_is_left(after: float) -> None:
    async def use() -> None:
        async with worker(SMALL) as alone:
            await alone.call("version")
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await asyncio.sleep(after)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()


async def test_a_process_that_is_killed_is_an_error(tmp_path: Path) -> None:
    async with worker(SMALL) as alone:
        task = asyncio.create_task(alone.call("local_srs", output=str(tmp_path / "srs"), logrows=20))
        await asyncio.sleep(0.3)
        os.kill(alone._process.pid, 15)
        with pytest.raises(Unproven, match="ended with -15"):
            await task


async def test_a_file_that_cannot_be_written_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="File too large"):
        await once("local_srs", Limits(seconds=100, file=2**16), output=str(tmp_path / "srs"), logrows=10)


async def test_what_a_call_used_is_told(tmp_path: Path) -> None:
    _, usage = await once("local_srs", SMALL, output=str(tmp_path / "srs"), logrows=8)
    assert usage.wall > 0 and usage.cpu > 0
    assert 2**22 < usage.peak < 2**28, "that of the worker, and not of whoever started it"


async def test_nothing_is_left_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    await once("version", SMALL)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=20), st.integers(0, 16))
def test_a_float_is_taken_as_the_nearest_step_half_away_from_zero(values: list[float], scale: int) -> None:
    def ours(value: float) -> int:
        size = abs(value) * 2**scale
        whole = int(size)
        return (1 if value >= 0 else -1) * (whole + (size - whole >= 0.5))

    from decentral.zk.backend import answer

    said = answer({"call": "felts", "arguments": {"values": values, "scale": scale, "kind": "F32"}})
    assert [signed(felt(text)) for text in said["result"]] == [ours(value) for value in values]
    back = answer({"call": "floats", "arguments": {"felts": said["result"], "scale": scale}})["result"]
    assert back == [ours(value) / 2**scale for value in values]


async def test_the_length_of_a_proof_is_known_before_there_is_one(prover: Worker, made: Made) -> None:
    for circuit, proof in zip(made.chain.circuits, made.proven.proofs.proofs, strict=True):
        assert circuit.proof_bytes == len(proof.proof)


async def test_one_bit_less_and_ezkl_itself_rejects(prover: Worker, made: Made, tmp_path: Path) -> None:
    """What `verification` compares first is not all that stands between a lie and its acceptance."""
    circuit, proof = made.chain.circuits[1], made.proven.proofs.proofs[1]
    settings, key = tmp_path / "settings.json", tmp_path / "key"
    settings.write_bytes(circuit.settings.encoded)
    key.write_bytes(circuit.key)
    files = {"settings": str(settings), "key": str(key), "srs": str(made.srs.path)}
    texts = [felt_text(value) for value in proof.instances]
    assert await prover.call("verify", instances=texts, proof=proof.proof.hex(), **files) is None
    wrong = [texts[0], felt_text((proof.instances[1] + 1) % MODULUS)]
    assert "[halo2]" in await prover.call("verify", instances=wrong, proof=proof.proof.hex(), **files)
    settings.write_bytes(json.dumps({"version": VERSION}).encode())
    with pytest.raises(Unproven):
        await prover.call("verify", instances=texts, proof=proof.proof.hex(), **files)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not bind processes to cores")
async def test_a_worker_runs_on_the_cores_that_it_is_given() -> None:
    core = min(os.sched_getaffinity(0))
    async with worker(replace(SMALL, cores=(core,))) as alone:
        await alone.call("version")
        assert os.sched_getaffinity(alone._process.pid) == {core}
