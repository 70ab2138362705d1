"""A folder of receipts, each found out again under the trust file of the cluster: whether it counts, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral.dashboard.sound import clipped
from decentral.errors import DecentralError

if TYPE_CHECKING:
    from decentral.trust.anchors import Anchors
    from decentral.trust.examination import Examination
    from decentral.trust.policy import Policy
    from decentral.trust.receipt import Receipt

NEWEST = 12
"""Receipts that are shown."""
LOOKED_AT = 2000
"""Files of a folder that are looked at."""
MOST_REASONS = 8

Stamp = tuple[str, int, int, int]


class Receipts:
    """Those of a folder, which may not be there yet. `trust`: its trust file; `policy`: what an answer needs, if the
    file is there; `simulated`: whether simulated evidence counts."""

    def __init__(self, folder: Path, trust: Path, policy: Path, *, simulated: bool = False) -> None:
        self._folder, self._trust, self._policy, self._simulated = folder, trust, policy, simulated
        self._found: dict[Stamp, dict[str, Any]] = {}

    def look(self) -> list[dict[str, Any]]:
        """The newest first; one that has been verified is not verified again. Blocking."""
        if not self._trust.exists():
            return []
        kept: dict[Stamp, dict[str, Any]] = {}
        for stamp, file in self._newest():
            kept[stamp] = self._found.get(stamp) or self._verified(file)
        self._found = kept
        return list(kept.values())

    def _newest(self) -> Iterator[tuple[Stamp, Path]]:
        since = self._trust.stat().st_mtime_ns
        found = []
        if self._folder.is_dir():
            for _, file in zip(range(LOOKED_AT), self._folder.iterdir(), strict=False):
                if not file.name.startswith(".") and file.is_file():
                    about = file.stat()
                    found.append(((file.name, about.st_mtime_ns, about.st_size, since), file))
        found.sort(key=lambda each: each[0][1], reverse=True)
        yield from found[:NEWEST]

    def _verified(self, file: Path) -> dict[str, Any]:
        from decentral.trust.anchors import Anchors
        from decentral.trust.policy import Policy
        from decentral.trust.receipt import Receipt, check

        told = {"name": clipped(file.name), "at": int(file.stat().st_mtime)}
        try:
            policy = Policy.load(self._policy) if self._policy.exists() else Policy()
            if self._simulated:
                policy = replace(policy, allow_simulated=True)
            receipt, anchors = Receipt.load(file), Anchors.load(self._trust)
            return {**told, **_told(receipt, anchors, policy, check(receipt, anchors, policy))}
        except DecentralError as error:
            return {
                **told,
                "valid": False,
                "reasons": [clipped(str(error).replace(str(file), file.name))],
                "parts": [],
                "faults": [],
            }


def _told(receipt: Receipt, anchors: Anchors, policy: Policy, found: Examination) -> dict[str, Any]:
    from decentral.trust import telling

    faults = telling.faults(anchors, found.faults)
    return {
        "valid": found.verdict.valid,
        "reasons": [clipped(reason) for reason in found.verdict.reasons[:MOST_REASONS]],
        "parts": telling.parts(receipt, anchors, found),
        "faults": [{**fault, "detail": clipped(fault["detail"])} for fault in faults],
        "require": sorted(kind.value for kind in policy.require),
        "simulated": any(each.simulated for each in found.findings),
        "asked": clipped(telling.moment(receipt.transcript.order.time)),
        "inputs": len(receipt.transcript.exchanges),
    }
