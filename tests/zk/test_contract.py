"""Contracts: one for each stage, with its own key in it; compiled where somebody names a compiler."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from decentral.errors import UserError
from decentral.zk.contract import write_contracts
from tests.zk.conftest import SMALL, Made


async def test_each_stage_has_its_contract(made: Made, tmp_path: Path) -> None:
    written = await write_contracts(made.chain, made.srs, tmp_path / "sol", limits=SMALL)
    files = [Path(each["file"]) for each in written]
    assert [file.name for file in files] == ["stage-0.sol", "stage-1.sol"]
    texts = [file.read_text() for file in files]
    assert all("verifyProof" in text and "pragma solidity" in text for text in texts)
    assert len(set(texts)) == 2 and [each["bytes"] for each in written] == [None, None]


def compiler(tmp_path: Path, body: str) -> Path:
    file = tmp_path / "solc"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


async def test_what_a_compiler_says_is_read(made: Made, tmp_path: Path) -> None:
    """A program that answers in the compiler's form: only the reading of it is tested here."""
    says = compiler(
        tmp_path, "printf '======= x:A =======\\nBinary:\\n6001\\n\\n===== x:B =====\\nBinary:\\n600102\\n'"
    )
    written = await write_contracts(made.chain, made.srs, tmp_path / "sol", says, limits=SMALL)
    assert [each["bytes"] for each in written] == [3, 3]


async def test_a_compiler_that_refuses_or_is_none_is_an_error(made: Made, tmp_path: Path) -> None:
    for body, why in (
        ("echo no such pragma >&2; exit 1", "no such pragma"),
        ("echo hello", "nothing that can be read"),
    ):
        with pytest.raises(UserError, match=why):
            await write_contracts(made.chain, made.srs, tmp_path / "sol", compiler(tmp_path, body), limits=SMALL)
    with pytest.raises(UserError, match="cannot be started"):
        await write_contracts(made.chain, made.srs, tmp_path / "sol", tmp_path / "nothing", limits=SMALL)


async def test_the_contracts_compile(made: Made, tmp_path: Path) -> None:
    found = os.environ.get("SOLC") or shutil.which("solc")
    if found is None:
        pytest.skip("no solc on PATH and none named by $SOLC: the contracts are not compiled here")
    written = await write_contracts(made.chain, made.srs, tmp_path / "sol", Path(found), limits=SMALL)
    assert all(each["bytes"] > 1000 for each in written)
    assert re.fullmatch(r".*stage-0\.sol", written[0]["file"])
