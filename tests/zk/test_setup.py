"""From networks to circuits: the same numbers come to the same identity, and what cannot be said is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from decentral.errors import Unproven, UserError
from decentral.zk.arguments import Arguments, Visibility
from decentral.zk.export import export
from decentral.zk.setup import KEY, PINNED, Options, draft, setup
from decentral.zk.store import Store
from decentral.zk.worker import Limits
from tests.zk.conftest import SMALL, TINY, Made, stages


async def test_the_same_parameters_come_to_the_same_identity_in_another_store(made: Made, tmp_path: Path) -> None:
    """As whoever checks a published circuit does: with the same SRS, and nothing else of the maker's."""

    async def same(logrows: int):  # type: ignore[no-untyped-def]
        return made.srs

    chain, artefacts, _ = await setup(stages(), [made.inputs], same, Store(tmp_path), TINY, limits=SMALL)
    assert chain.encoded() == made.chain.encoded()
    for one, other in zip(artefacts, made.artefacts, strict=True):
        assert one.folder != other.folder
        assert (one.folder / KEY).read_bytes() == (other.folder / KEY).read_bytes()


async def test_a_second_setup_makes_nothing(made: Made) -> None:
    before = {each.folder: (each.folder / PINNED).stat().st_mtime_ns for each in made.artefacts}
    said: list[str] = []
    await setup(stages(), [made.inputs], made.store.local_srs, made.store, TINY, limits=SMALL, say=said.append)
    assert {folder: (folder / PINNED).stat().st_mtime_ns for folder in before} == before
    assert not any("keys" in words for words in said)


async def test_settings_do_not_depend_on_the_order_of_chance(made: Made) -> None:
    """ezkl writes lists in another order each time."""
    drafts = [await draft(stages(), [made.inputs], TINY, limits=SMALL) for _ in range(4)]
    assert len({tuple(each.settings.encoded for each in one) for one in drafts}) == 1


async def test_stages_have_the_same_rows_and_go_on_in_the_same_scale(made: Made) -> None:
    first, second = made.chain.circuits
    assert first.settings.logrows == second.settings.logrows == made.srs.logrows
    assert first.settings.output_scales == second.settings.input_scales


async def test_more_rows_can_be_asked_for(made: Made) -> None:
    drafts = await draft(stages(), [made.inputs], Options(base=16, legs=8, logrows=11), limits=SMALL)
    assert {each.settings.logrows for each in drafts} == {11}


async def test_tensors_in_two_scales_cannot_cross(made: Made) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, self.linear(x)

    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.sum(1) + y.sum(1)

    with pytest.raises(UserError, match="cut elsewhere"):
        await draft([Mixed(), Sum()], [made.inputs], Options(base=16, legs=8, rebase=1000), limits=SMALL)


async def test_nothing_to_calibrate_on_is_refused(made: Made) -> None:
    for given in ([], [made.inputs[:0]]):
        with pytest.raises(UserError, match="sample"):
            await draft(stages(), given, TINY, limits=SMALL)


async def test_a_memory_that_is_too_small_says_so_and_leaves_nothing(made: Made, tmp_path: Path) -> None:
    store, options = Store(tmp_path), Options(base=16, legs=8, logrows=13)
    srs = await made.store.local_srs(13, SMALL)

    async def same(logrows: int):  # type: ignore[no-untyped-def]
        return srs

    with pytest.raises(Unproven, match="smaller stages"):
        await setup(stages(), [made.inputs], same, store, options, limits=Limits(memory=60 * 2**20, seconds=100))
    left = await asyncio.to_thread(lambda: [path.suffix for path in (tmp_path / "circuits").iterdir()])
    assert set(left) == {".lock"}


async def test_a_full_disk_names_the_store(made: Made, tmp_path: Path) -> None:
    async def same(logrows: int):  # type: ignore[no-untyped-def]
        return made.srs

    tight = Limits(memory=2**31, seconds=100, file=2**18)
    with pytest.raises(UserError, match=f"{tmp_path}.* is full"):
        await setup(stages(), [made.inputs], same, Store(tmp_path), TINY, limits=tight)
    chain, _, _ = await setup(stages(), [made.inputs], same, Store(tmp_path), TINY, limits=SMALL)
    assert chain == made.chain


async def test_an_operator_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x)

    with pytest.raises(Unproven, match="ONNX"):
        await asyncio.to_thread(export, Odd(), [torch.zeros(1, 2, 2)], tmp_path / "x.onnx")


def test_only_one_input_is_proven_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch of 1"):
        export(nn.Linear(2, 2), [torch.zeros(2, 2)], tmp_path / "x.onnx")


def test_private_parameters_are_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="for every output there is one"):
        Visibility.of_parameters("private")
    with pytest.raises(UserError, match="'fixed' or 'polycommit'"):
        Visibility.of_parameters("hashed")
    assert Visibility.of_parameters("polycommit") is Visibility.COMMITTED
    with pytest.raises(UserError):
        Arguments(parameters=Visibility.PUBLIC)
    with pytest.raises(UserError):
        Arguments(input=Visibility.FIXED)
    with pytest.raises(UserError):
        Arguments(logrows=27)


@pytest.mark.parametrize(("base", "most"), [(2**14, 9), (16, 31)])
def test_numbers_have_no_more_digits_than_the_field_can_tell_apart(base: int, most: int) -> None:
    assert Arguments(base=base, legs=most).legs == most
    with pytest.raises(UserError, match="rescale more often"):
        Arguments(base=base, legs=most + 1)


async def test_each_stage_may_have_options_of_its_own(made: Made) -> None:
    loose = Options(base=16, legs=8, checked=False)
    same = await draft(stages(), [made.inputs], [TINY, TINY], limits=SMALL)
    other = await draft(stages(), [made.inputs], [loose, TINY], limits=SMALL)
    assert [each.settings for each in same] == [circuit.settings for circuit in made.chain.circuits]
    assert other[0].settings.rows < same[0].settings.rows
    assert other[1].settings == same[1].settings
