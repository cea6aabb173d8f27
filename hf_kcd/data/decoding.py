"""Decode the images of a `datasets` column by point id."""

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from PIL import Image


class ImageReader:
    """Decodes the images of a column by point id, without the data set's own format or transform.

    Every image must have `size` x `size` pixels; None allows any size.
    """

    def __init__(self, dataset: datasets.Dataset, image_column: str, size: int | None = None) -> None:
        # A column with decode=False, as fast pipelines set it, is decoded all the same.
        self._decode = datasets.Image(mode=dataset.features[image_column].mode).decode_example
        plain = dataset.with_format(None).select_columns(image_column)
        self._raw = plain.cast_column(image_column, datasets.Image(decode=False))
        self._column = image_column
        self._size = size

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, ids: Sequence[int]) -> list[Image.Image]:
        """Decode images as RGB; a ValueError names the point of a missing or broken one, or one of another size."""
        rows = self._raw[ids][self._column]
        return [self._image(point, row) for point, row in zip(ids, rows, strict=True)]

    def sample_sizes(self, limit: int) -> set[tuple[int, int]]:
        """Return the heights and widths of up to `limit` evenly spaced images."""
        ids = np.linspace(0, len(self) - 1, min(len(self), limit)).astype(int).tolist()
        return {(image.height, image.width) for image in self.read(ids)}

    def _image(self, point: int, row: dict | None) -> Image.Image:
        if row is None:
            raise ValueError(f"Point {point} has no image. Remove such rows with dataset.filter.")
        try:
            image = self._decode(row).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"The image of point {point} cannot be decoded ({error}). Replace it.") from error
        if self._size is not None and image.size != (self._size, self._size):
            raise ValueError(
                f"The image of point {point} is {image.height} x {image.width}, but the preprocessing expects "
                f'{self._size} x {self._size}. Use one of that size, or one with augmentation="resized_crop_flip".'
            )
        return image


def to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Stack RGB images of one size into a uint8 tensor [B, 3, H, W]."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()
