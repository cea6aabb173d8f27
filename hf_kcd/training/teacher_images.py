"""The teacher's view of a batch: the student's images at the size and with the normalisation that the teacher knows."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import logging

from ..models import ImageConfig

logger = logging.get_logger(__name__)

_RESIZES = ("bilinear", "bicubic")


class TeacherImages:
    """Turns images as the data has them into images as the teacher was trained on.

    Args:
        teacher: What the teacher was trained on. Another interpolation than "bicubic" is done bilinearly; images that
            shrink are smoothed against aliasing.
        mean, std: What the images were normalised with, per channel of an image in [0, 1].
        image_size: Height and width of the images, in pixels.

    Raises:
        ValueError: When the teacher knows images of another number of channels.
    """

    def __init__(
        self, teacher: ImageConfig, mean: tuple[float, ...], std: tuple[float, ...], image_size: tuple[int, int]
    ) -> None:
        channels, *size = teacher.input_size
        if channels != len(mean):
            raise ValueError(
                f"The teacher takes images of {channels} channels and the data has {len(mean)}: choose a teacher that was "
                "trained on such images."
            )
        self._size = tuple(size)
        self._mode = teacher.interpolation if teacher.interpolation in _RESIZES else _RESIZES[0]
        self._affine: tuple[Tensor, Tensor] | None = None
        if (tuple(teacher.mean), tuple(teacher.std)) != (tuple(mean), tuple(std)):
            deviation = torch.tensor(teacher.std)
            scale, shift = torch.tensor(std) / deviation, (torch.tensor(mean) - torch.tensor(teacher.mean)) / deviation
            self._affine = scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)
        if self._size != tuple(image_size):
            logger.warning_once(
                f"The teacher was trained on images of {_pixels(self._size)}: the data's {_pixels(image_size)} are resized "
                "for it."
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Resize and renormalise.

        Args:
            images: Normalised images [B, C, H, W].

        Returns:
            Images [B, C, h, w]; the same tensor where they are what the teacher knows.
        """
        size = tuple(images.shape[-2:])
        if size == self._size:
            return self._renormalise(images)
        shrinks = size[0] * size[1] > self._size[0] * self._size[1]
        # Either order gives the same, and the smaller image is cheaper to renormalise.
        if not shrinks:
            images = self._renormalise(images)
        images = F.interpolate(images, self._size, mode=self._mode, antialias=shrinks)
        return self._renormalise(images) if shrinks else images

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move or cast what is held, as `nn.Module._apply` does with a module's tensors."""
        if self._affine is not None:
            scale, shift = self._affine
            self._affine = function(scale), function(shift)

    def _renormalise(self, images: Tensor) -> Tensor:
        if self._affine is None:
            return images
        scale, shift = self._affine
        return images * scale + shift


def _pixels(size: tuple[int, int]) -> str:
    return " x ".join(map(str, size))
