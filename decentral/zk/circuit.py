"""What a verifier pins of a proven model: its circuits, in the order in which they run, and one identity for all.

Nothing of it is ever taken from who proves. Settings are part of it because other scales would read other numbers from
the same proof; the SRS because its maker may be able to forge; ezkl's version because the same words mean another
circuit in another; the proof's length because ezkl accepts bytes after its end.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decentral import canonical
from decentral.errors import Malformed, Refusal
from decentral.zk.arguments import VERSION, Settings, Visibility
from decentral.zk.srs import CEREMONY, LOCAL

FILE = "circuits.json"
"""A chain as it is pinned, in a folder of circuits."""
DOMAIN, CHAIN_DOMAIN = b"decentral zk circuit v1\0", b"decentral zk chain v1\0"
COMPRESSED = 32
Wire = tuple[int, int]
"""The place of a circuit, and the number of one of its outputs."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Where the commitments stand at the beginning of a proof: points of each input, of all parameters, each output."""

    inputs: tuple[int, ...] = ()
    parameters: int = 0
    outputs: tuple[int, ...] = ()

    def of_inputs(self) -> tuple[tuple[int, int], ...]:
        """First point and how many, of each committed input."""
        return _ranges(0, self.inputs)

    def of_parameters(self) -> tuple[int, int]:
        return sum(self.inputs), self.parameters

    def of_outputs(self) -> tuple[tuple[int, int], ...]:
        return _ranges(sum(self.inputs) + self.parameters, self.outputs)


@dataclass(frozen=True, slots=True)
class Circuit:
    """One stage. `key`: ezkl's verifying key. `srs`: digest. `committed`: the parameters' commitments, compressed.

    Raises Malformed where its parts do not go together.
    """

    settings: Settings
    key: bytes
    srs: str
    slots: Slots
    committed: tuple[bytes, ...]
    proof_bytes: int
    version: str = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise Malformed(Refusal.MALFORMED, f"a circuit of ezkl {self.version}; this is {VERSION}")
        if not self.settings.unambiguous:
            raise Malformed(Refusal.MALFORMED, "a circuit whose numbers have more digits than its field can tell apart")
        if not self.settings.linked:
            raise Malformed(Refusal.MALFORMED, "a circuit with products of matrices that whoever proves may choose")
        inputs, parameters, outputs = self.settings.visibilities
        scales = self.settings.input_scales, self.settings.output_scales
        for visibility, points, own in zip(
            (inputs, outputs), (self.slots.inputs, self.slots.outputs), scales, strict=True
        ):
            if len(points) != (len(own) if visibility is Visibility.COMMITTED else 0) or min(points, default=1) < 1:
                raise Malformed(Refusal.MALFORMED, "a circuit whose commitments are not those of its settings")
        if (parameters is Visibility.COMMITTED) != (self.slots.parameters > 0):
            raise Malformed(Refusal.MALFORMED, "a circuit whose parameters are committed, or not, unlike its settings")
        if len(self.committed) != self.slots.parameters or any(len(each) != COMPRESSED for each in self.committed):
            raise Malformed(Refusal.MALFORMED, "a circuit that lacks its parameters' commitments")
        public = (inputs, outputs).count(Visibility.PUBLIC)
        expected = sum(len(own) for own, v in zip(scales, (inputs, outputs), strict=True) if v is Visibility.PUBLIC)
        if len(self.settings.shapes) != expected or (public == 0) != (expected == 0):
            raise Malformed(Refusal.MALFORMED, "a circuit whose public tensors are not those of its settings")

    @property
    def identity(self) -> bytes:
        """SHA-256 over all that decides what a proof for this circuit says."""
        parts = {
            "key": hashlib.sha256(self.key).hexdigest(),
            "settings": self.settings.digest,
            "srs": self.srs,
            "version": self.version,
            "committed": [each.hex() for each in self.committed],
            "slots": _slots(self.slots),
            "proof_bytes": self.proof_bytes,
        }
        return hashlib.sha256(DOMAIN + canonical.encode(parts)).digest()

    @property
    def local(self) -> bool:
        """Whether its SRS was made for tests."""
        return self.srs not in CEREMONY.values()

    @property
    def words(self) -> str:
        """What its proofs stand on."""
        return LOCAL if self.local else f"perpetual powers of tau, 2^{self.settings.logrows}"

    @property
    def public_inputs(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the inputs that stand in the proof."""
        own = self.settings.visibilities[0] is Visibility.PUBLIC
        return self.settings.shapes[: len(self.settings.input_scales)] if own else ()

    @property
    def public_outputs(self) -> tuple[tuple[int, ...], ...]:
        return self.settings.shapes[len(self.public_inputs) :]

    @property
    def instances(self) -> int:
        """Field elements that stand in a proof."""
        return sum(math.prod(shape) for shape in self.settings.shapes)

    def encoded(self) -> dict[str, Any]:
        return {
            "settings": self.settings.encoded.decode(),
            "key": canonical.text(self.key),
            "srs": self.srs,
            "slots": _slots(self.slots),
            "committed": [canonical.text(each) for each in self.committed],
            "proof_bytes": self.proof_bytes,
            "version": self.version,
            "identity": self.identity.hex(),
        }

    @classmethod
    def decode(cls, value: Any) -> Circuit:
        """Raises Malformed."""
        try:
            slots = Slots(tuple(value["slots"][0]), value["slots"][1], tuple(value["slots"][2]))
            found = cls(
                Settings(value["settings"].encode()),
                canonical.data(value["key"]),
                value["srs"],
                slots,
                tuple(canonical.data(each, COMPRESSED) for each in value["committed"]),
                value["proof_bytes"],
                value["version"],
            )
            same = found.encoded() == value
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise Malformed(Refusal.MALFORMED, f"no circuit ({error})") from None
        if not same:
            raise Malformed(Refusal.MALFORMED, "a circuit that says something else of itself")
        return found


@dataclass(frozen=True, slots=True)
class Chain:
    """The circuits of a model. Its input and its output stand in the open, all between is committed.

    `wires`: of each circuit, where each of its committed inputs comes from: the place of an earlier circuit, and which
    of its outputs. So a tensor may skip stages, and a layer may be several circuits that take the same tensor. Circuits
    that see the model's input all take the whole of it; the model's outputs are those that stand in the open, in order.
    Raises Malformed where one does not go on from those before.
    """

    circuits: tuple[Circuit, ...]
    wires: tuple[tuple[Wire, ...], ...]

    def __post_init__(self) -> None:
        if len(self.wires) != len(self.circuits):
            raise Malformed(Refusal.MALFORMED, "a model whose circuits are not all connected")
        seen = [circuit.settings.visibilities for circuit in self.circuits]
        if not any(inputs is Visibility.PUBLIC for inputs, _, _ in seen):
            raise Malformed(Refusal.MALFORMED, "a model whose input is hidden from who verifies it")
        if not any(outputs is Visibility.PUBLIC for _, _, outputs in seen):
            raise Malformed(Refusal.MALFORMED, "a model whose output is hidden from who verifies it")
        shapes = {circuit.public_inputs for circuit in self.circuits if circuit.public_inputs}
        if len(shapes) > 1:
            raise Malformed(Refusal.MALFORMED, "a model whose circuits see inputs of several shapes")
        for place, (circuit, wires) in enumerate(zip(self.circuits, self.wires, strict=True)):
            self._check(place, circuit, wires)

    def _check(self, place: int, circuit: Circuit, wires: tuple[Wire, ...]) -> None:
        first = self.circuits[0]
        if (circuit.srs, circuit.settings.logrows) != (first.srs, first.settings.logrows):
            raise Malformed(Refusal.MALFORMED, f"stage {place} stands on another SRS, or has other rows")
        if len(wires) != len(circuit.slots.inputs):
            raise Malformed(Refusal.MALFORMED, f"stage {place} takes {len(circuit.slots.inputs)} committed tensors")
        for number, (source, output) in enumerate(wires):
            if not (0 <= source < place and 0 <= output < len(self.circuits[source].slots.outputs)):
                raise Malformed(Refusal.MALFORMED, f"stage {place} takes what no stage before it commits to")
            giver = self.circuits[source]
            if giver.settings.output_scales[output] != circuit.settings.input_scales[number]:
                raise Malformed(Refusal.MALFORMED, f"stage {place} reads a tensor in another scale than it was written")
            if giver.slots.outputs[output] != circuit.slots.inputs[number]:
                raise Malformed(Refusal.MALFORMED, f"stage {place} takes a tensor of another size than it was given")

    @property
    def identity(self) -> bytes:
        """SHA-256 over the identities of all circuits, and how they are connected."""
        wires = canonical.encode(_wires(self.wires))
        return hashlib.sha256(CHAIN_DOMAIN + b"".join(each.identity for each in self.circuits) + wires).digest()

    @property
    def local(self) -> bool:
        return self.circuits[0].local

    @property
    def srs(self) -> str:
        return self.circuits[0].srs

    @property
    def logrows(self) -> int:
        return self.circuits[0].settings.logrows

    @property
    def words(self) -> str:
        """What its proofs stand on."""
        return self.circuits[0].words

    def encoded(self) -> bytes:
        return canonical.encode(
            {
                "identity": self.identity.hex(),
                "circuits": [circuit.encoded() for circuit in self.circuits],
                "wires": _wires(self.wires),
                "standing_on": self.words,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Chain:
        """Raises Malformed unless `data` is exactly what `encoded` gives."""
        value = canonical.decode(data)
        try:
            wires = tuple(tuple((int(source), int(output)) for source, output in each) for each in value["wires"])
            found = cls(tuple(Circuit.decode(each) for each in value["circuits"]), wires)
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(Refusal.MALFORMED, f"no circuits of a model ({error})") from None
        if found.encoded() != data:
            raise Malformed(Refusal.MALFORMED, "circuits of a model that say something else of themselves")
        return found


def in_a_row(outputs: Sequence[int]) -> tuple[tuple[Wire, ...], ...]:
    """The wires of stages that each take all that the one before gives. `outputs`: how many tensors each gives."""
    before = [(place, tuple(range(count))) for place, count in enumerate(outputs[:-1])]
    return ((), *(tuple((place, number) for number in those) for place, those in before))


def _slots(slots: Slots) -> list[Any]:
    return [list(slots.inputs), slots.parameters, list(slots.outputs)]


def _wires(wires: Sequence[Sequence[Wire]]) -> list[Any]:
    return [[list(wire) for wire in each] for each in wires]


def _ranges(start: int, counts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    found = []
    for count in counts:
        found.append((start, count))
        start += count
    return tuple(found)
