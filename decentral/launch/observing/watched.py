"""What an endpoint shows of a cluster directory: all of its nodes, or one of them. Everything comes from its files."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from decentral.errors import UserError
from decentral.launch.cluster import FILE as CLUSTER
from decentral.launch.cluster import Cluster
from decentral.launch.observing.lines import Lines
from decentral.run.directory import AnyDirectory, ServingDirectory, peer_name
from decentral.run.metrics import Metrics
from decentral.serving.access import CLIENT
from decentral.serving.selection.ledger import FILE as LEDGER
from decentral.serving.selection.ledger import Ledger
from decentral.serving.selection.reputation import Reputations
from decentral.trust.anchors import FILE as TRUST
from decentral.trust.anchors import Anchors

PATIENCE = 1.0
"""Seconds to wait for a client that writes its ledger; without it nothing is shown this time."""


class Watched:
    """A directory and, for an endpoint of one node, that node's index."""

    def __init__(self, directory: AnyDirectory, index: int | None = None) -> None:
        self._directory, self._index = directory, index
        self.metrics = Metrics(self.name_of, lambda: self._epoch)
        self.metrics.describe(directory.recipe.name, directory.recipe.hash, directory.does, directory.world)
        self.lines = Lines(directory.path, None if index is None else self.name_of(index), self.metrics.take)

    def name_of(self, index: int) -> str:
        """Of a node, which may have been added to those of the recipe."""
        names = self._names
        return names[index] if index < len(names) else peer_name(index)

    @property
    def _names(self) -> tuple[str, ...]:
        if isinstance(self._directory, ServingDirectory):
            return self._directory.recipe.node_names
        return tuple(map(peer_name, range(self._directory.recipe.peers)))

    @property
    def _cluster(self) -> Cluster | None:
        """None before there is one, and in the simulator."""
        return Cluster.load(self._directory.path) if (self._directory.path / CLUSTER).exists() else None

    @property
    def _epoch(self) -> float:
        return 0.0 if (cluster := self._cluster) is None else cluster.epoch

    def about(self) -> Mapping[str, Any]:
        """What the events are of, for who has nothing but them."""
        recipe, cluster = self._directory.recipe, self._cluster
        names = self._names if cluster is None else [member.name for member in cluster.members]
        return {
            "decentral": importlib.metadata.version("decentral"),
            "does": self._directory.does,
            "world": self._directory.world,
            "name": recipe.name,
            "hash": recipe.hash,
            "recipe": recipe.model_dump(mode="json"),
            "epoch": None if cluster is None else cluster.epoch,
            "members": [{"index": index, "name": name} for index, name in enumerate(names)],
            "node": self._index,
        }

    def judge(self) -> None:
        """Takes over what this machine's client thinks of the nodes, if it has asked any."""
        ledger, trust = self._directory.path / CLIENT / LEDGER, self._directory.path / TRUST
        if self._index is not None or not ledger.exists():
            return
        with contextlib.suppress(UserError), Ledger.open(ledger, PATIENCE) as opened:
            reputations = Reputations(opened)
            self.metrics.judge({peer.name: reputations.of(peer.id).score for peer in Anchors.load(trust).peers})
