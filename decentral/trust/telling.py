"""What was found of a receipt, for people and programs, with the names that a trust file gives to peers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from decentral.trust.anchors import Anchors
from decentral.trust.evidence import Fault
from decentral.trust.examination import Examination
from decentral.trust.receipt import Receipt


def parts(receipt: Receipt, anchors: Anchors, found: Examination) -> list[dict[str, Any]]:
    """Who was asked about each part, whose answers the counting one is among, and who else was asked."""
    names = {peer.id: peer.name for peer in anchors.peers}
    told = []
    for exchange, judgement in zip(receipt.transcript.exchanges, found.judgements, strict=True):
        asked = [_name(names, node) for node in exchange.asked]
        counts = judgement.answer is not None
        agree = [_name(names, node) for node in exchange.asked if counts and node in judgement.vote.near]
        others = [name for name in asked if name not in agree]
        told.append({"part": exchange.step.part, "asked": asked, "agree": agree, "others": others})
    return told


def faults(anchors: Anchors, found: Iterable[Fault]) -> list[dict[str, str]]:
    """What peers did wrong, by name and id, each once."""
    names = {peer.id: peer.name for peer in anchors.peers}
    told = [
        {
            "kind": fault.kind.value,
            "node": _name(names, fault.node),
            "id": fault.node,
            "part": fault.part,
            "detail": fault.detail,
        }
        for fault in found
    ]
    return [each for place, each in enumerate(told) if each not in told[:place]]


def moment(seconds: int) -> str:
    """A time since 1970 as people write it, whatever a client says that it was."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"


def _name(names: Mapping[Any, str], node: str) -> str:
    """As the trust file calls it."""
    return names.get(node, f"{node[:12]}…")
