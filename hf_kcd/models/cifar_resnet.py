"""The ResNets of CIFAR: post-activation blocks in three or four stages, as RepDistiller trains them.

He et al., "Deep residual learning for image recognition", section 4.2; the x4 widths and the ResNet-50 without
max-pooling are those of Tian et al., "Contrastive representation distillation". Parameters carry RepDistiller's names,
but for the shortcuts and the classifier of its ResNet-50.
"""

from collections.abc import Callable
from typing import Any

from timm.models import generate_default_cfgs
from torch import Tensor, nn

from .cifar_network import (
    CIFAR_CFG,
    CifarNetwork,
    Stage,
    convolution,
    convolution_and_norm,
    register_variant,
    relu_,
    shortcut_is_needed,
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, up to their sum: the ReLU after it is the network's.

    Args:
        in_width: Channels of the input.
        out_width: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_width, out_width, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_width)
        self.conv2 = convolution(out_width, out_width, 3)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.downsample = _shortcut(in_width, out_width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the sum before the ReLU."""
        out = relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return out + (x if self.downsample is None else self.downsample(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution on a quarter of the channels between two 1x1 ones, and a shortcut, up to their sum.

    Args:
        in_width: Channels of the input.
        out_width: Channels of the output.
        stride: Stride of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        width = out_width // 4
        self.conv1 = convolution(in_width, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, out_width, 1)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.downsample = _shortcut(in_width, out_width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the sum before the ReLU."""
        out = relu_(self.bn1(self.conv1(x)))
        out = relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + (x if self.downsample is None else self.downsample(x))


class CifarResNet(CifarNetwork):
    """A ResNet for 32x32 images; its pre-activations are the sums before the last ReLU of each stage.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        num_blocks: Blocks of each stage.
        widths: Channels of the stem and of each stage.
        num_classes, in_chans, global_pool: As in `CifarNetwork`.
    """

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        num_blocks: tuple[int, ...],
        widths: tuple[int, ...],
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        stem_width, *stage_widths = widths
        super().__init__(
            stem=convolution_and_norm(1, in_chans, stem_width, 3),
            stages=[
                Stage(block, number, width, stride=1 if position == 0 else 2)
                for position, (number, width) in enumerate(zip(num_blocks, stage_widths, strict=True))
            ],
            tail={},
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
        )


def _shortcut(in_width: int, out_width: int, stride: int) -> nn.Module | None:
    if not shortcut_is_needed(in_width, out_width, stride):
        return None
    return nn.Sequential(convolution(in_width, out_width, 1, stride), nn.BatchNorm2d(out_width))


def _basic(depth: int, widths: tuple[int, ...]) -> dict[str, Any]:
    return {"block": BasicBlock, "num_blocks": ((depth - 2) // 6,) * 3, "widths": widths}


_NARROW, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
_VARIANTS: dict[str, dict[str, Any]] = {
    "cifar_resnet8": _basic(8, _NARROW),
    "cifar_resnet20": _basic(20, _NARROW),
    "cifar_resnet32": _basic(32, _NARROW),
    "cifar_resnet56": _basic(56, _NARROW),
    "cifar_resnet110": _basic(110, _NARROW),
    "cifar_resnet8x4": _basic(8, _WIDE),
    "cifar_resnet32x4": _basic(32, _WIDE),
    "cifar_resnet50": {"block": Bottleneck, "num_blocks": (3, 4, 6, 3), "widths": (64, 256, 512, 1024, 2048)},
}
default_cfgs = generate_default_cfgs(
    {**dict.fromkeys(_VARIANTS, CIFAR_CFG), "cifar_resnet50": {**CIFAR_CFG, "pool_size": (4, 4)}}
)
for _name, _architecture in _VARIANTS.items():
    register_variant(__name__, CifarResNet, _name, **_architecture)
