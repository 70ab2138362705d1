"""The files that are not modules are found in a checkout and in an installed wheel, and never taken from others."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral import locate


def test_a_checkout_has_them_beside_the_package(root: Path) -> None:
    for name in ("recipes", "nodes", "cluster"):
        assert locate.folder(name) == root / name


def test_a_wheel_has_them_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "decentral" / "_data" / "nodes"
    inside.mkdir(parents=True)
    monkeypatch.setattr(locate, "PACKAGE", tmp_path / "decentral")
    assert locate.folder("nodes") == inside


def test_a_package_of_that_name_beside_an_installed_one_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decentral").mkdir()
    (tmp_path / "nodes").mkdir()
    monkeypatch.setattr(locate, "PACKAGE", tmp_path / "decentral")
    with pytest.raises(FileNotFoundError, match="carries no nodes/"):
        locate.folder("nodes")
