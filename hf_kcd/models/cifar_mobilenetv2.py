"""The MobileNetV2 of CIFAR at half width, as RepDistiller trains it.

Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", with ReLU in place of ReLU6, an expansion
convolution in the first block too, and an unscaled last convolution.
"""

from functools import partial

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
    start_linear_near_zero,
)

# Expansion, channels at full width, blocks, stride, and whether the stage's output is a feature.
_STAGES = (
    (1, 16, 1, 1, False),
    (6, 24, 2, 1, True),
    (6, 32, 3, 2, True),
    (6, 64, 4, 2, False),
    (6, 96, 3, 1, True),
    (6, 160, 3, 2, False),
    (6, 320, 1, 1, True),
)


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise 3x3 one, and a linear 1x1 one back, with a shortcut if it fits.

    Args:
        in_width: Channels of the input.
        out_width: Channels of the output.
        stride: Stride of the depthwise convolution.
        expansion: How many times more channels there are inside.
    """

    def __init__(self, in_width: int, out_width: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_width * expansion
        self.conv1 = convolution(in_width, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, out_width, 1)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.has_shortcut = stride == 1 and in_width == out_width

    def forward(self, x: Tensor) -> Tensor:
        """Compute the linear output."""
        out = relu_(self.bn1(self.conv1(x)))
        out = relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return x + out if self.has_shortcut else out


class CifarMobileNetV2(CifarNetwork):
    """A MobileNetV2 for 32x32 images.

    Args:
        width: Factor on the channels of stem and stages.
        num_classes, in_chans, global_pool: As in `CifarNetwork`.
    """

    def __init__(self, width: float, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg") -> None:
        super().__init__(
            stem=convolution_and_norm(1, in_chans, int(32 * width), 3, stride=2),
            stages=[
                Stage(partial(InvertedResidual, expansion=expansion), number, int(base * width), stride, is_feature)
                for expansion, base, number, stride, is_feature in _STAGES
            ],
            tail=convolution_and_norm(2, int(320 * width), 1280, 1),
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
        """Run one stage; its blocks end without an activation, so its output is its pre-activation too."""
        for block in getattr(self, name):
            x = self.run_block(block, x)
        return x, x


default_cfgs = generate_default_cfgs({"cifar_mobilenetv2_half": {**CIFAR_CFG, "pool_size": (2, 2)}})
register_variant(__name__, CifarMobileNetV2, "cifar_mobilenetv2_half", width=0.5)
