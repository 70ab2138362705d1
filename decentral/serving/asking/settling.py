"""Disputes in a receipt, settled by who has the model: the parts that replicas disagreed about, computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from decentral.errors import UserError
from decentral.serving.stages.model import digest_of, load_stages
from decentral.trust.anchors import Anchors
from decentral.trust.consensus import Tensors
from decentral.trust.transcript import Transcript


@dataclass(frozen=True, slots=True)
class Settled:
    """`references`: in float64, by part, for `trust.receipt.check`; `open`: why other disputed parts have none."""

    references: Mapping[str, Tensors]
    open: Mapping[str, str]


def settle(transcript: Transcript, anchors: Anchors, folder: Path) -> Settled:
    """`folder` holds the stages (`serving.stages.model`). Blocking. Raises UserError where they are not the pinned."""
    places = {part.name: place for place, part in enumerate(anchors.parts)}
    wanted: dict[int, Tensors] = {}
    left: dict[str, str] = {}
    for number, exchange in enumerate(transcript.exchanges):
        part = exchange.step.part
        if not exchange.disputed:
            continue
        if part not in places:
            left[part] = "is no part that is pinned"
        elif (given := transcript.given(number)) is None:
            left[part] = "what it was given is not in the receipt"
        else:
            wanted[places[part]] = given
    stages = load_stages(folder, wanted)
    references: dict[str, Tensors] = {}
    for place, stage in stages.items():
        pinned = anchors.parts[place]
        if digest_of(stage) != pinned.digest:
            raise UserError(f"{folder}: its {pinned.name} is not the one that is pinned")
        try:
            references[pinned.name] = stage.exact(wanted[place])
        except (UserError, ValueError):  # who disagree may have been given anything
            left[pinned.name] = "cannot be computed from what it was given"
    return Settled(references, left)
