"""The CIFAR ResNets: post-activation blocks in three or four network stages, as RepDistiller trains them.

He et al., "Deep residual learning for image recognition", section 4.2. The x4 widths and the ResNet-50 without
max-pooling are from Tian et al., "Contrastive representation distillation".
"""

from typing import Any

from torch import Tensor, nn

from .network import CifarNetwork, NetworkStage, convolution_and_norm, register_networks, relu_, stem_or_tail

_NARROW, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, up to their sum; the network applies the ReLU."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution_and_norm(in_width, out_width, 3, stride)
        self.conv2, self.bn2 = convolution_and_norm(out_width, out_width, 3)
        self.downsample = _shortcut(in_width, out_width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return out + (x if self.downsample is None else self.downsample(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution on a quarter of the channels between two 1x1 ones, and a shortcut, up to their sum."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        width = out_width // 4
        self.conv1, self.bn1 = convolution_and_norm(in_width, width, 1)
        self.conv2, self.bn2 = convolution_and_norm(width, width, 3, stride)
        self.conv3, self.bn3 = convolution_and_norm(width, out_width, 1)
        self.downsample = _shortcut(in_width, out_width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = relu_(self.bn1(self.conv1(x)))
        out = relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + (x if self.downsample is None else self.downsample(x))


class CifarResNet(CifarNetwork):
    """A ResNet for 32x32 images; its pre-activations are the sums before the last ReLU of each network stage.

    `widths` are the channels of the stem and of each stage; `in_chans` and `head` are as in `CifarNetwork`.
    """

    def __init__(
        self,
        block: type[nn.Module],
        num_blocks: tuple[int, ...],
        widths: tuple[int, ...],
        in_chans: int = 3,
        **head: Any,
    ) -> None:
        strides = (1, *(2 for _ in num_blocks[1:]))
        stages = [NetworkStage(block, *stage) for stage in zip(num_blocks, widths[1:], strides, strict=True)]
        super().__init__(stem_or_tail(1, in_chans, widths[0], 3), stages, tail={}, in_chans=in_chans, **head)


def _shortcut(in_width: int, out_width: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_width == out_width:
        return None
    return nn.Sequential(*convolution_and_norm(in_width, out_width, 1, stride))


def _sizes(depth: int, widths: tuple[int, ...]) -> dict[str, Any]:
    return {"block": BasicBlock, "num_blocks": ((depth - 2) // 6,) * 3, "widths": widths}


register_networks(
    __name__,
    CifarResNet,
    {
        "cifar_resnet8": _sizes(8, _NARROW),
        "cifar_resnet20": _sizes(20, _NARROW),
        "cifar_resnet32": _sizes(32, _NARROW),
        "cifar_resnet56": _sizes(56, _NARROW),
        "cifar_resnet110": _sizes(110, _NARROW),
        "cifar_resnet8x4": _sizes(8, _WIDE),
        "cifar_resnet32x4": _sizes(32, _WIDE),
    },
)
_RESNET50 = {"block": Bottleneck, "num_blocks": (3, 4, 6, 3), "widths": (64, 256, 512, 1024, 2048)}
register_networks(__name__, CifarResNet, {"cifar_resnet50": _RESNET50}, pool_size=(4, 4))
