"""A convolution as patches of the image and one product of matrices, which is what a circuit constrains either way.

Each multiply-add is a constraint in both. ezkl could check a product of matrices by Freivalds' method, at the cost of
what the matrices hold, but ties nothing to the product that it has checked (`Settings.linked`).
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)


class PatchConvolution(nn.Module):
    """What the convolution computes. Raises ValueError for groups or dilation."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        if convolution.groups != 1 or any(step != 1 for step in convolution.dilation):
            raise ValueError("patches are of one group of channels, without dilation")
        if isinstance(convolution.padding, str) or convolution.padding_mode != "zeros":
            raise ValueError("patches are padded with so many zeros")
        self.kernel, self.stride, self.padding = convolution.kernel_size, convolution.stride, convolution.padding
        self.weight = nn.Parameter(convolution.weight.detach().clone(), False)
        bias = convolution.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k oh ow"]:
        sizes = zip(images.shape[2:], self.kernel, self.stride, self.padding, strict=True)
        height, width = ((int(size) + 2 * pad - k) // step + 1 for size, k, step, pad in sizes)
        if self.kernel == (1, 1) and self.padding == (0, 0):
            patches = images[:, :, :: self.stride[0], :: self.stride[1]].flatten(2)
        else:
            patches = functional.unfold(images, self.kernel, padding=self.padding, stride=self.stride)
        product = torch.einsum("kc,acn->akn", self.weight.flatten(1), patches)
        found = product.reshape(-1, len(self.weight), height, width)
        return found if self.bias is None else found + self.bias.reshape(1, -1, 1, 1)


def with_patches(network: Network) -> Network:
    """A copy whose convolutions are products of patches; one of several groups, or dilated, stays, which is dearer."""
    found = copy.deepcopy(network)
    for name, module in list(found.named_modules()):
        if isinstance(module, nn.Conv2d):
            try:
                found.set_submodule(name, PatchConvolution(module))
            except ValueError:
                continue
    return found
