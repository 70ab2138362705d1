"""One form for each proof: what is read is what was written, to the last bit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed
from decentral.zk.proof import MAGIC, MODULUS, Proof, compressed, felt, felt_text, signed

values = st.integers(0, MODULUS - 1)
proofs = st.builds(Proof, st.lists(values, max_size=5).map(tuple), st.binary(max_size=200))


@given(proofs)
def test_a_proof_is_read_as_it_was_written(proof: Proof) -> None:
    assert Proof.decode(proof.encoded()) == proof


@given(proofs, st.data())
def test_no_bit_can_be_changed_without_changing_what_it_says(proof: Proof, data: st.DataObject) -> None:
    encoded = bytearray(proof.encoded())
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        assert Proof.decode(bytes(encoded)) != proof
    except Malformed:
        return


@given(proofs, st.binary(min_size=1, max_size=70))
def test_bytes_after_the_end_and_missing_ones_are_refused(proof: Proof, more: bytes) -> None:
    with pytest.raises(Malformed):
        Proof.decode(proof.encoded() + more)
    with pytest.raises(Malformed):
        Proof.decode(proof.encoded()[: -len(more)])


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for start in (b"", MAGIC):
        try:
            found = Proof.decode(start + data)
        except Malformed:
            continue
        assert found.encoded() == start + data


def test_what_is_no_element_of_the_field_is_refused() -> None:
    for value in (MODULUS, -1):
        with pytest.raises(Malformed):
            Proof((value,), b"")
    for text in ("", "00", "zz" * 32, "ff" * 32, MODULUS.to_bytes(32, "little").hex(), "0A" + "00" * 31):
        with pytest.raises(Malformed):
            felt(text)


@given(values)
def test_field_elements_are_read_as_they_were_written(value: int) -> None:
    assert felt(felt_text(value)) == value


@given(st.integers(-(2**200), 2**200))
def test_negative_numbers_are_the_upper_half_of_the_field(number: int) -> None:
    assert signed(number % MODULUS) == number


def test_proofs_that_differ_have_other_digests() -> None:
    assert (
        len({Proof((1,), b"a").digest, Proof((2,), b"a").digest, Proof((1,), b"b").digest, Proof((), b"").digest}) == 4
    )


def test_a_point_is_compressed_to_its_abscissa_and_a_bit() -> None:
    x, even, odd = bytes(range(32)), bytes(31) + b"\2", bytes(31) + b"\3"
    assert compressed(x + even) == x[::-1]
    assert compressed(x + odd) == x[::-1][:-1] + b"\x80"


def test_a_proof_has_so_many_commitments() -> None:
    proof = Proof((), bytes(range(192)))
    assert proof.points(1, 2) == (bytes(range(64, 128)), bytes(range(128, 192)))
    with pytest.raises(Malformed):
        proof.points(2, 2)
