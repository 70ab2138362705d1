"""DIMAT: merge with the neighbours by activation matching, then train.

Saadati et al., CVPR 2024 (arXiv 2404.08079), algorithm 1: each neighbour's hidden units are permuted into the basis of
the receiving peer, theta_i = sum_j W_ij P_ij(theta_j) with P_ii the identity; BatchNorm statistics are re-estimated.
Activations are computed by the receiver on its own images; only parameters travel.
"""

from __future__ import annotations

from functools import partial

from decentral.algorithms.base import Peer, SynchronousRounds, exchange, module_work_of, renormalise
from decentral.errors import DecentralError, UserError
from decentral.training.activations import NotFinite
from decentral.training.module_work import ModuleWork


class DIMAT(SynchronousRounds):
    """Averaging after alignment. The peer itself is always the reference; neighbours are aligned independently."""

    def __init__(self) -> None:
        self._work: ModuleWork | None = None
        self._repairs = False

    async def run(self, peer: Peer) -> None:
        self._work = module_work_of(peer, "the algorithm dimat")
        try:
            self._repairs = self._work.repairs(peer.matching_repair)
        except ValueError as error:
            raise UserError(f"matching.repair: {error}; auto takes note of that") from error
        await super().run(peer)

    async def mix(self, peer: Peer, round: int) -> None:
        models = await exchange(peer, round)
        peer.phase(round, "merge")
        began = peer.clock.now()
        assert self._work is not None
        moved, weights = None, None
        while weights is None:
            weights = renormalise(peer.weights, models.keys(), peer.index)
            others = [index for index in models if index != peer.index]
            merge = partial(
                self._work.merge,
                [models[index].tensors for index in others],
                [weights[index] for index in (peer.index, *others)],
                method=peer.matching_method,
                statistics=peer.matching_statistics,
                repair=peer.matching_repair,
            )
            # Every model once, and the merged one for its statistics; REPAIR looks at all of them once more.
            passes = (1 + len(models)) * (1 + self._repairs) - (peer.matching_statistics == "average")
            try:
                moved = await peer.clock.work(merge, peer.pace.forward(self._work.samples) * passes)
            except NotFinite as error:
                if error.network is None:
                    raise DecentralError(f"peer {peer.index}, round {round}: {error}") from error
                # Finite numbers with which nothing can be computed: as if that model had not come.
                del models[others[error.network]]
                weights = None
        peer.journal.record("merged", round=round, weights=weights, moved=moved, seconds=peer.clock.now() - began)
