"""What somebody vouches for of a model whose answers are proved: which parameters, which circuits, how good it is.

The identity says which circuits; anybody who has the parameters can find it again. How good the model is in whole
numbers, as its circuits compute, and in floats, as it was trained, only who signed says.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from decentral import canonical
from decentral.errors import Malformed, Refusal, UserError
from decentral.files import write_atomic
from decentral.wire.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, verify
from decentral.wire.messages import PeerId

FILE = "card.json"
PURPOSE = "zk model card"
DIGEST = 64
"""Hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """On so many test images of a dataset: as trained, and in the whole numbers of the circuits, if that is known."""

    data: str
    images: int
    trained: float
    proved: float | None


@dataclass(frozen=True, slots=True)
class Card:
    """`identity`: of the circuits; `parameters`: SHA-256 of each stage's safetensors; both in hexadecimal.

    `scales`: of each circuit, in bits: its input, its parameters, its output. Raises Malformed.
    """

    identity: str
    parameters: tuple[str, ...]
    scales: tuple[tuple[int, int, int], ...]
    visibility: str
    standing_on: str
    accuracy: Accuracy | None

    def __post_init__(self) -> None:
        for digest in (self.identity, *self.parameters):
            if not (isinstance(digest, str) and len(digest) == DIGEST and set(digest) <= set("0123456789abcdef")):
                raise Malformed(Refusal.MALFORMED, f"{str(digest)[:20]!r} is no SHA-256")
        if any(len(each) != 3 or any(type(scale) is not int for scale in each) for each in self.scales):
            raise Malformed(Refusal.MALFORMED, "a card whose scales are no whole numbers")

    def encoded(self) -> bytes:
        return canonical.encode(asdict(self))


@dataclass(frozen=True, slots=True)
class SignedCard:
    """A card, and who vouches for it."""

    card: Card
    public_key: bytes
    signature: bytes

    def signer(self) -> PeerId:
        """Raises Malformed(SIGNATURE)."""
        return verify(self.public_key, PURPOSE, self.card.encoded(), self.signature)

    def encoded(self) -> bytes:
        signed = {"public_key": canonical.text(self.public_key), "signature": canonical.text(self.signature)}
        return canonical.encode({"card": asdict(self.card), **signed})

    @classmethod
    def decode(cls, data: bytes) -> SignedCard:
        """Raises Malformed unless `data` is exactly what `encoded` gives. The signature is not looked at."""
        value = canonical.decode(data)
        try:
            found = cls(
                _card(value["card"]),
                canonical.data(value["public_key"], PUBLIC_KEY_BYTES),
                canonical.data(value["signature"], SIGNATURE_BYTES),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(Refusal.MALFORMED, f"no card of a model ({error})") from None
        if found.encoded() != data:
            raise Malformed(Refusal.MALFORMED, "a card that says more than a card does")
        return found

    def save(self, folder: Path) -> None:
        """Raises OSError."""
        write_atomic(folder / FILE, self.encoded())

    @classmethod
    def load(cls, folder: Path) -> SignedCard:
        """Raises UserError where there is none, or a damaged one."""
        file = folder / FILE
        try:
            return cls.decode(file.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{folder}: holds no card ({FILE}); sign one: decentral zk setup ... --key FILE") from None
        except (OSError, Malformed) as error:
            raise UserError(f"{file}: damaged ({error})") from error


def sign(card: Card, identity: Identity) -> SignedCard:
    return SignedCard(card, identity.public_key, identity.sign(PURPOSE, card.encoded()))


def _card(value: Any) -> Card:
    told = value["accuracy"]
    scales = tuple((first, second, third) for first, second, third in value["scales"])
    return Card(
        value["identity"],
        tuple(value["parameters"]),
        scales,
        str(value["visibility"]),
        str(value["standing_on"]),
        None if told is None else Accuracy(**told),
    )
