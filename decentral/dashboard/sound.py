"""Which events may count: what nodes write down comes from others, and its form is checked before it is used.

Of an event that passes every field that is read later has the type that it is read with, and a bounded size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from decentral.run.course import CARRIED
from decentral.run.journal import Event

MOST_PEERS = 4096
"""Peers that are told apart; events of others are left out."""
MOST_TEXT = 300
"""Characters of a name or a reason that are kept."""
MOST_NAMED = 1024
"""Peers that one event may name."""
KINDS = frozenset({"total", *CARRIED})
WHOLE = 2**53
"""From here on JSON's readers do not agree on numbers."""

Check = Callable[[Any], bool]


def whole(value: object) -> bool:
    return type(value) is int and 0 <= value < WHOLE


def number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < WHOLE  # type: ignore[arg-type]


def measured(value: object) -> bool:
    """A number that may have been not finite."""
    return value is None or number(value)


def index(value: object) -> bool:
    return type(value) is int and 0 <= value < MOST_PEERS


def indices(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= MOST_NAMED and all(map(index, value))


def text(value: object) -> bool:
    return isinstance(value, str)


def counts(value: object) -> bool:
    """Bytes by what they carried."""
    return isinstance(value, Mapping) and "total" in value and value.keys() <= KINDS and all(map(whole, value.values()))


def tallies(value: object) -> bool:
    """How many by reason."""
    return isinstance(value, Mapping) and len(value) <= 64 and all(map(whole, value.values()))


def weights(value: object) -> bool:
    """By index, as JSON has it: a text."""
    return isinstance(value, Mapping) and len(value) <= MOST_NAMED and all(_is_index(key) for key in value)


def _is_index(key: object) -> bool:
    return isinstance(key, int | str) and str(key).isdecimal() and len(str(key)) < 5 and int(key) < MOST_PEERS


FIELDS: Mapping[str, Mapping[str, Check]] = {
    "started": {"round": whole},
    "phase": {"round": whole, "phase": text},
    "trained": {"round": whole, "loss": measured, "samples": whole},
    "abandoned": {"round": whole},
    "exchanged": {"round": whole},
    "merged": {"round": whole, "weights": weights, "seconds": number},
    "sampled": {
        "round": whole,
        "participants": indices,
        "aggregators": indices,
        "candidates": whole,
        "view": text,
    },
    "sent": {"round": whole, "tag": text, "view": whole, "bytes": counts},
    "evaluated": {"round": whole, "accuracy": measured, "loss": measured},
    "round": {"round": whole, "bytes": counts},
    "finished": {"round": whole, "bytes": counts},
    "lost": {"round": whole, "other": index},
    "returned": {"round": whole, "other": index},
    "refused": {"round": whole, "other": index, "reason": text},
    "rejected": {"round": whole, "other": index, "reason": text},
    "failed": {"problem": text},
    "serving": {"part": text},
    "misbehaves": {"behaviour": text},
    "load": {"waiting": whole, "answered": whole, "declined": whole, "proofs": whole, "refused": tallies},
    "crashed": {"other": index},
    "rejoined": {"other": index},
    "left": {"other": index},
    "joined": {"other": index},
}
"""What is read of each event; of those that are not named here nothing but the round."""
OF_PEERS = frozenset(FIELDS) - {"crashed", "rejoined", "left", "joined"}
"""Events that a peer writes down about itself."""
LONG = ("view", "phase")
"""Texts that are compared: a long one is cut for good."""


def sound(event: object) -> bool:
    """Whether an event has the form that its name says."""
    if not isinstance(event, Mapping) or not isinstance(event.get("event"), str):
        return False
    peer, at = event.get("peer"), event.get("t")
    if not (peer is None or index(peer)) or not number(at) or not math.isfinite(at):  # type: ignore[arg-type]
        return False
    if event["event"] in OF_PEERS and peer is None:
        return False
    fields = {"round": whole, **FIELDS.get(event["event"], {})}
    given = {"round": 0, **event} if "round" not in FIELDS.get(event["event"], {}) else event
    return all(name in given and check(given[name]) for name, check in fields.items()) and _short(event)


def _short(event: Event) -> bool:
    return all(len(event[name]) <= MOST_TEXT for name in LONG if isinstance(event.get(name), str))


def clipped(words: str) -> str:
    """As much of a text as is kept."""
    return words if len(words) <= MOST_TEXT else f"{words[: MOST_TEXT - 1]}…"
