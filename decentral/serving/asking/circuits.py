"""What a client knows of the circuits that prove a model's answers: how inputs become numbers, and what those mean.

It reads that from the file `zk/circuits.json` of the cluster's folder or of a copy of it. Nothing has to be believed of
that file: the trust file pins the identity of every circuit in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from decentral.core.agreement import Tensors
from decentral.errors import Malformed, UserError
from decentral.serving.asking.prediction import UNDECIDED, Proved
from decentral.serving.stages.twin import quantised
from decentral.trust.anchors import Anchors
from decentral.wire.messages import PeerId
from decentral.zk.circuit import FILE as PINNED
from decentral.zk.circuit import Chain, Circuit

FILE = Path("zk", PINNED)


@dataclass(frozen=True, slots=True)
class Circuits:
    """Of the parts that peers compute, in order."""

    parts: tuple[Circuit, ...]

    @classmethod
    def load(cls, folder: Path, anchors: Anchors) -> Circuits | None:
        """Those of a cluster; None where not every part has one that is pinned. Blocking. Raises UserError."""
        pinned = [(part.name, part.circuit) for part in anchors.parts if part.at == "peers"]
        if not pinned or not all(circuit for _, circuit in pinned):
            return None
        file = folder / FILE
        try:
            found = Chain.decode(file.read_bytes()).circuits
        except (Malformed, OSError) as error:
            raise UserError(f"{file}: does not say what the circuits are that the trust file pins ({error})") from error
        return cls.of(found, anchors)

    @classmethod
    def of(cls, circuits: tuple[Circuit, ...], anchors: Anchors) -> Circuits:
        """Raises UserError unless they are those that are pinned."""
        pinned = [(part.name, part.circuit) for part in anchors.parts if part.at == "peers"]
        if len(circuits) != len(pinned):
            raise UserError(f"{len(pinned)} parts are served by peers, and {len(circuits)} circuits are given for them")
        for circuit, (part, identity) in zip(circuits, pinned, strict=True):
            if circuit.identity.hex() != identity:
                raise UserError(f"the circuit that is given for {part} is not the one that is pinned")
        return cls(circuits)

    @property
    def srs(self) -> str:
        """The digest of that on which all of them stand."""
        return self.parts[0].srs

    def taken(self, inputs: Tensors, names: tuple[str, ...]) -> Tensors:
        """Inputs as the first circuit takes them: whole numbers. `names`: in its order. Raises UserError."""
        scales = dict(zip(names, self.parts[0].settings.input_scales, strict=True))
        try:
            return {name: quantised(tensor, scales[name]) for name, tensor in inputs.items()}
        except ValueError as error:
            raise UserError(f"no circuit takes this input: {error}") from error

    def read(
        self, integers: Tensors, provers: Mapping[str, tuple[PeerId, float]], floats: Tensors | None = None
    ) -> Proved:
        """What the last circuit has come to, beside what the model says in floats, if that is known."""
        (scale,) = self.parts[-1].settings.output_scales
        apart = None
        if floats is not None:
            told = numbers(integers, scale)
            apart = max(
                float((told[name] - own.double().cpu()).abs().max())
                for name, own in zip(told, floats.values(), strict=True)
            )
        return Proved(integers, scale, provers, floats, apart)


def numbers(integers: Tensors, scale: int) -> dict[str, Tensor]:
    """What they stand for, in float64."""
    return {name: tensor.double() / 2.0**scale for name, tensor in integers.items()}


def classes(integers: Tensors) -> tuple[int, ...]:
    """The class of each sample: that of the largest number, which no machine could change; UNDECIDED between equals.

    Nothing for what is no classifier's answer (n, classes).
    """
    if len(integers) != 1 or (logits := next(iter(integers.values()))).ndim != 2 or not logits.numel():
        return ()
    largest = logits.amax(1, keepdim=True)
    alone = (logits == largest).sum(1) == 1
    return tuple(torch.where(alone, logits.argmax(1), UNDECIDED).tolist())
