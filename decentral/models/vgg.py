"""VGG with BatchNorm for small images: Simonyan & Zisserman (arXiv 1409.1556), configurations A and D.

One linear layer stands for the three of the original, as is usual at this size.
"""

from __future__ import annotations

from torch import Tensor, nn

from decentral.models.cnn import image_shape

_POOL = 0
_VGG11 = (64, _POOL, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL, 512, 512, _POOL)
_VGG16 = (64, 64, _POOL, 128, 128, _POOL, 256, 256, 256, _POOL, 512, 512, 512, _POOL, 512, 512, 512, _POOL)


class VGG(nn.Module):
    """Convolutions 3 x 3 with BatchNorm and ReLU, five times pooled by 2; images from 32 x 32 up."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, plan: tuple[int, ...], width: float):
        super().__init__()
        fan_in, height, images_width = image_shape("vgg", input_shape, smallest=32)
        layers: list[nn.Module] = []
        for channels in plan:
            if channels == _POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            fan_out = max(1, round(channels * width))
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()]
            fan_in = fan_out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(fan_in * (height // 32) * (images_width // 32), classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def vgg11(input_shape: tuple[int, ...], classes: int, *, width: float = 1.0) -> VGG:
    """Configuration A; `width` multiplies the number of channels."""
    return VGG(input_shape, classes, plan=_VGG11, width=width)


def vgg16(input_shape: tuple[int, ...], classes: int, *, width: float = 1.0) -> VGG:
    """Configuration D; `width` multiplies the number of channels."""
    return VGG(input_shape, classes, plan=_VGG16, width=width)
