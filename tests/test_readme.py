"""What the README and docs tell people to type, typed: in an empty folder, with the installed command.

A fenced block says what becomes of it by the words behind its language: `run` executes it (shell or Python), `run slow`
only in the long suite, `file=NAME` writes it there first, `make` looks whether the Makefile knows it; no word, no test.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from decentral.errors import UserError
from decentral.launch.background import stop
from decentral.run.directory import open_cluster

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the files that the page gave before it."""

    page: str
    line: int
    language: str
    words: tuple[str, ...]
    text: str
    files: tuple[tuple[str, str], ...]


def blocks(page: Path) -> list[Block]:
    found, files, text = [], [], page.read_text()
    for fence in FENCE.finditer(text):
        language, words, body = fence[1], tuple(fence[2].split()), fence[3]
        files += [(word.removeprefix("file="), body) for word in words if word.startswith("file=")]
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page.name, line, language, words, body, tuple(files)))
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


def marked(word: str) -> list[object]:
    chosen = (block for block in BLOCKS if word in block.words)
    return [
        pytest.param(block, id=f"{block.page}:{block.line}", marks=[pytest.mark.slow] if "slow" in block.words else [])
        for block in chosen
    ]


@pytest.fixture
def empty_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of its own, with only the data that decentral brings."""
    here = tmp_path / "here"
    here.mkdir()
    yield here
    for noted in here.rglob("nodes/launcher/pid"):  # of a page whose `down` was not reached
        with contextlib.suppress(UserError):
            stop(open_cluster(noted.parents[2]))


@pytest.mark.parametrize("block", marked("run"))
def test_what_a_page_tells_to_type_works(block: Block, empty_folder: Path) -> None:
    for name, content in block.files:
        (empty_folder / name).write_text(content)
    commands = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*commands[block.language], block.text],
        cwd=empty_folder,
        env={**os.environ, "PATH": path, "NO_COLOR": "1", "DECENTRAL_ZK": str(empty_folder.parent / "zk")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("block", marked("make"))
def test_the_makefile_knows_what_a_page_tells_to_make(block: Block) -> None:
    for command in block.text.splitlines():
        words = command.split("#")[0].split()
        assert words[0] == "make"
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True, timeout=30)


def test_the_readme_has_blocks_that_are_executed() -> None:
    executed = {block.language for block in BLOCKS if block.page == "README.md" and "run" in block.words}
    assert "bash" in executed
    assert any("make" in block.words for block in BLOCKS if block.page == "README.md")


def test_the_readme_fits_a_newcomer() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
