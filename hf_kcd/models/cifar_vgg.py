"""The VGGs of CIFAR: plain 3x3 convolutions in five stages with one linear layer, as RepDistiller trains them.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", with batch normalisation
and global average pooling.
"""

from typing import Any

import torch.nn.functional as F
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from .cifar_network import CIFAR_CFG, CifarNetwork, Stage, convolution, register_variant, start_linear_near_zero

_STRIDES = (1, 2, 2, 2, 1)


class ConvolutionBlock(nn.Module):
    """A 3x3 convolution and its normalisation: the ReLU after it is the network's.

    Args:
        in_width: Channels of the input.
        out_width: Channels of the output.
        stride: 2 for a max-pooling before the convolution.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = convolution(in_width, out_width, 3, bias=True)
        self.bn = nn.BatchNorm2d(out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the ReLU gets."""
        if self.stride == 2:
            x = F.max_pool2d(x, 2)
        return self.bn(self.conv(x))


class CifarVGG(CifarNetwork):
    """A VGG for 32x32 images; its pre-activations are what the last ReLU of each stage gets.

    Stages 1, 2 and 3 begin with a max-pooling, and stage 4 does where they leave 8 rows: for images of height 64, as in
    the reference, and up to 71. `feature_info` states the reductions for all other sizes.

    Args:
        num_blocks: Convolutions of each stage.
        num_classes, in_chans, global_pool: As in `CifarNetwork`.
    """

    def __init__(
        self, num_blocks: tuple[int, ...], num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"
    ) -> None:
        super().__init__(
            stem={},
            stages=[
                Stage(ConvolutionBlock, number, width, stride)
                for number, width, stride in zip(num_blocks, (64, 128, 256, 512, 512), _STRIDES, strict=True)
            ],
            tail={},
            first_stage=0,
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
        )

    def initialise(self, module: nn.Module) -> None:
        """Start as every CIFAR network, and the linear layer near zero."""
        super().initialise(module)
        start_linear_near_zero(module)

    def forward_stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run one stage, the last after a fourth max-pooling where the image is 64 high."""
        if name == "layer4" and x.shape[-2] == 8:
            x = F.max_pool2d(x, 2)
        return super().forward_stage(name, x)


_VARIANTS: dict[str, dict[str, Any]] = {
    "cifar_vgg8": {"num_blocks": (1, 1, 1, 1, 1)},
    "cifar_vgg11": {"num_blocks": (1, 1, 2, 2, 2)},
    "cifar_vgg13": {"num_blocks": (2, 2, 2, 2, 2)},
}
default_cfgs = generate_default_cfgs(
    {name: {**CIFAR_CFG, "pool_size": (4, 4), "first_conv": "layer0.0.conv"} for name in _VARIANTS}
)
for _name, _architecture in _VARIANTS.items():
    register_variant(__name__, CifarVGG, _name, **_architecture)
