"""The teacher's view of a batch: its images at the teacher's size and normalization."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import ImageConfig

_RESIZES = ("bilinear", "bicubic")


class TeacherImages:
    """Converts normalized images of the data set to the size and normalization that the teacher was trained on.

    Every interpolation except "bicubic" becomes bilinear; shrinking uses antialiasing. `size` is the teacher's.
    """

    def __init__(self, teacher: ImageConfig, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        channels, *size = teacher.input_size
        if channels != len(mean):
            counts = f"The teacher takes images of {channels} channels and the data has {len(mean)}"
            raise ValueError(f"{counts}: choose a teacher that was trained on such images.")
        self.size = tuple(size)
        self._mode = teacher.interpolation if teacher.interpolation in _RESIZES else _RESIZES[0]
        self._affine: tuple[Tensor, Tensor] | None = None
        if (tuple(teacher.mean), tuple(teacher.std)) != (tuple(mean), tuple(std)):
            deviation = torch.tensor(teacher.std)
            scale, shift = torch.tensor(std) / deviation, (torch.tensor(mean) - torch.tensor(teacher.mean)) / deviation
            self._affine = scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Resize and renormalize images [B, C, H, W] to [B, C, h, w]; the same tensor if nothing has to change."""
        size = tuple(images.shape[-2:])
        if size == self.size:
            return self._renormalize(images)
        shrinks = size[0] * size[1] > self.size[0] * self.size[1]
        # The order does not matter, and a smaller image is cheaper to renormalize.
        if not shrinks:
            images = self._renormalize(images)
        images = F.interpolate(images, self.size, mode=self._mode, antialias=shrinks)
        return self._renormalize(images) if shrinks else images

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move or cast the tensors, as `nn.Module._apply` does for a module."""
        if self._affine is not None:
            scale, shift = self._affine
            self._affine = function(scale), function(shift)

    def _renormalize(self, images: Tensor) -> Tensor:
        if self._affine is None:
            return images
        scale, shift = self._affine
        return images * scale + shift
