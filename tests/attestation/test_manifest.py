"""Every file that Python could run is in a manifest, under one name wherever it is installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral import canonical, locate
from decentral.attestation.manifest import MAX_MANIFEST, Manifest, differences, measured, own_manifest
from decentral.attestation.report import Flaw, NotGenuine
from decentral.errors import UserError

A, B = "a" * 64, "b" * 64
manifests = st.dictionaries(st.sampled_from(["a.py", "b.py", "c/d.json", "nodes/e.py"]), st.sampled_from([A, B])).map(
    Manifest
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small package with programs beside it."""
    for name, content in {
        "decentral/__init__.py": "one",
        "decentral/wire/codec.py": "two",
        "decentral/run/report.css": "three",
        "decentral/__pycache__/codec.cpython-311.pyc": "made from the source",
        "nodes/stage.py": "four",
        "recipes/digits.yaml": "five",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def of(checkout: Path) -> Manifest:
    return measured(checkout / "decentral", checkout / "nodes")


def test_it_names_every_file_of_the_package_and_of_its_programs(checkout: Path) -> None:
    names = ["decentral/__init__.py", "decentral/run/report.css", "decentral/wire/codec.py", "nodes/stage.py"]
    assert list(of(checkout).files) == names


def test_a_wheel_and_a_checkout_of_the_same_code_have_the_same(tmp_path: Path) -> None:
    """As `pyproject.toml` has the wheel built."""
    wheel = tmp_path / "decentral"
    shutil.copytree(locate.PACKAGE, wheel, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("nodes", "cluster", "recipes"):
        shutil.copytree(locate.PACKAGE.parent / name, wheel / "_data" / name)
    own = own_manifest()
    assert "decentral/attestation/manifest.py" in own.files and "nodes/stage.py" in own.files
    assert not differences(own, measured(wheel, wheel / "_data" / "nodes"))


ADDED = [
    "decentral/wire/codec.cpython-311-x86_64-linux-gnu.so",  # is imported in place of codec.py
    "decentral/evil.pyc",  # is imported without a source
    "decentral/__pycache__/evil.py",
    "decentral/wire/.hidden",
    "decentral/_data/recipes/evil.py",
    "decentral/_data/evil.yaml",
    "nodes/evil.py",
    "nodes/deep/down/evil.json",
]


@pytest.mark.parametrize("name", ADDED)
def test_a_file_that_was_added_is_named(checkout: Path, name: str) -> None:
    reference = of(checkout)
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("evil")
    found = of(checkout)
    assert differences(reference, found).added == (name,)
    assert str(differences(reference, found)) == f"added: {name}"
    assert found.digest != reference.digest


def test_what_changed_and_what_is_missing_is_named(checkout: Path) -> None:
    reference = of(checkout)
    (checkout / "decentral/wire/codec.py").write_text("twO")
    (checkout / "nodes/stage.py").rename(checkout / "nodes/Stage.py")
    found = differences(reference, of(checkout))
    assert (found.changed, found.missing, found.added) == (
        ("decentral/wire/codec.py",),
        ("nodes/stage.py",),
        ("nodes/Stage.py",),
    )
    assert str(found) == "changed: decentral/wire/codec.py; missing: nodes/stage.py; added: nodes/Stage.py"


def test_recipes_and_bytecode_are_no_code(checkout: Path) -> None:
    reference = of(checkout)
    (checkout / "recipes/digits.yaml").write_text("another choice")
    (checkout / "decentral/_data/recipes").mkdir(parents=True)
    (checkout / "decentral/_data/recipes/mine.yaml").write_text("my choice")
    (checkout / "decentral/__pycache__/codec.cpython-311.pyc").write_text("made again")
    assert not differences(reference, of(checkout))


def test_only_what_is_there_counts_and_not_when_or_in_which_order_it_was_written(checkout: Path) -> None:
    reference = of(checkout)
    codec = checkout / "decentral/wire/codec.py"
    codec.unlink()
    codec.write_text("two")
    os.utime(codec, (0, 0))
    codec.chmod(0o600)
    assert of(checkout) == reference and of(checkout).digest == reference.digest


def test_a_link_is_refused_wherever_it_leads(checkout: Path) -> None:
    for name, target in (("decentral/link.py", "__init__.py"), ("nodes/folder", ".."), ("nodes/none.py", "nothing")):
        (checkout / name).symlink_to(target)
        with pytest.raises(UserError, match=rf"{name}: .*link"):
            of(checkout)
        (checkout / name).unlink()
    assert of(checkout)


def test_a_pipe_is_refused_and_not_waited_for(checkout: Path) -> None:
    os.mkfifo(checkout / "decentral/pipe.py")
    with pytest.raises(UserError, match="no ordinary file"):
        of(checkout)


@pytest.mark.parametrize("name", ["decentral/wire/codec.py", "decentral/wire"])
def test_what_cannot_be_read_is_said(checkout: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a call that fails: tests may run as root, who reads everything."""

    def denied(call: object) -> object:
        def refuse(path: Path, *rest: object) -> object:
            if path == checkout / name:
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *rest)  # type: ignore[operator]

        return refuse

    monkeypatch.setattr(os, "open", denied(os.open))
    monkeypatch.setattr(os, "scandir", denied(os.scandir))
    with pytest.raises(UserError, match=f"{name}: cannot be measured .Permission denied."):
        of(checkout)


def test_a_file_whose_name_is_no_text_is_refused(checkout: Path) -> None:
    (checkout / os.fsdecode(b"decentral/\xff.py")).write_text("evil")
    with pytest.raises(UserError, match="no such name"):
        of(checkout)


def test_two_sets_of_programs_are_refused(checkout: Path) -> None:
    inside = checkout / "decentral/_data/nodes"
    inside.mkdir(parents=True)
    (inside / "stage.py").write_text("four")
    with pytest.raises(UserError, match="carries programs"):
        of(checkout)
    assert "nodes/stage.py" in measured(checkout / "decentral", inside).files


def test_an_installation_without_programs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decentral").mkdir()
    monkeypatch.setattr(locate, "PACKAGE", tmp_path / "decentral")
    with pytest.raises(UserError, match="carries no nodes/"):
        own_manifest()


@given(manifests)
def test_what_is_written_is_read_again(manifest: Manifest) -> None:
    assert Manifest.parse(manifest.encoded()) == manifest
    assert len(manifest.digest) == 48


@given(manifests, manifests)
def test_manifests_differ_where_their_digests_do(one: Manifest, other: Manifest) -> None:
    found = differences(one, other)
    assert bool(found) == (one.digest != other.digest) == bool(differences(other, one))
    assert differences(other, one).missing == found.added


LIES = {
    "no JSON": b"{",
    "spaces": canonical.encode({"files": {"a.py": A}}).replace(b":", b": "),
    "trailing bytes": canonical.encode({"files": {"a.py": A}}) + b"\n",
    "a list": canonical.encode([]),
    "another key": canonical.encode({"files": {}, "more": 1}),
    "no mapping": canonical.encode({"files": []}),
    "no digest": canonical.encode({"files": {"a.py": 1}}),
    "a short digest": canonical.encode({"files": {"a.py": A[1:]}}),
    "a digest in capitals": canonical.encode({"files": {"a.py": A.upper()}}),
    "a digest and a line": canonical.encode({"files": {"a.py": A + "\n"}}),
    "a way up": canonical.encode({"files": {"../a.py": A}}),
    "an absolute name": canonical.encode({"files": {"/a.py": A}}),
    "a name with control characters": canonical.encode({"files": {"a\x1b[31m.py": A}}),
    "a name that is no text": b'{"files":{"\\ud800":"' + A.encode() + b'"}}',
    "a long name": canonical.encode({"files": {"a" * 401: A}}),
    "too many files": canonical.encode({"files": {str(number): A for number in range(10_001)}}),
    "too many bytes": b" " * (MAX_MANIFEST + 1),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_is_no_manifest_is_refused(lie: bytes) -> None:
    with pytest.raises(NotGenuine) as caught:
        Manifest.parse(lie)
    assert caught.value.flaw is Flaw.MALFORMED
