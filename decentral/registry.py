"""Names that recipes may use, and how a user adds one.

A registry is a literal table from a name to `module:attribute`; nothing is imported before the name is used, so that
recipes are checked without torch. Local code adds to a registry through an entry point of the group
`decentral.plugins` or through `--plugin FILE`: the operator's choice, never something that came over the network.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from decentral.errors import UserError

T = TypeVar("T", bound=Callable[..., Any])


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error message: what the person may have meant, or all there is."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"


class Registry:
    """A table of names of one kind (`model`, `dataset`, ...)."""

    def __init__(self, kind: str, entries: Mapping[str, str]):
        self.kind = kind
        self._entries: dict[str, str | Callable[..., Any]] = dict(entries)

    def names(self) -> list[str]:
        return sorted(self._entries)

    def check(self, name: str) -> None:
        """Raises UserError that offers the nearest name."""
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} {name!r}; {nearest(name, self._entries)}")

    def target(self, name: str) -> str | Callable[..., Any]:
        """What stands behind a name, not imported: `module:attribute`, or the object that a user registered."""
        self.check(name)
        return self._entries[name]

    def resolve(self, name: str) -> Callable[..., Any]:
        """The object behind a name, imported on first use."""
        self.check(name)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return entry

    def construct(self, name: str, /, *given: Any, **options: Any) -> Any:
        """Calls the constructor behind a name with what we give it and the person's options.

        Raises UserError that names the options it does not take, or those that it needs, beside all that there are.
        """
        constructor = self.resolve(name)
        parameters = [*inspect.signature(constructor).parameters.values()][len(given) :]
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        unknown = [] if takes_all else [option for option in options if option not in {p.name for p in named}]
        needed = [p.name for p in named if p.default is p.empty and p.name not in options]
        if unknown or needed:
            problem = f"does not take {', '.join(unknown)}" if unknown else f"needs {', '.join(needed)}"
            offer = ", ".join(p.name for p in named) or "none"
            raise UserError(f"the {self.kind} {name!r} {problem}; its options: {offer}")
        return constructor(*given, **options)

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds a constructor of the user's. A name is given once."""

        def add(target: T) -> T:
            if name in self._entries:
                raise UserError(f"the {self.kind} {name!r} is registered already")
            self._entries[name] = target
            return target

        return add


def load_plugin(file: Path | str) -> None:
    """Executes a local Python file, so that it registers what it brings. Loading one file twice is loading it once."""
    path = Path(file).resolve()
    name = f"decentral_plugin_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return
    if not path.is_file():
        raise UserError(f"--plugin {file}: no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"--plugin {file}: {type(error).__name__}: {error}") from error


def load_entry_points() -> None:
    """Imports every installed package that announces itself in the group `decentral.plugins`."""
    for entry_point in importlib.metadata.entry_points(group="decentral.plugins"):
        entry_point.load()
