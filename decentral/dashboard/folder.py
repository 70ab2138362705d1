"""A run's folder as a source: its journals while they grow, or as they ended, and what lies beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decentral.dashboard.pictures import Pictures
from decentral.dashboard.reading import Reading
from decentral.dashboard.receipts import Receipts
from decentral.dashboard.source import About, about_serving, about_training
from decentral.errors import UserError
from decentral.launch.cluster import is_running
from decentral.run.directory import RunDirectory, ServingDirectory, open_cluster, peer_name
from decentral.run.journal import Event
from decentral.trust.anchors import FILE as TRUST
from decentral.trust.anchors import Anchors
from decentral.trust.policy import FILE as POLICY

RECEIPTS = "receipts"
"""Of a cluster's folder, where receipts are looked for if no other place is said."""
MOST_NODES = 512
"""Nodes that serve and are told apart."""


class FolderSource:
    """Reads only. `receipts`: the folder of a client's receipts; `simulated`: whether simulated evidence counts there.

    Raises RunDirectoryError for a folder that holds no run.
    """

    def __init__(self, folder: Path, receipts: Path | None = None, *, simulated: bool = False) -> None:
        self._run = open_cluster(folder)
        self._reading = Reading(folder)
        self._pictures = Pictures(folder)
        place = folder / RECEIPTS if receipts is None else receipts
        self._receipts = Receipts(place, folder / TRUST, folder / POLICY, simulated=simulated)
        self._reputations: Any = None

    def about(self) -> About:
        if isinstance(self._run, RunDirectory):
            return about_training(self._run.recipe, self._run.world, self._run.path.resolve().name)
        return about_serving(self._run.recipe, self._run.world, self._run.path.resolve().name)

    def poll(self) -> Sequence[Event]:
        return self._reading.poll()

    def facts(self) -> Mapping[str, Any]:
        run = self._run
        facts: dict[str, Any] = {"running": run.in_use, "pictures": self._pictures.look()}
        if isinstance(run, ServingDirectory):
            facts |= {"parts": self._parts(run), "receipts": self._receipts.look()}
            facts["replicas"], facts["ledger"] = self._replicas(run)
        elif run.in_use:
            facts["alive"] = [index for index in range(run.recipe.peers) if is_running(run.nodes / peer_name(index))]
        return facts

    def picture(self, name: str) -> bytes | None:
        return self._pictures.read(name)

    def close(self) -> None:
        if self._reputations is not None:
            self._reputations[0].close()

    def _parts(self, run: ServingDirectory) -> list[dict[str, Any]]:
        """As they are pinned; before that, by name."""
        if not (run.path / TRUST).exists():
            return [{"name": name, "at": "peers"} for name in run.recipe.parts]
        shown = ("name", "at", "digest", "tolerance", "circuit")
        parts = Anchors.load(run.path / TRUST).parts
        return [{key: getattr(part, key) for key in shown} for part in parts]

    def _replicas(self, run: ServingDirectory) -> tuple[list[dict[str, Any]], str]:
        """Each node with its part, whether it runs, what it was told to lie by, and what this machine's client thinks
        of it; and why that is not known, if it is not."""
        recipe, trust = run.recipe, run.path / TRUST
        peers = {peer.name: peer for peer in Anchors.load(trust).peers} if trust.exists() else {}
        known, problem = self._opened(run)
        told = []
        for index, replica in enumerate(recipe.nodes[:MOST_NODES]):
            liar, peer = recipe.liars.get(replica.node), peers.get(replica.node)
            told.append(
                {
                    "index": index,
                    "name": replica.node,
                    "part": recipe.parts[replica.stage],
                    "running": is_running(run.nodes / replica.node),
                    "behaviour": None if liar is None else liar.name,
                    "reputation": None if known is None or peer is None else _reputation(known.of(peer.id)),
                }
            )
        return told, problem

    def _opened(self, run: ServingDirectory) -> tuple[Any, str]:
        """The reputations that the client of this machine has written down, once it has."""
        from decentral.serving.access import CLIENT
        from decentral.serving.selection.ledger import FILE, Ledger
        from decentral.serving.selection.reputation import Reputations

        file = run.path / CLIENT / FILE
        if self._reputations is None and file.exists():
            try:
                ledger = Ledger.open(file)
            except UserError as error:
                return None, str(error)
            self._reputations = ledger, Reputations(ledger)
        return (
            (None, "no client of this machine has asked yet")
            if self._reputations is None
            else (
                self._reputations[1],
                "",
            )
        )


def _reputation(found: Any) -> dict[str, Any]:
    return {
        "score": round(found.score, 3),
        "good": round(found.good, 1),
        "bad": round(found.bad, 1),
        "passed": found.passed,
        "newcomer": found.newcomer,
    }
