"""What a person hears while proofs of an answer are waited for, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from decentral.cli.output import note

if TYPE_CHECKING:
    from decentral.serving.asking.prediction import Proved
    from decentral.serving.asking.proving import Proving

NOT_YET = "not proved yet: its replicas agree on these numbers, and have proved nothing"
NOT_DRAWN = "not proved: the policy wants proofs of some answers, and this was none of them"
QUIET = 10.0
"""Seconds between two lines about one proof."""


class ProofProgress:
    """Told of every proof that is waited for, as often as the client looks; says what is new, or takes long."""

    def __init__(self, names: Mapping[Any, str], say: Callable[[str], None] = note) -> None:
        """`names`: of the peers, by id."""
        self._names, self._say = names, say
        self._told: dict[tuple[str, str], tuple[str, float]] = {}

    def __call__(self, proving: Proving) -> None:
        state, place = proving.state.value, (proving.part, proving.node)
        before, then = self._told.get(place, ("", 0.0))
        if state == before and proving.seconds - then < QUIET:
            return
        self._told[place] = state, proving.seconds
        verb = {"proving": "proving", "proved": "proved", "failed": "no proof of"}[state]
        self._say(f"{verb} {proving.part} ({self._names.get(proving.node, proving.node)}) ... {proving.seconds:.0f} s")


def proof_words(proved: Proved, names: Mapping[Any, str]) -> list[str]:
    """Who proved an answer of circuits, and how far it is from what the model says in floats."""
    who = ", ".join(f"{part} by {names.get(node, node)} in {took:.1f} s" for part, (node, took) in provers(proved))
    lines = [f"proofs: {who}" if who else NOT_YET if proved.pending else NOT_DRAWN]
    if proved.difference is not None:
        lines.append(f"in whole numbers of 2^-{proved.scale}, at most {proved.difference:.2g} from the model in floats")
    return lines


def provers(proved: Proved) -> list[tuple[str, tuple[Any, float]]]:
    """In the order of the parts."""
    return sorted(proved.provers.items())


def plain_proof(proved: Proved | None, names: Mapping[Any, str]) -> dict[str, Any] | None:
    """The same for programs."""
    if proved is None:
        return None
    return {
        "scale": proved.scale,
        "integers": {name: tensor.tolist() for name, tensor in proved.integers.items()},
        "provers": {
            part: {"node": names.get(node, node), "seconds": round(took, 3)} for part, (node, took) in provers(proved)
        },
        "difference": proved.difference,
        "pending": proved.pending,
    }
