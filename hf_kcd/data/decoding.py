"""Images out of a `datasets` column: decoded by point id in RGB, or all at once into one uint8 tensor."""

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from datasets.utils import tqdm
from PIL import Image

_DECODE_BATCH = 512


class ImageReader:
    """Decodes the images of a column by point id.

    Args:
        dataset: A map-style data set; its own format or transform is not applied.
        image_column: The name of its image column.
        size: Height and width that every image must have, in pixels; any size without it.
    """

    def __init__(self, dataset: datasets.Dataset, image_column: str, size: int | None = None) -> None:
        self._decode = dataset.features[image_column].decode_example
        plain = dataset.with_format(None).select_columns(image_column)
        self._raw = plain.cast_column(image_column, datasets.Image(decode=False))
        self._column = image_column
        self._size = size

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, ids: Sequence[int]) -> list[Image.Image]:
        """Decode images.

        Args:
            ids: Point ids.

        Returns:
            One RGB image per id; grey, palette and transparent images are converted.

        Raises:
            ValueError: With the point id, when an image is missing, broken or of another size than required.
        """
        rows = self._raw[ids][self._column]
        return [self._image(point, row) for point, row in zip(ids, rows, strict=True)]

    def sample_sizes(self, limit: int) -> set[tuple[int, int]]:
        """Height and width of up to `limit` evenly spaced images."""
        ids = np.linspace(0, len(self) - 1, min(len(self), limit)).astype(int).tolist()
        return {(image.height, image.width) for image in self.read(ids)}

    def _image(self, point: int, row: dict | None) -> Image.Image:
        if row is None:
            raise ValueError(f"Point {point} has no image. Remove such rows with dataset.filter.")
        try:
            image = self._decode(row).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"The image of point {point} cannot be decoded ({error}). Remove or replace it."
            ) from error
        if self._size is not None and image.size != (self._size, self._size):
            raise ValueError(
                f"The image of point {point} is {image.height} x {image.width} and the preprocessing is for {self._size} x "
                f'{self._size}: give a preprocessing of that size, or one with augmentation="resized_crop_flip".'
            )
        return image


def decode_all(reader: ImageReader, memory_budget: int) -> torch.Tensor | None:
    """Decode every image into one tensor in shared memory.

    Args:
        reader: The images.
        memory_budget: Bytes that the tensor may take.

    Returns:
        uint8 [N, 3, H, W], or None when the images differ in size or take more than the budget.

    Raises:
        RuntimeError: When the machine's shared memory cannot hold it.
    """
    sizes = reader.sample_sizes(8)
    height, width = next(iter(sizes))
    num_bytes = len(reader) * 3 * height * width
    if len(sizes) > 1 or num_bytes > memory_budget:
        return None
    try:
        bank = torch.empty(len(reader), 3, height, width, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        raise RuntimeError(
            f"The images need {num_bytes / 2**20:.0f} MiB of shared memory and there is less ({error}). "
            "Give the container more (docker run --shm-size), or decode in workers (memory_budget=0)."
        ) from error
    for start in tqdm(range(0, len(reader), _DECODE_BATCH), desc="Decoding images"):
        images = reader.read(range(start, min(start + _DECODE_BATCH, len(reader))))
        if any(image.size != (width, height) for image in images):
            return None
        bank[start : start + len(images)] = to_tensor(images)
    return bank


def to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Stack RGB images of one size into a uint8 tensor [B, 3, H, W]."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()
