"""What is measured of a node: all that it runs, no more often than it changes, and always when it does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from decentral.attestation.host import measuring
from decentral.attestation.host.measuring import CODE, MODEL, POLICY, RECIPE, Measurer, image
from decentral.attestation.host.processes import Running, running
from decentral.errors import UserError


@pytest.fixture
def process(tmp_path: Path) -> Running:
    """Of another copy of the package than the one that is tested."""
    package, nodes = tmp_path / "code" / "decentral", tmp_path / "code" / "nodes"
    for folder in (package / "core", nodes):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "core" / "merge.py").write_text("def merge(): ...")
    (nodes / "stage.py").write_text("")
    own = running(os.getpid())
    return Running(own.pid, own.started, own.interpreter, package, nodes)


@pytest.fixture
def measurer(tmp_path: Path) -> Measurer:
    folder = tmp_path / "cluster"
    (folder / "stages").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("serve: it")
    (folder / "policy.toml").write_text("replicas = 3")
    (folder / "stages" / "stage-0.safetensors").write_bytes(b"parameters")
    return Measurer(folder)


def test_code_recipe_policy_and_model_are_measured_in_this_order(measurer: Measurer, process: Running) -> None:
    found = measurer.measure(process)
    assert [event.name for event in found.events] == [CODE, RECIPE, POLICY, MODEL]
    assert found.events[0].digest == found.manifest.digest
    assert set(found.manifest.files) == {"decentral/__init__.py", "decentral/core/merge.py", "nodes/stage.py"}
    assert len(found.image) == 48


CHANGES = {
    "code": (0, "code/decentral/core/merge.py"),
    "a program": (0, "code/nodes/stage.py"),
    "another module": (0, "code/decentral/core/more.py"),
    "recipe": (1, "cluster/recipe.yaml"),
    "policy": (2, "cluster/policy.toml"),
    "model": (3, "cluster/stages/stage-0.safetensors"),
    "another part of the model": (3, "cluster/stages/stage-1.safetensors"),
}


@pytest.mark.parametrize(("place", "file"), CHANGES.values(), ids=CHANGES)
def test_each_change_is_seen_in_its_event_alone(
    measurer: Measurer, process: Running, tmp_path: Path, place: int, file: str
) -> None:
    before = measurer.measure(process)
    (tmp_path / file).write_text("changed!!")
    after = measurer.measure(process)
    assert [one != other for one, other in zip(before.events, after.events, strict=True)] == [
        index == place for index in range(4)
    ]
    assert after.image == before.image


def test_a_change_that_keeps_size_and_time_is_seen(measurer: Measurer, process: Running) -> None:
    file = process.package / "core" / "merge.py"
    before, was = measurer.measure(process), file.stat()
    file.write_text("def merge(): ,,,")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert file.stat().st_size == was.st_size
    assert measurer.measure(process).events != before.events


def test_what_has_not_changed_is_not_read_again(
    measurer: Measurer, process: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = measurer.measure(process)
    for reading in ("measured", "content_event", "image"):
        monkeypatch.setattr(measuring, reading, lambda *_: pytest.fail("read again"))
    assert measurer.measure(process) == before


def test_what_is_not_there_is_not_measured(process: Running, tmp_path: Path) -> None:
    assert [event.name for event in Measurer(tmp_path / "nothing").measure(process).events] == [CODE]


def test_names_in_a_folder_count(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, name in ((one, "a"), (other, "b")):
        folder.mkdir()
        (folder / name).write_bytes(b"same")
    first, second = (measuring.content_event(MODEL, folder) for folder in (one, other))
    assert first != second


def test_what_cannot_be_read_is_an_error_that_names_it(measurer: Measurer, process: Running, tmp_path: Path) -> None:
    (tmp_path / "cluster" / "stages" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="stages/gone: cannot be measured"):
        measurer.measure(process)


def test_a_link_to_a_folder_hides_nothing(measurer: Measurer, process: Running, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cluster" / "stages" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="stages/more: cannot be measured"):
        measurer.measure(process)


def test_what_is_installed_while_it_is_measured_is_seen(
    measurer: Measurer, process: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    images = [measurer.measure(process).image]
    installed = site / "other-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    for record in ("other.py,sha256=a,1\n", "other.py,sha256=bb,1\n"):
        (installed / "RECORD").write_text(record)
        images.append(measurer.measure(process).image)
    assert len(set(images)) == 3


def test_the_image_is_of_interpreter_and_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_bytes(b"ELF")
    first = image(interpreter)
    assert first == image(interpreter)
    interpreter.write_bytes(b"ELF, but another")
    assert image(interpreter) != first
    second = image(interpreter)
    monkeypatch.setattr(measuring.metadata, "distributions", lambda path: [])
    assert image(interpreter) != second


def test_what_a_library_adds_to_the_path_below_its_own_files_changes_no_image(monkeypatch, tmp_path):
    site = tmp_path / "site-packages"
    brought = site / "library" / "brought" / "inner-1.0.dist-info"
    brought.mkdir(parents=True)
    (brought / "METADATA").write_text("Metadata-Version: 2.1\nName: inner\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(site)
    before = image(Path(sys.executable).resolve())
    monkeypatch.syspath_prepend(brought.parent)
    assert image(Path(sys.executable).resolve()) == before
    outer = site / "outer-1.0.dist-info"
    outer.mkdir()
    (outer / "METADATA").write_text("Metadata-Version: 2.1\nName: outer\nVersion: 1.0\n")
    assert image(Path(sys.executable).resolve()) != before
