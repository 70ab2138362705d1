from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from decentral.attestation.sealing import SALT, GivenKeys, Guest, MachineKeys
from decentral.attestation.vault import Closed, SealedVault
from decentral.errors import RunDirectoryError
from decentral.training.checkpoint import Checkpoints


def state(value: float) -> dict[str, torch.Tensor]:
    return {"layer.weight": torch.full((4, 3), value), "layer.bias": torch.arange(4.0) * value}


METADATA = {"recipe": "abc", "time": "1.5"}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "peer-0", keep=3)


def damage(file: Path, place: int = -3) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.unlink()  # the other name of these bytes stays sound
    file.write_bytes(content)


def test_every_type_comes_back_exactly(checkpoints: Checkpoints) -> None:
    generator = torch.Generator().manual_seed(0)
    saved = {
        "bf16": torch.randn(3, 5, generator=generator).to(torch.bfloat16),
        "fp16": torch.randn(3, generator=generator).to(torch.float16),
        "fp32": torch.tensor([float("nan"), -0.0, 1e-45, float("inf")]),
        "fp64": torch.randn(2, generator=generator, dtype=torch.float64),
        "batches": torch.tensor(2**62 + 1),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 3, generator=generator).T,
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    }
    checkpoints.save(1, saved, METADATA)
    loaded = checkpoints.load(1)
    assert loaded is not None
    assert loaded.state.keys() == saved.keys()
    for name, tensor in saved.items():
        there = loaded.state[name]
        assert (there.dtype, there.shape) == (tensor.dtype, tensor.shape)
        assert raw(there) == raw(tensor)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def test_metadata_comes_back_and_the_newest_is_a_plain_state_dict(checkpoints: Checkpoints) -> None:
    for round in (1, 2):
        checkpoints.save(round, state(round), METADATA)
    plain = load_file(checkpoints.newest)
    assert plain.keys() == state(2).keys()
    assert all(torch.equal(plain[name], tensor) for name, tensor in state(2).items())
    with safe_open(checkpoints.newest, framework="pt") as opened:
        noted = opened.metadata()
    assert {**noted, **METADATA, "round": "2"} == noted
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.round == 2
    assert loaded.metadata == {**METADATA, "round": "2"}
    assert loaded.warnings == ()


@given(
    rounds=st.lists(st.integers(0, 2_000_000), min_size=1, max_size=8, unique=True).map(sorted), keep=st.integers(1, 4)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
def test_the_last_rounds_are_kept(rounds: list[int], keep: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = Checkpoints(tmp_path_factory.mktemp("run"), "peer-0", keep)
    for round in rounds:
        kept.save(round, state(round), {}, state(round))
    assert kept.rounds() == rounds[-keep:]
    for round in rounds[-keep:]:
        loaded = kept.load(round)
        assert loaded is not None
        assert torch.equal(loaded.state["layer.bias"], state(round)["layer.bias"])
    files = {path.name for path in (kept.newest.parent / "peer-0").iterdir()}
    assert len(files) == 2 * len(kept.rounds())


def test_the_newest_and_its_round_are_the_same_bytes_on_disk(checkpoints: Checkpoints) -> None:
    checkpoints.save(4, state(4), METADATA)
    assert checkpoints.newest.samefile(checkpoints.newest.parent / "peer-0" / "round-000004.safetensors")


def test_a_file_system_without_hard_links_gets_copies(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    checkpoints.save(4, state(4), METADATA)
    there = checkpoints.newest.parent / "peer-0" / "round-000004.safetensors"
    assert not checkpoints.newest.samefile(there)
    assert checkpoints.newest.read_bytes() == there.read_bytes()


def test_a_run_that_goes_back_gives_up_what_came_after(checkpoints: Checkpoints) -> None:
    for round in (1, 2, 3):
        checkpoints.save(round, state(round), METADATA)
    checkpoints.save(2, state(20), METADATA)
    assert checkpoints.rounds() == [1, 2]
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.state["layer.weight"][0, 0] == 20


def test_the_optimiser_is_kept_beside_the_model(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, state(1), METADATA, {"momentum/layer.bias": torch.ones(4)})
    checkpoints.save(2, state(2), METADATA)
    with_state, without = checkpoints.load(1), checkpoints.load(2)
    assert with_state is not None
    assert without is not None
    assert torch.equal(with_state.optimizer["momentum/layer.bias"], torch.ones(4))
    assert without.optimizer == {}
    assert load_file(checkpoints.newest).keys() == state(2).keys()


def test_the_same_state_is_the_same_bytes(tmp_path: Path) -> None:
    metadata = {f"key-{number}": str(number) for number in range(9)}
    copies = [Checkpoints(tmp_path / name, "peer-0") for name in ("one", "two")]
    for copy in copies:
        copy.save(1, state(1), metadata)
    assert copies[0].newest.read_bytes() == copies[1].newest.read_bytes()


def test_no_checkpoint_is_nothing_and_an_absent_round_is_an_error(checkpoints: Checkpoints) -> None:
    assert checkpoints.rounds() == []
    assert checkpoints.load() is None
    checkpoints.save(1, state(1), METADATA)
    with pytest.raises(RunDirectoryError, match="does not exist"):
        checkpoints.load(2)
    assert not checkpoints.sound(2)


def rounds_of(checkpoints: Checkpoints) -> Iterator[Path]:
    return iter(sorted((checkpoints.newest.parent / "peer-0").glob("round-??????.safetensors")))


@pytest.mark.parametrize("place", [-1, 3, 40, -60])
def test_one_changed_bit_is_found_and_the_round_before_is_used(checkpoints: Checkpoints, place: int) -> None:
    for round in (1, 2):
        checkpoints.save(round, state(round), METADATA)
    first, second = rounds_of(checkpoints)
    assert checkpoints.sound(2)
    damage(second, place)
    assert not checkpoints.sound(2)
    assert checkpoints.sound(1)
    with pytest.raises(RunDirectoryError, match=second.name):
        checkpoints.load(2)
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.round == 1
    assert len(loaded.warnings) == 1
    assert second.name in loaded.warnings[0]
    damage(first)
    with pytest.raises(RunDirectoryError, match=first.name):
        checkpoints.load()


@pytest.mark.parametrize("length", [0, 5, 8, 60, -1])
def test_a_truncated_file_is_found(checkpoints: Checkpoints, length: int) -> None:
    for round in (1, 2):
        checkpoints.save(round, state(round), METADATA)
    _, second = rounds_of(checkpoints)
    os.truncate(second, length % second.stat().st_size)
    assert not checkpoints.sound(2)
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.round == 1


def test_a_damaged_or_absent_optimiser_damages_its_round(checkpoints: Checkpoints) -> None:
    for round in (1, 2, 3):
        checkpoints.save(round, state(round), METADATA, {"momentum/layer.bias": torch.ones(4)})
    files = sorted((checkpoints.newest.parent / "peer-0").glob("*.optimizer.safetensors"))
    damage(files[2])
    files[1].unlink()
    assert [round for round in checkpoints.rounds() if checkpoints.sound(round)] == [1]
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.round == 1
    assert len(loaded.warnings) == 2


def test_a_round_under_the_name_of_another_is_refused(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, state(1), METADATA)
    (first,) = rounds_of(checkpoints)
    first.rename(first.with_name("round-000002.safetensors"))
    with pytest.raises(RunDirectoryError, match="another round"):
        checkpoints.load(2)
    assert not checkpoints.sound(2)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may become longer than 512 bytes: the kernel refuses the write as on a full disk.

    Only around the write that is to fail: what pytest prints may go to a file too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_checkpoint_intact(tmp_path: Path, checkpoints: Checkpoints) -> None:
    checkpoints.save(1, state(1), METADATA)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    with full_disk(), pytest.raises(RunDirectoryError, match="checkpoint of round 2 not written"):
        checkpoints.save(2, {"large": torch.zeros(100_000)}, METADATA)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_error_of_the_disk_leaves_the_old_checkpoint_intact(
    tmp_path: Path, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(1, state(1), METADATA)

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(RunDirectoryError, match="No space left"):
            checkpoints.save(2, state(2), METADATA)
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.round == 1
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    checkpoints.save(2, state(2), METADATA)
    assert checkpoints.rounds() == [1, 2]


def test_rounds_and_their_soundness_are_told_without_torch(checkpoints: Checkpoints) -> None:
    checkpoints.save(3, state(3), METADATA)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from decentral.training.checkpoint import Checkpoints\n"
        f"found = Checkpoints(Path({str(checkpoints.newest.parent)!r}), 'peer-0')\n"
        "print(found.rounds(), found.sound(3), 'torch' in sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.strip() == "[3] True False"


def test_at_least_one_round_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Checkpoints(tmp_path, "peer-0", keep=0)


# Sealed


def vault(code: bytes = b"m" * 48) -> SealedVault:
    machine = MachineKeys(b"k" * 32, Guest(code, (), bytes(48), 0))
    keys = GivenKeys(0, False, machine.machine(SALT), lambda policy, version: machine.key(policy, version, SALT))
    return SealedVault(keys, "peer-0")


@pytest.fixture
def sealing(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "peer-0", keep=2, vault=vault())


def test_sealed_rounds_come_back_and_nothing_of_them_is_plain(sealing: Checkpoints) -> None:
    for round in (1, 2, 3):
        sealing.save(round, state(round), METADATA, {"momentum/layer.bias": torch.full((4,), float(round))})
    assert sealing.rounds() == [2, 3] and sealing.sound(3)
    loaded = sealing.load()
    assert loaded is not None and (loaded.round, loaded.metadata) == (3, {**METADATA, "round": "3"})
    assert torch.equal(loaded.state["layer.weight"], state(3)["layer.weight"])
    assert torch.equal(loaded.optimizer["momentum/layer.bias"], torch.full((4,), 3.0))
    files = [path for path in sealing.newest.parent.rglob("*") if path.is_file()]
    assert len(files) == 4 and all(path.suffix == ".sealed" for path in files)
    assert not any(b"layer.weight" in path.read_bytes() for path in files)


def test_a_peer_that_seals_leaves_the_same_model_at_its_end_as_one_that_does_not(
    sealing: Checkpoints, tmp_path: Path
) -> None:
    plain = Checkpoints(tmp_path / "plain", "peer-0")
    sealing.publish()  # nothing was trained yet
    for kept in (plain, sealing):
        kept.save(4, state(4), METADATA)
    with pytest.raises(RunDirectoryError, match="leaves a model when it has finished"):
        Checkpoints(sealing.newest.parent, "peer-0").trained()
    for kept in (plain, sealing):
        kept.publish()
    assert sealing.newest.read_bytes() == plain.newest.read_bytes()
    for folder in (sealing.newest.parent, plain.newest.parent):
        found = Checkpoints(folder, "peer-0").trained()
        assert found is not None and found.round == 4
        assert torch.equal(found.state["layer.bias"], state(4)["layer.bias"])
    damage(sealing.newest)
    with pytest.raises(RunDirectoryError, match="is damaged"):
        Checkpoints(sealing.newest.parent, "peer-0").trained()


def test_a_sealed_round_that_does_not_open_is_passed_over_by_name(sealing: Checkpoints) -> None:
    for round in (1, 2):
        sealing.save(round, state(round), METADATA)
    second = sealing.newest.parent / "peer-0" / "round-000002.safetensors.sealed"
    whole = second.read_bytes()
    damage(second)
    assert sealing.sound(1) and not sealing.sound(2)
    loaded = sealing.load()
    assert loaded is not None and loaded.round == 1 and "round-000002.safetensors.sealed" in loaded.warnings[0]
    second.write_bytes((second.parent / "round-000001.safetensors.sealed").read_bytes())  # an older one in its place
    with pytest.raises(RunDirectoryError, match=r"round-000002\.safetensors\.sealed: another purpose"):
        sealing.load(2)
    second.write_bytes(whole)
    with pytest.raises(RunDirectoryError, match=r"round-000002\.safetensors\.sealed: another measurement"):
        Checkpoints(sealing.newest.parent, "peer-0", vault=vault(b"n" * 48)).load()


def test_nobody_goes_on_from_a_plain_round_where_rounds_are_sealed_or_the_other_way_round(
    sealing: Checkpoints, checkpoints: Checkpoints
) -> None:
    sealing.save(1, state(1), METADATA)
    with pytest.raises(RunDirectoryError, match=r"round-000001\.safetensors\.sealed is sealed, and this peer seals no"):
        checkpoints.rounds()
    shutil.rmtree(sealing.newest.parent)
    checkpoints.save(1, state(1), METADATA)
    with pytest.raises(RunDirectoryError, match=r"round-000001\.safetensors is plain, and this peer seals"):
        sealing.load()


def test_a_launcher_tells_whole_rounds_from_damaged_ones_without_the_keys(sealing: Checkpoints) -> None:
    sealing.save(1, state(1), METADATA, {"momentum/layer.bias": torch.ones(4)})
    launchers = Checkpoints(sealing.newest.parent, "peer-0", vault=Closed())
    assert launchers.rounds() == [1] and launchers.sound(1) and not launchers.sound(2)
    damage(sealing.newest.parent / "peer-0" / "round-000001.optimizer.safetensors.sealed")
    assert not launchers.sound(1)


def test_a_full_disk_leaves_the_sealed_rounds_as_they_were(
    sealing: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealing.save(1, state(1), METADATA)

    def full(*of: object, **how: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("decentral.attestation.vault.write_atomic", full)
    with pytest.raises(RunDirectoryError, match="round 2 not written"):
        sealing.save(2, state(2), METADATA)
    loaded = sealing.load()
    assert loaded is not None and loaded.round == 1
