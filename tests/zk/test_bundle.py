"""Proofs and signatures of a model in one form: what is read is what was written, to the last bit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed
from decentral.zk.binding import Binding
from decentral.zk.bundle import MAGIC, MOST, Bundle
from decentral.zk.proof import MODULUS, Proof

proofs = st.builds(Proof, st.lists(st.integers(0, MODULUS - 1), max_size=3).map(tuple), st.binary(max_size=100))
bindings = st.builds(Binding, st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
bundles = st.builds(Bundle, st.lists(proofs, max_size=4).map(tuple), st.lists(bindings, max_size=3).map(tuple))


@given(bundles)
def test_it_is_read_as_it_was_written(bundle: Bundle) -> None:
    assert Bundle.decode(bundle.encoded()) == bundle


@given(bundles, st.binary(min_size=1, max_size=100))
def test_bytes_after_the_end_and_missing_ones_are_refused(bundle: Bundle, more: bytes) -> None:
    for wrong in (bundle.encoded() + more, bundle.encoded()[: -len(more)], more):
        with pytest.raises(Malformed):
            Bundle.decode(wrong)


@given(bundles, st.data())
def test_no_bit_can_be_changed_without_changing_what_it_says(bundle: Bundle, data: st.DataObject) -> None:
    encoded = bytearray(bundle.encoded())
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        assert Bundle.decode(bytes(encoded)) != bundle
    except Malformed:
        return


def test_more_proofs_than_any_model_has_are_refused_before_they_are_read() -> None:
    for counts in ((MOST + 1, 0), (0, MOST + 1), (2**32 - 1, 2**32 - 1)):
        with pytest.raises(Malformed, match="too_large"):
            Bundle.decode(MAGIC + b"".join(count.to_bytes(4, "big") for count in counts))
