"""BatchNorm that has become part of the layer before it, so that there is nothing left of it to compute.

In evaluation mode BatchNorm multiplies each channel by a number and adds one, which the weights and the bias of a
convolution or of a linear layer can do as well. Circuits are made of such networks.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from decentral.errors import UserError
from decentral.models.graphs import place_of, trace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batchnorm(model: nn.Module, inputs: int = 1) -> fx.GraphModule:
    """The network in evaluation mode without its BatchNorm layers, as a graph with tensors of its own.

    Raises UserError that names a BatchNorm that follows no layer, or one whose output something else uses as well;
    Untraceable.
    """
    graph = copy.deepcopy(model if isinstance(model, fx.GraphModule) else trace(model, inputs)).eval()
    for node in list(graph.graph.nodes):
        norm = _module(graph, node)
        if not isinstance(norm, _BatchNorm):
            continue
        before = node.args[0]
        assert isinstance(before, fx.Node)
        layer = _module(graph, before)
        calls = [other for other in graph.graph.nodes if other.op == "call_module" and other.target == before.target]
        alone = norm.track_running_stats and len(before.users) == 1 and len(calls) == 1
        if not alone or not isinstance(layer, (*_CONVOLUTIONS, nn.Linear)):
            raise UserError(
                f"{place_of(node)}: cannot be folded into the layer before it: it must follow a convolution or a "
                "linear layer whose output nothing else uses, in the same stage"
            )
        with torch.no_grad():
            graph.set_submodule(
                str(before.target),
                fuse_linear_bn_eval(layer, norm) if isinstance(layer, nn.Linear) else fuse_conv_bn_eval(layer, norm),
            )
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _module(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None
