"""Decode the images of a `datasets` column by point id."""

import os
from collections.abc import Callable, Sequence
from io import BufferedReader, BytesIO

import datasets
import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from .conversion import to_rgb
from .survey import FoundImages, read_header

_HEADER_BATCH = 1000
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class ImageReader:
    """Decodes the images of a column by point id, as RGB, without the data set's own format.

    With a `size`, every image must have `size` x `size` pixels after `fit`, which changes each image; None allows any.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        image_column: str,
        size: int | None = None,
        fit: Callable[[Image.Image], Image.Image] | None = None,
    ) -> None:
        # The column's own mode is applied after our conversion, which keeps 16 bits and transparency right.
        self._mode = dataset.features[image_column].mode
        self._decode = datasets.Image().decode_example
        plain = dataset.with_format(None).select_columns(image_column)
        self._raw = plain.cast_column(image_column, datasets.Image(decode=False))
        self._column = image_column
        self._size = size
        self._fit = fit

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, ids: Sequence[int]) -> list[Image.Image]:
        """Decode images as RGB; a ValueError names point and file of one that is missing, broken, or of another size."""
        rows = self._raw[ids][self._column]
        return [self._image(point, row) for point, row in zip(ids, rows, strict=True)]

    def survey(self, limit: int = 100_000) -> FoundImages:
        """Read the headers of all images, or of `limit` evenly spaced ones; a ValueError names a broken one as in `read`."""
        found, arrow = FoundImages(len(self)), self._raw.with_format("arrow")
        # Rows that follow each other are not copied, and of their images only the headers are touched.
        step = _HEADER_BATCH if len(self) <= limit else 1
        starts = np.linspace(0, len(self) - 1, limit).astype(int) if step == 1 else range(0, len(self), step)
        for start in map(int, starts):
            point = start
            for chunk in arrow[start : start + step][self._column].chunks:
                rows = zip(chunk.field("bytes"), chunk.field("path"), chunk.is_null(), strict=True)
                for content, path, missing in rows:
                    self._add_header(found, point, content, path.as_py(), missing.as_py())
                    point += 1
        return found

    def _add_header(self, found: FoundImages, point: int, content: pa.Scalar, path: str | None, missing: bool) -> None:
        if missing:
            raise _no_image(point)
        try:
            with self._open(content, path) as image:
                found.add(point, *read_header(image))
        except _UNREADABLE as error:
            raise _broken(point, path, error) from error

    def _open(self, content: pa.Scalar, path: str | None) -> Image.Image:
        if content.is_valid:
            try:
                return Image.open(BufferedReader(pa.BufferReader(content.as_buffer())))
            except _UNREADABLE:
                # Pillow tries some formats by seeking beyond the end, which Arrow refuses.
                return Image.open(BytesIO(content.as_buffer()))
        if path is not None and os.path.isfile(path):
            return Image.open(path)
        return self._decode({"path": path, "bytes": None})

    def _image(self, point: int, row: dict | None) -> Image.Image:
        if row is None:
            raise _no_image(point)
        try:
            image = to_rgb(self._decode(row))
            if self._mode not in (None, "RGB"):
                image = image.convert(self._mode).convert("RGB")
        except _UNREADABLE as error:
            raise _broken(point, row.get("path"), error) from error
        if self._fit is not None:
            image = self._fit(image)
        if self._size is not None and image.size != (self._size, self._size):
            raise ValueError(
                f"The image of {_place(point, row.get('path'))} is {image.height} x {image.width}, but the preprocessing "
                f"expects {self._size} x {self._size}. Use one of that size, or one with fit=True, which resizes other "
                "images; on the command line, leave out a preset's name (--data FOLDER) and set --image_size."
            )
        return image


def to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Stack RGB images of one size into a uint8 tensor [B, 3, H, W]."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def _place(point: int, path: str | None) -> str:
    return f"point {point}" if not path else f"point {point} ({path})"


def _no_image(point: int) -> ValueError:
    return ValueError(f"Point {point} has no image. Remove such rows with dataset.filter.")


def _broken(point: int, path: str | None, error: Exception) -> ValueError:
    advice = "Replace it and go on; or remove it and start a new run, because the ids of later points change."
    return ValueError(f"The image of {_place(point, path)} cannot be decoded ({error}). {advice}")
