"""The CIFAR ResNets: post-activation blocks in three or four network stages, as RepDistiller trains them.

He et al., "Deep residual learning for image recognition", section 4.2. The x4 widths and the ResNet-50 without
max-pooling are from Tian et al., "Contrastive representation distillation".
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from .network import CIFAR_CFG, CifarNetwork, NetworkStage, build_network, convolution_and_norm, relu_, stem_or_tail

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


default_cfgs = generate_default_cfgs(
    {
        "cifar_resnet8": CIFAR_CFG,
        "cifar_resnet20": CIFAR_CFG,
        "cifar_resnet32": CIFAR_CFG,
        "cifar_resnet56": CIFAR_CFG,
        "cifar_resnet110": CIFAR_CFG,
        "cifar_resnet8x4": CIFAR_CFG,
        "cifar_resnet32x4": CIFAR_CFG,
        "cifar_resnet50": {**CIFAR_CFG, "pool_size": (4, 4)},
    }
)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarResNet, "cifar_resnet8", pretrained, **_sizes(8, _NARROW), **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarResNet, "cifar_resnet20", pretrained, **_sizes(20, _NARROW), **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarResNet, "cifar_resnet32", pretrained, **_sizes(32, _NARROW), **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarResNet, "cifar_resnet56", pretrained, **_sizes(56, _NARROW), **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarResNet, "cifar_resnet110", pretrained, **_sizes(110, _NARROW), **kwargs)


@register_model
def cifar_resnet8x4(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarResNet, "cifar_resnet8x4", pretrained, **_sizes(8, _WIDE), **kwargs)


@register_model
def cifar_resnet32x4(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarResNet, "cifar_resnet32x4", pretrained, **_sizes(32, _WIDE), **kwargs)


@register_model
def cifar_resnet50(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    architecture = {"block": Bottleneck, "num_blocks": (3, 4, 6, 3), "widths": (64, 256, 512, 1024, 2048)}
    return build_network(CifarResNet, "cifar_resnet50", pretrained, **architecture, **kwargs)
