"""The identity of a data set: its image and label columns, and a fingerprint of its points in their order."""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import datasets
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

_NUM_SAMPLED_IMAGES = 256


def find_columns(
    dataset: datasets.Dataset, image_column: str | None = None, label_column: str | None = None
) -> tuple[str, str]:
    """Return the names of the image and the label column of a data set; None finds the first by its feature type."""
    if isinstance(dataset, datasets.DatasetDict):
        raise TypeError(f"Expected one split, got a DatasetDict with {sorted(dataset)}: pass one of them.")
    if isinstance(dataset, datasets.IterableDataset):
        raise TypeError("An IterableDataset has no point ids and no length: load the data set without streaming=True.")
    if not isinstance(dataset, datasets.Dataset):
        found = type(dataset).__name__
        raise TypeError(f"Expected a datasets.Dataset, got {found}. Build one with datasets.Dataset.from_dict.")
    image = _find(dataset, "image", datasets.Image, image_column)
    return image, _find(dataset, "label", datasets.ClassLabel, label_column)


def _find(dataset: datasets.Dataset, kind: str, feature: type, name: str | None) -> str:
    found = [column for column, type_ in dataset.features.items() if isinstance(type_, feature)]
    columns = ", ".join(f"{column} ({type(type_).__name__})" for column, type_ in dataset.features.items())
    advice = "Make one of a column of paths or bytes with dataset.cast_column(name, datasets.Image())."
    if feature is datasets.ClassLabel:
        advice = (
            "Make one of a column of words with dataset.class_encode_column(name), and one of the numbers 0 to N - 1 with "
            "dataset.cast_column(name, datasets.ClassLabel(num_classes=N))."
        )
    if name is not None:
        if name not in found:
            raise ValueError(
                f"{kind} column {name!r} is not a {feature.__name__} column. Columns: {columns}. {advice}"
            )
        return name
    if not found:
        raise ValueError(f"The data set has no {kind} column ({feature.__name__}). Columns: {columns}. {advice}")
    return found[0]


@dataclass(frozen=True)
class DatasetIdentity:
    """Equal for two copies of a data set that hold the same points in the same order.

    Args:
        num_points, class_names: Number of points, and names of the classes in label order.
        labels: SHA-256 of all labels, int64 little-endian, in order.
        images: SHA-256 over evenly spaced images (at most 256): the pixels of lossless images, the bytes of JPEGs.
    """

    num_points: int
    class_names: tuple[str, ...]
    labels: str
    images: str

    @classmethod
    def of(
        cls, dataset: datasets.Dataset, image_column: str | None = None, label_column: str | None = None
    ) -> "DatasetIdentity":
        """Compute the identity of a data set; a missing or broken image is a ValueError with its point id."""
        image_column, label_column = find_columns(dataset, image_column, label_column)
        plain = dataset.with_format(None)
        sampled = np.linspace(0, len(dataset) - 1, min(len(dataset), _NUM_SAMPLED_IMAGES)).astype(np.int64)
        raw = plain.select_columns(image_column).select(sampled)
        raw = raw.cast_column(image_column, datasets.Image(decode=False))
        digest = hashlib.sha256()
        for point, row in zip(sampled, raw, strict=True):
            try:
                digest.update(_image_bytes(row[image_column]))
            except (OSError, SyntaxError, TypeError) as error:
                place = f"point {point} ({row[image_column]['path']})" if row[image_column] else f"point {point}"
                advice = "Remove or replace it, or fetch the data again."
                raise ValueError(f"The image of {place} cannot be read ({error}). {advice}") from error
        names = tuple(dataset.features[label_column].names)
        return cls(len(dataset), names, label_digest(read_labels(dataset, label_column)), digest.hexdigest())

    def with_classes(
        self, class_names: Sequence[str], positions: list[int] | None, labels: ArrayLike | None
    ) -> "DatasetIdentity":
        """Return the identity as it is with other class names; `positions[label]` is the new label of each of `labels`.

        None for `positions` keeps the labels as they are.
        """
        digest = self.labels if positions is None else label_digest(np.asarray(positions)[np.asarray(labels)])
        return replace(self, class_names=tuple(class_names), labels=digest)

    def difference(self, other: "DatasetIdentity") -> str | None:
        """Describe in one clause how another data set differs; None when it is the same."""
        if self.num_points != other.num_points:
            return f"it has {other.num_points} points instead of {self.num_points}"
        if self.class_names != other.class_names:
            if sorted(self.class_names) == sorted(other.class_names):
                return "its classes have another order, and there are no labels to compare"
            return f"its classes differ ({_some(other.class_names)} instead of {_some(self.class_names)})"
        wrong = next((name for name in ("labels", "images") if getattr(self, name) != getattr(other, name)), None)
        return wrong and f"its {wrong} differ: another set, or the same points in another order"

    def to_dict(self) -> dict:
        """Return the fields as plain JSON values."""
        return {**asdict(self), "class_names": list(self.class_names)}

    @classmethod
    def from_dict(cls, values: Any) -> "DatasetIdentity":
        """Read the values of `to_dict` from an untrusted file; a ValueError names what is wrong."""
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or set(values) != set(names):
            raise ValueError(f"its dataset is not an object of {', '.join(names)}.")
        num_points, classes = values["num_points"], values["class_names"]
        # torch would raise an error of its own for a number above int64.
        if not isinstance(num_points, int) or isinstance(num_points, bool) or not 0 < num_points < 2**63:
            raise ValueError(f"its dataset has the num_points {str(num_points)[:50]!r} instead of a number of points.")
        if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError("its dataset has class_names that are not a list of strings.")
        if len(set(classes)) < len(classes):
            raise ValueError("its dataset has two classes of one name.")
        for name in ("labels", "images"):
            if not isinstance(values[name], str) or not re.fullmatch("[0-9a-f]{64}", values[name]):
                raise ValueError(f"its dataset has {name} that are not SHA-256.")
        return cls(num_points, tuple(classes), values["labels"], values["images"])


def read_labels(dataset: datasets.Dataset, label_column: str | None = None) -> np.ndarray:
    """Return the labels of a data set, int64 [N], -1 for none; None finds the column."""
    _, label_column = find_columns(dataset, None, label_column)
    labels = dataset.with_format(None).select_columns(label_column).to_pandas()[label_column]
    return labels.fillna(-1).to_numpy(dtype=np.int64)


def label_digest(labels: np.ndarray) -> str:
    """Return the SHA-256 of labels, as `DatasetIdentity` has it."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


def _image_bytes(image: dict) -> bytes:
    content = image["bytes"]
    if content is None:
        with open(image["path"], "rb") as file:
            content = file.read()
    # Versions of JPEG decoders differ by a gray level, so a JPEG counts by its file. PNG files of the same pixels differ,
    # so other images count by their pixels.
    if content[:2] == b"\xff\xd8":
        return content
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return str((pixels.shape, pixels.dtype.str)).encode() + np.ascontiguousarray(pixels).tobytes()


def _some(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
