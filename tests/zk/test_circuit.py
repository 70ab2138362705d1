"""What is pinned of a model: everything that decides what a proof says is part of its identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from decentral import canonical
from decentral.errors import Malformed
from decentral.zk.arguments import Settings
from decentral.zk.circuit import Chain, Circuit, Slots
from decentral.zk.srs import CEREMONY
from tests.zk.conftest import Made


def test_a_chain_is_read_as_it_was_written(made: Made) -> None:
    assert Chain.decode(made.chain.encoded()) == made.chain


def test_what_stands_on_a_local_srs_says_so_in_its_file(made: Made) -> None:
    assert made.chain.local
    assert canonical.decode(made.chain.encoded())["standing_on"] == "local test SRS"
    ceremony = Chain(tuple(replace(each, srs=CEREMONY[8]) for each in made.chain.circuits), made.chain.wires)
    assert not ceremony.local and "powers of tau" in ceremony.words


@pytest.mark.parametrize(
    "change",
    [
        lambda each: replace(each, key=each.key[:-1] + bytes([each.key[-1] ^ 1])),
        lambda each: replace(each, srs=CEREMONY[8]),
        lambda each: replace(each, proof_bytes=each.proof_bytes + 32),
        lambda each: replace(
            each,
            settings=Settings(
                canonical.encode({**canonical.decode(each.settings.encoded), "model_output_scales": [9, 9]})
            ),
        ),
    ],
    ids=["key", "srs", "length", "scales"],
)
def test_everything_is_part_of_the_identity(made: Made, change: Callable[[Circuit], Circuit]) -> None:
    circuit = made.chain.circuits[0]
    assert change(circuit).identity != circuit.identity


def test_the_order_of_stages_is_part_of_the_identity(made: Made) -> None:
    with pytest.raises(Malformed):
        Chain(made.chain.circuits[::-1], made.chain.wires)


def edited(circuit: Circuit, **changes: object) -> Circuit:
    return replace(
        circuit, settings=Settings(canonical.encode({**canonical.decode(circuit.settings.encoded), **changes}))
    )


def test_stages_that_do_not_go_together_are_refused(made: Made) -> None:
    first, second = made.chain.circuits
    run_args = canonical.decode(second.settings.encoded)["run_args"]
    row = made.chain.wires
    assert row == ((), ((0, 0), (0, 1)))
    for circuits, wires, why in (
        ((first, replace(second, srs=CEREMONY[8])), row, "another SRS"),
        ((first, edited(second, run_args={**run_args, "logrows": 20})), row, "other rows"),
        ((first, edited(second, model_input_scales=[8, 8])), row, "another scale"),
        ((first, replace(second, slots=Slots((2, 1)))), row, "another size"),
        ((first,), row[:1], "output is hidden"),
        ((second,), row[1:], "input is hidden"),
        ((), (), "input is hidden"),
        ((first, second), row[:1], "not all connected"),
        ((first, second), ((), ((0, 0),)), "takes 2"),
        ((first, second), ((), ((0, 0), (0, 2))), "no stage before"),
        ((first, second), ((), ((0, 0), (1, 0))), "no stage before"),
        ((first, second), ((), ((0, 0), (-1, 0))), "no stage before"),
        ((first, second), (((0, 0),), row[1]), "takes 0"),
    ):
        with pytest.raises(Malformed, match=why):
            Chain(circuits, wires)


def test_which_tensor_goes_where_is_part_of_the_identity(made: Made) -> None:
    crossed = Chain(made.chain.circuits, ((), ((0, 1), (0, 0))))
    assert crossed.identity != made.chain.identity
    assert Chain.decode(crossed.encoded()) == crossed


def test_circuits_whose_parts_do_not_go_together_are_refused(made: Made) -> None:
    first, second = made.chain.circuits
    run_args = canonical.decode(first.settings.encoded)["run_args"]
    for wrong in (
        lambda: replace(first, slots=Slots(outputs=(1,))),
        lambda: replace(first, slots=Slots((1,), 0, (1, 1))),
        lambda: replace(first, slots=Slots((), 1, (1, 1)), committed=(bytes(32),)),
        lambda: replace(first, committed=(bytes(32),)),
        lambda: replace(second, slots=Slots((0, 1))),
        lambda: edited(first, model_instance_shapes=[]),
        lambda: edited(first, run_args={**run_args, "decomp_legs": 64}),
        lambda: edited(first, run_args={**run_args, "decomp_legs": 10**12}),
        lambda: edited(first, einsum_params={"equations": [], "total_einsum_col_size": 2}),
    ):
        with pytest.raises(Malformed):
            wrong()


@pytest.mark.parametrize("word", ["Private", "Public", {"Hashed": 1}])
def test_parameters_that_would_not_tell_which_model_ran_are_refused(made: Made, word: object) -> None:
    run_args = canonical.decode(made.chain.circuits[0].settings.encoded)["run_args"]
    with pytest.raises(Malformed, match="a circuit with"):
        edited(made.chain.circuits[0], run_args={**run_args, "param_visibility": word})


def test_files_that_say_something_else_of_themselves_are_refused(made: Made) -> None:
    whole = canonical.decode(made.chain.encoded())
    circuit = whole["circuits"][0]
    for wrong in (
        {**whole, "identity": "00" * 32},
        {**whole, "standing_on": "perpetual powers of tau, 2^9"},
        {**whole, "more": 1},
        {**whole, "circuits": [{**circuit, "identity": "00" * 32}, *whole["circuits"][1:]]},
        {**whole, "circuits": [{**circuit, "slots": [[]]}]},
        {**whole, "circuits": 3},
        [],
    ):
        with pytest.raises(Malformed):
            Chain.decode(canonical.encode(wrong))
    with pytest.raises(Malformed):
        Chain.decode(made.chain.encoded() + b"\n")
