"""The emulator's integers are those of ezkl's own witnesses, element by element."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from decentral.data.datasets import load_dataset
from decentral.errors import Unproven
from decentral.models.catalogue import build_model
from decentral.models.folding import fold_batchnorm
from decentral.models.stages import split
from decentral.zk.arguments import Arguments
from decentral.zk.emulator import Emulator, Scales, accuracy, quantised, through
from decentral.zk.export import export
from decentral.zk.setup import settings_of
from decentral.zk.worker import Worker

FIELD = 0x30644E72E131A029B85045B68181585D2833E84879B9709143E1F593F0000001


def signed(felt: str) -> int:
    value = int.from_bytes(bytes.fromhex(felt), "little")
    return value - FIELD if value > FIELD // 2 else value


async def differences(
    alone: Worker, folder: Path, network: nn.Module, inputs: Sequence[Tensor], arguments: Arguments
) -> int:
    """Output elements, over all images, that are not those of a witness."""
    network.eval()
    scales = Scales(arguments.parameter_scale, arguments.rebase)
    mine = Emulator(network, scales, inputs=len(inputs))(*(quantised(each, arguments.input_scale) for each in inputs))
    model, compiled, data = folder / "network.onnx", folder / "network.ezkl", folder / "data.json"
    export(network, [each[:1] for each in inputs], model)
    settings = await settings_of(alone, model, arguments)
    assert [each.scale for each in mine] == list(settings.output_scales)
    (folder / "settings.json").write_bytes(settings.encoded)
    await alone.call(
        "compile_circuit", model=str(model), compiled=str(compiled), settings=str(folder / "settings.json")
    )
    wrong = 0
    for image in range(len(inputs[0])):
        data.write_text(json.dumps({"input_data": [each[image].double().flatten().tolist() for each in inputs]}))
        made = await alone.call("witness", data=str(data), compiled=str(compiled), output=str(folder / "witness.json"))
        for ours, theirs in zip(mine, made["outputs"], strict=True):
            own = ours.moved(lambda each, at=image: each[at]).integers()
            wrong += sum(one != signed(felt) for one, felt in zip(own, theirs, strict=True))
    return wrong


class Residual(nn.Module):
    """Two convolutions, the second around itself, pooled and read out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first(x))
        pooled = self.pool(torch.relu(self.second(inner) + inner))
        found: Tensor = self.head(adaptive_avg_pool2d(pooled, 1).flatten(1))
        return found


NETWORKS = {
    "convolution": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 8, 8)),
    "a 1 x 1 convolution": (lambda: nn.Conv2d(2, 3, 1, stride=2, bias=False), (2, 8, 8)),
    "linear": (lambda: nn.Linear(8, 5), (8,)),
    "residual": (Residual, (2, 6, 6)),
    "pooled over sixteen": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)), (2, 4, 4)),
    "pooled, and on": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Flatten()), (2, 4, 4)),
    "pooled over four": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (2, 2, 2)),
    "pooled over nine": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (2, 3, 3)),
}


def overwriting() -> nn.Module:
    """A stage that copies what it was given, since it computes in its place."""
    whole = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)).eval()
    return split(whole, ["0"], torch.randn(1, 4))[1].network


NETWORKS["overwrites its input"] = (overwriting, (5,))
ARGUMENTS = {
    "rescaled after each layer": Arguments(base=16, legs=8),
    "other scales": Arguments(input_scale=8, parameter_scale=6, base=16, legs=8),
    "rescaled now and then": Arguments(input_scale=6, parameter_scale=9, rebase=2, base=16, legs=10),
    "never rescaled": Arguments(rebase=9, base=16, legs=16),
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
async def test_every_operator_gives_the_integers_of_the_circuit(prover, tmp_path, arguments):
    for make, shape in NETWORKS.values():
        torch.manual_seed(0)
        assert not await differences(prover, tmp_path, make(), [2 * torch.randn(2, *shape)], ARGUMENTS[arguments])


class Joined(nn.Module):
    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return torch.cat([one, two], 1)


class Sum(nn.Module):
    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(one + two), torch.cat([one, two], 1)


async def test_a_circuit_may_take_and_give_several_tensors(prover, tmp_path):
    torch.manual_seed(0)
    assert not await differences(prover, tmp_path, Sum(), [torch.randn(2, 3), torch.randn(2, 3)], Arguments())


class Shifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + 1


def test_a_constant_that_is_added_has_no_circuit_here():
    with pytest.raises(Unproven, match="adds a constant"):
        Emulator(Shifted())


async def test_another_weight_gives_other_integers(prover, tmp_path):
    """That the comparison above can fail: one weight by one step."""
    torch.manual_seed(0)
    network, images = nn.Linear(4, 2), torch.ones(1, 4)
    honest = Emulator(network)(quantised(images, 7))[0].integers()
    with torch.no_grad():
        network.weight[0, 0] += 2.0**-7
    other = Emulator(network)(quantised(images, 7))[0].integers()
    assert other[0] == honest[0] + 1 and other[1] == honest[1]


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.GELU()), "1: .*not one of the operators"),
        (nn.Sequential(nn.BatchNorm1d(2)), "not one of the operators"),
    ],
)
def test_an_operator_that_it_does_not_know_is_named(network, named):
    with pytest.raises(Unproven, match=named):
        Emulator(network.eval())


def test_circuits_pass_on_what_others_take():
    """Two parts of a layer, joined by a third circuit that takes them the other way round."""
    first, second = nn.Linear(3, 1), nn.Linear(3, 2)
    circuits = [Emulator(first), Emulator(second), Emulator(Joined(), inputs=2)]
    images = quantised(torch.randn(5, 3), 7)
    (found,) = through(circuits, [(), (), ((1, 0), (0, 0))], images)
    one, two = (Emulator(layer)(images)[0].integers() for layer in (first, second))
    assert found.integers() == [value for row in range(5) for value in (*two[2 * row : 2 * row + 2], one[row])]


def test_accuracy_is_that_of_the_largest_output():
    assert accuracy(quantised(torch.eye(3), 7), torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)


def digits_network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("strided-cnn", (1, 8, 8), 10, channels=[16, 32])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arguments", ["rescaled after each layer", "never rescaled"])
async def test_two_hundred_digits(prover, tmp_path, arguments):
    data = load_dataset("digits")
    images = torch.from_numpy(data.test_images()[:200]).float() / 8 - 1
    network = fold_batchnorm(digits_network().eval())
    assert not await differences(prover, tmp_path, network, [images], ARGUMENTS[arguments])


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_two_hundred_images_of_the_size_of_cifar(prover, tmp_path):
    torch.manual_seed(0)
    network = fold_batchnorm(build_model("strided-cnn", (3, 32, 32), 10).eval())
    arguments = Arguments(rebase=9, legs=4)
    assert not await differences(prover, tmp_path, network, [torch.randn(200, 3, 32, 32)], arguments)
