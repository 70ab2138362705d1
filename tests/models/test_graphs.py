"""A network's graph: in the mode that is asked for, with nothing about the network changed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decentral.errors import Untraceable
from decentral.models.graphs import (
    alike,
    check_same,
    evaluating,
    in_mode,
    keeping_buffers,
    saved_tensors,
    surrounded,
    trace,
)


class Sleepy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


def test_a_graph_is_that_of_one_mode() -> None:
    model = Sleepy().train()
    x = torch.ones(2, 60)
    assert torch.equal(trace(model)(x), x)
    assert not torch.equal(trace(model, training=True)(x), x)
    assert model.training


def test_graphs_are_alike_if_all_their_operators_are() -> None:
    model = Sleepy()
    assert alike(trace(model).graph, trace(Sleepy().eval()).graph)
    assert not alike(trace(model).graph, trace(model, training=True).graph)
    assert not alike(trace(model).graph, trace(nn.Sequential(model, nn.Identity())).graph)
    check_same(trace(model).graph, trace(model).graph)
    with pytest.raises(Untraceable, match="the network: dropout: is not the same in every call"):
        check_same(trace(model).graph, trace(model, training=True).graph)


def test_modes_come_back_when_the_block_fails() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    model[0].eval()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model[1].training
        raise RuntimeError
    assert [module.training for module in model.modules()] == [True, False, True]
    with in_mode(model, True):
        assert model[0].training
    assert not model[0].training


def test_buffers_come_back_changed_or_replaced() -> None:
    model = nn.BatchNorm1d(3)
    mean, count = model.running_mean, model.num_batches_tracked
    with pytest.raises(RuntimeError), keeping_buffers(model):
        model(torch.randn(4, 3))
        model.running_mean = torch.full((3,), 7.0)
        raise RuntimeError
    assert model.running_mean is mean
    assert torch.equal(model.running_mean, torch.zeros(3))
    assert model.num_batches_tracked is count
    assert count == 0


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("lost", torch.ones(2), persistent=False)
        self.one = nn.Linear(2, 2, bias=False)
        self.other = nn.Linear(2, 2, bias=False)
        self.other.weight = self.one.weight

    def get_extra_state(self) -> Tensor:
        return torch.ones(3)

    def set_extra_state(self, state: Tensor) -> None:
        self.kept = state


def test_saved_tensors_are_parameters_and_buffers_under_all_their_names() -> None:
    model = Odd()
    saved = saved_tensors(model)
    assert list(saved) == ["kept", "one.weight", "other.weight"]
    assert saved["one.weight"] is saved["other.weight"] is model.one.weight


def test_what_runs_around_a_module_is_noticed() -> None:
    hooked, patched = nn.ReLU(), nn.ReLU()
    hooked.register_forward_pre_hook(lambda module, inputs: None)
    patched.forward = lambda x: x
    assert [surrounded(module) for module in (nn.ReLU(), hooked, patched)] == [False, True, True]


def test_transformer_encoders_are_seen_into() -> None:
    """Both orders of their norms, with masks and without; what comes out is what torch computes."""
    torch.manual_seed(0)
    for norm_first, activation in ((True, "relu"), (False, "gelu")):
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.1, activation, batch_first=True, norm_first=norm_first)
        encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False).eval()
        x, mask = torch.randn(3, 5, 8), nn.Transformer.generate_square_subsequent_mask(5)
        padding = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 5])
        for options in ({}, {"mask": mask}, {"mask": mask, "is_causal": True}, {"src_key_padding_mask": padding}):
            model = Encoding(encoder, options)
            graph = trace(model)
            assert {"encoder.layers.1.linear1", "encoder.layers.0.self_attn"} <= {n.target for n in graph.graph.nodes}
            torch.testing.assert_close(graph(x), model.eval()(x))


class Encoding(nn.Module):
    def __init__(self, encoder: nn.Module, options: dict[str, object]) -> None:
        super().__init__()
        self.encoder, self.options = encoder, options

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, **self.options)


def test_transformer_encoders_with_hooks_are_untraceable() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12)
    layer.register_forward_hook(lambda module, inputs, output: output.flip(-1))
    with pytest.raises(Untraceable, match="0: has hooks"):
        trace(nn.Sequential(layer))
