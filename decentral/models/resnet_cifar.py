"""ResNets for small images: He et al., "Deep residual learning" (arXiv 1512.03385), section 4.2.

Shortcuts that change the shape are 1 x 1 convolutions with BatchNorm, as in DIMAT's and Git Re-Basin's experiments, so
that every channel of a stage is free to move (zero-padded shortcuts would tie the stages to one another).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from decentral.models.cnn import image_shape


class Block(nn.Module):
    """Two 3 x 3 convolutions around which the input is added."""

    def __init__(self, fan_in: int, fan_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False), nn.BatchNorm2d(fan_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNetCIFAR(nn.Module):
    """Three stages of 16, 32 and 64 channels, times `width`."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, blocks: int, width: int):
        super().__init__()
        channels, _, _ = image_shape("resnet", input_shape, smallest=8)
        fan_in = 16 * width
        self.conv1 = nn.Conv2d(channels, fan_in, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_in)
        stages: list[nn.Module] = []
        for fan_out, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            stages.append(
                nn.Sequential(Block(fan_in, fan_out, stride), *(Block(fan_out, fan_out, 1) for _ in range(blocks - 1)))
            )
            fan_in = fan_out
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(fan_in, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stages(relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.classifier(adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def resnet8(input_shape: tuple[int, ...], classes: int, *, width: int = 1) -> ResNetCIFAR:
    """8 layers: that of MLPerf Tiny's image classification (arXiv 2106.07597), 12.5 million multiply-adds."""
    return ResNetCIFAR(input_shape, classes, blocks=1, width=width)


def resnet20(input_shape: tuple[int, ...], classes: int, *, width: int = 1) -> ResNetCIFAR:
    """20 layers; DIMAT's experiments have width 8."""
    return ResNetCIFAR(input_shape, classes, blocks=3, width=width)


def resnet32(input_shape: tuple[int, ...], classes: int, *, width: int = 1) -> ResNetCIFAR:
    """32 layers."""
    return ResNetCIFAR(input_shape, classes, blocks=5, width=width)
