"""Small convolutional networks.

GN-LeNet is the LeNet with GroupNorm of Hsieh et al. (arXiv 1910.00189) in the form that DecentralizePy and MoDeST
train on CIFAR-10: 85,354 parameters at 32 x 32.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from decentral.errors import UserError


class SmallCNN(nn.Module):
    """Convolution, BatchNorm, ReLU and pooling by 2 for each of `channels`, then a hidden layer.

    Images of 8 x 8 and more, for up to three entries in `channels`.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        channels: Sequence[int] = (16, 32),
        hidden: int = 64,
    ):
        super().__init__()
        fan_in, height, width = image_shape("cnn", input_shape, smallest=1 << len(channels))
        layers: list[nn.Module] = []
        for fan_out in channels:
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            fan_in, height, width = fan_out, height // 2, width // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(fan_in * height * width, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


class StridedCNN(nn.Module):
    """Convolution 3 x 3 of stride 2, BatchNorm and ReLU for each of `channels`, then a linear layer.

    Nothing is pooled: of a circuit that proves this network, convolutions and ReLUs are all there is.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, channels: Sequence[int] = (16, 32, 64)):
        super().__init__()
        fan_in, height, width = image_shape("strided-cnn", input_shape, smallest=1 << (len(channels) - 1))
        layers: list[nn.Module] = []
        for fan_out in channels:
            convolution = nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(fan_out), nn.ReLU()]
            fan_in, height, width = fan_out, (height + 1) // 2, (width + 1) // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(fan_in * height * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class GNLeNet(nn.Module):
    """Three 5 x 5 convolutions of 32, 32 and 64 channels with GroupNorm in two groups, each pooled 3 x 3 by 2."""

    def __init__(self, input_shape: tuple[int, ...], classes: int):
        super().__init__()
        fan_in, height, width = image_shape("gn-lenet", input_shape, smallest=15)
        layers: list[nn.Module] = []
        for fan_out in (32, 32, 64):
            layers += [nn.Conv2d(fan_in, fan_out, 5, padding=2), nn.GroupNorm(2, fan_out), nn.ReLU()]
            layers.append(nn.MaxPool2d(3, stride=2))
            fan_in, height, width = fan_out, (height - 1) // 2, (width - 1) // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(fan_in * height * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def image_shape(name: str, input_shape: tuple[int, ...], *, smallest: int) -> tuple[int, int, int]:
    """Channels, height and width; UserError for what is no image, or for one that is too small for this network."""
    if len(input_shape) != 3 or min(input_shape[1:]) < smallest:
        wanted = f"images [channels, height, width] of {smallest} x {smallest} pixels or more"
        raise UserError(f"the model {name!r} takes {wanted}, not {list(input_shape)}")
    channels, height, width = input_shape
    return channels, height, width
