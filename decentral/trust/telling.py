"""What was found of a receipt, for people and programs, with the names that a trust file gives to peers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decentral.trust.anchors import Anchors
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


def faults(anchors: Anchors, found: Examination) -> list[dict[str, str]]:
    """What peers did wrong, by name and id."""
    names = {peer.id: peer.name for peer in anchors.peers}
    return [
        {
            "kind": fault.kind.value,
            "node": _name(names, fault.node),
            "id": fault.node,
            "part": fault.part,
            "detail": fault.detail,
        }
        for fault in found.faults
    ]


def _name(names: Mapping[Any, str], node: str) -> str:
    """As the trust file calls it."""
    return names.get(node, f"{node[:12]}…")
