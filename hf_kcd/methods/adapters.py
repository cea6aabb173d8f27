"""The small trainable modules that bring a student's map to the shape of a teacher's."""

from torch import Tensor, nn
from torch.nn import functional as F

from .pairing import FeatureMap


class AdapterNorm(nn.BatchNorm2d):
    """Batch normalisation that takes its running statistics where a channel has one value, of which there are none."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W], of any B."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def regressor(student: FeatureMap, teacher: FeatureMap, *, activation: bool) -> nn.Sequential:
    """Make a convolution and normalisation from a student's map to the channels, and where it can the size, of a teacher's.

    A student's map of half the size goes through a transposed convolution, one of twice the size through a strided one,
    as in RepDistiller's code; every other through a 1x1 convolution, after which the loss pools the larger map.

    Args:
        student: The student's map.
        teacher: The teacher's map.
        activation: Whether a ReLU follows.
    """
    channels = student.channels, teacher.channels
    if student.size == _doubled(teacher.size):
        convolution = nn.Conv2d(*channels, 3, stride=2, padding=1)
    elif _doubled(student.size) == teacher.size:
        convolution = nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    else:
        convolution = nn.Conv2d(*channels, 1)
    return nn.Sequential(convolution, AdapterNorm(teacher.channels), *([nn.ReLU()] if activation else []))


def _doubled(size: tuple[int, int]) -> tuple[int, int]:
    return 2 * size[0], 2 * size[1]
