"""YAML that remembers where each value stood, so that an error can name its line.

Only what a recipe needs is read: mappings, lists and plain scalars as YAML 1.2 means them (`12.5e6` is a number, `no`
is a word). Anchors, aliases and tags are refused before anything is built, and so are big or deep files.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from decentral.errors import RecipeError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16

Key = tuple[str | int, ...]
"""The way to a value: names of mappings, indices of lists."""

_PREFIX = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
_SCALARS = {
    "null": (re.compile(r"(null|Null|NULL|~|)$"), ["n", "N", "~", ""]),
    "bool": (re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"[-+]?[0-9]+$"), list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
}


class _Loader(yaml.SafeLoader):
    """Composes nodes; values are read from them by `_Reader`."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the library's own class attribute


class _Dumper(yaml.SafeDumper):
    """Quotes what any reader, of YAML 1.1 or 1.2, would take for something else than text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_PREFIX + _tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_PREFIX + _tag, _pattern, _first)
_LINE_BREAKS = {"\x85", "\u2028", "\u2029"}
"""Which PyYAML would write into quotes of one kind and read back as spaces; those of the other kind escape them."""
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(f"{_PREFIX}str", text, style='"' if _LINE_BREAKS & {*text} else None),
)
_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence(f"{_PREFIX}seq", items, flow_style=True))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: a file and its line, or a `--set` of the command line."""

    file: str
    line: int | None = None


@dataclass(slots=True)
class Document:
    """Plain values, and the place of each by its key."""

    file: str
    values: dict[str, Any]
    places: dict[Key, Place] = field(default_factory=dict)

    def error(self, problem: str, key: Key) -> RecipeError:
        """An error at `key`, or at the nearest enclosing key that was written down anywhere."""
        prefixes = (key[:length] for length in range(len(key), 0, -1))
        place = next((self.places[prefix] for prefix in prefixes if prefix in self.places), Place(self.file))
        return RecipeError(problem, key=".".join(map(str, key)) or None, file=place.file, line=place.line)

    @contextlib.contextmanager
    def placing(self) -> Iterator[None]:
        """Around what does not know the file: an error that names a key is given its place."""
        try:
            yield
        except RecipeError as error:
            if error.key is None or error.file is not None:
                raise
            raise self.error(error.problem, tuple(error.key.split("."))) from error

    def replace(self, key: Key, place: Place) -> None:
        """Notes that the value at `key`, and all below it, now comes from `place`."""
        for known in [known for known in self.places if known[: len(key)] == key]:
            del self.places[known]
        self.places[key] = place


def read_file(path: Path) -> Document:
    """Raises RecipeError, with the line, for anything that is not a plain mapping of YAML."""
    name = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=name) from error
    if len(data) > MAX_BYTES:
        raise RecipeError(f"longer than {MAX_BYTES // 1024} KiB, which no recipe is", file=name)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError("is not UTF-8 text", file=name, line=line) from error
    document = Document(name, {})
    values = _Reader(name, document.places).read(text)
    if not isinstance(values, dict):
        found = "nothing" if values is None else "a list" if isinstance(values, list) else "a single value"
        raise RecipeError(f"a recipe is a mapping of keys to values; there is {found} here", file=name, line=1)
    document.values = values
    return document


def read_value(text: str, origin: str) -> Any:
    """One value, as after `--set key=`."""
    if len(text) > MAX_BYTES:
        raise RecipeError("the value is too long", file=origin[:60])
    return _Reader(origin, {}, lines=False).read(text)


def dump(values: Mapping[str, Any]) -> str:
    """YAML in the order of `values`, one key a line, lists in brackets."""
    return yaml.dump(
        dict(values), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110
    )


class _Reader:
    """Reads one text; notes the line of each key in `places`."""

    def __init__(self, file: str, places: dict[Key, Place], lines: bool = True):
        self._file, self._places, self._lines = file, places, lines

    def read(self, text: str) -> Any:
        try:
            self._screen(text)
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = error.problem or "is not YAML"
            if mark is not None and "'\\t'" in problem:
                problem = "a tab where YAML wants spaces"
            raise self._error(problem, mark.line if mark is not None else None) from error
        except yaml.YAMLError as error:
            raise self._error(f"is not YAML: {str(error).splitlines()[0]}", None) from error
        return None if node is None else self._value(node, ())

    def _screen(self, text: str) -> None:
        """Refuses what could grow or build objects, on the stream of events, before anything is built."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line if event.start_mark is not None else None
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise self._error("anchors and aliases are not read in recipes", line)
            if getattr(event, "tag", None) is not None:
                raise self._error("tags (`!...`) are not read in recipes", line)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise self._error(f"nested deeper than {MAX_DEPTH} levels", line)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _value(self, node: yaml.Node, key: Key) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*key, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line
            if not isinstance(name_node, yaml.ScalarNode) or name_node.tag != f"{_PREFIX}str":
                raise self._error("a key must be a word", line, key)
            name = name_node.value
            if name in values:
                raise self._error("is given twice", line, (*key, name))
            if self._lines:
                self._places[(*key, name)] = Place(self._file, line + 1)
            values[name] = self._value(value_node, (*key, name))
        return values

    def _scalar(self, node: yaml.Node, key: Key) -> Any:
        text = str(node.value)
        match node.tag.removeprefix(_PREFIX):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                if len(text) > 30:
                    raise self._error("the number has too many digits", node.start_mark.line, key)
                return int(text)
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case _:
                return text

    def _error(self, problem: str, line: int | None, key: Key = ()) -> RecipeError:
        shown = line + 1 if self._lines and line is not None else None
        return RecipeError(problem, key=".".join(map(str, key)) or None, file=self._file, line=shown)
