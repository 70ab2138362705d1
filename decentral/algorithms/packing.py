"""Models as they travel: written for those who get them, and read again with what the receiver holds.

What a sparse message left out is not lost. Among neighbours it stays in the sender's own model, and counts as a change
until it is said, as in CHOCO-SGD (arXiv 1902.00340). Where the model is replaced by an aggregate, it is added to the
next message (error feedback). Both memories are part of checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decentral.core.compression import Unsound, compensated, heavy, left_out, unpack
from decentral.core.encodings import Encoding
from decentral.core.finite import finite
from decentral.core.seeds import derive_seed
from decentral.training.learner import State
from decentral.wire.messages import Model

if TYPE_CHECKING:
    from decentral.algorithms.base import Peer

SAID, LEFT, HEARD = "said/", "left/", "heard/"
"""What names of an algorithm's memory begin with: what neighbours were told; what is still to be said; what was heard,
with the neighbour's index."""


async def for_neighbours(peer: Peer, model: Model, to: frozenset[int]) -> list[tuple[frozenset[int], Model]]:
    """A peer's model as each of the receivers gets it.

    Who has only begun to count on this peer gets all of it, and so does everybody the first time.
    """
    write = peer.encoding
    if write.plain or not to:
        return [(to, model)]
    if write.whole is write:
        return [(to, await peer.clock.work(lambda: written(peer, write, model), 0.0))]
    known = remembered(peer, SAID)
    old = to & peer.session.present(model.round - 1) if known else frozenset[int]()

    def prepare() -> list[tuple[frozenset[int], Model]]:
        base = {**model.tensors, **known}
        parts = [(old, write), (to - old, write.whole)]
        letters = [(some, written(peer, form, model, base)) for some, form in parts if some]
        understood = unpack(letters[0][1].tensors, base)
        remember(peer, SAID, matrices(understood))
        return letters

    return await peer.clock.work(prepare, 0.0)


async def for_all(peer: Peer, model: Model) -> Model:
    """A whole model as anybody can read it."""
    if peer.encoding.plain:
        return model
    return await peer.clock.work(lambda: written(peer, peer.encoding.whole, model), 0.0)


def as_read(peer: Peer, model: Model) -> dict[str, Tensor]:
    """What everybody makes of a whole model that this peer sends; whoever goes on with that stays one with them.

    Blocking. Written again, it is written the same.
    """
    return unpack(written(peer, peer.encoding.whole, model).tensors, model.tensors)


def for_aggregator(peer: Peer, model: Model, base: State | None, left: State) -> Model:
    """A peer's model, and what earlier messages `left` out; whole without a `base` that the aggregator has too.

    Blocking. The peer remembers what this message leaves out.
    """
    write = peer.encoding
    if write.whole is write:
        return written(peer, write, model)
    wanted = replace(model, tensors=compensated(model.tensors, left))
    letter = written(peer, write.whole if base is None else write, wanted, base)
    remember(peer, LEFT, left_out(wanted.tensors, unpack(letter.tensors, base or wanted.tensors)))
    return letter


def written(peer: Peer, write: Encoding, model: Model, base: State | None = None) -> Model:
    """A model in an encoding. Blocking. Its noise is drawn for this peer, round and tag, so all worlds write alike."""
    if write.plain:
        return model
    seed = derive_seed(peer.layout.seed, "exchange", peer.index, model.round, model.tag)
    generator = torch.Generator().manual_seed(seed)
    return replace(model, tensors=write(model.tensors, model.tensors if base is None else base, generator))


def known_of(peer: Peer, others: Collection[int]) -> dict[int, State]:
    """The matrices of others, as far as all their messages together told them."""
    return {other: remembered(peer, f"{HEARD}{other}/") for other in others}


def matrices(state: State) -> dict[str, Tensor]:
    """What is worth remembering of a model: vectors come whole each time."""
    return {name: tensor for name, tensor in state.items() if heavy(tensor)}


def remembered(peer: Peer, what: str) -> dict[str, Tensor]:
    """The part of the algorithm's memory whose names begin with `what`, without that."""
    return {name.removeprefix(what): tensor for name, tensor in peer.memory.items() if name.startswith(what)}


def remember(peer: Peer, what: str, tensors: Mapping[str, Tensor]) -> None:
    """Replaces that part of the memory."""
    others = {name: tensor for name, tensor in peer.memory.items() if not name.startswith(what)}
    peer.memory = {**others, **{f"{what}{name}": tensor for name, tensor in tensors.items()}}


async def sound(
    peer: Peer, models: Mapping[int, Model], base: State, known: Mapping[int, State] = MappingProxyType({})
) -> dict[int, Model]:
    """The models, read with what this peer holds, `base`, or knows of each sender; who cannot be read is rejected."""

    def look() -> dict[int, Model | str]:
        return {index: read(model, {**base, **known.get(index, {})}) for index, model in models.items()}

    looked = await peer.clock.work(look, 0.0)
    good: dict[int, Model] = {}
    for index, found in looked.items():
        if isinstance(found, Model):
            good[index] = found
        else:
            peer.journal.record("rejected", round=peer.session.round, other=index, reason=found)
    return good


def read(model: Model, base: State) -> Model | str:
    """A model as it came, unpacked; or, in words, why it is not taken."""
    try:
        state = unpack(model.tensors, base)
    except Unsound as problem:
        return str(problem)
    return replace(model, tensors=state) if all(map(finite, state.values())) else "not finite"
