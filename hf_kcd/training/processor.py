"""An image processor of transformers beside the preprocessing of a data set: one takes over the other, and both must agree."""

from typing import Any

import datasets
import numpy as np
import torch
from transformers import BaseImageProcessor

from ..artifacts.identity import find_columns
from ..data import KnowledgeDataset, Preprocessing, guess_preprocessing

Data = datasets.Dataset | KnowledgeDataset

_NUM_COMPARED = 8
# Gray levels of 255, on average over an image: what rounding and two implementations of one filter differ by.
_TOLERANCE = 1.0


def check_processor(processor: Any) -> None:
    """Refuse tokenizers and other processors that prepare no images."""
    if not isinstance(processor, BaseImageProcessor | None):
        advice = "give an image processor, such as AutoImageProcessor.from_pretrained(...), or leave it out"
        raise TypeError(f"processing_class is a {type(processor).__name__}, which prepares no images: {advice}.")


def as_processor_says(dataset: Data, processor: BaseImageProcessor | None, seed: int) -> Data:
    """Return a plain data set in the processor's size, mean and standard deviation; others have a preprocessing."""
    if processor is None or not isinstance(dataset, datasets.Dataset):
        return dataset
    image_column, _ = find_columns(dataset)
    preprocessing = guess_preprocessing(dataset, image_column)
    size, mean, std = _images_of(processor)
    return KnowledgeDataset(dataset, preprocessing.for_network(size, mean, std), seed=seed)


def check_same_images(processor: BaseImageProcessor | None, dataset: KnowledgeDataset) -> None:
    """Require that the processor prepares images as an evaluation does, by a few images of the data set."""
    if processor is None:
        return
    own = dataset.preprocessing
    advice = "Leave it out: the saved config.json says how images are prepared, and pipeline() follows it."
    size, mean, std = _images_of(processor)
    if (size, *mean, *std) != (own.network_size, *own.mean, *own.std):
        raise ValueError(
            f"processing_class has size {size}, mean {mean} and std {std}, but the data set is prepared with "
            f"{own.network_size}, {own.mean} and {own.std}. {advice}"
        )
    points = np.linspace(0, dataset.num_points - 1, min(_NUM_COMPARED, dataset.num_points)).astype(int)
    for point in points:
        picture = dataset.image(int(point)).copy()
        theirs = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        difference = (theirs.float() - _evaluated(picture, own)).abs() * torch.tensor(own.std).view(3, 1, 1) * 255
        if difference.mean() > _TOLERANCE:
            raise ValueError(
                f"processing_class prepares the image of point {point} otherwise than an evaluation, by "
                f"{difference.mean():.1f} of 255 gray levels on average: it crops or resizes in another way. {advice}"
            )


def _images_of(processor: BaseImageProcessor) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Size, mean and standard deviation of the images that a processor makes."""
    gray = np.full((64, 64, 3), 128, np.uint8)
    shape = tuple(processor(images=gray, return_tensors="pt")["pixel_values"].shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise ValueError(
            f"processing_class makes images of {shape}, but a student is shown color squares: choose another."
        )
    config = getattr(processor, "data_config", {})
    mean = config.get("mean") or getattr(processor, "image_mean", None)
    std = config.get("std") or getattr(processor, "image_std", None)
    if mean is None or std is None or not getattr(processor, "do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    return shape[-1], tuple(map(float, mean)), tuple(map(float, std))


def _evaluated(picture: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    """The picture as an evaluation shows it to the student."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["any"])})
    one = datasets.Dataset.from_dict({"image": [picture], "label": [0]}, features)
    return KnowledgeDataset(one, preprocessing, training=False)[0]["pixel_values"]
