"""A network as the ONNX file that ezkl reads: for one input, its tensors named in order."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from decentral.errors import Unproven

OPSET = 17
BATCH = 1
"""A proof is of one input."""


def export(network: nn.Module, examples: Sequence[Tensor], path: Path) -> None:
    """Writes the network in evaluation mode. `examples`: its inputs, of a batch of one each. Blocking.

    Raises Unproven for what torch cannot export.
    """
    for example in examples:
        if example.dim() == 0 or len(example) != BATCH:
            raise ValueError(f"circuits are of a batch of {BATCH}, not {list(example.shape)}")
    still = copy.deepcopy(network).eval().cpu().float()
    for parameter in still.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        answer = still(*(example.clone() for example in examples))
        count = len(answer) if isinstance(answer, tuple | list) else 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # this exporter needs the fewest packages, and is called deprecated
                torch.onnx.export(
                    still,
                    tuple(example.clone() for example in examples),
                    str(path),
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=[f"input_{place}" for place in range(len(examples))],
                    output_names=[f"output_{place}" for place in range(count)],
                )
        except (RuntimeError, ValueError, TypeError, torch.onnx.OnnxExporterError) as error:
            raise Unproven(f"the network cannot be written as ONNX: {error}") from error
