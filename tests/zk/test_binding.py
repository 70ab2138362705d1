"""A signature is for one task, model, stage and proof."""

from __future__ import annotations

import pytest

from decentral.errors import Malformed
from decentral.wire.identity import Identity
from decentral.zk.binding import Binding, bind
from decentral.zk.proof import Proof

NONCE, MODEL, PROOF = bytes(range(32)), bytes(32), Proof((1, 2), b"proof")


def test_it_names_who_signed() -> None:
    maker = Identity.generate()
    binding = Binding.decode(bind(maker, NONCE, MODEL, 3, PROOF).encoded())
    assert binding.signer(NONCE, MODEL, 3, PROOF) == maker.id


def test_it_is_for_nothing_else() -> None:
    binding = bind(Identity.generate(), NONCE, MODEL, 3, PROOF)
    for wrong in (
        (bytes(32), MODEL, 3, PROOF),
        (NONCE, NONCE, 3, PROOF),
        (NONCE, MODEL, 2, PROOF),
        (NONCE, MODEL, 3, Proof((1, 2), b"proof\0")),
        (NONCE[:31], MODEL, 3, PROOF),
        (NONCE, MODEL + b"\0", 3, PROOF),
        (NONCE, MODEL, -1, PROOF),
    ):
        with pytest.raises(Malformed):
            binding.signer(*wrong)


def test_other_lengths_are_refused() -> None:
    encoded = bind(Identity.generate(), NONCE, MODEL, 0, PROOF).encoded()
    for wrong in (b"", encoded[:-1], encoded + b"\0"):
        with pytest.raises(Malformed):
            Binding.decode(wrong)
