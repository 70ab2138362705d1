"""Events of all kinds for laws: sound ones of a few peers, and whatever else a stranger might write."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

PEERS = 5

numbers = st.integers(0, 40)
peers = st.integers(0, PEERS - 1)
shares = st.none() | st.floats(0, 1, allow_nan=False)
words = st.text(max_size=12)
counts = st.builds(
    lambda model, control: {"model": model, "control": control, "evidence": 0, "total": model + control},
    st.integers(0, 10**9),
    st.integers(0, 10**6),
)
crowd = st.lists(peers, max_size=4)
FIELDS: dict[str, dict[str, Any]] = {
    "started": {"round": numbers, "resumed": st.booleans(), "rejoined": st.booleans()},
    "phase": {"round": numbers, "phase": st.sampled_from(["train", "exchange", "merge", "evaluate", "elsewhere"])},
    "trained": {"round": numbers, "loss": shares, "samples": numbers, "seconds": st.floats(0, 9)},
    "abandoned": {"round": numbers, "seconds": st.floats(0, 9)},
    "exchanged": {"round": numbers, "received": crowd, "missing": crowd, "seconds": st.floats(0, 9)},
    "merged": {"round": numbers, "weights": st.dictionaries(peers.map(str), shares), "seconds": st.floats(0, 9)},
    "sampled": {"round": numbers, "participants": crowd, "aggregators": crowd, "candidates": numbers, "view": words},
    "sent": {"round": numbers, "tag": st.sampled_from(["local", "average"]), "view": numbers, "bytes": counts},
    "evaluated": {"round": numbers, "accuracy": shares, "loss": shares},
    "round": {"round": numbers, "bytes": counts},
    "finished": {"round": numbers, "bytes": counts},
    "lost": {"round": numbers, "other": peers},
    "refused": {"round": numbers, "other": peers, "reason": words},
    "rejected": {"round": numbers, "other": peers, "reason": words},
    "failed": {"problem": words, "user": st.booleans()},
    "load": dict.fromkeys(("waiting", "answered", "declined", "proofs"), numbers)
    | {"refused": st.dictionaries(words, numbers, max_size=3)},
    "alone": {"round": numbers},
    "cut_off": {"round": numbers},
}
LAUNCHERS: dict[str, dict[str, Any]] = {
    "launched": {"round": numbers},
    **{name: {"other": peers} for name in ("crashed", "rejoined", "left", "joined")},
}
times = st.floats(0, 1000, allow_nan=False)


def _of(name: str, peer: Any, fields: dict[str, Any]) -> Any:
    return st.fixed_dictionaries({"t": times, "peer": peer, "event": st.just(name), **fields})


sound = st.one_of(
    *(_of(name, peers, fields) for name, fields in FIELDS.items()),
    *(_of(name, st.none(), fields) for name, fields in LAUNCHERS.items()),
)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def _spoilt(event: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {**event, key: value}


strange = json | st.builds(
    _spoilt, sound, st.sampled_from(["t", "peer", "event", "round", "other", "bytes", "view"]), json
)
"""Anything, and sound events with one field of another kind."""
anything = sound | strange
