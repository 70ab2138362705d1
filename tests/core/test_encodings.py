"""Encodings by name: options in their range or an error in words, and what each writes where it must be whole."""

from __future__ import annotations

import math

import pytest
import torch

from decentral.core.compression import INDEX, unpack
from decentral.core.encodings import ENCODINGS, Encoding, Int8
from decentral.errors import UserError


@pytest.mark.parametrize("name", ENCODINGS.names())
def test_whatever_is_written_can_be_read_back(name: str) -> None:
    write: Encoding = ENCODINGS.construct(name)
    state = {"w": torch.randn(6, 20, generator=torch.Generator().manual_seed(0)), "b": torch.ones(6)}
    for form in (write, write.whole):
        found = unpack(form(state, state, torch.Generator().manual_seed(1)), state)
        assert torch.allclose(found["w"], state["w"], atol=0.05)
    assert not any(INDEX in key for key in write.whole(state, state, torch.Generator().manual_seed(1)))


def test_only_none_is_plain() -> None:
    assert [name for name in ENCODINGS.names() if ENCODINGS.construct(name).plain] == ["none"]
    assert isinstance(ENCODINGS.construct("top-k").whole, Int8)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("top-k", {"share": 0}, "share must be greater than 0 and less than 1, not 0"),
        ("top-k", {"share": 1.0}, "share must be"),
        ("top-k", {"share": math.nan}, "share must be"),
        ("top-k", {"step": 0}, "step must be greater than 0 and at most 1, not 0"),
        ("top-k", {"whole": "int4"}, "unknown whole 'int4'; did you mean 'int8'"),
        ("int8", {"share": 0.1}, "does not take share"),
        ("bflaot16", {}, "did you mean 'bfloat16'"),
    ],
)
def test_what_an_encoding_cannot_use_is_named(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ENCODINGS.construct(name, **options)
