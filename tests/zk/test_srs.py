"""An SRS is the ceremony's by its digest alone; every other one is for tests, and says so."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from decentral.errors import Unproven, UserError
from decentral.zk import srs as module
from decentral.zk.srs import CEREMONY, LOCAL, SRS, fetch_srs, local_srs, open_srs
from decentral.zk.store import Store
from tests.zk.conftest import SMALL


@pytest.fixture
async def local(tmp_path: Path) -> SRS:
    return await local_srs(tmp_path / "local.srs", 3, SMALL)


async def test_one_that_is_made_here_says_so(local: SRS) -> None:
    assert local.local and local.words == LOCAL and local.logrows == 3


async def test_one_that_is_made_here_is_used_only_when_allowed(local: SRS) -> None:
    with pytest.raises(UserError, match="forge"):
        open_srs(local.path)
    assert open_srs(local.path, local=True) == local


async def test_another_than_the_pinned_one_is_refused(local: SRS) -> None:
    with pytest.raises(UserError, match="another SRS"):
        open_srs(local.path, local=True, digest=CEREMONY[3])


async def test_a_file_that_was_changed_is_another(local: SRS) -> None:
    data = bytearray(local.path.read_bytes())
    data[100] ^= 1
    local.path.write_bytes(data)
    assert open_srs(local.path, local=True).digest != local.digest


@pytest.mark.parametrize(
    "content", [b"", b"abc", struct.pack("<I", 3), struct.pack("<I", 90) + bytes(5000), bytes(1284)]
)
def test_what_is_no_srs_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.srs").write_bytes(content)
    with pytest.raises(UserError, match="no SRS file"):
        open_srs(tmp_path / "x.srs", local=True)


def test_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such"):
        open_srs(tmp_path / "x.srs")


async def test_a_file_with_a_pinned_digest_is_the_ceremonys(local: SRS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CEREMONY, 3, local.digest)
    module._read.cache_clear()
    found = open_srs(local.path)
    assert not found.local and found.words == "perpetual powers of tau, 2^3"


async def test_what_cannot_be_fetched_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(Unproven):
        await fetch_srs(tmp_path / "tau.srs", 3, SMALL)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_the_store_finds_one_by_its_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = await store.local_srs(3, SMALL)
    assert await store.local_srs(3, SMALL) == made
    assert store.srs(made.digest, local=True) == made
    with pytest.raises(UserError, match="--srs"):
        store.srs(made.digest)
    with pytest.raises(UserError, match="holds no SRS"):
        store.srs("0" * 64, local=True)


def test_the_ceremonys_files_are_told_apart() -> None:
    assert sorted(CEREMONY) == list(range(1, 27))
    assert len(set(CEREMONY.values())) == 26 and all(len(bytes.fromhex(each)) == 32 for each in CEREMONY.values())
