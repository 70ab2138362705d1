"""A card is somebody's word on a model, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from decentral import canonical
from decentral.errors import Malformed, UserError
from decentral.wire.identity import Identity
from decentral.zk.card import FILE, Accuracy, Card, SignedCard, sign

CARD = Card("ab" * 32, ("cd" * 32,), ((7, 7, 14),), "fixed", "local test SRS", Accuracy("digits", 360, 0.97, 0.96))


def test_it_is_read_as_it_was_written_and_names_who_signed(tmp_path: Path) -> None:
    maker = Identity.generate()
    for card in (CARD, replace(CARD, accuracy=None), replace(CARD, accuracy=Accuracy("digits", 1, 1.0, None))):
        sign(card, maker).save(tmp_path)
        found = SignedCard.load(tmp_path)
        assert found.card == card and found.signer() == maker.id


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "00" * 32},
        {"parameters": ("00" * 32,)},
        {"scales": ((7, 7, 7),)},
        {"standing_on": "perpetual powers of tau, 2^15"},
        {"accuracy": Accuracy("digits", 360, 0.99, 0.99)},
        {"accuracy": None},
    ],
)
def test_nothing_of_it_can_be_changed(change: dict[str, object]) -> None:
    signed = sign(CARD, Identity.generate())
    with pytest.raises(Malformed):
        replace(signed, card=replace(CARD, **change)).signer()  # type: ignore[arg-type]
    with pytest.raises(Malformed):
        replace(signed, public_key=Identity.generate().public_key).signer()


def test_what_is_no_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no card"):
        SignedCard.load(tmp_path)
    whole = canonical.decode(sign(CARD, Identity.generate()).encoded())
    for wrong in (
        [],
        {**whole, "more": 1},
        {**whole, "signature": canonical.text(b"short")},
        {**whole, "card": {**whole["card"], "identity": "xyz"}},
        {**whole, "card": {**whole["card"], "scales": [[7]]}},
        {**whole, "card": {**whole["card"], "scales": [[7, 7, 0.5]]}},
        {**whole, "card": {**whole["card"], "more": 1}},
        {**whole, "card": {**whole["card"], "accuracy": {"data": "digits"}}},
    ):
        (tmp_path / FILE).write_bytes(canonical.encode(wrong))
        with pytest.raises(UserError, match="damaged"):
            SignedCard.load(tmp_path)
