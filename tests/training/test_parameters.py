"""Parameters come out of files as they went in, and nothing else comes out of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from decentral.errors import UserError
from decentral.training.parameters import put_parameters, read_parameters


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def by_safetensors(model: nn.Module, folder: Path) -> Path:
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


def by_torch(model: nn.Module, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "model.pth"


def wrapped(model: nn.Module, folder: Path) -> Path:
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("write", [by_safetensors, by_torch, wrapped])
def test_what_was_written_is_put_into_another_network(tmp_path: Path, write: Callable[[nn.Module, Path], Path]) -> None:
    one, other = network().eval(), network().eval()
    put_parameters(other, read_parameters(write(one, tmp_path)))
    x = torch.randn(5, 3)
    assert torch.equal(one(x), other(x))


def test_parameters_of_another_network_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"Missing.*1\.bias"):
        put_parameters(network(), {name: t for name, t in network().state_dict().items() if name != "1.bias"})
    with pytest.raises(UserError, match=r"size mismatch for 0\.weight"):
        put_parameters(network(), {**network().state_dict(), "0.weight": torch.zeros(4, 9)})


class Trap:
    """What a file of torch's must not be able to do."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match=r"trap\.pth: cannot be read"):
        read_parameters(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_parameters(tmp_path / name)


def test_what_is_no_state_dict_is_named(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no parameters by name"):
        read_parameters(tmp_path / "list.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(UserError, match=r"other\.pth: cannot be read"):
        read_parameters(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"absent\.pth: cannot be read"):
        read_parameters(tmp_path / "absent.pth")
