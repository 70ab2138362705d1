"""Equal contents are equal bytes, and other bytes are refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral import canonical
from decentral.errors import Malformed

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(values)
def test_what_is_written_is_read_again(value: object) -> None:
    assert canonical.decode(canonical.encode(value)) == value


@given(values, st.data())
def test_a_bit_that_changes_changes_what_is_said_or_is_refused(value: object, data: st.DataObject) -> None:
    written = bytearray(canonical.encode(value))
    place = data.draw(st.integers(0, 8 * len(written) - 1))
    written[place // 8] ^= 1 << place % 8
    try:
        other = canonical.decode(bytes(written))
    except Malformed:
        return
    assert canonical.encode(other) != canonical.encode(value)


@pytest.mark.parametrize(
    "same",
    [b'{"b":1,"a":2}', b'{"a": 2}', b'{"a":2} ', b'{"a":2}\n', b'{"a":1,"a":2}', b'["\\u0061"]', b"[1e0]", b"[-0]",
     "[\"é\"]".encode(), b"NaN", b"[", b"\xff", b"", b"[" * 100_000],
)  # fmt: skip
def test_the_same_in_other_words_is_refused(same: bytes) -> None:
    with pytest.raises(Malformed):
        canonical.decode(same)
    assert canonical.decode(canonical.encode(json.loads('{"a":2}'))) == {"a": 2}


@given(st.binary())
def test_bytes_are_read_again_as_so_many(content: bytes) -> None:
    assert canonical.data(canonical.text(content), len(content)) == content
    with pytest.raises(Malformed):
        canonical.data(canonical.text(content), len(content) + 1)


@pytest.mark.parametrize("wrong", [None, 1, "=", "QQ=", "QR==", "Q Q==", "é"])
def test_what_is_no_base64_of_ours_is_refused(wrong: object) -> None:
    with pytest.raises(Malformed):
        canonical.data(wrong)


@given(st.lists(st.binary(max_size=9)), st.lists(st.binary(max_size=9)))
def test_two_lists_of_parts_are_the_same_bytes_only_if_they_are_the_same_list(
    one: list[bytes], other: list[bytes]
) -> None:
    assert (canonical.joined(*one) == canonical.joined(*other)) == (one == other)


def test_a_part_cannot_move_into_its_neighbour() -> None:
    assert len({canonical.joined(*parts) for parts in [(b"ab", b""), (b"a", b"b"), (b"", b"ab"), (b"ab",), ()]}) == 5
