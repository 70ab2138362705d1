"""A checkpoint folder in a published layout gives the features that the library gives which it was published for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from decentral.errors import UserError
from decentral.models.dinov2 import load_dinov2

WIDTH, LAYERS, PATCH, SIDE = 8, 2, 4, 3
TWO_HEADS = '{"num_attention_heads": 2}'
EXPECTED = {
    "plain": [0.77531, 0.31949, -1.49093, -0.76677],
    "gated": [-1.10649, -0.90100, -0.89021, -0.71140],
    "registers": [-0.84790, -0.78401, -0.00864, 0.95506],
}
"""The first features of the second image of 16x12 pixels, by transformers 5.24 from the same folder."""


def layout(kind: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the transformers library's checkpoints, `Dinov2Model` and `Dinov2WithRegistersModel`."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.mask_token": (1, WIDTH),
        "embeddings.position_embeddings": (1, 1 + SIDE**2, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    if kind == "registers":
        shapes["embeddings.register_tokens"] = (1, 4, WIDTH)
    hidden = {"gated": 16}.get(kind, 2 * WIDTH)
    mlp = {"weights_in": (2 * hidden, WIDTH), "weights_out": (WIDTH, hidden)}
    if kind != "gated":
        mlp = {"fc1": (hidden, WIDTH), "fc2": (WIDTH, hidden)}
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        linear = {f"attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (WIDTH, WIDTH), **{f"mlp.{name}": shape for name, shape in mlp.items()}}
        for name, shape in linear.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
        for number in (1, 2):
            shapes |= {f"{at}.norm{number}.{name}": (WIDTH,) for name in ("weight", "bias")}
            shapes[f"{at}.layer_scale{number}.lambda1"] = (WIDTH,)
    return shapes


def wave(shape: tuple[int, ...], phase: float) -> Tensor:
    """Numbers that are the same on every machine."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + phase).float().view(shape)


def checkpoint(folder: Path, kind: str = "plain") -> Path:
    folder.mkdir()
    state = {name: wave(shape, place) for place, (name, shape) in enumerate(sorted(layout(kind).items()))}
    save_file(state, folder / "model.safetensors")
    config = {"hidden_size": WIDTH, "num_attention_heads": 2, "patch_size": PATCH, "layer_norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
@pytest.mark.parametrize("kind", EXPECTED)
def test_features_are_those_of_the_library_that_it_was_published_for(tmp_path, kind):
    network = load_dinov2(checkpoint(tmp_path / "dinov2", kind))
    found = network(wave((2, 3, 16, 12), 0.3))
    assert found.shape == (2, WIDTH)
    torch.testing.assert_close(found[1, :4], torch.tensor(EXPECTED[kind]), atol=2e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", EXPECTED)
def test_the_original_spelling_is_the_same_network(tmp_path, kind):
    """As facebookresearch and timm write it; there every published head has 64 channels."""
    network = load_dinov2(checkpoint(tmp_path / "library", kind))
    original = {name.replace("register_tokens", "reg_token"): tensor for name, tensor in network.state_dict().items()}
    assert "blocks.1.attn.qkv.weight" in original and "blocks.0.ls1.gamma" in original
    (tmp_path / "original").mkdir()
    save_file({**original, "mask_token": torch.zeros(1, WIDTH)}, tmp_path / "original" / "model.safetensors")
    (tmp_path / "original" / "config.json").write_text(json.dumps({"num_attention_heads": 2}))
    x = wave((1, 3, 12, 12), 1.0)
    assert torch.equal(load_dinov2(tmp_path / "original")(x), network(x))


@torch.no_grad()
def test_images_of_other_sizes_keep_their_places(tmp_path):
    """Positions are interpolated; at the training's own size they are those of the file."""
    network = load_dinov2(checkpoint(tmp_path / "dinov2"))
    assert torch.equal(network.places(SIDE, SIDE), network.pos_embed)
    assert network.places(5, 2).shape == (1, 11, WIDTH)
    with pytest.raises(ValueError, match="13x12 images cannot be cut into patches of 4"):
        network(torch.zeros(1, 3, 13, 12))


def test_a_folder_that_holds_something_else_is_named(tmp_path):
    folder = checkpoint(tmp_path / "dinov2")
    state = load_file(folder / "model.safetensors")

    def problem(left: dict[str, Tensor], config: str = "{}") -> str:
        save_file(left, folder / "model.safetensors")
        (folder / "config.json").write_text(config)
        with pytest.raises(UserError) as raised:
            load_dinov2(folder)
        assert str(folder) in str(raised.value)
        return str(raised.value)

    assert "0 heads" in problem(state), "eight channels are less than a head of the published models"
    assert "heads of 8 channels" in problem(state, '{"num_attention_heads": 3}')
    assert "patch_embed.proj.weight" in problem({"weight": torch.zeros(1)})
    assert "norm.weight" in problem({name: t for name, t in state.items() if name != "layernorm.weight"}, TWO_HEADS)
    assert "size mismatch" in problem({**state, "layernorm.weight": torch.zeros(3)}, TWO_HEADS)
    assert "unexpected" in problem({**state, "encoder.layer.0.other": torch.zeros(3)}, TWO_HEADS).lower()
    assert "Expecting" in problem(state, "{")
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        load_dinov2(folder)
    with pytest.raises(UserError, match="No such file"):
        load_dinov2(tmp_path / "nothing")
