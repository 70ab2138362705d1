"""DINOv2's vision transformers, read from a folder as they are published, without a library of their own.

M. Oquab et al., "DINOv2: learning robust visual features without supervision", arXiv 2304.07193; registers:
T. Darcet et al., 2309.16588. Two spellings of the same parameters are read: `config.json` and `model.safetensors` of
the transformers library (`embeddings.cls_token`, `encoder.layer.0. ...`), and the original one, which timm keeps
(`cls_token`, `blocks.0. ...`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from decentral.errors import UserError

HEAD = 64
"""Channels of an attention head, in every model that was published; a configuration may say otherwise."""
EPSILON = 1e-6
"""Of the layer normalisations."""
CONFIG, WEIGHTS = "config.json", "*.safetensors"

SPELLINGS = (
    (r"^(dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(embeddings\.register_tokens|reg_token)$", "register_tokens"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.(weights_in|fc1_g|w12)\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
)
"""From the one spelling to the other: patterns, and what comes in their place."""
UNUSED = re.compile(r"^(mask_token|embeddings\.mask_token|head\.|classifier\.)")
"""Of training, or of a classifier: features need none of it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a state dict says of its network."""

    width: int
    patch: int
    layers: int
    heads: int
    hidden: int
    """Units between the two layers of a perceptron."""
    side: int
    """Patches along an edge of the images that it was trained on."""
    registers: int
    gated: bool
    """Whether perceptrons are SwiGLU ones, as in the giant model."""
    epsilon: float = EPSILON


class Block(nn.Module):
    """Attention and a perceptron, each after a normalisation, scaled channel by channel, and added."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.gated = shape.heads, shape.gated
        width = shape.width
        self.norm1 = nn.LayerNorm(width, shape.epsilon)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.ls1 = nn.ParameterDict({"gamma": torch.ones(width)})
        self.norm2 = nn.LayerNorm(width, shape.epsilon)
        if shape.gated:
            layers = {"w12": nn.Linear(width, 2 * shape.hidden), "w3": nn.Linear(shape.hidden, width)}
        else:
            layers = {"fc1": nn.Linear(width, shape.hidden), "fc2": nn.Linear(shape.hidden, width)}
        self.mlp = nn.ModuleDict(layers)
        self.ls2 = nn.ParameterDict({"gamma": torch.ones(width)})

    def forward(self, x: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
        n, p, d = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).view(n, p, 3, self.heads, d // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, p, d)
        x = x + self.ls1["gamma"] * self.attn["proj"](seen)
        answer: Tensor = x + self.ls2["gamma"] * self._perceptron(self.norm2(x))
        return answer

    def _perceptron(self, x: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
        if self.gated:
            gate, passed = self.mlp["w12"](x).chunk(2, -1)
            answer: Tensor = self.mlp["w3"](functional.silu(gate) * passed)
        else:
            answer = self.mlp["fc2"](functional.gelu(self.mlp["fc1"](x)))
        return answer


class Dinov2(nn.Module):
    """From images, normalised as ImageNet's, to one vector each: the class token after the last normalisation."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.side**2, width))
        if shape.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, shape.registers, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, shape.patch, shape.patch)})
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width, shape.epsilon)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Raises ValueError for images that cannot be cut into patches."""
        n, _, height, width = images.shape
        if height % self.shape.patch or width % self.shape.patch:
            raise ValueError(f"{height}x{width} images cannot be cut into patches of {self.shape.patch}")
        x = self.patch_embed["proj"](images)
        places = self.places(x.shape[2], x.shape[3])
        x = torch.cat([self.cls_token.expand(n, -1, -1), x.flatten(2).transpose(1, 2)], 1) + places
        if self.shape.registers:
            x = torch.cat([x[:, :1], self.register_tokens.expand(n, -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        features: Tensor = self.norm(x[:, :1])[:, 0]
        return features

    def places(self, rows: int, columns: int) -> Float[Tensor, "1 p d"]:
        """Position embeddings of the class token and of so many patches, interpolated from those of the training.

        Those with registers were trained with antialiasing, the others without.
        """
        side = self.shape.side
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, (rows, columns), mode="bicubic", antialias=self.shape.registers > 0)
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def load_dinov2(folder: Path) -> Dinov2:
    """The network of a checkpoint folder, in evaluation mode. Raises UserError naming the folder and what is wrong."""
    try:
        config = cast(Mapping[str, Any], json.loads((folder / CONFIG).read_bytes()))
        files = sorted(folder.glob(WEIGHTS))
        if not files:
            raise UserError(f"{folder}: holds no DINOv2: there is no {WEIGHTS}, and other files are not read")
        state = respelled({name: tensor for file in files for name, tensor in load_file(file).items()})
        network = Dinov2(shape_of(state, config))
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: holds no DINOv2 ({error})") from error
    return network.eval()


def respelled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by their original names; query, key and value of a layer as one. What is not needed is left out."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if UNUSED.match(name):
            continue
        for pattern, spelling in SPELLINGS:
            name = re.sub(pattern, spelling, name)  # noqa: PLW2901  one rule after the other
        found[name] = tensor
    for name in [name for name in found if ".attn.query." in name]:
        parts = [found.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        found[name.replace("query", "qkv")] = torch.cat(parts)
    return found


def shape_of(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Shape:
    """What the parameters and a configuration say. Raises KeyError or ValueError for those of another network."""
    projection, places = state["patch_embed.proj.weight"], state["pos_embed"]
    width, patch = projection.shape[0], projection.shape[-1]
    side = round((places.shape[1] - 1) ** 0.5)
    heads = int(config.get("num_attention_heads", width // HEAD))
    gated = "blocks.0.mlp.w12.weight" in state
    if 1 + side**2 != places.shape[1] or not heads or width % heads:
        raise ValueError(f"{places.shape[1]} positions and {heads} heads of {width} channels cannot be")
    hidden = state["blocks.0.mlp.w3.weight"].shape[1] if gated else state["blocks.0.mlp.fc1.weight"].shape[0]
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    epsilon = float(config.get("layer_norm_eps", EPSILON))
    return Shape(width, patch, layers, heads, hidden, side, registers, gated, epsilon)
