"""Small trainable modules that bring a student's map to the shape of a teacher's."""

from torch import Tensor, nn
from torch.nn import functional as F

from .stages import FeatureMap


class AdapterNorm(nn.BatchNorm2d):
    """Batch normalization that uses its running statistics when a channel has a single value, whose variance is 0."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def regressor(student: FeatureMap, teacher: FeatureMap, *, activation: bool) -> nn.Sequential:
    """Create a convolution and normalization from a student's map to a teacher's channels and, where possible, size.

    As in RepDistiller's code, a map of half the size goes through a transposed convolution and one of twice the size through
    a strided one. Others go through a 1x1 convolution; the loss then pools the larger map.
    """
    channels = student.channels, teacher.channels
    height, width = (one / other for one, other in zip(student.size, teacher.size, strict=True))
    if height == width == 2:
        convolution = nn.Conv2d(*channels, 3, stride=2, padding=1)
    elif height == width == 0.5:
        convolution = nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    else:
        convolution = nn.Conv2d(*channels, 1)
    return nn.Sequential(convolution, AdapterNorm(teacher.channels), *([nn.ReLU()] if activation else []))
