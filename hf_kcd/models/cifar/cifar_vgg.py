"""The CIFAR VGGs: plain 3x3 convolutions in five network stages and one linear layer, as RepDistiller trains them.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", with batch normalization
and global average pooling.
"""

from typing import Any

import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from .network import CIFAR_CFG, CifarNetwork, NetworkStage, build_network, convolution_and_norm

_WIDTHS, _STRIDES = (64, 128, 256, 512, 512), (1, 2, 2, 2, 1)


class ConvolutionBlock(nn.Module):
    """A 3x3 convolution and its normalization, at stride 2 after a max-pooling; the network applies the ReLU."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv, self.bn = convolution_and_norm(in_width, out_width, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            x = F.max_pool2d(x, 2)
        return self.bn(self.conv(x))


class CifarVGG(CifarNetwork):
    """A VGG for 32x32 images; its pre-activations are the inputs of the last ReLU of each network stage.

    Stages 1, 2 and 3 begin with a max-pooling. Stage 4 does so where its input has 8 rows, that is for images of height
    64 to 71, as in the reference. `feature_info` gives the reductions for all other sizes.
    """

    linear_std = 0.01

    def __init__(self, num_blocks: tuple[int, ...], **head: Any) -> None:
        stages = [NetworkStage(ConvolutionBlock, *stage) for stage in zip(num_blocks, _WIDTHS, _STRIDES, strict=True)]
        super().__init__(stem={}, stages=stages, tail={}, first_stage=0, **head)

    def forward_stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        if name == "layer4" and x.shape[-2] == 8:
            x = F.max_pool2d(x, 2)
        return super().forward_stage(name, x)


_CFG = {**CIFAR_CFG, "pool_size": (4, 4), "first_conv": "layer0.0.conv"}
default_cfgs = generate_default_cfgs({"cifar_vgg8": _CFG, "cifar_vgg11": _CFG, "cifar_vgg13": _CFG})


@register_model
def cifar_vgg8(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarVGG, "cifar_vgg8", pretrained, num_blocks=(1, 1, 1, 1, 1), **kwargs)


@register_model
def cifar_vgg11(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarVGG, "cifar_vgg11", pretrained, num_blocks=(1, 1, 2, 2, 2), **kwargs)


@register_model
def cifar_vgg13(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    return build_network(CifarVGG, "cifar_vgg13", pretrained, num_blocks=(2, 2, 2, 2, 2), **kwargs)
