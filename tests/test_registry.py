"""Names that recipes may use: literal, imported on first use, extended by local code alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from decentral.errors import UserError
from decentral.registry import Registry, load_plugin, nearest


@pytest.fixture
def registry() -> Registry:
    return Registry("thing", {"fraction": "fractions:Fraction", "missing": "no_such_module_of_anybody:thing"})


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    """A user's file; what it leaves behind is forgotten."""
    file = tmp_path / "of_mine.py"
    yield file
    sys.modules.pop("decentral_plugin_of_mine", None)


def test_a_name_is_imported_when_it_is_used_and_not_before(registry: Registry) -> None:
    registry.check("missing")
    assert registry.target("missing") == "no_such_module_of_anybody:thing"
    with pytest.raises(ModuleNotFoundError):
        registry.resolve("missing")
    assert registry.resolve("fraction")(1, 2) == 0.5


@pytest.mark.parametrize(("typed", "meant"), [("fractoin", "did you mean 'fraction'"), ("zzz", "fraction, missing")])
def test_an_unknown_name_offers_the_nearest_or_all(registry: Registry, typed: str, meant: str) -> None:
    for use in (registry.check, registry.target, registry.resolve, registry.construct):
        with pytest.raises(UserError, match=f"unknown thing '{typed}'.*{meant}"):
            use(typed)


def test_what_is_offered_is_near() -> None:
    assert nearest("dimta", ["dimat", "dpsgd"]) == "did you mean 'dimat'?"
    assert nearest("", ["b", "a"]) == "there are: a, b"


def test_a_name_is_given_once(registry: Registry) -> None:
    registry.register("new")(dict)
    assert "new" in registry.names()
    assert registry.resolve("new") is dict
    for name in ("new", "fraction"):
        with pytest.raises(UserError, match="registered already"):
            registry.register(name)(dict)


def test_options_are_checked_against_the_constructor(registry: Registry) -> None:
    @registry.register("box")
    def box(given: int, *, width: int, height: int = 1) -> tuple[int, int, int]:
        return given, width, height

    assert registry.construct("box", 7, width=2) == (7, 2, 1)
    with pytest.raises(UserError, match="does not take depth; its options: width, height"):
        registry.construct("box", 7, width=2, depth=3)
    with pytest.raises(UserError, match="needs width"):
        registry.construct("box", 7)


def test_a_constructor_may_take_every_option(registry: Registry) -> None:
    registry.register("any")(lambda **options: options)
    assert registry.construct("any", width=2, depth=3) == {"width": 2, "depth": 3}


def test_a_plugin_registers_what_it_brings_once(plugin: Path) -> None:
    plugin.write_text("import sys\nsys.loaded_of_mine = getattr(sys, 'loaded_of_mine', 0) + 1\n")
    try:
        load_plugin(plugin)
        load_plugin(str(plugin))
        assert sys.loaded_of_mine == 1  # type: ignore[attr-defined]
    finally:
        del sys.loaded_of_mine  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["nowhere.py", "of_mine.txt"])
def test_a_plugin_that_is_no_python_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "of_mine.txt").write_text("not Python")
    with pytest.raises(UserError, match="--plugin"):
        load_plugin(tmp_path / name)


@pytest.mark.parametrize("content", ["1 / 0", "def broken(:", "import a_module_that_nobody_has"])
def test_an_error_in_a_plugin_is_told_in_one_line_and_can_be_mended(tmp_path: Path, content: str) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(content)
    for _ in range(2):
        with pytest.raises(UserError, match=r"mine\.py"):
            load_plugin(plugin)
    plugin.write_text("MENDED = True")
    load_plugin(plugin)
