"""Stages one after another are the network, to the bit; cuts that cannot be are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

import decentral
from decentral.errors import Untraceable, UserError
from decentral.models.catalogue import build_model
from decentral.models.graphs import saved_state
from decentral.models.stages import Stage, leaves, split
from decentral.training.digest import model_digest

SWIN = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (partial(build_model, "mlp", (1, 8, 8), 10, hidden=[12, 9]), (1, 8, 8)),
    "cnn": (partial(build_model, "cnn", (1, 8, 8), 10), (1, 8, 8)),
    "gn-lenet": (partial(build_model, "gn-lenet", (3, 32, 32), 10), (3, 32, 32)),
    "resnet20": (partial(build_model, "resnet20", (3, 16, 16), 10), (3, 16, 16)),
    "vgg11-bn": (partial(build_model, "vgg11-bn", (3, 32, 32), 10), (3, 32, 32)),
    "resnext": (
        partial(models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, groups=4, width_per_group=4),
        (3, 32, 32),
    ),
    "mobilenet": (partial(models.mobilenet_v3_small, num_classes=10), (3, 32, 32)),
    "densenet": (partial(models.DenseNet, 4, (3, 3), 8, num_classes=10), (3, 64, 64)),
    "shufflenet": (partial(models.ShuffleNetV2, [2, 3, 2], [8, 12, 20, 28, 32], num_classes=10), (3, 64, 64)),
    "vit": (partial(models.VisionTransformer, 16, 8, 2, 4, 16, 24, num_classes=10), (3, 16, 16)),
    "swin": (partial(models.SwinTransformer, **SWIN, num_classes=10), (3, 32, 32)),
    "convnext": (
        partial(models.ConvNeXt, [CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 2)], 0.1, num_classes=10),
        (3, 32, 32),
    ),
}


@cache
def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name][0]().train()


def images(name: str, count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, *NETWORKS[name][1], generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def chained(stages: list[Stage], *inputs: Tensor) -> Any:
    """What the last stage says when each stage is a machine of its own: named tensors are all that passes."""
    tensors = dict(zip((port.name for port in stages[0].inputs), inputs, strict=True))
    for stage in stages:
        tensors = {name: tensor.contiguous().clone() for name, tensor in stage.run(tensors).items()}
    return tensors


@torch.no_grad()
def check(stages: list[Stage], model: nn.Module, *inputs: Tensor) -> None:
    modes = {module: module.training for module in model.modules()}
    expected = dict(leaves(model.eval()(*inputs)))
    for module, mode in modes.items():
        module.training = mode
    found = chained(stages, *inputs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    passed: Any = inputs
    for stage in stages:
        passed = stage(*passed) if isinstance(passed, tuple) else stage(passed)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in leaves(passed))


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_one_after_another_are_the_network_to_the_bit(name: str) -> None:
    model = network(name)
    before = {key: tensor.clone() for key, tensor in saved_state(model).items()}
    stages = split(model, 3, images(name))
    assert len(stages) == 3
    check(stages, model, images(name, 3, 2))
    assert model.training, "the network is left in its mode"
    assert all(torch.equal(tensor, before[key]) for key, tensor in saved_state(model).items())
    held = set().union(*(stage.state() for stage in stages))
    assert {key for key in before if "num_batches" not in key} <= held


@settings(max_examples=10)
@given(st.data())
def test_any_cuts_give_the_network_back_or_are_refused_with_the_reason(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["resnet20", "vit", "mobilenet", "densenet"]))
    model = network(name)
    modules = [path for path, _ in model.named_modules() if path]
    cuts = data.draw(st.lists(st.sampled_from(modules), min_size=1, max_size=3, unique=True))
    try:
        stages = split(model, cuts, images(name))
    except UserError as refused:
        assert any(
            why in str(refused)
            for why in ("at the same place", "never reached", "nothing is computed after", "of tensors")
        )
    else:
        assert len(stages) == len(cuts) + 1
        check(stages, model, images(name, 3, 2))


def test_a_cut_is_after_its_module() -> None:
    model = network("resnet20")
    first, second = split(model, ["stages.0"], images("resnet20"))
    assert all(name.startswith(("stem", "stages.0", "conv", "bn")) for name in first.state())
    assert not any(name.startswith("stages.0") for name in second.state())
    assert [port.name for port in first.outputs] == [port.name for port in second.inputs]
    assert len(split(model, [], images("resnet20"))) == len(split(model, 1, images("resnet20"))) == 1


def test_a_stage_may_become_another_type_while_the_network_stays() -> None:
    model, x = NETWORKS["mlp"][0](), images("mlp")
    with torch.inference_mode():
        stages = split(model, 2, x)
    stages[0].double()
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())
    name, tensor = next(iter(stages[1].state().items()))
    tensor.add_(1.0)
    assert torch.equal(model.state_dict()[name], tensor), "they share memory"
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    with pytest.raises(Untraceable, match="not built yet"):
        split(lazy, 1, x)


def test_the_exact_answer_is_in_float64_and_the_stage_stays_as_it_is() -> None:
    torch.manual_seed(0)
    stage = split(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), ["1"], torch.rand(2, 4))[0]
    given_ = {stage.inputs[0].name: torch.rand(5, 4)}
    (exact,) = stage.exact(given_).values()
    (rounded,) = stage.run(given_).values()
    assert exact.dtype == torch.float64
    assert torch.allclose(exact.float(), rounded, atol=1e-6)
    assert {each.dtype for each in stage.state().values()} == {torch.float32}
    with pytest.raises(ValueError, match="the inputs are"):
        stage.exact({"other": torch.rand(5, 4)})
    with pytest.raises(UserError, match="cannot be computed in float64"):
        stage.exact({stage.inputs[0].name: torch.rand(5, 3)})


def test_cuts_may_be_given_in_any_order() -> None:
    model, x = network("resnet20"), images("resnet20")
    one, other = split(model, ["stages.1", "stages.0"], x), split(model, ["stages.0", "stages.1"], x)
    assert [stage.description for stage in one] == [stage.description for stage in other]


def test_a_residual_crosses_as_a_tensor_of_its_own_or_is_refused() -> None:
    model, x = network("resnet20"), images("resnet20")
    first, second = split(model, ["stages.0.1.conv1"], x)
    assert len(first.outputs) == len(second.inputs) == 2
    check([first, second], model, x)
    with pytest.raises(UserError, match=r"2 tensors cross there .* residual connection.* one does after 'stages.0"):
        split(model, ["stages.0.1.conv1"], x, single=True)
    for stage in split(model, 4, x, single=True):
        assert len(stage.inputs) == len(stage.outputs) == 1


def test_parts_in_the_middle_of_a_chain_carry_what_later_ones_need() -> None:
    class Far(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x))) + x

    model, x = Far(), torch.randn(2, 4)
    stages = split(model, ["a", "b"], x)
    assert [[port.name for port in stage.inputs] for stage in stages] == [["x"], ["x", "a"], ["x", "b"]]
    check(stages, model, x)


class Sized(nn.Module):
    """Numbers of the first part are used in the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        count, whole = x.shape[0], x.size()
        y = self.b(self.a(x.flatten(1)))
        return y.reshape(count, -1).view(whole)


def test_numbers_cross_as_tensors_and_follow_the_batch() -> None:
    model = Sized()
    stages = split(model, ["a"], torch.randn(2, 2, 2))
    assert [port.dtype for port in stages[1].inputs].count(torch.int64) == 2
    check(stages, model, torch.randn(5, 2, 2))


class Writing(nn.Module):
    """Changes in place what came to it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(self.act(y)) + y


def test_a_stage_never_writes_into_what_it_was_given() -> None:
    model, x = Writing(), torch.randn(3, 4)
    first, second = split(model, ["a"], x)
    given = {name: tensor.clone() for name, tensor in first.run({"x": x}).items()}
    kept = {name: tensor.clone() for name, tensor in given.items()}
    second.run(given)
    assert all(torch.equal(given[name], kept[name]) for name in kept)
    check([first, second], model, x)


def test_what_two_stages_would_have_to_change_together_is_untraceable() -> None:
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            view = self.b(y[:, :2])
            view.mul_(2.0)
            return y

    split(Aliased(), 1, torch.randn(3, 4))
    with pytest.raises(Untraceable, match="changes in place what another stage has a copy of"):
        split(Aliased(), ["b"], torch.randn(3, 4))


def test_answers_and_inputs_may_be_several() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
            one, two = self.a(x).chunk(2, dim=1)
            return {"logits": self.b(one + y), "hidden": [two, None]}

    model, inputs = Both(), (torch.randn(2, 4), torch.randn(2, 3))
    stages = split(model, ["a"], *inputs)
    assert [port.name for port in stages[-1].outputs] == ["output.logits", "output.hidden.0"]
    check(stages, model, *inputs)


def test_a_tensor_of_two_stages_is_in_both_and_named() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mid, self.head = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.mid(self.table(x))))

    model, x = Tied(), torch.randint(7, (3, 2))
    first, second = split(model, ["mid"], x)
    assert (first.shared, second.shared) == ({"table.weight"}, {"head.weight"})
    assert all(not stage.shared for stage in split(network("cnn"), 2, images("cnn")))
    check([first, second], model, x)


def test_transformer_encoders_are_cut_between_their_layers() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(8, 3))
    x = torch.randn(2, 5, 8)
    stages = split(model, ["0.layers.0", "0.layers.1"], x)
    with torch.no_grad():
        torch.testing.assert_close(chained(stages, x)["output"], model.eval()(x))


# Descriptions and states


def test_equal_networks_have_equal_descriptions_and_others_have_others() -> None:
    def texts(**options: object) -> list[str]:
        model = build_model("cnn", (1, 8, 8), 10, **options)
        return [stage.description for stage in split(model, 2, torch.randn(3, 1, 8, 8))]

    assert texts() == texts()
    x = torch.randn(2, 4)
    told = [
        split(nn.Sequential(nn.Linear(4, 4), middle, nn.Linear(4, 4)), 1, x)[0].description
        for middle in (nn.ReLU(), nn.GELU(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), nn.LayerNorm(4), nn.Identity())
    ]
    assert len(set(told)) == len(told)


def test_a_batch_of_another_size_is_the_same_description() -> None:
    one, other = (split(network("vit"), 3, images("vit", count)) for count in (1, 4))
    assert [stage.description for stage in one] == [stage.description for stage in other]


def test_a_state_comes_back_from_safetensors_on_another_machine() -> None:
    from safetensors.torch import load, save

    model = network("resnet20")
    torch.manual_seed(7)
    other = NETWORKS["resnet20"][0]()
    x = images("resnet20")
    theirs, ours = split(model, 3, x), split(other, 3, x)
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.description == their.description
        mine.load(load(save({name: tensor.contiguous() for name, tensor in their.state().items()})))
    check(ours, model, x)
    whole = dict(saved_state(model))
    ours[0].load(whole)
    missing = next(iter(ours[0].state()))
    with pytest.raises(ValueError, match=f"lacks {missing}"):
        ours[0].load({name: tensor for name, tensor in whole.items() if name != missing})
    with pytest.raises(ValueError, match=r"not torch\.float32"):
        ours[0].load({**whole, missing: whole[missing].double()})


def test_tied_tensors_of_one_stage_come_back_from_safetensors_as_well() -> None:
    from safetensors.torch import load, save

    torch.manual_seed(0)
    layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
    layers[1].weight = layers[0].weight
    model, x = nn.Sequential(*layers), torch.randn(2, 4)
    stage = split(model, 1, x)[0]
    expected, kept = chained([stage], x)["output"], save(stage.state())
    with torch.no_grad():
        layers[0].weight.zero_()
    assert not torch.equal(chained([stage], x)["output"], expected)
    stage.load(load(kept))
    assert torch.equal(chained([stage], x)["output"], expected)
    assert layers[1].weight is layers[0].weight


def test_names_that_are_no_inputs_are_refused() -> None:
    stage = split(network("cnn"), 2, images("cnn"))[1]
    with pytest.raises(ValueError, match="the inputs are"):
        stage.run({"nonsense": torch.zeros(1)})


def test_it_is_exported() -> None:
    assert decentral.split is split


def test_a_digest_pins_graph_and_parameters_of_a_stage() -> None:
    def digests(model: nn.Module, cut: str = "stages.1") -> list[str]:
        return [model_digest(stage.description, stage.state()) for stage in split(model, [cut], images("resnet20"))]

    pinned = digests(network("resnet20"))
    again = NETWORKS["resnet20"][0]()
    again.load_state_dict(network("resnet20").state_dict())
    assert digests(again) == pinned
    assert not set(digests(again, "stages.0")) & set(pinned)
    with torch.no_grad():
        next(again.parameters()).view(-1)[0].mul_(1.0001)
    changed = digests(again)
    assert changed[0] != pinned[0]
    assert changed[1] == pinned[1]
