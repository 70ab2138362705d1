"""Fewer bytes: how far off each encoding may be, that it is right on average, that errors come back, what is a lie."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core import compression
from decentral.core.compression import INDEX, LARGEST, Unsound, compensated, left_out, unpack
from decentral.core.encodings import ENCODINGS, Encoding

NORMAL = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100, allow_subnormal=False)
SEEDS = st.integers(0, 2**32)
ALL = [
    ("none", {}),
    ("bfloat16", {}),
    ("int8", {}),
    ("top-k", {"share": 0.1}),
    ("top-k", {"share": 0.1, "whole": "none"}),
]
each = pytest.mark.parametrize(("name", "options"), ALL, ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(seed: int = 0) -> dict[str, Tensor]:
    """Matrices of all kinds, a vector, halves, doubles, a count."""
    draw = generator(seed)
    return {
        "dense": torch.randn(8, 33, generator=draw),
        "conv": torch.randn(6, 5, 3, 3, generator=draw) * 1e-3,
        "bias": torch.randn(8, generator=draw),
        "double": torch.randn(4, 6, generator=draw, dtype=torch.float64),
        "half": torch.randn(3, 9, generator=draw).half(),
        "counts": torch.arange(12).reshape(3, 4),
        "seen": torch.tensor(7),
    }


def encoding(name: str, **options: object) -> Encoding:
    found: Encoding = ENCODINGS.construct(name, **options)
    return found


def size(packed: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in packed.values())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# ---- how far off, and which way -------------------------------------------------------------------------------------


@given(values=st.lists(NORMAL, min_size=1, max_size=20), seed=SEEDS)
def test_bfloat16_is_one_of_the_two_neighbours_and_rounding_twice_is_rounding_once(values, seed):
    exact = torch.tensor(values)
    short = compression.to_bfloat16(exact, generator(seed))
    assert bool(((short.float() - exact).abs() <= exact.abs() * 2**-7).all())
    assert torch.equal(compression.to_bfloat16(short.float(), generator(seed + 1)), short)


@given(rows=st.lists(st.lists(NORMAL, min_size=3, max_size=3), min_size=1, max_size=6), seed=SEEDS)
def test_int8_is_off_by_less_than_a_step_of_its_row_and_rounding_twice_is_rounding_once(rows, seed):
    exact = torch.tensor(rows)
    codes, largest = compression.to_int8(exact, generator(seed))
    back = compression.from_int8(codes, largest)
    step = exact.abs().amax(1, keepdim=True) / 127
    assert bool(((back - exact).abs() <= step * (1 + 1e-4)).all())
    again, same = compression.to_int8(back, generator(seed + 1))
    assert torch.equal(again, codes) and torch.equal(same, largest)


def test_a_row_of_zeros_and_the_largest_of_each_row_are_kept_exactly():
    exact = torch.tensor([[0.0, 0.0], [-3.7, 1.1], [1e-20, 1e-23]])
    back = compression.from_int8(*compression.to_int8(exact, generator()))
    assert back[0].tolist() == [0.0, 0.0]
    assert torch.equal(back[1:, 0], exact[1:, 0])


@pytest.mark.parametrize("value", [0.3, -0.7001, 1.0 + 2**-12, 0.004])
def test_what_is_expected_of_a_rounded_value_is_the_value(value):
    many = torch.full((1, 20_000), value)
    short = compression.to_bfloat16(many, generator(1)).double()
    assert short.mean().item() == pytest.approx(value, abs=5 * abs(value) * 2**-8 / math.sqrt(20_000))
    row = torch.cat([torch.ones(1, 1), many], dim=1)  # the step is 1 / 127
    back = compression.from_int8(*compression.to_int8(row, generator(1)))[0, 1:].double()
    assert back.mean().item() == pytest.approx(value, abs=5 * row.max().item() / 127 / math.sqrt(20_000))


def test_rounding_does_not_go_one_way():
    """To the nearest, a step of a third of a code would never be seen; drawn, it is, in a third of the messages."""
    still = torch.full((1, 3000), 1.0)
    moved = compression.to_bfloat16(still + 2**-7 / 3, generator()).float()
    assert (moved > still).float().mean().item() == pytest.approx(1 / 3, abs=0.05)
    assert torch.equal((still + 2**-7 / 3).bfloat16().float(), still)


# ---- whole models ---------------------------------------------------------------------------------------------------


@each
def test_every_tensor_comes_back_in_its_own_type_and_integers_as_they_were(name, options):
    state = model()
    found = unpack(encoding(name, **options)(state, model(1), generator()), state)
    assert {key: (t.dtype, t.shape) for key, t in found.items()} == {k: (t.dtype, t.shape) for k, t in state.items()}
    assert torch.equal(found["counts"], state["counts"]) and torch.equal(found["seen"], state["seen"])
    assert torch.allclose(found["bias"], state["bias"], rtol=2**-7), "vectors keep eight bits in any encoding"


@each
def test_the_same_seed_gives_the_same_message_and_what_was_read_is_written_the_same(name, options):
    state, base, write = model(), model(1), encoding(name, **options)
    first = write(state, base, generator(5))
    assert equal(first, write(state, base, generator(5)))
    whole = write.whole(state, base, generator(5))
    assert equal(write.whole(unpack(whole, base), base, generator(6)), whole), "whoever passes it on says the same"


def test_bytes_are_what_the_encoding_says():
    state = {"w": torch.randn(256, 256), "b": torch.randn(256)}
    elements = 256 * 256
    sizes = {name: size(encoding(name)(state, state, generator())) for name in ("none", "bfloat16", "int8")}
    assert sizes == {
        "none": 4 * elements + 4 * 256,
        "bfloat16": 2 * elements + 2 * 256,
        "int8": elements + 4 * 256 + 2 * 256,
    }
    kept = math.ceil(0.01 * elements)
    assert size(encoding("top-k", share=0.01)(state, state, generator())) == kept * (2 + 4) + 2 * 256
    narrow = {"w": torch.randn(128, 128)}  # 16,384 places are told in two bytes
    assert size(encoding("top-k", share=0.01)(narrow, narrow, generator())) == 164 * (2 + 2)


def test_a_share_so_large_that_places_cost_more_than_they_save_goes_whole():
    state = {"w": torch.randn(20, 20)}
    assert encoding("top-k", share=0.6)(state, state, generator()).keys() == {"w"}
    assert encoding("top-k", share=0.4)(state, state, generator()).keys() == {"w", "w" + INDEX}


@given(seed=SEEDS, share=st.floats(0.01, 0.4))
def test_what_changed_most_is_said_and_the_rest_is_the_receivers_own(seed, share):
    state, base = {"w": torch.randn(9, 11, generator=generator(seed))}, {"w": torch.zeros(9, 11)}
    packed = encoding("top-k", share=share)(state, base, generator(seed))
    places = packed["w" + INDEX].long()
    assert len(places) == math.ceil(share * 99 - 1e-9)
    said, unsaid = torch.zeros(99, dtype=torch.bool), torch.ones(99, dtype=torch.bool)
    said[places], unsaid[places] = True, False
    changes = state["w"].abs().flatten()
    assert changes[said].min() >= changes[unsaid].max()
    elsewhere = {"w": torch.full((9, 11), 100.0)}
    found = unpack(packed, elsewhere)["w"].flatten()
    assert bool((found[unsaid] == 100.0).all()), "nothing of the sender's base is needed"
    assert torch.allclose(found[said], state["w"].flatten()[said], rtol=2**-7)


# ---- error feedback -------------------------------------------------------------------------------------------------


@given(seed=SEEDS, rounds=st.integers(1, 12), name=st.sampled_from(["bfloat16", "int8", "top-k"]))
def test_what_was_understood_and_what_is_left_out_sum_to_what_was_wanted(seed, rounds, name):
    """The base moves from round to round, as an aggregate does; only what each message says of it adds up."""
    write, draw = encoding(name), generator(seed)
    left: dict[str, Tensor] = {}
    wanted, understood = (torch.zeros(6, 40, dtype=torch.float64) for _ in range(2))
    for _ in range(rounds):
        base = {"w": torch.randn(6, 40, generator=draw, dtype=torch.float64)}
        state = {"w": base["w"] + 0.1 * torch.randn(6, 40, generator=draw, dtype=torch.float64)}
        target = compensated(state, left)
        heard = unpack(write(target, base, draw), base)
        left = left_out(target, heard)
        wanted += state["w"] - base["w"]
        understood += heard["w"] - base["w"]
    assert torch.allclose(understood + left["w"], wanted, atol=1e-9)


def test_with_feedback_a_change_too_small_to_be_chosen_is_said_in_the_end():
    write, base = encoding("top-k", share=0.1), {"w": torch.zeros(2, 10)}
    state = {"w": torch.full((2, 10), 0.1)}
    state["w"][0, 0] = state["w"][1, 5] = 1.0
    left: dict[str, Tensor] = {}
    heard, forgetful = torch.zeros(2, 10), torch.zeros(2, 10)
    for seed in range(60):
        target = compensated(state, left)
        understood = unpack(write(target, base, generator(seed)), base)
        left = left_out(target, understood)
        heard += understood["w"]
        forgetful += unpack(write(state, base, generator(seed)), base)["w"]
    assert bool((heard > 0).all())
    assert int((forgetful > 0).sum()) == 2


def test_nothing_of_vectors_and_integers_is_left_for_later():
    """A variance to which an earlier error is added could be negative."""
    state = model()
    assert left_out(state, unpack(encoding("int8")(state, state, generator()), state)).keys() == {
        "dense",
        "conv",
        "double",
        "half",
    }


# ---- lies, each beside the honest message that it was made from -----------------------------------------------------


def lie(name: str, **changes: Tensor | None) -> dict[str, Tensor]:
    packed = encoding(name, **({"share": 0.01} if name == "top-k" else {}))(model(), model(1), generator())
    for change, value in changes.items():
        key = change.replace("_largest", LARGEST).replace("_index", INDEX)
        if value is None:
            del packed[key]
        else:
            packed[key] = value
    return packed


PLACES = torch.tensor([3, 5, 9], dtype=torch.int16)
LIES = {
    "a scale that is infinite": lie("int8", dense_largest=torch.full((8,), math.inf)),
    "a scale that is no number": lie("int8", dense_largest=torch.full((8,), math.nan)),
    "a negative scale": lie("int8", dense_largest=torch.full((8,), -1.0)),
    "scales of other rows": lie("int8", dense_largest=torch.ones(7)),
    "codes that are no integers": lie("int8", dense=torch.ones(8, 33)),
    "a code that nothing is rounded to": lie("int8", dense=torch.full((8, 33), -128, dtype=torch.int8)),
    "a place beyond the end": lie("top-k", dense_index=torch.tensor([3, 5, 264], dtype=torch.int16)),
    "a place before the beginning": lie("top-k", dense_index=torch.tensor([-1, 5, 9], dtype=torch.int16)),
    "a place twice": lie("top-k", dense_index=torch.tensor([3, 5, 5], dtype=torch.int16)),
    "places in disorder": lie("top-k", dense_index=torch.tensor([5, 3, 9], dtype=torch.int16)),
    "more places than values": lie("top-k", dense_index=torch.tensor([3, 5, 9, 10], dtype=torch.int16)),
    "values of another type": lie("top-k", dense=torch.zeros(3, dtype=torch.int8), dense_index=PLACES),
    "places that are no integers": lie("top-k", dense_index=torch.tensor([3.0, 5.0, 9.0])),
    "places without values": lie("top-k", dense=torch.zeros(0, dtype=torch.bfloat16)),
    "a tensor too few": lie("bfloat16", bias=None),
    "a tensor too many": lie("bfloat16", other=torch.zeros(2)),
    "a scale of nothing": lie("bfloat16", other_largest=torch.ones(8)),
    "another shape": lie("bfloat16", bias=torch.zeros(9, dtype=torch.bfloat16)),
    "another type": lie("bfloat16", bias=torch.zeros(8, dtype=torch.int32)),
    "integers in a fraction's type": lie("bfloat16", counts=torch.zeros(3, 4, dtype=torch.bfloat16)),
}


@pytest.mark.parametrize("packed", LIES.values(), ids=LIES)
def test_a_packed_model_that_breaks_a_rule_is_unsound(packed):
    with pytest.raises(Unsound):
        unpack(packed, model())


def test_the_honest_messages_that_the_lies_were_made_from_are_sound():
    for name in ("bfloat16", "int8", "top-k"):
        assert unpack(lie(name), model()).keys() == model().keys()
    assert unpack(lie("top-k", dense_index=PLACES), model())["dense"].shape == (8, 33)
