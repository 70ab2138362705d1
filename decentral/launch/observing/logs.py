"""What a node writes to its standard error: lines for people, or one JSON object a line for machines.

For machines its journal is among it, so that whoever collects logs, as container engines do, needs nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from decentral.errors import UserError
from decentral.run.journal import Event

VARIABLE = "DECENTRAL_LOG"
"""`json` or `text`; nodes inherit it from who starts them."""
FORMATS = ("text", "json")
WARNINGS = (
    "lost",
    "refused",
    "rejected",
    "unrenewed",
    "expired",
    "alone",
    "cut_off",
    "misbehaves",
    "unbelieved",
    "noticed",
)
"""Events that are worth a look."""
ERRORS = ("failed", "revoked")
_EVENTS = logging.getLogger("decentral.events")


class JsonLines(logging.Formatter):
    """`time` (UTC), `level`, `node`, `event` and `fields`; what is no event is one of the name `log`."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        event, fields = getattr(record, "event", "log"), dict(getattr(record, "fields", {}))
        if event == "log":
            fields = {"message": record.getMessage(), "logger": record.name}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "node": self._node,
            "event": event,
            "fields": fields,
        }
        return json.dumps(line, default=str)


def check_format(said: str) -> str:
    """Raises UserError."""
    if said not in FORMATS:
        raise UserError(f"--log-format {said}: must be {' or '.join(FORMATS)}")
    return said


def for_machines(environment: Mapping[str, str] = os.environ) -> bool:
    return environment.get(VARIABLE, "text") == "json"


def write_logs(node: str = "") -> None:
    """Has this process log to its standard error, as it is told to; again once it is known which `node` it is."""
    root = logging.getLogger()
    for ours in [handler for handler in root.handlers if isinstance(handler, _Ours)]:
        root.removeHandler(ours)
    handler = _Ours(sys.stderr)
    if for_machines():
        handler.setFormatter(JsonLines(node))
        _EVENTS.setLevel(logging.INFO)
    root.addHandler(handler)


def log_event(event: Event) -> None:
    """An observer of the journal, for machines alone: people have `decentral status`."""
    what = event["event"]
    level = logging.ERROR if what in ERRORS else logging.WARNING if what in WARNINGS else logging.INFO
    fields = {key: value for key, value in event.items() if key not in ("event", "peer")}
    _EVENTS.log(level, "%s", what, extra={"event": what, "fields": fields})


class _Ours(logging.StreamHandler[Any]):
    """Told apart from those of others."""
