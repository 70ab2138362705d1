"""Where attention's units are seen, and that matching by activations finds its heads and their units again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from decentral.core.permutation import Permutation, PermutationSpec, random_permutation
from decentral.models.tracing import permutation_spec
from decentral.training.activations import ActivationReader, ambiguous_units
from decentral.training.merging import match, merge, permute

Scramble = Callable[[nn.Module], nn.Module]

HEADS, INNER, VALUES, WIDTH = 4, 3, 5, 16
"""Q and K have other units than V, so that neither may be taken for the other."""


class Attention(nn.Module):
    """Self-attention in the words of most networks: three layers, or `fused` ones and a product written out."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.values = INNER if fused else VALUES
        if fused:
            self.qkv = nn.Linear(WIDTH, 3 * HEADS * INNER)
        else:
            self.q, self.k = (nn.Linear(WIDTH, HEADS * INNER) for _ in range(2))
            self.v = nn.Linear(WIDTH, HEADS * VALUES)
        self.out = nn.Linear(HEADS * self.values, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        if self.fused:
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, HEADS, INNER).permute(2, 0, 3, 1, 4).unbind(0)
            seen = (q @ k.transpose(-2, -1) * INNER**-0.5).softmax(-1) @ v
        else:
            q, k, v = (layer(x).view(batch, tokens, HEADS, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
            seen = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.out(seen.transpose(1, 2).reshape(batch, tokens, HEADS * self.values))
        return mixed


class Joint(nn.Module):
    """torch's own layer, which reads what is seen of the images (its queries) and of their mirror images."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        turned = x.flip(1)
        mixed: Tensor = self.inside(x, turned, turned * 0.5 + 1)[0]
        return mixed


class Transformer(nn.Module):
    """Two blocks on images [B, 3, 16, 16], cut into 16 patches."""

    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.attentions = nn.ModuleList(attention() for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 24), nn.GELU(), nn.Linear(24, WIDTH)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for norm, attention, mlp in zip(self.norms, self.attentions, self.mlps, strict=True):
            x = x + attention(norm(x))
            x = x + mlp(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


class Encoder(nn.Module):
    """The same, all in torch's own words."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, activation=F.gelu, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
        return logits


SWIN = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [2, 2]}
SWIN2 = {**SWIN, "block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}

SIZE = 32
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "three layers": lambda: Transformer(partial(Attention, fused=False)),
    "one layer": lambda: Transformer(partial(Attention, fused=True)),
    "torch's layer": lambda: Transformer(Joint),
    "torch's encoder": Encoder,
    "vit": partial(models.VisionTransformer, SIZE, 8, 2, 4, 24, 32, num_classes=5),
    "swin": partial(models.SwinTransformer, **SWIN, num_classes=5),
    "swin v2": partial(models.SwinTransformer, **SWIN2, num_classes=5),
    "maxvit": lambda: MaxVit((SIZE, SIZE), 8, 4, [8, 16], [1, 1], 8, 0.0, num_classes=5),
}
TELLING = ("three layers", "one layer", "torch's layer", "torch's encoder", "vit", "swin")
"""Networks in which random images tell all units apart."""


def images(count: int = 128) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def planted(name: str, scramble: Scramble, seed: int) -> tuple[nn.Module, PermutationSpec, Permutation]:
    torch.manual_seed(0)
    model = scramble(NETWORKS[name]())
    spec = permutation_spec(model, images(2))
    return model, spec, random_permutation(spec, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_permutation_of_a_transformer_is_recovered(name: str, scramble: Scramble) -> None:
    """Heads and the units within them; up to units that are constant or alike on the images, which are counted."""
    model, spec, permutation = planted(name, scramble, 1)
    cells = [permutation.sources[number] for number, group in enumerate(spec.groups) if group.cells > 1]
    assert sum(sources != tuple(range(len(sources))) for sources in cells) >= 4
    other = permute(model, spec, permutation)
    batches = images().split(32)
    left = permutation.compose(match(model, other, spec, batches))
    ambiguous = ambiguous_units(model, spec, batches)
    assert ambiguous.allows(left)
    assert not ambiguous.allows(permutation)
    if name in TELLING:
        assert ambiguous.count == 0
        assert left.is_identity
    method = "activation" if name in TELLING else "both"
    merged = merge([model, other], [0.5, 0.5], spec, batches, method, statistics="average")
    torch.testing.assert_close(merged(images(8)), model(images(8)), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_units_of_attention_are_seen(name: str, scramble: Scramble) -> None:
    """But for a number a head, such as its bias, which goes where its head does."""
    _, spec, _ = planted(name, scramble, 0)
    assert all(group.taps or group.units == group.cells for group in spec.groups)
    shared = {group.order: 0 for group in spec.groups if group.cells > 1}
    for group in spec.groups:
        if group.order in shared and group.units > group.cells:
            shared[group.order] += 1
    # Q with K, and V.
    assert all(count == 2 for count in shared.values())


def test_what_is_read_within_attention_is_what_it_computes(scramble: Scramble) -> None:
    """Query, key and value, of other inputs each; but for their biases, which no correlation sees."""
    model, spec, _ = planted("torch's layer", scramble, 0)
    seen: list[Tensor] = []
    attention = model.attentions[1]
    attention.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    reading = dict(zip([tap for group in spec.groups for tap in group.taps], range(99), strict=False))
    inside = [tap for tap in reading if tap.weight == "attentions.1.inside.in_proj_weight"]
    model(images(6))
    attention._forward_hooks.clear()
    read = ActivationReader(model, spec).read(images(6))
    (x,) = seen
    keys = x.flip(1)
    size = HEADS * WIDTH // HEADS
    weights = attention.inside.in_proj_weight.detach().split(size)
    expected = [given @ weight.T for given, weight in zip((x, keys, keys * 0.5 + 1), weights, strict=True)]
    assert len(inside) == 3
    for tap in inside:
        part = expected[tap.entries[0] // size]
        places = torch.tensor(tap.entries) % size
        # A map of 64 patches is read patch by patch.
        torch.testing.assert_close(read[reading[tap]], part[..., places].flatten(0, 1).T)


def test_averages_of_many_tokens_are_those_of_what_is_computed(scramble: Scramble) -> None:
    torch.manual_seed(0)
    model = scramble(nn.Sequential(Joint(), nn.Linear(WIDTH, 2)))
    x = torch.randn(3, 250, WIDTH, dtype=torch.float64)
    spec = permutation_spec(model, x)
    taps = [tap for group in spec.groups for tap in group.taps]
    (query,) = (n for n, tap in enumerate(taps) if tap.weight and tap.entries[0] < WIDTH and tap.node == "input_1")
    weight = model[0].inside.in_proj_weight.detach()[: len(taps[query].entries)]
    wide = -(-250 // 64)
    whole = torch.cat([x, x[:, 248:].mean(1, keepdim=True).expand(-1, 2, -1)], 1)  # a window at the edge counts as full
    expected = (whole @ weight[list(taps[query].entries)].T).unflatten(1, (-1, wide)).sum(2)
    torch.testing.assert_close(ActivationReader(model, spec).read(x)[query], expected.flatten(0, 1).T)


def test_heads_that_are_alike_are_counted(scramble: Scramble) -> None:
    model, spec, permutation = planted("three layers", scramble, 1)
    first = model.attentions[0]
    with torch.no_grad():
        for layer, size in ((first.q, INNER), (first.k, INNER), (first.v, VALUES)):
            for tensor in (layer.weight, layer.bias):
                tensor[2 * size : 3 * size] = tensor[:size]
    ambiguous = ambiguous_units(model, spec, [images()])
    assert ambiguous.count == 2 * (INNER + VALUES)
    left = permutation.compose(match(model, permute(model, spec, permutation), spec, [images()]))
    assert ambiguous.allows(left)
    assert not ambiguous.allows(permutation)


def test_a_weight_that_is_computed_shows_no_units(scramble: Scramble) -> None:
    """What a graph makes of a saved weight is not what is saved under its name: nothing is read through that."""

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3 * WIDTH, WIDTH))
            self.out = nn.Parameter(torch.randn(WIDTH, WIDTH))
            self.bias = nn.Parameter(torch.randn(1, 2, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            seen = models.swin_transformer.shifted_window_attention(
                x, self.weight * 2, self.out, self.bias, [2, 2], 2, [0, 0], training=False
            )
            return seen.mean((1, 2, 3))

    model = scramble(Doubled())
    x = torch.randn(2, 4, 4, WIDTH, dtype=torch.float64)
    spec = permutation_spec(model, x)
    assert spec.groups
    assert not any(tap.weight for group in spec.groups for tap in group.taps)


def test_half_precision_attention_is_compared_in_float32(scramble: Scramble) -> None:
    model, spec, permutation = planted("vit", scramble, 1)
    model = model.bfloat16()
    batches = images().bfloat16().split(64)
    left = permutation.compose(match(model, permute(model, spec, permutation), spec, batches))
    assert left.share_moved < 0.02


def test_the_specification_says_through_which_weight_units_are_seen(scramble: Scramble) -> None:
    _, spec, _ = planted("vit", scramble, 0)
    described = spec.describe()
    assert "through encoder.layers.encoder_layer_1.self_attention.in_proj_weight" in described
